package command

// OnComplete has f told of the final outcome, whatever it is: of the fallback's,
// if one ran, even if fallbacks are switched off.
//
// Hooks run after the counting, all kinds in the order in which they were added, in
// the goroutine that ended the command: a worker, the one that called StartHere, or whose
// Start was rejected, or one of a timer. Get and Wait may return before they have run. A
// hook added to a command that has ended runs before OnComplete returns.
//
// A hook that panics changes nothing but that the later ones are skipped; it is
// reported to HookPanic of the [Config], and one that was added late comes back as a
// [*PanicError] besides. A nil f is an error that matches [ErrInvalid]. Mirrors
// Expeditor::Command#on_complete, whose first argument is err == nil here.
func (c *Command[T]) OnComplete(f func(value T, err error)) error {
	if f == nil {
		return invalid("OnComplete: the function is nil")
	}
	return c.on(f)
}

// OnSuccess has f told of the final outcome, if it is a value. The rest is as for
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

// OnFailure has f told of the final outcome, if it is an error. The rest is as for
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

// on adds a hook, or runs it at once if the command has ended.
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
			c.report(panicked)
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

// report tells of a hook that panicked. Who is told may not panic any further.
func (c *core) report(p *PanicError) {
	told := c.hookPanic
	if told == nil {
		told = c.service.hookPanic
	}
	if told == nil {
		return
	}
	defer func() { _ = recover() }() // there is nobody left to tell
	told(p)
}
