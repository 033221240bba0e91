package pillion

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// httpCall is one HTTP call: the Exchange and, in the same allocation, the storage of the engine
// and of the first attempt.
type httpCall struct {
	frame     policy.Frame
	transport *transport
	req       *http.Request
	sent      atomic.Bool            // the caller's body was handed to an attempt, or closed
	replay    *replay                // nil without a replay buffer
	sending   atomic.Pointer[source] // the body that a running attempt sends; nil for none
	first     httpAttempt
}

// The engine finds these interfaces by their methods.
var _ interface {
	policy.Exchange
	policy.Repeater
	policy.Discarder
	policy.Successor
	policy.Storage
	policy.Blamer
	policy.ConnectionObserver
	policy.EarlyObserver
	policy.Measurer
} = (*httpCall)(nil)

// httpAttempt is what HTTP stores with an Attempt.
type httpAttempt struct {
	of      *policy.Attempt
	guarded bool         // its context ends with it
	header  http.Header  // the attempt's own; nil while it is the caller's
	body    *body        // with the attempt's stream; nil for none
	room    *wireContext // for its context; nil for none
	resp    *http.Response
	source  *source       // the body that is sent, if it can fail; else nil
	wire    *wire         // what net/http reports of the attempt; nil if nothing is reported
	replay  *replayReader // keeps what is read of the body; nil for none
	sizes   *sizes        // nil unless the attempt is measured
}

// reset makes the storage of a first attempt ready for another call. It writes only the pointers
// that are set, because a write costs much while the garbage collector marks.
func (a *httpAttempt) reset() {
	a.guarded = false
	if a.resp != nil {
		a.resp = nil
	}
	if a.body != nil {
		a.body, a.room = nil, nil
	}
	if a.header != nil || a.wire != nil {
		a.header, a.wire = nil, nil
	}
	if a.source != nil || a.replay != nil {
		a.source, a.replay = nil, nil
	}
	if a.sizes != nil {
		a.sizes = nil
	}
}

// newCall returns storage for a call.
func (t *transport) newCall(req *http.Request) *httpCall {
	u := t.upstream
	x, ok := u.calls.Get().(*httpCall)
	if !ok {
		x = &httpCall{}
		x.frame.Init(u.chain, x)
		x.first.of = x.frame.First()
		x.first.of.Attach(&x.first)
	}
	if x.req = req; x.transport != t { // it is usually set: see reset
		x.transport = t
	}
	if hasBody(req) && req.GetBody == nil {
		x.replay = newReplay(req.Body, req.ContentLength, u.options.ReplayBuffer)
	}
	return x
}

// Recycle returns the storage of a call that has ended to its pool, unless the call had further
// attempts, which may still be in use. The wire and the caller hold only bodies.
func (x *httpCall) Recycle() {
	u := x.transport.upstream
	if !x.frame.Reset() {
		return
	}
	if x.req = nil; x.replay != nil {
		x.replay = nil
	}
	x.first.reset()
	if x.sent.Load() {
		x.sent.Store(false)
	}
	if x.sending.Load() != nil {
		x.sending.Store(nil)
	}
	u.calls.Put(x)
}

func hasBody(req *http.Request) bool { return req.Body != nil && req.Body != http.NoBody }

// invoke makes the call. It closes the caller's body even if a policy panics.
func (x *httpCall) invoke() *policy.Outcome {
	if hasBody(x.req) {
		defer x.closeUnsentBody()
	}
	return x.frame.Invoke(x.req.Context())
}

// closeUnsentBody closes the body of a call that was never sent, as a RoundTripper must. If the
// body's Close panics, it discards an open response, since the caller will not receive it.
func (x *httpCall) closeUnsentBody() {
	closed := false
	defer func() {
		if !closed {
			x.frame.Abandon()
		}
	}()
	switch {
	case x.replay != nil:
		x.replay.settle()
	case x.sent.CompareAndSwap(false, true):
		_ = x.req.Body.Close() // the response does not depend on it
	}
	closed = true
}

// Request describes the request.
func (x *httpCall) Request() policy.Request {
	r := policy.Request{Protocol: policy.ProtocolHTTP, Method: x.method(), Authority: x.req.Host}
	if u := x.req.URL; u != nil {
		r.Path, r.Query = u.Path, u.RawQuery
		if r.Authority == "" {
			r.Authority = u.Host
		}
	}
	return r
}

func (x *httpCall) method() string {
	if x.req.Method == "" {
		return http.MethodGet
	}
	return x.req.Method
}

// Try sends the request once.
func (x *httpCall) Try(ctx context.Context, c *policy.Attempt, o *policy.Outcome) {
	a := attemptOf(c)
	a.guarded = c.Guarded()
	c.Prepare()
	ctx = x.traced(ctx, a)
	req, err := x.request(ctx, a)
	if err != nil {
		o.Blame(err, policy.Invalid, nil)
		return
	}
	if c.Observed() && req.URL != nil && c.Call().Endpoint() == "" {
		c.Call().SetEndpoint(req.URL.Host)
	}
	if c.Measured() {
		a.sizes = x.sizesOf(req)
	}
	var resp *http.Response
	if a.source == nil {
		resp, err = x.exchange(a, o, req)
	} else {
		resp, err = x.sendWatched(ctx, a, o, req)
	}
	if err != nil {
		a.freeze()
	}
	if err == nil && (resp == nil || resp.Body == nil) {
		err = x.unusable(resp)
	}
	if err != nil {
		if resp != nil && resp.Body != nil {
			_ = resp.Body.Close() // a violation of RoundTripper's contract, but it would leak
		}
		if o.Conditions == 0 { // otherwise the carrier has set the cause
			o.Err = err
		}
		return
	}
	x.responded(c, o, resp)
}

// sendWatched is exchange for a request with a body that takes time to send, and watches that.
func (x *httpCall) sendWatched(ctx context.Context, a *httpAttempt, o *policy.Outcome, req *http.Request) (*http.Response, error) {
	a.of.BeginUpload()
	x.watch(ctx, a)
	returned := false
	defer func() {
		if x.unwatch(a); !returned {
			_ = a.source.Close()
		}
	}()
	resp, err := x.exchange(a, o, req)
	returned = true
	if err == nil {
		x.sending.Store(nil)
	}
	return resp, err
}

// watch makes the body of an attempt report its progress, and closes the body when the attempt's
// context ends.
func (x *httpCall) watch(ctx context.Context, a *httpAttempt) {
	s, caller := a.source, x.req.Context()
	s.call, s.ctx = a.of, ctx
	x.sending.Store(s)
	s.stop = context.AfterFunc(ctx, func() { s.wake(caller.Err() != nil || tookTooLong(ctx)) })
}

// unwatch ends the reports. A context that the engine made ends with the attempt: until then it
// closes a body that is still being sent.
func (x *httpCall) unwatch(a *httpAttempt) {
	s := a.source
	s.detach()
	if !a.guarded || s.closed.Load() {
		s.stop()
	}
}

// reopen is the GetBody of a request whose body is watched: net/http itself resends some requests.
func (x *httpCall) reopen(ctx context.Context, a *httpAttempt) (io.ReadCloser, error) {
	body, err := x.getBody()
	if err != nil {
		return nil, err
	}
	x.unwatch(a)
	watched := a.source
	if body, err = x.upload(a, body, true); a.source != watched {
		x.watch(ctx, a)
	}
	return body, err
}

// getBody calls the caller's GetBody.
func (x *httpCall) getBody() (io.ReadCloser, error) {
	body, err := x.req.GetBody()
	if err == nil && body == nil {
		err = errNilBody
	}
	return body, err
}

var (
	errNoGetBody = errors.New("pillion: the request's body cannot be sent again: it has no GetBody")
	errNilBody   = errors.New("pillion: the request's body cannot be sent again: GetBody returned neither a body nor an error")
)

// tookTooLong reports whether the total timeout of the call ended ctx.
func tookTooLong(ctx context.Context) bool {
	limit, ok := errors.AsType[*TimeoutError](context.Cause(ctx))
	return ok && (limit.Scope == policy.ScopeTotal || limit.Scope == policy.ScopeCaller || limit.Scope == policy.ScopeStream)
}

// CausedByCaller reports whether a timeout fired while the attempt waited for the caller, that is
// for the next part of the request's body.
func (x *httpCall) CausedByCaller(policy.Scope) bool {
	s := x.sending.Load()
	return s != nil && s.silent()
}

// Unconnected reports whether the attempt certainly never had a connection.
func (x *httpCall) Unconnected(c *policy.Attempt) bool {
	s := attemptOf(c).wire.state()
	return s.has(wireAsked) && !s.has(wireConnected)
}

// ReceivedEarly reports whether a 1xx response of the attempt arrived.
func (x *httpCall) ReceivedEarly(c *policy.Attempt) bool { return attemptOf(c).wire.informational() }

// attemptOf returns what HTTP stores with c.
func attemptOf(c *policy.Attempt) *httpAttempt {
	return c.Attached().(*httpAttempt) //nolint:forcetypeassert // newCall and NewAttempt attached it
}

// unusable returns an error if the base broke the contract of RoundTripper.
func (x *httpCall) unusable(resp *http.Response) error {
	switch {
	case resp == nil:
		return fmt.Errorf("pillion: %T returned neither a response nor an error", x.transport.sender())
	case resp.Body == nil && resp.ContentLength > 0 && x.method() != http.MethodHead:
		return fmt.Errorf("pillion: %T returned a response with content length %d but a nil body", x.transport.sender(), resp.ContentLength)
	}
	return nil
}

// responded stores the response in o. A response without a body has ended, unless the rest of a
// kept request body may still be read for it.
func (x *httpCall) responded(c *policy.Attempt, o *policy.Outcome, resp *http.Response) {
	a := attemptOf(c)
	a.resp = resp
	if resp.Request != x.req {
		resp.Request = x.req
	}
	if resp.Body == nil {
		resp.Body = http.NoBody
	}
	o.Value, o.Code, o.Conditions, o.Detail = resp, resp.StatusCode, policy.HTTPCondition(resp.StatusCode), envoy.ViaUpstream
	if a.wire != nil {
		if a.wire.informational() {
			o.Conditions |= policy.Informational
		}
		a.wire.release()
	}
	if a.sizes != nil {
		a.sizes.respond(resp)
	}
	if resp.Body == http.NoBody && a.replay == nil {
		return
	}
	if resp.StatusCode == http.StatusSwitchingProtocols || x.req.Method == http.MethodConnect && resp.StatusCode/100 == 2 {
		o.Conditions |= policy.Upgraded
	}
	c.Open()
}

// unsendable rejects requests that net/http rejects only after dialing, sometimes with a misleading
// connection error.
func (x *httpCall) unsendable() error {
	switch u := x.req.URL; {
	case x.req.ContentLength > 0 && x.req.Body == nil:
		return fmt.Errorf("http: Request.ContentLength=%d with nil Body", x.req.ContentLength)
	case u != nil && (hasControl(u.Opaque) || hasControl(u.RawQuery)):
		return errors.New("net/http: can't write control character in Request.URL")
	}
	if len(x.req.Trailer) == 0 {
		return nil
	}
	return badTrailer(x.req.Trailer)
}

func badTrailer(trailer http.Header) error {
	for name := range trailer {
		switch http.CanonicalHeaderKey(name) {
		case "Transfer-Encoding", "Trailer", "Content-Length":
			return fmt.Errorf("invalid Trailer key %q", name)
		}
	}
	return nil
}

// faultOfRequest returns the fault of a request that failed as if the connection had been closed.
// If net/http finds a fault while it writes a request, it closes the connection, and may report
// only that. It returns nil for a request without a fault.
func (x *httpCall) faultOfRequest(seen wireState, err error) error {
	base, ok := x.transport.base.(*http.Transport)
	switch {
	case !ok || !isHTTP(x.req):
		return nil
	case seen.has(wireLooked) && !seen.has(wireAsked):
		return err // net/http did not ask for a connection
	case !validHost(x.req.Host) && base.Proxy != nil && x.req.URL.Scheme == "http":
		if proxy, _ := base.Proxy(x.req); proxy != nil { // without a proxy, net/http sends an empty Host
			return fmt.Errorf("http: invalid Host header %q: %w", x.req.Host, err)
		}
	}
	return nil
}

// validHost reports whether net/http sends the ASCII characters of host.
func validHost(host string) bool {
	return !strings.ContainsFunc(host, func(r rune) bool {
		return r < 0x80 && (r < '0' || r > '9') && (r|0x20 < 'a' || r|0x20 > 'z') && !strings.ContainsRune("!$%&'()*+,-.:;=[]_~", r)
	})
}

// isHTTP reports whether net/http itself sends req, and not a protocol that was registered with it.
func isHTTP(req *http.Request) bool {
	return req.URL != nil && (req.URL.Scheme == "http" || req.URL.Scheme == "https")
}

func hasControl(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return true
		}
	}
	return false
}

// request returns the request to send: the caller's own if nothing differs.
func (x *httpCall) request(ctx context.Context, a *httpAttempt) (*http.Request, error) {
	if err := x.unsendable(); err != nil {
		return nil, err
	}
	body, other, err := x.body(a)
	if err != nil {
		return nil, err
	}
	req := x.req
	if !other && a.header == nil && ctx == x.req.Context() {
		return req, nil
	}
	req = req.WithContext(ctx)
	req.Body = body
	if a.header != nil {
		req.Header = a.header
	}
	if a.source != nil && req.GetBody != nil && x.transport.netHTTP {
		req.GetBody = func() (io.ReadCloser, error) { return x.reopen(ctx, a) }
	}
	return req, nil
}

// body returns the body of the next attempt: the caller's own for the first attempt that is sent,
// else one that can be read again. other reports whether it differs from the request's own.
func (x *httpCall) body(a *httpAttempt) (body io.ReadCloser, other bool, err error) {
	switch {
	case !hasBody(x.req):
		return x.req.Body, false, nil
	case x.replay != nil:
		x.sent.Store(true)
		if a.replay, err = x.replay.reader(); err != nil {
			return nil, false, err
		}
		a.source = &source{body: a.replay, kept: a.replay, length: x.req.ContentLength}
		return a.source, true, nil
	case x.sent.CompareAndSwap(false, true):
		body, err = x.upload(a, x.req.Body, false)
		return body, a.source != nil, err
	case x.req.GetBody == nil:
		return nil, false, errNoGetBody
	}
	if body, err = x.getBody(); err == nil {
		body, err = x.upload(a, body, true)
	}
	return body, true, err
}

// upload returns the body to send: body itself if it is in memory, else a source that watches it.
// copied reports whether GetBody returned it.
func (x *httpCall) upload(a *httpAttempt, body io.ReadCloser, copied bool) (io.ReadCloser, error) {
	length := x.req.ContentLength
	if x.req.GetBody != nil {
		if left, ok := inMemory(body); ok {
			if length > 0 && left != length {
				_ = body.Close() // it is in memory
				return nil, fmt.Errorf(otherLength+"%d with Body length %d", length, left)
			}
			return body, nil
		}
	}
	a.source = &source{body: body, copied: copied, length: length}
	return a.source, nil
}

// freeze stops the reading of a kept body by an attempt that has failed or whose response is
// discarded: what it reads later would be missing from the next attempt.
func (a *httpAttempt) freeze() {
	if a.replay != nil {
		a.replay.frozen.Store(true)
	}
}

// Replayable reports whether the body can be sent once more.
func (x *httpCall) Replayable() bool {
	return !hasBody(x.req) || x.req.GetBody != nil || !x.sent.Load() || (x.replay != nil && x.replay.whole())
}

// Idempotent reports whether the method is idempotent, or the header says that the request is.
func (x *httpCall) Idempotent() bool {
	switch x.method() {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return x.RequestHeader("Idempotency-Key") != nil || x.RequestHeader("X-Idempotency-Key") != nil
}

// NewAttempt returns the storage of the next attempt.
func (x *httpCall) NewAttempt(from *policy.Attempt) *policy.Attempt {
	next := &struct {
		of policy.Attempt
		a  httpAttempt
	}{}
	next.a.of = &next.of
	next.of.Attach(&next.a)
	if before := attemptOf(from); before.header != nil {
		next.a.header = before.header.Clone()
	}
	return &next.of
}

// RequestHeader returns values of the caller's header.
func (x *httpCall) RequestHeader(name string) []string { return headerValues(x.req.Header, name) }

// Header returns the attempt's copy of the caller's header.
func (x *httpCall) Header(c *policy.Attempt) policy.Header {
	a := attemptOf(c)
	if a.header == nil {
		a.header = copyHeader(x.req.Header)
	}
	return a.header
}

// ResponseHeader returns values of a response's header.
func (x *httpCall) ResponseHeader(o *policy.Outcome, name string) []string {
	resp, ok := o.Value.(*http.Response)
	if !ok {
		return nil
	}
	return resp.Header.Values(name)
}
