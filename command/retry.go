package command

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/pillion-go/pillion/breaker"
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
	if retries+1 >= tries(o) || errors.Is(err, errSettled) {
		return false
	}
	among := func(list []retry.Match) bool {
		return slices.ContainsFunc(list, func(m retry.Match) bool { return m(err) })
	}
	switch {
	case among(o.Not):
		return false
	case o.On != nil && !among(o.On), o.On == nil && isPanic(err):
		return false
	}
	return o.Matching == nil ||
		slices.ContainsFunc(o.Matching, func(p retry.Pattern) bool { return p.MatchString(message(err)) })
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

func tries(o *retry.Retryable) int {
	switch o.Tries {
	case 0:
		return retry.DefaultTries
	case retry.Unlimited:
		return math.MaxInt
	}
	return o.Tries
}

// waitOf is the wait after a number of retries.
func waitOf(o *retry.Retryable, retries int) time.Duration {
	switch {
	case o.SleepFunc != nil:
		return o.SleepFunc(retries)
	case o.Sleep == 0:
		return retry.DefaultSleep
	}
	return o.Sleep // Zero is below zero
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
	if o.Tries < 0 && o.Tries != retry.Unlimited {
		bad.say("Retryable.Tries: %d is negative; write 1 or more, 0 for 2, or retry.Unlimited", o.Tries)
	}
	switch {
	case o.Sleep < 0 && o.Sleep != retry.Zero:
		bad.say("Retryable.Sleep: %v is negative; write a duration such as time.Second, or retry.Zero", o.Sleep)
	case o.Sleep > 0 && o.Sleep < time.Millisecond:
		bad.say("Retryable.Sleep: %v is below 1ms; did you forget the unit? Write a duration such as time.Second, or retry.Zero", o.Sleep)
	}
	isNil := func(m retry.Match) bool { return m == nil }
	if slices.ContainsFunc(o.On, isNil) || slices.ContainsFunc(o.Not, isNil) {
		bad.say("Retryable.On, Retryable.Not: a Match is nil; leave it out")
	}
	if slices.Contains(o.Matching, nil) {
		bad.say("Retryable.Matching: a Pattern is nil; leave it out")
	}
	return bad.err()
}
