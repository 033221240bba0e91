package pillion

import (
	"context"
	"errors"
	"fmt"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// Do calls work under the upstream's policies, for protocols that have no
// adapter: a database, a queue, a client library. It runs work in the calling
// goroutine, once for each attempt. work's context ends with the limits that the
// policies set; work that does not heed it is waited for, and its late result is
// dropped for a [*TimeoutError].
//
// An error counts as [policy.Failed] to the policies; one that says more is understood: a
// time-out, a refused connection, a reset. A nil error is a success. By default
// nothing is retried, since work may not be safe to run twice: [WithIdempotent] says that it
// is. A retry policy with conditions of its own decides as for HTTP, "5xx" meaning any
// failure.
//
// A panic in work goes on to the caller. Policies have returned what they held by
// then, and [Info] and listeners know of the end; hooks of the attempt do not run. A nil
// context, upstream or work is an error.
func Do[T any](ctx context.Context, u *Upstream, work func(context.Context) (T, error)) (T, error) {
	if err := missing(ctx, u, work == nil); err != nil {
		var none T
		return none, err
	}
	x := &funcCall[T]{work: work}
	x.frame.Init(u.chain, x)
	o := x.frame.Invoke(ctx)
	value, _ := o.Value.(T)
	return value, o.Err
}

// missing returns the error of a call of [Do] that lacks an argument.
func missing(ctx context.Context, u *Upstream, work bool) error {
	switch {
	case u == nil:
		return errors.New("pillion: Do: nil Upstream")
	case ctx == nil:
		return fmt.Errorf("pillion: Do: %s: nil context", u.Name())
	case work:
		return fmt.Errorf("pillion: Do: %s: nil function", u.Name())
	}
	return nil
}

// WithIdempotent returns a context whose calls may be sent, or whose functions may run,
// more than once without harm. A retry policy under its default conditions then retries
// them, whatever their protocol and method. It is for [Do], and for an HTTP POST or a gRPC
// method that is idempotent without saying so.
func WithIdempotent(ctx context.Context) context.Context {
	if ctx == nil {
		panic("pillion: WithIdempotent: nil context")
	}
	return policy.WithIdempotent(ctx)
}

// funcCall is a call of a plain function.
type funcCall[T any] struct {
	frame policy.Frame
	work  func(context.Context) (T, error)
}

// funcCall implements these. They are found by their methods.
var _ interface {
	policy.Exchange
	policy.Unary
	policy.Repeater
} = (*funcCall[int])(nil)

// Request says only that it is a function.
func (x *funcCall[T]) Request() policy.Request { return policy.Request{Protocol: policy.ProtocolFunc} }

// Unary is true: a function returns once.
func (x *funcCall[T]) Unary() bool { return true }

// Try calls the function once.
func (x *funcCall[T]) Try(ctx context.Context, _ *policy.Attempt, o *policy.Outcome) {
	o.Value, o.Err = x.work(ctx)
	if o.Err == nil {
		o.Detail = envoy.ViaUpstream
	}
}

// Classify understands what the network's errors mean, and passes all errors on
// as they are.
func (x *funcCall[T]) Classify(_ *policy.Attempt, o *policy.Outcome, err error) {
	is, detail := functionFailure(err)
	o.Blame(err, is, detail)
}

// functionFailure classifies the error of a function: what the network did to it
// where it says so, else a failure that stands for a 5xx.
func functionFailure(err error) (policy.Condition, *envoy.Detail) {
	if errors.Is(err, context.Canceled) {
		return policy.Cancelled, envoy.CallerGone
	}
	if is, detail, ok := networkFailure(err); ok {
		return is, detail
	}
	return policy.Failed | policy.Status5xx, nil
}

// RequestHeader is empty: a function has none.
func (x *funcCall[T]) RequestHeader(string) []string { return nil }

// Header gives a header that goes nowhere.
func (x *funcCall[T]) Header(*policy.Attempt) policy.Header { return noHeader{} }

// ResponseHeader is empty: a function has none.
func (x *funcCall[T]) ResponseHeader(*policy.Outcome, string) []string { return nil }

// Idempotent is false: only [WithIdempotent] says otherwise.
func (x *funcCall[T]) Idempotent() bool { return false }

// Replayable is true: a function can always be called again.
func (x *funcCall[T]) Replayable() bool { return true }

// noHeader is the header of a protocol that has none.
type noHeader struct{}

func (noHeader) Get(string) string  { return "" }
func (noHeader) Set(string, string) {}
func (noHeader) Del(string)         {}
