package e2e

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/pillion-go/pillion"
)

// interceptStreams puts the client streams of a connection under u's policies. It
// is a spike: it shows that an adapter for bidirectional streams that are sent again can
// be written on the exported engine alone, with Invoke, Exchange, Call.Open and
// Call.End.
//
// How it works. The chain runs in a goroutine of its own, for the caller must be
// able to send while an attempt waits for its head. An attempt opens a stream, has what
// was sent so far sent again, and waits in Header. No header and no error means that the
// server gave nothing but trailers; RecvMsg then tells the status. Until the chain has
// come to a result, what the caller sends is kept, up to buffer bytes; one message more
// and the call is not replayable. Between attempts that one message waits, for a retry
// that was promised must not be taken back. RecvMsg and Header wait for the
// result. The end of the stream, as RecvMsg tells it, ends the call.
//
// What the engine does not offer is told in the comments below that begin with
// AWKWARD.
func interceptStreams(u *pillion.Upstream, buffer int) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string,
		streamer grpc.Streamer, opts ...grpc.CallOption,
	) (grpc.ClientStream, error) {
		x := &streamCall{
			ctx: ctx, desc: desc, target: cc.Target(), method: method, buffer: buffer, done: make(chan struct{}),
			open: func(ctx context.Context) (grpc.ClientStream, error) { return streamer(ctx, desc, cc, method, opts...) },
		}
		x.opened.L = &x.sending
		// AWKWARD: whether any policy repeats calls is known to the upstream alone; without
		// one this could run in the caller's goroutine.
		go x.run(u)
		return x, nil
	}
}

// streamCall is one call: what the caller holds as its stream.
type streamCall struct {
	ctx    context.Context
	desc   *grpc.StreamDesc
	target string
	method string
	open   func(context.Context) (grpc.ClientStream, error)
	buffer int
	over   atomic.Bool // more was sent than is kept

	sending sync.Mutex        // held while a message is sent
	opened  sync.Cond         // of sending: stream was set, or done closed
	stream  grpc.ClientStream // where messages go, nil between attempts; guarded by sending
	kept    []proto.Message   // guarded by sending
	size    int               // of kept, in bytes; guarded by sending
	closed  bool              // CloseSend was called; guarded by sending

	done   chan struct{} // closed when the chain has come to a result
	result *streamAttempt
	err    error // why there is no stream, as a status

	// AWKWARD: a Call has no room for what the adapter must keep with it, as httpAttempt is
	// kept; and the first Call is not made by NewCall.
	mu      sync.Mutex
	headers map[*pillion.Call]metadataHeader // guarded by mu
}

// streamAttempt is what an attempt brought.
type streamAttempt struct {
	call    *pillion.Call
	stream  grpc.ClientStream
	header  metadata.MD
	trailer metadata.MD // known already where there was nothing else
	end     error       // io.EOF where the stream has ended well before anybody read it
}

// run takes the call through the policies.
func (x *streamCall) run(u *pillion.Upstream) {
	o := u.Invoke(x.ctx, (*exchange)(x))
	x.result, _ = o.Value.(*streamAttempt)
	// AWKWARD: of an outcome with an error, Value may be that of no attempt at all (Refuse),
	// or of the one that failed; the doc of Outcome says nil.
	x.err = streamStatus(o.Err)
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

// SendMsg sends to the attempt that is under way, and keeps m for later ones.
func (x *streamCall) SendMsg(m any) error {
	x.sending.Lock()
	defer x.sending.Unlock()
	if !x.isDone() && !x.over.Load() {
		m = x.keep(m.(proto.Message))
	}
	if x.stream == nil {
		if x.isDone() {
			return io.EOF // RecvMsg tells why
		}
		return nil // it was kept: the next attempt sends it
	}
	err := x.stream.SendMsg(m)
	if errors.Is(err, io.EOF) && !x.over.Load() && !x.isDone() {
		return nil // the attempt failed, and may be made again
	}
	return err
}

// keep has m sent by further attempts too, if there is room. If there is none,
// and the next attempt is still to be made, it waits: that one has been promised a
// replay.
func (x *streamCall) keep(m proto.Message) proto.Message {
	m = proto.Clone(m) // the caller may use its own again
	if x.size += proto.Size(m); x.size <= x.buffer {
		x.kept = append(x.kept, m)
		return m
	}
	for x.stream == nil && !x.isDone() {
		x.opened.Wait()
	}
	x.over.Store(true)
	x.kept = nil
	return m
}

// CloseSend says that no more is sent.
func (x *streamCall) CloseSend() error {
	x.sending.Lock()
	defer x.sending.Unlock()
	x.closed = true
	if x.stream == nil {
		return nil
	}
	return x.stream.CloseSend()
}

// Header waits for the answer's head.
func (x *streamCall) Header() (metadata.MD, error) {
	<-x.done
	if x.err != nil {
		return nil, x.err
	}
	return x.result.header, nil
}

// RecvMsg receives, and ends the call with the stream.
func (x *streamCall) RecvMsg(m any) error {
	<-x.done
	switch a := x.result; {
	case x.err != nil:
		return x.err
	case a.end != nil:
		return a.end
	default:
		a.call.Await()
		err := a.stream.RecvMsg(m)
		a.call.Received()
		switch {
		case errors.Is(err, io.EOF):
			_ = a.call.End(nil) // the status was OK
			return err
		case err != nil:
			return streamStatus(a.call.End(err))
		case !x.desc.ServerStreams:
			_ = a.call.End(nil) // there is one message, and gRPC has looked at the status behind it
		}
		return nil
	}
}

// Trailer is known at the end.
func (x *streamCall) Trailer() metadata.MD {
	switch {
	case !x.isDone() || x.result == nil || x.result.stream == nil:
		return nil
	case x.result.trailer != nil:
		return x.result.trailer
	}
	return x.result.stream.Trailer()
}

// Context is that of the stream.
func (x *streamCall) Context() context.Context {
	<-x.done
	if x.err != nil || x.result.stream == nil {
		return x.ctx
	}
	return x.result.stream.Context()
}

// exchange is a streamCall as the engine sees it; both have a method Header.
type exchange streamCall

func (x *exchange) Request() pillion.Request {
	return pillion.Request{Protocol: "grpc", Method: x.method, Authority: x.target, Path: x.method}
}

func (x *exchange) Unary() bool { return false }

// Try opens a stream and waits for the answer's head.
func (x *exchange) Try(ctx context.Context, c *pillion.Call, o *pillion.Outcome) {
	a := &streamAttempt{call: c}
	if a.header, a.stream, o.Err = x.try(x.outgoing(ctx, c)); o.Err != nil {
		x.leave()
	}
	if a.stream != nil && (o.Err != nil || a.header == nil) {
		a.trailer = a.stream.Trailer()
	}
	o.Value = a
	switch {
	case o.Err != nil:
	case a.header == nil:
		a.end, o.Detail = io.EOF, pillion.ViaUpstream
	default:
		o.Detail = pillion.ViaUpstream
		c.Open()
	}
}

// try opens a stream and waits for its header. Without header and error the
// stream has ended well.
func (x *exchange) try(ctx context.Context) (metadata.MD, grpc.ClientStream, error) {
	stream, err := x.open(ctx)
	if err != nil {
		return nil, nil, err
	}
	x.sending.Lock()
	go x.replay(stream) // which unlocks: the caller's messages come after those that were kept
	header, err := stream.Header()
	if err != nil || header != nil {
		return header, stream, err
	}
	if err := stream.RecvMsg(nil); !errors.Is(err, io.EOF) {
		return nil, stream, err
	}
	return nil, stream, nil
}

// replay sends what was kept, and has what follows sent to the same stream. The
// caller has locked sending.
func (x *exchange) replay(stream grpc.ClientStream) {
	defer x.sending.Unlock()
	for _, m := range x.kept {
		if stream.SendMsg(m) != nil {
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

// Explain takes a status for what it is, whether it came before or after the
// head.
func (x *exchange) Explain(_ *pillion.Call, o *pillion.Outcome, err error) {
	code := status.Code(err)
	// AWKWARD: Outcome has no exported method that does what blame does.
	o.Err, o.Code, o.Detail = err, int(code), pillion.ViaUpstream
	o.Is |= map[codes.Code]pillion.Condition{
		codes.Canceled:          pillion.GRPCCancelled,
		codes.DeadlineExceeded:  pillion.GRPCDeadlineExceeded | pillion.Status5xx,
		codes.ResourceExhausted: pillion.GRPCResourceExhausted,
		codes.Internal:          pillion.GRPCInternal | pillion.Status5xx,
		codes.Unavailable:       pillion.GRPCUnavailable | pillion.Status5xx,
		codes.Unknown:           pillion.Status5xx,
	}[code]
}

// Discard ends a stream that nobody wants.
func (x *exchange) Discard(c *pillion.Call, _ *pillion.Outcome) {
	x.leave()
	// AWKWARD: this ends the attempt's context, and the stream with it, only where a policy
	// said NeedCancel or set a limit. An adapter cannot ask for it.
	c.Drop()
}

func (x *exchange) NewCall(*pillion.Call) *pillion.Call { return &pillion.Call{} }

func (x *exchange) RequestHeader(name string) string {
	md, _ := metadata.FromOutgoingContext(x.ctx)
	return first(md.Get(name))
}

// Header gives the attempt's own metadata.
func (x *exchange) Header(c *pillion.Call) pillion.Header {
	x.mu.Lock()
	defer x.mu.Unlock()
	h, ok := x.headers[c]
	if !ok {
		md, _ := metadata.FromOutgoingContext(x.ctx) // a copy
		if h = metadataHeader(md); h == nil {
			h = metadataHeader{}
		}
		if x.headers == nil {
			x.headers = map[*pillion.Call]metadataHeader{}
		}
		x.headers[c] = h
	}
	return h
}

// outgoing is ctx with the attempt's own metadata, where it has some.
func (x *exchange) outgoing(ctx context.Context, c *pillion.Call) context.Context {
	x.mu.Lock()
	defer x.mu.Unlock()
	if h, ok := x.headers[c]; ok {
		delete(x.headers, c)
		return metadata.NewOutgoingContext(ctx, metadata.MD(h))
	}
	return ctx
}

func (x *exchange) ResponseHeader(o *pillion.Outcome, name string) (value string, ok bool) {
	a, _ := o.Value.(*streamAttempt)
	if a == nil {
		return "", false
	}
	values := append(a.header.Get(name), a.trailer.Get(name)...)
	return first(values), len(values) != 0
}

func (x *exchange) Idempotent() bool { return false }

func (x *exchange) Replayable() bool { return !x.over.Load() }

// metadataHeader is metadata as a [pillion.Header].
type metadataHeader metadata.MD

func (h metadataHeader) Get(name string) string { return first(metadata.MD(h).Get(name)) }

func (h metadataHeader) Set(name, value string) { metadata.MD(h).Set(name, value) }

func (h metadataHeader) Del(name string) { metadata.MD(h).Delete(name) }

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// streamStatus gives err as a gRPC status, and keeps what it is.
//
// AWKWARD: the engine's errors wrap what the last attempt failed with, and gRPC finds
// that one's status in them; so what the engine says must be looked for first.
func streamStatus(err error) error {
	limit := (*pillion.TimeoutError)(nil)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &limit):
		return &statusError{status.New(codes.DeadlineExceeded, err.Error()), err}
	case errors.Is(err, context.Canceled):
		return &statusError{status.New(codes.Canceled, err.Error()), err}
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return &statusError{status.New(codes.Unavailable, err.Error()), err} // refused
}

// statusError is an error with a status.
type statusError struct {
	status *status.Status
	err    error
}

func (e *statusError) Error() string { return e.status.Err().Error() }

func (e *statusError) Unwrap() error { return e.err }

// GRPCStatus is what gRPC looks for.
func (e *statusError) GRPCStatus() *status.Status { return e.status }
