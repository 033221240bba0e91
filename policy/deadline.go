package policy

import (
	"context"
	"errors"
	"fmt"

	"github.com/pillion-go/pillion/envoy"
)

// Scope identifies the limit that ended a call or an attempt.
type Scope uint8

// The limits on time.
const (
	ScopeTotal   Scope = iota + 1 // the call, with all its attempts, back-offs and the body
	ScopePerTry                   // one attempt, until its response headers
	ScopeIdle                     // silence before the response headers or within the body
	ScopeCaller                   // the deadline of the caller's context
	scopeSoft                     // after which an attempt is reported, and goes on
	scopeDiscard                  // draining a discarded response
)

// String returns the name of the scope: total, per-try, idle or caller.
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

// Detail returns Envoy's detail of a call that this limit ended.
func (s Scope) Detail() *envoy.Detail {
	switch s {
	case ScopePerTry:
		return envoy.PerTryTimeout
	case ScopeIdle:
		return envoy.PerTryIdleTimeout
	default: // the whole call
		return envoy.ResponseTimeout
	}
}

// timeoutError returns the error of a timeout that fired; err is what else went wrong.
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
	default: // the limit is not one of the library
	}
	return e
}

// timedOut adds to o that a timeout fired. If the caller caused it, the outcome counts as canceled
// as well, and so not as a failure.
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

// Expired returns the outcome of a call whose total limit or caller's deadline passed while no
// attempt was running. It wraps the error of the last attempt.
func (c *Call) Expired(last *Outcome) *Outcome {
	scope := c.limits.totalScope()
	if c.limits.deadline == 0 || c.frame.ctx.Err() != nil {
		scope = ScopeCaller
	}
	return c.timedOut(&Outcome{}, scope, last.Err)
}

// Gone returns the outcome of a call whose caller was canceled, or whose context's deadline passed,
// while no attempt was running. It wraps the error of the last attempt.
func (c *Call) Gone(ctx context.Context, last *Outcome) *Outcome {
	o := &Outcome{}
	c.leave(ctx, o, last.Err)
	return o
}

// leave adds to o that the caller was canceled.
func (c *Call) leave(ctx context.Context, o *Outcome, err error) {
	if c.frame.ctx.Err() == nil { // a custom policy ended the attempt
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

// left adds to o that a policy ended the context that it had made for the attempt.
func (c *Call) left(ctx context.Context, o *Outcome, err error) {
	is, detail := Cancelled, envoy.CallerGone
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		is, detail = Timeout|PerTryTimeout, envoy.PerTryTimeout
	}
	o.Blame(goneError(ctx, err), is, detail)
}

// expired makes the attempt's outcome that of a timeout, unless the caller was canceled first. err
// is the error that the wire returned because of it.
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

// overdue makes o the outcome of an attempt that a timeout ended before its response headers.
func (c *Call) overdue(o *Outcome, scope Scope, err error) *Outcome {
	*o = Outcome{}
	if isEcho(err) {
		err = nil
	}
	o.Conditions = c.early()
	return c.timedOut(o, scope, err)
}

// isEcho reports whether err only reflects that the attempt's context has ended.
func isEcho(err error) bool {
	var limit *TimeoutError
	return err == context.Canceled || err == context.DeadlineExceeded || //nolint:errorlint // a wrapped one says more
		errors.As(err, &limit)
}

// goneError returns the error of a context that has ended. It matches the context's error and its
// cause, and wraps err if that adds anything.
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
