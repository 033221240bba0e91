package main

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// round is the result of calls that were made without a pause.
type round struct {
	took   []time.Duration // sorted
	cpu    time.Duration   // of all processes
	failed int
}

// quantile is the time within which a share of the calls ended.
func (r round) quantile(share float64) time.Duration {
	return r.took[min(int(share*float64(len(r.took))), len(r.took)-1)]
}

// add adds the calls of another round. The caller must sort them afterwards.
func (r *round) add(other round) {
	r.took = append(r.took, other.took...)
	r.cpu += other.cpu
	r.failed += other.failed
}

func (r round) cpuPerCall() time.Duration { return r.cpu / time.Duration(len(r.took)) }

// closedLoop makes the calls with a number of callers. Each starts its next call when
// it has the last response.
func (p *path) closedLoop(ctx context.Context, callers int, calls []call) round {
	var next atomic.Int64
	return p.load(callers, len(calls), func(took []time.Duration) (failed int) {
		for {
			n := int(next.Add(1)) - 1
			if n >= len(calls) {
				return failed
			}
			began := time.Now()
			if p.do(ctx, calls[n]) != nil {
				failed++
			}
			took[n] = time.Since(began)
		}
	})
}

// openLoop makes the calls with a number of callers, which together start them at a
// fixed rate. If a call is due while its caller still waits for the last response, its time
// counts from then: a slow response makes others wait.
func (p *path) openLoop(ctx context.Context, callers int, calls []call, rate float64) round {
	var mine atomic.Int64
	began := time.Now()
	return p.load(callers, len(calls), func(took []time.Duration) (failed int) {
		for n := int(mine.Add(1)) - 1; n < len(calls); n += callers {
			due := began.Add(time.Duration(float64(n) / rate * float64(time.Second)))
			if wait := time.Until(due); wait > 0 {
				time.Sleep(wait)
				due = time.Now() // the path did not cause a late timer
			}
			if p.do(ctx, calls[n]) != nil {
				failed++
			}
			took[n] = time.Since(due)
		}
		return failed
	})
}

// load runs the callers and adds up their results.
func (p *path) load(callers, calls int, caller func(took []time.Duration) (failed int)) round {
	took := make([]time.Duration, calls)
	var failed atomic.Int64
	var running sync.WaitGroup
	before := p.cpu()
	for range callers {
		running.Go(func() { failed.Add(int64(caller(took))) })
	}
	running.Wait()
	r := round{took: took, cpu: p.cpu() - before, failed: int(failed.Load())}
	slices.Sort(r.took)
	return r
}

// protocols are those of the calls to which the server responds immediately.
var protocols = []string{"http", "grpc"}

// healthy returns n calls to which the server responds immediately.
func healthy(protocol string, n int) []call {
	c := call{path: "/soup"}
	if protocol == "grpc" {
		c.path = healthpb.Health_Check_FullMethodName
	}
	return slices.Repeat([]call{c}, n)
}
