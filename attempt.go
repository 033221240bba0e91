package pillion

import (
	"context"
	"errors"
	"time"
)

// send is the innermost Func: it arms the limits, has the exchange make one
// attempt, and settles what became of it.
func (u *Upstream) send(ctx context.Context, c *Call) *Outcome {
	if c.attempt > 1 {
		c.flight.sent.Store(c)
	}
	sent, ok := c.arm(ctx)
	if !ok {
		return c.expired(ctx, c.limits.totalScope(), nil)
	}
	if len(u.listeners) != 0 {
		return c.tryWatched(ctx, sent)
	}
	c.flight.exchange.Try(sent, c, &c.outcome)
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
	c.flight.exchange.Try(sent, c, &c.outcome)
	o := c.settle(ctx)
	returned = true
	o.OnEnd(c, attemptEnd)
	return o
}

func attemptEnd(c *Call, end *Outcome) { c.Emit(EventAttemptEnd, end) }

// unwound is the outcome of a call or attempt that did not return.
func unwound() *Outcome { return &Outcome{Err: errUnwound, Is: Failed | Status5xx} }

// errUnwound is all that is known of a call that did not return: a panic itself goes on
// to the caller.
var errUnwound = errors.New("pillion: the call panicked or ended its goroutine")

// arm makes the attempt's context and starts its timer, where there is need for
// one: a caller whose own deadline comes first needs none. It is not ok when the
// time is over before the attempt began.
func (c *Call) arm(ctx context.Context) (sent context.Context, ok bool) {
	u := c.flight.upstream
	scope, limit, until := c.bound(ctx)
	if limit < 0 {
		return nil, false
	}
	if scope == 0 && c.limits.idle == 0 && !u.cancellable {
		return ctx, true
	}
	s := c.openGuarded()
	g := s.guard
	g.ctx, g.cancel = context.WithCancelCause(ctx)
	g.until = until
	if scope != 0 {
		g.scope = scope
		g.timer = u.timer(s)
		g.timer.Reset(limit)
	}
	return g, true
}

// bound finds the limit that strikes first while the attempt waits for its
// answer, and the deadline to tell the wire: the total one, and for an exchange without
// a body the one of the try too. A total limit that is over is a limit of less than
// nothing.
func (c *Call) bound(ctx context.Context) (scope Scope, limit, until time.Duration) {
	l := &c.limits
	if *l == (limits{}) {
		return 0, 0, 0
	}
	now := c.flight.upstream.now()
	if deadline := c.deadline(); deadline != 0 {
		scope, limit, until = l.totalScope(), deadline-now, deadline
		if limit <= 0 {
			return scope, -1, 0
		}
	}
	if caller, ok := ctx.Deadline(); ok {
		if left := caller.Sub(c.flight.upstream.epoch) - now; scope == 0 || left < limit {
			// That deadline does all that the total limit would.
			scope, limit, until = 0, max(left, 1), 0
		}
	}
	scope, limit = l.tighter(scope, limit)
	if (scope == ScopeTry || scope == ScopeIdle) && c.flight.exchange.Unary() {
		until = after(now, limit)
	}
	if until == never {
		until = 0
	}
	return scope, limit, until
}

// tighter gives the limits of one try where they strike before another one.
func (l *limits) tighter(scope Scope, limit time.Duration) (Scope, time.Duration) {
	if l.try != 0 && (limit == 0 || l.try < limit) {
		scope, limit = ScopeTry, l.try
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

// settle turns what Try brought into the attempt's outcome: a limit that struck
// or a caller that left comes before whatever error the wire made of it. The context
// of an open outcome lives on until its end.
func (c *Call) settle(ctx context.Context) *Outcome {
	o, s := &c.outcome, c.span
	if s != nil {
		if scope := s.disarm(c); scope != 0 {
			s.guard.release(c.timeoutError(scope, nil))
			if s.headers {
				return c.cutShort(ctx, o, scope)
			}
			o.Discard() // immediately: its context has ended
			return c.expired(ctx, scope, o.Err)
		}
		if c.tail.phase == phaseTry {
			s.guard.release(nil)
		}
	}
	switch {
	case o.Err == nil || o.Is != 0:
	case ctx.Err() != nil:
		c.leave(ctx, o, o.Err)
	default:
		c.flight.exchange.Explain(c, o, o.Err)
	}
	return o
}

// early returns Informational if a 1xx response of this attempt arrived.
func (c *Call) early() Condition {
	if x, ok := c.flight.exchange.(interface{ informational(c *Call) bool }); ok && x.informational(c) {
		return Informational
	}
	return 0
}

// cutShort adds to a response whose headers were in time that a limit fired later: no
// limit of one attempt, since the response had begun. If the caller has gone as well, that is
// what ended it; a response that was sent to it stays as it is.
func (c *Call) cutShort(ctx context.Context, o *Outcome, scope Scope) *Outcome {
	switch {
	case c.flight.ctx.Err() == nil:
		c.timedOut(o, scope, nil)
		o.Is &^= PerTryTimeout
	case o.Err != nil && o.Is == 0:
		c.leave(ctx, o, o.Err)
	}
	return o
}

// disarm stops the timer of c's attempt when the response's headers are there. It returns
// the limit's scope if the timer was faster: then the attempt has timed out, whatever came.
func (s *span) disarm(c *Call) Scope {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.guard.disarm(c)
}
