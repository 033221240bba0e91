package pillion

import (
	"fmt"
	"net/http"

	"github.com/pillion-go/pillion/policy"
)

// Carrier is a [policy.Carrier] that sends HTTP requests, such as package cluster's. A policy
// registers it with [policy.Builder.Carry]; it replaces the base of
// [Upstream.Transport].
type Carrier interface {
	policy.Carrier

	// Carry sends the request of an attempt once. It keeps the contract of [http.RoundTripper].
	// An error that it has not added to o, with [policy.Outcome.Blame], is classified as one of
	// net/http.
	Carry(a *policy.Attempt, o *policy.Outcome, req *http.Request) (*http.Response, error)

	// SpeaksHTTP1 reports whether the attempt surely went out as HTTP/1.
	SpeaksHTTP1(a *policy.Attempt) bool
}

// carried returns the round tripper of an upstream with a carrier.
func (u *Upstream) carried(base http.RoundTripper) http.RoundTripper {
	if base != nil {
		return superfluous{u.Name(), base}
	}
	return &transport{upstream: u, carrier: u.carrier, netHTTP: true, headerBytes: defaultHeaderBytes}
}

// superfluous is a base beside a carrier, which has the connections.
type superfluous struct {
	upstream string
	base     http.RoundTripper
}

// RoundTrip fails.
func (s superfluous) RoundTrip(req *http.Request) (*http.Response, error) {
	if req != nil && req.Body != nil {
		_ = req.Body.Close() // the request is not sent
	}
	return nil, fmt.Errorf("pillion: %s: Transport has a base, a %T, beside a cluster, which makes the connections; "+
		"write Transport(nil), or leave out the cluster", s.upstream, s.base)
}

// sender is what sends the requests.
func (t *transport) sender() any {
	if t.carrier != nil {
		return t.carrier
	}
	return t.base
}

// exchange sends the request of an attempt once.
func (x *httpCall) exchange(a *httpAttempt, o *policy.Outcome, req *http.Request) (*http.Response, error) {
	if c := x.transport.carrier; c != nil {
		return c.Carry(a.of, o, req)
	}
	return x.transport.base.RoundTrip(req)
}
