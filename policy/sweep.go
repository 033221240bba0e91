package policy

import (
	"context"
	"sync"
	"time"

	"github.com/pillion-go/pillion/internal/report"
)

// sweepInterval bounds how late the end of a caller's context is noticed, if the caller then
// neither reads nor closes the response.
const sweepInterval = 100 * time.Millisecond

// sweeps is how often the sweep checks a response before the response gets its own watch. A watch
// costs allocations, but no time while nothing happens, and it notices the end without delay.
const sweeps = 10

// sweep checks the callers of a chain's open responses, and ends the attempts whose caller's
// context has ended. All responses share one timer, which runs while there are new responses. Most
// responses end before the first check: a watch for each would cost them more than the rest of the
// engine does for a call.
type sweep struct {
	mu    sync.Mutex
	first *Stream     // guarded by mu, as the links of the Streams are
	timer *time.Timer // nil before its first use; guarded by mu
	armed bool        // guarded by mu
}

// link is the list entry of a Stream in a sweep.
type link struct {
	caller         context.Context //nolint:containedctx // the context to check; nil for a Stream that nothing watches
	previous, next *Stream
	stop           func() bool // ends the Stream's own watch; nil while the sweep checks it
}

// watch makes the end of the caller's context end the attempt of s.
func (c *Chain) watch(caller context.Context, s *Stream) {
	w := &c.sweep
	w.mu.Lock()
	defer w.mu.Unlock()
	s.link = link{caller: caller, next: w.first}
	if w.first != nil {
		w.first.link.previous = s
	}
	w.first = s
	if !w.armed {
		c.armSweep()
	}
}

// armSweep sets the timer to the next tenth of a second of the chain's clock. The caller holds the
// sweep's mu.
func (c *Chain) armSweep() {
	w := &c.sweep
	wait := sweepInterval - c.now()%sweepInterval
	if w.armed = true; w.timer == nil {
		w.timer = time.AfterFunc(wait, c.tick)
	} else {
		w.timer.Reset(wait)
	}
}

// unwatch ends the watch of s.
func (c *Chain) unwatch(s *Stream) {
	w := &c.sweep
	w.mu.Lock()
	defer w.mu.Unlock()
	if stop := s.link.stop; stop != nil {
		stop()
	} else {
		w.remove(s)
	}
}

// remove removes s from the list. The caller holds mu.
func (w *sweep) remove(s *Stream) {
	l := &s.link
	if l.next != nil {
		l.next.link.previous = l.previous
	}
	if l.previous != nil {
		l.previous.link.next = l.next
	} else {
		w.first = l.next
	}
	l.previous, l.next = nil, nil
}

// tick ends the attempts whose caller's context has ended. It is the function of the timer.
func (c *Chain) tick() {
	for _, s := range c.gone() {
		s.left()
	}
}

// left ends the attempt because the caller's context has ended.
func (s *Stream) left() { s.cut(context.Cause(s.link.caller)) }

// gone returns the Streams whose caller's context has ended, and arms the timer again if any others
// remain.
func (c *Chain) gone() (gone []*Stream) {
	w := &c.sweep
	w.mu.Lock()
	defer w.mu.Unlock()
	defer func() {
		if p := recover(); p != nil {
			report.Panic("a method of a caller's context", p)
		}
		if w.armed = w.first != nil; w.armed {
			c.armSweep()
		}
	}()
	for s := w.first; s != nil; {
		next := s.link.next
		if s.seen++; s.link.caller.Err() != nil {
			gone = append(gone, s)
		} else if s.seen >= sweeps {
			w.remove(s)
			s.link.stop = context.AfterFunc(s.link.caller, s.left)
		}
		s = next
	}
	return gone
}
