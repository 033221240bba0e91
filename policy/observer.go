package policy

import "context"

// Observer is told what happens to one call. It is for programs; policies have [Listener].
type Observer interface {
	// Observe is called at the call's response headers, and again at its end.
	Observe(r Report)
}

// Report is what is known of a call.
type Report struct {
	Upstream      string
	Endpoint      string // the address that the last attempt went to, "" if none was chosen
	Attempts      int    // refused ones included
	RetryOverflow bool   // a retry was not made, because the budget or a limit was used up
	Outcome       Outcome
	Done          bool // the call, its body included, has ended
}

type observerKey struct{}

// WithObserver returns a context for one call, which o is told of.
func WithObserver(ctx context.Context, o Observer) context.Context {
	return context.WithValue(ctx, observerKey{}, o)
}

func observerIn(ctx context.Context) Observer {
	o, _ := ctx.Value(observerKey{}).(Observer)
	return o
}

// observe tells the observer, if there is one, what is known of the call, at its headers or at
// its end.
func (f *Frame) observe(o *Outcome, done bool) {
	if f.observer == nil {
		return
	}
	r := Report{Upstream: f.chain.name, Attempts: f.Attempts(), RetryOverflow: f.overflowed.Load(), Outcome: *o, Done: done}
	r.Outcome.open, r.Outcome.Value = nil, nil // keep nothing alive
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
