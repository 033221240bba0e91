package main

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// round is what became of some calls that were made in one go.
type round struct {
	took   []time.Duration // sorted
	cpu    time.Duration   // of all processes
	failed int
}

// quantile is the time within which a share of the calls was over.
func (r round) quantile(share float64) time.Duration {
	return r.took[min(int(share*float64(len(r.took))), len(r.took)-1)]
}

// add takes the calls of another round in; they must be sorted then.
func (r *round) add(other round) {
	r.took = append(r.took, other.took...)
	r.cpu += other.cpu
	r.failed += other.failed
}

func (r round) cpuPerCall() time.Duration { return r.cpu / time.Duration(len(r.took)) }

// closedLoop has so many callers make the calls, each the next one as soon as it has
// the answer of the last.
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

// openLoop has so many callers make calls at a fixed rate in all. A call that is due
// while its caller still waits for the last one counts from when it was due, or a slow answer
// would hide that others had to wait.
func (p *path) openLoop(ctx context.Context, callers int, calls []call, rate float64) round {
	var mine atomic.Int64
	began := time.Now()
	return p.load(callers, len(calls), func(took []time.Duration) (failed int) {
		for n := int(mine.Add(1)) - 1; n < len(calls); n += callers {
			due := began.Add(time.Duration(float64(n) / rate * float64(time.Second)))
			if wait := time.Until(due); wait > 0 {
				time.Sleep(wait)
				due = time.Now() // that the clock woke us late is not the path's doing
			}
			if p.do(ctx, calls[n]) != nil {
				failed++
			}
			took[n] = time.Since(due)
		}
		return failed
	})
}

// load runs the callers and adds up what they tell.
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

// protocols are those of the calls that are answered at once.
var protocols = []string{"http", "grpc"}

// healthy is so many calls that are answered at once.
func healthy(protocol string, n int) []call {
	c := call{path: "/soup"}
	if protocol == "grpc" {
		c.path = healthpb.Health_Check_FullMethodName
	}
	return slices.Repeat([]call{c}, n)
}
