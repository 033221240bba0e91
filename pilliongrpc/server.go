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

// UnaryServerInterceptor returns an interceptor that applies the policies of the upstream that r finds to
// unary calls of a server. It returns an error if r is nil, or if the policies retry or hedge,
// which a server cannot do.
//
// Limits and a breaker shed load: a call that they refuse ends with UNAVAILABLE, and
// x-envoy-overloaded in its trailers, and the handler is not called. The handler's context ends at
// the first of the timeout policy's deadlines and the client's, from grpc-timeout or
// x-envoy-expected-rq-timeout-ms. The interceptor waits for a handler that ignores the end of its
// context, and replaces its late reply by DEADLINE_EXCEEDED.
//
// What the client causes does not count as a failure: a disconnect, the end of the client's
// deadline, a call of a method that is not implemented. A handler's status counts as a failure if
// its code corresponds to a 5xx: UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS.
//
// A status that the handler returned is sent unchanged. In any other case the client receives the
// text of Envoy's local reply, which reveals nothing about the service or other clients; for a panic
// it receives INTERNAL without the panic's value. Interceptors before this one find the cause with
// errors.As. Policies receive a panic as a [*pillion.PanicError].
func UnaryServerInterceptor(r pillion.Resolver) (grpc.UnaryServerInterceptor, error) {
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
		if err := x.serve(find, x); err != nil {
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

// serverFind returns the upstream of a served call, or the error to return.
type serverFind func(s *server) (*pillion.Upstream, error)

// serverFinder returns a serverFind for r. It resolves a fixed upstream only once.
func serverFinder(r pillion.Resolver) (serverFind, error) {
	u, fixed := r.(*pillion.Upstream)
	switch {
	case r == nil || fixed && u == nil:
		return nil, errors.New("pilliongrpc: nil resolver; pass an *pillion.Upstream, or a Resolver that finds one")
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
		return fmt.Errorf("upstream %q: pilliongrpc: a server cannot retry or hedge the calls that it serves; leave out retry and hedge", u.Name())
	}
	if u.Chain().Carrier() != nil {
		return fmt.Errorf("upstream %q: pilliongrpc: a request that is being served goes to no host of a cluster: leave out cluster", u.Name())
	}
	return nil
}

// server is the common part of unary calls and streams of a server.
type server struct {
	ctx      context.Context //nolint:containedctx // gRPC's, for the duration of the call
	method   string
	md       metadata.MD // the request's, for the handler; nil while unchanged
	sent     atomic.Uint64
	received atomic.Uint64
	panicked bool
	upstream *pillion.Upstream
	frame    policy.Frame
}

// serve serves x, which contains s.
func (s *server) serve(find serverFind, x policy.Exchange) (err error) {
	defer func() {
		if p := recover(); p != nil { // a policy panicked: gRPC would end the process
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
	return s.settle(u, s.frame.Invoke(s.ctx)) // a stream, too, ends when the handler returns
}

// settle returns the error that the client receives.
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
	case o.Detail == envoy.ViaUpstream: // the handler's error
		return o.Err
	}
	return serverError(s.upstream, o)
}

var errPanicked = status.Error(codes.Internal, "the handler panicked")

// tellOverloaded marks a refusal as Envoy does.
func (s *server) tellOverloaded(u *pillion.Upstream, o *policy.Outcome) {
	if o.Detail.Overloaded() && !u.Options().SuppressEnvoyHeaders {
		// An error means that the stream has ended.
		_ = grpc.SetTrailer(s.ctx, metadata.Pairs(envoy.OverloadedHeader, "true"))
	}
}

// incoming returns ctx with the request metadata for the handler.
func (s *server) incoming(ctx context.Context, c *policy.Attempt) context.Context {
	c.ConsumeHeaders()
	if s.md == nil {
		return ctx
	}
	return metadata.NewIncomingContext(ctx, s.md)
}

// returned records in o the result of a handler that returned.
func returned(ctx context.Context, o *policy.Outcome, err error) {
	if err != nil {
		o.Err = ended(ctx, err)
		return
	}
	o.Detail = envoy.ViaUpstream
}

// threw records in o that the handler panicked.
func (s *server) threw(o *policy.Outcome, p *pillion.PanicError) {
	s.panicked = true
	o.Err, o.Conditions = p, policy.Failed
	o.Code, o.Detail = int(codes.Internal), envoy.ViaUpstream
}

// Request describes the call.
func (s *server) Request() policy.Request {
	return policy.Request{Protocol: policy.ProtocolGRPC, Method: s.method, Authority: first(s.RequestHeader(":authority")), Path: s.method}
}

// RequestHeader returns values of the client's metadata.
func (s *server) RequestHeader(name string) []string {
	return metadata.ValueFromIncomingContext(s.ctx, name)
}

// Header returns the handler's copy of the client's metadata.
func (s *server) Header(*policy.Attempt) policy.Header {
	if s.md == nil {
		if s.md, _ = metadata.FromIncomingContext(s.ctx); s.md == nil { // a copy
			s.md = metadata.MD{}
		}
	}
	return header(s.md)
}

// Messages returns the numbers of the client's and of the handler's messages.
func (s *server) Messages() (sent, received uint64) { return s.sent.Load(), s.received.Load() }

// Classify classifies the handler's status as a response.
func (s *server) Classify(_ *policy.Attempt, o *policy.Outcome, err error) {
	code := codeOf(err)
	o.Err, o.Code, o.Detail = err, int(code), envoy.ViaUpstream
	if code != codes.Unimplemented { // caused by the client
		o.Conditions |= failure(code)
	}
}

// CausedByCaller reports whether the client caused a timeout: it set the deadline.
func (s *server) CausedByCaller(scope policy.Scope) bool { return scope == policy.ScopeCaller }

// codeOf returns the code that gRPC sends for a handler's error.
func codeOf(err error) codes.Code {
	if s, ok := status.FromError(err); ok {
		return s.Code()
	}
	return status.FromContextError(err).Code()
}

// ResponseHeader returns nil: the metadata that a handler sets cannot be read.
func (s *server) ResponseHeader(*policy.Outcome, string) []string { return nil }

// GRPCStatus returns the code that the client receives.
func (s *server) GRPCStatus(o *policy.Outcome) int {
	if err := s.result(o); err != nil {
		return int(codeOf(err))
	}
	return int(codes.OK)
}

// unaryServer is a served unary call.
type unaryServer struct {
	server
	req     any
	reply   any
	handler grpc.UnaryHandler
}

// unaryServer implements these interfaces, which the engine finds with type assertions.
var _ interface {
	policy.Exchange
	policy.Unary
	policy.Blamer
	policy.MessageCounter
	policy.GRPCCoder
} = (*unaryServer)(nil)

// Unary returns true: the response is one message.
func (x *unaryServer) Unary() bool { return true }

// Try calls the handler.
func (x *unaryServer) Try(ctx context.Context, c *policy.Attempt, o *policy.Outcome) {
	done := false
	defer func() {
		if done {
			return
		}
		if p := recover(); p != nil { // else it ended its goroutine, and no later code runs
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
