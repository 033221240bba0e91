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

// UnaryClientInterceptor returns an interceptor that applies the policies of the upstreams that r finds to unary
// calls of a client. It panics if r is nil. Use it through [DialOptions], whose stats.Handler
// observes response headers and trailers. Without it, the per-try timeouts apply until the whole
// response, and the text of a status decides whether the server sent it, unless its trailers have
// metadata.
//
// Each attempt has separate targets for header, trailer and peer. The caller's targets (such as
// [grpc.Header]) are written once, from the attempt whose response the caller receives, and the
// functions of [grpc.OnFinish] are called once. Concurrent attempts also have separate replies.
// Interceptors after this one see each attempt, interceptors before it see the call.
func UnaryClientInterceptor(r pillion.Resolver) grpc.UnaryClientInterceptor {
	return unary(finder(r), false)
}

// unary returns the interceptor. If hosted is set, connections lead to the hosts of clusters.
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

// unaryCall is a client's unary call: its Exchange, with the storage of its first attempt.
type unaryCall struct {
	client
	frame   policy.Frame
	req     any
	reply   any
	invoker grpc.UnaryInvoker
	beside  atomic.Bool // attempts run concurrently
	began   atomic.Bool // the first attempt has begun
	first   unaryAttempt
}

// unaryCall implements these interfaces, which the engine finds with type assertions. It does not
// implement Unary, so that the engine does not send the per-try timeout to the server: the timeout
// ends with the response headers, but the server would apply it to the whole response.
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

// settle writes the caller's targets and reply, and returns the error of the call.
func (x *unaryCall) settle(u *pillion.Upstream, o *policy.Outcome) error {
	a, _ := o.Value.(*unaryAttempt)
	if a != nil {
		r := a.response()
		r.countAttempts(u, a.number)
		x.targets.deliver(r, func() peer.Peer { return a.peer })
	}
	err := callError(u, o, x.retried.Load())
	if err == nil && a == nil {
		err = noResponse(u, o)
	}
	if err == nil && a.reply != x.reply {
		copyMessage(x.reply, a.reply)
	}
	return err
}

// Try makes one attempt.
func (x *unaryCall) Try(ctx context.Context, c *policy.Attempt, o *policy.Outcome) {
	a := x.attempt(c)
	c.Prepare()
	x.begin(&a.attempt, c)
	a.reply = x.replyFor()
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
		o.Code = http.StatusOK // for a timeout in the middle of the response
	}
}

// invoke makes the call of an attempt. The per-try timeout ends with the response headers.
func (x *unaryCall) invoke(ctx context.Context, a *unaryAttempt, c *policy.Attempt) error {
	if a.redials() {
		x.redial(ctx)
	}
	a.follow(c)
	defer a.unfollow()
	return x.invoker(a.outgoing(ctx), x.method, x.req, a.reply, x.cc, a.unaryOptions(&x.targets, a.watched)...)
}

// replyFor returns the reply of an attempt: the caller's reply for consecutive attempts, a new one
// for each of concurrent attempts.
func (x *unaryCall) replyFor() any {
	x.began.Store(true)
	if !x.beside.Load() {
		return x.reply
	}
	return newLike(x.reply)
}

// Unconnected reports whether the attempt certainly had no connection.
func (x *unaryCall) Unconnected(c *policy.Attempt) bool { return x.attempt(c).unconnected() }

// attempt returns the state of c.
func (x *unaryCall) attempt(c *policy.Attempt) *unaryAttempt {
	if a, ok := c.Attached().(*unaryAttempt); ok {
		return a
	}
	return &x.first
}

// NewAttempt returns the storage of the next attempt. If the previous attempt has not returned, the
// two are concurrent.
func (x *unaryCall) NewAttempt(from *policy.Attempt) *policy.Attempt {
	before := x.attempt(from)
	if !before.over.Load() {
		x.beside.Store(true)
	}
	next := &struct {
		of      policy.Attempt
		attempt unaryAttempt
	}{}
	next.attempt.after(&before.attempt)
	next.of.Attach(&next.attempt)
	return &next.of
}

// Header returns the attempt's own request metadata.
func (x *unaryCall) Header(c *policy.Attempt) policy.Header {
	return x.headerOf(&x.attempt(c).attempt)
}

// ResponseHeader returns values of the first metadata of the response.
func (x *unaryCall) ResponseHeader(o *policy.Outcome, name string) []string {
	a, _ := o.Value.(*unaryAttempt)
	if a == nil {
		return nil
	}
	return a.response().head().Get(name)
}

// Classify classifies a status. A response that broke after its headers must not be retried.
func (x *unaryCall) Classify(c *policy.Attempt, o *policy.Outcome, err error) {
	a := &x.attempt(c).attempt
	classify(x.upstream, a, o, err)
	if a.begun() && o.Has(policy.NoResponse) {
		o.Conditions = policy.Failed
	}
}

// Replayable returns true: the caller holds the request message during the call.
func (x *unaryCall) Replayable() bool { return true }

// newLike returns an empty message of m's type. A nil message stays nil, which gRPC reports.
func newLike(m any) any {
	t := reflect.TypeOf(m)
	if t == nil || t.Kind() != reflect.Pointer {
		return m
	}
	return reflect.New(t.Elem()).Interface()
}

// copyValue copies the value of from to to. Both are pointers to the same type.
func copyValue(to, from any) { reflect.ValueOf(to).Elem().Set(reflect.ValueOf(from).Elem()) }
