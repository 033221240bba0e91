package policy

import "context"

// Protocol names the protocol of a call.
type Protocol string

// The protocols of the adapters in this module.
const (
	ProtocolHTTP Protocol = "http"
	ProtocolGRPC Protocol = "grpc"
	ProtocolFunc Protocol = "func" // a plain function
)

// Request describes a call to the policies, whatever its protocol.
type Request struct {
	Protocol  Protocol
	Method    string // the HTTP method, or the full gRPC method
	Authority string // host and port that the caller asked for
	Path      string // the URL's path, or the full gRPC method
	Query     string // the URL's query, without the question mark
}

// Header is a set of header fields that can be changed. [net/http.Header] is one.
type Header interface {
	Get(name string) string
	Set(name, value string)
	Del(name string)
}

// Exchange is one call in the terms of its protocol. An adapter implements it, and as many as apply
// of [Unary], [Repeater], [Discarder], [Successor], [Storage], [Blamer], [LimitObserver],
// [ConnectionObserver], [EarlyObserver], [MessageCounter], [Measurer] and [GRPCCoder]. These are found by their
// methods, so an adapter should assert that it implements them.
//
// One Exchange serves one call. If a policy runs attempts concurrently, all methods but the two
// that read the caller's request are called concurrently for different attempts.
type Exchange interface {
	// Request describes the call.
	Request() Request
	// RequestHeader returns the values of a header of the caller's request: nil if it is absent,
	// empty if it is present without a value. The values must not be changed.
	RequestHeader(name string) []string
	// ResponseHeader returns the values of a header of a response, nil if it is absent. The values
	// must not be changed.
	ResponseHeader(o *Outcome, name string) []string
	// Header returns the attempt's own request header. The first call copies the caller's.
	Header(a *Attempt) Header
	// Try makes one attempt, returns when the response headers have arrived, and reports the result
	// in o. It calls [Attempt.Open] for a response that goes on; the attempt's [Stream] ends it. It
	// stores an error unchanged: Classify classifies it, unless Try has set Conditions.
	Try(ctx context.Context, a *Attempt, o *Outcome)
	// Classify sets Err, Conditions, Flags and Detail of o by the meaning of err, for an attempt
	// without a response or a response that broke off. It is not called if a timeout fired or the
	// caller was canceled.
	Classify(a *Attempt, o *Outcome, err error)
}

// Unary is an [Exchange] that reports whether responses arrive whole, so that the per-try limit is
// a deadline for the server too. An Exchange without it counts as not unary.
type Unary interface{ Unary() bool }

// Repeater is an [Exchange] that can be retried. An Exchange without it is neither idempotent nor
// replayable.
type Repeater interface {
	// Idempotent reports whether the call may be sent twice without harm.
	Idempotent() bool
	// Replayable reports whether the request can be sent once more.
	Replayable() bool
}

// Discarder is an [Exchange] whose responses stay open.
type Discarder interface {
	// Discard releases an open response that is not going to be read, and calls [Attempt.Drop].
	Discard(a *Attempt, o *Outcome)
}

// Successor is an [Exchange] that stores something with each attempt.
type Successor interface {
	// NewAttempt returns the storage of the next attempt. Its request header starts as a copy of
	// that of from.
	NewAttempt(from *Attempt) *Attempt
}

// Storage is an [Exchange] that saves allocations.
type Storage interface {
	// NewStream returns the storage of the [Stream] of an attempt that has no context of its own. It
	// must be zero, and is used once.
	NewStream(a *Attempt) *Stream
	// NewLimitedStream is NewStream for an attempt that has a context of its own.
	NewLimitedStream(a *Attempt) (*Stream, *StreamLimits)
	// Recycle is called when the end of a response has ended the call. Nothing of the call is in
	// use then, except Streams.
	Recycle()
}

// Blamer is an [Exchange] that knows whether the caller caused a timeout. Such a call does not
// count as a failure.
type Blamer interface{ CausedByCaller(scope Scope) bool }

// LimitObserver is an [Exchange] that is notified of a timeout that fires before the response
// headers. LimitFired runs in a goroutine of the runtime.
type LimitObserver interface{ LimitFired() }

// ConnectionObserver is an [Exchange] that knows whether an attempt certainly ended without a
// connection.
type ConnectionObserver interface{ Unconnected(a *Attempt) bool }

// EarlyObserver is an [Exchange] that knows whether a 1xx response of an attempt arrived.
type EarlyObserver interface{ ReceivedEarly(a *Attempt) bool }

// MessageCounter is an [Exchange] that counts the caller's messages.
type MessageCounter interface {
	Messages() (sent, received uint64)
}

// GRPCCoder is an [Exchange] that decides the gRPC status code of an outcome.
type GRPCCoder interface{ GRPCStatus(o *Outcome) int }
