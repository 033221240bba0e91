package policy

import (
	"context"
	"errors"
	"time"
)

// send is the innermost Func: it arms the limits, has the exchange make one
// attempt, and settles what became of it.
func (ch *Chain) send(ctx context.Context, c *Call) *Outcome {
	if c.attempt > 1 {
		c.frame.sent.Store(c)
	}
	sent, ok := c.arm(ctx)
	if !ok {
		return c.expired(ctx, c.limits.totalScope(), nil)
	}
	if len(ch.listeners) != 0 {
		return c.tryWatched(ctx, sent)
	}
	c.frame.exchange.Try(sent, (*Attempt)(c), &c.outcome)
	return c.settle(ctx)
}

// tryWatched makes one attempt that listeners see. They see its end also when Try does
// not return.
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

// errUnwound is all that is known of a call that did not return: a panic itself goes on
// to the caller.
var errUnwound = errors.New("pillion: the call panicked or ended its goroutine")

// arm makes the attempt's context and starts its timer, where there is need for
// one: a caller whose own deadline comes first needs none. It is not ok when the
// time is over before the attempt began.
func (c *Call) arm(ctx context.Context) (sent context.Context, ok bool) {
	scope, limit, until := c.bound(ctx)
	if limit < 0 {
		return nil, false
	}
	if scope == 0 && c.limits.idle == 0 && !c.frame.chain.cancellable {
		return ctx, true
	}
	s := c.openStream()
	s.limited = true
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	s.until = until
	if scope != 0 {
		s.start(scope, limit)
	}
	return (*attemptContext)(s), true
}

// bound returns the limit that fires first while the attempt waits for its response headers,
// and the deadline to propagate: the earlier one of the total limit and the limit of the attempt
// if the exchange is unary, and the total limit otherwise. A negative limit means that the total
// one has passed.
func (c *Call) bound(ctx context.Context) (scope Scope, limit, until time.Duration) {
	l := &c.limits
	if *l == (limits{}) {
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
			// That deadline does all that the total limit would.
			scope, limit, until = 0, max(left, 1), 0
		}
	}
	ending := l.hard()
	if hard, ends := ending.tighter(scope, limit); (hard == ScopePerTry || hard == ScopeIdle) && c.unary() {
		until = after(now, ends)
	}
	scope, limit = l.tighter(scope, limit)
	if until == never {
		until = 0
	}
	return scope, limit, until
}

func (c *Call) unary() bool {
	x, ok := c.frame.exchange.(Unary)
	return ok && x.Unary()
}

// tighter returns the limits of one attempt if they fire before another one.
func (l *limits) tighter(scope Scope, limit time.Duration) (Scope, time.Duration) {
	if l.soft != 0 && (limit == 0 || l.soft < limit) {
		scope, limit = scopeSoft, l.soft
	}
	if l.try != 0 && (limit == 0 || l.try < limit) {
		scope, limit = ScopePerTry, l.try
	}
	return l.silence(scope, limit)
}

// silence returns the limit on silence if it fires before another one.
func (l *limits) silence(scope Scope, limit time.Duration) (Scope, time.Duration) {
	if l.idle != 0 && (limit == 0 || l.idle < limit) {
		return ScopeIdle, l.idle
	}
	return scope, limit
}

// settle turns what Try brought into the attempt's outcome: a timeout that fired, or a canceled
// caller, takes precedence over the error that the wire made of it. The context of an open
// response lives on until its end.
func (c *Call) settle(ctx context.Context) *Outcome {
	o, s := &c.outcome, c.stream
	if s != nil {
		if scope := s.disarm(c); scope != 0 {
			s.release(c.timeoutError(scope, nil))
			if s.headers {
				return c.cutShort(ctx, o, scope)
			}
			o.Discard() // immediately: its context has ended
			return c.expired(ctx, scope, o.Err)
		}
		if c.state == stateTrying {
			s.release(nil)
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

// early returns Informational if a 1xx response of this attempt arrived.
func (c *Call) early() Condition {
	if x, ok := c.frame.exchange.(EarlyObserver); ok && x.ReceivedEarly((*Attempt)(c)) {
		return Informational
	}
	return 0
}

// cutShort adds to a response whose headers were in time that a timeout fired later: no
// limit of one attempt, since the response had begun. If the caller was canceled as well, that is
// what ended it; a response that was sent to it stays as it is.
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

// rearm has the attempt's timer fire for another limit, if it has not fired yet: for what choose
// makes of the total one. The caller's own deadline needs no timer.
func (c *Call) rearm(choose func(scope Scope, left time.Duration) (Scope, time.Duration)) (inTime bool) {
	s := c.stream
	if s == nil || !s.limited {
		return true
	}
	scope := s.rearm(c, choose)
	if scope != 0 {
		s.cancel(c.timeoutError(scope, nil))
	}
	return scope == 0
}

// ownDeadline is when the total timeout fires, 0 without one, or if the caller's own deadline
// comes first and does all that it would.
func (c *Call) ownDeadline() time.Duration {
	limit := c.deadline()
	if caller, ok := c.frame.ctx.Deadline(); ok && limit != 0 && caller.Sub(c.frame.chain.epoch) < limit {
		return 0
	}
	return limit
}
