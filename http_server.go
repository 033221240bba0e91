package pillion

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"runtime/debug"
	"strconv"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/internal/respwriter"
	"github.com/pillion-go/pillion/policy"
)

// Handler returns a handler that serves requests with next under the upstream's policies; the name
// of the upstream is then that of the service itself. Limits and a breaker shed load, listeners and
// statistics see each request, and a timeout ends the context of the request that next receives.
// The timeouts are those of a timeout policy and the time that the client named in
// x-envoy-expected-rq-timeout-ms or grpc-timeout, whichever is shorter. A per-try or idle timeout
// applies until the response headers are written, a total timeout until next returns.
//
// If a policy refuses a request, or a timeout fires before next has written anything, the client
// receives the response that Envoy sends: 503 with x-envoy-overloaded, or 504; for gRPC, a gRPC
// status in a 200. Its text is constant: it contains neither errors nor the value of a panic.
//
// Handler runs next in the goroutine of the server and waits for it. After a timeout has fired, a
// Read of the request's body fails with [os.ErrDeadlineExceeded], even a blocked one. Writes may go
// on for half a second; then a blocked Write or Flush fails as well. That needs a ResponseWriter
// that supports the deadlines of [http.ResponseController], as the server's own does. Middleware
// around this handler must have the method Unwrap; without it only [http.Server] ReadTimeout and
// WriteTimeout end such a wait. A response whose headers are written after the timeout has fired is
// still sent, and is reported as timed out.
//
// What a client causes does not count as a failure of the service, so that no client can open its
// breaker. That includes a timeout that the client named, or that fires while next waits for the
// client, or after next has waited for a quarter of the time to read, or for half of it to write.
// It also includes a status 5xx or a panic after the client disconnected, or after reading its
// request's body failed. If the client has disconnected, no local reply is written.
//
// A panic, [http.ErrAbortHandler] too, is reported to the policies as a [*PanicError] and goes on
// to the server with the same value. The PanicError's Stack is that of the panic, which the
// server's own log does not contain. A panic with an [*http.MaxBytesError] counts as caused by the
// client.
//
// The ResponseWriter keeps the optional methods of the server's: it can flush, hijack, push, send
// files and notify of a closed connection if the server's can, also through
// [http.ResponseController]. Timeouts do not apply to a hijacked connection.
//
// Handler returns an error if u is not from [New], if next is nil, or if the policies retry, hedge
// or have a cluster, which a server cannot.
func (u *Upstream) Handler(next http.Handler) (http.Handler, error) {
	switch {
	case u == nil || u.chain == nil:
		return nil, errors.New("pillion: Handler: the Upstream is nil or zero; make it with pillion.New")
	case isNil(next):
		return nil, fmt.Errorf("upstream %q: pillion: Handler: nil handler", u.Name())
	case u.chain.Repeats():
		return nil, fmt.Errorf("upstream %q: pillion: Handler: a server cannot retry or hedge a request; leave out retry and hedge", u.Name())
	case u.chain.Carrier() != nil:
		return nil, fmt.Errorf("upstream %q: pillion: Handler: a server cannot send a request to the hosts of a cluster; leave out cluster", u.Name())
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if w == nil || r == nil {
			panic("pillion: Handler: ServeHTTP was called with a nil ResponseWriter or Request")
		}
		u.serve(next, w, r)
	}), nil
}

// isNil reports whether next is nil, or a nil HandlerFunc.
func isNil(next http.Handler) bool {
	f, ok := next.(http.HandlerFunc)
	return next == nil || ok && f == nil
}

func (u *Upstream) serve(next http.Handler, w http.ResponseWriter, r *http.Request) {
	x := &serverCall{next: next, req: r, upstream: u, ctx: r.Context()}
	x.frame.Init(u.chain, x)
	x.first = x.frame.First()
	x.w = respwriter.Make(w, x)
	x.client.w, x.client.request = w, x.ctx
	x.client.body.wrap(r.Body, &x.client)
	if d, ok := envoy.InboundDeadline(r.Header.Get); ok {
		x.first.LimitClient(d)
	}
	o := x.frame.Invoke(x.ctx) //nolint:contextcheck // it is the request's
	switch {
	case x.panic != nil:
		panic(x.panic.Value)
	case o.Err != nil && !x.w.Begun():
		x.reply(o)
	case x.client.cut:
		closeAfterResponse(w)
	}
}

// serverCall is one request that is being served.
type serverCall struct {
	frame    policy.Frame
	first    *policy.Attempt
	upstream *Upstream
	ctx      context.Context //nolint:containedctx // the server's, while the call lasts
	next     http.Handler
	w        respwriter.Writer
	req      *http.Request
	header   http.Header // the request's, for next; nil while it is the server's
	served   bool        // next was called
	found    http.Header // the response header before next was called; nil if it was empty
	panic    *PanicError
	client   client

	code   int   // the status of the response
	late   bool  // its headers were written after a timeout had fired
	broken bool  // writing to the client has failed
	fault  error // the client's fault by then; nil for none
}

// The engine finds these interfaces by their methods.
var _ interface {
	policy.Exchange
	policy.Blamer
	policy.LimitObserver
} = (*serverCall)(nil)

// Request describes the request.
func (x *serverCall) Request() policy.Request {
	r := policy.Request{Protocol: policy.ProtocolHTTP, Method: x.req.Method, Authority: x.req.Host}
	if x.req.URL != nil {
		r.Path = x.req.URL.Path
	}
	return r
}

// Try calls the handler.
func (x *serverCall) Try(ctx context.Context, c *policy.Attempt, o *policy.Outcome) {
	if x.serve(ctx, c, o) {
		x.classify(ctx, c, o)
	}
	if x.client.cut {
		c.TimedOut(o) // the context of the request may have ended as well, after the timeout had fired
	}
}

// serve calls the handler. It is not ok if the handler panicked.
func (x *serverCall) serve(ctx context.Context, c *policy.Attempt, o *policy.Outcome) (ok bool) {
	stop := x.watch(ctx, c)
	defer func() {
		stop()
		x.client.finish()
		if !ok {
			x.ended(o, recover())
		}
	}()
	r := x.request(ctx)
	if h := x.w.Wrapped().Header(); len(h) != 0 {
		x.found = h.Clone()
	}
	x.served = true
	x.next.ServeHTTP(x.w.Shaped(), r)
	respwriter.HandBack(x.req, r)
	return true
}

// watch watches what the handler waits for. If a timeout of the call fires, the engine calls
// LimitFired; watch makes other ends of ctx call it, those of middleware and policies.
func (x *serverCall) watch(ctx context.Context, c *policy.Attempt) (stop func() bool) {
	server, own := x.ctx, c.Guarded()
	_, others := server.Deadline()
	others = others || !own && ctx != server && ctx.Done() != server.Done()
	if own || others {
		x.client.start(ctx, c.LimitElapsed())
	}
	if others {
		return context.AfterFunc(ctx, x.LimitFired)
	}
	return func() bool { return false }
}

// request returns the request for next: the server's own if nothing differs.
func (x *serverCall) request(ctx context.Context) *http.Request {
	x.first.ConsumeHeaders()
	body := x.client.body.ReadCloser != nil
	if ctx == x.ctx && x.header == nil && !body {
		return x.req
	}
	r := x.req.WithContext(ctx)
	if x.header != nil {
		r.Header = x.header
	}
	if body {
		r.Body = &x.client.body
	}
	return r
}

// classify makes o the outcome of a handler that returned.
func (x *serverCall) classify(ctx context.Context, c *policy.Attempt, o *policy.Outcome) {
	inTime := x.w.Begun() && !x.late
	if err := ctx.Err(); err != nil && !inTime {
		o.Err = err
		return
	}
	o.Code = x.status()
	o.Conditions, o.Detail = policy.HTTPCondition(o.Code), envoy.ViaUpstream
	if o.Code == http.StatusSwitchingProtocols {
		o.Conditions |= policy.Upgraded
	}
	theirs := x.fault != nil && o.Has(policy.Failure)
	switch {
	case x.client.gone() && (theirs || x.broken && !o.Has(policy.Failure)): // a failure came first
		c.Canceled(o)
	case theirs:
		o.Blame(fmt.Errorf("pillion: the request's body cannot be read: %w", x.fault), policy.Cancelled, nil)
	}
}

// ended makes o the outcome of a handler that did not return.
func (x *serverCall) ended(o *policy.Outcome, p any) {
	if p == nil {
		return // it ended its goroutine: nothing else runs
	}
	x.panic = &PanicError{Value: p, Stack: debug.Stack()}
	_, tooLarge := errors.AsType[*http.MaxBytesError](x.panic)
	switch {
	case x.client.gone(), p == http.ErrAbortHandler && x.ctx.Err() != nil: //nolint:errorlint // as the server compares
		o.Err = x.panic // a proxy panics so if its client has disconnected
	case tooLarge, x.client.fault() != nil:
		o.Blame(x.panic, policy.Cancelled, nil)
	case p == http.ErrAbortHandler: //nolint:errorlint // as the server compares
		o.Blame(x.panic, policy.Failed|policy.Reset, nil)
	default:
		o.Blame(x.panic, policy.Failed|policy.Status5xx, nil)
	}
}

// CausedByCaller reports whether the client caused a timeout: it named the deadline itself, or it
// kept the handler waiting. The deadline of the request's context is the service's own.
func (x *serverCall) CausedByCaller(scope policy.Scope) bool {
	named := scope == policy.ScopeCaller && !errors.Is(x.ctx.Err(), context.DeadlineExceeded)
	return named || x.client.slow
}

// Classify adds nothing: the engine classifies the errors of the context.
func (x *serverCall) Classify(_ *policy.Attempt, o *policy.Outcome, err error) {
	o.Blame(err, policy.Failed, nil)
}

// RequestHeader returns values of the request's header.
func (x *serverCall) RequestHeader(name string) []string { return headerValues(x.req.Header, name) }

// Header returns the handler's copy of the request's header.
func (x *serverCall) Header(*policy.Attempt) policy.Header {
	if x.header == nil {
		x.header = copyHeader(x.req.Header)
	}
	return x.header
}

// ResponseHeader returns values of the response's header.
func (x *serverCall) ResponseHeader(_ *policy.Outcome, name string) []string {
	return x.w.Wrapped().Header().Values(name)
}

// reply sends the response that Envoy sends in the upstream's place. It writes to the server's own
// writer: no limit applies to it any more.
func (x *serverCall) reply(o *policy.Outcome) {
	if x.client.gone() {
		return
	}
	status, text := localReply(o)
	w := x.w.Wrapped()
	h := x.replyHeader(w.Header())
	if x.client.cut {
		closeAfterResponse(w)
	} else {
		x.client.endBody()
	}
	if o.Detail.Overloaded() && !x.upstream.options.SuppressEnvoyHeaders {
		h.Set(envoy.OverloadedHeader, "true")
	}
	if envoy.IsGRPC(x.req.Header.Get("Content-Type")) {
		h.Set("Content-Type", "application/grpc")
		h.Set(envoy.GRPCStatusHeader, strconv.Itoa(localCode(o.Detail, status)))
		h.Set(envoy.GRPCMessageHeader, text)
		w.WriteHeader(http.StatusOK)
		return
	}
	if text != "" {
		h.Set("Content-Type", "text/plain")
		h.Set("Content-Length", strconv.Itoa(len(text)))
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // a client that has disconnected needs no text
}

// localReply returns the status and the text of a local reply.
func localReply(o *policy.Outcome) (status int, text string) {
	if status, text = o.LocalReply(false); status != 0 {
		return status, text
	}
	status = http.StatusInternalServerError // of a policy for which Envoy has no word
	if o.Has(policy.Refused) {
		status = http.StatusServiceUnavailable
	}
	return status, http.StatusText(status)
}

// localCode returns the gRPC status of a local reply.
func localCode(d *envoy.Detail, status int) int {
	if d.LocalStatus() != 0 {
		return d.GRPCStatus()
	}
	return envoy.GRPCStatus(status)
}

// replyHeader returns h without what the handler put there for its own response.
func (x *serverCall) replyHeader(h http.Header) http.Header {
	if h == nil {
		return http.Header{} // of a writer that has none
	}
	if x.served {
		clear(h)
		maps.Copy(h, x.found)
	}
	return h
}
