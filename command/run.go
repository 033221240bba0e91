package command

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pillion-go/pillion/breaker"
)

// layers runs the work in its layers, from the outside in: what the dependencies
// gave, the limit, the retries, the breaker. It tells how to count the last attempt.
func (c *core) layers(watched bool) (breaker.Result, error) {
	if !c.begin() {
		return breaker.Ignored, nil // canceled while it waited; the result is not used
	}
	if c.ctx.Err() != nil {
		return c.callerGone(nil)
	}
	if err := c.gathered(); err != nil {
		return breaker.Dependency, &DependencyError{err}
	}
	ctx, cancel := c.limited(watched)
	defer cancel()
	return c.attempts(ctx)
}

// limited is the context of the work. If watched, the limit ends the command too,
// for the work may not heed its context.
func (c *core) limited(watched bool) (context.Context, context.CancelFunc) {
	if c.timeout == 0 {
		return &c.ctx, func() {}
	}
	if !watched {
		c.limit = &TimeoutError{Service: c.service.name, Limit: c.timeout}
		return context.WithTimeoutCause(&c.ctx, c.timeout, c.limit)
	}
	return c.watched()
}

// watched is the context of work that may not heed it: one timer ends both the
// context and the command.
func (c *core) watched() (context.Context, func()) {
	l := &limitContext{deadline: time.Now().Add(c.timeout), reached: TimeoutError{Service: c.service.name, Limit: c.timeout}}
	ctx, cancel := context.WithCancelCause(&c.ctx)
	l.Context = ctx
	c.limit = &l.reached
	timer := time.AfterFunc(c.timeout, func() { c.limitReached(cancel) })
	return l, func() {
		timer.Stop()
		cancel(nil)
	}
}

// limitContext is what context.WithTimeoutCause would give, but for the timer, which
// would be a second one. What is derived from it is cancelled with the
// limit's error as cause.
type limitContext struct {
	context.Context //nolint:containedctx // it is one
	deadline        time.Time
	reached         TimeoutError
}

// Deadline is the limit's, or the caller's if that is sooner.
func (l *limitContext) Deadline() (time.Time, bool) {
	if d, ok := l.Context.Deadline(); ok && d.Before(l.deadline) {
		return d, true
	}
	return l.deadline, true
}

// Err is [context.DeadlineExceeded] once the limit is reached.
func (l *limitContext) Err() error {
	err := l.Context.Err()
	if err != nil && context.Cause(l.Context) == error(&l.reached) { //nolint:errorlint // it is this very one
		return context.DeadlineExceeded
	}
	return err
}

// limitReached ends the command while its work goes on, and has the work know.
func (c *core) limitReached(cancel context.CancelCauseFunc) {
	c.endAside(breaker.Timeout, c.limit, func() { cancel(c.limit) })
	if c.unwatch != nil {
		c.unwatch()
	}
}

// cancelled ends the command since the caller of its start went away, whatever it
// is doing.
func (c *core) cancelled() {
	r, err := c.callerGone(nil)
	c.endAside(r, err, func() {})
}

// endAside ends the command in a goroutine that is not a worker's. It calls settled
// once the command is settled, by itself or before.
func (c *core) endAside(r breaker.Result, err error, settled func()) {
	pool := c.service.pool
	pool.hold()
	defer pool.release()
	mine := c.settle(r, err)
	settled()
	if mine {
		_, begun := c.state()
		pool.leave(&c.entry, begun)
		c.conclude(false)
	}
}

// attempts runs the work as often as the retry options say. A failed attempt is
// counted when the next one begins, the last one when the command ends.
func (c *core) attempts(ctx context.Context) (r breaker.Result, err error) {
	defer func() {
		if p := recover(); p != nil { // of a function among the options
			r, err = breaker.Failure, newPanicError(p)
		}
	}()
	if c.retrying == nil {
		return c.judged(ctx, c.once(ctx))
	}
	return c.retrying.run(ctx, c)
}

// once makes one attempt, if the breaker lets it.
func (c *core) once(ctx context.Context) error {
	if err := c.admit(); err != nil { //nolint:contextcheck // a report of a panic has no context
		return err
	}
	return c.job.attempt(ctx)
}

// errSettled ends attempts that nobody waits for any more.
var errSettled = errors.New("command: the command has ended")

// admit asks the breaker. The ticket is pending until the attempt is counted, by
// whoever does that.
func (c *core) admit() error {
	if c.service.breaker == nil {
		return nil
	}
	ticket, err := c.ask()
	if err != nil {
		return err
	}
	c.mu.Lock()
	late := c.settled.Load()
	if !late {
		c.ticket, c.admitted = ticket, true
	}
	c.mu.Unlock()
	if late {
		ticket.Done(breaker.Ignored, nil)
		return errSettled
	}
	return nil
}

// ask asks the breaker. If OnStateChange panics the circuit has just opened, and is asked again.
func (c *core) ask() (breaker.Ticket, error) {
	ticket, panicked, err := c.askOnce()
	if panicked {
		return c.service.breaker.Admit()
	}
	return ticket, err
}

func (c *core) askOnce() (ticket breaker.Ticket, panicked bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			panicked = true
			c.report(ofStateChange, newPanicError(p))
		}
	}()
	ticket, err = c.service.breaker.Admit()
	return ticket, false, err
}

// ofStateChange names the callback in reports.
const ofStateChange = "breaker: Config.OnStateChange"

// judged tells how to count an attempt that ended with err, and what the command
// fails with if it was the last.
func (c *core) judged(ctx context.Context, err error) (breaker.Result, error) {
	if ctx.Err() == nil {
		return c.service.classify(err), err
	}
	return c.interrupted(ctx, err)
}

// interrupted is judged for a context that has ended: by the limit, which makes
// a time-out of whatever the work gave, or by the caller.
func (c *core) interrupted(ctx context.Context, err error) (breaker.Result, error) {
	switch {
	case c.limit != nil && context.Cause(ctx) == error(c.limit): //nolint:errorlint // it is this very one
		if err == nil {
			return breaker.Timeout, c.limit
		}
		return breaker.Timeout, &TimeoutError{c.limit.Service, c.limit.Limit, err}
	case err == nil:
		return breaker.Success, nil
	}
	return c.callerGone(err) //nolint:contextcheck // the caller's is in c.ctx
}

// callerGone tells how to count an attempt whose caller cancelled, or whose caller's
// deadline passed, and what the command fails with. err is what the work said; it may be
// nil.
func (c *core) callerGone(err error) (breaker.Result, error) {
	gone, r := c.ctx.Err(), breaker.Ignored
	if errors.Is(gone, context.DeadlineExceeded) {
		r = breaker.Timeout
	}
	switch {
	case err == nil:
		return r, because(gone, context.Cause(&c.ctx))
	case errors.Is(err, gone):
		return r, err
	}
	return r, fmt.Errorf("command: %w: %w", gone, err)
}

// abandoned reports whether the caller cancelled, and the command failed for that:
// nobody wants its fallback.
func (c *core) abandoned() bool {
	gone := c.ctx.Err()
	return gone != nil && errors.Is(gone, context.Canceled) && errors.Is(c.failed, gone)
}

// because is gone, with the cause that the caller named, if any.
func because(gone, cause error) error {
	if cause == nil || errors.Is(gone, cause) {
		return gone
	}
	return fmt.Errorf("command: %w: %w", gone, cause)
}
