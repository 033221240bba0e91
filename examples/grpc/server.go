package main

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/pilliongrpc"
)

// phase is how the server behaves for a while.
type phase struct {
	unavailable float64 // the share of calls that fail
	slow        float64 // the share that takes a second
}

// phases are gone through on each path.
var phases = []phase{{}, {unavailable: 0.2}, {slow: 0.1}, {unavailable: 1}, {unavailable: 0.05, slow: 0.02}}

// server is a gRPC server on loopback that misbehaves.
type server struct {
	healthpb.HealthServer
	address string
	phase   atomic.Int64
	served  atomic.Int64
	stop    func()
}

// startServer serves gRPC's health service, under a limit of its own.
func startServer() (*server, error) {
	front, err := pillion.New("front", limits.Config{MaxRequests: 500})
	if err != nil {
		return nil, err
	}
	options, err := pilliongrpc.ServerOptions(front)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &server{HealthServer: health.NewServer(), address: l.Addr().String()}
	g := grpc.NewServer(options...)
	healthpb.RegisterHealthServer(g, s)
	var serving sync.WaitGroup
	serving.Go(func() { _ = g.Serve(l) })
	s.stop = func() { g.Stop(); serving.Wait() }
	return s, nil
}

// enter has the server behave as in phase i.
func (s *server) enter(i int) { s.phase.Store(int64(i)) }

// Check answers as the phase says.
func (s *server) Check(ctx context.Context, req *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	s.served.Add(1)
	p := phases[s.phase.Load()]
	if rand.Float64() < p.unavailable { //nolint:gosec // no secret
		return nil, status.Error(codes.Unavailable, "not now")
	}
	if rand.Float64() < p.slow { //nolint:gosec // no secret
		if err := sleep(ctx, time.Second); err != nil {
			return nil, err
		}
	}
	return s.HealthServer.Check(ctx, req)
}

// sleep waits, but no longer than anybody waits for it.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
