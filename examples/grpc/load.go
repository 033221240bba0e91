package main

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/examples/internal/pace"
)

// load is the calls to make on each path.
type load struct {
	calls int
	rate  float64 // calls per second
}

// result is the outcome of all calls on one path: through the bare connection or
// through pillion.
type result struct {
	path               string
	phases             []phaseResult
	attempts, received int64
	p50, p99, elapsed  time.Duration
}

// phaseResult is the outcome of the calls during one phase of the server.
type phaseResult struct{ calls, successes, possible int }

func (p *phaseResult) add(other phaseResult) {
	p.calls += other.calls
	p.successes += other.successes
	p.possible += other.possible
}

// total adds up all phases.
func (r result) total() (sum phaseResult) {
	for _, p := range r.phases {
		sum.add(p)
	}
	return sum
}

// outcome is what one call came to.
type outcome struct {
	took     time.Duration
	attempts int
	ok       bool
}

// run starts the calls at a fixed rate, whether or not those before have ended, unless
// ctx ends.
func (l load) run(ctx context.Context, path string, s *server, options []grpc.DialOption) (result, error) {
	conn, err := grpc.NewClient("passthrough:///"+s.address, append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		return result{}, err
	}
	defer func() { _ = conn.Close() }()
	client := healthpb.NewHealthClient(conn)
	outcomes := make([]outcome, l.calls)
	began, before := time.Now(), s.received.Load()
	var pending sync.WaitGroup
	for n := range pace.Calls(ctx, l.calls, l.rate) {
		pending.Go(func() { outcomes[n] = call(ctx, client, phaseOf(n, l.calls)) })
	}
	pending.Wait()
	r := sum(outcomes)
	r.path, r.received, r.elapsed = path, s.received.Load()-before, time.Since(began)
	return r, nil
}

// call makes one call in a phase of the server. Through a bare connection it is one
// attempt.
func call(ctx context.Context, client healthpb.HealthClient, phase int) outcome {
	ctx, cancel := context.WithTimeout(ctx, bareTimeout)
	defer cancel()
	ctx, info := pillion.WithInfo(metadata.AppendToOutgoingContext(ctx, phaseKey, strconv.Itoa(phase)))
	began := time.Now()
	_, err := client.Check(ctx, &healthpb.HealthCheckRequest{})
	return outcome{time.Since(began), max(1, info.Attempts()), err == nil}
}

// sum adds up the outcomes of all calls.
func sum(outcomes []outcome) result {
	r := result{phases: make([]phaseResult, len(phases))}
	var took []time.Duration
	for n, o := range outcomes {
		took = append(took, o.took)
		r.attempts += int64(o.attempts)
		i := phaseOf(n, len(outcomes))
		one := phaseResult{calls: 1}
		if o.ok {
			one.successes = 1
		}
		if !phases[i].down() {
			one.possible = 1
		}
		r.phases[i].add(one)
	}
	slices.Sort(took)
	r.p50, r.p99 = took[len(took)/2], took[len(took)*99/100]
	return r
}
