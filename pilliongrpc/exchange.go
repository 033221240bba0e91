package pilliongrpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/pillion-go/pillion"
)

// exchange is a streamCall as the engine sees it; both have a method Header.
type exchange streamCall

// Unary is false: an answer goes on after its head.
func (x *exchange) Unary() bool { return false }

// Try opens a stream and waits for the answer's head.
func (x *exchange) Try(ctx context.Context, c *pillion.Call, o *pillion.Outcome) {
	a := x.attempt(c)
	if a.beside {
		o.Err, o.Is = errBeside, pillion.Invalid
		return
	}
	defer a.over.Store(true)
	c.Prepare()
	a.of, a.ctx = c, ctx
	o.Value = a
	x.hold(c)
	open, err := x.try(a, c.Watched()) //nolint:contextcheck // a has it
	x.drop()
	if c.Watched() {
		a.tellEndpoint(c)
	}
	if open {
		o.Detail = pillion.ViaUpstream
		c.Open()
		return
	}
	if a.stream != nil {
		a.trailer = a.stream.Trailer()
	}
	a.cancel()
	if bad := (*streamCall)(x).sendError(); bad != nil {
		o.Err, o.Is = bad, pillion.Invalid
		x.leave()
		return
	}
	if err != nil {
		o.Err = ended(ctx, err)
		x.leave()
		return
	}
	a.end, o.Detail = io.EOF, pillion.ViaUpstream
}

var errBeside = errors.New("pilliongrpc: a stream has one attempt at a time: it cannot be hedged")

// try opens a stream and, if anybody wants to know, waits for its header. It is open
// when there is one. If it is not, and there is no error, it has ended well.
func (x *exchange) try(a *streamAttempt, watched bool) (open bool, err error) {
	var ctx context.Context
	ctx, a.cancel = context.WithCancel(a.outgoing(a.ctx)) // to end a stream that nobody wants
	stream, err := x.streamer(ctx, x.desc, x.cc, x.method, a.callOptions(&x.targets, watched)...)
	if err != nil {
		return false, err
	}
	a.stream = stream
	if !x.upstream.AwaitsHead() {
		x.stream = stream // nobody sends yet
		return true, nil
	}
	x.resume(stream)
	a.header, err = stream.Header()
	if a.header != nil || err != nil {
		return err == nil, err
	}
	if err = stream.RecvMsg(nil); errors.Is(err, io.EOF) {
		err = nil
	}
	return false, err
}

// resume has what was kept sent to stream, and what follows too. That may take as
// long as the server takes to read.
func (x *exchange) resume(stream grpc.ClientStream) {
	x.sending.Lock()
	if len(x.kept) == 0 {
		x.replay(stream)
		return
	}
	go x.replay(stream) // which unlocks: the caller's messages come after those that were kept
}

// replay sends what was kept, and has what follows sent to the same stream. The
// caller has locked sending.
func (x *exchange) replay(stream grpc.ClientStream) {
	defer x.sending.Unlock()
	for _, m := range x.kept {
		if err := stream.SendMsg(m); err != nil {
			if !errors.Is(err, io.EOF) {
				x.broken.CompareAndSwap(nil, sendError{err})
			}
			break // Header tells why
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

// sendError is why a message could not be sent, where that was nobody's fault but
// its own: gRPC has ended the stream with it, and may say nothing more.
func (x *streamCall) sendError() error {
	if b, ok := x.broken.Load().(sendError); ok {
		return b.error
	}
	return nil
}

// hold suspends the limits of one try while a client goes on sending.
func (x *exchange) hold(c *pillion.Call) {
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

// Explain takes a status for what it is, whether it came before or after the head.
func (x *exchange) Explain(c *pillion.Call, o *pillion.Outcome, err error) {
	explain(c, &x.attempt(c).attempt, o, err)
	if o.Code > 0 && o.Detail == pillion.ViaUpstream {
		o.Is |= pillion.GRPCCondition(o.Code)
	}
}

// Discard ends a stream that nobody wants.
func (x *exchange) Discard(c *pillion.Call, _ *pillion.Outcome) {
	x.attempt(c).cancel()
	x.leave()
	c.Drop()
}

// attempt finds what belongs to c.
func (x *exchange) attempt(c *pillion.Call) *streamAttempt {
	if a, ok := c.Attached().(*streamAttempt); ok {
		return a
	}
	return &x.first
}

// NewCall makes the storage of a further attempt.
func (x *exchange) NewCall(from *pillion.Call) *pillion.Call {
	before := x.attempt(from)
	x.retried.Store(true)
	next := &struct {
		call    pillion.Call
		attempt streamAttempt
	}{}
	next.attempt.beside = !before.over.Load()
	next.attempt.follow(&before.attempt)
	next.call.Attach(&next.attempt)
	return &next.call
}

// Header gives the attempt's own metadata.
func (x *exchange) Header(c *pillion.Call) pillion.Header { return x.headerOf(&x.attempt(c).attempt) }

// ResponseHeader reads the head of an answer.
func (x *exchange) ResponseHeader(o *pillion.Outcome, name string) []string {
	a, _ := o.Value.(*streamAttempt)
	if a == nil {
		return nil
	}
	return a.head(name)
}

// Replayable reports whether all that was sent is still there.
func (x *exchange) Replayable() bool { return !x.over.Load() }

// newPanicError stands for a panic in the goroutine of a stream.
func newPanicError(u *pillion.Upstream, value any) error {
	err := &pillion.PanicError{Value: value, Stack: debug.Stack()}
	return newError(u, codes.Internal, fmt.Errorf("pilliongrpc: %w", err), 0, pillion.NoDetail, false)
}
