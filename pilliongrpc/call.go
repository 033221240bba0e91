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

// client is what unary calls and streams have in common: the caller's side.
type client struct {
	ctx     context.Context //nolint:containedctx // the caller's, for the length of the call
	cc      *grpc.ClientConn
	method  string
	targets targets

	upstream *pillion.Upstream
	hosted   bool // cc leads to the hosts of clusters

	sent     atomic.Uint64 // the caller's messages
	received atomic.Uint64
	retried  atomic.Bool // there was a next attempt
}

// attempt is what one attempt adds to its Call: its own request metadata, and its own
// targets for the response. The caller's targets are written from those of the attempt
// whose response it gets.
type attempt struct {
	sight
	number       int         // of the attempt, from 1
	notConnected bool        // it got no connection
	redial       bool        // the attempt before it got no connection
	md           metadata.MD // the request's; nil while it is the caller's
	header       metadata.MD // the response's; nil if it had nothing but trailers
	trailer      metadata.MD
	late         atomic.Pointer[response] // what a stream knows at its end only
	peer         peer.Peer
	sent         sentContext
	ride         ride
	options      [6]grpc.CallOption
}

// response is the metadata of a response.
type response struct{ header, trailer metadata.MD }

// response returns what is known of the response.
func (a *attempt) response() response {
	if late := a.late.Load(); late != nil {
		return *late
	}
	return response{a.header, a.trailer}
}

// head is the metadata that came first: the header, or trailers without a header. Trailers
// behind a header are no head.
func (r response) head() metadata.MD {
	if r.header == nil {
		return r.trailer
	}
	return r.header
}

// clone copies md; nil stays nil, which says that there was none.
func clone(md metadata.MD) metadata.MD {
	if md == nil {
		return nil
	}
	return md.Copy()
}

// begun reports whether response headers arrived.
func (a *attempt) begun() bool { return a.has(seenHeaders) || a.response().header != nil }

// unconnected reports whether no connection took the request that gRPC's client was given.
func (a *attempt) unconnected() bool { return a.has(seenBegin) && !a.has(seenSent) }

// Request describes the call.
func (x *client) Request() policy.Request {
	return policy.Request{Protocol: policy.ProtocolGRPC, Method: x.method, Authority: authority(x.cc), Path: x.method}
}

// authority is what the caller dialled, without the resolver's scheme: what would
// be host and port in a URL.
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

// RequestHeader reads the caller's metadata.
func (x *client) RequestHeader(name string) []string {
	return metadata.ValueFromOutgoingContext(x.ctx, name)
}

// headerOf copies the caller's metadata for one attempt.
func (x *client) headerOf(a *attempt) policy.Header {
	if a.md == nil {
		if a.md, _ = metadata.FromOutgoingContext(x.ctx); a.md == nil { // a copy
			a.md = metadata.MD{}
		}
	}
	return header(a.md)
}

// outgoing is the context of the attempt's request: ctx with the attempt's own metadata, if
// it has some.
func (a *attempt) outgoing(ctx context.Context) context.Context {
	if a.md != nil {
		ctx = metadata.NewOutgoingContext(ctx, a.md)
	}
	a.sent = sentContext{ctx, a}
	return &a.sent
}

// after makes a the attempt that follows before: it starts with the same request metadata.
func (a *attempt) after(before *attempt) {
	if before.md != nil {
		a.md = before.md.Copy()
	}
	a.redial = before.notConnected
}

// GRPCStatus is the code that the caller gets.
func (x *client) GRPCStatus(o *policy.Outcome) int {
	if o.Err == nil {
		return int(codes.OK)
	}
	code, _ := resultCode(x.upstream, o)
	return int(code)
}

// Idempotent goes by what the service says of its method, idempotency_level in its
// definition, or by the metadata with which callers vouch for it.
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

// Messages counts the caller's messages, not those of further attempts.
func (x *client) Messages() (sent, received uint64) { return x.sent.Load(), x.received.Load() }

// setEndpoint records where the attempt went, which gRPC knows only afterwards.
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

// countAttempts adds the number of attempts to the response, if the configuration asks
// for it.
func (r response) countAttempts(u *pillion.Upstream, attempts int) {
	if md := r.head(); md != nil && u.Options().IncludeAttemptCountInResponse {
		md.Set(envoy.AttemptCountHeader, strconv.Itoa(attempts))
	}
}

// ended returns ctx.Err() if err only reflects the end of ctx: then the engine knows why. A
// server that was told the deadline may be the first to report that it has passed; ctx ends in
// the same moment.
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

// waitFor waits for done, but no longer than that.
func waitFor(done <-chan struct{}, most time.Duration) {
	t := time.NewTimer(most)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
}

// header is metadata as a [policy.Header].
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

// copyMessage makes of to what from is.
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
