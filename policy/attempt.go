package policy

import "time"

// Attempt is a [Call] as adapters see it. An adapter learns from it what the attempt may do, and
// reports to it what happens. Unless a method says otherwise, only the goroutine that runs the
// attempt may call it, and only until [Exchange] Try returns.
//
// An adapter that breaks the contract causes a panic before any state changes. It breaks the
// contract if it opens a response twice, watches a response that is not open, or uses a Frame or an
// Attempt for two calls. A Stream may be ended any number of times.
type Attempt Call

// Call returns the attempt as policies see it.
func (a *Attempt) Call() *Call { return (*Call)(a) }

// Attach stores a value of the adapter with the attempt.
func (a *Attempt) Attach(v any) { a.self = v }

// Attached returns the value that Attach stored, nil if none.
func (a *Attempt) Attached() any { return a.self }

// Observed reports whether anything can ask for the endpoint of the attempt. If not, the adapter
// need not call [Call.SetEndpoint].
func (a *Attempt) Observed() bool { return a.frame.watched() }

// Guarded reports whether the attempt has its own context, which Try receives. That context ends
// when the attempt ends or a timeout fires.
func (a *Attempt) Guarded() bool { return a.stream != nil && a.stream.own != nil }

// AfterTimeout reports whether the per-try timeout of the previous attempt fired.
func (a *Attempt) AfterTimeout() bool { return a.afterTimeout }

// TimeLeft returns how much time this attempt has left, and whether there is a limit.
func (a *Attempt) TimeLeft() (left time.Duration, limited bool) {
	left, limited = a.Call().remaining(a.Call().announced())
	if try := a.limits.try; try != 0 && !a.limits.lenient && (!limited || try < left) {
		left, limited = try, true
	}
	return left, limited
}

// Prepare completes the attempt's request header: it removes the headers that policies honor
// ([Needs] Consume) and adds what policies and configuration ask for ([Builder.Prepare]). The Try
// of a client calls it.
func (a *Attempt) Prepare() {
	if a.frame.chain.prepares() {
		a.prepare()
	}
}

// prepares reports whether a policy changes the header of attempts.
func (c *Chain) prepares() bool {
	return c.announce || len(c.consumed)+len(c.preparers) != 0
}

func (a *Attempt) prepare() {
	a.ConsumeHeaders()
	chain := a.frame.chain
	for _, prepare := range chain.preparers {
		prepare(a)
	}
	if chain.announce {
		for _, announce := range chain.announcers {
			announce(a)
		}
	}
}

// ConsumeHeaders removes the headers that policies honor from the attempt's request header. The Try
// of a server calls it; the Try of a client calls [Attempt.Prepare] instead.
func (a *Attempt) ConsumeHeaders() {
	x := a.frame.exchange
	for _, name := range a.frame.chain.consumed {
		if x.RequestHeader(name) != nil {
			x.Header(a).Del(name)
		}
	}
}

// Header returns the attempt's own request header. It may be changed.
func (a *Attempt) Header() Header { return a.frame.exchange.Header(a) }

// Open reports that the response has begun but not ended. The response stays open until its
// [Stream] ends, or until Drop.
func (a *Attempt) Open() {
	if a.state != stateTrying {
		panic("policy: Attempt.Open: it was called before, or the attempt has ended")
	}
	a.state = stateOpen
	a.outcome.open = a.Call()
}

// Drop ends an open response that is not going to be read, while policies still look at its
// headers. A [Discarder] calls it when it has released the response.
func (a *Attempt) Drop() {
	if a.state != stateOpen {
		return
	}
	if s := a.stream; s != nil {
		s.detach()
	}
	a.Call().conclude(discarded)
}

func discarded(_ *Call, end *Outcome) { end.Conditions |= Discarded }

// Upgraded reports whether the response hands its connection to the caller: whether Try reported
// [Upgraded], whatever policies have made of the outcome since.
func (a *Attempt) Upgraded() bool { return a.upgraded }

// DrainTime returns how long a policy allows for discarding the response, 0 for the default.
func (a *Attempt) DrainTime() time.Duration { return a.drain }

// DiscardWithin ends the attempt's context after d, or when the call's total timeout fires if that
// is earlier. It reports false if the attempt has no context of its own, or if that has ended: then
// the caller must not wait for the upstream. A [Discarder] calls it.
func (a *Attempt) DiscardWithin(d time.Duration) bool {
	s := a.stream
	if s == nil || s.own == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.firedScope() != 0 {
		return false
	}
	if l := a.Call().deadline(); l != 0 {
		if d = min(d, l-s.chain.now()); d <= 0 {
			return false
		}
	}
	s.stop()
	s.start(scopeDiscard, d)
	return true
}

// LimitClient limits a call that is being served to the time that its client named, as
// [Call.LimitTotal] does. If that timeout fires, its scope is [ScopeCaller], and the call does not
// count as a failure: a client must not be able to make the server look broken.
func (a *Attempt) LimitClient(d time.Duration) { a.Call().limitTotal(d, ScopeCaller) }

// LimitElapsed returns how long ago the total limit of the call began, 0 without one.
func (a *Attempt) LimitElapsed() time.Duration {
	l := &a.limits
	if l.deadline == 0 {
		return 0
	}
	return a.frame.chain.now() - (l.deadline - l.total)
}

// LiftLimits ends all limits on the time of the attempt. It is for an upgraded connection, which
// belongs to the caller.
func (a *Attempt) LiftLimits() {
	s := a.stream
	if s == nil || s.own == nil {
		a.limits = limits{}
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a.limits = limits{}
	s.stop()
}

// LiftPerTry suspends the per-try and idle limits, while the total limit goes on. A stream needs
// that while its request is still being sent: the upstream is not silent then. Any goroutine may
// call it until Try returns. It reports whether it was in time: no timeout has fired.
func (a *Attempt) LiftPerTry() (inTime bool) {
	return a.Call().rearm(func(scope Scope, left time.Duration) (Scope, time.Duration) { return scope, left })
}

// ArmPerTry starts the per-try and idle limits again, after [Attempt.LiftPerTry]. Any goroutine may
// call it until Try returns.
func (a *Attempt) ArmPerTry() { a.Call().rearm(a.limits.tighter) }

// HeadersSent is [Attempt.LiftPerTry] for a server that has sent its response headers. From then on
// the outcome that Try reports stays, and a timeout that fires later is added to it.
func (a *Attempt) HeadersSent() (inTime bool) { return a.headersInTime(a.LiftPerTry()) }

// HeadersReceived reports that the response headers have arrived while Try still waits for the
// rest. The per-try limit ends, and the idle limit starts again. A timeout that fires later cuts
// short a response that has begun, so the call is not retried for it. Any goroutine may call it
// until Try returns. It reports whether it was in time: no timeout has fired.
func (a *Attempt) HeadersReceived() (inTime bool) {
	return a.headersInTime(a.Call().rearm(a.limits.silence))
}

func (a *Attempt) headersInTime(inTime bool) bool {
	if inTime && a.stream != nil {
		a.stream.keep()
	}
	return inTime
}

// Fired returns the limit whose timeout has fired, 0 if none.
func (a *Attempt) Fired() Scope { return a.Call().fired() }

// TimedOut makes o the outcome of an attempt that a timeout has ended. It adds the timeout to a
// response whose headers were in time, and replaces any other outcome. That outcome stays even if
// the attempt has ended for another reason since. It is for the Try of a server that itself ended
// the caller's context.
func (a *Attempt) TimedOut(o *Outcome) {
	fired := a.Fired()
	switch {
	case fired == 0:
		return
	case a.stream.kept():
		a.Call().timedOut(o, fired, nil)
	default:
		a.Call().overdue(o, fired, o.Err)
	}
	a.stream.keep()
}

// Canceled records in o that the caller was canceled.
func (a *Attempt) Canceled(o *Outcome) { a.Call().leave(a.frame.ctx, o, nil) }

// Keep makes s the Stream of an attempt that has none. An adapter with [Storage] can call it in place
// of Stream, which would call the adapter's NewStream.
func (a *Attempt) Keep(s *Stream) {
	if a.stream != nil {
		panic("policy: Attempt.Keep: the attempt already has a Stream")
	}
	a.Call().hold(s, nil)
}

// Stream returns the part of the attempt that may outlive it. The first call creates it.
func (a *Attempt) Stream() *Stream { return a.Call().openStream() }
