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
	Authority string // host and port the caller asked for
	Path      string // the URL's path, or the full gRPC method
	Query     string // the URL's query, without the question mark
}

// Header is a set of header fields that can be changed. [net/http.Header] is one.
type Header interface {
	Get(name string) string
	Set(name, value string)
	Del(name string)
}

// Exchange is one call in the terms of its protocol. An adapter implements it, and what it can
// of [Unary], [Repeater], [Discarder], [Successor], [Storage], [Blamer], [LimitObserver],
// [ConnectionObserver], [EarlyObserver], [MessageCounter] and [GRPCCoder]. These are found by
// their methods, so an adapter should assert that it has them.
//
// One Exchange serves one call. When a policy runs attempts concurrently, all methods but the
// two that read the caller's request are called concurrently for different attempts.
type Exchange interface {
	// Request describes the call.
	Request() Request
	// RequestHeader returns the values of a header of the caller's request: nil if it is
	// absent, empty if it is present without a value. They must not be changed.
	RequestHeader(name string) []string
	// ResponseHeader returns the values of a header of a response, nil if it is absent. They
	// must not be changed.
	ResponseHeader(o *Outcome, name string) []string
	// Header returns the attempt's own request header, which is copied when it is first asked
	// for.
	Header(a *Attempt) Header
	// Try makes one attempt, returns when its response headers are there, and reports the
	// result in o. It marks a response that goes on with [Attempt.Open]; its [Stream] ends it.
	// It leaves an error as it came: Explain classifies it, unless Try set Is.
	Try(ctx context.Context, a *Attempt, o *Outcome)
	// Explain adds to o what err means: Err, Is, Flags and Detail, for an attempt without a
	// response, or a response that broke off. It is not called for a timeout that fired, or a
	// caller that was canceled.
	Explain(a *Attempt, o *Outcome, err error)
}

// Unary is an [Exchange] that says whether responses come whole, so that the limit of one
// attempt is a deadline for the server too. Without it they do not.
type Unary interface{ Unary() bool }

// Repeater is an [Exchange] that can be retried. Without it the call is neither idempotent nor
// replayable.
type Repeater interface {
	// Idempotent reports whether the call may be sent twice without harm.
	Idempotent() bool
	// Replayable reports whether the request can be sent once more.
	Replayable() bool
}

// Discarder is an [Exchange] whose responses stay open.
type Discarder interface {
	// Discard ends an open response that will not be read, with [Attempt.Drop].
	Discard(a *Attempt, o *Outcome)
}

// Successor is an [Exchange] that keeps something with each attempt.
type Successor interface {
	// NewAttempt returns the storage of the next attempt, whose request header starts as that
	// of from.
	NewAttempt(from *Attempt) *Attempt
}

// Storage is an [Exchange] that saves allocations.
type Storage interface {
	// NewStream returns the storage of an attempt's [Stream]: zero, and used once.
	NewStream(a *Attempt) *Stream
	// Recycle is called when the end of a response has ended the call, and nothing of it is in
	// use any more but Streams.
	Recycle()
}

// Blamer is an [Exchange] that knows when a timeout is the caller's doing: such a call is no
// failure.
type Blamer interface{ CausedByCaller(scope Scope) bool }

// LimitObserver is an [Exchange] that wants to know of a timeout that fires before the response
// headers. LimitFired is called in a goroutine of the runtime.
type LimitObserver interface{ LimitFired() }

// ConnectionObserver is an [Exchange] that knows whether an attempt surely ended without a
// connection.
type ConnectionObserver interface{ Unconnected(a *Attempt) bool }

// EarlyObserver is an [Exchange] that knows whether a 1xx response of an attempt arrived.
type EarlyObserver interface{ ReceivedEarly(a *Attempt) bool }

// MessageCounter is an [Exchange] that counts the caller's messages.
type MessageCounter interface {
	Messages() (sent, received uint64)
}

// GRPCCoder is an [Exchange] that decides the gRPC status code of a result.
type GRPCCoder interface{ GRPCStatus(o *Outcome) int }
