package policy

import (
	"context"
	"errors"
	"time"
)

// send is the innermost Func: it arms the limits, makes one attempt, and settles its outcome.
func send(ctx context.Context, c *Call) *Outcome {
	if c.attempt.Load() > 1 {
		c.frame.sent.Store(c)
	}
	sent := ctx
	if c.limits.any() || c.frame.chain.cancellable {
		var ok bool
		if sent, ok = c.arm(ctx); !ok {
			return c.expired(ctx, c.limits.totalScope(), nil)
		}
	}
	if len(c.frame.chain.listeners) != 0 {
		return c.tryWatched(ctx, sent)
	}
	c.frame.exchange.Try(sent, (*Attempt)(c), &c.outcome)
	return c.settle(ctx)
}

// tryWatched makes one attempt with events. EventAttemptEnd is emitted even if Try does not return.
func (c *Call) tryWatched(ctx, sent context.Context) *Outcome {
	returned := false
	defer func() {
		if !returned {
			c.Emit(EventAttemptEnd, unwound())
		}
	}()
	c.Emit(EventAttempt, &c.outcome)
	c.frame.exchange.Try(sent, (*Attempt)(c), &c.outcome)
	o := c.settle(ctx)
	returned = true
	o.OnEnd(c, attemptEnd)
	return o
}

func attemptEnd(c *Call, end *Outcome) { c.Emit(EventAttemptEnd, end) }

// unwound is the outcome of a call or attempt that did not return.
func unwound() *Outcome { return &Outcome{Err: errUnwound, Conditions: Failed | Status5xx} }

// errUnwound is the error of a call that did not return. A panic itself goes on to the caller.
var errUnwound = errors.New("pillion: the call panicked or ended its goroutine")

// arm makes the attempt's context and starts its timer, if needed: if the caller's own deadline
// comes first, no timer is needed. It is not ok if the time has passed before the attempt began.
func (c *Call) arm(ctx context.Context) (sent context.Context, ok bool) {
	scope, limit, until := c.bound(ctx)
	if limit < 0 {
		return nil, false
	}
	if scope == 0 && c.limits.idle == 0 && !c.frame.chain.cancellable {
		return ctx, true
	}
	s, own := c.limitedStream()
	own.parent, own.until = ctx, until
	if scope != 0 {
		s.start(scope, limit)
	}
	return (*attemptContext)(s), true
}

// bound returns the earliest limit on waiting for the response headers, and the deadline to
// propagate: the earlier one of the total and the per-try limit if the exchange is unary, and the
// total limit otherwise. A negative limit means that the total limit has passed.
func (c *Call) bound(ctx context.Context) (scope Scope, limit, until time.Duration) {
	l := &c.limits
	if !l.any() {
		return 0, 0, 0
	}
	now := c.frame.chain.now()
	if deadline := c.deadline(); deadline != 0 {
		scope, limit, until = l.totalScope(), deadline-now, deadline
		if limit <= 0 {
			return scope, -1, 0
		}
	}
	if caller, ok := ctx.Deadline(); ok {
		if left := caller.Sub(c.frame.chain.epoch) - now; scope == 0 || left < limit {
			// That deadline replaces the total limit.
			scope, limit, until = 0, max(left, 1), 0
		}
	}
	ending := l.hard()
	if hard, ends := ending.tighter(scope, limit); (hard == ScopePerTry || hard == l.silent()) && c.unary() {
		until = after(now, ends)
	}
	scope, limit = l.tighter(scope, limit)
	if until == never {
		until = 0
	}
	return scope, limit, until
}

// any reports whether there is a limit.
func (l *limits) any() bool { return l.deadline|l.try|l.idle|l.soft != 0 }

func (c *Call) unary() bool {
	x, ok := c.frame.exchange.(Unary)
	return ok && x.Unary()
}

// tighter returns the per-try or the idle limit if it fires before the given limit, else the given
// one.
func (l *limits) tighter(scope Scope, limit time.Duration) (Scope, time.Duration) {
	if l.soft != 0 && (limit == 0 || l.soft < limit) {
		scope, limit = scopeSoft, l.soft
	}
	if l.try != 0 && (limit == 0 || l.try < limit) {
		scope, limit = ScopePerTry, l.try
	}
	return l.silence(scope, limit)
}

// silence returns the idle limit if it fires before the given limit, else the given one.
func (l *limits) silence(scope Scope, limit time.Duration) (Scope, time.Duration) {
	if l.idle != 0 && (limit == 0 || l.idle < limit) {
		return l.silent(), l.idle
	}
	return scope, limit
}

// silent returns the scope of the limit on silence.
func (l *limits) silent() Scope {
	if l.quiet != 0 {
		return l.quiet
	}
	return ScopeIdle
}

// settle completes the attempt's outcome after Try. A timeout that fired, or a canceled caller,
// takes precedence over the error that the wire returned because of it. The context of an open
// response stays alive until its end.
func (c *Call) settle(ctx context.Context) *Outcome {
	o, s := &c.outcome, c.stream
	c.upgraded = o.Has(Upgraded) // policies may change o
	if s != nil {
		if scope := s.disarm(c); scope != 0 {
			s.Cancel(c.timeoutError(scope, nil))
			if s.own.headers {
				return c.cutShort(ctx, o, scope)
			}
			o.Discard() // immediately: its context has ended
			return c.expired(ctx, scope, o.Err)
		}
		if c.state == stateTrying {
			s.release()
		}
	}
	switch {
	case o.Err == nil || o.Conditions != 0:
	case ctx.Err() != nil:
		c.leave(ctx, o, o.Err)
	default:
		c.frame.exchange.Classify((*Attempt)(c), o, o.Err)
	}
	return o
}

// early returns Informational if a 1xx response of this attempt has arrived.
func (c *Call) early() Condition {
	if x, ok := c.frame.exchange.(EarlyObserver); ok && x.ReceivedEarly((*Attempt)(c)) {
		return Informational
	}
	return 0
}

// cutShort adds a timeout to a response whose headers were in time. It is not a per-try timeout,
// since the response had begun. If the caller was canceled as well, that is the reason instead; a
// response that was sent to it stays unchanged.
func (c *Call) cutShort(ctx context.Context, o *Outcome, scope Scope) *Outcome {
	switch {
	case c.frame.ctx.Err() == nil:
		c.timedOut(o, scope, nil)
		o.Conditions &^= PerTryTimeout
	case o.Err != nil && o.Conditions == 0:
		c.leave(ctx, o, o.Err)
	}
	return o
}

// rearm sets the attempt's timer to another limit, which choose returns for the total limit. It
// reports whether it was in time: no timeout has fired. The caller's own deadline needs no timer.
func (c *Call) rearm(choose func(scope Scope, left time.Duration) (Scope, time.Duration)) (inTime bool) {
	s := c.stream
	if s == nil || s.own == nil {
		return true
	}
	scope := s.rearm(c, choose)
	if scope != 0 {
		s.own.cancel(c.timeoutError(scope, nil))
	}
	return scope == 0
}

// ownDeadline returns when the total timeout fires. It returns 0 if there is none, or if the
// caller's own deadline comes first and replaces it.
func (c *Call) ownDeadline() time.Duration {
	limit := c.deadline()
	if caller, ok := c.frame.ctx.Deadline(); ok && limit != 0 && caller.Sub(c.frame.chain.epoch) < limit {
		return 0
	}
	return limit
}
