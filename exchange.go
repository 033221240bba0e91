package pillion

import (
	"context"
	"reflect"
)

// Request describes a call to the policies, whatever its protocol.
type Request struct {
	Protocol  string // http, grpc, func, or what an adapter of one's own says
	Method    string // the HTTP method, or the full gRPC method
	Authority string // host and port the caller asked for
	Path      string // the URL's path, or the full gRPC method
}

// Header is a set of header fields that can be changed. [net/http.Header] is one.
type Header interface {
	Get(name string) string
	Set(name, value string)
	Del(name string)
}

// Exchange is one call in the terms of its protocol: what an adapter (HTTP, gRPC,
// one's own) hands to [Upstream.Invoke]. One Exchange serves one call; when a policy
// runs attempts beside each other, all methods but the two of the caller's request,
// which only read, are called concurrently for different Calls.
type Exchange interface {
	// Request describes the call.
	Request() Request
	// Unary reports whether answers come whole: nothing is ever open after Try.
	Unary() bool
	// Try makes one attempt, returns when its answer's head is there, and says in o
	// what came. It marks an answer that goes on with [Call.Open], and later ends it
	// with [Call.End]. It leaves an error as it came: Explain is asked for its meaning,
	// unless Try set Is.
	Try(ctx context.Context, c *Call, o *Outcome)
	// Explain adds to o what err means: Err, Is, Flags and Detail, for an attempt that
	// brought no answer or one that broke off. It is not asked about limits that struck
	// or a caller that left.
	Explain(c *Call, o *Outcome, err error)
	// Discard ends an open answer that nobody will use.
	Discard(c *Call, o *Outcome)
	// NewCall gives the storage for a further attempt, whose request header starts as that
	// of from.
	NewCall(from *Call) *Call
	// RequestHeader returns the values of a header of the caller's request: nil if it is
	// absent, empty if it is present without a value. They must not be changed.
	RequestHeader(name string) []string
	// Header gives the attempt's own request header, copied when first asked for.
	Header(c *Call) Header
	// ResponseHeader returns the values of a header of a response, nil if it is absent.
	// They must not be changed.
	ResponseHeader(o *Outcome, name string) []string
	// Idempotent reports whether the call may be sent twice without harm.
	Idempotent() bool
	// Replayable reports whether the request can be sent once more.
	Replayable() bool
}

// Invoke makes one call through the upstream's policies. It is for adapters;
// callers use [Upstream.Transport] or [Do].
func (u *Upstream) Invoke(ctx context.Context, x Exchange) *Outcome {
	u.mustHave(ctx, x, "Invoke")
	s := u.newStorage()
	s.flight.ctx, s.flight.exchange = ctx, x //nolint:fatcontext // it is not nested
	o := s.flight.invoke(&s.first)
	if o.Open() && o.open.awaited() {
		o.open.wait() //nolint:contextcheck // it watches the context that the call came with
	}
	return o
}

// mustHave panics where an adapter passes nil.
func (u *Upstream) mustHave(ctx context.Context, x Exchange, method string) {
	switch {
	case u == nil:
		panic("pillion: " + method + ": nil Upstream")
	case ctx == nil:
		panic("pillion: " + method + ": nil context")
	case x == nil:
		panic("pillion: " + method + ": nil Exchange")
	}
}

// invoke runs the chain over storage that the adapter brought.
func (f *flight) invoke(first *Call) *Outcome {
	f.observer = infoFrom(f.ctx)
	returned := false
	defer func() {
		if !returned {
			f.abandon(first)
		}
	}()
	o := f.upstream.chain(f.ctx, first)
	if o == nil {
		panic("pillion: " + f.upstream.name + ": a policy returned a nil Outcome")
	}
	if o.Err != nil {
		o.Discard() // a policy made an error of a response, which is not read then
	}
	f.discardOthers(first, o)
	if f.watched() {
		if f.observer != nil {
			f.observer.tell(f, o, false)
		}
		returned = true // even if a listener panics, which has heard of the end then
		o.OnEnd(first, callEnd)
	}
	returned = true
	return o
}

// discardOthers discards the responses that are still open and that will not be read,
// because a policy returned another outcome in their place; all of them if o is nil. An
// outcome that a policy made anew around a response stands for that response's attempt. A
// policy that runs attempts concurrently discards its own.
func (f *flight) discardOthers(first *Call, o *Outcome) {
	if f.hedged() {
		if f.winner != nil {
			f.discardOther(f.winner, o)
		}
		return
	}
	for c := f.last(first); c != nil; c = c.from {
		f.discardOther(c, o)
	}
}

// discardOther discards the response of an attempt, unless o stands for it.
func (f *flight) discardOther(c *Call, o *Outcome) {
	switch {
	case c.tail.phase != phaseOpen || o != nil && o.open == c:
	case o != nil && o.open == nil && o.Err == nil && sameValue(o.Value, c.outcome.Value):
		o.open = c
	default:
		f.exchange.Discard(c, &c.outcome)
	}
}

func sameValue(v, w any) bool {
	return v != nil && reflect.TypeOf(v).Comparable() && v == w
}

// hedged reports whether attempts may run concurrently.
func (f *flight) hedged() bool { return f.upstream.hedges && f.forked.Load() }

// last returns the last attempt that went to the wire.
func (f *flight) last(first *Call) *Call {
	if sent := f.sent.Load(); sent != nil {
		return sent
	}
	return first
}

// abandon ends what a panic left behind: open responses that will not be read, or the
// limits of an attempt that did not return. Listeners are told of the call's end.
func (f *flight) abandon(first *Call) {
	if f.watched() {
		defer callEnd(first, unwound())
	}
	if c := f.last(first); !f.hedged() && c.tail.phase != phaseOpen && c.span != nil {
		c.span.take()
	}
	f.discardOthers(first, nil)
}

// callEnd is the outermost hook of every call that somebody watches.
func callEnd(c *Call, end *Outcome) {
	if info := c.flight.observer; info != nil {
		info.tell(c.flight, end, true)
	}
	c.Emit(EventEnd, end)
}

// Open marks an attempt as answered but not ended: its body or stream goes on
// until [Call.End].
func (c *Call) Open() {
	c.tail.phase = phaseOpen
	c.outcome.open = c
}

// End ends an open attempt, once [Upstream.Invoke] has returned, and runs its
// hooks: with a nil error because all of it was received, or because the caller closed
// it early, which is no failure; else because it broke. It gives the error to show for
// it: a limit that struck or a caller that left comes before err. Only the first End
// counts; later ones wait for its hooks and repeat its error, or, after a good end,
// give err back. So a hook must not call it.
func (c *Call) End(err error) error {
	if c.span == nil { // nobody waits
		return err
	}
	return c.span.end(err)
}

// Await says that the caller now waits for the next part of an open answer: the
// idle limit runs until Received. Both are for adapters, once [Upstream.Invoke] has
// returned.
func (c *Call) Await() {
	if c.span != nil {
		c.span.await()
	}
}

// Received says that the next part of an open answer came, or will not come.
func (c *Call) Received() {
	if c.span != nil {
		c.span.received()
	}
}

// Drop ends an open attempt that nobody will use, while policies still handle
// its head. It is for [Exchange] Discard, after the wire has been told.
func (c *Call) Drop() {
	change := func(_ *Call, end *Outcome) { end.Is |= Discarded }
	if s := c.span; s != nil {
		if s.take() != nil {
			_ = s.finish(c, change)
		}
		return
	}
	c.conclude(change)
}

// broken explains why an open attempt broke off.
func (c *Call) broken(end *Outcome, err error) {
	if c.upgraded() {
		c.flight.exchange.Explain(c, end, err)
		return
	}
	if struck := c.struck(); struck != 0 {
		c.timedOut(end, struck, nil)
		return
	}
	if ctx := c.flight.ctx; ctx.Err() != nil {
		c.leave(ctx, end, err)
		return
	}
	c.flight.exchange.Explain(c, end, err)
}

func (c *Call) struck() Scope {
	if c.span == nil {
		return 0
	}
	return c.span.guard.hasStruck()
}

// LiftLimits ends all limits on an attempt's time, for a connection that is no
// longer an answer: an upgraded one belongs to the caller.
func (c *Call) LiftLimits() {
	s := c.span
	if s == nil || s.guard == nil {
		c.limits = limits{}
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.limits = limits{}
	s.guard.stop()
}
