package pilliongrpc

import (
	"context"
	"errors"
	"io"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/internal/report"
	"github.com/pillion-go/pillion/policy"
)

// StreamServerInterceptor returns an interceptor that serves streams under the policies of the upstream
// that r finds, as [UnaryServerInterceptor] does calls. Limits of one attempt, and on silence, hold until the
// first message or header is sent; a total one to the end.
//
// A limit also ends a stream whose handler waits in RecvMsg or SendMsg, where it is the client
// that is slow: the stream ends under the handler, which runs in its own goroutine for that, and
// RecvMsg and SendMsg fail. A handler that does anything else is waited for. The stream is no
// failure if its handler was in RecvMsg or SendMsg then, or for most of its time, nor is one that
// ends for a message of the client's that cannot be received.
func StreamServerInterceptor(r pillion.Resolver) (grpc.StreamServerInterceptor, error) {
	find, err := serverFinder(r)
	if err != nil {
		return nil, err
	}
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		x := &streamServer{srv: srv, stream: stream, handler: handler}
		if stream != nil {
			x.ctx = stream.Context()
		}
		if info != nil {
			x.method = info.FullMethod
		}
		if err := check(x.ctx, x.method, "handler", handler == nil); err != nil {
			return err
		}
		return x.serve(find, x)
	}, nil
}

// streamServer is a stream that is served.
type streamServer struct {
	server
	srv     any
	stream  grpc.ServerStream
	handler grpc.StreamHandler
	bad     atomic.Bool // a message of the client's could not be received
	drained atomic.Bool // the client sends no more
	stalled bool        // a limit fired, and it was the client that the handler waited for
	exited  bool        // the handler ended its goroutine
}

// streamServer implements these. They are found by their methods.
var _ interface {
	policy.Exchange
	policy.Blamer
	policy.MessageCounter
	policy.GRPCCoder
} = (*streamServer)(nil)

// Try has the handler serve the stream. If a limit of ours can end it, the handler runs in its
// own goroutine: only the return of the interceptor ends the stream under it.
func (x *streamServer) Try(ctx context.Context, c *policy.Attempt, o *policy.Outcome) {
	s := &servedStream{ServerStream: x.stream, of: x, call: c, limited: ctx.Done() != x.ctx.Done(), began: time.Now()}
	s.ctx = x.incoming(ctx, c)
	defer s.detach()
	if !s.limited {
		x.settle(ctx, o, s.serve()) //nolint:contextcheck // a report of a panic has no context
		return
	}
	done := make(chan result, 1)
	go s.serveBeside(done) //nolint:contextcheck // a report of a panic has no context
	r, ok := x.wait(ctx, s, done)
	if !ok {
		o.Err = ctx.Err()
		return
	}
	x.settle(ctx, o, r)
}

// wait waits for the handler. It is not ok if a limit fired while the handler waited for the
// client: then it is left, and the end of the stream wakes it.
func (x *streamServer) wait(ctx context.Context, s *servedStream, done <-chan result) (r result, ok bool) {
	select {
	case r = <-done:
		return r, true
	case <-ctx.Done():
	}
	if x.ctx.Err() == nil {
		left := s.cut()
		x.stalled = left || s.mostlyWaited()
		if left {
			return result{}, false
		}
	}
	return <-done, true
}

// settle says in o what came of the handler.
func (x *streamServer) settle(ctx context.Context, o *policy.Outcome, r result) {
	switch {
	case r.panic != nil:
		x.threw(o, r.panic)
	case !r.returned:
		x.exited = true
		o.Err, o.Conditions = errExited, policy.Failed
		o.Code, o.Detail = int(codes.Internal), envoy.ViaUpstream
	default:
		returned(ctx, o, r.err)
	}
}

var errExited = status.Error(codes.Internal, "the handler ended its goroutine")

// Classify takes the handler's status for the response that it is. What the client caused by its
// messages, or by sending none, is no failure.
func (x *streamServer) Classify(c *policy.Attempt, o *policy.Outcome, err error) {
	x.server.Classify(c, o, err)
	if x.bad.Load() || x.drained.Load() && errors.Is(err, io.EOF) {
		o.Conditions &^= policy.Failed
	}
}

// CausedByCaller reports whether a limit that fired is the client's doing: it named the deadline
// itself, or the handler waited for it.
func (x *streamServer) CausedByCaller(scope policy.Scope) bool {
	return x.stalled || x.server.CausedByCaller(scope)
}

// result is what came of a handler. One that neither returned nor panicked ended its goroutine.
type result struct {
	err      error
	returned bool
	panic    *pillion.PanicError
}

// servedStream is the stream that a handler sees.
type servedStream struct {
	grpc.ServerStream
	of      *streamServer
	ctx     context.Context //nolint:containedctx // a stream has one
	limited bool            // a limit of ours can end it
	began   time.Time
	head    atomic.Bool  // it has been sent
	inside  atomic.Int32 // RecvMsg and SendMsg that are under way, of a limited stream
	waited  atomic.Int64 // nanoseconds that those took which are over
	over    atomic.Bool  // a limit has fired

	mu   sync.Mutex
	call *policy.Attempt // nil when the stream has ended; guarded by mu
	left bool            // the handler was left behind; guarded by mu
	done bool            // the handler has returned; guarded by mu
}

// serve runs the handler in this goroutine.
func (s *servedStream) serve() (r result) {
	defer func() {
		if r.returned {
			return
		}
		if p := recover(); p != nil {
			r.panic = &pillion.PanicError{Value: p, Stack: debug.Stack()}
			if s.finished() {
				report.Panic("the handler of a stream that a limit has ended", p)
			}
		}
	}()
	r.err = s.of.handler(s.of.srv, s)
	r.returned = true
	return r
}

// serveBeside runs the handler in a goroutine of its own.
func (s *servedStream) serveBeside(done chan<- result) {
	var r result
	defer func() { // also when the handler ends the goroutine
		s.finished()
		done <- r
	}()
	r = s.serve()
}

// finished notes that the handler has returned, and reports whether it was left behind.
func (s *servedStream) finished() (left bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = true
	return s.left
}

// cut ends RecvMsg and SendMsg. It reports whether the handler is in one of them, and is left
// behind.
func (s *servedStream) cut() (left bool) {
	s.over.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = !s.done && s.inside.Load() != 0
	return s.left
}

// mostlyWaited reports whether the handler was in RecvMsg and SendMsg for most of its time: then
// a client that is slow, a little at a time, is why the limit fired.
func (s *servedStream) mostlyWaited() bool {
	return 2*time.Duration(s.waited.Load()) > time.Since(s.began)
}

// detach takes away the call, which may serve another stream next.
func (s *servedStream) detach() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.call = nil
}

// Context ends with the limits on the stream.
func (s *servedStream) Context() context.Context { return s.ctx }

// SendHeader sends the header.
func (s *servedStream) SendHeader(md metadata.MD) error {
	s.begin()
	return s.ServerStream.SendHeader(md)
}

// SendMsg sends a message, and the header before the first.
func (s *servedStream) SendMsg(m any) error {
	s.begin()
	err := s.within(s.ServerStream.SendMsg, m)
	if err == nil {
		s.of.received.Add(1)
	}
	return err
}

// RecvMsg receives a message.
func (s *servedStream) RecvMsg(m any) error {
	err := s.within(s.ServerStream.RecvMsg, m)
	switch {
	case err == nil:
		s.of.sent.Add(1)
	case errors.Is(err, io.EOF):
		s.of.drained.Store(true)
	case s.ctx.Err() == nil:
		s.of.bad.Store(true)
	}
	return err
}

// within calls do, which ends with a limit of ours only if the stream does.
func (s *servedStream) within(do func(m any) error, m any) error {
	if !s.limited {
		return do(m)
	}
	s.inside.Add(1)
	defer s.inside.Add(-1)
	if s.over.Load() {
		return s.limitError()
	}
	began := time.Now()
	err := do(m)
	s.waited.Add(int64(time.Since(began)))
	if err != nil && s.over.Load() {
		return s.limitError()
	}
	return err
}

// limitError is what a limit makes of a message.
func (s *servedStream) limitError() error { return status.FromContextError(s.ctx.Err()).Err() }

// begin ends the limits that hold until the response headers.
func (s *servedStream) begin() {
	if !s.head.CompareAndSwap(false, true) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.call != nil {
		s.call.LiftPerTry()
	}
}
