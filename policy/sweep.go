package policy

import (
	"context"
	"runtime/debug"
	"sync"
	"sync/atomic"
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
//
// A Call that is reused stays in the list, so that its next response need not take the lock. The next
// check removes it if it has no open response then.
type sweep struct {
	mu    sync.Mutex
	calls []*Call     // guarded by mu
	timer *time.Timer // nil before its first use; guarded by mu
	armed bool        // guarded by mu
}

// watching is what the sweep keeps in a Call.
type watching struct {
	open   atomic.Pointer[Stream] // the watched response; nil for none, or one that has ended since
	listed atomic.Bool            // the sweep has the Call; written with its mu held
	held   atomic.Bool            // the sweep reads the Call, or has set stop: the end of the response must lock its mu
	index  int                    // in the sweep's list; guarded by mu
	last   *Stream                // the response that the sweep checked last; guarded by mu
	checks uint8                  // how often it did so; guarded by mu
	stop   func() bool            // ends the response's own watch; nil while the sweep checks it; guarded by mu
}

// watch makes the end of the caller's context end s, the open response of the attempt of.
func (c *Chain) watch(of *Call, s *Stream) {
	w := &of.watching
	w.open.Store(s)
	if w.listed.Load() {
		return
	}
	c.sweep.mu.Lock()
	defer c.sweep.mu.Unlock()
	c.sweep.list(of)
	if !c.sweep.armed {
		c.armSweep()
	}
}

// unwatch ends the watch of of, which may then be used for another call. The sweep sets held before it
// reads the state of the response, and that state changes before unwatch reads held, so that at least
// one of them notices the other: the sweep never reads a Call that is in use for another call.
func (c *Chain) unwatch(of *Call) {
	w := &of.watching
	if of.reused() && !w.held.Load() {
		return
	}
	c.sweep.mu.Lock()
	defer c.sweep.mu.Unlock()
	if w.stop != nil {
		w.stop()
		w.stop = nil
	}
	w.held.Store(false)
	w.open.Store(nil)
	if w.listed.Load() {
		c.sweep.remove(of)
	}
}

// list adds of to the list. The caller holds mu.
func (w *sweep) list(of *Call) {
	if of.watching.listed.Load() {
		return // a check that was about to remove it has noticed the response
	}
	of.watching.index = len(w.calls)
	w.calls = append(w.calls, of)
	of.watching.listed.Store(true)
}

// remove removes of from the list. The caller holds mu.
func (w *sweep) remove(of *Call) {
	i, last := of.watching.index, len(w.calls)-1
	moved := w.calls[last]
	w.calls[i], moved.watching.index = moved, i
	w.calls[last] = nil
	w.calls = w.calls[:last]
	of.watching.last, of.watching.checks = nil, 0
	of.watching.listed.Store(false)
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

// tick ends the attempts whose caller's context has ended. It is the function of the timer.
func (c *Chain) tick() {
	for _, end := range c.canceled() {
		end()
	}
}

// canceler returns a function that ends s because the caller's context has ended.
func (s *Stream) canceler(caller context.Context) func() {
	return func() {
		defer func() {
			if p := recover(); p != nil {
				report.Panic(callersContext, p)
			}
		}()
		s.cut(context.Cause(caller))
	}
}

const callersContext = "a method of a caller's context"

// canceled returns functions that end the attempts whose caller's context has ended. It arms the timer
// again if other attempts remain.
func (c *Chain) canceled() (ends []func()) {
	w := &c.sweep
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.calls) - 1; i >= 0; i-- { // a removal moves the last one, which was checked
		if end := w.check(w.calls[i]); end != nil {
			ends = append(ends, end)
		}
	}
	if w.armed = len(w.calls) != 0; w.armed {
		c.armSweep()
	} else {
		w.calls = nil // it may be large after many open responses
	}
	return ends
}

// over reports whether the response has ended.
func (s *Stream) over() bool { return s == nil || atomic.LoadUint32(&s.state) >= stateEnding }

// check returns a function that ends the open response of of if its caller's context has ended, else
// nil. It removes a Call without an open response, or whose response now has its own watch. If the
// context panics, the function reports that, because a logger must not run under mu. The caller holds
// mu.
func (w *sweep) check(of *Call) (end func()) {
	state := &of.watching
	state.held.Store(true) // from now on unwatch waits for mu
	defer func() {
		if p := recover(); p != nil { // held stays set, which only costs time
			stack := debug.Stack()
			end = func() { report.Recovered(callersContext, p, stack) }
		}
	}()
	s := state.open.Load()
	if s.over() {
		w.remove(of)
		state.held.Store(false)
		if !state.open.CompareAndSwap(s, nil) {
			w.list(of) // its next response found it in the list
		}
		return nil
	}
	if state.last != s {
		state.last, state.checks = s, 0
	}
	state.checks++
	switch caller := of.frame.ctx; {
	case caller.Err() != nil:
		end = s.canceler(caller)
	case state.checks >= sweeps:
		w.remove(of)
		state.stop = context.AfterFunc(caller, s.canceler(caller))
		return nil // still held, so that the end stops it
	}
	state.held.Store(false)
	return end
}
