package command

import (
	"context"
	"time"

	"github.com/pillion-go/pillion/retry"
)

// Config describes a command. The zero value is a command on the default service,
// with no limit. It mirrors the options of Expeditor::Command.new.
type Config struct {
	// Service has the pool, the breaker and the counters. Nil means [DefaultService].
	Service *Service `json:"-"`

	// Timeout limits all attempts together, and the waits between them; not the wait in the
	// pool's queue or for dependencies, the fallback, or the hooks. The work's context ends
	// with it; the command's slot in the pool is free when the work has returned. Zero means no
	// limit; negative is an error, as is less than a millisecond. Mirrors timeout.
	Timeout time.Duration `json:"timeout,omitempty"`

	// HookPanic receives the panic of a hook, in the hook's goroutine. Nil means the
	// service's HookPanic.
	HookPanic func(*PanicError) `json:"-"`
}

// Command runs a function once, under its service's breaker, and keeps what became
// of it. It is safe for concurrent use. Make it with [New] and its like: the zero value
// fails when it is started. Mirrors Expeditor::Command.
type Command[T any] struct {
	core

	run      func(context.Context) (T, error)
	gather   func() (func(context.Context) (T, error), error) // makes run of what the dependencies gave
	fallback func(context.Context, error) (T, error)          // guarded by mu until the start
	hooks    []func(T, error)                                 // guarded by mu

	value   T // of the work, if it did not fail
	rescued T // of the fallback
}

// New makes a command that will do work. It is not started yet.
//
// work's context is that of the start, within the limit: it ends when the limit is
// reached, when the caller of the start cancels, and may end when work has returned. What
// is read lazily, a response's body say, must be read in work.
//
// What is wrong with the arguments, such as a nil function or a negative timeout, is what
// the command fails with when it is started: an error that matches [ErrInvalid].
func New[T any](cfg Config, work func(ctx context.Context) (T, error)) *Command[T] {
	c := &Command[T]{run: work}
	c.make(c, cfg, work == nil)
	return c
}

// Start makes a command and starts it. With a nil ctx the command fails with an error that
// matches [ErrInvalid]. Mirrors Expeditor::Command.start.
func Start[T any](ctx context.Context, cfg Config, work func(ctx context.Context) (T, error)) *Command[T] {
	c := New(cfg, work)
	if err := c.Start(ctx); err != nil { // it is the first, so that ctx is nil
		c.bad = err
		_ = c.Start(context.Background()) //nolint:contextcheck // there is none
	}
	return c
}

// Const makes a command that has ended with value, on the default service. Mirrors
// Expeditor::Command.const.
func Const[T any](value T) *Command[T] {
	c := &Command[T]{value: value}
	c.make(c, Config{}, false)
	c.phase.Store(ended)
	return c
}

// Start starts what the command depends on, and then the command, on its service's
// pool. It does not wait, unless the pool is full and its overflow policy is [CallerRuns].
// A pool that has no slot does not fail Start: the rejection is the command's result.
//
// ctx runs through the work, its retries, its fallback, and the dependencies that
// this start starts. When it is cancelled the command ends at once with its error, counted
// nowhere and without a fallback, even if the work goes on for a while.
//
// A second start does nothing and returns [ErrAlreadyStarted]. A nil ctx is an error that
// matches [ErrInvalid], and starts nothing. Mirrors Expeditor::Command#start.
func (c *Command[T]) Start(ctx context.Context) error { return c.start(ctx, nil, false) }

// StartWithRetry is Start, with the attempts that r asks for, in the words of
// Ruby's retryable. Each attempt passes the breaker and is counted by itself: a failed one
// when the next begins, after the wait. Refusals by the breaker are retried too, unless
// r.Not has them. Panics are not, unless r.On matches them. A bad option fails the
// command, not the start. Mirrors Expeditor::Command#start_with_retry.
func (c *Command[T]) StartWithRetry(ctx context.Context, r retry.Retryable) error {
	return c.start(ctx, &retrying{options: r}, false)
}

// Run does all in the calling goroutine before it returns: the wait for
// dependencies, the work, the counting, the fallback and the hooks. It uses no pool, so it
// works after a shutdown, and starts no goroutine, so that the limit acts through the
// context alone: work that does not heed it is waited for. What the work fails with is for
// Get. Mirrors Expeditor::Command#start(current_thread: true).
func (c *Command[T]) Run(ctx context.Context) error { return c.start(ctx, nil, true) }

// RunWithRetry is Run with retries: see StartWithRetry.
func (c *Command[T]) RunWithRetry(ctx context.Context, r retry.Retryable) error {
	return c.start(ctx, &retrying{options: r}, true)
}

// Started reports whether the command has been started. Mirrors
// Expeditor::Command#started?.
func (c *Command[T]) Started() bool { return c.phase.Load() != made }

// Get waits for the final outcome and gives it: the value of the work or of the
// fallback, or the error. It can be repeated, and gives the same each time, unless
// [Service.SetFallbackEnabled] is called between.
//
// When ctx ends first its error is returned; the command goes on. A Get within the
// work of a command that this one waits for, given the work's context, is a [*CycleError].
// Before the start it is [ErrNotStarted]. Mirrors Expeditor::Command#get.
func (c *Command[T]) Get(ctx context.Context) (T, error) {
	if err := c.wait(ctx); err != nil {
		var none T
		return none, err
	}
	return c.outcome()
}

// Wait waits for the final outcome. Its error is about the waiting, as that of Get
// is, and nil for a command that failed. Mirrors Expeditor::Command#wait.
func (c *Command[T]) Wait(ctx context.Context) error { return c.wait(ctx) }

// SetFallback has f give a value in place of the error that the work, the breaker,
// the limit, a dependency or the pool gave. It touches no counter, has no limit, and is
// not retried; its context is that of the start. If f fails too, its error is the
// command's. The last one set wins. The fallback of a command that was cancelled does not
// run. After the start it is [ErrAlreadyStarted]; nil is an error that matches
// [ErrInvalid]. Mirrors Expeditor::Command#set_fallback.
func (c *Command[T]) SetFallback(f func(ctx context.Context, err error) (T, error)) error {
	if f == nil {
		return invalid("SetFallback: the function is nil")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.Started() {
		return ErrAlreadyStarted
	}
	c.fallback = f
	return nil
}

// outcome is what Get gives of a command that has ended.
func (c *Command[T]) outcome() (T, error) {
	var none T
	switch {
	case c.failed == nil:
		return c.value, nil
	case !c.fellBack || !c.service.FallbackEnabled():
		return none, c.failed
	case c.err != nil:
		return none, c.err
	}
	return c.rescued, nil
}

// verdict is the error of outcome, for those that depend on the command.
func (c *Command[T]) verdict() error {
	_, err := c.outcome()
	return err
}

// attempt runs the work once. Its value is looked at only if the command ends
// with this attempt's success, since a late one may still be running then.
func (c *Command[T]) attempt(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = newPanicError(p)
		}
	}()
	c.value, err = c.run(ctx)
	return err
}

// bind makes the work of what the dependencies gave.
func (c *Command[T]) bind() (err error) {
	if c.gather != nil {
		c.run, err = c.gather()
	}
	return err
}

// work is what a worker does.
func (c *Command[T]) work() {
	c.worked = true
	c.execute(true)
}

// rescue runs the fallback, if there is one.
func (c *Command[T]) rescue(ctx context.Context, cause error) (ran bool, err error) {
	if c.fallback == nil {
		return false, cause
	}
	ran = true
	defer func() {
		if p := recover(); p != nil {
			err = newPanicError(p)
		}
	}()
	c.rescued, err = c.fallback(ctx, cause)
	return ran, err
}
