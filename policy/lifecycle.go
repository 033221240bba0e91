package policy

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pillion-go/pillion/internal/report"
)

// The states of an attempt. It only moves down this table.
//
//	state     meaning                                     moved on by
//	trying    it runs, or has ended without an open       its goroutine: Attempt.Open; never if there
//	          response                                    is no open response
//	open      the response headers have arrived, and      its goroutine: Attempt.Watch hands the response
//	          policies read them                          to the caller, Attempt.Drop ends it
//	watched   the caller has the response                 the first of: its reader (Stream.End, Close),
//	                                                      a timeout, the end of the caller's context
//	ending    the hooks run                               the goroutine that ended it
//	awaited   the hooks run, and another goroutine waits  the goroutine that ended it
//	ended     the hooks have run                          nothing
//
// Until Watch, the Call holds the state; one goroutine uses it at a time. After Watch, the Stream
// holds it. The Stream may outlive the Call: the end of the attempt detaches the Call, which is
// large, so that it can be reused.
//
// A timeout that fires before Watch only ends the attempt's context: Try returns, and settle
// records the timeout. One that fires after Watch ends the attempt.
const (
	stateTrying uint32 = iota
	stateOpen
	stateWatched
	stateEnding
	stateAwaited
	stateEnded
)

// Stream is the part of an attempt that may outlive it. An adapter holds it for as long as the
// caller holds the response, and may embed it in its own storage: see [Storage]. The reader, a
// timer and the end of the caller's context all end the attempt through its Stream: the first ends
// it, and the later ones wait for that. From [Attempt.Watch] on, all methods are safe for
// concurrent use. They do nothing on a nil Stream.
type Stream struct {
	chain *Chain
	state uint32 // accessed atomically, except for the write in Watch
	mu    sync.Mutex
	own   *StreamLimits // nil for none; written before other goroutines have the Stream
	call  *Call         // nil after the attempt has ended; guarded by mu from Watch on
	end   *streamEnd    // nil for a clean end that nothing waits for; guarded by mu
}

// streamEnd holds the fields of a [Stream] that most do not need. They are apart so that a Stream and
// its body fit in one cache line.
type streamEnd struct {
	err  error         // what a later End returns; nil until stateEnded
	done chan struct{} // closed at stateEnded; nil if nothing waits for it
}

// StreamLimits is the part of a [Stream] that only an attempt with a context of its own needs: that
// context and the limits on its time.
type StreamLimits struct {
	cancellation               // of the attempt's context
	until        time.Duration // on the chain's clock: the deadline to propagate; 0 for that of the parent
	deadline     time.Duration // on the chain's clock: when the body must have ended; 0 for no limit
	idle         time.Duration // the limit on each read of the body
	readBy       atomic.Int64  // while a read under that limit runs: when it must have returned
	fired        atomic.Int32  // the Scope whose timeout fired; 0 for none
	total        Scope         // the scope of deadline
	quiet        Scope         // the scope of idle
	scope        Scope         // the limit that timer is armed for; 0 after the response headers; guarded by mu
	late         bool          // the per-try timeout fired, and did not end the attempt; guarded by mu
	headers      bool          // a server sent or a client received them in time, or the outcome is final; guarded by mu
	timer        *timer        // armed for scope, or for the body; guarded by mu
}

// openStream returns the Stream of the attempt. The first call makes it.
func (c *Call) openStream() *Stream {
	if c.stream == nil {
		if storage := c.frame.storage; storage != nil {
			c.hold(storage.NewStream((*Attempt)(c)), nil)
		} else {
			c.hold(&Stream{}, nil)
		}
	}
	return c.stream
}

// limitedStream makes the Stream of an attempt with a context of its own.
func (c *Call) limitedStream() (*Stream, *StreamLimits) {
	var s *Stream
	var own *StreamLimits
	if storage := c.frame.storage; storage != nil {
		if s, own = storage.NewLimitedStream((*Attempt)(c)); own == nil || own.parent != nil {
			panic("policy: Storage.NewLimitedStream returned nil, or StreamLimits that were used before")
		}
	} else {
		limited := &struct {
			s   Stream
			own StreamLimits
		}{}
		s, own = &limited.s, &limited.own
	}
	c.hold(s, own)
	return s, own
}

// hold makes s the Stream of the attempt.
func (c *Call) hold(s *Stream, own *StreamLimits) {
	if s == nil || s.chain != nil {
		panic("policy: a Storage returned nil, or a Stream that was used before")
	}
	s.call, s.chain, s.own = c, c.frame.chain, own
	c.stream = s
}

// Pending returns the attempt whose open response the caller will read, if a policy needs its end. It
// returns nil if there is nothing to watch.
func (o *Outcome) Pending() *Attempt {
	if !o.Open() || o.open.hooks.count == 0 && o.open.stream == nil {
		return nil
	}
	return (*Attempt)(o.open)
}

// Watch hands the open response to the caller. The policies must be done with its headers. From then
// on only the attempt's [Stream] ends it: its reader, a timeout, or the end of the caller's context.
// The end of the context is noticed up to 50ms late if the caller neither reads nor closes the
// response. The Attempt must not be used after Watch.
func (a *Attempt) Watch() {
	if a.state != stateOpen {
		panic("policy: Attempt.Watch: the response is not open, or the caller already has it")
	}
	c := a.Call()
	s, caller := c.openStream(), c.frame.ctx
	watched := c.hooks.count != 0 && caller.Done() != nil && !c.upgraded
	if c.state = stateWatched; s.own == nil {
		s.state = stateWatched // no other goroutine has it yet, and an atomic write costs more
	}
	if watched {
		c.watched = true
		s.chain.watch(c, s)
	}
	if s.own != nil {
		s.watchLimited(c) // a timer may end it immediately
	}
}

// watchLimited moves a Stream with a timer to stateWatched.
func (s *Stream) watchLimited(c *Call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	atomic.StoreUint32(&s.state, stateWatched)
	s.limitBody(c)
}

// limitBody limits the rest of the response. A timer that waited for the response headers continues: it
// fires before the total limit, and then waits for the rest. The caller holds mu.
func (s *Stream) limitBody(c *Call) {
	l := s.own
	if !c.upgraded {
		l.deadline, l.total, l.idle, l.quiet = c.ownDeadline(), c.limits.totalScope(), c.limits.idle, c.limits.silent()
	}
	switch {
	case l.deadline == 0 && l.idle == 0:
		s.stop()
	case l.timer == nil || l.idle != 0:
		s.stop()
		_, wait := l.due(s.chain.now())
		s.start(0, wait)
	}
}

// End ends the attempt and runs its hooks. A nil err means that the whole response was received; any
// other err is the reason why it broke off. End returns the error to show the caller; a timeout or cancellation
// takes precedence over err. Later calls wait for the first call's hooks and return its error, or
// err after a clean end. Calling End from a hook deadlocks.
func (s *Stream) End(err error) error {
	if s == nil {
		return err
	}
	if c := s.take(); c != nil {
		return s.conclude(c, err)
	}
	s.waitForEnd()
	return s.errorAfter(err)
}

// errorAfter returns the error of an attempt that has ended, or err after a clean end.
func (s *Stream) errorAfter(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end != nil && s.end.err != nil {
		return s.end.err
	}
	return err
}

// Close ends the attempt of a caller that stops reading. It calls closing and returns its error.
// The end is not a failure, unless the caller was canceled before or a timeout had fired. The error of
// a concurrent Read does not count. Close does not wait for hooks that already run, so a
// hook may close a response.
func (s *Stream) Close(closing func() error) error {
	if s.claim() {
		defer s.closed() // also when closing panics
	}
	return closing()
}

// Unwound ends the attempt of a reader that panicked or ended its goroutine.
func (s *Stream) Unwound() { _ = s.End(errUnwound) }

// closed ends an attempt whose response was closed.
func (s *Stream) closed() {
	c := s.detach()
	var why error
	if !c.upgraded {
		if why = context.Cause(c.frame.ctx); why == nil && s.firedScope() != 0 {
			why = context.DeadlineExceeded
		}
	}
	_ = s.conclude(c, why)
}

// Cancel ends the attempt's context, if it has its own, with cause.
func (s *Stream) Cancel(cause error) {
	if s != nil && s.own != nil {
		s.own.cancel(cause)
	}
}

// Break ends the attempt with cause, as a timeout does: its context, if it has its own, and the
// response, if the caller has it and does not own its connection. It is for a limit of a policy that
// passes in a goroutine without a caller; a panic of a hook is recovered and reported.
func (s *Stream) Break(cause error) {
	s.Cancel(cause)
	if s != nil && s.breakable() {
		s.cut(cause)
	}
}

// breakable reports whether the caller has the response and does not own its connection.
func (s *Stream) breakable() bool {
	if s.own == nil || atomic.LoadUint32(&s.state) != stateWatched {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.call != nil && !s.call.upgraded
}

// Await reports that the caller waits for the next part of the response. The idle limit runs until
// Received.
func (s *Stream) Await() {
	if s != nil && s.own != nil {
		s.await()
	}
}

// await is apart from Await so that the compiler can inline Await.
func (s *Stream) await() {
	if l := s.own; l.idle != 0 {
		l.readBy.Store(int64(after(s.chain.now(), l.idle)))
	}
}

// Received reports that the next part of the response has arrived, or will not arrive.
func (s *Stream) Received() {
	if s != nil && s.own != nil && s.own.idle != 0 {
		s.own.readBy.Store(0)
	}
}

// cut ends the attempt in a goroutine of the runtime. It does not wait for hooks that are already
// running.
func (s *Stream) cut(err error) {
	defer func() {
		if p := recover(); p != nil {
			report.Panic("a hook or listener at the end of a call", p)
		}
	}()
	if c := s.take(); c != nil {
		_ = s.conclude(c, err)
	}
}

// claim reports whether the caller is the first to end the attempt.
func (s *Stream) claim() bool {
	return s != nil && atomic.LoadUint32(&s.state) == stateWatched && atomic.CompareAndSwapUint32(&s.state, stateWatched, stateEnding)
}

// take returns the Call to the first caller that ends the attempt, and nil to all others.
func (s *Stream) take() *Call {
	if !s.claim() {
		return nil
	}
	return s.detach()
}

// detach takes the Call from the Stream, and stops its timer and its watch.
func (s *Stream) detach() *Call {
	c := s.call
	if s.own != nil {
		s.detachLimited()
	} else {
		s.call = nil // no timer looks at it
	}
	if c != nil && c.watched {
		s.chain.unwatch(c)
	}
	return c
}

// detachLimited is detach for a Stream with a context of its own, which ends.
func (s *Stream) detachLimited() {
	s.mu.Lock()
	s.stop()
	s.call = nil
	s.mu.Unlock()
	s.own.end()
}

// conclude runs the hooks of an attempt that was taken, with err if it is not nil, and then wakes
// the goroutines that wait for them.
func (s *Stream) conclude(c *Call, err error) (shown error) {
	defer func() { // also when a hook panics
		if shown != nil {
			s.setError(shown)
		}
		if atomic.SwapUint32(&s.state, stateEnded) == stateAwaited {
			close(s.end.done)
		}
	}()
	var change func(*Call, *Outcome)
	if err != nil {
		change = func(c *Call, end *Outcome) { c.broken(end, err) }
	}
	storage := c.frame.storage
	shown = c.conclude(change).Err
	if storage != nil {
		storage.Recycle()
	}
	return shown
}

// setError stores the error that a later End returns.
func (s *Stream) setError(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.theEnd().err = err
}

// theEnd returns s.end. The caller holds mu.
func (s *Stream) theEnd() *streamEnd {
	if s.end == nil {
		s.end = &streamEnd{}
	}
	return s.end
}

// waitForEnd returns when the hooks have run. Before Watch it returns immediately.
func (s *Stream) waitForEnd() {
	if state := atomic.LoadUint32(&s.state); state == stateEnded || state < stateEnding {
		return
	}
	s.mu.Lock()
	end := s.theEnd()
	if end.done == nil {
		end.done = make(chan struct{})
		atomic.CompareAndSwapUint32(&s.state, stateEnding, stateAwaited)
	}
	s.mu.Unlock()
	if atomic.LoadUint32(&s.state) == stateAwaited {
		<-end.done
	}
}

// broken classifies why an open response broke off.
func (c *Call) broken(end *Outcome, err error) {
	fired := c.fired()
	switch {
	case c.upgraded:
		c.frame.exchange.Classify((*Attempt)(c), end, err)
	case fired != 0:
		c.timedOut(end, fired, nil)
	case c.frame.ctx.Err() != nil:
		c.leave(c.frame.ctx, end, err)
	default:
		c.frame.exchange.Classify((*Attempt)(c), end, err)
	}
}

// fired returns the limit whose timeout ended the attempt, 0 for none.
func (c *Call) fired() Scope {
	if c.stream == nil {
		return 0
	}
	return c.stream.firedScope()
}

// hooks are the hooks of one attempt.
type hooks struct {
	count uint32
	first [4]waiter
	more  *[]waiter
}

// waiter is a hook and the Call of the policy that registered it.
type waiter struct {
	call *Call
	hook Hook
}

// add registers a hook for the end of this attempt. It runs with the Call of.
func (h *hooks) add(of *Call, hook Hook) {
	switch {
	case int(h.count) < len(h.first):
		h.first[h.count] = waiter{of, hook}
	case h.more == nil:
		h.more = &[]waiter{{of, hook}}
	default:
		*h.more = append(*h.more, waiter{of, hook})
	}
	h.count++
}

// at returns hook i.
func (h *hooks) at(i uint32) waiter {
	if int(i) < len(h.first) {
		return h.first[i]
	}
	return (*h.more)[int(i)-len(h.first)]
}

// conclude runs the hooks of an open attempt on a copy of the outcome, updated by change; the
// original may still be in use.
func (c *Call) conclude(change func(c *Call, end *Outcome)) *Outcome {
	if c.state != stateOpen && c.state != stateWatched {
		return &c.outcome
	}
	c.state = stateEnded
	end := &c.outcome
	if change != nil {
		changed := c.outcome
		change(c, &changed)
		end = &changed
	}
	c.runHooks(0, end)
	return end
}

// runHooks calls the hooks from number i on, one after the other. If one panics, the others still run
// before the panic propagates.
func (c *Call) runHooks(i uint32, end *Outcome) {
	if i+1 == c.hooks.count { // the last one, and usually the only one
		w := c.hooks.at(i)
		w.hook(w.call, end)
		return
	}
	defer func() {
		if i < c.hooks.count {
			c.runHooks(i, end)
		}
	}()
	for i < c.hooks.count {
		w := c.hooks.at(i)
		i++
		w.hook(w.call, end)
	}
}

// timer is a timer that fires for a Stream. It is reused only if it was stopped before it fired, so
// that it can never fire for a later call. It stays with the storage of its call if the storage is
// reused, which is faster than a pool.
//
// Each chain has its own timers, because a timer made in one synctest bubble must not be used in
// another.
type timer struct {
	timer  *time.Timer
	stream *Stream
}

// timer returns a stopped timer for s.
func (c *Call) timer(s *Stream) *timer {
	t := c.spare
	if t == nil {
		t = c.frame.chain.timer()
	}
	c.spare, t.stream = nil, s
	return t
}

// timer returns a stopped timer.
func (c *Chain) timer() *timer {
	t, ok := c.timers.Get().(*timer)
	if !ok {
		t = &timer{}
		t.timer = time.AfterFunc(time.Hour, func() { t.stream.fire(t) })
		t.timer.Stop()
	}
	return t
}

// stop stops the timer of c's attempt, and keeps it. It reports false if the timer's function has
// run or is about to; then the garbage collector frees the timer.
func (t *timer) stop(c *Call) bool {
	if !t.timer.Stop() {
		return false
	}
	t.stream = nil
	if c.reused() {
		c.spare = t
	} else {
		c.frame.chain.timers.Put(t)
	}
	return true
}

// start makes a timer fire for scope after d. The caller holds mu, or no other goroutine has the
// Stream yet.
func (s *Stream) start(scope Scope, d time.Duration) {
	l := s.own
	l.scope, l.timer = scope, s.call.timer(s)
	l.timer.timer.Reset(d)
}

// stop stops the timer. It reports false if the timer's function has run or is about to. The caller
// holds mu, or no other goroutine has the Stream yet.
func (s *Stream) stop() bool {
	if s.own == nil || s.own.timer == nil {
		return true
	}
	t := s.own.timer
	s.own.timer = nil
	return t.stop(s.call)
}

// fire is the function of timer t.
func (s *Stream) fire(t *timer) {
	if left := s.endOfCaller(t); left != nil {
		s.cut(left) // the caller's context ended first, and was not noticed yet
		return
	}
	s.mu.Lock()
	c, l := s.call, s.own
	if c == nil || l.timer != t || l.fired.Load() != 0 {
		s.mu.Unlock() // it was stopped, settled or armed again in the meantime
		return
	}
	watched := atomic.LoadUint32(&s.state) >= stateWatched
	scope, wait := l.scope, time.Duration(0)
	if watched {
		scope, wait = l.due(s.chain.now())
	} else if scope == c.limits.totalScope() {
		wait = c.deadline() - s.chain.now() // an upload may have moved it
	}
	if wait > 0 {
		t.timer.Reset(wait)
		s.mu.Unlock()
		return
	}
	if scope == 0 { // the headers were in time; Watch arms another timer
		l.timer = nil
		s.mu.Unlock()
		return
	}
	if !c.limits.ends(scope) {
		s.outlast(c)
		overdue := c.isLate
		s.mu.Unlock()
		overdue(c) // which may be in use for another call
		return
	}
	l.fired.Store(int32(scope))
	limit := c.timeoutError(scope, nil)
	exchange := c.frame.exchange
	s.mu.Unlock()
	l.cancel(limit)
	if watched {
		s.cut(limit)
	} else if x, ok := exchange.(LimitObserver); ok {
		x.LimitFired() // the adapter may wait for something that does not honor the context
	}
}

// endOfCaller returns the cause of the caller's context if that has ended while the caller has the
// response, and a limit of t, the Stream's timer, has passed.
func (s *Stream) endOfCaller(t *timer) (left error) {
	s.mu.Lock()
	if s.call == nil || s.own.timer != t || atomic.LoadUint32(&s.state) < stateWatched {
		s.mu.Unlock()
		return nil
	}
	if passed, _ := s.own.due(s.chain.now()); passed == 0 {
		s.mu.Unlock()
		return nil
	}
	caller := s.call.frame.ctx
	s.mu.Unlock()
	return causeOf(caller)
}

// due returns the limit of the body that has passed, or else the time until the next one can pass. The
// idle limit does not run between reads: then the caller is slow, not the upstream.
func (l *StreamLimits) due(now time.Duration) (scope Scope, wait time.Duration) {
	if l.deadline != 0 {
		if wait = l.deadline - now; wait <= 0 {
			return l.total, 0
		}
	}
	if l.idle != 0 {
		quiet := l.idle
		if by := time.Duration(l.readBy.Load()); by != 0 {
			if quiet = by - now; quiet <= 0 {
				return l.quiet, 0
			}
		}
		if wait == 0 || quiet < wait {
			wait = quiet
		}
	}
	return 0, wait
}

// firedScope returns the limit whose timeout ended the attempt, 0 for none.
func (s *Stream) firedScope() Scope {
	if s.own == nil {
		return 0
	}
	return Scope(s.own.fired.Load()) //nolint:gosec // only Scopes are stored
}

// disarm ends the wait of c's attempt for the response headers. If the timer fired first, disarm
// returns its limit: the attempt has timed out, even if a response arrived. The timer of an open
// response continues for the body: see limitBody.
func (s *Stream) disarm(c *Call) Scope {
	if s.own == nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.state == stateOpen && s.own.fired.Load() == 0 {
		s.own.scope = 0
		return 0
	}
	return s.disarmed(c)
}

// disarmed is disarm for a caller that holds mu. A timer that is about to fire counts as fired,
// unless an upload has moved its limit.
func (s *Stream) disarmed(c *Call) Scope {
	l := s.own
	if !s.stop() && c.limits.ends(l.scope) && (l.scope != c.limits.totalScope() || c.deadline() <= s.chain.now()) {
		l.fired.CompareAndSwap(0, int32(l.scope))
	}
	return s.firedScope()
}

// rearm sets the timer to the limit that choose returns; choose receives the total limit. rearm returns
// the limit that has fired, 0 for none.
func (s *Stream) rearm(c *Call, choose func(scope Scope, left time.Duration) (Scope, time.Duration)) (fired Scope) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.own
	var scope Scope
	var left time.Duration
	if deadline := c.ownDeadline(); deadline != 0 {
		scope, left = c.limits.totalScope(), max(deadline-s.chain.now(), 1)
	}
	total, rest := scope, left
	if scope, left = choose(scope, left); l.late && !c.limits.ends(scope) {
		ending := c.limits.hard()
		scope, left = ending.tighter(total, rest)
	}
	if atomic.LoadUint32(&s.state) >= stateWatched || (scope != 0 && scope == c.limits.totalScope() && scope == l.scope && l.timer != nil) {
		return s.firedScope() // the total limit does not move
	}
	if fired = s.disarmed(c); fired != 0 {
		return fired
	}
	if l.scope = scope; scope != 0 {
		s.start(scope, left)
	}
	return 0
}

// keep makes settle leave the outcome as Try reports it.
func (s *Stream) keep() {
	if s.own == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.own.headers = true
}

// kept reports whether the response headers were in time.
func (s *Stream) kept() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.own.headers
}

// release ends the attempt's context to free its resources.
func (s *Stream) release() {
	if s.own != nil {
		s.own.end()
	}
}
