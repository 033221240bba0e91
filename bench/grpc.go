package main

import (
	"context"
	"log"
	"net"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/bulkhead"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/failsafegrpc"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
	fstimeout "github.com/failsafe-go/failsafe-go/timeout"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/pilliongrpc"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

const (
	grpcStub     = "gRPC unary interceptor, all policies"
	grpcLoopback = "gRPC unary call over loopback, all policies"
)

// grpcGroups measure the unary client interceptor: over a stub, which takes no time,
// and in a call over loopback.
func grpcGroups() []group {
	return []group{grpcStubGroup(), grpcLoopbackGroup()}
}

// grpcPolicies returns what the gRPC tables call all policies, metrics included.
func grpcPolicies(more ...pillion.Policy) []pillion.Policy {
	return append([]pillion.Policy{
		metrics.Config{Registry: registry()},
		timeout.Config{Total: time.Second, PerTry: 300 * time.Millisecond},
		retry.Config{On: "unavailable,reset,connect-failure"},
		limits.Config{},
		breaker.Config{},
	}, more...)
}

// grpcCall returns a function that makes a call through an interceptor.
func grpcCall(intercept grpc.UnaryClientInterceptor) func() {
	ctx := context.Background()
	req, reply := &healthpb.HealthCheckRequest{}, &healthpb.HealthCheckResponse{}
	invoke := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil }
	if intercept == nil {
		return func() { _ = invoke(ctx, "/grpc.health.v1.Health/Check", req, reply, nil) }
	}
	return func() {
		if err := intercept(ctx, "/grpc.health.v1.Health/Check", req, reply, nil, invoke); err != nil {
			log.Fatal(err)
		}
	}
}

// failsafeGRPC is failsafe-go's retry, breaker, bulkhead and timeout, as its users
// combine them.
func failsafeGRPC(outside ...failsafe.Policy[any]) grpc.UnaryClientInterceptor {
	return failsafegrpc.NewUnaryClientInterceptor(append(outside,
		retrypolicy.NewBuilder[any]().
			HandleIf(func(_ any, err error) bool { return status.Code(err) == codes.Unavailable }).
			WithMaxRetries(1).WithBackoff(25*time.Millisecond, 250*time.Millisecond).Build(),
		circuitbreaker.NewBuilder[any]().WithFailureRateThreshold(0.5, 20, 10*time.Second).Build(),
		bulkhead.New[any](1024),
		fstimeout.New[any](300*time.Millisecond),
	)...)
}

func grpcStubGroup() group {
	return group{grpcStub, []candidate{
		{"bare", grpcCall(nil)},
		{"pillion", grpcCall(pilliongrpc.UnaryClientInterceptor(upstream(grpcPolicies()...)))},
		{"pillion, with gRPC's own statistics", grpcCall(pilliongrpc.UnaryClientInterceptor(upstream(
			append([]pillion.Policy{metrics.GRPC{Registry: registry()}}, grpcPolicies()...)...)))},
		{"failsafegrpc, uncounted", grpcCall(failsafeGRPC())},
		{"failsafegrpc, uncounted, with a total timeout too", grpcCall(failsafeGRPC(fstimeout.New[any](time.Second)))},
	}, true}
}

// grpcServer starts a server, which runs until the program ends, and returns its address.
func grpcServer() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	healthpb.RegisterHealthServer(server, health.NewServer())
	go func() { _ = server.Serve(l) }()
	return l.Addr().String()
}

func grpcLoopbackGroup() group {
	address := grpcServer()
	return group{grpcLoopback, []candidate{
		{"bare", grpcOver(address)},
		{"pillion", grpcOver(address, pilliongrpc.DialOptions(upstream(grpcPolicies()...))...)},
		{"failsafegrpc, uncounted", grpcOver(address, grpc.WithUnaryInterceptor(failsafeGRPC()))},
	}, false}
}

// grpcOver returns a function that makes a call over a connection.
func grpcOver(address string, options ...grpc.DialOption) func() {
	conn, err := grpc.NewClient("passthrough:///"+address, append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		log.Fatal(err)
	}
	client := healthpb.NewHealthClient(conn)
	return func() {
		if _, err := client.Check(context.Background(), &healthpb.HealthCheckRequest{}); err != nil {
			log.Fatal(err)
		}
	}
}

// grpcBounds compare the interceptor with its only rival, which has no metrics: with
// the same policies otherwise, and with fewer.
func grpcBounds() []bound {
	return []bound{
		{grpcStub, "pillion", "failsafegrpc, uncounted, with a total timeout too", 0.45, 8},
		{grpcStub, "pillion", "failsafegrpc, uncounted", 0.65, 8},
	}
}
