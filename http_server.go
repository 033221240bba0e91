package pillion

import (
	"context"
	"fmt"
	"math"
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
// x-envoy-expected-rq-timeout-ms or grpc-timeout, whichever comes first.
//
// A request that is refused, or whose time was over before next wrote anything, gets
// the answer that Envoy would have given: 503 with x-envoy-overloaded, or 504; as
// gRPC status in a 200 where the request is gRPC. Next runs in the goroutine of the
// server and is never left behind: one that does not heed its context is waited for. A
// panic, [http.ErrAbortHandler] too, is told to the policies as a [*PanicError] and goes
// on to the server. An answer that comes after its limit is told as timed out. The ResponseWriter can flush, be hijacked and be pushed to where the
// server's can, also through [http.ResponseController].
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
		x.first.LimitTotal(d)
	}
	o := x.flight.invoke(&x.first)
	switch {
	case x.panic != nil:
		panic(x.panic.Value)
	case o.Err != nil && !x.w.begun:
		x.reply(o.Detail)
	}
}

// inboundDeadline is how long the client said that it waits.
func inboundDeadline(h http.Header) (time.Duration, bool) {
	expected, some := parseExpected(h.Get("X-Envoy-Expected-Rq-Timeout-Ms"))
	timeout, grpc := parseGRPCTimeout(h.Get("Grpc-Timeout"))
	if some && (!grpc || expected < timeout) {
		return expected, true
	}
	return timeout, grpc
}

// parseExpected reads a number of milliseconds; as in Envoy, 0 and junk mean no
// limit.
func parseExpected(value string) (time.Duration, bool) {
	ms, err := strconv.ParseUint(value, 10, 32)
	return time.Duration(ms) * time.Millisecond, err == nil && ms > 0
}

// parseGRPCTimeout reads a number of up to eight digits and its unit.
func parseGRPCTimeout(value string) (time.Duration, bool) {
	units := map[byte]time.Duration{
		'H': time.Hour, 'M': time.Minute, 'S': time.Second,
		'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond,
	}
	if len(value) < 2 || len(value) > 9 {
		return 0, false
	}
	last := len(value) - 1
	n, err := strconv.ParseUint(value[:last], 10, 32)
	unit, ok := units[value[last]]
	if err != nil || !ok {
		return 0, false
	}
	return unit * min(time.Duration(n), math.MaxInt64/unit), true
}

// serverCall is one request that is being served.
type serverCall struct {
	flight flight
	first  Call
	next   http.Handler
	w      serverWriter
	req    *http.Request
	header http.Header // the request's as next sees it; nil while it is the server's
	panic  *PanicError
}

// Request describes the request.
func (x *serverCall) Request() Request {
	return Request{Protocol: "http", Method: x.req.Method, Authority: x.req.Host, Path: x.req.URL.Path}
}

// Unary is true: when the handler has returned all is over.
func (x *serverCall) Unary() bool { return true }

// Try has the handler serve the request.
func (x *serverCall) Try(ctx context.Context, _ *Call, o *Outcome) {
	if !x.serve(ctx, o) {
		return
	}
	if err := ctx.Err(); err != nil && (!x.w.begun || x.w.broken) {
		o.Err = err
		return
	}
	o.Code = x.w.status()
	o.Is, o.Detail = statusCondition(o.Code), ViaUpstream
}

// serve is not ok when the handler panicked.
func (x *serverCall) serve(ctx context.Context, o *Outcome) (ok bool) {
	defer func() {
		if ok {
			return
		}
		// recover gives nil for a handler that ended its goroutine: then there is
		// nothing to pass on, and nobody to whom.
		if p := recover(); p != nil {
			x.panic = &PanicError{Value: p, Stack: debug.Stack()}
			o.fail(x.panic, Failed|Status5xx, NoDetail)
			if x.panic.Unwrap() == http.ErrAbortHandler { //nolint:errorlint // as the server compares
				o.Is = Failed | Reset
			}
		}
	}()
	r := x.req
	if ctx != x.flight.ctx || x.header != nil {
		r = r.WithContext(ctx)
		if x.header != nil {
			r.Header = x.header
		}
	}
	x.next.ServeHTTP(x.w.shaped(), r)
	return true
}

// Explain has nothing to add: the context's errors are explained by the engine.
func (x *serverCall) Explain(_ *Call, o *Outcome, err error) { o.blame(err, Failed, NoDetail) }

// Discard has nothing to do: an answer is never open.
func (x *serverCall) Discard(*Call, *Outcome) {}

// NewCall is never asked for: nothing is sent again.
func (x *serverCall) NewCall() *Call { return &Call{} }

// RequestHeader reads the request's header.
func (x *serverCall) RequestHeader(name string) string { return x.req.Header.Get(name) }

// Header copies the request's header for the handler.
func (x *serverCall) Header(*Call) Header {
	if x.header == nil {
		if x.header = x.req.Header.Clone(); x.header == nil {
			x.header = http.Header{}
		}
	}
	return x.header
}

// ResponseHeader reads the header of the answer.
func (x *serverCall) ResponseHeader(_ *Outcome, name string) (value string, ok bool) {
	values := x.w.Header().Values(name)
	if len(values) == 0 {
		return "", false
	}
	return values[0], true
}

// Idempotent and Replayable are for who sends again.
func (x *serverCall) Idempotent() bool { return false }

// Replayable is false: a request is served once.
func (x *serverCall) Replayable() bool { return false }

// reply gives Envoy's answer in the handler's place.
func (x *serverCall) reply(d Detail) {
	status := d.LocalStatus()
	if status == 0 {
		if d == CallerGone {
			return // there is nobody to answer
		}
		status = http.StatusInternalServerError
	}
	text, h := d.localBody(false), x.w.Header()
	clear(h) // of what the handler meant for an answer of its own
	if details[d].overloaded {
		h.Set("X-Envoy-Overloaded", "true")
	}
	if strings.HasPrefix(x.req.Header.Get("Content-Type"), "application/grpc") {
		h.Set("Content-Type", "application/grpc")
		h.Set("Grpc-Status", strconv.Itoa(grpcStatus(status)))
		h.Set("Grpc-Message", text)
		x.w.WriteHeader(http.StatusOK)
		return
	}
	h.Set("Content-Type", "text/plain")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	x.w.WriteHeader(status)
	_, _ = x.w.Write([]byte(text)) // who no longer listens has been told enough
}

// grpcStatus is what Envoy makes of the status of a local reply to gRPC.
func grpcStatus(status int) int {
	switch status {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return 14 // UNAVAILABLE
	}
	return 2 // UNKNOWN
}
