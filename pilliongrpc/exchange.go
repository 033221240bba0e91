package pilliongrpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/internal/report"
	"github.com/pillion-go/pillion/policy"
)

// exchange is a streamCall as a policy.Exchange. It is a separate type because both have a method
// Header.
type exchange streamCall

// exchange implements these interfaces, which the engine finds with type assertions.
var _ interface {
	policy.Exchange
	policy.Repeater
	policy.Discarder
	policy.Successor
	policy.MessageCounter
	policy.GRPCCoder
	policy.ConnectionObserver
	policy.Sequential
} = (*exchange)(nil)

// Try opens a stream and waits for the response headers.
func (x *exchange) Try(ctx context.Context, c *policy.Attempt, o *policy.Outcome) {
	a := x.attempt(c)
	if a.beside {
		o.Err, o.Conditions = errBeside, policy.Invalid
		return
	}
	defer a.over.Store(true)
	c.Prepare()
	x.begin(&a.attempt, c)
	a.of, a.ctx = c, ctx
	o.Value = a
	x.hold(c)
	a.ride.begin(x.upstream, c)
	open, err := x.try(a) //nolint:contextcheck // a holds the context
	lost := a.ride.end(o)
	x.drop()
	if a.watched {
		a.setEndpoint(c)
	}
	if open {
		a.response().countAttempts(x.upstream, a.number)
		o.Detail = envoy.ViaUpstream
		c.Open()
		return
	}
	x.close(a)
	a.response().countAttempts(x.upstream, a.number)
	switch bad := (*streamCall)(x).sendError(); {
	case lost: // o has the reason
	case bad != nil: // SendMsg may have returned before the error was known
		o.Err, o.Conditions = bad, policy.Invalid
	case err != nil:
		o.Err = ended(ctx, err)
	default:
		a.end, o.Detail = io.EOF, envoy.ViaUpstream
	}
}

// close cleans up an attempt whose stream has ended. It waits until a message that is being sent
// was sent or has failed.
func (x *exchange) close(a *streamAttempt) {
	if a.stream != nil {
		a.trailer = a.stream.Trailer()
	}
	a.cancel()
	x.leave()
}

var errBeside = errors.New("pilliongrpc: a stream cannot be hedged: it has one attempt at a time")

// try opens a stream and, if a policy acts on response headers, waits for them. open reports
// whether they arrived. If they did not and err is nil, the stream has ended with status OK.
func (x *exchange) try(a *streamAttempt) (open bool, err error) {
	if a.redials() {
		x.redial(a.ctx)
	}
	var ctx context.Context
	ctx, a.cancel = context.WithCancel(a.outgoing(a.ctx)) // to end a stream that is no longer used
	stream, err := x.streamer(ctx, x.desc, x.cc, x.method, a.streamOptions(&x.targets, (*streamCall)(x).onFinish(a))...)
	if err != nil {
		return false, err
	}
	if stream == nil {
		return false, errNoStream
	}
	a.stream = stream
	if !x.upstream.Chain().AwaitsHead() {
		x.stream = stream // no message has been sent yet
		return true, nil
	}
	x.resume(a)
	a.header, err = stream.Header()
	if a.watched && a.remote.Load() == nil {
		a.peer = a.from()
	}
	if a.header != nil || err != nil {
		return err == nil, err
	}
	if err = stream.RecvMsg(nil); errors.Is(err, io.EOF) {
		err = nil
	}
	return false, err
}

var errNoStream = status.Error(codes.Internal, "pilliongrpc: an interceptor returned neither a stream nor an error")

// resume sends the kept messages to the stream of a, and directs later messages there, too. Sending
// may block until the server reads.
func (x *exchange) resume(a *streamAttempt) {
	x.sending.Lock()
	if len(x.kept) == 0 {
		x.replay(a.stream)
		return
	}
	go func() { // replay unlocks: the caller's messages follow the kept ones
		defer x.unsendable(a)
		x.replay(a.stream)
	}()
}

// unsendable ends the attempt if the encoding of a kept message panicked. It must be deferred
// directly.
func (x *exchange) unsendable(a *streamAttempt) {
	if p := recover(); p != nil {
		report.Panic("the encoding of a message in a retry", p)
		x.broken.CompareAndSwap(nil, sendError{newPanicError(x.upstream, p)})
		a.cancel()
	}
}

// replay sends the kept messages, and directs later messages to the same stream. The caller has
// locked sending.
func (x *exchange) replay(stream grpc.ClientStream) {
	defer x.sending.Unlock()
	for _, m := range x.kept {
		if err := stream.SendMsg(m); err != nil {
			if !errors.Is(err, io.EOF) {
				x.broken.CompareAndSwap(nil, sendError{err})
			}
			break // Header returns the reason
		}
	}
	if x.closed {
		_ = stream.CloseSend()
	}
	x.stream = stream
	x.opened.Broadcast()
}

// leave keeps later messages for the next attempt.
func (x *exchange) leave() {
	x.sending.Lock()
	defer x.sending.Unlock()
	x.stream = nil
}

// sendError returns the error of a message that could not be sent because of the message itself.
// gRPC has then ended the stream, and may not report the reason again.
func (x *streamCall) sendError() error {
	if b, ok := x.broken.Load().(sendError); ok {
		return b.error
	}
	return nil
}

// hold suspends the timeouts of the attempt while the client still sends.
func (x *exchange) hold(c *policy.Attempt) {
	if !x.desc.ClientStreams {
		return
	}
	x.arming.Lock()
	defer x.arming.Unlock()
	if x.trying = c; !x.whole {
		c.LiftPerTry()
	}
}

// arm starts the suspended timeouts when the client has closed sending.
func (x *streamCall) arm() {
	x.arming.Lock()
	defer x.arming.Unlock()
	if x.trying != nil && !x.whole {
		x.trying.ArmPerTry()
	}
	x.whole = true
}

// drop forgets the attempt, whose per-try timeouts have ended with the response headers.
func (x *exchange) drop() {
	x.arming.Lock()
	defer x.arming.Unlock()
	x.trying = nil
}

// Sequential is true: a stream has one attempt at a time.
func (x *exchange) Sequential() bool { return true }

// Classify classifies a status, before or after the response headers.
func (x *exchange) Classify(c *policy.Attempt, o *policy.Outcome, err error) {
	a := &x.attempt(c).attempt
	classify(x.upstream, a, o, err)
	if a.begun() && o.Detail == envoy.ViaUpstream {
		o.Conditions |= policy.GRPCCondition(o.Code) // not retried at the end of a stream
	}
}

// GRPCStatus returns the code that the caller receives, for an open stream at its end.
func (x *exchange) GRPCStatus(o *policy.Outcome) int {
	if (*streamCall)(x).isOpen() {
		return int(status.Code(ofError(x.upstream, o.Err)))
	}
	return x.client.GRPCStatus(o)
}

// Discard ends a stream that is no longer used.
func (x *exchange) Discard(c *policy.Attempt, _ *policy.Outcome) {
	x.attempt(c).cancel()
	x.leave()
	c.Drop()
}

// Unconnected reports whether the attempt certainly had no connection.
func (x *exchange) Unconnected(c *policy.Attempt) bool { return x.attempt(c).unconnected() }

// attempt returns the state of c.
func (x *exchange) attempt(c *policy.Attempt) *streamAttempt {
	if a, ok := c.Attached().(*streamAttempt); ok {
		return a
	}
	return &x.first
}

// NewAttempt returns the storage of the next attempt.
func (x *exchange) NewAttempt(from *policy.Attempt) *policy.Attempt {
	before := x.attempt(from)
	next := &struct {
		of      policy.Attempt
		attempt streamAttempt
	}{}
	next.attempt.beside = !before.over.Load()
	next.attempt.after(&before.attempt)
	next.of.Attach(&next.attempt)
	return &next.of
}

// Header returns the attempt's own request metadata.
func (x *exchange) Header(c *policy.Attempt) policy.Header {
	return x.headerOf(&x.attempt(c).attempt)
}

// ResponseHeader returns values of the first metadata of the response.
func (x *exchange) ResponseHeader(o *policy.Outcome, name string) []string {
	a, _ := o.Value.(*streamAttempt)
	if a == nil {
		return nil
	}
	return a.response().head().Get(name)
}

// Replayable reports whether all sent messages are kept.
func (x *exchange) Replayable() bool { return !x.over.Load() }

// newPanicError returns the error for a panic in a goroutine of a stream.
func newPanicError(u *pillion.Upstream, value any) error {
	err := &pillion.PanicError{Value: value, Stack: debug.Stack()}
	return newError(u, codes.Internal, fmt.Errorf("pilliongrpc: %w", err), 0, nil, false)
}
