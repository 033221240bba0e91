package policy

import (
	"context"
	"sync"
	"time"

	"github.com/pillion-go/pillion/internal/report"
)

// sweepInterval bounds how late the end of a caller's context is noticed, if the caller then
// neither reads nor closes the response.
const sweepInterval = 50 * time.Millisecond

// sweeps is the number of times the sweep checks a response before the response has its own watch. A watch
// costs allocations, but no time while nothing happens, and it notices the end without delay.
const sweeps = 20

// sweep checks the callers of a chain's open responses, and ends the attempts whose caller's
// context has ended. All responses share one timer, which runs while there are new responses. Most
// responses end before the first check: a watch for each would cost them more than the rest of the
// engine does for a call.
type sweep struct {
	mu    sync.Mutex
	first *Call       // guarded by mu, as the links of the Calls are
	timer *time.Timer // nil before its first use; guarded by mu
	armed bool        // guarded by mu
}

// link is the list entry of an attempt in a sweep.
type link struct {
	watched        bool  // set before other goroutines have the Stream
	seen           uint8 // the number of times the sweep checked the attempt
	previous, next *Call
	stop           func() bool // ends the attempt's own watch; nil while the sweep checks it
}

// watch makes the end of the caller's context end the attempt of of.
func (c *Chain) watch(of *Call) {
	w := &c.sweep
	w.mu.Lock()
	defer w.mu.Unlock()
	of.link = link{watched: true, next: w.first}
	if w.first != nil {
		w.first.link.previous = of
	}
	w.first = of
	if !w.armed {
		c.armSweep()
	}
}

// armSweep sets the timer to the next multiple of sweepInterval on the chain's clock. The caller holds the
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

// unwatch ends the watch of of, which may then be used for another call.
func (c *Chain) unwatch(of *Call) {
	w := &c.sweep
	w.mu.Lock()
	defer w.mu.Unlock()
	if stop := of.link.stop; stop != nil {
		stop()
	} else {
		w.remove(of)
	}
}

// remove removes of from the list. The caller holds mu.
func (w *sweep) remove(of *Call) {
	l := &of.link
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
	for _, end := range c.canceled() {
		end()
	}
}

// canceler returns a function that ends the attempt because the caller's context has ended. When it
// runs, the Call may be in use for another call.
func (c *Call) canceler() func() {
	s, caller := c.stream, c.frame.ctx
	return func() { s.cut(context.Cause(caller)) }
}

// canceled returns functions that end the attempts whose caller's context has ended. It arms the timer
// again if other attempts remain.
func (c *Chain) canceled() (ends []func()) {
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
	for of := w.first; of != nil; {
		l, caller := &of.link, of.frame.ctx
		next := l.next
		if l.seen++; caller.Err() != nil {
			ends = append(ends, of.canceler())
		} else if l.seen >= sweeps {
			w.remove(of)
			l.stop = context.AfterFunc(caller, of.canceler())
		}
		of = next
	}
	return ends
}
