package pillion

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// HTTP configures how an upstream speaks HTTP. It is a [Policy] in form, so that
// it is given to [New] like all other configuration; its place among the others does
// not matter. The zero value is what an upstream without it has.
type Options struct {
	// LocalReplies answers with the response that an Envoy sidecar would have given,
	// where otherwise the round trip returns an error: 503 and "upstream connect error
	// or disconnect/reset before headers" for a refused call, 504 for a time-out, and so
	// on. It is for programs that come from the proxy. A caller that leaves, or whose
	// own deadline passes, gets an error all the same. Mirrors Envoy's local replies.
	LocalReplies bool `json:"local_replies,omitempty"`

	// Sidecar is for a program whose calls go through an Envoy sidecar all the same: it
	// tells the sidecar to leave retries to this library (x-envoy-max-retries: 0), so that
	// they do not multiply, and to wait no longer than it does
	// (x-envoy-upstream-rq-timeout-ms). The sidecar must take the caller for an internal
	// one, which Envoy does not by itself: its listener needs use_remote_address, and
	// the caller's address in internal_address_config. To leave both to the sidecar, configure
	// neither retry nor timeout here instead.
	Sidecar bool `json:"sidecar,omitempty"`

	// IncludeRequestAttemptCount sends the number of each attempt, from 1, in
	// x-envoy-attempt-count. Mirrors include_request_attempt_count of Envoy's VirtualHost.
	IncludeRequestAttemptCount bool `json:"include_request_attempt_count,omitempty"`

	// IncludeAttemptCountInResponse sets x-envoy-attempt-count in the response to the
	// number of attempts. Mirrors include_attempt_count_in_response.
	IncludeAttemptCountInResponse bool `json:"include_attempt_count_in_response,omitempty"`

	// IncludeIsTimeoutRetryHeader sends x-envoy-is-timeout-retry with each attempt but
	// the first: whether the one before it ran into its time-out. Mirrors
	// include_is_timeout_retry_header.
	IncludeIsTimeoutRetryHeader bool `json:"include_is_timeout_retry_header,omitempty"`

	// SuppressEnvoyHeaders leaves out x-envoy-expected-rq-timeout-ms in requests and
	// x-envoy-overloaded in local replies. As in Envoy, the headers that the fields above
	// ask for are sent all the same. Mirrors suppress_envoy_headers of Envoy's Router.
	SuppressEnvoyHeaders bool `json:"suppress_envoy_headers,omitempty"`

	// ReplayBuffer is how many bytes of a request body that has no GetBody are kept
	// while it is sent, so that it can be sent again. Nothing is read ahead. A body that
	// turns out larger is sent once and never retried. Zero keeps nothing; negative is an
	// error. Mirrors Envoy's per_request_buffer_limit_bytes.
	ReplayBuffer int64 `json:"replay_buffer,omitempty"`

	// DrainBytes is how much of a discarded answer's body is read so that its
	// connection can be used again; a longer one costs its connection. Zero means 64 KiB;
	// negative is an error.
	DrainBytes int64 `json:"drain_bytes,omitempty"`

	// DrainTime is how long that may take. Zero means 100ms, but before a retry no longer
	// than its back-off and at least 1ms; negative is an error.
	DrainTime time.Duration `json:"drain_time,omitempty"`
}

const (
	defaultDrainBytes = 64 << 10
	defaultDrainTime  = 100 * time.Millisecond
)

// optionsKey is what an HTTP claims.
type optionsKey struct{}

// Wrap has attempts carry what the configuration asks for.
func (h Options) Wrap(s *policy.Builder, next policy.Func) (policy.Func, error) {
	var bad []error
	if !s.Claim(optionsKey{}) {
		bad = append(bad, errors.New("pillion: Options: it is given more than once, and only one would hold; write one with all the fields"))
	}
	if h.ReplayBuffer < 0 {
		bad = append(bad, fmt.Errorf("pillion: Options.ReplayBuffer: %d is negative", h.ReplayBuffer))
	}
	if h.DrainBytes < 0 {
		bad = append(bad, fmt.Errorf("pillion: Options.DrainBytes: %d is negative", h.DrainBytes))
	}
	if h.DrainTime < 0 {
		bad = append(bad, fmt.Errorf("pillion: Options.DrainTime: %v is negative", h.DrainTime))
	}
	if h.DrainTime > 0 && h.DrainTime < time.Millisecond {
		bad = append(bad, fmt.Errorf("pillion: Options.DrainTime: %v is below 1ms; did you forget the unit, as in %d * time.Millisecond?",
			h.DrainTime, int64(h.DrainTime)))
	}
	s.Require(policy.Needs{KeepBodies: h.ReplayBuffer})
	s.Prepare(h.prepare)
	return next, errors.Join(bad...)
}

func (h Options) withDefaults() Options {
	if h.DrainBytes == 0 {
		h.DrainBytes = defaultDrainBytes
	}
	if h.DrainTime == 0 {
		h.DrainTime = defaultDrainTime
	}
	return h
}

// prepare makes the attempt's header what the configuration says.
func (h Options) prepare(a *policy.Attempt) {
	if h.Sidecar {
		tellSidecar(a)
	}
	if a.AnnouncesDeadline() && !h.SuppressEnvoyHeaders {
		if left, limited := a.TimeLeft(); limited {
			a.Header().Set(envoy.ExpectedTimeoutHeader, envoy.Milliseconds(left))
		}
	}
	if h.IncludeRequestAttemptCount {
		a.Header().Set(envoy.AttemptCountHeader, strconv.Itoa(a.Call().Attempt()))
	}
	if h.IncludeIsTimeoutRetryHeader && a.Call().Attempt() > 1 {
		a.Header().Set(envoy.IsTimeoutRetryHeader, strconv.FormatBool(a.AfterTimeout()))
	}
}

// tellSidecar turns the sidecar's retries off and passes it the remaining time.
func tellSidecar(a *policy.Attempt) {
	a.Header().Set(envoy.MaxRetriesHeader, "0")
	if left, limited := a.TimeLeft(); limited {
		a.Header().Set(envoy.TimeoutHeader, envoy.Milliseconds(left))
	}
}

// Transport gives a round tripper that makes its calls through base and under
// the upstream's policies. A nil base stands for the hosts of the cluster among the policies
// (package cluster), or else for a clone of [http.DefaultTransport] that belongs to this upstream.
// If there is a cluster, base must be nil: each call fails otherwise. As a function from RoundTripper to RoundTripper it
// composes with other people's middleware.
//
// It keeps the contract of [http.RoundTripper]: the caller's request and header map
// are not touched, its body is closed whatever happens, an answer of any status is no
// error. The response's body must be read to its end or closed, as always: that is
// when the call has ended. Errors are those of the policies that refused the call
// ([errors.As] tells which), a [*TimeoutError], the caller's context error, or an
// [*UpstreamError] around what net/http reported.
//
// An http.Transport resends some requests by itself when a kept-alive connection
// turns out to be dead. These are not attempts here.
func (u *Upstream) Transport(base http.RoundTripper) http.RoundTripper {
	if u == nil {
		panic("pillion: Transport of a nil Upstream")
	}
	if u.carrier != nil {
		return u.carried(base)
	}
	if base == nil {
		base = u.base()
	}
	t := &transport{upstream: u, base: base}
	own, ok := base.(*http.Transport)
	t.netHTTP, t.headerBytes = ok, defaultHeaderBytes
	if ok && own.MaxResponseHeaderBytes > 0 {
		t.headerBytes = own.MaxResponseHeaderBytes
	}
	t.h2c = ok && own.Protocols != nil && own.Protocols.UnencryptedHTTP2() && !own.Protocols.HTTP1() ||
		fmt.Sprintf("%T", base) == "*http2.Transport" // of golang.org/x/net, which is no dependency
	return t
}

// defaultHeaderBytes is the limit of an http.Transport that names none.
const defaultHeaderBytes = 10 << 20

// ownTransport clones http.DefaultTransport, unless a program has put something
// else in its place.
func (u *Upstream) ownTransport() http.RoundTripper {
	t, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return http.DefaultTransport
	}
	t = t.Clone()
	for _, p := range slices.Backward(u.chain.Policies()) {
		if owner, ok := p.(TransportOwner); ok {
			t = owner.OwnTransport(u.Name(), t)
		}
	}
	return t
}

// transport is an upstream over one base.
type transport struct {
	upstream *Upstream
	base     http.RoundTripper // nil beside a carrier
	carrier  Carrier           // nil for none
	netHTTP  bool              // base is an http.Transport, so that nothing else calls the hooks of a trace
	h2c      bool              // base speaks HTTP/2 over connections without TLS

	headerBytes int64 // how large the headers of a response may be

	spent wireTrace // stands for a trace to which net/http no longer reports
}

// CloseIdleConnections closes what base keeps open, if it can.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.sender().(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// RoundTrip makes one call.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	switch {
	case req == nil:
		return nil, fmt.Errorf("pillion: %s: nil request", t.upstream.Name())
	case req.Cancel != nil: //nolint:staticcheck // callers still use it
		return t.cancelable(req)
	}
	return t.roundTrip(req, nil)
}

// cancelable makes one call that ends also when the request's deprecated Cancel is
// closed, between attempts too.
func (t *transport) cancelable(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	ended := func(*policy.Call, *policy.Outcome) { cancel(nil) }
	with := req.WithContext(ctx)
	closed := with.Cancel //nolint:staticcheck // callers still use it
	with.Cancel = nil     //nolint:staticcheck // likewise
	go func() {
		select {
		case <-closed:
			cancel(errCancelClosed)
		case <-ctx.Done():
		}
	}()
	returned := false
	defer func() {
		if !returned {
			cancel(nil)
		}
	}()
	resp, err := t.roundTrip(with, ended) //nolint:contextcheck // with has the context
	returned = true
	if resp != nil {
		resp.Request = req
	}
	return resp, err
}

var errCancelClosed = errors.New("pillion: the request's Cancel was closed")

// roundTrip makes one call. ended, if there is one, is called when the call has ended.
func (t *transport) roundTrip(req *http.Request, ended policy.Hook) (*http.Response, error) {
	x := t.newCall(req)
	o := x.invoke()
	if o.Err != nil {
		resp, err := t.failed(req, o, x.frame.Attempts())
		if ended != nil {
			o.OnEnd(x.frame.First().Call(), ended)
		}
		x.Recycle()
		return resp, err
	}
	if ended != nil {
		o.OnEnd(x.frame.First().Call(), ended)
	}
	resp, _ := o.Value.(*http.Response)
	if resp == nil {
		o.Discard()
		return nil, fmt.Errorf("pillion: %s: a policy gave a %T in place of a response", t.upstream.Name(), o.Value)
	}
	t.countAttemptsIn(resp, x.frame.Attempts())
	if a := o.Pending(); a != nil {
		hand(a, resp)
		return resp, nil
	}
	x.Recycle()
	return resp, nil
}

// failed is the result of a call without a response: a local reply if the caller asked for
// such and is not gone, else the error.
func (t *transport) failed(req *http.Request, o *policy.Outcome, attempts int) (*http.Response, error) {
	detail := o.Detail
	if o.Is.Any(policy.Informational) {
		detail = detail.BeforeResponse()
	}
	if !t.upstream.options.LocalReplies || detail.LocalStatus() == 0 || req.Context().Err() != nil {
		return nil, o.Err
	}
	resp := t.localReply(req, detail, attempts)
	t.countAttemptsIn(resp, attempts)
	return resp, nil
}
