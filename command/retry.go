package command

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/internal/retryable"
	"github.com/pillion-go/pillion/retry"
)

// retrying is the state of a command's retries.
type retrying struct {
	options retry.Retryable

	waiting bool           // a failed attempt is counted after the wait; guarded by the command's mu
	result  breaker.Result // of that attempt; guarded by the command's mu
	err     error          // of that attempt; guarded by the command's mu
}

// run makes attempts until one succeeds, may not be retried, or is interrupted. The order
// for each retry is that of the gem: the attempt fails, the wait, ExceptionCB, LogMethod, the
// count, the breaker, the next attempt.
func (t *retrying) run(ctx context.Context, c *core) (breaker.Result, error) {
	o := &t.options
	if err := checkRetry(o); err != nil {
		return breaker.Failure, err
	}
	retries := 0
	defer func() {
		if o.Ensure != nil {
			o.Ensure(retries)
		}
	}()
	for ; ; retries++ {
		err := c.once(ctx)
		r, judged := c.judged(ctx, err)
		if err == nil || ctx.Err() != nil || !again(o, retries, err) {
			return r, judged
		}
		t.postpone(c, r, err)
		if pause(ctx, waitOf(o, retries)); ctx.Err() != nil {
			return c.interrupted(ctx, err)
		}
		callBack(o, retries+1, err)
		if !t.count(c) {
			return breaker.Ignored, errSettled
		}
	}
}

// postpone keeps how an attempt is to be counted after the wait.
func (t *retrying) postpone(c *core, r breaker.Result, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t.waiting, t.result, t.err = true, r, err
}

// count counts the attempt, unless the command is settled. It reports whether it did.
func (t *retrying) count(c *core) bool {
	c.mu.Lock()
	if c.settled.Load() {
		c.mu.Unlock()
		return false
	}
	t.waiting = false
	ticket, admitted := c.takeTicket()
	c.mu.Unlock()
	c.count(ticket, admitted, t.result, t.err)
	return true
}

// callBack calls the callbacks of retry n.
func callBack(o *retry.Retryable, n int, err error) {
	if o.ExceptionCB != nil {
		o.ExceptionCB(err)
	}
	if o.LogMethod != nil {
		o.LogMethod(n, err)
	}
}

// again reports whether an attempt that failed with err is to be retried, after a number
// of retries.
func again(o *retry.Retryable, retries int, err error) bool {
	if (o.Tries != retry.Unlimited && retries+1 >= cmp.Or(o.Tries, retry.DefaultTries)) || errors.Is(err, errSettled) {
		return false
	}
	if o.On == nil && isPanic(err) {
		return false
	}
	return retryable.Selects(err, message, o.On, o.Not, o.Matching)
}

// message is the text that Matching is compared with. The text of a refusal is without the
// failures before it, which the gem's does not mention.
func message(err error) string {
	if _, refused := err.(*CircuitBreakError); refused { //nolint:errorlint // an error that wraps one has its own text
		return breaker.ErrOpen.Error()
	}
	return err.Error()
}

func isPanic(err error) bool {
	_, ok := errors.AsType[*PanicError](err)
	return ok
}

// waitOf is the wait after a number of retries.
func waitOf(o *retry.Retryable, retries int) time.Duration {
	if o.SleepFunc != nil {
		return o.SleepFunc(retries)
	}
	return cmp.Or(o.Sleep, retry.DefaultSleep) // Zero is below zero
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// checkRetry checks the options.
func checkRetry(o *retry.Retryable) error {
	var bad problems
	own := *o
	own.Budget = nil
	if err := own.Check(); err != nil {
		bad = append(bad, renamed(err, "retry: Retryable.", "command: Retryable."))
	}
	if o.Budget != nil {
		bad.say("Retryable.Budget: %+v has no effect on a command, which has no upstream; leave it out", *o.Budget)
	}
	return bad.err()
}
