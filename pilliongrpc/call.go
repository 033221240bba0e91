package pilliongrpc

import (
	"context"
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
)

// client is what unary calls and streams have in common: the side of the caller.
type client struct {
	ctx     context.Context //nolint:containedctx // the caller's, for the length of the call
	cc      *grpc.ClientConn
	method  string
	targets targets

	sent     atomic.Uint64 // the caller's messages
	received atomic.Uint64
	retried  atomic.Bool // there was a further attempt
}

// attempt is what one attempt adds to its Call: its own request header, and its own
// targets for what comes back. The caller's are written from those of the attempt whose
// answer it gets.
type attempt struct {
	md      metadata.MD // the request's; nil while it is the caller's
	header  metadata.MD // the answer's; nil where it was nothing but trailers
	trailer metadata.MD
	peer    peer.Peer
	options [6]grpc.CallOption
}

// Request describes the call.
func (x *client) Request() pillion.Request {
	return pillion.Request{Protocol: "grpc", Method: x.method, Authority: authority(x.cc), Path: x.method}
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
func (x *client) headerOf(a *attempt) pillion.Header {
	if a.md == nil {
		if a.md, _ = metadata.FromOutgoingContext(x.ctx); a.md == nil { // a copy
			a.md = metadata.MD{}
		}
	}
	return header(a.md)
}

// outgoing is ctx with the attempt's own metadata, where it has some.
func (a *attempt) outgoing(ctx context.Context) context.Context {
	if a.md == nil {
		return ctx
	}
	return metadata.NewOutgoingContext(ctx, a.md)
}

// follow starts with the request header of the attempt that came before.
func (a *attempt) follow(before *attempt) {
	if before.md != nil {
		a.md = before.md.Copy()
	}
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

// head reads the head of an answer: its header, or, where it has none, its trailers.
// What comes in trailers behind a header is no head.
func (a *attempt) head(name string) []string {
	md := a.header
	if md == nil {
		md = a.trailer
	}
	return md.Get(name)
}

// tellEndpoint says where the attempt went, which gRPC knows only afterwards.
func (a *attempt) tellEndpoint(c *pillion.Call) {
	if a.peer.Addr != nil && c.Endpoint() == "" {
		c.SetEndpoint(a.peer.Addr.String())
	}
}

// ended gives, for an error that says no more than that ctx has ended, ctx's own: then
// the engine knows why. A server that was told the deadline may be the first to say that it
// has passed; ctx ends in the same moment.
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

// targets are the call options by which a caller learns what came back.
type targets struct {
	headers  []*metadata.MD
	trailers []*metadata.MD
	peers    []*peer.Peer
	finish   []func(error)
	rest     []grpc.CallOption // all others
}

// split takes the targets out of a call's options.
func split(options []grpc.CallOption) targets {
	t := targets{rest: options}
	if !hasTargets(options) {
		return t
	}
	t.rest = nil
	for _, o := range options {
		switch o := o.(type) {
		case grpc.HeaderCallOption:
			t.headers = append(t.headers, o.HeaderAddr)
		case grpc.TrailerCallOption:
			t.trailers = append(t.trailers, o.TrailerAddr)
		case grpc.PeerCallOption:
			t.peers = append(t.peers, o.PeerAddr)
		case grpc.OnFinishCallOption:
			t.finish = append(t.finish, o.OnFinish)
		default:
			t.rest = append(t.rest, o)
		}
	}
	return t
}

func hasTargets(options []grpc.CallOption) bool {
	for _, o := range options {
		switch o.(type) {
		case grpc.HeaderCallOption, grpc.TrailerCallOption, grpc.PeerCallOption, grpc.OnFinishCallOption:
			return true
		}
	}
	return false
}

// callOptions are the options of one attempt, with its own targets.
func (a *attempt) callOptions(t *targets, watched bool) []grpc.CallOption {
	options := append(append(a.options[:0], t.rest...), grpc.Header(&a.header), grpc.Trailer(&a.trailer))
	if watched || len(t.peers) != 0 {
		options = append(options, grpc.Peer(&a.peer))
	}
	return options
}

// deliver writes what an attempt brought to the caller's targets.
func (t *targets) deliver(a *attempt) {
	for _, to := range t.headers {
		*to = a.header
	}
	for _, to := range t.trailers {
		*to = a.trailer
	}
	for _, to := range t.peers {
		*to = a.peer
	}
}

// finished tells the caller that the call is over, once.
func (t *targets) finished(err error) {
	for _, f := range t.finish {
		f(err)
	}
}

// header is metadata as a [pillion.Header].
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
