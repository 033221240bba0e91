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
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/internal/report"
	"github.com/pillion-go/pillion/policy"
)

// UnaryServer returns an interceptor that serves unary calls under the policies of the
// upstream that r finds. It is an error if r is nil, and if the policies retry or hedge, which a
// server cannot.
//
// Limits and a breaker shed load: what they refuse ends with UNAVAILABLE, and x-envoy-overloaded
// in its trailers, before the handler is called. Deadlines reach the handler as the end of its
// context: those of a timeout policy, and what the client named in grpc-timeout or
// x-envoy-expected-rq-timeout-ms, whichever comes first. A handler that ignores the end of its
// context is waited for, and its late reply is dropped for DEADLINE_EXCEEDED.
//
// What the client causes is no failure: that it disconnects, that a deadline passes that it
// named, that it calls a method that is not implemented. The codes that stand for a 5xx count as
// failures: UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS.
//
// The client gets a status that the handler returned as it is. In every other case it gets the
// text of Envoy's local reply, which says nothing of the service or of other clients; for a
// panic INTERNAL, without its value. Interceptors before this one find the cause with errors.As,
// and policies get a panic as a [*pillion.PanicError].
func UnaryServer(r pillion.Resolver) (grpc.UnaryServerInterceptor, error) {
	find, err := serverFinder(r)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if err := check(ctx, fullMethod(info), "handler", handler == nil); err != nil {
			return nil, err
		}
		x := &unaryServer{server: server{ctx: ctx, method: info.FullMethod}, req: req, handler: handler}
		x.sent.Store(1)
		if err := x.serve(find, x); err != nil { //nolint:contextcheck // x has it
			return nil, err
		}
		return x.reply, nil
	}, nil
}

func fullMethod(info *grpc.UnaryServerInfo) string {
	if info == nil {
		return ""
	}
	return info.FullMethod
}

// serverFind returns the upstream of a call that is served, or the error to return.
type serverFind func(s *server) (*pillion.Upstream, error)

// serverFinder is finder for a server.
func serverFinder(r pillion.Resolver) (serverFind, error) {
	u, fixed := r.(*pillion.Upstream)
	switch {
	case r == nil || fixed && u == nil:
		return nil, errors.New("pilliongrpc: nil resolver: pass an *pillion.Upstream, or a Resolver that finds one")
	case fixed:
		if err := servable(u); err != nil {
			return nil, err
		}
		return func(*server) (*pillion.Upstream, error) { return u, nil }, nil
	}
	return func(s *server) (*pillion.Upstream, error) {
		u, err := resolve(s.ctx, r, s.Request(), s.RequestHeader, func(error) string { return "no upstream" })
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
	if u.Chain().Repeats() {
		return fmt.Errorf("upstream %q: pilliongrpc: a request that is being served cannot be sent again: leave out retry and hedge", u.Name())
	}
	if u.Chain().Carrier() != nil {
		return fmt.Errorf("upstream %q: pilliongrpc: a request that is being served goes to no host of a cluster: leave out cluster", u.Name())
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
	upstream *pillion.Upstream
	frame    policy.Frame
}

// serve serves x, which s is a part of.
func (s *server) serve(find serverFind, x policy.Exchange) (err error) {
	defer func() {
		if p := recover(); p != nil { // of a policy: gRPC would end the process
			report.Panic("a policy of a served call", p)
			err = status.Error(codes.Internal, "a policy panicked")
		}
	}()
	u, err := find(s)
	if err != nil {
		return err
	}
	s.upstream = u
	s.frame.Init(u.Chain(), x)
	if limit, ok := envoy.ExpectedTimeout(first(s.RequestHeader(envoy.ExpectedTimeoutHeader))); ok {
		s.frame.First().LimitClient(limit)
	}
	return s.settle(u, s.frame.Invoke(s.ctx)) // a stream, too, is over when the handler returns
}

// settle returns what the client gets.
func (s *server) settle(u *pillion.Upstream, o *policy.Outcome) error {
	if !s.panicked && o.Err != nil && o.Detail != envoy.ViaUpstream {
		s.tellOverloaded(u, o)
	}
	return s.result(o)
}

// result returns the error of the call.
func (s *server) result(o *policy.Outcome) error {
	switch {
	case s.panicked:
		return errPanicked
	case o.Err == nil:
		return nil
	case o.Detail == envoy.ViaUpstream: // the handler's own
		return o.Err
	}
	return serverError(s.upstream, o)
}

var errPanicked = status.Error(codes.Internal, "the handler panicked")

// tellOverloaded marks a refusal as Envoy does.
func (s *server) tellOverloaded(u *pillion.Upstream, o *policy.Outcome) {
	if o.Detail.Overloaded() && !u.Options().SuppressEnvoyHeaders {
		// An error means that there is no stream any more to say it on.
		_ = grpc.SetTrailer(s.ctx, metadata.Pairs(envoy.OverloadedHeader, "true"))
	}
}

// incoming is ctx with the metadata that the handler is to see.
func (s *server) incoming(ctx context.Context, c *policy.Attempt) context.Context {
	c.ConsumeHeaders()
	if s.md == nil {
		return ctx
	}
	return metadata.NewIncomingContext(ctx, s.md)
}

// returned says in o what came of a handler that did not panic.
func returned(ctx context.Context, o *policy.Outcome, err error) {
	if err != nil {
		o.Err = ended(ctx, err)
		return
	}
	o.Detail = envoy.ViaUpstream
}

// threw says in o that the handler panicked.
func (s *server) threw(o *policy.Outcome, p *pillion.PanicError) {
	s.panicked = true
	o.Err, o.Is = p, policy.Failed
	o.Code, o.Detail = int(codes.Internal), envoy.ViaUpstream
}

// Request describes the call.
func (s *server) Request() policy.Request {
	return policy.Request{Protocol: policy.ProtocolGRPC, Method: s.method, Authority: first(s.RequestHeader(":authority")), Path: s.method}
}

// RequestHeader reads the client's metadata.
func (s *server) RequestHeader(name string) []string {
	return metadata.ValueFromIncomingContext(s.ctx, name)
}

// Header copies the client's metadata for the handler.
func (s *server) Header(*policy.Attempt) policy.Header {
	if s.md == nil {
		if s.md, _ = metadata.FromIncomingContext(s.ctx); s.md == nil { // a copy
			s.md = metadata.MD{}
		}
	}
	return header(s.md)
}

// Messages counts the client's messages and the handler's.
func (s *server) Messages() (sent, received uint64) { return s.sent.Load(), s.received.Load() }

// Explain takes the handler's status for the response that it is.
func (s *server) Explain(_ *policy.Attempt, o *policy.Outcome, err error) {
	code := codeOf(err)
	o.Err, o.Code, o.Detail = err, int(code), envoy.ViaUpstream
	if code != codes.Unimplemented { // the client called what is not there
		o.Is |= failure(code)
	}
}

// CausedByCaller reports whether a limit that fired is the client's doing: it named the
// deadline itself.
func (s *server) CausedByCaller(scope policy.Scope) bool { return scope == policy.ScopeCaller }

// codeOf is the code that gRPC sends for a handler's error.
func codeOf(err error) codes.Code {
	if s, ok := status.FromError(err); ok {
		return s.Code()
	}
	return status.FromContextError(err).Code()
}

// ResponseHeader is empty: what a handler has set cannot be read.
func (s *server) ResponseHeader(*policy.Outcome, string) []string { return nil }

// GRPCStatus is the code that the client gets.
func (s *server) GRPCStatus(o *policy.Outcome) int {
	if err := s.result(o); err != nil {
		return int(codeOf(err))
	}
	return int(codes.OK)
}

// unaryServer is a unary call that is served.
type unaryServer struct {
	server
	req     any
	reply   any
	handler grpc.UnaryHandler
}

// unaryServer implements these. They are found by their methods.
var _ interface {
	policy.Exchange
	policy.Unary
	policy.Blamer
	policy.MessageCounter
	policy.GRPCCoder
} = (*unaryServer)(nil)

// Unary is true: a response comes whole.
func (x *unaryServer) Unary() bool { return true }

// Try has the handler serve the call.
func (x *unaryServer) Try(ctx context.Context, c *policy.Attempt, o *policy.Outcome) {
	done := false
	defer func() {
		if done {
			return
		}
		if p := recover(); p != nil { // else it ended its goroutine, and nothing that follows runs
			x.threw(o, &pillion.PanicError{Value: p, Stack: debug.Stack()})
		}
	}()
	reply, err := x.handler(x.incoming(ctx, c), x.req)
	done = true
	if returned(ctx, o, err); err == nil {
		x.reply = reply
		x.received.Store(1)
	}
}
