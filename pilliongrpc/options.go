package pilliongrpc

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/policy"
)

// DialOptions returns dial options that apply the policies of the upstreams that r finds, usually
// one *Upstream, to a connection's calls and streams. It panics if r is nil.
//
//	conn, err := grpc.NewClient(addr, append(pilliongrpc.DialOptions(recipes), creds)...)
//
// The options chain the interceptors of [UnaryClientInterceptor] and [StreamClientInterceptor].
// Interceptors before them see each call once, interceptors after them see each attempt. A
// [stats.Handler] observes response headers and trailers on the wire. [grpc.WithDisableRetry] turns
// off the retries of a service configuration, which would multiply with those of the policies. gRPC
// still makes transparent retries of requests that the server certainly did not process; policies do
// not see them.
//
// If the upstream has a cluster (package cluster), or r is [Clustered], calls go to the host that
// the cluster picks for each attempt, not to those of the target: DialOptions installs a resolver and
// a balancer for targets with the schemes passthrough, dns and pillion. The target then only
// determines the authority, and a service configuration must not choose another balancer. A
// connection to a host is made when a call first needs it; the cluster's ConnectTimeout, ejections,
// limits and statistics apply. TLS is that of the credentials, not that of the cluster.
//
//	conn, err := grpc.NewClient("passthrough:///recipes", append(pilliongrpc.DialOptions(recipes), creds)...)
func DialOptions(r pillion.Resolver) []grpc.DialOption {
	found := finder(r)
	hosted := clustered(r)
	options := []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(unary(found, hosted)),
		grpc.WithChainStreamInterceptor(stream(found, hosted)),
		grpc.WithStatsHandler(wire{}),
		grpc.WithDisableRetry(),
	}
	if hosted {
		options = append(options, hostOptions(r)...)
	}
	return options
}

// ServerOptions returns server options that apply the policies of the upstream that r finds to the
// calls and streams that a server serves. The upstream's name is the name of the service itself.
// The errors are those of [UnaryServerInterceptor].
//
//	options, err := pilliongrpc.ServerOptions(front)
//	server := grpc.NewServer(options...)
func ServerOptions(r pillion.Resolver) ([]grpc.ServerOption, error) {
	unary, err := UnaryServerInterceptor(r)
	if err != nil {
		return nil, err
	}
	stream, err := StreamServerInterceptor(r)
	if err != nil {
		return nil, err
	}
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(unary), grpc.ChainStreamInterceptor(stream)}, nil
}

// find returns the upstream of a call, or the error to return.
type find func(x *client) (*pillion.Upstream, error)

// finder returns a find for r. It resolves a fixed upstream only once.
func finder(r pillion.Resolver) find {
	u, fixed := r.(*pillion.Upstream)
	switch {
	case r == nil || fixed && u == nil:
		panic("pilliongrpc: nil resolver; pass an *pillion.Upstream, or a Resolver that finds one")
	case fixed:
		return func(*client) (*pillion.Upstream, error) { return u, nil }
	}
	return func(x *client) (*pillion.Upstream, error) {
		return resolve(x.ctx, r, x.Request(), x.RequestHeader, error.Error)
	}
}

// resolve calls r. An error without a status becomes UNAVAILABLE, with the result of text as its
// text.
func resolve(ctx context.Context, r pillion.Resolver, request policy.Request,
	header func(name string) []string, text func(error) string,
) (*pillion.Upstream, error) {
	u, err := r.Resolve(ctx, pillion.Target{Request: request, Header: func(name string) string { return first(header(name)) }})
	if err == nil && u == nil {
		err = errNoUpstream
	}
	if err == nil {
		return u, nil
	}
	if _, ok := status.FromError(err); ok {
		return nil, err
	}
	return nil, &Error{Err: err, status: status.New(codes.Unavailable, text(err))}
}

var (
	errNoUpstream = errors.New("pilliongrpc: the resolver returned neither an upstream nor an error")
	errUnwound    = status.Error(codes.Internal, "pilliongrpc: the call panicked or ended its goroutine")
)

// check returns an error if an argument is missing, which gRPC itself always passes.
func check(ctx context.Context, method, what string, missing bool) error {
	switch {
	case ctx == nil:
		return status.Error(codes.Internal, "pilliongrpc: nil context")
	case method == "":
		return status.Error(codes.Internal, "pilliongrpc: no method; pass /package.Service/Method")
	case missing:
		return status.Error(codes.Internal, "pilliongrpc: nil "+what)
	}
	return nil
}
