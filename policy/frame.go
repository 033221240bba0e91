package policy

import (
	"context"
	"reflect"
	"sync"
	"sync/atomic"
)

// Frame is the storage of one call: the state that its attempts share, and the first attempt. An
// adapter embeds it in its storage of a call, so that both are one allocation.
//
//	x.frame.Init(chain, x)
//	o := x.frame.Invoke(ctx)
//
// A Frame must not be copied. After Init its fields are only read, or written atomically: attempts
// may run concurrently.
type Frame struct {
	chain      *Chain
	exchange   Exchange
	storage    Storage            // exchange, if it is a Storage; else nil
	dials      ConnectionObserver // exchange, if it is a ConnectionObserver; else nil
	ctx        context.Context    //nolint:containedctx // the caller's, while the call lasts
	observer   Observer
	attempts   atomic.Int32
	forked     atomic.Bool          // there is more than one Call
	concurrent atomic.Bool          // and they may run concurrently, whatever the policies' ranks
	overflowed atomic.Bool          // a retry was not made because a budget or a limit was used up
	latest     atomic.Pointer[Call] // the attempt that last set its endpoint
	sent       atomic.Pointer[Call] // the last attempt that went to the wire, if it is not the first
	progress   atomic.Int64         // on the chain's clock: when the caller last supplied a part of a slow request body; 0 for never
	naming     sync.Mutex           // guards the endpoints of attempts that run concurrently
	winner     *Call                // the attempt whose response a hedging policy returned; nil for none
	first      Call
}

// Init prepares f for a call of x through chain.
func (f *Frame) Init(chain *Chain, x Exchange) {
	f.chain, f.exchange = chain, x
	f.storage, _ = x.(Storage)
	f.dials, _ = x.(ConnectionObserver)
	f.first.frame = f
	f.first.number(1)
}

// First returns the first attempt of the call.
func (f *Frame) First() *Attempt { return (*Attempt)(&f.first) }

// Attempts returns how many attempts have begun. If no policy retries or hedges they are not
// counted: it returns 1, or 0 if the call was refused before it reached the upstream's route.
func (f *Frame) Attempts() int {
	switch {
	case f.chain.repeats:
	case f.first.outcome.Has(Refused) && f.first.outcome.Detail.Unrouted():
		return 0
	default:
		return 1
	}
	return int(f.attempts.Load())
}

// Reset prepares f for another call of the same Exchange through the same chain, without another
// Init. It reports false, and does nothing, if the call had several attempts: they may still be in
// use.
func (f *Frame) Reset() bool {
	if f.forked.Load() {
		return false
	}
	f.ctx = nil
	setNil(&f.winner)
	f.first.reset()
	if f.chain.repeats {
		f.attempts.Store(0)
	}
	if f.progress.Load() != 0 {
		f.progress.Store(0)
	}
	if f.overflowed.Load() {
		f.overflowed.Store(false)
	}
	if f.observer != nil {
		f.observer = nil
	}
	return true
}

// watched reports whether the call has an observer or listeners.
func (f *Frame) watched() bool { return f.observer != nil || len(f.chain.listeners) != 0 }

// Invoke makes one call through the chain's policies. The caller must end an open response: see
// [Outcome.Pending].
func (c *Chain) Invoke(ctx context.Context, x Exchange) *Outcome {
	c.mustHave(ctx, x)
	f := &Frame{}
	f.Init(c, x)
	o := f.Invoke(ctx)
	if a := o.Pending(); a != nil {
		a.Watch()
	}
	return o
}

// mustHave panics if an adapter passes nil.
func (c *Chain) mustHave(ctx context.Context, x Exchange) {
	switch {
	case c == nil:
		panic("pillion: Invoke: nil Chain")
	case ctx == nil:
		panic("pillion: Invoke: nil context")
	case x == nil:
		panic("pillion: Invoke: nil Exchange")
	}
}

// Invoke makes the call, once. The outcome is stored in f. If it is [Outcome.Pending], the adapter
// takes what it needs of it, and then calls [Attempt.Watch].
func (f *Frame) Invoke(ctx context.Context) *Outcome {
	if f.chain == nil || f.ctx != nil {
		panic("policy: Frame.Invoke: the Frame is in use or not initialized; call Init or Reset first")
	}
	f.ctx = ctx
	if o := observerIn(ctx); o != nil {
		f.observer = o
	}
	returned := false
	defer func() {
		if !returned {
			f.abandon()
		}
	}()
	o := f.chain.call(ctx, &f.first)
	if o == nil {
		panic("pillion: " + f.chain.name + ": a policy returned a nil Outcome")
	}
	if o.Err != nil {
		o.Discard() // a policy replaced a response by an error
	}
	if o.open != &f.first || f.forked.Load() { // otherwise there is no other attempt
		f.discardOthers(o)
	}
	if f.watched() {
		f.observe(o, false)
		returned = true // even if a listener panics: it has received the end then
		o.OnEnd(&f.first, callEnd)
	}
	returned = true
	return o
}

// Abandon discards the responses that are still open. It is for an adapter that panics after
// Invoke, before the caller has the response.
func (f *Frame) Abandon() { f.discardOthers(nil) }

// discardOthers discards each open response that is not going to be read, because a policy returned
// another outcome. If o is nil it discards all of them. If a policy made a new outcome around a
// response, that outcome stands for the response's attempt. A policy that runs attempts
// concurrently discards its own responses.
func (f *Frame) discardOthers(o *Outcome) {
	if f.hedged() {
		if f.winner != nil {
			f.discardOther(f.winner, o)
		}
		return
	}
	for c := f.last(); c != nil; c = c.from {
		f.discardOther(c, o)
	}
}

// discardOther discards the response of an attempt, unless o stands for it.
func (f *Frame) discardOther(c *Call, o *Outcome) {
	switch {
	case c.state != stateOpen || o != nil && o.open == c:
	case o != nil && o.open == nil && o.Err == nil && sameValue(o.Value, c.outcome.Value):
		o.open = c
	default:
		c.discard(&c.outcome)
	}
}

func sameValue(v, w any) bool {
	return v != nil && reflect.TypeOf(v).Comparable() && v == w
}

// hedged reports whether attempts may run concurrently.
func (f *Frame) hedged() bool { return f.mayRace() && f.forked.Load() }

// mayRace reports what hedged will report when the call has several attempts.
func (f *Frame) mayRace() bool { return f.chain.hedges || f.concurrent.Load() }

// last returns the last attempt that went to the wire.
func (f *Frame) last() *Call {
	if sent := f.sent.Load(); sent != nil {
		return sent
	}
	return &f.first
}

// abandon cleans up after a panic: it discards open responses, stops the timer of an attempt that
// did not return, and emits EventEnd.
func (f *Frame) abandon() {
	if f.watched() {
		defer callEnd(&f.first, unwound())
	}
	if c := f.last(); !f.hedged() && c.state != stateOpen && c.stream != nil {
		c.stream.detach()
	}
	f.discardOthers(nil)
}

// callEnd is the outermost hook of each watched call.
func callEnd(c *Call, end *Outcome) {
	c.frame.observe(end, true)
	c.Emit(EventEnd, end)
}
