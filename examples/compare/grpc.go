package main

import (
	"context"
	"fmt"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// serveHealth serves gRPC's health service on loopback.
func serveHealth() (address string, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	g := grpc.NewServer()
	healthpb.RegisterHealthServer(g, health.NewServer())
	var serving sync.WaitGroup
	serving.Go(func() { _ = g.Serve(l) })
	return l.Addr().String(), func() { g.Stop(); serving.Wait() }, nil
}

// dial makes the gRPC client of a path, with one connection for all callers, as is usual.
func (p *path) dial(address string, options ...grpc.DialOption) (err error) {
	p.conn, err = grpc.NewClient("passthrough:///"+address, append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	return err
}

// bareTimeout limits each call of a gRPC client to the timeout of an attempt, as the
// bare HTTP client does.
func bareTimeout(p policy) grpc.DialOption {
	return grpc.WithDefaultServiceConfig(fmt.Sprintf(`{"methodConfig": [{"name": [{}], "timeout": "%fs"}]}`, p.PerTry.Seconds()))
}

// check makes a unary gRPC call.
func (p *path) check(ctx context.Context) error {
	_, err := healthpb.NewHealthClient(p.conn).Check(ctx, &healthpb.HealthCheckRequest{})
	return err
}
