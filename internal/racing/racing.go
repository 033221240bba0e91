// Package racing runs attempts of one call concurrently, for policies that hedge.
//
// Each attempt runs in its own goroutine with its own context. The policy receives their results
// one by one and chooses one. The other attempts are canceled and their responses discarded.
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

// errLost is the cancellation cause of an attempt that was not chosen.
var errLost = errors.New("pillion: another attempt of the call was chosen")

// Race holds the attempts of one call. The policy must declare Cancel of [policy.Needs] and call
// [Race.End]. Only [Race.ReportOverdue] may be called outside the policy's goroutine.
type Race struct {
	ctx     context.Context //nolint:containedctx // of the call, while it runs
	next    policy.Func
	results chan Result
	overdue chan *policy.Call
	over    chan struct{} // closed by End
	running []runner
	ended   bool
}

// runner is a started attempt.
type runner struct {
	call   *policy.Call
	cancel context.CancelCauseFunc
}

// Result is the result of an attempt.
type Result struct {
	Call    *policy.Call
	Outcome *policy.Outcome

	cancel   context.CancelCauseFunc
	returned bool
	panicked any    // also nil if the attempt ended its goroutine
	stack    []byte // of the panic
}

// Start returns a race whose attempts run next.
func Start(ctx context.Context, next policy.Func) *Race {
	return &Race{
		ctx: ctx, next: next,
		results: make(chan Result), overdue: make(chan *policy.Call), over: make(chan struct{}),
	}
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

// deliver sends the result to the policy, or discards it if the race has ended.
func (r *Race) deliver(result Result) {
	select {
	case r.results <- result:
	case <-r.over:
		result.cancel(errLost)
		if result.panicked != nil {
			report.Recovered("an attempt that was not chosen", result.panicked, result.stack)
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

// Results returns the channel of the results. Each received result must be passed to
// [Race.Received].
func (r *Race) Results() <-chan Result { return r.results }

// Overdue returns the channel of the attempts that [Race.ReportOverdue] reports.
func (r *Race) Overdue() <-chan *policy.Call { return r.overdue }

// ReportOverdue sends c to [Race.Overdue], and blocks until it is received or the race ends. It is a
// callback for [policy.Call.OutlastPerTry] and [policy.Call.NotifyAfter].
func (r *Race) ReportOverdue(c *policy.Call) {
	select {
	case r.overdue <- c:
	case <-r.over:
	}
}

// Running returns the number of attempts that were started and whose results were not received.
func (r *Race) Running() int { return len(r.running) }

// Runs reports whether the attempt was started and its result was not received.
func (r *Race) Runs(c *policy.Call) bool {
	return slices.ContainsFunc(r.running, func(s runner) bool { return s.call == c })
}

// Received records that the result was received. If the attempt panicked or ended its goroutine,
// Received ends the race and does the same in the goroutine that calls it.
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

// Drop discards a received result in the background. If within is positive, Drop reads a small rest
// of the response for at most that long, so that its connection can be reused. Otherwise it cancels
// the attempt immediately.
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

// Choose ends the race and returns the outcome of a received result as that of the call.
func (r *Race) Choose(result Result) *policy.Outcome {
	r.End()
	result.Outcome.OnEnd(result.Call, func(*policy.Call, *policy.Outcome) { result.cancel(nil) })
	return result.Outcome
}

// End cancels the running attempts and discards their results. Further calls have no effect.
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
