package policy

import (
	"context"
	"sync"
	"time"

	"github.com/pillion-go/pillion/internal/report"
)

// sweepInterval is how late the end of a caller's context may be noticed, if the caller then
// neither reads on nor closes the response.
const sweepInterval = 100 * time.Millisecond

// sweeps is how often the sweep looks at a response before a watch of its own takes over, which
// costs allocations, but neither time while nothing happens, nor a delay.
const sweeps = 10

// sweep looks at the callers of a chain's open responses, and ends the attempts of those whose
// context has ended. All responses share one timer, which runs while there are new ones. Most
// responses end before they are looked at: a watch for each would cost them more than all else that
// the engine does for a call.
type sweep struct {
	mu    sync.Mutex
	first *Stream     // guarded by mu, like the links of the Streams
	timer *time.Timer // nil until it is needed; guarded by mu
	armed bool        // guarded by mu
}

// link is the place of a Stream in a sweep.
type link struct {
	caller         context.Context //nolint:containedctx // what is looked at; nil for a Stream that nothing watches
	previous, next *Stream
	seen           int         // how often it was looked at
	stop           func() bool // ends its own watch; nil while the sweep looks
}

// watch has the end of the caller's context end the attempt of s.
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

// armSweep has the timer fire at the next tenth of a second of the chain's clock. The caller holds
// the sweep's mu.
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

// remove takes s out of the list. The caller holds mu.
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

// tick ends the attempts of callers that are gone. It is the function of the timer.
func (c *Chain) tick() {
	for _, s := range c.gone() {
		s.left()
	}
}

// left ends the attempt of a caller whose context has ended.
func (s *Stream) left() { s.cut(context.Cause(s.link.caller)) }

// gone returns the Streams whose caller's context has ended, and arms the timer again if there are
// any left.
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
		if s.link.seen++; s.link.caller.Err() != nil {
			gone = append(gone, s)
		} else if s.link.seen >= sweeps {
			w.remove(s)
			s.link.stop = context.AfterFunc(s.link.caller, s.left)
		}
		s = next
	}
	return gone
}
