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

// exchange is a streamCall as the engine sees it; both have a method Header.
type exchange streamCall

// exchange implements these. They are found by their methods.
var _ interface {
	policy.Exchange
	policy.Repeater
	policy.Discarder
	policy.Successor
	policy.MessageCounter
	policy.GRPCCoder
	policy.ConnectionObserver
} = (*exchange)(nil)

// Try opens a stream and waits for the response headers.
func (x *exchange) Try(ctx context.Context, c *policy.Attempt, o *policy.Outcome) {
	a := x.attempt(c)
	if a.beside {
		o.Err, o.Is = errBeside, policy.Invalid
		return
	}
	defer a.over.Store(true)
	c.Prepare()
	a.of, a.ctx, a.number, a.watched = c, ctx, c.Call().Attempt(), c.Observed()
	o.Value = a
	x.hold(c)
	a.ride.begin(x.upstream, c)
	open, err := x.try(a) //nolint:contextcheck // a has it
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
	case lost: // o says why
	case bad != nil: // SendMsg may have returned before that was known
		o.Err, o.Is = bad, policy.Invalid
	case err != nil:
		o.Err = ended(ctx, err)
	default:
		a.end, o.Detail = io.EOF, envoy.ViaUpstream
	}
}

// close is for an attempt whose stream has ended. A message that is being sent has then been
// sent, or has failed, and that is known.
func (x *exchange) close(a *streamAttempt) {
	if a.stream != nil {
		a.trailer = a.stream.Trailer()
	}
	a.cancel()
	x.leave()
}

var errBeside = errors.New("pilliongrpc: a stream has one attempt at a time: it cannot be hedged")

// try opens a stream and, if a policy acts on them, waits for its response headers. It is
// open when there are any. If it is not, and there is no error, it has ended well.
func (x *exchange) try(a *streamAttempt) (open bool, err error) {
	if a.redial {
		x.redial(a.ctx)
	}
	var ctx context.Context
	ctx, a.cancel = context.WithCancel(a.outgoing(a.ctx)) // to end a stream that has no use any more
	stream, err := x.streamer(ctx, x.desc, x.cc, x.method, a.streamOptions(&x.targets, (*streamCall)(x).onFinish(a))...)
	if err != nil {
		return false, err
	}
	if stream == nil {
		return false, errNoStream
	}
	a.stream = stream
	if !x.upstream.Chain().AwaitsHead() {
		x.stream = stream // nothing is sent yet
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

// resume has what was kept sent to the stream of a, and what follows too. That may take as
// long as the server takes to read.
func (x *exchange) resume(a *streamAttempt) {
	x.sending.Lock()
	if len(x.kept) == 0 {
		x.replay(a.stream)
		return
	}
	go func() { // which unlocks: the caller's messages come after those that were kept
		defer x.unsendable(a)
		x.replay(a.stream)
	}()
}

// unsendable ends the attempt of a message that panicked when it was sent again. It is deferred
// directly.
func (x *exchange) unsendable(a *streamAttempt) {
	if p := recover(); p != nil {
		report.Panic("the encoding of a message that is sent again", p)
		x.broken.CompareAndSwap(nil, sendError{newPanicError(x.upstream, p)})
		a.cancel()
	}
}

// replay sends what was kept, and has what follows sent to the same stream. The caller has
// locked sending.
func (x *exchange) replay(stream grpc.ClientStream) {
	defer x.sending.Unlock()
	for _, m := range x.kept {
		if err := stream.SendMsg(m); err != nil {
			if !errors.Is(err, io.EOF) {
				x.broken.CompareAndSwap(nil, sendError{err})
			}
			break // Header returns why
		}
	}
	if x.closed {
		_ = stream.CloseSend()
	}
	x.stream = stream
	x.opened.Broadcast()
}

// leave has further messages wait for the next attempt.
func (x *exchange) leave() {
	x.sending.Lock()
	defer x.sending.Unlock()
	x.stream = nil
}

// sendError returns why a message could not be sent, if only the message is to blame: gRPC has
// ended the stream with it, and may say nothing more.
func (x *streamCall) sendError() error {
	if b, ok := x.broken.Load().(sendError); ok {
		return b.error
	}
	return nil
}

// hold suspends the limits of one try while a client goes on sending.
func (x *exchange) hold(c *policy.Attempt) {
	if !x.desc.ClientStreams {
		return
	}
	x.arming.Lock()
	defer x.arming.Unlock()
	if x.trying = c; !x.whole {
		c.LiftTry()
	}
}

// arm starts them, when the sending is closed.
func (x *streamCall) arm() {
	x.arming.Lock()
	defer x.arming.Unlock()
	if x.trying != nil && !x.whole {
		x.trying.ArmTry()
	}
	x.whole = true
}

// drop leaves an attempt's limits alone, when it has come to its head.
func (x *exchange) drop() {
	x.arming.Lock()
	defer x.arming.Unlock()
	x.trying = nil
}

// Explain takes a status for what it is, whether it came before or after the response headers.
func (x *exchange) Explain(c *policy.Attempt, o *policy.Outcome, err error) {
	a := &x.attempt(c).attempt
	explain(x.upstream, a, o, err)
	if a.begun() && o.Detail == envoy.ViaUpstream {
		o.Is |= policy.GRPCCondition(o.Code) // at the end of a stream no condition retries it
	}
}

// GRPCStatus is the code that the caller gets: of an open stream, where it ends.
func (x *exchange) GRPCStatus(o *policy.Outcome) int {
	if (*streamCall)(x).isOpen() {
		return int(status.Code(ofError(x.upstream, o.Err)))
	}
	return x.client.GRPCStatus(o)
}

// Discard ends a stream that has no use any more.
func (x *exchange) Discard(c *policy.Attempt, _ *policy.Outcome) {
	x.attempt(c).cancel()
	x.leave()
	c.Drop()
}

// Unconnected reports whether the attempt surely never had a connection.
func (x *exchange) Unconnected(c *policy.Attempt) bool { return x.attempt(c).unconnected() }

// attempt finds what belongs to c.
func (x *exchange) attempt(c *policy.Attempt) *streamAttempt {
	if a, ok := c.Attached().(*streamAttempt); ok {
		return a
	}
	return &x.first
}

// NewAttempt returns the storage of the next attempt.
func (x *exchange) NewAttempt(from *policy.Attempt) *policy.Attempt {
	before := x.attempt(from)
	x.retried.Store(true)
	next := &struct {
		of      policy.Attempt
		attempt streamAttempt
	}{}
	next.attempt.beside = !before.over.Load()
	next.attempt.after(&before.attempt)
	next.of.Attach(&next.attempt)
	return &next.of
}

// Header returns the attempt's own metadata.
func (x *exchange) Header(c *policy.Attempt) policy.Header {
	return x.headerOf(&x.attempt(c).attempt)
}

// ResponseHeader reads the metadata that came first.
func (x *exchange) ResponseHeader(o *policy.Outcome, name string) []string {
	a, _ := o.Value.(*streamAttempt)
	if a == nil {
		return nil
	}
	return a.response().head().Get(name)
}

// Replayable reports whether all that was sent is still there.
func (x *exchange) Replayable() bool { return !x.over.Load() }

// newPanicError stands for a panic in a goroutine of a stream.
func newPanicError(u *pillion.Upstream, value any) error {
	err := &pillion.PanicError{Value: value, Stack: debug.Stack()}
	return newError(u, codes.Internal, fmt.Errorf("pilliongrpc: %w", err), 0, nil, false)
}
