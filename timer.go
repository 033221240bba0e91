package pillion

import (
	"sync"
	"time"
)

// timer is a pooled timer that strikes a span. It goes back to its pool only
// when it was stopped in time, so that its function can never hit a later call.
//
// The pool is the upstream's and not the package's: a timer made in one synctest
// bubble must not be used in another.
type timer struct {
	timer *time.Timer
	pool  *sync.Pool
	span  *span
}

// timer gives a stopped timer for s.
func (u *Upstream) timer(s *span) *timer {
	t, ok := u.timers.Get().(*timer)
	if !ok {
		t = &timer{pool: &u.timers}
		t.timer = time.AfterFunc(time.Hour, func() { t.span.strike(t) })
		t.timer.Stop()
	}
	t.span = s
	return t
}

// Reset has the timer strike after d.
func (t *timer) Reset(d time.Duration) { t.timer.Reset(d) }

// stop gives the timer back. It is false when the timer's function has run or is
// about to: then the timer is left to the garbage collector.
func (t *timer) stop() bool {
	if !t.timer.Stop() {
		return false
	}
	t.span = nil
	t.pool.Put(t)
	return true
}
