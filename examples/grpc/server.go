package main

import (
	"context"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/pilliongrpc"
)

// phase is how the server behaves for a part of the calls.
type phase struct {
	name        string
	unavailable float64 // the share of calls that fail
	slow        float64 // the share that takes a second
}

// phases are in the order of the calls, and equally long.
var phases = []phase{
	{name: "healthy"},
	{name: "20 % of responses UNAVAILABLE", unavailable: 0.2},
	{name: "10 % of responses take a second", slow: 0.1},
	{name: "down: all responses UNAVAILABLE", unavailable: 1},
	{name: "5 % UNAVAILABLE, 2 % take a second", unavailable: 0.05, slow: 0.02},
}

// down reports that no call can succeed.
func (p phase) down() bool { return p.unavailable == 1 }

// phaseOf returns the index of the phase to which call n of all belongs.
func phaseOf(n, all int) int { return n * len(phases) / all }

// phaseKey is the metadata that holds the index of a call's phase. So a retry meets
// the same phase as the attempt before it.
const phaseKey = "example-phase"

// server is a misbehaving gRPC server on a loopback port. It counts its calls.
type server struct {
	healthpb.HealthServer
	address  string
	received atomic.Int64
	stop     func()
}

// serverLimits bound the load of the server.
var serverLimits = limits.Config{MaxRequests: 500}

// startServer serves gRPC's health service within serverLimits.
func startServer() (*server, error) {
	front, err := pillion.New("front", serverLimits)
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

// Check responds as the call's phase says.
func (s *server) Check(ctx context.Context, req *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	s.received.Add(1)
	p, err := phaseFrom(ctx)
	if err != nil {
		return nil, err
	}
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

func phaseFrom(ctx context.Context) (phase, error) {
	values := metadata.ValueFromIncomingContext(ctx, phaseKey)
	if len(values) != 1 {
		return phase{}, status.Error(codes.InvalidArgument, phaseKey+" is missing")
	}
	i, err := strconv.Atoi(values[0])
	if err != nil || i < 0 || i >= len(phases) {
		return phase{}, status.Error(codes.InvalidArgument, phaseKey+" is not the index of a phase")
	}
	return phases[i], nil
}

// sleep waits for d, or until ctx ends.
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
