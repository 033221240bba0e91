package pilliongrpc

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion"
)

// UnaryServer gives an interceptor that serves unary calls under the policies of the
// upstream that r finds. It is an error where r is nil, and where the policies send calls
// again, which a server cannot.
//
// Limits and a breaker shed load: what they refuse is answered UNAVAILABLE, with
// x-envoy-overloaded in its trailers, before the handler is called. Deadlines reach the
// handler as the end of its context: those of a timeout policy, and what the client said in
// grpc-timeout or x-envoy-expected-rq-timeout-ms, whichever comes first; a handler that does
// not heed it is waited for, and its late answer is dropped for DEADLINE_EXCEEDED. A client
// that has gone is nobody's failure. The codes that stand for a 5xx count as failures:
// UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
//
// A panic of the handler is answered INTERNAL, without its value, and told to the
// policies as a [*pillion.PanicError].
func UnaryServer(r pillion.Resolver) (grpc.UnaryServerInterceptor, error) {
	find, err := serverFinder(r)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		x := &unaryServer{server: server{ctx: ctx, method: info.FullMethod}, req: req, handler: handler}
		x.sent.Store(1)
		if err := x.serve(find, x); err != nil { //nolint:contextcheck // x has it
			return nil, err
		}
		return x.reply, nil
	}, nil
}

// StreamServer gives an interceptor that serves streams under the policies of the
// upstream that r finds, as [UnaryServer] does calls. Limits of one try, and on silence,
// hold until the first message or header is sent; a total one to the end.
func StreamServer(r pillion.Resolver) (grpc.StreamServerInterceptor, error) {
	find, err := serverFinder(r)
	if err != nil {
		return nil, err
	}
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		x := &streamServer{server: server{ctx: stream.Context(), method: info.FullMethod}, srv: srv, stream: stream, handler: handler}
		return x.serve(find, x)
	}, nil
}

// serverFinder is finder for a server.
func serverFinder(r pillion.Resolver) (func(ctx context.Context, t pillion.Target) (*pillion.Upstream, error), error) {
	u, fixed := r.(*pillion.Upstream)
	switch {
	case r == nil || fixed && u == nil:
		return nil, errors.New("pilliongrpc: nil resolver")
	case fixed:
		if err := servable(u); err != nil {
			return nil, err
		}
		return func(context.Context, pillion.Target) (*pillion.Upstream, error) { return u, nil }, nil
	}
	return func(ctx context.Context, t pillion.Target) (*pillion.Upstream, error) {
		header := func(name string) []string { return []string{t.Header(name)} }
		u, err := resolve(ctx, r, t.Request, header, error.Error)
		if err != nil {
			return nil, err
		}
		if err := servable(u); err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
		return u, nil
	}, nil
}

func servable(u *pillion.Upstream) error {
	if u.Repeats() {
		return fmt.Errorf("upstream %q: pilliongrpc: a request that is being served cannot be sent again: leave out retry and hedge", u.Name())
	}
	return nil
}

// server is what unary calls and streams have in common: the side that serves.
type server struct {
	ctx      context.Context //nolint:containedctx // the server's, for the length of the call
	method   string
	md       metadata.MD // the request's as the handler sees it; nil while it is the server's
	sent     atomic.Uint64
	received atomic.Uint64
	panicked bool
}

// serve serves x, which s is a part of.
func (s *server) serve(find func(context.Context, pillion.Target) (*pillion.Upstream, error), x pillion.Exchange) error {
	u, err := find(s.ctx, pillion.Target{Request: s.Request(), Header: func(name string) string { return first(s.RequestHeader(name)) }})
	if err != nil {
		return err
	}
	ctx := s.ctx
	if limit, ok := pillion.ExpectedTimeout(first(s.RequestHeader("x-envoy-expected-rq-timeout-ms"))); ok {
		limited, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		ctx = limited
	}
	u.InvokeUnary(ctx, x, func(o *pillion.Outcome) { err = s.settle(u, o) }) // also a stream is over when the handler returns
	return err
}

// settle is what the client is told.
func (s *server) settle(u *pillion.Upstream, o *pillion.Outcome) error {
	if s.panicked {
		return status.Error(codes.Internal, "the handler panicked")
	}
	if o.Err != nil {
		s.tellOverloaded(u, o)
	}
	return callError(u, o, false)
}

// tellOverloaded marks a refusal as Envoy does.
func (s *server) tellOverloaded(u *pillion.Upstream, o *pillion.Outcome) {
	if o.Detail.Overloaded() && !u.HTTP().SuppressEnvoyHeaders {
		// An error means that there is no stream any more to say it on.
		_ = grpc.SetTrailer(s.ctx, metadata.Pairs("x-envoy-overloaded", "true"))
	}
}

// incoming is ctx with the metadata that the handler is to see.
func (s *server) incoming(ctx context.Context, c *pillion.Call) context.Context {
	c.Consume()
	if s.md == nil {
		return ctx
	}
	return metadata.NewIncomingContext(ctx, s.md)
}

// caught tells of a panic of the handler. It is deferred directly.
func (s *server) caught(o *pillion.Outcome, returned *bool) {
	if *returned {
		return
	}
	if p := recover(); p != nil {
		s.panicked = true
		o.Err = &pillion.PanicError{Value: p, Stack: debug.Stack()}
		o.Is = pillion.Failed
		o.Code, o.Detail = int(codes.Internal), pillion.ViaUpstream
	}
}

// Request describes the call.
func (s *server) Request() pillion.Request {
	return pillion.Request{Protocol: "grpc", Method: s.method, Authority: first(s.RequestHeader(":authority")), Path: s.method}
}

// RequestHeader reads the client's metadata.
func (s *server) RequestHeader(name string) []string {
	return metadata.ValueFromIncomingContext(s.ctx, name)
}

// Header copies the client's metadata for the handler.
func (s *server) Header(*pillion.Call) pillion.Header {
	if s.md == nil {
		if s.md, _ = metadata.FromIncomingContext(s.ctx); s.md == nil { // a copy
			s.md = metadata.MD{}
		}
	}
	return header(s.md)
}

// Messages counts the client's requests and the handler's answers.
func (s *server) Messages() (sent, received uint64) { return s.sent.Load(), s.received.Load() }

// Explain takes the handler's status for the answer that it is.
func (s *server) Explain(_ *pillion.Call, o *pillion.Outcome, err error) {
	code := codeOf(err)
	o.Err, o.Code, o.Detail = err, int(code), pillion.ViaUpstream
	o.Is |= failure(code)
}

// CausedByCaller reports whether a limit that fired is the client's doing: it named the
// deadline itself.
func (s *server) CausedByCaller(scope pillion.Scope) bool { return scope == pillion.ScopeCaller }

// codeOf is the code that gRPC answers for a handler's error.
func codeOf(err error) codes.Code {
	if s, ok := status.FromError(err); ok {
		return s.Code()
	}
	return status.FromContextError(err).Code()
}

// Discard has nothing to do: an answer is never open.
func (s *server) Discard(*pillion.Call, *pillion.Outcome) {}

// NewCall is never asked for: nothing is sent again.
func (s *server) NewCall(*pillion.Call) *pillion.Call { return &pillion.Call{} }

// ResponseHeader is empty: what a handler has set cannot be read.
func (s *server) ResponseHeader(*pillion.Outcome, string) []string { return nil }

// Idempotent and Replayable are for who sends again.
func (s *server) Idempotent() bool { return false }

// Replayable is false: a request is served once.
func (s *server) Replayable() bool { return false }

// unaryServer is a unary call that is served.
type unaryServer struct {
	server
	req     any
	reply   any
	handler grpc.UnaryHandler
}

// Unary is true: an answer comes whole.
func (x *unaryServer) Unary() bool { return true }

// Try has the handler serve the call.
func (x *unaryServer) Try(ctx context.Context, c *pillion.Call, o *pillion.Outcome) {
	returned := false
	defer x.caught(o, &returned)
	reply, err := x.handler(x.incoming(ctx, c), x.req)
	returned = true
	if err != nil {
		o.Err = ended(ctx, err)
		return
	}
	x.reply = reply
	x.received.Store(1)
	o.Detail = pillion.ViaUpstream
}

// streamServer is a stream that is served.
type streamServer struct {
	server
	srv     any
	stream  grpc.ServerStream
	handler grpc.StreamHandler
}

// Unary is false: an answer has a head, and goes on.
func (x *streamServer) Unary() bool { return false }

// Try has the handler serve the stream.
func (x *streamServer) Try(ctx context.Context, c *pillion.Call, o *pillion.Outcome) {
	returned := false
	defer x.caught(o, &returned)
	s := &servedStream{ServerStream: x.stream, of: x, ctx: x.incoming(ctx, c), call: c}
	defer s.head.Store(true) // the call must not be touched any more
	err := x.handler(x.srv, s)
	returned = true
	if err != nil {
		o.Err = ended(ctx, err)
		return
	}
	o.Detail = pillion.ViaUpstream
}

// servedStream is the stream that a handler sees.
type servedStream struct {
	grpc.ServerStream
	of   *streamServer
	ctx  context.Context //nolint:containedctx // a stream has one
	call *pillion.Call
	head atomic.Bool // it has been sent
}

// Context ends with the limits on the stream.
func (s *servedStream) Context() context.Context { return s.ctx }

// SendHeader sends the head.
func (s *servedStream) SendHeader(md metadata.MD) error {
	s.answered()
	return s.ServerStream.SendHeader(md)
}

// SendMsg sends a message, and the head before the first.
func (s *servedStream) SendMsg(m any) error {
	s.answered()
	err := s.ServerStream.SendMsg(m)
	if err == nil {
		s.of.received.Add(1)
	}
	return err
}

// RecvMsg receives a message.
func (s *servedStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err == nil {
		s.of.sent.Add(1)
	}
	return err
}

// answered ends the limits that hold until the head.
func (s *servedStream) answered() {
	if s.head.CompareAndSwap(false, true) {
		s.call.LiftTry()
	}
}
