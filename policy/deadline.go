package policy

import (
	"context"
	"errors"
	"fmt"

	"github.com/pillion-go/pillion/envoy"
)

// Scope says which limit ended a call or an attempt.
type Scope uint8

// The limits on time.
const (
	ScopeTotal   Scope = iota + 1 // of the call with all its attempts, back-offs and the body
	ScopePerTry                   // of one attempt, until the answer's head
	ScopeIdle                     // of the silence before the head or within the body
	ScopeCaller                   // the deadline that the caller's context came with
	scopeSoft                     // after which an attempt is reported, and goes on
	scopeDiscard                  // of draining an answer that nobody wants
)

// String names the scope: total, per-try, idle or caller.
func (s Scope) String() string {
	switch s {
	case ScopeTotal:
		return "total"
	case ScopePerTry:
		return "per-try"
	case ScopeIdle:
		return "idle"
	case ScopeCaller:
		return "caller"
	default:
		return "none"
	}
}

// Detail is what Envoy says of a call that the limit ended.
func (s Scope) Detail() *envoy.Detail {
	switch s {
	case ScopePerTry:
		return envoy.PerTryTimeout
	case ScopeIdle:
		return envoy.PerTryIdleTimeout
	default: // of the whole call
		return envoy.ResponseTimeout
	}
}

// timeoutError makes the error of a limit that struck; err is what else went wrong.
func (c *Call) timeoutError(scope Scope, err error) *TimeoutError {
	e := &TimeoutError{Upstream: c.frame.chain.name, Scope: scope, Err: err}
	switch scope {
	case ScopeTotal:
		e.Limit = c.limits.total
	case ScopeCaller:
		if c.limits.client {
			e.Limit = c.limits.total
		}
	case ScopePerTry:
		e.Limit = c.limits.try
	case ScopeIdle:
		e.Limit = c.limits.idle
	default: // the limit is not ours
	}
	return e
}

// timedOut adds to o that a limit struck. Where the caller caused it, the outcome is
// neutral as well.
func (c *Call) timedOut(o *Outcome, scope Scope, err error) *Outcome {
	is := Timeout
	if scope == ScopePerTry || scope == ScopeIdle {
		is |= PerTryTimeout
	}
	if x, ok := c.frame.exchange.(Blamer); ok && x.CausedByCaller(scope) {
		is |= Cancelled
	}
	o.Blame(c.timeoutError(scope, err), is, scope.Detail())
	return o
}

// Expired is the outcome of a call whose time ran out while no attempt was under
// way: by its total limit or by the caller's deadline, whichever it has. It wraps
// what the last attempt failed with.
func (c *Call) Expired(last *Outcome) *Outcome {
	scope := c.limits.totalScope()
	if c.limits.deadline == 0 || c.frame.ctx.Err() != nil {
		scope = ScopeCaller
	}
	return c.timedOut(&Outcome{}, scope, last.Err)
}

// Gone is the outcome of a call whose caller left, or whose context's deadline
// passed, while no attempt was under way. It wraps what the last attempt failed with.
func (c *Call) Gone(ctx context.Context, last *Outcome) *Outcome {
	o := &Outcome{}
	c.leave(ctx, o, last.Err)
	return o
}

// leave adds to o that the caller left.
func (c *Call) leave(ctx context.Context, o *Outcome, err error) {
	if c.frame.ctx.Err() == nil { // a policy of one's own ended its attempt
		c.left(ctx, o, err)
		return
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		if isEcho(err) {
			err = nil
		}
		c.timedOut(o, ScopeCaller, err)
		return
	}
	o.Blame(goneError(ctx, err), Cancelled, envoy.CallerGone)
}

// left adds to o that the context that a policy gave the attempt has ended.
func (c *Call) left(ctx context.Context, o *Outcome, err error) {
	is, detail := Cancelled, envoy.CallerGone
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		is, detail = Timeout|PerTryTimeout, envoy.PerTryTimeout
	}
	o.Blame(goneError(ctx, err), is, detail)
}

// expired makes the attempt's outcome that of a timeout that ended it, unless the
// caller was canceled first. err is what the wire made of it.
func (c *Call) expired(ctx context.Context, scope Scope, err error) *Outcome {
	o := &c.outcome
	if ctx.Err() == nil {
		return c.overdue(o, scope, err)
	}
	*o = Outcome{}
	if isEcho(err) {
		err = nil
	}
	c.leave(ctx, o, err)
	return o
}

// overdue makes o that of an attempt that a timeout ended before its response headers.
func (c *Call) overdue(o *Outcome, scope Scope, err error) *Outcome {
	*o = Outcome{}
	if isEcho(err) {
		err = nil
	}
	o.Conditions = c.early()
	return c.timedOut(o, scope, err)
}

// isEcho reports whether err says nothing but that the attempt's context has ended.
func isEcho(err error) bool {
	var limit *TimeoutError
	return err == context.Canceled || err == context.DeadlineExceeded || //nolint:errorlint // a wrapped one says more
		errors.As(err, &limit)
}

// goneError returns the error of a context that has ended: it matches the context's own
// error and its cause, and keeps what else went wrong.
func goneError(ctx context.Context, err error) error {
	gone := ctx.Err()
	if cause := context.Cause(ctx); !errors.Is(gone, cause) {
		if gone = cause; !errors.Is(cause, ctx.Err()) {
			gone = fmt.Errorf("%w: %w", ctx.Err(), cause)
		}
	}
	switch {
	case err == nil || errors.Is(gone, err):
		return gone
	case errors.Is(err, gone):
		return err
	}
	return fmt.Errorf("%w: %w", gone, err)
}
