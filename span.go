package pillion

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// span is the part of an attempt that may outlive it: the wire holds it as its
// context, the caller as a body, a timer and the caller's context as what they end. All
// of them come to the attempt through it, and the first one who ends it takes it away;
// so the Call itself, which is large, can be used again.
type span struct {
	upstream *Upstream
	ctx      context.Context //nolint:containedctx // the attempt's own, without the deadline; nil if it has none
	cancel   context.CancelCauseFunc
	until    time.Duration // on the upstream's clock: what Deadline reports; 0 for the parent's
	idle     time.Duration // the limit on each read of the body
	readBy   atomic.Int64  // while the body is read under that limit: when the read must be over
	struck   atomic.Int32  // the Scope that ended the attempt; 0 for none

	mu      sync.Mutex
	scope   Scope         // the limit that timer is armed for; guarded by mu
	body    bool          // the head is done with, timer is armed for the body; guarded by mu
	call    *Call         // nil once the attempt ends; guarded by mu
	ended   bool          // and its hooks have run; guarded by mu
	done    chan struct{} // made for those who wait for that; guarded by mu
	err     error         // what those are told who come too late; guarded by mu
	timer   *timer        // guarded by mu
	unwatch func() bool   // ends the watch of the caller's context; guarded by mu
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
		c.span.upstream, c.span.call = c.flight.upstream, c
	}
	return c.span
}

// wire is a span as the context that the wire sees.
type wire span

// Deadline tells the wire when the attempt will be cut off.
func (w *wire) Deadline() (time.Time, bool) {
	if w.until == 0 {
		return w.ctx.Deadline()
	}
	return w.upstream.epoch.Add(w.until), true
}

// Done is closed when the attempt has ended, or must end.
func (w *wire) Done() <-chan struct{} { return w.ctx.Done() }

// Err tells a limit that struck from a caller that went away.
func (w *wire) Err() error {
	if w.struck.Load() != 0 {
		return context.DeadlineExceeded
	}
	return w.ctx.Err()
}

// Value is that of the caller's context.
func (w *wire) Value(key any) any { return w.ctx.Value(key) }

// awaited reports whether the end of the attempt matters to anybody.
func (c *Call) awaited() bool { return c.tail.count != 0 || c.span != nil }

// wait starts what can end an open attempt beside its reader, now that the
// policies have done with its head: its limits, and the end of its caller's context, for
// callers that then neither read on nor close. From then on the attempt must be come to
// through its span.
func (c *Call) wait() {
	s, caller := c.open(), c.flight.ctx
	limited := s.cancel != nil && (c.limits.deadline != 0 || c.limits.idle != 0)
	watched := c.tail.count != 0 && caller.Done() != nil
	if !limited && !watched {
		s.body = true // nobody else is there yet
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.body = true
	if limited {
		s.idle = c.limits.idle
		s.timer = s.upstream.timer(s)
		_, wait := s.due(c)
		s.timer.Reset(wait)
	}
	if watched {
		s.unwatch = context.AfterFunc(caller, func() { _, _ = s.finish(caller.Err(), nil) })
	}
}

// await says that the caller waits for the next part of the answer, which the
// idle limit is for, and received that it does so no more.
func (s *span) await() {
	if s.idle != 0 {
		s.readBy.Store(int64(s.upstream.now() + s.idle))
	}
}

func (s *span) received() {
	if s.idle != 0 {
		s.readBy.Store(0)
	}
}

// due says which limit the body has reached, or how long until one can be
// reached. Between reads no idle limit runs: a slow caller is not the upstream's
// silence.
func (s *span) due(c *Call) (scope Scope, wait time.Duration) {
	l, now := &c.limits, s.upstream.now()
	if l.deadline != 0 {
		if wait = l.deadline - now; wait <= 0 {
			return ScopeTotal, 0
		}
	}
	if l.idle != 0 {
		quiet := l.idle
		if by := time.Duration(s.readBy.Load()); by != 0 {
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

// strike is the timer's function.
func (s *span) strike() {
	s.mu.Lock()
	c, scope := s.call, s.scope
	if c == nil || s.timer == nil || s.struck.Load() != 0 {
		s.mu.Unlock() // stopped, or settled, in the meantime
		return
	}
	if s.body {
		var wait time.Duration
		if scope, wait = s.due(c); scope == 0 {
			s.timer.Reset(wait)
			s.mu.Unlock()
			return
		}
	}
	s.struck.Store(int32(scope))
	limit := c.timeoutError(scope, nil)
	body := s.body
	s.mu.Unlock()
	s.cancel(limit)
	if body {
		_, _ = s.finish(limit, nil)
	}
}

// end ends an attempt whose head is done with, and runs its hooks. It gives the
// error to show for it. Who comes while the hooks run waits for them, and is told
// what they ended with.
func (s *span) end(err error) error {
	if first, shown := s.finish(err, nil); first {
		return shown
	}
	s.mu.Lock()
	if !s.ended {
		if s.done == nil {
			s.done = make(chan struct{})
		}
		done := s.done
		s.mu.Unlock()
		<-done
		s.mu.Lock()
	}
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	return err
}

// finish ends the attempt if it has not ended yet: with err, or with what change
// makes of its outcome. It waits for nobody.
func (s *span) finish(err error, change func(*Call, *Outcome)) (first bool, shown error) {
	s.mu.Lock()
	c := s.call
	if c == nil {
		s.mu.Unlock()
		return false, nil
	}
	s.call = nil
	s.stop()
	unwatch, body := s.unwatch, s.body
	s.mu.Unlock()
	if unwatch != nil {
		unwatch()
	}
	s.release(nil)
	if change == nil && err != nil {
		change = func(c *Call, end *Outcome) { c.broken(end, err) }
	}
	defer func() { s.settle(shown) }() // also when a hook panics
	shown = c.conclude(change).Err
	if recycle := c.flight.recycle; body && recycle != nil {
		recycle(c.flight)
	}
	return true, shown
}

// settle lets those know who wait for the end.
func (s *span) settle(shown error) {
	s.mu.Lock()
	s.ended, s.err = true, shown
	if s.done != nil {
		close(s.done)
	}
	s.mu.Unlock()
}

// close ends an attempt whose caller reads no further. That is no failure, unless
// the caller had left already, or a limit had struck. It waits for nobody: a hook may
// be what closes.
func (s *span) close() {
	s.mu.Lock()
	c := s.call
	var err error
	if c != nil {
		if err = c.flight.ctx.Err(); err == nil && s.struck.Load() != 0 {
			err = context.DeadlineExceeded
		}
	}
	s.mu.Unlock()
	_, _ = s.finish(err, nil)
}

// stop ends the timer's run and gives it back to the pool. It is false when the
// timer's function has run, or is about to. The caller holds mu.
func (s *span) stop() bool {
	t := s.timer
	if t == nil {
		return true
	}
	s.timer = nil
	return t.stop()
}

// release frees the attempt's context.
func (s *span) release(cause error) {
	if s.cancel == nil {
		return
	}
	if cause == nil {
		cause = errEnded
	}
	s.cancel(cause)
}
