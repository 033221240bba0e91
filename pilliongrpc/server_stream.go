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

// StreamServerInterceptor returns an interceptor that applies the policies of the upstream that r finds to
// streams of a server, as [UnaryServerInterceptor] does to calls. The per-try and idle timeouts
// apply until the first message or header is sent, the total timeout to the end.
//
// If a timeout fires while the handler is in RecvMsg or SendMsg, the client is slow: the stream ends
// immediately, and RecvMsg and SendMsg return an error. For this the handler runs in a separate
// goroutine. Otherwise the interceptor waits for the handler. A timeout does not count as a failure
// if the handler was in RecvMsg or SendMsg when it fired, or for most of the time. A stream that
// ends because a message of the client cannot be received does not count as a failure either.
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

// streamServer is a served stream.
type streamServer struct {
	server
	srv     any
	stream  grpc.ServerStream
	handler grpc.StreamHandler
	bad     atomic.Bool // a message of the client could not be received
	drained atomic.Bool // the client has closed sending
	stalled bool        // a timeout fired while the handler waited for the client
	exited  bool        // the handler ended its goroutine
}

// streamServer implements these interfaces, which the engine finds with type assertions.
var _ interface {
	policy.Exchange
	policy.Blamer
	policy.MessageCounter
	policy.GRPCCoder
} = (*streamServer)(nil)

// Try calls the handler. If a timeout policy can end the stream, the handler runs in a separate
// goroutine: only the return of the interceptor ends the stream while the handler uses it.
func (x *streamServer) Try(ctx context.Context, c *policy.Attempt, o *policy.Outcome) {
	s := &servedStream{ServerStream: x.stream, of: x, call: c, limited: ctx.Done() != x.ctx.Done(), began: time.Now()}
	s.ctx = x.incoming(ctx, c)
	defer s.detach()
	if !s.limited {
		x.settle(ctx, o, s.serve())
		return
	}
	done := make(chan result, 1)
	go s.serveBeside(done)
	r, ok := x.wait(ctx, s, done)
	if !ok {
		o.Err = ctx.Err()
		return
	}
	x.settle(ctx, o, r)
}

// wait waits for the handler. It is not ok if a timeout fired while the handler waited for the
// client: the handler is then left behind, and the end of the stream wakes it.
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

// settle records the result of the handler in o.
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

// Classify classifies the handler's status as a response. An error that the client's messages, or
// missing messages, caused is no failure.
func (x *streamServer) Classify(c *policy.Attempt, o *policy.Outcome, err error) {
	x.server.Classify(c, o, err)
	if x.bad.Load() || x.drained.Load() && errors.Is(err, io.EOF) {
		o.Conditions &^= policy.Failed
	}
}

// CausedByCaller reports whether the client caused a timeout: it set the deadline, or the handler
// waited for it.
func (x *streamServer) CausedByCaller(scope policy.Scope) bool {
	return x.stalled || x.server.CausedByCaller(scope)
}

// result is the result of a handler. A handler that neither returned nor panicked ended its
// goroutine.
type result struct {
	err      error
	returned bool
	panic    *pillion.PanicError
}

// servedStream is the stream that a handler receives.
type servedStream struct {
	grpc.ServerStream
	of      *streamServer
	ctx     context.Context //nolint:containedctx // a stream has one
	limited bool            // a timeout policy can end it
	began   time.Time
	head    atomic.Bool  // response headers were sent
	inside  atomic.Int32 // active calls of RecvMsg and SendMsg, if limited
	waited  atomic.Int64 // nanoseconds of completed calls of RecvMsg and SendMsg
	over    atomic.Bool  // a timeout has fired

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
				report.Panic("the handler of a stream that a timeout has ended", p)
			}
		}
	}()
	r.err = s.of.handler(s.of.srv, s)
	r.returned = true
	return r
}

// serveBeside runs the handler and sends its result. It runs in a separate goroutine.
func (s *servedStream) serveBeside(done chan<- result) {
	var r result
	defer func() { // also when the handler ends the goroutine
		s.finished()
		done <- r
	}()
	r = s.serve()
}

// finished records that the handler has returned, and reports whether it was left behind.
func (s *servedStream) finished() (left bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = true
	return s.left
}

// cut ends RecvMsg and SendMsg. It reports whether the handler is in one of them, and is therefore
// left behind.
func (s *servedStream) cut() (left bool) {
	s.over.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = !s.done && s.inside.Load() != 0
	return s.left
}

// mostlyWaited reports whether the handler was in RecvMsg and SendMsg for most of its time: then a
// slow client is the reason why the timeout fired.
func (s *servedStream) mostlyWaited() bool {
	return 2*time.Duration(s.waited.Load()) > time.Since(s.began)
}

// detach detaches the Call, which another stream may reuse.
func (s *servedStream) detach() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.call = nil
}

// Context returns the stream's context, which a timeout ends.
func (s *servedStream) Context() context.Context { return s.ctx }

// SendHeader sends the response headers.
func (s *servedStream) SendHeader(md metadata.MD) error {
	s.begin()
	return s.ServerStream.SendHeader(md)
}

// SendMsg sends a message. The first call also sends the response headers.
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

// within calls do. A timeout ends do only by the end of the stream.
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

// limitError returns the error of RecvMsg and SendMsg after a timeout.
func (s *servedStream) limitError() error { return status.FromContextError(s.ctx.Err()).Err() }

// begin ends the timeouts that apply until the response headers.
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
