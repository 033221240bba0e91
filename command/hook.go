package command

import (
	"errors"

	"github.com/pillion-go/pillion/internal/report"
)

// OnComplete adds a hook that receives the final outcome, whatever it is: that of the
// fallback if one ran, even if fallbacks are switched off.
//
// Hooks run after the counting, all kinds in the order in which they were added, in
// the goroutine that ended the command: a worker, the one that called Run or whose
// Start was rejected, or that of a timer. The command's slot in the pool is free by then:
// what was queued before waits for a worker's hooks, what is started meanwhile does not. Get
// and Wait may return before the hooks have run. A hook added to a command that has ended
// runs before OnComplete returns.
//
// A hook that panics does not change the outcome, but the later hooks are skipped. The panic
// is reported to HookPanic of the [Config] or of the service, else to slog.Default at
// level Error with its stack; a hook that was added late returns it as a [*PanicError]
// besides. A nil f is an error that matches [ErrInvalid]. Mirrors
// Expeditor::Command#on_complete, whose first argument is err == nil here.
func (c *Command[T]) OnComplete(f func(value T, err error)) error {
	if f == nil {
		return invalid("OnComplete: the function is nil")
	}
	return c.on(f)
}

// OnSuccess adds a hook that receives the final outcome if it is a value. The rest is as for
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

// OnFailure adds a hook that receives the final outcome if it is an error. The rest is as for
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
	if p := c.tellOne(hook); p != nil {
		return p
	}
	return nil
}

// tell runs the hooks, up to the first that panics. The command has ended, so no
// more can be added.
func (c *Command[T]) tell() {
	for _, hook := range c.hooks {
		if c.tellOne(hook) != nil {
			return
		}
	}
}

func (c *Command[T]) tellOne(hook func(T, error)) (panicked *PanicError) {
	defer func() {
		if p := recover(); p != nil {
			panicked = newPanicError(p)
			c.report("command: a hook", panicked)
		}
	}()
	hook(c.final())
	return nil
}

// final is the outcome that hooks see.
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
	told := c.hookPanic
	if told == nil {
		told = c.service.hookPanic
	}
	if told == nil {
		report.Recovered(what, p.Value, p.Stack)
		return
	}
	defer func() {
		if v := recover(); v != nil {
			report.Panic("command: HookPanic", v)
		}
	}()
	told(p)
}

// reportLate reports the panic of work whose command had ended before: no caller gets its
// error.
func reportLate(err error) {
	if p, ok := errors.AsType[*PanicError](err); ok && p.Value != any(Goexit) {
		report.Recovered("command: work whose command had ended", p.Value, p.Stack)
	}
}
