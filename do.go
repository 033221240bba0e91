package pillion

import (
	"context"
	"errors"
	"fmt"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// Do calls work under the upstream's policies. It is for protocols without an adapter: a database,
// a queue, a client library. It runs work in the calling goroutine, once for each attempt. The
// context of work ends when a timeout of the policies fires. If work does not honor it, Do waits
// for work, drops its late result and returns a [*TimeoutError].
//
// An error counts as [policy.Failed], unless it is a known error of the network, such as a timeout,
// a refused connection or a reset. A nil error is a success. By default nothing is retried, since
// work may not be safe to run twice: [WithIdempotent] marks it as safe. A retry policy with custom
// conditions decides as for HTTP; "5xx" means any failure.
//
// A panic in work goes on to the caller. Before that, policies have released what they held, and
// [Info] and listeners have received the end of the call; hooks of the attempt do not run. A nil
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

// missing returns an error if an argument of [Do] is nil.
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

// WithIdempotent returns a context for calls or functions that may run more than once without harm.
// A retry policy with its default conditions then retries them, whatever their protocol and method.
// It is for [Do], and for an HTTP POST or a gRPC method that is idempotent but does not say so.
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

// The engine finds these interfaces by their methods.
var _ interface {
	policy.Exchange
	policy.Unary
	policy.Repeater
} = (*funcCall[int])(nil)

// Request returns only the protocol.
func (x *funcCall[T]) Request() policy.Request { return policy.Request{Protocol: policy.ProtocolFunc} }

// Unary returns true: a function returns once.
func (x *funcCall[T]) Unary() bool { return true }

// Try calls the function once.
func (x *funcCall[T]) Try(ctx context.Context, _ *policy.Attempt, o *policy.Outcome) {
	o.Value, o.Err = x.work(ctx)
	if o.Err == nil {
		o.Detail = envoy.ViaUpstream
	}
}

// Classify classifies the errors of the network, and keeps all errors unchanged.
func (x *funcCall[T]) Classify(_ *policy.Attempt, o *policy.Outcome, err error) {
	is, detail := functionFailure(err)
	o.Blame(err, is, detail)
}

// functionFailure classifies the error of a function: by the network's error in it, if any, else as
// a failure that stands for a 5xx.
func functionFailure(err error) (policy.Condition, *envoy.Detail) {
	if errors.Is(err, context.Canceled) {
		return policy.Cancelled, envoy.CallerGone
	}
	if is, detail, ok := networkFailure(err); ok {
		return is, detail
	}
	return policy.Failed | policy.Status5xx, nil
}

// RequestHeader returns nil: a function has no header.
func (x *funcCall[T]) RequestHeader(string) []string { return nil }

// Header returns a header that discards everything.
func (x *funcCall[T]) Header(*policy.Attempt) policy.Header { return noHeader{} }

// ResponseHeader returns nil: a function has no header.
func (x *funcCall[T]) ResponseHeader(*policy.Outcome, string) []string { return nil }

// Idempotent returns false: only [WithIdempotent] marks a function as idempotent.
func (x *funcCall[T]) Idempotent() bool { return false }

// Replayable returns true: a function can always be called again.
func (x *funcCall[T]) Replayable() bool { return true }

// noHeader is the header of a protocol that has none.
type noHeader struct{}

func (noHeader) Get(string) string  { return "" }
func (noHeader) Set(string, string) {}
func (noHeader) Del(string)         {}
