package pilliongrpc

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion"
)

// DialOptions gives the options with which a connection's calls and streams are put
// under the policies of the upstreams that r finds, mostly one *Upstream. It panics where r
// is nil.
//
//	conn, err := grpc.NewClient(addr, append(pilliongrpc.DialOptions(recipes), creds)...)
//
// They are the interceptors of [Unary] and [Stream], chained, so that other people's
// compose with them: those given before see a call once, those given after see every
// attempt. And they turn off the retries that a service configuration asks gRPC for
// ([grpc.WithDisableRetry]), which would multiply with those of the policies. What gRPC does
// by itself with a request that certainly was not worked on, a transparent retry, it still
// does, unseen.
func DialOptions(r pillion.Resolver) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(Unary(r)),
		grpc.WithChainStreamInterceptor(Stream(r)),
		grpc.WithDisableRetry(),
	}
}

// ServerOptions gives the options with which the calls and streams that a server
// serves are put under the policies of the upstream that r finds, whose name is then that of
// the service itself. The errors are those of [UnaryServer].
//
//	options, err := pilliongrpc.ServerOptions(front)
//	server := grpc.NewServer(options...)
func ServerOptions(r pillion.Resolver) ([]grpc.ServerOption, error) {
	unary, err := UnaryServer(r)
	if err != nil {
		return nil, err
	}
	stream, err := StreamServer(r)
	if err != nil {
		return nil, err
	}
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(unary), grpc.ChainStreamInterceptor(stream)}, nil
}

// find gives the upstream of a call, or the error to give back.
type find func(x *client) (*pillion.Upstream, error)

// finder makes r quick to ask.
func finder(r pillion.Resolver) find {
	u, fixed := r.(*pillion.Upstream)
	switch {
	case r == nil || fixed && u == nil:
		panic("pilliongrpc: nil resolver")
	case fixed:
		return func(*client) (*pillion.Upstream, error) { return u, nil }
	}
	return func(x *client) (*pillion.Upstream, error) {
		return resolve(x.ctx, r, pillion.Target{Request: x.Request(), Header: func(name string) string { return first(x.RequestHeader(name)) }})
	}
}

// resolve asks r. An error without a status becomes Unavailable: the library does not
// know where the call should go.
func resolve(ctx context.Context, r pillion.Resolver, t pillion.Target) (*pillion.Upstream, error) {
	u, err := r.Resolve(ctx, t)
	if err == nil && u == nil {
		err = errNoUpstream
	}
	if err == nil {
		return u, nil
	}
	if _, ok := status.FromError(err); ok {
		return nil, err
	}
	return nil, &Error{Err: err, status: status.New(codes.Unavailable, err.Error())}
}

var errNoUpstream = errors.New("pilliongrpc: the resolver gave neither an upstream nor an error")
