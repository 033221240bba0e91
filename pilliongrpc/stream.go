package pilliongrpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/internal/report"
	"github.com/pillion-go/pillion/policy"
)

// Stream returns an interceptor that puts streams under the policies of the upstreams that r
// finds. It panics if r is nil. Use it through [DialOptions]; see [Unary].
//
// A stream is one call: it holds its slot in limits, and is judged by breakers, from its
// beginning to its end, which is what RecvMsg returns, or the end of its context or its
// connection, or a limit that fires. Limits of one attempt end with the response headers, and
// begin where the caller has closed the sending; the total one holds to the end.
//
// It is retried only while the server has sent nothing but trailers. The one message of a stream
// that only the server continues is kept for that; of others as many as fit in [pillion.Options]
// ReplayBuffer, as they were when they were sent. With more than that, or with messages that are
// not protobuf's, there is one attempt. Meanwhile, and if statistics or a limit of one attempt
// wait for the response headers, the policies run in a goroutine of the stream's own: RecvMsg
// returns what they refuse, and panics with what a policy panicked with. Without such a policy
// there is no goroutine.
//
// The caller's targets ([grpc.Header] and the like) are written, and the functions of
// [grpc.OnFinish] called, once, when the call has ended, whether or not the caller reads. A
// panic of such a function goes on to the caller if it is in RecvMsg, SendMsg or Header, and is
// reported to [log/slog] otherwise.
func Stream(r pillion.Resolver) grpc.StreamClientInterceptor { return stream(finder(r), false) }

// stream is Stream. The connection leads to the hosts of clusters if it is hosted.
func stream(found find, hosted bool) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string,
		streamer grpc.Streamer, options ...grpc.CallOption,
	) (grpc.ClientStream, error) {
		if err := check(ctx, method, "stream description or streamer", desc == nil || streamer == nil); err != nil {
			return nil, err
		}
		x := &streamCall{client: client{ctx: ctx, cc: cc, method: method, hosted: hosted}, desc: desc, streamer: streamer, done: make(chan struct{})}
		x.targets = split(options)
		if err := x.find(found); err != nil {
			return nil, err
		}
		return x.begin() //nolint:contextcheck // x has it
	}
}

// streamCall is one stream: what the caller holds, and, as exchange, the Exchange.
//
// An attempt opens a stream, has what was sent so far sent again, and waits in
// Header. No header and no error means that the server sent nothing but trailers; RecvMsg
// then returns the status. Until the policies have come to a result, what the caller sends is
// kept, up to the buffer's size; one message more and the call is not replayable. Between
// attempts that one message waits, for a retry that was promised must not be taken back.
// RecvMsg and Header wait for the result. The end of the stream ends the call.
type streamCall struct {
	client
	frame    policy.Frame
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
	trying *policy.Attempt // the attempt whose limits wait for the sending to be closed; guarded by arming
	whole  bool            // the sending was closed; guarded by arming

	done     chan struct{} // closed when the policies have come to a result
	result   *streamAttempt
	err      error       // why there is no stream, with a status
	panicked any         // what a policy panicked with
	raised   atomic.Bool // the caller was told of panicked

	busy    atomic.Int32 // the caller's calls that are inside gRPC's stream: they notice its end
	deliver sync.Once
	told    atomic.Bool // the caller's functions were called
}

// streamAttempt is an attempt with its stream.
type streamAttempt struct {
	attempt
	of     *policy.Attempt // until the policies have come to a result
	open   *policy.Stream  // from the response headers on; nil if its end matters to no policy
	ctx    context.Context //nolint:containedctx // what the engine ends the attempt by
	cancel context.CancelFunc
	stream grpc.ClientStream
	learn  sync.Once
	over   atomic.Bool // Try has returned
	beside bool        // it was to run concurrently with another
	end    error       // io.EOF if the stream has ended well before the caller read it
}

type sendError struct{ error }

// find finds the upstream.
func (x *streamCall) find(find find) (err error) {
	err = errUnwound
	defer func() {
		if err != nil { // also when the resolver panics
			x.finish(err)
		}
	}()
	u, bad := find(&x.client)
	if x.upstream, x.opened.L, err = u, &x.sending, bad; err == nil {
		err = x.reachable()
	}
	return err
}

// begin runs the policies, in the caller's goroutine if none of them acts on the response
// headers.
func (x *streamCall) begin() (grpc.ClientStream, error) {
	if x.upstream.Chain().AwaitsHead() {
		x.buffer = x.upstream.Options().ReplayBuffer
		go func() {
			defer reported()
			x.run()
		}()
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
	defer x.noticeEnd()
	defer x.publish()
	defer x.decided()
	x.frame.Init(x.upstream.Chain(), (*exchange)(x))
	o := x.frame.Invoke(x.ctx)
	x.result, _ = o.Value.(*streamAttempt)
	x.err = callError(x.upstream, o, x.retried.Load())
	if a := o.Pending(); a != nil {
		if x.result != nil {
			x.result.open = a.Stream()
		}
		a.Watch()
	}
	if x.err == nil && x.result == nil {
		x.err = noReply(x.upstream, o)
	}
}

// decided finishes a call that came to no open stream. It is deferred directly, to see a panic:
// what a policy panics with goes on in the caller's goroutine.
func (x *streamCall) decided() {
	if x.panicked = recover(); x.panicked != nil {
		x.err = newPanicError(x.upstream, x.panicked)
	} else if x.err == nil && x.result == nil { // a policy ended the goroutine
		x.err = errUnwound
	}
	if x.err != nil || x.result.end != nil {
		x.finish(x.err)
	}
}

// publish lets those continue that wait for the result.
func (x *streamCall) publish() {
	close(x.done)
	x.sending.Lock()
	defer x.sending.Unlock()
	x.kept = nil
	if a := x.result; x.stream == nil && a != nil {
		x.stream = a.stream // which has ended; what a message is worth is for gRPC to say
	}
	x.opened.Broadcast()
}

// noticeEnd ends the call if gRPC has ended its stream while nothing of the caller's was inside it.
func (x *streamCall) noticeEnd() {
	if !x.isOpen() || x.busy.Load() != 0 || x.told.Load() {
		return
	}
	if f := x.result.finish.Load(); f != nil {
		_ = x.conclude(x.result, f.err)
	}
}

// onFinish is called by gRPC when it ends the stream of a: also when the caller is not inside
// it, because its context or connection has ended.
func (x *streamCall) onFinish(a *streamAttempt) func(error) {
	return func(err error) {
		if !a.has(seenBegin) && a.sent.Err() == nil {
			return // an interceptor inside may have opened another stream
		}
		a.finish.Store(&streamFinish{err})
		defer reported()
		x.noticeEnd()
	}
}

// leave is deferred by the caller's calls that have been inside gRPC's stream.
func (x *streamCall) leave() {
	x.busy.Add(-1)
	x.noticeEnd()
}

// reported is deferred directly where no caller waits for what may panic.
func reported() {
	if p := recover(); p != nil {
		report.Panic("a grpc.OnFinish function, or a hook or listener at the end of a stream", p)
	}
}

// isOpen reports whether the policies came to an open stream.
func (x *streamCall) isOpen() bool { return x.isDone() && x.err == nil && x.result.end == nil }

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
	if x.panicked != nil && x.raised.CompareAndSwap(false, true) {
		panic(x.panicked)
	}
}

// SendMsg sends to the attempt that is under way, and keeps m for later ones.
func (x *streamCall) SendMsg(m any) error {
	x.busy.Add(1)
	defer x.leave()
	bad, err := x.send(m)
	if bad && x.isOpen() {
		return x.conclude(x.result, err)
	}
	return err
}

// send is bad if the message could not be sent, for no fault of the upstream's.
func (x *streamCall) send(m any) (bad bool, err error) {
	x.sending.Lock()
	defer x.sending.Unlock()
	if !x.isDone() && !x.over.Load() {
		m = x.keep(m)
	}
	if x.stream == nil {
		return false, x.sendLater()
	}
	err = x.stream.SendMsg(m)
	switch {
	case err == nil:
		x.sent.Add(1)
	case !errors.Is(err, io.EOF): // gRPC has ended the stream with it
		x.over.Store(true)
		x.broken.CompareAndSwap(nil, sendError{err})
		return true, err
	case !x.over.Load() && !x.isDone():
		x.sent.Add(1)
		return false, nil // the attempt failed, and may be made again
	}
	return false, err
}

// sendLater is for a message that was kept: the next attempt sends it.
func (x *streamCall) sendLater() error {
	switch {
	case !x.isDone():
		x.sent.Add(1)
		return nil
	case x.desc.ClientStreams:
		return io.EOF // RecvMsg returns why
	}
	return nil // generated code requires it
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

// CloseSend says that no more is sent. From then on the limits of one attempt hold.
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

// Header waits for the response headers.
func (x *streamCall) Header() (metadata.MD, error) {
	x.wait()
	if x.err != nil {
		return nil, x.err
	}
	a := x.result
	if x.upstream.Chain().AwaitsHead() || a.late.Load() != nil {
		return clone(a.response().header), nil
	}
	x.busy.Add(1) // Try has not waited for them
	defer x.leave()
	a.open.Await()
	md, err := a.stream.Header()
	a.open.Received()
	response{header: md}.countAttempts(x.upstream, a.number)
	return md, err
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
	x.busy.Add(1)
	defer x.leave()
	a.open.Await()
	err := a.stream.RecvMsg(m)
	a.open.Received()
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

// conclude ends the call, and returns the error to show for it. The caller's functions are
// called also if a hook or listener panics.
func (x *streamCall) conclude(a *streamAttempt, err error) (shown error) {
	shown = errUnwound
	defer func() {
		a.cancel()
		x.finish(shown)
	}()
	a.learn.Do(func() { x.learn(a) })
	if bad := x.sendError(); bad != nil && err != nil {
		err = bad
	} else if err != nil {
		err = ended(a.ctx, err)
	}
	shown = ofError(x.upstream, x.withCause(a.open.End(err)))
	return shown
}

// withCause adds the cause for which the caller ended its context. The engine does where it
// watches the stream.
func (x *streamCall) withCause(err error) error {
	cause := context.Cause(x.ctx)
	if cause == nil || !errors.Is(err, context.Canceled) || errors.Is(err, cause) {
		return err
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// finish writes the caller's targets, and calls its functions, once.
func (x *streamCall) finish(err error) {
	x.deliver.Do(func() {
		if a := x.result; a != nil {
			x.targets.deliver(a.response(), a.from)
		}
	})
	if x.told.CompareAndSwap(false, true) {
		x.targets.finished(err)
	}
}

// learn takes down the metadata of a response when its stream has ended: the header too, if Try
// has not waited for it. gRPC writes the trailers until then.
func (x *streamCall) learn(a *streamAttempt) {
	r := response{header: a.header}
	if r.header == nil {
		r.header, _ = a.stream.Header()
		r.countAttempts(x.upstream, a.number)
	}
	if !a.has(seenBegin) || a.finish.Load() != nil {
		r.trailer = a.stream.Trailer()
	}
	a.late.Store(&r)
}

// from is where the response came from.
func (a *streamAttempt) from() peer.Peer {
	if a.stream != nil {
		if p, ok := peer.FromContext(a.stream.Context()); ok {
			return *p
		}
	}
	return peer.Peer{}
}

// Trailer is known at the end, as RecvMsg or OnFinish returned it, and nil before.
func (x *streamCall) Trailer() metadata.MD {
	if !x.isDone() || x.result == nil {
		return nil
	}
	return clone(x.result.response().trailer)
}

// Context is that of the stream, once it is there, and the caller's until then.
func (x *streamCall) Context() context.Context {
	if !x.isDone() || x.err != nil || x.result == nil || x.result.stream == nil {
		return x.ctx
	}
	return x.result.stream.Context()
}
