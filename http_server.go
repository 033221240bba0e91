package pillion

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

// Handler puts the requests that next serves under the upstream's policies: the
// name of the upstream is then that of the service itself. Limits and a breaker shed
// load, listeners and statistics see each request, and deadlines reach next as the end of
// its request's context: those of a timeout policy, and what the client said in
// x-envoy-expected-rq-timeout-ms or grpc-timeout, whichever comes first. A limit of one
// try, or on silence, holds until the answer's head; a total one to the end.
//
// A request that is refused, or whose time was over before next wrote anything, gets
// the answer that Envoy would have given: 503 with x-envoy-overloaded, or 504; as
// gRPC status in a 200 where the request is gRPC. Next runs in the goroutine of the
// server and is never left behind: one that does not heed its context is waited for. An
// answer whose head comes after the limit is told as timed out. To a client that has
// gone nothing is said, and the call is nobody's failure.
//
// A panic, [http.ErrAbortHandler] too, is told to the policies as a [*PanicError] and
// goes on to the server, as the same value; where it came from is in the PanicError's
// Stack, since the server's own log shows where it went on.
//
// The ResponseWriter can flush, be hijacked, push and send files where the server's can,
// also through [http.ResponseController]. A hijacked connection is under no limit.
//
// It is an error where next is nil, and where the policies send calls again: a server
// cannot.
func (u *Upstream) Handler(next http.Handler) (http.Handler, error) {
	switch {
	case next == nil:
		return nil, fmt.Errorf("upstream %q: pillion: Handler: nil handler", u.name)
	case u.repeats:
		return nil, fmt.Errorf("upstream %q: pillion: Handler: a request that is being served cannot be sent again: leave out retry and hedge", u.name)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { u.serve(next, w, r) }), nil
}

// PanicError stands for a panic in the outcome of a call that was being served.
type PanicError struct {
	Value any    // what was given to panic
	Stack []byte // of the goroutine that panicked
}

func (e *PanicError) Error() string { return fmt.Sprintf("pillion: the handler panicked: %v", e.Value) }

// Unwrap gives what was given to panic, if that was an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

func (u *Upstream) serve(next http.Handler, w http.ResponseWriter, r *http.Request) {
	x := &serverCall{next: next, w: serverWriter{ResponseWriter: w}, req: r}
	x.flight = flight{upstream: u, exchange: x, ctx: r.Context()}
	x.first = Call{flight: &x.flight, attempt: 1}
	x.w.call = &x.first
	if d, ok := inboundDeadline(r.Header); ok {
		x.first.LimitClient(d)
	}
	o := x.flight.invoke(&x.first)
	switch {
	case x.panic != nil:
		panic(x.panic.Value)
	case o.Err != nil && !x.w.begun:
		x.reply(o)
	}
}

// inboundDeadline is how long the client said that it waits.
func inboundDeadline(h http.Header) (time.Duration, bool) {
	expected, some := ExpectedTimeout(h.Get("X-Envoy-Expected-Rq-Timeout-Ms"))
	timeout, grpc := parseGRPCTimeout(h.Get("Grpc-Timeout"))
	if some && (!grpc || expected < timeout) {
		return expected, true
	}
	return timeout, grpc
}

// longestGRPCTimeout keeps a deadline on the clock, whatever a client says.
const longestGRPCTimeout = 100 * 365 * 24 * time.Hour

// parseGRPCTimeout reads a number of up to eight digits and its unit.
func parseGRPCTimeout(value string) (time.Duration, bool) {
	last := len(value) - 1
	if last < 1 || last > 8 {
		return 0, false
	}
	unit := grpcUnit(value[last])
	n, err := strconv.ParseUint(value[:last], 10, 32)
	if err != nil || unit == 0 {
		return 0, false
	}
	return time.Duration(min(n, uint64(longestGRPCTimeout/unit))) * unit, true //nolint:gosec // neither is negative
}

func grpcUnit(letter byte) time.Duration {
	switch letter {
	case 'H':
		return time.Hour
	case 'M':
		return time.Minute
	case 'S':
		return time.Second
	case 'm':
		return time.Millisecond
	case 'u':
		return time.Microsecond
	case 'n':
		return time.Nanosecond
	}
	return 0
}

// serverCall is one request that is being served.
type serverCall struct {
	flight flight
	first  Call
	next   http.Handler
	w      serverWriter
	req    *http.Request
	header http.Header // the request's as next sees it; nil while it is the server's
	served bool        // next was called
	found  http.Header // what stood in the answer's header before that; nil for nothing
	panic  *PanicError
}

// Request describes the request.
func (x *serverCall) Request() Request {
	return Request{Protocol: "http", Method: x.req.Method, Authority: x.req.Host, Path: x.req.URL.Path}
}

// Unary is false: a body comes after the head, and a limit that ends there is no
// deadline for it.
func (x *serverCall) Unary() bool { return false }

// Try has the handler serve the request.
func (x *serverCall) Try(ctx context.Context, c *Call, o *Outcome) {
	if !x.serve(ctx, o) {
		return
	}
	inTime := x.w.begun && !x.w.late
	if err := ctx.Err(); err != nil && !inTime {
		o.Err = err
		return
	}
	o.Code = x.w.status()
	o.Is, o.Detail = HTTPCondition(o.Code), ViaUpstream
	if o.Code == http.StatusSwitchingProtocols {
		o.Is |= Upgraded
	}
	if inTime && x.w.broken && x.flight.ctx.Err() != nil {
		c.leave(x.flight.ctx, o, nil)
	}
}

// serve is not ok when the handler panicked.
func (x *serverCall) serve(ctx context.Context, o *Outcome) (ok bool) {
	defer func() {
		if !ok {
			x.ended(o, recover())
		}
	}()
	r := x.request(ctx)
	if h := x.w.Header(); len(h) != 0 {
		x.found = h.Clone()
	}
	x.served = true
	x.next.ServeHTTP(x.w.shaped(), r)
	return true
}

// request is what next sees: the server's own where nothing differs.
func (x *serverCall) request(ctx context.Context) *http.Request {
	x.first.Consume()
	if ctx == x.flight.ctx && x.header == nil {
		return x.req
	}
	r := x.req.WithContext(ctx)
	if x.header != nil {
		r.Header = x.header
	}
	return r
}

// ended says what came of a handler that did not return.
func (x *serverCall) ended(o *Outcome, p any) {
	if p == nil {
		return // it ended its goroutine: nothing that follows runs
	}
	x.panic = &PanicError{Value: p, Stack: debug.Stack()}
	switch {
	case p != http.ErrAbortHandler: //nolint:errorlint // as the server compares
		o.fail(x.panic, Failed|Status5xx, NoDetail)
	case x.flight.ctx.Err() != nil: // a proxy whose client has gone ends so
		o.Err = x.panic
	default:
		o.fail(x.panic, Failed|Reset, NoDetail)
	}
}

// CausedByCaller reports whether a limit that fired is the client's doing: it named the
// deadline itself. The deadline of the request's context is the service's own.
func (x *serverCall) CausedByCaller(scope Scope) bool {
	return scope == ScopeCaller && x.flight.ctx.Err() == nil
}

// Explain has nothing to add: the context's errors are explained by the engine.
func (x *serverCall) Explain(_ *Call, o *Outcome, err error) { o.blame(err, Failed, NoDetail) }

// Discard has nothing to do: an answer is never open.
func (x *serverCall) Discard(*Call, *Outcome) {}

// NewCall is never asked for: nothing is sent again.
func (x *serverCall) NewCall(*Call) *Call { return &Call{} }

// RequestHeader reads the request's header.
func (x *serverCall) RequestHeader(name string) []string { return headerValues(x.req.Header, name) }

// Header copies the request's header for the handler.
func (x *serverCall) Header(*Call) Header {
	if x.header == nil {
		x.header = copyHeader(x.req.Header)
	}
	return x.header
}

// ResponseHeader reads the header of the answer.
func (x *serverCall) ResponseHeader(_ *Outcome, name string) []string {
	return x.w.Header().Values(name)
}

// Idempotent and Replayable are for who sends again.
func (x *serverCall) Idempotent() bool { return false }

// Replayable is false: a request is served once.
func (x *serverCall) Replayable() bool { return false }

// reply gives Envoy's answer in the handler's place.
func (x *serverCall) reply(o *Outcome) {
	if o.Is.Any(Cancelled) && !o.Is.Any(Timeout) {
		return // the client has disconnected
	}
	status, text := o.Detail.LocalReply(false)
	if status == 0 { // of a policy that has no word of Envoy's for it
		status = http.StatusInternalServerError
		if o.Is.Any(Refused) {
			status = http.StatusServiceUnavailable
		}
		text = http.StatusText(status)
	}
	h := x.w.Header()
	if x.served { // what it put there was for an answer of its own
		clear(h)
		maps.Copy(h, x.found)
	}
	if o.Detail.Overloaded() && !x.flight.upstream.http.SuppressEnvoyHeaders {
		h.Set("X-Envoy-Overloaded", "true")
	}
	if isGRPC(x.req.Header.Get("Content-Type")) {
		h.Set("Content-Type", "application/grpc")
		h.Set("Grpc-Status", strconv.Itoa(GRPCStatus(status)))
		h.Set("Grpc-Message", text)
		x.w.WriteHeader(http.StatusOK)
		return
	}
	h.Set("Content-Type", "text/plain")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	x.w.WriteHeader(status)
	_, _ = x.w.WriteString(text) // who no longer listens has been told enough
}

// isGRPC goes by Envoy's rule: gRPC-Web is something else.
func isGRPC(contentType string) bool {
	rest, ok := strings.CutPrefix(contentType, "application/grpc")
	return ok && (rest == "" || rest[0] == '+')
}
