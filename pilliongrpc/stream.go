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

// StreamClientInterceptor returns an interceptor that applies the policies of the upstreams that r finds to streams
// of a client. It panics if r is nil. Use it through [DialOptions]; see [UnaryClientInterceptor].
//
// A stream is one call. It holds its slot in limits to its end, and breakers count it at its end:
// when RecvMsg returns its end, when its context or connection ends, or when a timeout fires. The
// per-try timeout starts when the caller has closed sending, and ends with the response headers.
// The idle timeout starts then, too, and after the response headers applies to each RecvMsg. The
// total timeout applies to the end.
//
// A stream is retried only after a trailers-only response. For a retry the interceptor keeps the
// one message of a server stream; of other streams it keeps as many messages as fit in the
// ReplayBuffer of [pillion.Options], as they were when they were sent. With more messages, or with
// messages that are not protobuf's, there is one attempt.
//
// If a policy waits for the response headers, as retries, statistics and per-try timeouts do, the
// policies run in a separate goroutine per stream. RecvMsg then returns their refusals, and panics
// if a policy panicked. Without such a policy there is no goroutine.
//
// When the call has ended, the caller's targets (such as [grpc.Header]) are written once and the
// functions of [grpc.OnFinish] are called once, even if the caller does not read. A panic of such a
// function propagates to the caller if the caller is in RecvMsg, SendMsg or Header; otherwise it is
// reported to [log/slog].
func StreamClientInterceptor(r pillion.Resolver) grpc.StreamClientInterceptor {
	return stream(finder(r), false)
}

// stream returns the interceptor. If hosted is set, connections lead to the hosts of clusters.
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
		return x.begin()
	}
}

// streamCall is a client's stream. The caller uses it as grpc.ClientStream, the engine, converted to
// exchange, as Exchange.
//
// An attempt opens a stream, resends the messages sent so far, and waits in Header. No header and
// no error means a trailers-only response; RecvMsg then returns the status. Until the policies have
// a result, the caller's messages are kept, up to the buffer's size. One more message makes the call
// not replayable. Between attempts that message waits, because the next attempt was promised a
// replay. RecvMsg and Header wait for the result. The end of the stream ends the call.
type streamCall struct {
	client
	frame    policy.Frame
	desc     *grpc.StreamDesc
	streamer grpc.Streamer
	buffer   int64
	over     atomic.Bool  // more messages were sent than kept
	broken   atomic.Value // sendError of a message that could not be sent because of the message itself
	first    streamAttempt

	sending sync.Mutex        // held while a message is sent
	opened  sync.Cond         // signals, with sending, that stream was set or done closed
	stream  grpc.ClientStream // the current attempt's, nil between attempts; guarded by sending
	kept    []proto.Message   // guarded by sending
	size    int64             // of kept, in bytes; guarded by sending
	closed  bool              // CloseSend was called; guarded by sending

	arming sync.Mutex
	trying *policy.Attempt // the attempt whose timeouts start when sending is closed; guarded by arming
	whole  bool            // sending was closed; guarded by arming

	done     chan struct{} // closed when the policies have a result
	result   *streamAttempt
	err      error       // with a status, if there is no stream
	panicked any         // the panic value of a policy
	raised   atomic.Bool // panicked was passed to the caller

	busy    atomic.Int32 // the caller's calls inside gRPC's stream, which notice its end
	deliver sync.Once
	told    atomic.Bool // the caller's OnFinish functions were called
}

// streamAttempt is an attempt with its stream.
type streamAttempt struct {
	attempt
	of     *policy.Attempt // until the policies have a result
	open   *policy.Stream  // after the response headers; nil if no policy needs the end
	ctx    context.Context //nolint:containedctx // the engine ends the attempt through it
	cancel context.CancelFunc
	stream grpc.ClientStream
	learn  sync.Once
	over   atomic.Bool // Try has returned
	beside bool        // it would run concurrently with another attempt
	end    error       // io.EOF if the stream ended with status OK before the caller read it
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

// begin runs the policies, in the caller's goroutine if none of them acts on response headers.
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

// run runs the policies.
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
		x.err = noResponse(x.upstream, o)
	}
}

// decided finishes a call without an open stream. It must be deferred directly, to recover a panic
// of a policy, which continues in the caller's goroutine.
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

// publish wakes the goroutines that wait for the result.
func (x *streamCall) publish() {
	close(x.done)
	x.sending.Lock()
	defer x.sending.Unlock()
	x.kept = nil
	if a := x.result; x.stream == nil && a != nil {
		x.stream = a.stream // it has ended, and returns gRPC's error for a message
	}
	x.opened.Broadcast()
}

// noticeEnd ends the call if gRPC has ended its stream while no call of the caller was inside it.
func (x *streamCall) noticeEnd() {
	if !x.isOpen() || x.busy.Load() != 0 || x.told.Load() {
		return
	}
	if f := x.result.finish.Load(); f != nil {
		_ = x.conclude(x.result, f.err)
	}
}

// onFinish returns a function that gRPC calls when it ends the stream of a, also because the
// context or the connection has ended while the caller is not inside the stream.
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

// leave ends a call of the caller inside gRPC's stream.
func (x *streamCall) leave() {
	x.busy.Add(-1)
	x.noticeEnd()
}

// reported reports a panic. It must be deferred directly, in a goroutine that is not the caller's.
func reported() {
	if p := recover(); p != nil {
		report.Panic("a grpc.OnFinish function, or a hook or listener at the end of a stream", p)
	}
}

// isOpen reports whether the policies have returned an open stream.
func (x *streamCall) isOpen() bool { return x.isDone() && x.err == nil && x.result.end == nil }

func (x *streamCall) isDone() bool {
	select {
	case <-x.done:
		return true
	default:
		return false
	}
}

// wait waits for the result of the policies.
func (x *streamCall) wait() {
	<-x.done
	if x.panicked != nil && x.raised.CompareAndSwap(false, true) {
		panic(x.panicked)
	}
}

// SendMsg sends m in the current attempt and keeps it for later attempts.
func (x *streamCall) SendMsg(m any) error {
	x.busy.Add(1)
	defer x.leave()
	bad, err := x.send(m)
	if bad && x.isOpen() {
		return x.conclude(x.result, err)
	}
	return err
}

// send sends m. bad reports whether m could not be sent because of m itself.
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
	case !errors.Is(err, io.EOF): // gRPC has ended the stream
		x.over.Store(true)
		x.broken.CompareAndSwap(nil, sendError{err})
		return true, err
	case !x.over.Load() && !x.isDone():
		x.sent.Add(1)
		return false, nil // the attempt failed and may be retried
	}
	return false, err
}

// sendLater returns the result of SendMsg for a kept message, which the next attempt sends.
func (x *streamCall) sendLater() error {
	switch {
	case !x.isDone():
		x.sent.Add(1)
		return nil
	case x.desc.ClientStreams:
		return io.EOF // RecvMsg returns the reason
	}
	return nil // generated code requires it
}

// keep keeps a copy of m for later attempts, if there is room, and returns the message to send. If
// there is no room and the next attempt has not started, keep waits for it, because that attempt was
// promised a replay.
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

// copyOf copies m, because the caller may reuse m. It is not ok if m is no protobuf message or there
// is no room for it.
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

// CloseSend closes sending. It starts the per-try and idle timeouts.
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

// RecvMsg receives a message. At the end of the stream it ends the call.
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
		return x.conclude(a, nil) // there is one message, and gRPC has read the status after it
	}
	return nil
}

// conclude ends the call and returns the error to show. It calls the caller's functions even if a
// hook or listener panics.
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

// withCause adds the cause with which the caller canceled its context, unless err already has it.
func (x *streamCall) withCause(err error) error {
	cause := context.Cause(x.ctx)
	if cause == nil || !errors.Is(err, context.Canceled) || errors.Is(err, cause) {
		return err
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// finish writes the caller's targets and calls its functions, once.
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

// learn stores the metadata of a response when its stream has ended: also the header, if Try has not
// waited for it. gRPC may write the trailers until then.
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

// from returns the peer of the response.
func (a *streamAttempt) from() peer.Peer {
	if a.stream != nil {
		if p, ok := peer.FromContext(a.stream.Context()); ok {
			return *p
		}
	}
	return peer.Peer{}
}

// Trailer returns the trailers. It returns nil until the stream has ended, as RecvMsg or OnFinish
// reports.
func (x *streamCall) Trailer() metadata.MD {
	if !x.isDone() || x.result == nil {
		return nil
	}
	return clone(x.result.response().trailer)
}

// Context returns the context of the stream, or the caller's while there is no stream.
func (x *streamCall) Context() context.Context {
	if !x.isDone() || x.err != nil || x.result == nil || x.result.stream == nil {
		return x.ctx
	}
	return x.result.stream.Context()
}
