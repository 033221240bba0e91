package policy

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// attemptContext is the context of an attempt that has a limit, as the wire sees it.
type attemptContext Stream

// Deadline returns when the attempt times out.
func (g *attemptContext) Deadline() (time.Time, bool) {
	if g.own.until == 0 {
		return g.own.parent.Deadline()
	}
	return g.chain.epoch.Add(g.own.until), true
}

// Done returns a channel that is closed when the attempt has ended or must end.
func (g *attemptContext) Done() <-chan struct{} { return g.own.context().Done() }

// Err returns DeadlineExceeded if one of the library's limits ended the context, else the error of
// its parent.
func (g *attemptContext) Err() error {
	err := g.own.err()
	if err == nil {
		return nil
	}
	if _, fired := errors.AsType[*TimeoutError](context.Cause(g.own.context())); fired {
		return context.DeadlineExceeded
	}
	return err
}

// Value returns the value of the parent.
func (g *attemptContext) Value(key any) any { return g.own.value(key) }

var errEnded = errors.New("pillion: the attempt has ended")

// cancellation ends the context of an attempt. It makes that context only when something waits for
// its end, or when it ends early: many round trippers never wait, and the context costs more than the
// rest of the attempt.
type cancellation struct {
	parent context.Context //nolint:containedctx // it stands for a context
	made   atomic.Pointer[cancelable]
}

// cancelable is a context with its cancel function.
type cancelable struct {
	ctx    context.Context //nolint:containedctx // see above
	cancel context.CancelCauseFunc
}

// over stands for the context of each attempt that ends before its context is made. It has ended, and
// has no values.
var over = newOver() //nolint:gochecknoglobals // it is never written

func newOver() *cancelable {
	c := &cancelable{}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.cancel(errEnded)
	return c
}

// context returns the context. The first call makes it.
func (c *cancellation) context() context.Context { return c.make().ctx }

// cancel ends the context with cause, unless it has ended.
func (c *cancellation) cancel(cause error) { c.make().cancel(cause) }

// end ends the context to free its resources.
func (c *cancellation) end() {
	if !c.made.CompareAndSwap(nil, over) {
		c.cancel(errEnded)
	}
}

// err returns the error of the context. If the parent has ended it makes the context, so that the
// error does not change.
func (c *cancellation) err() error {
	if c.made.Load() == nil && c.parent.Err() == nil {
		return nil
	}
	return c.context().Err()
}

// value returns a value of the context. Package context looks up the context itself in this way.
func (c *cancellation) value(key any) any {
	made := c.made.Load()
	if made != nil {
		if v := made.ctx.Value(key); v != nil || made != over {
			return v
		}
	}
	return c.parent.Value(key)
}

// make makes the context if it has not been made.
func (c *cancellation) make() *cancelable {
	if made := c.made.Load(); made != nil {
		return made
	}
	made := &cancelable{}
	made.ctx, made.cancel = context.WithCancelCause(c.parent)
	if !c.made.CompareAndSwap(nil, made) {
		made.cancel(errEnded) // another goroutine was faster
	}
	return c.made.Load()
}
