// Package racing runs attempts of one call concurrently, for the policies that do.
//
// Each attempt runs in its own goroutine, with its own context. The policy receives what they come
// to, one after the other, and chooses one; the others are canceled, and their responses discarded.
package racing

import (
	"context"
	"errors"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"github.com/pillion-go/pillion/internal/report"
	"github.com/pillion-go/pillion/policy"
)

// errLost is why the context of an attempt that was not chosen ends.
var errLost = errors.New("pillion: another attempt of the call was chosen")

// Race is the attempts of one call. It is used by the goroutine that runs the policy, and must be
// ended with [Race.End]. The policy must have declared policy.Needs Cancel.
type Race struct {
	ctx     context.Context //nolint:containedctx // the call's, for its length
	next    policy.Func
	results chan Result
	over    chan struct{}
	running []runner
	ended   bool
}

// runner is an attempt that was started.
type runner struct {
	call   *policy.Call
	cancel context.CancelCauseFunc
}

// Result is what an attempt came to.
type Result struct {
	Call    *policy.Call
	Outcome *policy.Outcome

	cancel   context.CancelCauseFunc
	returned bool
	panicked any    // nil also if the attempt ended its goroutine
	stack    []byte // of the panic
}

// Start begins a race whose attempts run through next.
func Start(ctx context.Context, next policy.Func) *Race {
	return &Race{ctx: ctx, next: next, results: make(chan Result), over: make(chan struct{})}
}

// Run starts an attempt.
func (r *Race) Run(c *policy.Call) {
	ctx, cancel := context.WithCancelCause(r.ctx)
	r.running = append(r.running, runner{c, cancel})
	go r.run(ctx, Result{Call: c, cancel: cancel})
}

func (r *Race) run(ctx context.Context, result Result) {
	defer func() {
		if !result.returned {
			if result.panicked = recover(); result.panicked != nil {
				result.stack = debug.Stack()
			}
		}
		r.deliver(result)
	}()
	result.Outcome = r.next(ctx, result.Call)
	result.returned = true
}

// deliver passes a result on, or discards it if it has come too late.
func (r *Race) deliver(result Result) {
	select {
	case r.results <- result:
	case <-r.over:
		result.cancel(errLost)
		if result.panicked != nil {
			report.Recovered("an attempt that runs beside another", result.panicked, result.stack)
		}
		result.discard(0)
	}
}

// discard discards an open response.
func (r *Result) discard(within time.Duration) {
	defer func() {
		if p := recover(); p != nil {
			report.Panic("a hook or listener at the end of an attempt", p)
		}
	}()
	if r.Outcome != nil {
		r.Outcome.DiscardWithin(within)
	}
}

// Results returns what the attempts come to. Each result that is received must be passed to
// [Race.Received].
func (r *Race) Results() <-chan Result { return r.results }

// Over is closed when the race has ended.
func (r *Race) Over() <-chan struct{} { return r.over }

// Running is how many attempts were started and not received yet.
func (r *Race) Running() int { return len(r.running) }

// Runs reports whether the attempt was started and not received yet.
func (r *Race) Runs(c *policy.Call) bool {
	return slices.ContainsFunc(r.running, func(s runner) bool { return s.call == c })
}

// Received takes down that the result was received. If the attempt panicked, or ended its
// goroutine, it ends the race and does the same in the goroutine of the caller.
func (r *Race) Received(result Result) {
	r.running = slices.DeleteFunc(r.running, func(s runner) bool { return s.call == result.Call })
	if result.Outcome != nil {
		return
	}
	r.End()
	result.cancel(errLost)
	switch {
	case result.returned:
		panic("pillion: " + result.Call.Upstream() + ": a policy returned a nil Outcome")
	case result.panicked != nil:
		panic(result.panicked)
	default:
		runtime.Goexit()
	}
}

// Drop discards a result that was received and is not chosen, without waiting for it. If within is
// positive, a small rest of the response may take as long to arrive, so that its connection can be
// used again; else it is cut off.
func (r *Race) Drop(result Result, within time.Duration) {
	if within <= 0 || !result.Outcome.Open() {
		result.cancel(errLost)
	}
	if !result.Outcome.Open() {
		return
	}
	go func() {
		result.discard(within)
		result.cancel(errLost)
	}()
}

// Choose makes a result that was received that of the call, and ends the race.
func (r *Race) Choose(result Result) *policy.Outcome {
	r.End()
	result.Outcome.OnEnd(result.Call, func(*policy.Call, *policy.Outcome) { result.cancel(nil) })
	return result.Outcome
}

// End cancels all attempts that are still running. Their results are discarded when they come.
func (r *Race) End() {
	if r.ended {
		return
	}
	r.ended = true
	for _, s := range r.running {
		s.cancel(errLost)
	}
	close(r.over)
}
