package pillion

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pillion-go/pillion/internal/report"
)

// span is the part of an attempt that may outlive it: the caller holds it as a
// body, a timer and the caller's context as what they end. All of them come to the
// attempt through it, and the first one who ends it takes it away; so the Call itself,
// which is large, can be used again.
type span struct {
	guard *guard // nil where nothing limits the attempt
	stage atomic.Uint32
	body  bool  // the head is done with; written before others can come, or guarded by mu
	call  *Call // taken by who ends the attempt; while others may look at it, guarded by mu
	err   error // what those are told who come too late; written before spanEnded

	mu      sync.Mutex
	done    chan struct{} // made for those who wait for spanEnded; guarded by mu
	unwatch func() bool   // ends the watch of the caller's context; guarded by mu
	watched bool          // there is such a watch; written before others can come

	headers bool // sent by a server or received by a client, in time; guarded by mu
}

// The stages of a span.
const (
	spanLive    uint32 = iota
	spanEnding         // hooks are running
	spanAwaited        // and somebody waits for them
	spanEnded
)

// guard is what limits an attempt: the context that the wire sees, which it ends,
// and the timer that strikes.
type guard struct {
	upstream *Upstream
	ctx      context.Context //nolint:containedctx // the attempt's own, without the deadline
	cancel   context.CancelCauseFunc
	until    time.Duration // on the upstream's clock: what Deadline reports; 0 for the parent's
	deadline time.Duration // likewise: when the body must be over; 0 for no limit
	total    Scope         // of deadline
	idle     time.Duration // the limit on each read of the body
	readBy   atomic.Int64  // while the body is read under that limit: when the read must be over
	wire     wire          // what net/http reports of the attempt
	struck   atomic.Int32  // the Scope that ended the attempt; 0 for none
	scope    Scope         // the limit that timer is armed for; guarded by the span's mu
	timer    *timer        // armed for scope, or for the body; guarded by the span's mu
}

// guardedSpan is a span with its guard.
type guardedSpan struct {
	span
	guard guard
}

var errEnded = errors.New("pillion: the attempt has ended")

// open gives the attempt its span, if it has none yet.
func (c *Call) open() *span {
	if c.span == nil {
		if spans := c.flight.spans; spans != nil {
			c.span = spans(c)
		} else {
			c.span = &span{}
		}
		c.span.call = c
	}
	return c.span
}

// openGuarded gives the attempt its span, with what can limit it.
func (c *Call) openGuarded() *span {
	if spans := c.flight.guardedSpans; spans != nil {
		c.span = spans(c)
	} else {
		s := &guardedSpan{}
		s.span.guard = &s.guard
		c.span = &s.span
	}
	c.span.call, c.span.guard.upstream = c, c.flight.upstream
	return c.span
}

// Deadline tells the wire when the attempt will be cut off.
func (g *guard) Deadline() (time.Time, bool) {
	if g.until == 0 {
		return g.ctx.Deadline()
	}
	return g.upstream.epoch.Add(g.until), true
}

// Done is closed when the attempt has ended, or must end.
func (g *guard) Done() <-chan struct{} { return g.ctx.Done() }

// Err tells a limit that struck from a caller that went away. It goes by what ended
// the context, so that it is nil until then, and the same ever after.
func (g *guard) Err() error {
	err := g.ctx.Err()
	if err == nil {
		return nil
	}
	if _, struck := errors.AsType[*TimeoutError](context.Cause(g.ctx)); struck {
		return context.DeadlineExceeded
	}
	return err
}

// Value is the wire's trace, or else that of the caller's context.
func (g *guard) Value(key any) any {
	if v := g.wire.value(g.ctx, g, key); v != nil {
		return v
	}
	return g.ctx.Value(key)
}

// awaited reports whether the end of the attempt matters to anybody.
func (c *Call) awaited() bool { return c.tail.count != 0 || c.span != nil }

// wait starts what can end an open attempt beside its reader, now that the
// policies have done with its head: its limits, and the end of its caller's context, for
// callers that then neither read on nor close. From then on the attempt must be come to
// through its span.
func (c *Call) wait() {
	s, caller := c.open(), c.flight.ctx
	deadline := c.ownDeadline()
	limited := s.guard != nil && (deadline != 0 || c.limits.idle != 0)
	watched := c.tail.count != 0 && caller.Done() != nil
	if c.upgraded() || !limited && !watched {
		s.body = true // nobody else is there yet
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.body = true
	if limited {
		g := s.guard
		g.deadline, g.total, g.idle = deadline, c.limits.totalScope(), c.limits.idle
		g.timer = g.upstream.timer(s)
		_, wait := g.due()
		g.timer.Reset(wait)
	}
	if s.watched = watched; watched {
		s.unwatch = context.AfterFunc(caller, func() { s.cut(context.Cause(caller)) })
	}
}

// ownDeadline is when the total limit strikes, 0 where there is none or the
// caller's own deadline, which does all that it would, comes first.
func (c *Call) ownDeadline() time.Duration {
	limit := c.deadline()
	if caller, ok := c.flight.ctx.Deadline(); ok && limit != 0 && caller.Sub(c.flight.upstream.epoch) < limit {
		return 0
	}
	return limit
}

// upgraded reports whether the connection behind the answer is the caller's now:
// neither limits nor the context of the request that led to it end it.
func (c *Call) upgraded() bool { return c.outcome.Is.Any(Upgraded) }

// await says that the caller waits for the next part of the answer, which the
// idle limit is for, and received that it does so no more.
func (s *span) await() {
	if g := s.guard; g != nil && g.idle != 0 {
		g.readBy.Store(int64(after(g.upstream.now(), g.idle)))
	}
}

func (s *span) received() {
	if g := s.guard; g != nil && g.idle != 0 {
		g.readBy.Store(0)
	}
}

// due says which limit the body has reached, or how long until one can be
// reached. Between reads no idle limit runs: a slow caller is not the upstream's
// silence.
func (g *guard) due() (scope Scope, wait time.Duration) {
	now := g.upstream.now()
	if g.deadline != 0 {
		if wait = g.deadline - now; wait <= 0 {
			return g.total, 0
		}
	}
	if g.idle != 0 {
		quiet := g.idle
		if by := time.Duration(g.readBy.Load()); by != 0 {
			if quiet = by - now; quiet <= 0 {
				return ScopeIdle, 0
			}
		}
		if wait == 0 || quiet < wait {
			wait = quiet
		}
	}
	return 0, wait
}

// strike is the function of timer t.
func (s *span) strike(t *timer) {
	s.mu.Lock()
	c, g := s.call, s.guard
	if c == nil || g.timer != t || g.struck.Load() != 0 {
		s.mu.Unlock() // stopped, settled, or armed anew in the meantime
		return
	}
	scope, wait := g.scope, time.Duration(0)
	if s.body {
		scope, wait = g.due()
	} else if scope == c.limits.totalScope() {
		wait = c.deadline() - g.upstream.now() // an upload may have moved it
	}
	if wait > 0 {
		g.timer.Reset(wait)
		s.mu.Unlock()
		return
	}
	g.struck.Store(int32(scope))
	limit := c.timeoutError(scope, nil)
	body, exchange := s.body, c.flight.exchange
	s.mu.Unlock()
	g.cancel(limit)
	if body {
		s.cut(limit)
	} else if x, ok := exchange.(interface{ LimitFired() }); ok {
		x.LimitFired() // it may wait for something that does not honor the context
	}
}

// end ends an attempt whose head is done with, and runs its hooks. It gives the
// error to show for it. Who comes while the hooks run waits for them, and is told
// what they ended with.
func (s *span) end(err error) error {
	if c := s.take(); c != nil {
		return s.conclude(c, err)
	}
	s.waitForEnd()
	if s.err != nil {
		return s.err
	}
	return err
}

// cut ends the attempt in a goroutine of the runtime, without waiting for hooks that
// are already running.
func (s *span) cut(err error) {
	defer func() {
		if p := recover(); p != nil {
			report.Panic("a hook or listener at the end of a call", p)
		}
	}()
	if c := s.take(); c != nil {
		_ = s.conclude(c, err)
	}
}

// close ends an attempt whose caller reads no further, which closing does. That is
// no failure, unless the caller had left already, or a limit had struck; nor is what a
// Read makes of it meanwhile. It waits for nobody: a hook may be what closes.
func (s *span) close(closing func() error) error {
	if s.claim() {
		defer s.closed() // also when closing panics
	}
	return closing()
}

// closed ends an attempt whose body was closed.
func (s *span) closed() {
	c := s.detach()
	var why error
	if !c.upgraded() {
		if why = context.Cause(c.flight.ctx); why == nil && s.guard.hasStruck() != 0 {
			why = context.DeadlineExceeded
		}
	}
	_ = s.conclude(c, why)
}

// claim is true for the first who comes to end the attempt.
func (s *span) claim() bool {
	return s.stage.Load() == spanLive && s.stage.CompareAndSwap(spanLive, spanEnding)
}

// take gives the attempt to the first who comes to end it, and nil to all others.
func (s *span) take() *Call {
	if !s.claim() {
		return nil
	}
	return s.detach()
}

// detach takes the attempt away from what limits and watches it.
func (s *span) detach() *Call {
	if s.guard == nil && !s.watched {
		return s.call
	}
	s.mu.Lock()
	c := s.call
	s.call = nil
	s.guard.stop()
	unwatch := s.unwatch
	s.mu.Unlock()
	if unwatch != nil {
		unwatch()
	}
	s.guard.release(nil)
	return c
}

// conclude runs the hooks of an attempt that was taken, with err if there is one.
func (s *span) conclude(c *Call, err error) error {
	var change func(*Call, *Outcome)
	if err != nil {
		change = func(c *Call, end *Outcome) { c.broken(end, err) }
	}
	return s.finish(c, change)
}

// finish is conclude with a change of one's own.
func (s *span) finish(c *Call, change func(*Call, *Outcome)) (shown error) {
	defer func() { // also when a hook panics
		s.err = shown
		if s.stage.Swap(spanEnded) == spanAwaited {
			close(s.done)
		}
	}()
	shown = c.conclude(change).Err
	if recycle := c.flight.recycle; s.body && recycle != nil {
		recycle(c.flight)
	}
	return shown
}

// waitForEnd returns when the hooks have run.
func (s *span) waitForEnd() {
	if s.stage.Load() == spanEnded {
		return
	}
	s.mu.Lock()
	if s.done == nil {
		s.done = make(chan struct{})
		s.stage.CompareAndSwap(spanEnding, spanAwaited)
	}
	s.mu.Unlock()
	if s.stage.Load() == spanAwaited {
		<-s.done
	}
}

// hasStruck gives the limit that ended the attempt, 0 for none.
func (g *guard) hasStruck() Scope {
	if g == nil {
		return 0
	}
	return Scope(g.struck.Load()) //nolint:gosec // only Scopes are stored
}

// disarm stops the timer of c's attempt. It returns the limit that has fired, or that was
// about to: then it has, unless an upload has moved it. The caller holds the span's mu.
func (g *guard) disarm(c *Call) Scope {
	if !g.stop() && (g.scope != c.limits.totalScope() || c.deadline() <= g.upstream.now()) {
		g.struck.CompareAndSwap(0, int32(g.scope))
	}
	return g.hasStruck()
}

// stop ends the timer's run and gives it back to the pool. It is false when the
// timer's function has run, or is about to. The caller holds the span's mu.
func (g *guard) stop() bool {
	if g == nil || g.timer == nil {
		return true
	}
	t := g.timer
	g.timer = nil
	return t.stop()
}

// release frees the attempt's context.
func (g *guard) release(cause error) {
	if g == nil {
		return
	}
	if cause == nil {
		cause = errEnded
	}
	g.cancel(cause)
}
