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
	"github.com/pillion-go/pillion/internal/settings"
	"github.com/pillion-go/pillion/policy"
)

// Options configures how an upstream speaks HTTP. It is a [Policy] only so that [New] takes it like
// all other configuration; its position among the others does not matter. An upstream without
// Options behaves as with the zero value.
type Options struct {
	// LocalReplies returns the response that an Envoy sidecar would have sent where otherwise the
	// round trip returns an error: 503 and "upstream connect error or disconnect/reset before
	// headers" for a refused call, 504 for a timeout, and so on. It is for programs that used the
	// proxy before. If the caller was canceled, or its own deadline has passed, it still receives
	// an error. Mirrors Envoy's local replies.
	LocalReplies bool `json:"local_replies,omitempty"`

	// Sidecar is for a program whose calls still go through an Envoy sidecar. It turns the
	// sidecar's retries off (x-envoy-max-retries: 0), so that they do not multiply, and passes it
	// the remaining time (x-envoy-upstream-rq-timeout-ms). The sidecar must treat the caller as
	// internal, which is not Envoy's default: its listener needs use_remote_address, and the
	// caller's address in internal_address_config. To leave retries and timeouts to the sidecar,
	// configure neither here instead.
	Sidecar bool `json:"sidecar,omitempty"`

	// IncludeRequestAttemptCount sends the number of each attempt, from 1, in
	// x-envoy-attempt-count. Mirrors include_request_attempt_count of Envoy's VirtualHost.
	IncludeRequestAttemptCount bool `json:"include_request_attempt_count,omitempty"`

	// IncludeAttemptCountInResponse sets x-envoy-attempt-count in the response to the
	// number of attempts. Mirrors include_attempt_count_in_response.
	IncludeAttemptCountInResponse bool `json:"include_attempt_count_in_response,omitempty"`

	// IncludeIsTimeoutRetryHeader sends x-envoy-is-timeout-retry with each attempt but the first:
	// whether the per-try timeout of the previous attempt fired. Mirrors
	// include_is_timeout_retry_header.
	IncludeIsTimeoutRetryHeader bool `json:"include_is_timeout_retry_header,omitempty"`

	// SuppressEnvoyHeaders leaves out x-envoy-expected-rq-timeout-ms in requests and
	// x-envoy-overloaded in local replies. As in Envoy, it does not affect the headers that the
	// fields above ask for. Mirrors suppress_envoy_headers of Envoy's Router.
	SuppressEnvoyHeaders bool `json:"suppress_envoy_headers,omitempty"`

	// ReplayBuffer is how many bytes of a request body without GetBody are kept while it is sent,
	// so that it can be sent again. Nothing is read ahead. A larger body is sent once and never
	// retried. Zero keeps nothing; negative is an error. Mirrors Envoy's
	// per_request_buffer_limit_bytes.
	ReplayBuffer int64 `json:"replay_buffer,omitempty"`

	// DrainBytes is how many bytes of a discarded response's body are read so that its connection
	// can be reused; a longer body closes its connection. Zero means 64 KiB; negative is an error.
	DrainBytes int64 `json:"drain_bytes,omitempty"`

	// DrainTime is how long that may take. Zero means 100ms, but before a retry at most its
	// back-off, and at least 1ms; negative is an error.
	DrainTime time.Duration `json:"drain_time,omitempty"`
}

const (
	defaultDrainBytes = 64 << 10
	defaultDrainTime  = 100 * time.Millisecond
)

// optionsKey is the key that Options claims.
type optionsKey struct{}

// Wrap makes attempts carry the headers that the configuration asks for.
func (h Options) Wrap(s *policy.Builder, next policy.Func) (policy.Func, error) {
	var bad []error
	if !s.Claim(optionsKey{}) {
		bad = append(bad, errors.New("pillion: Options: it is given more than once; write one with all the fields"))
	}
	say := func(field string, value any, why string) {
		if why != "" {
			bad = append(bad, fmt.Errorf("pillion: Options.%s: %v %s", field, value, why))
		}
	}
	say("ReplayBuffer", h.ReplayBuffer, settings.Count(h.ReplayBuffer, "0 to keep nothing"))
	say("DrainBytes", h.DrainBytes, settings.Count(h.DrainBytes, "0 for 64 KiB"))
	say("DrainTime", h.DrainTime, settings.Duration(h.DrainTime, "0 for 100ms"))
	s.Require(policy.Needs{KeepBodies: h.ReplayBuffer})
	if h.Sidecar {
		s.Prepare(tellSidecar)
	}
	if h.IncludeRequestAttemptCount {
		s.Prepare(numberAttempt)
	}
	if h.IncludeIsTimeoutRetryHeader {
		s.Prepare(tellRetry)
	}
	if !h.SuppressEnvoyHeaders {
		s.Announce(announce)
	}
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

// numberAttempt sets the attempt's header with its number.
func numberAttempt(a *policy.Attempt) {
	a.Header().Set(envoy.AttemptCountHeader, strconv.Itoa(a.Call().Attempt()))
}

// tellRetry sets the header of a retry that says whether the per-try timeout before it fired.
func tellRetry(a *policy.Attempt) {
	if a.Call().Attempt() > 1 {
		a.Header().Set(envoy.IsTimeoutRetryHeader, strconv.FormatBool(a.AfterTimeout()))
	}
}

// announce sets the attempt's header with the remaining time.
func announce(a *policy.Attempt) {
	if left, limited := a.TimeLeft(); limited {
		a.Header().Set(envoy.ExpectedTimeoutHeader, envoy.Milliseconds(left))
	}
}

// tellSidecar turns the sidecar's retries off and passes it the remaining time.
func tellSidecar(a *policy.Attempt) {
	a.Header().Set(envoy.MaxRetriesHeader, "0")
	if left, limited := a.TimeLeft(); limited {
		a.Header().Set(envoy.TimeoutHeader, envoy.Milliseconds(left))
	}
}

// Transport returns a round tripper that makes its calls through base, under the upstream's
// policies. If base is nil, it uses the hosts of the cluster among the policies (package cluster),
// or without a cluster a clone of [http.DefaultTransport] that belongs to this upstream. With a
// cluster, base must be nil; otherwise each call fails. As a function from RoundTripper to
// RoundTripper it composes with other middleware.
//
// It honors the contract of [http.RoundTripper]: it does not change the caller's request and header
// map, it always closes the request's body, and a response of any status is no error. The
// response's body must be read to its end or closed, as always; then the call has ended. The error
// is that of the policy that refused the call ([errors.As] finds its type), a [*TimeoutError], the
// error of the caller's context, or an [*UpstreamError] around the error of net/http.
//
// An http.Transport itself resends some requests when a kept-alive connection turns out to be
// closed. These do not count as attempts.
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

// defaultHeaderBytes is the default limit of an http.Transport.
const defaultHeaderBytes = 10 << 20

// ownTransport clones http.DefaultTransport, unless a program has replaced it by another type.
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
	base     http.RoundTripper // nil with a carrier
	carrier  Carrier           // nil if there is none
	netHTTP  bool              // base is an http.Transport, so that nothing else calls the hooks of a trace
	h2c      bool              // base uses HTTP/2 over connections without TLS

	headerBytes int64 // how many bytes the headers of a response may have

	spent wireTrace // stands for a trace to which net/http no longer reports
}

// CloseIdleConnections closes the idle connections of base, if it supports that.
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

// cancelable makes one call that also ends when the request's deprecated Cancel is closed, between
// attempts too.
func (t *transport) cancelable(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	ended := func(*policy.Call, *policy.Outcome) { cancel(nil) }
	with := req.WithContext(ctx)
	closed := with.Cancel //nolint:staticcheck // callers still use it
	with.Cancel = nil     //nolint:staticcheck // callers still use it
	go func() {
		select {
		case <-closed:
			if deadline, ok := ctx.Deadline(); !ok || time.Now().Before(deadline) {
				cancel(errCancelClosed)
			} // else it is http.Client.Timeout, which closes Cancel when the context ends too
		case <-ctx.Done():
		}
	}()
	returned := false
	defer func() {
		if !returned {
			cancel(nil)
		}
	}()
	resp, err := t.roundTrip(with, ended) //nolint:contextcheck // the request has the context
	returned = true
	if resp != nil {
		resp.Request = req
	}
	return resp, err
}

var errCancelClosed = errors.New("pillion: the request's Cancel was closed")

// roundTrip makes one call. ended, if not nil, is called when the call has ended.
func (t *transport) roundTrip(req *http.Request, ended policy.Hook) (*http.Response, error) {
	x := t.newCall(req)
	o := x.invoke()
	if o.Err != nil {
		resp, err := t.failed(req, o, &x.frame)
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
		return nil, fmt.Errorf("pillion: %s: a policy returned a %T in place of a response", t.upstream.Name(), o.Value)
	}
	t.countAttemptsIn(resp, &x.frame)
	if a := o.Pending(); a != nil {
		hand(a, resp)
		return resp, nil
	}
	x.Recycle()
	return resp, nil
}

// failed returns the result of a call without a response: a local reply if the caller, or a policy
// for this call, asked for one and the caller was not canceled, else the error.
func (t *transport) failed(req *http.Request, o *policy.Outcome, f *policy.Frame) (*http.Response, error) {
	replies := t.upstream.options.LocalReplies || o.Detail.Injected()
	if !replies || req.Context().Err() != nil {
		return nil, o.Err
	}
	if status, _ := o.LocalReply(false); status == 0 {
		return nil, o.Err
	}
	resp := t.localReply(req, o, f.Attempts())
	t.countAttemptsIn(resp, f)
	return resp, nil
}
