package policy

import "time"

// Attempt is a [Call] as adapters see it: what they are told of the attempt, and what they
// report of it. Unless a method says otherwise, it is called by the goroutine that runs the
// attempt, until [Exchange] Try has returned.
//
// An adapter that breaks the contract panics where it does, before any state is touched: one that
// opens a response twice, watches one that is not open, or uses a Frame or an Attempt for two calls.
// A Stream may be ended any number of times.
type Attempt Call

// Call is the attempt as policies see it.
func (a *Attempt) Call() *Call { return (*Call)(a) }

// Attach keeps what an adapter must keep with an attempt.
func (a *Attempt) Attach(v any) { a.self = v }

// Attached returns what was attached, nil for nothing.
func (a *Attempt) Attached() any { return a.self }

// Observed reports whether anything can ask where the attempt goes: whether
// [Call.SetEndpoint] is worth its cost.
func (a *Attempt) Observed() bool { return a.frame.watched() }

// Guarded reports whether the context that Try was given is the attempt's own: then it ends with
// the attempt, and when a timeout fires.
func (a *Attempt) Guarded() bool { return a.stream != nil && a.stream.limited }

// AfterTimeout reports whether the attempt before this one ran into its timeout.
func (a *Attempt) AfterTimeout() bool { return a.afterTimeout }

// AnnouncesDeadline reports whether a policy asked that the server be told how long it is waited
// for: [Needs] AnnounceDeadline.
func (a *Attempt) AnnouncesDeadline() bool { return a.frame.chain.announce }

// TimeLeft is how long this attempt is waited for, and whether there is any limit.
func (a *Attempt) TimeLeft() (left time.Duration, limited bool) {
	left, limited = a.Call().Remaining()
	if try := a.limits.try; try != 0 && !a.limits.lenient && (!limited || try < left) {
		left, limited = try, true
	}
	return left, limited
}

// Prepare makes the attempt's request header what policies and configuration ask for: without
// what policies honor ([Needs] Consume), and with what they add ([Builder.Prepare]). It is for
// the Try of a client.
func (a *Attempt) Prepare() {
	a.ConsumeHeaders()
	for _, prepare := range a.frame.chain.preparers {
		prepare(a)
	}
}

// ConsumeHeaders takes out of the attempt's request header what policies honor. It is for the Try
// of a server; a client has [Attempt.Prepare].
func (a *Attempt) ConsumeHeaders() {
	x := a.frame.exchange
	for _, name := range a.frame.chain.consumed {
		if x.RequestHeader(name) != nil {
			x.Header(a).Del(name)
		}
	}
}

// Header is the attempt's own request header, for changing.
func (a *Attempt) Header() Header { return a.frame.exchange.Header(a) }

// Open marks an attempt whose response has begun but not ended: its body or stream goes on until
// its [Stream] ends, or until Drop.
func (a *Attempt) Open() {
	if a.state != stateTrying {
		panic("policy: Attempt.Open: it was called before, or the attempt has ended")
	}
	a.state = stateOpen
	a.outcome.open = a.Call()
}

// Drop ends an open response that will not be read, while policies still look at its headers. It
// is for [Discarder], after the wire was told.
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

// Upgraded reports whether the response is one whose connection belongs to the caller.
func (a *Attempt) Upgraded() bool { return a.Call().upgraded() }

// DrainTime is how long a policy lets discarding the response take, 0 for the default.
func (a *Attempt) DrainTime() time.Duration { return a.drain }

// DiscardWithin has the attempt's context end after d, or when the call's total timeout fires if
// that is earlier. It is false if the attempt has no context of its own, or it has ended: then
// nothing may wait for the upstream. It is for [Discarder].
func (a *Attempt) DiscardWithin(d time.Duration) bool {
	s := a.stream
	if s == nil || !s.limited {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.struck.Load() != 0 {
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

// LimitClient limits a call that is served, as [Call.LimitTotal] does, to the time that its
// client named. If that timeout fires, its scope is [ScopeCaller], and the call does not count as
// a failure: a client must not be able to make the server look broken.
func (a *Attempt) LimitClient(d time.Duration) { a.Call().limitTotal(d, true) }

// LimitElapsed is how long ago the total limit of the call began, 0 without one.
func (a *Attempt) LimitElapsed() time.Duration {
	l := &a.limits
	if l.deadline == 0 {
		return 0
	}
	return a.frame.chain.now() - (l.deadline - l.total)
}

// LiftLimits ends all limits on an attempt's time, for a connection that no longer carries a
// response: an upgraded one belongs to the caller.
func (a *Attempt) LiftLimits() {
	s := a.stream
	if s == nil || !s.limited {
		a.limits = limits{}
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a.limits = limits{}
	s.stop()
}

// LiftTry suspends the limits of one attempt, on its time and on silence, while the total one
// goes on: a stream's request is still being sent, which is not the upstream's silence. It may be
// called by any goroutine until Try returns. It is not in time if a timeout has fired.
func (a *Attempt) LiftPerTry() (inTime bool) {
	return a.Call().rearm(func(scope Scope, left time.Duration) (Scope, time.Duration) { return scope, left })
}

// ArmTry starts the limits of one attempt, after [Attempt.LiftPerTry]. It may be called by any
// goroutine until Try returns.
func (a *Attempt) ArmPerTry() { a.Call().rearm(a.limits.tighter) }

// HeadersSent is [Attempt.LiftPerTry] for a server whose response headers are out: the outcome that
// Try reports stays, and a timeout that fires later is added to it.
func (a *Attempt) HeadersSent() (inTime bool) { return a.headersInTime(a.LiftPerTry()) }

// HeadersReceived says that the response headers are there, while Try still waits for the rest.
// The limit on the time of one attempt ends, and the limit on silence starts again. A timeout that
// fires later cuts short a response that has begun, so the call is not retried for it. It may be
// called by any goroutine until Try returns. It is not in time if a timeout has fired.
func (a *Attempt) HeadersReceived() (inTime bool) {
	return a.headersInTime(a.Call().rearm(a.limits.silence))
}

func (a *Attempt) headersInTime(inTime bool) bool {
	if inTime && a.stream != nil {
		a.stream.keep()
	}
	return inTime
}

// Fired is the limit whose timeout has fired, 0 for none.
func (a *Attempt) Fired() Scope { return a.Call().struck() }

// TimedOut makes o the outcome of an attempt that a timeout has ended: it adds to a response whose
// headers were in time, and replaces anything else. It stays whatever else has ended the attempt
// since. It is for the Try of a server, if the server itself ended the caller's context.
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

// Canceled adds to o that the caller was canceled.
func (a *Attempt) Canceled(o *Outcome) { a.Call().leave(a.frame.ctx, o, nil) }

// Stream is what may outlive the attempt. It is there from the first call of Stream on.
func (a *Attempt) Stream() *Stream { return a.Call().openStream() }
