package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"

	"github.com/pillion-go/pillion/cluster/internal/pool"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// Carry sends the request of an attempt to its host. Package pillion calls it.
func (r *route) Carry(a *policy.Attempt, o *policy.Outcome, req *http.Request) (*http.Response, error) {
	c := a.Call()
	p, ok := c.State(r.slot).V.(*pick)
	if !ok {
		closeBody(req)
		return nil, fmt.Errorf("cluster: %s: the attempt has no host", r.upstream)
	}
	if err := r.checkRequest(req); err != nil {
		closeBody(req)
		o.Blame(err, policy.Invalid, nil)
		return nil, err
	}
	if err := r.attach(req.Context(), c, p); err != nil {
		closeBody(req)
		r.explain(c, o, err)
		return nil, err
	}
	p.attached = true
	if p.stream.HTTP2() {
		c.SetMultiplexed()
	}
	r.connected(p)
	r.limit(c, p)
	return p.stream.RoundTrip(req)
}

// SpeaksHTTP1 reports whether the attempt has a connection, and this speaks HTTP/1. Package pillion
// calls it.
func (r *route) SpeaksHTTP1(a *policy.Attempt) bool {
	p, ok := a.Call().State(r.slot).V.(*pick)
	return ok && p.attached && !p.stream.HTTP2()
}

// checkRequest returns the errors of a request that net/http returns before it has a connection. It
// also returns an error for the scheme https without TLS.
func (r *route) checkRequest(req *http.Request) error {
	switch {
	case req.URL == nil:
		return errors.New("http: nil Request.URL")
	case req.URL.Scheme != "http" && req.URL.Scheme != "https":
		return fmt.Errorf("unsupported protocol scheme %q", req.URL.Scheme)
	case req.URL.Scheme == "https" && r.cluster.tls == nil:
		return fmt.Errorf("cluster: %s: the scheme of the URL is https, but the connections are not encrypted: set Config.TLS, or write http", r.upstream)
	case req.URL.Host == "":
		return errors.New("http: no Host in request URL")
	case req.Header == nil:
		return errors.New("http: nil Request.Header")
	}
	return nil
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close() // the request is not sent
	}
}

// attach waits for a connection to the host of p. If the host has left the cluster, attach picks
// another one.
func (r *route) attach(ctx context.Context, c *policy.Call, p *pick) error {
	for {
		err := p.host.attach(ctx, r.cluster, r.Priority(), &p.stream)
		if !errors.Is(err, pool.ErrClosed) {
			return err
		}
		h := r.pick(c)
		if h == nil || r.cluster.isClosed() {
			return r.noHost()
		}
		p.host = h
		c.SetEndpoint(h.address)
	}
}

// explain adds to o the reason why the attempt has no connection, unless its context ended.
func (r *route) explain(c *policy.Call, o *policy.Outcome, err error) {
	var refused *pool.RefusedError
	var failed *pool.ConnectError
	switch {
	case errors.As(err, &refused):
		r.overflow(c, o, refused)
	case errors.As(err, &failed):
		r.unconnected(o, failed)
	case errors.Is(err, ErrNoHosts), errors.Is(err, ErrClosed):
		r.refuse(c, o, err, envoy.NoHealthyUpstream)
	}
}

func (r *route) refuse(c *policy.Call, o *policy.Outcome, err error, detail *envoy.Detail) {
	o.Blame(err, policy.Refused, detail)
	c.Emit(policy.EventRefused, o)
}

// overflow adds to o the limit that refused the attempt.
func (r *route) overflow(c *policy.Call, o *policy.Outcome, refused *pool.RefusedError) {
	lender := r.lender
	if lender == nil { // another upstream has the limits
		lender = r.cluster.lending.lender()
	}
	detail, err := lender.Refusal(resources[refused.Limit])
	r.refuse(c, o, err, detail)
}

// unconnected adds to o the reason why the connect failed.
func (r *route) unconnected(o *policy.Outcome, failed *pool.ConnectError) {
	is, detail := policy.ConnectFailure, connectDetail(failed)
	if failed.Timeout() {
		is |= policy.Timeout
	}
	o.Blame(&policy.UpstreamError{Upstream: r.upstream, Flags: detail.Flags(), Detail: detail, Err: failed}, is, detail)
}

// connectDetail returns Envoy's detail of a failed connect.
func connectDetail(failed *pool.ConnectError) *envoy.Detail {
	var dns *net.DNSError
	switch {
	case failed.Timeout():
		return envoy.ConnectionTimeout
	case errors.As(failed, &dns):
		return envoy.DNSFailure
	case failed.TLS:
		return envoy.ConnectionFailure
	case errors.Is(failed, syscall.ECONNREFUSED):
		return envoy.ConnectionRefused
	case errors.Is(failed, syscall.ECONNRESET):
		return envoy.ConnectionReset
	}
	return envoy.ConnectionFailure
}
