package retry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// rule decides about retries.
type rule interface {
	// again reports whether to make another attempt after o.
	again(c *policy.Call, o *policy.Outcome) bool
	// concerns reports whether again could be true for any outcome of the call.
	concerns(c *policy.Call) bool
	// hedges reports whether the call may be hedged, whatever its outcome.
	hedges(c *policy.Call) bool
	// begin is called once for a call that may be retried. It returns the maximum number of
	// retries and the source of the waits.
	begin(c *policy.Call) (most int, wait waiter)
	// waited is called after the wait before retry n, which counts from 1.
	waited(n int, o *policy.Outcome)
}

// waiter returns the wait between o and retry n, which counts from 1. It is not ok if that
// retry must not be made.
type waiter func(n int, o *policy.Outcome) (b policy.BackOff, ok bool)

// loop makes attempts until rule needs no further one.
type loop struct {
	rule   rule
	next   policy.Func
	budget *budget // nil if none
	hedges bool    // attempts continue after their per-try timeout
}

func newLoop(s *policy.Builder, r rule, b *Budget, next policy.Func) *loop {
	s.Require(policy.Needs{Cancel: true}) // to discard a response without waiting for a slow body
	return &loop{rule: r, next: next, budget: b.start()}
}

// call makes the first attempt, and retries it if needed.
func (l *loop) call(ctx context.Context, c *policy.Call) *policy.Outcome {
	var o *policy.Outcome
	if l.hedges && c.Concurrent() && l.rule.hedges(c) {
		o = l.hedge(ctx, c)
	} else {
		o = l.attempts(ctx, c)
	}
	if o.Err != nil {
		o.Err = bare(o.Err)
	}
	return o
}

// attempts makes the attempts one after the other.
func (l *loop) attempts(ctx context.Context, c *policy.Call) *policy.Outcome {
	o := l.next(ctx, c)
	l.deposit(o)
	if l.again(c, o) {
		return l.retry(ctx, c, o)
	}
	l.checkBody(c, o)
	return o
}

// deposit counts a call in the budget, unless it was refused.
func (l *loop) deposit(o *policy.Outcome) {
	if l.budget != nil && !o.Has(policy.Refused) {
		l.budget.deposit()
	}
}

func (l *loop) again(c *policy.Call, o *policy.Outcome) bool {
	return !isPermanent(o.Err) && !o.Has(policy.Informational) && l.rule.again(c, o)
}

// retry makes attempts until the rule needs no further one, or no further one is allowed.
func (l *loop) retry(ctx context.Context, c *policy.Call, o *policy.Outcome) *policy.Outcome {
	most, wait := l.rule.begin(c)
	var failed *policy.Outcome // the outcome of the last attempt that was not refused
	for n := 1; ; n++ {
		pause, ok := l.pause(c, o, n, most, wait)
		if !ok {
			return exhausted(c, o)
		}
		if left, limited := c.Remaining(); limited && left <= pause.Wait {
			return tooLate(c, o, left)
		}
		release, ok := l.acquire(c, o)
		if !ok {
			o.Flags |= envoy.UO
			c.Emit(policy.EventRetryOverflow, o)
			return o
		}
		if !o.Has(policy.Refused) {
			failed = o
		}
		if c, o, ok = l.attempt(ctx, c, o, n, pause, release); !ok {
			return o
		}
		if failed == nil {
			l.deposit(o)
		}
		if !l.again(c, o) {
			l.checkBody(c, o)
			return settled(c, o, failed)
		}
	}
}

// acquire reports whether another retry is allowed. A limit of concurrent retries replaces the
// budget. A retry does not use the budget if the attempt before it was refused, because that
// attempt sent nothing.
func (l *loop) acquire(c *policy.Call, o *policy.Outcome) (release func(), ok bool) {
	if l.budget != nil && !c.RetriesLimited() && !o.Has(policy.Refused) && !l.budget.withdraw() {
		return nil, false
	}
	return c.AcquireRetry()
}

// checkBody emits EventRetryAbandoned for a call that needs no retry but could not have had
// one, because its body has outgrown the replay buffer. Envoy counts that, too.
func (l *loop) checkBody(c *policy.Call, o *policy.Outcome) {
	if c.Outgrown() && l.rule.concerns(c) {
		c.Emit(policy.EventRetryAbandoned, o)
	}
}

// settled returns the result of a call that needs no further retry. failed is the outcome that
// caused the last retry. As in Envoy, a response after a 1xx response is no success of the retry.
func settled(c *policy.Call, o, failed *policy.Outcome) *policy.Outcome {
	switch {
	case o.Has(policy.Refused):
		if failed != nil {
			o.Err = fmt.Errorf("%w; before that: %w", o.Err, failed.Failure())
		}
	case !cutShort(o) && !o.Has(policy.Informational):
		c.Emit(policy.EventRetrySuccess, o)
	}
	return o
}

// pause returns the wait before retry n. It is not ok if the retries are used up or the request
// cannot be replayed.
func (l *loop) pause(c *policy.Call, o *policy.Outcome, n, most int, wait waiter) (policy.BackOff, bool) {
	if n > most || !c.Replayable() {
		return policy.BackOff{}, false
	}
	return wait(n, o)
}

// exhausted returns the result of a call that needs a retry but cannot have one.
func exhausted(c *policy.Call, o *policy.Outcome) *policy.Outcome {
	if !c.Replayable() {
		c.Emit(policy.EventRetryAbandoned, o)
		return o
	}
	o.Flags |= envoy.URX
	c.Emit(policy.EventRetryLimitExceeded, o)
	return o
}

// attempt waits and makes the next attempt, whose outcome replaces o. It is not ok if the call
// was canceled during the wait.
func (l *loop) attempt(ctx context.Context, c *policy.Call, o *policy.Outcome, n int,
	pause policy.BackOff, release func(),
) (again *policy.Call, next *policy.Outcome, ok bool) {
	defer release()
	c.EmitBackOff(policy.EventRetryScheduled, o, pause)
	if !discardAndWait(ctx, o, pause.Wait) {
		return c, c.Gone(ctx, o), false
	}
	l.rule.waited(n, o)
	c.EmitBackOff(policy.EventRetry, o, pause)
	again = c.Next()
	return again, l.next(ctx, again), true
}

// cutShort reports whether the call ended without a result of the upstream: it was canceled or
// out of time.
func cutShort(o *policy.Outcome) bool {
	return o.Has(policy.Cancelled) || (o.Has(policy.Timeout) && !o.Has(policy.PerTryTimeout))
}

// discardAndWait discards the response during the wait. It reports whether ctx is still active.
func discardAndWait(ctx context.Context, o *policy.Outcome, wait time.Duration) bool {
	if o.Open() {
		began := time.Now()
		o.DiscardWithin(max(wait, time.Millisecond))
		wait -= time.Since(began)
	}
	if wait <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// tooLate returns the result of a call whose next wait does not fit in the remaining time: the
// last response, immediately. If there is no response and no time remains, it is a timeout error.
func tooLate(c *policy.Call, o *policy.Outcome, left time.Duration) *policy.Outcome {
	c.Emit(policy.EventRetryTooLate, o)
	if o.Err != nil && left <= 0 {
		o.Discard() // a policy inside may have turned a response into an error
		return c.Expired(o)
	}
	return o
}

func isPermanent(err error) bool {
	if err == nil {
		return false
	}
	_, ok := errors.AsType[*backoff.PermanentError](err)
	return ok
}

// bare unwraps backoff.Permanent, as backoff.Retry does.
func bare(err error) error {
	if permanent, ok := errors.AsType[*backoff.PermanentError](err); ok {
		return permanent.Err
	}
	return err
}
