package pilliongrpc

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/pillion-go/pillion"
)

// Stream gives an interceptor that puts streams under the policies of the upstreams
// that r finds. It panics where r is nil.
//
// A stream is one call: it holds its place in limits, and is judged by breakers, from
// its beginning to its end, which is what RecvMsg tells, or the end of its context, or a
// limit that strikes. Limits of one try end with the answer's header, and begin where the
// caller has closed the sending; the total one holds to the end.
//
// It is sent again only while the server has given nothing but trailers. The one
// message of a stream that only the server goes on with is kept for that; of others as many
// as fit in [pillion.HTTP] ReplayBuffer, as they were when they were sent. With more than
// that, or with messages that are not protobuf's, there is one attempt. Meanwhile, and
// where statistics or a limit of one try are told of the header, the policies run in a
// goroutine of the stream's own, and what they refuse is told by RecvMsg; without any such
// policy there is no goroutine.
func Stream(r pillion.Resolver) grpc.StreamClientInterceptor {
	find := finder(r)
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string,
		streamer grpc.Streamer, options ...grpc.CallOption,
	) (grpc.ClientStream, error) {
		x := &streamCall{client: client{ctx: ctx, cc: cc, method: method}, desc: desc, streamer: streamer, done: make(chan struct{})}
		x.targets = split(options)
		u, err := find(&x.client)
		if err != nil {
			x.targets.finished(err)
			return nil, err
		}
		x.upstream, x.opened.L = u, &x.sending
		return x.begin()
	}
}

// streamCall is one stream: what the caller holds, and, as exchange, the Exchange.
//
// An attempt opens a stream, has what was sent so far sent again, and waits in
// Header. No header and no error means that the server gave nothing but trailers; RecvMsg
// then tells the status. Until the policies have come to a result, what the caller sends is
// kept, up to the buffer's size; one message more and the call is not replayable. Between
// attempts that one message waits, for a retry that was promised must not be taken back.
// RecvMsg and Header wait for the result. The end of the stream, as RecvMsg tells it, ends
// the call.
type streamCall struct {
	client
	upstream *pillion.Upstream
	desc     *grpc.StreamDesc
	streamer grpc.Streamer
	buffer   int64
	over     atomic.Bool  // more was sent than is kept
	broken   atomic.Value // of sendError: a message that could not be sent, for no fault of the upstream's
	first    streamAttempt

	sending sync.Mutex        // held while a message is sent
	opened  sync.Cond         // of sending: stream was set, or done closed
	stream  grpc.ClientStream // where messages go, nil between attempts; guarded by sending
	kept    []proto.Message   // guarded by sending
	size    int64             // of kept, in bytes; guarded by sending
	closed  bool              // CloseSend was called; guarded by sending

	arming sync.Mutex
	trying *pillion.Call // the attempt whose limits wait for the sending to be closed; guarded by arming
	whole  bool          // the sending was closed; guarded by arming

	done     chan struct{} // closed when the policies have come to a result
	result   *streamAttempt
	err      error // why there is no stream, with a status
	panicked any   // what a policy panicked with

	told atomic.Bool // the caller's targets were written
}

// streamAttempt is an attempt with its stream.
type streamAttempt struct {
	attempt
	of     *pillion.Call
	ctx    context.Context //nolint:containedctx // what the engine ends the attempt by
	cancel context.CancelFunc
	stream grpc.ClientStream
	over   atomic.Bool // Try has returned
	beside bool        // it was to run beside another
	end    error       // io.EOF where the stream has ended well before anybody read it
}

type sendError struct{ error }

// begin runs the policies, in the caller's goroutine where none of them acts on the
// answer's head.
func (x *streamCall) begin() (grpc.ClientStream, error) {
	if x.upstream.AwaitsHead() {
		x.buffer = x.upstream.HTTP().ReplayBuffer
		go x.run()
		return x, nil
	}
	x.over.Store(true)
	x.run()
	if x.panicked != nil {
		panic(x.panicked)
	}
	if x.err != nil {
		return nil, x.err
	}
	return x, nil
}

// run takes the stream through the policies.
func (x *streamCall) run() {
	defer x.decided()
	o := x.upstream.Invoke(x.ctx, (*exchange)(x))
	x.result, _ = o.Value.(*streamAttempt)
	x.err = callError(x.upstream, o, x.retried.Load())
	if x.err == nil && x.result == nil {
		x.err = noReply(x.upstream, o)
	}
}

// decided lets those go on who wait for the result. It is deferred directly, to see
// a panic: what a policy panics with goes on in the caller's goroutine.
func (x *streamCall) decided() {
	if x.panicked = recover(); x.panicked != nil {
		x.err = newPanicError(x.upstream, x.panicked)
	}
	if x.err != nil || x.result.end != nil {
		x.finish(x.err)
	}
	close(x.done)
	x.sending.Lock()
	defer x.sending.Unlock()
	x.kept = nil
	x.opened.Broadcast()
}

func (x *streamCall) isDone() bool {
	select {
	case <-x.done:
		return true
	default:
		return false
	}
}

// wait returns when there is a result.
func (x *streamCall) wait() {
	<-x.done
	if x.panicked != nil {
		panic(x.panicked)
	}
}

// SendMsg sends to the attempt that is under way, and keeps m for later ones.
func (x *streamCall) SendMsg(m any) error {
	x.sending.Lock()
	defer x.sending.Unlock()
	if !x.isDone() && !x.over.Load() {
		m = x.keep(m)
	}
	if x.stream == nil {
		if x.isDone() {
			if !x.desc.ClientStreams {
				return nil // generated code requires it
			}
			return io.EOF // RecvMsg tells why
		}
		x.sent.Add(1)
		return nil // it was kept: the next attempt sends it
	}
	err := x.stream.SendMsg(m)
	switch {
	case err == nil:
		x.sent.Add(1)
	case !errors.Is(err, io.EOF):
		return x.unsendable(err)
	case !x.over.Load() && !x.isDone():
		x.sent.Add(1)
		return nil // the attempt failed, and may be made again
	}
	return err
}

// unsendable is the result of a message that could not be sent, with which gRPC
// ends the stream.
func (x *streamCall) unsendable(err error) error {
	if !x.isDone() {
		x.over.Store(true)
		x.broken.CompareAndSwap(nil, sendError{err})
		return err
	}
	if a := x.result; a != nil && a.of != nil {
		return x.conclude(a, err)
	}
	return err
}

// keep has m sent by further attempts too, if there is room. If there is none,
// and the next attempt is still to be made, it waits: that one has been promised a
// replay.
func (x *streamCall) keep(m any) any {
	if copied, size, ok := x.copyOf(m); ok {
		x.size += size
		x.kept = append(x.kept, copied)
		return copied
	}
	for x.stream == nil && !x.isDone() {
		x.opened.Wait()
	}
	x.over.Store(true)
	x.kept = nil
	return m
}

// copyOf copies m, for the caller may use its own again. It is not ok where there is
// no room for it.
func (x *streamCall) copyOf(m any) (copied proto.Message, size int64, ok bool) {
	message, ok := m.(proto.Message)
	if !ok {
		return nil, 0, false
	}
	size = int64(proto.Size(message))
	if x.desc.ClientStreams && x.size+size > x.buffer {
		return nil, 0, false
	}
	return proto.Clone(message), size, true
}

// CloseSend says that no more is sent. From then on the limits of one try hold.
func (x *streamCall) CloseSend() error {
	x.sending.Lock()
	defer x.sending.Unlock()
	x.closed = true
	x.arm()
	if x.stream == nil {
		return nil
	}
	return x.stream.CloseSend()
}

// Header waits for the answer's head.
func (x *streamCall) Header() (metadata.MD, error) {
	x.wait()
	switch a := x.result; {
	case x.err != nil:
		return nil, x.err
	case x.upstream.AwaitsHead():
		return a.header, nil
	default: // nobody has waited for it yet
		a.of.Await()
		md, err := a.stream.Header()
		a.of.Received()
		return md, err
	}
}

// RecvMsg receives, and ends the call with the stream.
func (x *streamCall) RecvMsg(m any) error {
	x.wait()
	a := x.result
	switch {
	case x.err != nil:
		return x.err
	case a.end != nil:
		return a.end
	}
	a.of.Await()
	err := a.stream.RecvMsg(m)
	a.of.Received()
	if bad := x.sendError(); bad != nil && err != nil {
		return x.conclude(a, bad)
	}
	switch {
	case errors.Is(err, io.EOF):
		_ = x.conclude(a, nil) // the status was OK
		return err
	case err != nil:
		return x.conclude(a, err)
	}
	x.received.Add(1)
	if !x.desc.ServerStreams {
		return x.conclude(a, nil) // there is one message, and gRPC has looked at the status behind it
	}
	return nil
}

// conclude ends the call, and gives the error to show for it.
func (x *streamCall) conclude(a *streamAttempt, err error) error {
	a.learn()
	if err != nil {
		err = ended(a.ctx, err)
	}
	shown := ofError(x.upstream, a.of.End(err))
	a.cancel()
	x.finish(shown)
	return shown
}

// finish tells the caller's targets, once.
func (x *streamCall) finish(err error) {
	if !x.told.CompareAndSwap(false, true) {
		return
	}
	if a := x.result; a != nil {
		x.targets.deliver(&a.attempt)
	}
	x.targets.finished(err)
}

// learn takes down the header of an attempt, which a stream that is opened without
// waiting for it has had by its end, and its trailers.
func (a *streamAttempt) learn() {
	if a.header == nil {
		a.header, _ = a.stream.Header()
	}
	a.trailer = a.stream.Trailer()
}

// Trailer is known at the end.
func (x *streamCall) Trailer() metadata.MD {
	switch {
	case !x.isDone() || x.result == nil:
		return nil
	case x.result.trailer != nil || x.result.stream == nil:
		return x.result.trailer
	}
	return x.result.stream.Trailer()
}

// Context is that of the stream, once it is there, and the caller's until then.
func (x *streamCall) Context() context.Context {
	if !x.isDone() || x.err != nil || x.result == nil || x.result.stream == nil {
		return x.ctx
	}
	return x.result.stream.Context()
}
