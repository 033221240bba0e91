package command

import (
	"context"
	"time"

	"github.com/pillion-go/pillion/retry"
)

// Config describes a command. The zero value is a command of the default service
// without a timeout. It mirrors the options of Expeditor::Command.new.
type Config struct {
	// Service has the pool, the breaker and the counters. Nil means [DefaultService].
	Service *Service `json:"-"`

	// Timeout limits all attempts together, with the waits between them. It does not limit
	// the waits in the pool's queue and for dependencies, the fallback or the hooks. When it fires
	// the work's context ends; the command's slot in the pool is free when the work returns. Zero
	// means no timeout; negative values and values below 1ms are errors. Mirrors timeout.
	Timeout time.Duration `json:"timeout,omitempty"`

	// HookPanic receives the panic of a hook, in the hook's goroutine. Nil means the
	// HookPanic of the service.
	HookPanic func(*PanicError) `json:"-"`
}

// Command runs a function once, under the breaker of its service, and keeps the result.
// It is safe for concurrent use. It must be made by [New] or another constructor: Start
// returns an error for the zero value. Mirrors Expeditor::Command.
type Command[T any] struct {
	core

	run      func(context.Context) (T, error)
	gather   func() (func(context.Context) (T, error), error) // makes run from the values of the dependencies
	fallback func(context.Context, error) (T, error)          // guarded by mu until the start
	hooks    []func(T, error)                                 // guarded by mu

	value   T // of the work, if it succeeded
	rescued T // of the fallback, if it succeeded
}

// New makes a command that does work. It does not start it.
//
// The context of work is derived from that of the start. It ends when the timeout fires and
// when the context of the start ends. It may also end when work returns, so that work must
// read what is read lazily, such as the body of a response.
//
// If an argument is invalid, such as a nil function or a negative timeout, the command fails
// when it is started, with an error that matches [ErrInvalid].
func New[T any](cfg Config, work func(ctx context.Context) (T, error)) *Command[T] {
	c := &Command[T]{run: work}
	c.make(c, cfg, work == nil)
	return c
}

// Start makes a command and starts it. If ctx is nil the command fails with an error that
// matches [ErrInvalid]. Mirrors Expeditor::Command.start.
func Start[T any](ctx context.Context, cfg Config, work func(ctx context.Context) (T, error)) *Command[T] {
	c := New(cfg, work)
	if err := c.Start(ctx); err != nil { // it is the first start, so ctx is nil
		c.bad = err
		_ = c.Start(context.Background()) //nolint:contextcheck // ctx is nil
	}
	return c
}

// Const makes a command of the default service that has ended already, with value.
// Mirrors Expeditor::Command.const.
func Const[T any](value T) *Command[T] {
	c := &Command[T]{value: value}
	c.make(c, Config{}, false)
	c.phase.Store(ended)
	return c
}

// Start starts the dependencies of the command, and then the command, on the pool of its
// service. It does not wait, unless the pool is full and its overflow policy is [CallerRuns].
// If the pool has no free slot, Start returns nil, and the rejection is the command's result.
//
// ctx is used for the work, its retries, its fallback, and the dependencies that Start
// starts. When ctx is canceled the command ends immediately with the context's error, even if
// the work continues for a while. The command is then not counted, and its fallback does not
// run.
//
// A second start does nothing and returns [ErrAlreadyStarted]. If ctx is nil, Start starts
// nothing and returns an error that matches [ErrInvalid]. Mirrors Expeditor::Command#start.
func (c *Command[T]) Start(ctx context.Context) error { return c.start(ctx, nil, false) }

// StartWithRetry is [Command.Start] with retries. r has the options of Ruby's retryable.
// Each attempt asks the breaker and is counted; a failed attempt is counted when the next
// one begins, after the wait. A refusal by the breaker is retried too, unless r.Not matches
// it. A panic is retried only if r.On matches it. If an option is invalid, StartWithRetry
// returns nil and the command fails. Mirrors Expeditor::Command#start_with_retry.
func (c *Command[T]) StartWithRetry(ctx context.Context, r retry.Retryable) error {
	return c.start(ctx, &retrying{options: r}, false)
}

// Run runs the command in the calling goroutine and returns when it has ended: after
// the wait for dependencies, the work, the fallback and the hooks. It uses no pool, so that it
// works after a shutdown. It starts no goroutine, so that the timeout acts through the context
// alone: Run waits for work that ignores its context. It returns nil if the work
// fails: Get returns the error. Mirrors Expeditor::Command#start(current_thread: true).
func (c *Command[T]) Run(ctx context.Context) error { return c.start(ctx, nil, true) }

// RunWithRetry is [Command.Run] with retries: see [Command.StartWithRetry].
func (c *Command[T]) RunWithRetry(ctx context.Context, r retry.Retryable) error {
	return c.start(ctx, &retrying{options: r}, true)
}

// Started reports whether the command has been started. Mirrors
// Expeditor::Command#started?.
func (c *Command[T]) Started() bool { return c.phase.Load() != made }

// Get waits until the command has ended. It returns the value of the work or of the
// fallback, or the error. Every call returns the same, unless
// [Service.SetFallbackEnabled] is called in between.
//
// If ctx ends first, Get returns the cause of that, and the command continues. Before the
// start it returns [ErrNotStarted]. If ctx is the context of some work for which this
// command waits, it returns a [*CycleError]. Mirrors Expeditor::Command#get.
func (c *Command[T]) Get(ctx context.Context) (T, error) {
	if err := c.wait(ctx); err != nil {
		var none T
		return none, err
	}
	return c.outcome()
}

// Wait waits until the command has ended. It returns nil if the command failed; its errors
// are those that [Command.Get] returns when it cannot wait. Mirrors
// Expeditor::Command#wait.
func (c *Command[T]) Wait(ctx context.Context) error { return c.wait(ctx) }

// SetFallback sets the fallback: if the command fails, f returns a value in place of the
// error, which may come from the work, the breaker, the timeout, a dependency or the pool.
// If f fails too, its error is the command's result. The context of f is that of the start. f
// has no timeout, is not counted and is not retried. It does not run if the caller cancels the
// command.
//
// SetFallback replaces an earlier fallback. After the start it returns [ErrAlreadyStarted]. If
// f is nil it returns an error that matches [ErrInvalid]. Mirrors
// Expeditor::Command#set_fallback.
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

// outcome is what Get returns for a command that has ended.
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

// verdict is the error of outcome, for the commands that depend on this one.
func (c *Command[T]) verdict() error {
	_, err := c.outcome()
	return err
}

// attempt runs the work once. The value is read only if the command ends with the success
// of this attempt: otherwise the work may still be running.
func (c *Command[T]) attempt(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = newPanicError(p)
		}
	}()
	c.value, err = c.run(ctx)
	return err
}

// bind makes the work from the values of the dependencies.
func (c *Command[T]) bind() (err error) {
	if c.gather != nil {
		c.run, err = c.gather()
	}
	return err
}

// work runs the command in a worker.
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
