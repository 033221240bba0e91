package command

import (
	"errors"

	"github.com/pillion-go/pillion/internal/report"
)

// OnComplete adds a hook that receives the final outcome: that of the fallback if it ran,
// even if fallbacks are disabled.
//
// Hooks run after the result is counted, in the order in which they were added, whether by
// OnComplete, OnSuccess or OnFailure. They run in the goroutine that ends the command: a
// worker, the goroutine that called Run or whose Start was rejected, or that of a timer.
// The command's slot in the pool is free by then. Commands that were queued before wait for the
// hooks of a worker; commands that are started meanwhile do not. Get and Wait may return before
// the hooks have run. If the command has ended already, OnComplete runs the hook before it
// returns.
//
// If a hook panics the outcome stays, and the later hooks do not run. The panic is reported
// to HookPanic of the [Config] or of the service, or else to slog.Default at level Error with
// its stack. If the command had ended already, OnComplete also returns it as a [*PanicError].
// If f is nil, OnComplete returns an error that matches [ErrInvalid]. Mirrors
// Expeditor::Command#on_complete, whose first argument is err == nil here.
func (c *Command[T]) OnComplete(f func(value T, err error)) error {
	if f == nil {
		return invalid("OnComplete: the function is nil")
	}
	return c.on(f)
}

// OnSuccess adds a hook that receives the final outcome if it is a value: see
// [Command.OnComplete]. Mirrors Expeditor::Command#on_success.
func (c *Command[T]) OnSuccess(f func(value T)) error {
	if f == nil {
		return invalid("OnSuccess: the function is nil")
	}
	return c.on(func(value T, err error) {
		if err == nil {
			f(value)
		}
	})
}

// OnFailure adds a hook that receives the final outcome if it is an error: see
// [Command.OnComplete]. Mirrors Expeditor::Command#on_failure.
func (c *Command[T]) OnFailure(f func(err error)) error {
	if f == nil {
		return invalid("OnFailure: the function is nil")
	}
	return c.on(func(_ T, err error) {
		if err != nil {
			f(err)
		}
	})
}

// on adds a hook, or runs it immediately if the command has ended.
func (c *Command[T]) on(hook func(T, error)) error {
	c.mu.Lock()
	if c.phase.Load() != ended {
		c.hooks = append(c.hooks, hook)
		c.mu.Unlock()
		return nil
	}
	c.mu.Unlock()
	if p := c.runHook(hook); p != nil {
		return p
	}
	return nil
}

// runHooks runs the hooks, up to the first that panics. The command has ended, so that no hook
// can be added.
func (c *Command[T]) runHooks() {
	for _, hook := range c.hooks {
		if c.runHook(hook) != nil {
			return
		}
	}
}

func (c *Command[T]) runHook(hook func(T, error)) (panicked *PanicError) {
	defer func() {
		if p := recover(); p != nil {
			panicked = newPanicError(p)
			c.report("command: a hook", panicked)
		}
	}()
	hook(c.final())
	return nil
}

// final is the outcome that hooks receive.
func (c *Command[T]) final() (value T, err error) {
	switch {
	case c.err != nil: // the work may still be writing its value
	case c.fellBack:
		value = c.rescued
	default:
		value = c.value
	}
	return value, c.err
}

// report reports a panic of a hook or of another callback.
func (c *core) report(what string, p *PanicError) {
	hookPanic := c.hookPanic
	if hookPanic == nil {
		hookPanic = c.service.hookPanic
	}
	if hookPanic == nil {
		report.Recovered(what, p.Value, p.Stack)
		return
	}
	defer func() {
		if v := recover(); v != nil {
			report.Panic("command: HookPanic", v)
		}
	}()
	hookPanic(p)
}

// reportLate reports the panic of work whose command had ended before: its error reaches
// no caller.
func reportLate(err error) {
	if p, ok := errors.AsType[*PanicError](err); ok && p.Value != any(Goexit) {
		report.Recovered("command: work whose command had ended", p.Value, p.Stack)
	}
}
