package policy

import (
	"errors"
	"time"

	"github.com/pillion-go/pillion/envoy"
)

// Outcome is the result of an attempt or of a whole call. It belongs to the attempt's [Call] and
// passes from policy to policy; a policy may change its fields. It is either finished or open. An
// HTTP response whose body is still to be read, or a stream that still runs, is open until its end;
// then the hooks run that [Outcome.OnEnd] registered.
type Outcome struct {
	Value      any           // *http.Response, a gRPC reply, or a function's result; nil with most errors
	Err        error         // why there is no value or, at the end, why the response broke off
	Code       int           // HTTP status or gRPC code; 0 for none
	Conditions Condition     // what kind of result it is, for every protocol
	Flags      envoy.Flags   // Envoy's response flags
	Detail     *envoy.Detail // Envoy's response code details
	local      int           // the status of the local reply to a timeout; 0 for that of Detail
	open       *Call         // the attempt that has not ended yet; nil if finished
}

// reset makes o the zero Outcome: see [Call.reset].
func (o *Outcome) reset() {
	o.Code, o.Conditions, o.Flags, o.Detail, o.local = 0, 0, 0, nil, 0
	if o.Value != nil {
		o.Value = nil
	}
	if o.Err != nil {
		o.Err = nil
	}
	if o.open != nil {
		o.open = nil
	}
}

// Hook is called at the end of an attempt or call, with its final outcome: Err, Conditions, Flags
// and Detail include a body that broke off. A policy makes a hook once, in Wrap; the state of the
// call is in c. Neither argument may be used after the hook returns. A hook must not read the
// response's body, which waits for the hooks. It may run in a goroutine of the runtime; a panic
// there is recovered and reported.
type Hook func(c *Call, end *Outcome)

// Has reports whether any of the given conditions holds.
func (o *Outcome) Has(conditions Condition) bool { return o.Conditions.Any(conditions) }

// Open reports whether the outcome has not ended yet.
func (o *Outcome) Open() bool {
	return o.open != nil && (o.open.state == stateOpen || o.open.state == stateWatched)
}

// OnEnd registers hook, which is called with c exactly once, when the outcome ends: at the end of
// its body or stream, at an error, when it is closed or discarded, when its context ends or when a
// timeout fires, whichever is first. For a finished outcome OnEnd calls it immediately. Hooks run
// in the order of their registration, so those of inner policies run first, in the goroutine that
// ended the outcome. A policy calls OnEnd while it handles the outcome.
//
//	o := next(ctx, c)
//	o.OnEnd(c, release) // release was made in Wrap
//	return o
func (o *Outcome) OnEnd(c *Call, hook Hook) {
	switch {
	case !o.Open():
		hook(c, o)
	case o.open.state == stateWatched:
		panic("policy: Outcome.OnEnd: the caller has the response; register hooks before the policy returns")
	default:
		o.open.hooks.add(c, hook)
	}
}

// Discard ends an open outcome that is not going to be used. It reads a small rest of the body so
// that the connection can be reused, and cuts off a large or slow one. It may take as long as
// [pillion.Options] DrainTime. It does nothing to a finished outcome.
func (o *Outcome) Discard() { o.DiscardWithin(0) }

// DiscardWithin is [Outcome.Discard], but takes at most d if d is positive and [pillion.Options]
// DrainTime is not set.
func (o *Outcome) DiscardWithin(d time.Duration) {
	if o.Open() && o.open.state == stateOpen {
		o.open.drain = d
		o.open.discard(o)
	}
}

// Failure returns the outcome as an error: Err if it is not nil, a [*StatusError] for a response
// that counts against the upstream, nil for anything else.
func (o *Outcome) Failure() error {
	switch {
	case o.Err != nil:
		return o.Err
	case o.Has(Failure):
		return &StatusError{Code: o.Code}
	}
	return nil
}

// LocalStatus returns the HTTP status of the response that Envoy sends if it has none from the
// upstream, 0 if it sends none: that of Detail or, for a timeout, of [Call.ReplyToTimeouts].
func (o *Outcome) LocalStatus() int {
	if o.local != 0 {
		return o.local
	}
	return o.Detail.LocalStatus()
}

// LocalReply returns the status and the text of that response. The text differs if the call was
// retried.
func (o *Outcome) LocalReply(retried bool) (status int, text string) {
	if o.local != 0 {
		return o.local, ""
	}
	detail := o.Detail
	if o.Has(Informational) {
		detail = detail.BeforeResponse()
	}
	return detail.LocalReply(retried)
}

// GRPCStatus returns the gRPC status code of o: the upstream's if it sent one, else that of Envoy's
// local reply. A timeout has gRPC's own code, unless envoys asks for Envoy's code there too; even
// then, the caller's own deadline keeps gRPC's code.
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

// fail makes o the outcome of an attempt without a response.
func (o *Outcome) fail(err error, is Condition, detail *envoy.Detail) {
	*o = Outcome{}
	o.Blame(err, is, detail)
}

// Blame adds a failure to o. err and detail replace those of o; conditions and flags are added.
func (o *Outcome) Blame(err error, is Condition, detail *envoy.Detail) {
	o.Err = err
	o.Conditions |= is
	o.Flags |= detail.Flags()
	if detail != nil {
		o.Detail = detail
	}
}
