package command

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pillion-go/pillion/breaker"
)

// layers runs the work in its layers, from the outside in: the values of the dependencies,
// the timeout, the retries, the breaker. It returns how to count the last attempt.
func (c *core) layers(watched bool) (breaker.Result, error) {
	if !c.begin() {
		return breaker.Ignored, nil // canceled while it waited; the result is not used
	}
	if c.ctx.Err() != nil {
		return c.callerEnded(nil)
	}
	if err := c.gathered(); err != nil {
		return breaker.Dependency, &DependencyError{err}
	}
	ctx, cancel := c.limited(watched)
	defer cancel()
	return c.attempts(ctx)
}

// limited returns the context of the work. If watched, the timeout ends the command too,
// since the work may ignore its context.
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

// watched returns the context of work that may ignore it: one timer ends both the context
// and the command.
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

// limitContext is like the context of context.WithTimeoutCause, but without its timer,
// which would be a second one. A context derived from it is canceled with the
// error of the timeout as cause.
type limitContext struct {
	context.Context //nolint:containedctx // it is a context
	deadline        time.Time
	reached         TimeoutError
}

// Deadline returns that of the timeout, or the caller's if it is sooner.
func (l *limitContext) Deadline() (time.Time, bool) {
	if d, ok := l.Context.Deadline(); ok && d.Before(l.deadline) {
		return d, true
	}
	return l.deadline, true
}

// Err returns [context.DeadlineExceeded] when the timeout has fired.
func (l *limitContext) Err() error {
	err := l.Context.Err()
	if err != nil && context.Cause(l.Context) == error(&l.reached) { //nolint:errorlint // it must be this one
		return context.DeadlineExceeded
	}
	return err
}

// limitReached ends the command while its work continues, and cancels the work's context.
func (c *core) limitReached(cancel context.CancelCauseFunc) {
	c.endAside(breaker.Timeout, c.limit, func() { cancel(c.limit) })
	if c.unwatch != nil {
		c.unwatch()
	}
}

// canceled ends the command because the context of its start has ended, in whatever phase
// it is.
func (c *core) canceled() {
	r, err := c.callerEnded(nil)
	c.endAside(r, err, func() {})
}

// endAside ends the command in a goroutine that is not a worker's. It calls settled when the
// command is settled, whether it settled it or another goroutine had.
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

// attempts runs the work as often as the retry options say. A failed attempt is counted when
// the next one begins, the last one when the command ends.
func (c *core) attempts(ctx context.Context) (r breaker.Result, err error) {
	defer func() {
		if p := recover(); p != nil { // of a function of the options
			r, err = breaker.Failure, newPanicError(p)
		}
	}()
	if c.retrying == nil {
		return c.judged(ctx, c.once(ctx))
	}
	return c.retrying.run(ctx, c)
}

// once makes one attempt, if the breaker admits it.
func (c *core) once(ctx context.Context) error {
	if err := c.admit(); err != nil {
		return err
	}
	return c.job.attempt(ctx)
}

// errSettled ends the attempts of a command that is settled.
var errSettled = errors.New("command: the command has ended")

// admit asks the breaker. It keeps the ticket until the attempt is counted.
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

// ask asks the breaker. If OnStateChange panics, the circuit has just opened: ask asks again.
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

// judged returns how to count an attempt that ended with err, and the error of the command
// if it was the last attempt.
func (c *core) judged(ctx context.Context, err error) (breaker.Result, error) {
	if ctx.Err() == nil {
		return c.service.classify(err), err
	}
	return c.interrupted(ctx, err)
}

// interrupted is judged for a context that has ended: by the timeout, whatever the work
// returned, or by the caller.
func (c *core) interrupted(ctx context.Context, err error) (breaker.Result, error) {
	switch {
	case c.limit != nil && context.Cause(ctx) == error(c.limit): //nolint:errorlint // it must be this one
		if err == nil {
			return breaker.Timeout, c.limit
		}
		return breaker.Timeout, &TimeoutError{c.limit.Service, c.limit.Limit, err}
	case err == nil:
		return breaker.Success, nil
	}
	return c.callerEnded(err) //nolint:contextcheck // the caller's context is in c.ctx
}

// callerEnded returns how to count an attempt after the caller canceled or the caller's
// deadline passed, and the error of the command. err is the error of the work; it may be nil.
func (c *core) callerEnded(err error) (breaker.Result, error) {
	gone, r := c.ctx.Err(), breaker.Ignored
	if errors.Is(gone, context.DeadlineExceeded) {
		r = breaker.Timeout
	}
	switch {
	case err == nil:
		return r, withCause(gone, context.Cause(&c.ctx))
	case errors.Is(err, gone):
		return r, err
	}
	return r, fmt.Errorf("command: %w: %w", gone, err)
}

// abandoned reports whether the command failed because the caller canceled: then its
// fallback is not needed.
func (c *core) abandoned() bool {
	gone := c.ctx.Err()
	return gone != nil && errors.Is(gone, context.Canceled) && errors.Is(c.failed, gone)
}

// withCause wraps err in the context's cause, if there is one.
func withCause(err, cause error) error {
	if cause == nil || errors.Is(err, cause) {
		return err
	}
	return fmt.Errorf("command: %w: %w", err, cause)
}
