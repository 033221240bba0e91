package main

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/pillion-go/pillion"
)

// load is what both paths have to carry.
type load struct {
	calls int
	rate  float64
}

// result is what became of it on one path.
type result struct {
	path             string
	calls, successes int
	attempts, served int64
	p50, p99         time.Duration
	elapsed          time.Duration
}

// run starts the calls one after the other at the load's rate, whatever becomes of
// those before, while the server goes through its phases.
func (l load) run(ctx context.Context, path string, s *server, options []grpc.DialOption) (result, error) {
	conn, err := grpc.NewClient("passthrough:///"+s.address, append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		return result{}, err
	}
	defer func() { _ = conn.Close() }()
	client := healthpb.NewHealthClient(conn)
	var (
		mu      sync.Mutex
		took    []time.Duration
		r       = result{path: path, calls: l.calls}
		pending sync.WaitGroup
		began   = time.Now()
		served  = s.served.Load()
	)
	tick := time.NewTicker(time.Duration(float64(time.Second) / l.rate))
	defer tick.Stop()
	for i := range l.calls {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		s.enter(i * len(phases) / l.calls)
		pending.Go(func() {
			d, attempts, ok := call(ctx, client)
			mu.Lock()
			defer mu.Unlock()
			took = append(took, d)
			r.attempts += attempts
			if ok {
				r.successes++
			}
		})
	}
	pending.Wait()
	slices.Sort(took)
	r.p50, r.p99, r.elapsed = took[len(took)/2], took[len(took)*99/100], time.Since(began)
	r.served = s.served.Load() - served
	return r, nil
}

// call makes one call. A bare one is one attempt.
func call(ctx context.Context, client healthpb.HealthClient) (took time.Duration, attempts int64, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	ctx, info := pillion.WithInfo(ctx)
	began := time.Now()
	_, err := client.Check(ctx, &healthpb.HealthCheckRequest{})
	return time.Since(began), int64(max(1, info.Attempts())), err == nil
}
