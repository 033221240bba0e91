package pilliongrpc

import (
	"context"
	"net/http"
	"reflect"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// Unary returns an interceptor that puts unary calls under the policies of the upstreams
// that r finds. It panics if r is nil. Use it through [DialOptions], which also lets it see
// response headers and trailers on the wire. Without them the limits of one attempt hold until the
// whole response, and the text of a status decides whether the server sent it, unless its
// trailers have metadata.
//
// Each attempt has its own targets for header, trailer and peer. The caller's ([grpc.Header]
// and the like) are written once, from the attempt whose response the caller gets, and the
// functions of [grpc.OnFinish] are called once. Concurrent attempts have their own reply, too.
// Interceptors that come after this one see every attempt, those before it see the call.
func Unary(r pillion.Resolver) grpc.UnaryClientInterceptor { return unary(finder(r), false) }

// unary is Unary. The connection leads to the hosts of clusters if it is hosted.
func unary(found find, hosted bool) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn,
		invoker grpc.UnaryInvoker, options ...grpc.CallOption,
	) error {
		if err := check(ctx, method, "invoker", invoker == nil); err != nil {
			return err
		}
		x := &unaryCall{client: client{ctx: ctx, cc: cc, method: method, hosted: hosted}, req: req, reply: reply, invoker: invoker}
		x.targets = split(options)
		return x.call(found)
	}
}

// unaryCall is one unary call: the Exchange, with the storage of its first attempt.
type unaryCall struct {
	client
	frame   policy.Frame
	req     any
	reply   any
	invoker grpc.UnaryInvoker
	beside  atomic.Bool // attempts run concurrently
	began   atomic.Bool // the first attempt did
	first   unaryAttempt
}

// unaryCall implements these, and not Unary: a response has headers, with which the limit on one
// attempt ends. The server must not be told of it, for it would end a response that has begun.
var _ interface {
	policy.Exchange
	policy.Repeater
	policy.Successor
	policy.MessageCounter
	policy.GRPCCoder
	policy.ConnectionObserver
} = (*unaryCall)(nil)

// unaryAttempt is an attempt with its reply.
type unaryAttempt struct {
	attempt
	reply any
	over  atomic.Bool // Try has returned
}

// call makes the call.
func (x *unaryCall) call(find find) (err error) {
	err = errUnwound
	defer func() { x.targets.finished(err) }() // also when a policy panics
	u, bad := find(&x.client)
	if bad != nil {
		err = bad
		return err
	}
	x.upstream = u
	if bad = x.reachable(); bad != nil {
		err = bad
		return err
	}
	x.sent.Store(1)
	x.frame.Init(u.Chain(), x)
	err = x.settle(u, x.frame.Invoke(x.ctx))
	return err
}

// settle returns to the caller what the call brought.
func (x *unaryCall) settle(u *pillion.Upstream, o *policy.Outcome) error {
	a, _ := o.Value.(*unaryAttempt)
	if a != nil {
		r := a.response()
		r.countAttempts(u, a.number)
		x.targets.deliver(r, func() peer.Peer { return a.peer })
	}
	err := callError(u, o, x.retried.Load())
	if err == nil && a == nil {
		err = noReply(u, o)
	}
	if err == nil && a.reply != x.reply {
		copyMessage(x.reply, a.reply)
	}
	return err
}

// Try sends the request once.
func (x *unaryCall) Try(ctx context.Context, c *policy.Attempt, o *policy.Outcome) {
	a := x.attempt(c)
	c.Prepare()
	a.number, a.watched, a.reply = c.Call().Attempt(), c.Observed(), x.replyFor()
	a.ride.begin(x.upstream, c)
	err := x.invoke(ctx, a, c)
	a.over.Store(true)
	lost := a.ride.end(o)
	if a.watched {
		a.setEndpoint(c)
	}
	switch o.Value = a; {
	case lost:
		return
	case err == nil:
		o.Detail = envoy.ViaUpstream
		x.received.Store(1)
		return
	}
	o.Err = ended(ctx, err)
	if a.begun() {
		o.Code = http.StatusOK // for a limit that cuts the response short
	}
}

// invoke makes the call of an attempt. The limit on its time ends with the response headers.
func (x *unaryCall) invoke(ctx context.Context, a *unaryAttempt, c *policy.Attempt) error {
	if a.redial {
		x.redial(ctx)
	}
	a.follow(c)
	defer a.unfollow()
	return x.invoker(a.outgoing(ctx), x.method, x.req, a.reply, x.cc, a.unaryOptions(&x.targets, a.watched)...)
}

// replyFor is where an attempt puts its response: the caller's reply, which consecutive
// attempts share, or a reply of its own for each of concurrent ones.
func (x *unaryCall) replyFor() any {
	x.began.Store(true)
	if !x.beside.Load() {
		return x.reply
	}
	return newLike(x.reply)
}

// Unconnected reports whether the attempt surely never had a connection.
func (x *unaryCall) Unconnected(c *policy.Attempt) bool { return x.attempt(c).unconnected() }

// attempt finds what belongs to c.
func (x *unaryCall) attempt(c *policy.Attempt) *unaryAttempt {
	if a, ok := c.Attached().(*unaryAttempt); ok {
		return a
	}
	return &x.first
}

// NewAttempt returns the storage of the next attempt. One that is made while the one
// before it has not come back, or not even begun, runs concurrently with it.
func (x *unaryCall) NewAttempt(from *policy.Attempt) *policy.Attempt {
	before := x.attempt(from)
	if !before.over.Load() {
		x.beside.Store(true)
	}
	x.retried.Store(true)
	next := &struct {
		of      policy.Attempt
		attempt unaryAttempt
	}{}
	next.attempt.after(&before.attempt)
	next.of.Attach(&next.attempt)
	return &next.of
}

// Header returns the attempt's own metadata.
func (x *unaryCall) Header(c *policy.Attempt) policy.Header {
	return x.headerOf(&x.attempt(c).attempt)
}

// ResponseHeader reads the metadata that came first.
func (x *unaryCall) ResponseHeader(o *policy.Outcome, name string) []string {
	a, _ := o.Value.(*unaryAttempt)
	if a == nil {
		return nil
	}
	return a.response().head().Get(name)
}

// Explain says what a status means. A response that broke off after its headers must not be
// asked for again.
func (x *unaryCall) Explain(c *policy.Attempt, o *policy.Outcome, err error) {
	a := &x.attempt(c).attempt
	explain(x.upstream, a, o, err)
	if a.begun() && o.Is.Any(policy.NoResponse) {
		o.Is = policy.Failed
	}
}

// Replayable is true: the request is a message that the caller holds.
func (x *unaryCall) Replayable() bool { return true }

// newLike makes an empty message of m's type; a nil message stays nil, which gRPC reports.
func newLike(m any) any {
	t := reflect.TypeOf(m)
	if t == nil || t.Kind() != reflect.Pointer {
		return m
	}
	return reflect.New(t.Elem()).Interface()
}

// copyValue makes to what from is; both are pointers to one type.
func copyValue(to, from any) { reflect.ValueOf(to).Elem().Set(reflect.ValueOf(from).Elem()) }
