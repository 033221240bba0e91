package pilliongrpc

import (
	"context"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// client is the common part of unary calls and streams of a client.
type client struct {
	ctx     context.Context //nolint:containedctx // the caller's, for the duration of the call
	cc      *grpc.ClientConn
	method  string
	targets targets

	upstream *pillion.Upstream
	hosted   bool // cc leads to the hosts of clusters

	sent     atomic.Uint64 // the caller's messages
	received atomic.Uint64
	retried  atomic.Bool // there was an attempt after the first
}

// attempt is the state of an attempt beyond its Call: separate request metadata, and separate
// targets for the response. The caller's targets are written from those of the attempt whose
// response the caller receives.
type attempt struct {
	sight
	number       int         // counts from 1
	notConnected atomic.Bool // it got no connection
	before       *attempt    // the one that it was made from; nil for the first
	md           metadata.MD // of the request; nil while it is the caller's
	header       metadata.MD // of the response; nil if it was trailers-only
	trailer      metadata.MD
	late         atomic.Pointer[response] // set at the end of a stream
	peer         peer.Peer
	sent         sentContext
	ride         ride
	options      [6]grpc.CallOption
}

// response is the metadata of a response.
type response struct{ header, trailer metadata.MD }

// response returns the metadata received so far.
func (a *attempt) response() response {
	if late := a.late.Load(); late != nil {
		return *late
	}
	return response{a.header, a.trailer}
}

// head returns the first metadata of the response: the header, or the trailers of a trailers-only
// response.
func (r response) head() metadata.MD {
	if r.header == nil {
		return r.trailer
	}
	return r.header
}

// clone copies md. nil stays nil, which means that there was none.
func clone(md metadata.MD) metadata.MD {
	if md == nil {
		return nil
	}
	return md.Copy()
}

// begun reports whether response headers arrived.
func (a *attempt) begun() bool { return a.has(seenHeaders) || a.response().header != nil }

// unconnected reports whether gRPC's client began the request but sent it on no connection.
func (a *attempt) unconnected() bool { return a.has(seenBegin) && !a.has(seenSent) }

// Request describes the call.
func (x *client) Request() policy.Request {
	return policy.Request{Protocol: policy.ProtocolGRPC, Method: x.method, Authority: authority(x.cc), Path: x.method}
}

// authority returns the target of cc without the resolver's scheme: the counterpart of host and
// port in a URL.
func authority(cc *grpc.ClientConn) string {
	if cc == nil {
		return ""
	}
	target := cc.Target()
	if _, rest, ok := strings.Cut(target, "://"); ok {
		if _, endpoint, ok := strings.Cut(rest, "/"); ok {
			return endpoint
		}
		return rest
	}
	if rest, ok := strings.CutPrefix(target, "unix:"); ok {
		return rest
	}
	return target
}

// RequestHeader returns values of the caller's metadata.
func (x *client) RequestHeader(name string) []string {
	return metadata.ValueFromOutgoingContext(x.ctx, name)
}

// headerOf returns an attempt's copy of the caller's metadata.
func (x *client) headerOf(a *attempt) policy.Header {
	if a.md == nil {
		if a.md, _ = metadata.FromOutgoingContext(x.ctx); a.md == nil { // a copy
			a.md = metadata.MD{}
		}
	}
	return header(a.md)
}

// outgoing returns the context of the attempt's request: ctx with the attempt's own metadata, if
// any.
func (a *attempt) outgoing(ctx context.Context) context.Context {
	if a.md != nil {
		ctx = metadata.NewOutgoingContext(ctx, a.md)
	}
	a.sent = sentContext{ctx, a}
	return &a.sent
}

// redials reports whether the attempt before this one got no connection.
func (a *attempt) redials() bool { return a.before != nil && a.before.notConnected.Load() }

// begin takes down that an attempt begins.
func (x *client) begin(a *attempt, c *policy.Attempt) {
	a.number, a.watched = c.Call().Attempt(), c.Observed()
	if a.number > 1 {
		x.retried.Store(true)
	}
}

// after initializes a as the attempt that follows before, with the same request metadata.
func (a *attempt) after(before *attempt) {
	if before.md != nil {
		a.md = before.md.Copy()
	}
	a.before = before
}

// GRPCStatus returns the code that the caller receives.
func (x *client) GRPCStatus(o *policy.Outcome) int {
	if o.Err == nil {
		return int(codes.OK)
	}
	code, _ := resultCode(x.upstream, o)
	return int(code)
}

// Idempotent reports whether the method's definition has an idempotency_level, or the caller sent
// an idempotency key.
func (x *client) Idempotent() bool {
	if x.RequestHeader("idempotency-key") != nil || x.RequestHeader("x-idempotency-key") != nil {
		return true
	}
	name := strings.ReplaceAll(strings.TrimPrefix(x.method, "/"), "/", ".")
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		return false
	}
	options, ok := found.Options().(*descriptorpb.MethodOptions)
	return ok && options.GetIdempotencyLevel() != descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN
}

// Messages returns the numbers of the caller's messages, without those that retries resend.
func (x *client) Messages() (sent, received uint64) { return x.sent.Load(), x.received.Load() }

// setEndpoint records the server's address, which gRPC reports only after the attempt.
func (a *attempt) setEndpoint(of *policy.Attempt) {
	c := of.Call()
	if c.Endpoint() != "" {
		return
	}
	if remote := a.remote.Load(); remote != nil {
		c.SetEndpoint((*remote).String())
	} else if a.peer.Addr != nil {
		c.SetEndpoint(a.peer.Addr.String())
	}
}

// countAttempts adds the number of attempts to the response, if IncludeAttemptCountInResponse is
// set.
func (r response) countAttempts(u *pillion.Upstream, attempts int) {
	if md := r.head(); md != nil && u.Options().IncludeAttemptCountInResponse {
		md.Set(envoy.AttemptCountHeader, strconv.Itoa(attempts))
	}
}

// ended returns ctx.Err() if err only reflects the end of ctx: then the engine knows the reason. A
// server that received the deadline may report that it has passed just before ctx ends.
func ended(ctx context.Context, err error) error {
	code := status.Code(err)
	if code != codes.Canceled && code != codes.DeadlineExceeded {
		return err
	}
	if until, ok := ctx.Deadline(); ok && code == codes.DeadlineExceeded && time.Until(until) <= 0 {
		waitFor(ctx.Done(), 100*time.Millisecond)
	}
	if why := ctx.Err(); why != nil {
		return why
	}
	return err
}

// waitFor waits for done, for at most most.
func waitFor(done <-chan struct{}, most time.Duration) {
	t := time.NewTimer(most)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
}

// header adapts metadata to [policy.Header].
type header metadata.MD

func (h header) Get(name string) string { return first(metadata.MD(h).Get(name)) }
func (h header) Set(name, value string) { metadata.MD(h).Set(name, value) }
func (h header) Del(name string)        { metadata.MD(h).Delete(name) }

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// copyMessage copies from to to.
func copyMessage(to, from any) {
	if m, ok := to.(proto.Message); ok {
		if other, ok := from.(proto.Message); ok {
			proto.Reset(m)
			proto.Merge(m, other)
			return
		}
	}
	copyValue(to, from)
}
