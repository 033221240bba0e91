package policy

import (
	"context"
	"sync/atomic"
)

// Observer receives reports of one call. It is for programs; policies use [Listener].
type Observer interface {
	// Observe is called when the response headers have arrived, and again at the call's end.
	Observe(r Report)
}

// Report describes a call so far.
type Report struct {
	Upstream      string
	Endpoint      string // the address of the last attempt, "" if none was chosen
	Attempts      int    // refused ones included
	RetryOverflow bool   // a retry was not made because the budget or the limit of concurrent retries was used up
	Outcome       Outcome
	Done          bool // the call, its body included, has ended
}

type observerKey struct{}

// observing is set when the first context with an Observer is made. Until then no call looks for
// one, because that costs time in a context with many layers.
var observing atomic.Bool //nolint:gochecknoglobals // a context may be made before any upstream

// WithObserver returns a context for one call, which reports to o.
func WithObserver(ctx context.Context, o Observer) context.Context {
	if !observing.Load() { // a Store each time would slow down the calls that read it
		observing.Store(true)
	}
	return context.WithValue(ctx, observerKey{}, o)
}

func observerIn(ctx context.Context) Observer {
	if !observing.Load() {
		return nil
	}
	o, _ := ctx.Value(observerKey{}).(Observer)
	return o
}

// observe reports the call to its observer, if any, at its response headers or at its end.
func (f *Frame) observe(o *Outcome, done bool) {
	if f.observer == nil {
		return
	}
	r := Report{Upstream: f.chain.name, Attempts: f.Attempts(), RetryOverflow: f.overflowed.Load(), Outcome: *o, Done: done}
	r.Outcome.open, r.Outcome.Value = nil, nil // so that the report keeps nothing alive
	if c := f.latest.Load(); c != nil {
		r.Endpoint = c.Endpoint()
	}
	f.observer.Observe(r)
}

type idempotentKey struct{}

// WithIdempotent returns a context whose calls may be sent more than once without harm, whatever
// their protocol and method.
func WithIdempotent(ctx context.Context) context.Context {
	return context.WithValue(ctx, idempotentKey{}, true)
}
