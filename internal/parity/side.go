package parity

import (
	"context"
	"net/http"
)

// clusterName is the name of the upstream.
const clusterName = "upstream"

// Side makes the calls of a scenario: it is the library, or an Envoy.
type Side interface {
	// Send sends a call's request, and returns its response. The player reads the body.
	Send(req *http.Request) (*http.Response, error)
	// Log returns the access log, with a line for each response in their order. It is
	// called after all calls.
	Log(ctx context.Context, answers []Answer) ([]Logged, error)
	// Stats returns the statistics: counters and gauges by their full names, and the number
	// of values of each histogram by its Prometheus name.
	Stats(ctx context.Context) (numbers, histograms map[string]uint64, err error)
	// Close ends the side.
	Close()
}

// Addresses contains the addresses of the upstream's hosts, in the order of the scenario.
type Addresses []string

// StartFunc starts a Side for a scenario whose upstream is at addresses.
type StartFunc func(ctx context.Context, s *Scenario, addresses Addresses) (Side, error)
