package parity

import (
	"context"
	"net/http"
)

// clusterName is what the upstream is called.
const clusterName = "upstream"

// Side is what makes the calls of a scenario: the library, or an Envoy.
type Side interface {
	// Send sends a call's request, and gives its answer; the body is read by the player.
	Send(req *http.Request) (*http.Response, error)
	// Log gives the access log, a line for each answer and in their order, after all of them.
	Log(ctx context.Context, answers []Answer) ([]Logged, error)
	// Stats gives the statistics: counters and gauges by their full names, and how many values
	// each histogram has by its Prometheus name.
	Stats(ctx context.Context) (numbers, histograms map[string]uint64, err error)
	// Close ends it.
	Close()
}

// Addresses are those of the upstream's hosts, in the order of the scenario.
type Addresses []string

// StartFunc starts a Side for a scenario whose upstream is at addresses.
type StartFunc func(ctx context.Context, s *Scenario, addresses Addresses) (Side, error)
