package policy

import (
	"context"
	"reflect"
	"sync"
	"sync/atomic"
)

// Frame is the storage of one call: what its attempts share, and the first of them. An adapter
// embeds it in its own storage of a call, so that both are one allocation.
//
//	x.frame.Init(chain, x)
//	o := x.frame.Invoke(ctx)
//
// A Frame must not be copied. After Init it is read, or written atomically: attempts may run
// concurrently.
type Frame struct {
	chain      *Chain
	exchange   Exchange
	storage    Storage         // exchange, if it is one
	ctx        context.Context //nolint:containedctx // the caller's, for the length of the call
	observer   Observer
	attempts   atomic.Int32
	forked     atomic.Bool          // there is more than one Call
	overflowed atomic.Bool          // a retry was not made because of a budget or a limit
	latest     atomic.Pointer[Call] // the attempt that last named its endpoint
	sent       atomic.Pointer[Call] // the last attempt that went to the wire, if it is not the first
	progress   atomic.Int64         // on the chain's clock: when the first attempt last sent a part of a slow request; 0 for never
	naming     sync.Mutex           // guards the endpoints of attempts that run concurrently
	winner     *Call                // whose response a hedging policy returned; nil for none
	first      Call
}

// Init makes f ready for a call of x through chain.
func (f *Frame) Init(chain *Chain, x Exchange) {
	f.chain, f.exchange = chain, x
	f.storage, _ = x.(Storage)
	f.first.frame, f.first.attempt = f, 1
}

// First is the first attempt of the call.
func (f *Frame) First() *Attempt { return (*Attempt)(&f.first) }

// Attempts is how many attempts have begun. Where no policy repeats calls they are not counted:
// it is one.
func (f *Frame) Attempts() int {
	if !f.chain.repeats {
		return 1
	}
	return int(f.attempts.Load())
}

// Reset makes f ready for another call of the same Exchange through the same chain, without
// another Init. It reports whether it did: it does not if there were several attempts, which
// may still be in use.
func (f *Frame) Reset() bool {
	if f.forked.Load() {
		return false
	}
	f.ctx, f.winner = nil, nil
	f.first = Call{frame: f, attempt: 1}
	if f.chain.repeats {
		f.attempts.Store(0)
	}
	if f.progress.Load() != 0 {
		f.progress.Store(0)
	}
	if f.overflowed.Load() {
		f.overflowed.Store(false)
	}
	if f.watched() {
		f.observer = nil
		f.latest.Store(nil)
	}
	return true
}

// watched reports whether anything can ask where the call went.
func (f *Frame) watched() bool { return f.observer != nil || len(f.chain.listeners) != 0 }

// Invoke makes one call through the chain's policies. An open response is the caller's to end:
// see [Outcome.Pending].
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

// mustHave panics where an adapter passes nil.
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

// Invoke makes the call, once. The outcome lies in f. If it is [Outcome.Pending], the adapter
// takes what it needs of it, and then calls [Attempt.Watch].
func (f *Frame) Invoke(ctx context.Context) *Outcome {
	if f.chain == nil || f.ctx != nil {
		panic("policy: Frame.Invoke: the Frame is in use, or was not made ready: call Init first, or Reset")
	}
	f.ctx, f.observer = ctx, observerIn(ctx)
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
		o.Discard() // a policy made an error of a response, which is not read then
	}
	f.discardOthers(o)
	if f.watched() {
		f.observe(o, false)
		returned = true // even if a listener panics, which has heard of the end then
		o.OnEnd(&f.first, callEnd)
	}
	returned = true
	return o
}

// Abandon discards the responses that are still open. It is for an adapter that panics after
// Invoke, before the caller has the response.
func (f *Frame) Abandon() { f.discardOthers(nil) }

// discardOthers discards the responses that are still open and that will not be read,
// because a policy returned another outcome in their place; all of them if o is nil. An
// outcome that a policy made anew around a response stands for that response's attempt. A
// policy that runs attempts concurrently discards its own.
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
func (f *Frame) hedged() bool { return f.chain.hedges && f.forked.Load() }

// last returns the last attempt that went to the wire.
func (f *Frame) last() *Call {
	if sent := f.sent.Load(); sent != nil {
		return sent
	}
	return &f.first
}

// abandon cleans up after a panic: it discards open responses and stops the timer of an attempt
// that did not return. Listeners are told of the call's end.
func (f *Frame) abandon() {
	if f.watched() {
		defer callEnd(&f.first, unwound())
	}
	if c := f.last(); !f.hedged() && c.state != stateOpen && c.stream != nil {
		c.stream.detach()
	}
	f.discardOthers(nil)
}

// callEnd is the outermost hook of every call that is watched.
func callEnd(c *Call, end *Outcome) {
	c.frame.observe(end, true)
	c.Emit(EventEnd, end)
}
