package pilliongrpc_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/cluster"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/pilliongrpc"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// serveHealth serves gRPC's health service in memory, and returns a connection to it.
func serveHealth(dial []grpc.DialOption, options ...grpc.ServerOption) (*grpc.ClientConn, func(), error) {
	l := bufconn.Listen(1 << 16)
	server := grpc.NewServer(options...)
	healthpb.RegisterHealthServer(server, health.NewServer())
	done := make(chan error)
	go func() { done <- server.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///recipes", append(dial, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))...)
	return conn, func() { _ = conn.Close(); server.Stop(); <-done }, err
}

func ExampleDialOptions() {
	recipes, err := pillion.New("recipes",
		timeout.Config{Total: 2 * time.Second, PerTry: 300 * time.Millisecond},
		retry.Config{On: "unavailable,reset,connect-failure", NumRetries: 2},
		limits.Config{MaxRequests: 200},
		breaker.Config{},
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	failed := false
	failOnce := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if !failed {
			failed = true
			return nil, status.Error(codes.Unavailable, "not now")
		}
		return handler(ctx, req)
	}
	conn, stop, err := serveHealth(pilliongrpc.DialOptions(recipes), grpc.UnaryInterceptor(failOnce))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	ctx, info := pillion.WithInfo(context.Background())
	answer, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	fmt.Println(answer.GetStatus(), err, info.Attempts())
	// Output: SERVING <nil> 2
}

// With a cluster among the policies, calls go to its hosts, whatever the target.
func ExampleDialOptions_cluster() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	server := grpc.NewServer()
	healthpb.RegisterHealthServer(server, health.NewServer())
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()

	recipes, err := pillion.New("recipes", cluster.Config{Endpoints: cluster.Addresses(listener.Addr().String())})
	if err != nil {
		fmt.Println(err)
		return
	}
	conn, err := grpc.NewClient("passthrough:///recipes",
		append(pilliongrpc.DialOptions(recipes), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	answer, err := healthpb.NewHealthClient(conn).Check(context.Background(), &healthpb.HealthCheckRequest{})
	fmt.Println(answer.GetStatus(), err)
	// Output: SERVING <nil>
}

func ExampleServerOptions() {
	front, err := pillion.New("front", limits.Config{MaxRequests: limits.Zero})
	if err != nil {
		fmt.Println(err)
		return
	}
	options, err := pilliongrpc.ServerOptions(front)
	if err != nil {
		fmt.Println(err)
		return
	}
	conn, stop, err := serveHealth(nil, options...)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	_, err = healthpb.NewHealthClient(conn).Check(context.Background(), &healthpb.HealthCheckRequest{})
	fmt.Println(status.Code(err))
	// Output: Unavailable
}

func ExampleError() {
	recipes, err := pillion.New("recipes", limits.Config{MaxRequests: limits.Zero})
	if err != nil {
		fmt.Println(err)
		return
	}
	conn, stop, err := serveHealth(pilliongrpc.DialOptions(recipes))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	_, err = healthpb.NewHealthClient(conn).Check(context.Background(), &healthpb.HealthCheckRequest{})
	if refused, ok := errors.AsType[*pilliongrpc.Error](err); ok {
		fmt.Println(status.Code(err), refused.Flags, errors.Is(err, limits.ErrFull))
	}
	// Output: Unavailable UO true
}

// A program that has interceptors of its own can place those of this package among them. DialOptions
// adds a stats.Handler to them.
func ExampleUnaryClientInterceptor() {
	recipes, err := pillion.New("recipes", limits.Config{MaxRequests: limits.Zero})
	if err != nil {
		fmt.Println(err)
		return
	}
	logging := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		failed := next(ctx, method, req, reply, cc, opts...)
		fmt.Println(method, status.Code(failed))
		return failed
	}
	conn, stop, err := serveHealth([]grpc.DialOption{
		grpc.WithChainUnaryInterceptor(logging, pilliongrpc.UnaryClientInterceptor(recipes)),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	_, err = healthpb.NewHealthClient(conn).Check(context.Background(), &healthpb.HealthCheckRequest{})
	fmt.Println(errors.Is(err, limits.ErrFull))
	// Output:
	// /grpc.health.v1.Health/Check Unavailable
	// true
}

// A stream is one call: it holds its slot to its end.
func ExampleStreamClientInterceptor() {
	recipes, err := pillion.New("recipes", limits.Config{MaxRequests: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	conn, stop, err := serveHealth([]grpc.DialOption{grpc.WithStreamInterceptor(pilliongrpc.StreamClientInterceptor(recipes))})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	client := healthpb.NewHealthClient(conn)
	watch, err := client.Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		fmt.Println(err)
		return
	}
	health, err := watch.Recv()
	fmt.Println(health.GetStatus(), err)
	_, err = client.Watch(ctx, &healthpb.HealthCheckRequest{})
	fmt.Println(errors.Is(err, limits.ErrFull))
	// Output:
	// SERVING <nil>
	// true
}

// The interceptor of a server refuses calls before their handler runs. Its errors are those of an
// upstream that a server cannot use.
func ExampleUnaryServerInterceptor() {
	front, err := pillion.New("front", limits.Config{MaxRequests: limits.Zero})
	if err != nil {
		fmt.Println(err)
		return
	}
	intercept, err := pilliongrpc.UnaryServerInterceptor(front)
	if err != nil {
		fmt.Println(err)
		return
	}
	conn, stop, err := serveHealth(nil, grpc.ChainUnaryInterceptor(intercept))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	_, err = healthpb.NewHealthClient(conn).Check(context.Background(), &healthpb.HealthCheckRequest{})
	fmt.Println(status.Code(err))

	retrying, err := pillion.New("front", retry.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = pilliongrpc.UnaryServerInterceptor(retrying)
	fmt.Println(err)
	// Output:
	// Unavailable
	// upstream "front": pilliongrpc: a server cannot retry or hedge the calls that it serves; leave out retry and hedge
}

// The total timeout ends a stream that a server serves.
func ExampleStreamServerInterceptor() {
	front, err := pillion.New("front", timeout.Config{Total: 20 * time.Millisecond})
	if err != nil {
		fmt.Println(err)
		return
	}
	intercept, err := pilliongrpc.StreamServerInterceptor(front)
	if err != nil {
		fmt.Println(err)
		return
	}
	conn, stop, err := serveHealth(nil, grpc.ChainStreamInterceptor(intercept))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	watch, err := healthpb.NewHealthClient(conn).Watch(context.Background(), &healthpb.HealthCheckRequest{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for err == nil {
		_, err = watch.Recv()
	}
	fmt.Println(status.Code(err))
	// Output: DeadlineExceeded
}
