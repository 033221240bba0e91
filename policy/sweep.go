package policy

import (
	"context"
	"runtime/debug"
	"slices"
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
// A Call whose storage is reused stays in the list when its response ends, so that its next response
// need not take the lock. The next check removes it if it has no open response by then.
type sweep struct {
	mu    sync.Mutex
	calls []*Call     // guarded by mu
	timer *time.Timer // nil before its first use; guarded by mu
	armed bool        // guarded by mu
}

// watching is the part of a Call that belongs to the sweep.
type watching struct {
	open   atomic.Pointer[Stream] // the watched response; nil for none, or one that has ended since
	listed atomic.Bool            // the Call is in the sweep's list; written with the sweep's mu held
	held   atomic.Bool            // the sweep reads the Call, or has set stop: then unwatch must lock the sweep's mu
	index  int                    // in the sweep's list; guarded by mu
	last   *Stream                // the response that the sweep checked last; guarded by mu
	checks uint8                  // how many times it checked last; guarded by mu
	stop   func() bool            // ends the response's own watch; nil while the sweep checks it; guarded by mu
}

// watch makes the end of the caller's context end s, the open response of call.
func (c *Chain) watch(call *Call, s *Stream) {
	w := &call.watching
	w.open.Store(s)
	if w.listed.Load() {
		return
	}
	c.sweep.mu.Lock()
	defer c.sweep.mu.Unlock()
	c.sweep.list(call)
	if !c.sweep.armed {
		c.armSweep()
	}
}

// unwatch ends the watch of call, whose storage may then be used for another one. The response's state
// has changed by then. The sweep first sets held and then reads that state; unwatch reads held after
// the change. So either the sweep sees that the response has ended and reads no more of call, or
// unwatch sees held and waits for the sweep.
func (c *Chain) unwatch(call *Call) {
	w := &call.watching
	if call.reused() && !w.held.Load() {
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
		c.sweep.remove(call)
	}
}

// list adds call to the list. The caller holds mu.
func (w *sweep) list(call *Call) {
	state := &call.watching
	if state.listed.Load() {
		return // check listed it again before watch took mu
	}
	state.index = len(w.calls)
	w.calls = append(w.calls, call)
	state.listed.Store(true)
}

// remove removes call from the list. The caller holds mu.
func (w *sweep) remove(call *Call) {
	state, last := &call.watching, len(w.calls)-1
	moved := w.calls[last]
	w.calls[state.index], moved.watching.index = moved, state.index
	w.calls[last] = nil
	w.calls = w.calls[:last]
	state.last, state.checks = nil, 0
	state.listed.Store(false)
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
		if cause := causeOf(caller); cause != nil {
			s.cut(cause)
		}
	}
}

// causeOf returns the cause of a caller's context, nil if it has not ended. It is for goroutines of the
// runtime: a context that panics counts as one that has not ended, and is reported.
func causeOf(caller context.Context) (cause error) {
	defer func() {
		if p := recover(); p != nil {
			report.Panic(callersContext, p)
		}
	}()
	return context.Cause(caller)
}

const callersContext = "a method of a caller's context"

// canceled returns functions that end the attempts whose caller's context has ended. It arms the timer
// again if other attempts remain.
func (c *Chain) canceled() (ends []func()) {
	w := &c.sweep
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, call := range slices.Backward(w.calls) { // a removal moves the last one, which was checked
		if end := w.check(call); end != nil {
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

// check returns a function that ends the open response of call if its caller's context has ended, else
// nil. It removes call from the list if it has no open response, or one that now has its own watch. If
// the context panics, the function reports that, because a logger must not run under mu. The caller
// holds mu.
func (w *sweep) check(call *Call) (end func()) {
	state := &call.watching
	state.held.Store(true) // from now on unwatch waits for mu
	defer func() {
		if p := recover(); p != nil { // held stays set, which only costs time
			stack := debug.Stack()
			end = func() { report.Recovered(callersContext, p, stack) }
		}
	}()
	s := state.open.Load()
	if s.over() {
		w.remove(call)
		state.held.Store(false)
		if !state.open.CompareAndSwap(s, nil) {
			w.list(call) // its next response found it in the list
		}
		return nil
	}
	if state.last != s {
		state.last, state.checks = s, 0
	}
	state.checks++
	switch caller := call.frame.ctx; {
	case caller.Err() != nil:
		end = s.canceler(caller)
	case state.checks >= sweeps:
		w.remove(call)
		state.stop = context.AfterFunc(caller, s.canceler(caller))
		return nil // still held, so that the end stops it
	}
	state.held.Store(false)
	return end
}
