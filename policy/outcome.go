package policy

import (
	"errors"
	"time"

	"github.com/pillion-go/pillion/envoy"
)

// Outcome is what an attempt, or a whole call, came to. It belongs to the
// attempt's [Call] and is handed from policy to policy; a policy may change what it
// says. It is either finished or open: an HTTP answer whose body is still to be read,
// or a stream that is still running, is open until its end, when the hooks run that
// were registered with [Outcome.OnEnd].
type Outcome struct {
	Value      any           // *http.Response, a gRPC reply, or a function's result; nil with most errors
	Err        error         // why there is no value, or, at the end, why it broke off
	Code       int           // HTTP status or gRPC code; 0 where there is none
	Conditions Condition     // what kind of result it is, in words that hold for every protocol
	Flags      envoy.Flags   // Envoy's response flags
	Detail     *envoy.Detail // Envoy's response code details
	open       *Call         // the attempt whose end is still to come; nil when finished
}

// Hook hears the end of an attempt or call. end says what it came to in the end:
// Err, Is, Flags and Detail tell of a body that broke off, too. A hook is made once, in
// Wrap of a [Policy], and finds what it must know of the call in c. Both are only valid
// until it returns. It must not read the answer's body, which waits for the hooks. It may
// run in a goroutine of the runtime's, where a panic ends the program.
type Hook func(c *Call, end *Outcome)

// Has reports whether any of the given conditions holds.
func (o *Outcome) Has(conditions Condition) bool { return o.Conditions.Any(conditions) }

// Open reports whether the outcome's end is still to come.
func (o *Outcome) Open() bool {
	return o.open != nil && (o.open.state == stateOpen || o.open.state == stateWatched)
}

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
	switch {
	case !o.Open():
		hook(c, o)
	case o.open.state == stateWatched:
		panic("policy: Outcome.OnEnd: the caller has the response: register hooks before the policy returns")
	default:
		o.open.hooks.add(c, hook)
	}
}

// Discard ends an open outcome that nobody will use: a small rest of its body is
// read so that the connection can be used again, a large or slow one is cut off. It may
// take as long as [pillion.Options] DrainTime. A finished outcome has nothing to discard.
func (o *Outcome) Discard() { o.DiscardWithin(0) }

// DiscardWithin is [Outcome.Discard] that takes no longer than d, if d is positive and
// [pillion.Options] DrainTime is not set.
func (o *Outcome) DiscardWithin(d time.Duration) {
	if o.Open() && o.open.state == stateOpen {
		o.open.drain = d
		o.open.discard(o)
	}
}

// Failure gives the outcome as an error: Err if there is one, a [*StatusError]
// for an answer that counts against the upstream, nil for all else.
func (o *Outcome) Failure() error {
	switch {
	case o.Err != nil:
		return o.Err
	case o.Has(Failure):
		return &StatusError{Code: o.Code}
	}
	return nil
}

// GRPCStatus is the gRPC status code that o comes to: the upstream's if it sent one; else that of
// Envoy's local reply, but for timeouts, for which gRPC has its own code. envoys asks for Envoy's
// code there too; a deadline of the caller's own stays one.
func (o *Outcome) GRPCStatus(envoys bool) int {
	local := o.Detail.LocalStatus()
	timedOut := o.Has(Timeout) && !o.Has(ConnectFailure)
	switch {
	case o.Err == nil:
		return 0
	case o.Detail == envoy.ViaUpstream && o.Code > 0 && o.Code < 17:
		return o.Code
	case o.Has(Cancelled) && !o.Has(Timeout):
		return 1
	case timedOut && (!envoys || local == 0 || o.callersDeadline()):
		return 4
	case local != 0:
		return o.Detail.GRPCStatus()
	case o.Has(Refused | Reset):
		return 14
	case o.Has(ProtocolError):
		return 13
	}
	return 2
}

func (o *Outcome) callersDeadline() bool {
	limit, ok := errors.AsType[*TimeoutError](o.Err)
	return ok && limit.Scope == ScopeCaller
}

// fail makes o that of an attempt that brought no response.
func (o *Outcome) fail(err error, is Condition, detail *envoy.Detail) {
	*o = Outcome{}
	o.Blame(err, is, detail)
}

// Blame adds what went wrong to o: err and detail take the place of those of o, conditions and
// flags come beside them.
func (o *Outcome) Blame(err error, is Condition, detail *envoy.Detail) {
	o.Err = err
	o.Conditions |= is
	o.Flags |= detail.Flags()
	if detail != nil {
		o.Detail = detail
	}
}
