package pillion

import (
	"fmt"
	"time"

	"github.com/pillion-go/pillion/envoy"
)

// Outcome is what an attempt, or a whole call, came to. It belongs to the
// attempt's [Call] and is handed from policy to policy; a policy may change what it
// says. It is either finished or open: an HTTP answer whose body is still to be read,
// or a stream that is still running, is open until its end, when the hooks run that
// were registered with [Outcome.OnEnd].
type Outcome struct {
	Value  any           // *http.Response, a gRPC reply, or a function's result; nil with most errors
	Err    error         // why there is no value, or, at the end, why it broke off
	Code   int           // HTTP status or gRPC code; 0 where there is none
	Is     Condition     // what kind of result it is, in words that hold for every protocol
	Flags  envoy.Flags   // Envoy's response flags
	Detail *envoy.Detail // Envoy's response code details
	open   *Call         // the attempt whose end is still to come; nil when finished
}

// Hook hears the end of an attempt or call. end says what it came to in the end:
// Err, Is, Flags and Detail tell of a body that broke off, too. A hook is made once, in
// Wrap of a [Policy], and finds what it must know of the call in c. Both are only valid
// until it returns. It must not read the answer's body, which waits for the hooks. It may
// run in a goroutine of the runtime's, where a panic ends the program.
type Hook func(c *Call, end *Outcome)

// Open reports whether the outcome's end is still to come.
func (o *Outcome) Open() bool { return o.open != nil && o.open.tail.phase == phaseOpen }

// OnEnd has hook called with c exactly once, when the outcome ends: at the end
// of its body or stream, on its error, when it is closed early or discarded, when its
// context ends or a limit strikes, whichever is first. For a finished outcome that is
// now. Hooks run in the order in which they were registered, which is inner policies
// before outer ones, in the goroutine that ended it. It is for policies, while they
// handle the outcome.
//
//	o := next(ctx, c)
//	o.OnEnd(c, release) // release was made in Wrap
//	return o
func (o *Outcome) OnEnd(c *Call, hook Hook) {
	if !o.Open() {
		hook(c, o)
		return
	}
	o.open.tail.add(c, hook)
}

// Discard ends an open outcome that nobody will use: a small rest of its body is
// read so that the connection can be used again, a large or slow one is cut off. It may
// take as long as [HTTP] DrainTime. A finished outcome has nothing to discard.
func (o *Outcome) Discard() { o.DiscardWithin(0) }

// DiscardWithin is [Outcome.Discard] that takes no longer than d, if d is positive and
// [HTTP] DrainTime is not set.
func (o *Outcome) DiscardWithin(d time.Duration) {
	if o.Open() {
		o.open.drain = d
		o.open.flight.exchange.Discard(o.open, o)
	}
}

// Failure gives the outcome as an error: Err if there is one, a [*StatusError]
// for an answer that counts against the upstream, nil for all else.
func (o *Outcome) Failure() error {
	switch {
	case o.Err != nil:
		return o.Err
	case o.Is.Any(Failure):
		return &StatusError{Code: o.Code}
	}
	return nil
}

// fail makes o that of an attempt that brought no response.
func (o *Outcome) fail(err error, is Condition, detail *envoy.Detail) {
	*o = Outcome{}
	o.blame(err, is, detail)
}

// blame adds what went wrong to o.
func (o *Outcome) blame(err error, is Condition, detail *envoy.Detail) {
	o.Err = err
	o.Is |= is
	o.Flags |= detail.Flags()
	if detail != nil {
		o.Detail = detail
	}
}

// StatusError stands for an answer whose status counts against the upstream,
// where an error is asked for.
type StatusError struct {
	Code int // HTTP status or gRPC code
}

func (e *StatusError) Error() string { return fmt.Sprintf("upstream answered %d", e.Code) }
