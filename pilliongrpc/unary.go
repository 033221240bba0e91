package pilliongrpc

import (
	"context"
	"reflect"
	"sync/atomic"

	"google.golang.org/grpc"

	"github.com/pillion-go/pillion"
)

// Unary gives an interceptor that puts unary calls under the policies of the
// upstreams that r finds. It panics where r is nil.
//
// Each attempt has targets of its own for header, trailer and peer; the caller's
// ([grpc.Header] and the like) are written once, from the attempt whose answer it gets, and
// [grpc.OnFinish] is called once. Attempts beside each other have a reply of their own too.
// Interceptors that come after it see every attempt, those before it see the call.
func Unary(r pillion.Resolver) grpc.UnaryClientInterceptor {
	find := finder(r)
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn,
		invoker grpc.UnaryInvoker, options ...grpc.CallOption,
	) error {
		x := &unaryCall{client: client{ctx: ctx, cc: cc, method: method}, req: req, reply: reply, invoker: invoker}
		x.targets = split(options)
		u, err := find(&x.client)
		if err != nil {
			x.targets.finished(err)
			return err
		}
		x.upstream = u
		return x.call(u)
	}
}

// unaryCall is one unary call: the Exchange, with the storage of its first attempt.
type unaryCall struct {
	client
	upstream *pillion.Upstream
	req      any
	reply    any
	invoker  grpc.UnaryInvoker
	beside   atomic.Bool // attempts run beside each other
	began    atomic.Bool // the first attempt did
	first    unaryAttempt
}

// unaryAttempt is an attempt with its reply.
type unaryAttempt struct {
	attempt
	reply any
	over  atomic.Bool // Try has returned
}

// call makes the call.
func (x *unaryCall) call(u *pillion.Upstream) (err error) {
	x.sent.Store(1)
	u.InvokeUnary(x.ctx, x, func(o *pillion.Outcome) { err = x.settle(u, o) })
	x.targets.finished(err)
	return err
}

// settle gives the caller what the call brought.
func (x *unaryCall) settle(u *pillion.Upstream, o *pillion.Outcome) error {
	a, _ := o.Value.(*unaryAttempt)
	if a != nil {
		x.targets.deliver(&a.attempt)
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

// Unary is true: an answer comes whole.
func (x *unaryCall) Unary() bool { return true }

// Try sends the request once.
func (x *unaryCall) Try(ctx context.Context, c *pillion.Call, o *pillion.Outcome) {
	a := x.attempt(c)
	c.Prepare()
	sent := a.outgoing(ctx)
	a.reply = x.replyFor()
	watched := c.Watched()
	err := x.invoker(sent, x.method, x.req, a.reply, x.cc, a.callOptions(&x.targets, watched)...)
	a.over.Store(true)
	if watched {
		a.tellEndpoint(c)
	}
	o.Value = a
	if err != nil {
		o.Err = ended(ctx, err)
		return
	}
	o.Detail = pillion.ViaUpstream
	x.received.Store(1)
}

// replyFor is where an attempt puts its answer: the caller's reply, which an attempt
// that comes after another may use again, or, beside others, one of its own.
func (x *unaryCall) replyFor() any {
	x.began.Store(true)
	if !x.beside.Load() {
		return x.reply
	}
	return newLike(x.reply)
}

// attempt finds what belongs to c.
func (x *unaryCall) attempt(c *pillion.Call) *unaryAttempt {
	if a, ok := c.Attached().(*unaryAttempt); ok {
		return a
	}
	return &x.first
}

// NewCall makes the storage of a further attempt. One that is made while the one
// before it has not come back, or not even begun, runs beside it.
func (x *unaryCall) NewCall(from *pillion.Call) *pillion.Call {
	before := x.attempt(from)
	if !before.over.Load() {
		x.beside.Store(true)
	}
	x.retried.Store(true)
	next := &struct {
		call    pillion.Call
		attempt unaryAttempt
	}{}
	next.attempt.follow(&before.attempt)
	next.call.Attach(&next.attempt)
	return &next.call
}

// Header gives the attempt's own metadata.
func (x *unaryCall) Header(c *pillion.Call) pillion.Header { return x.headerOf(&x.attempt(c).attempt) }

// ResponseHeader reads the head of an answer.
func (x *unaryCall) ResponseHeader(o *pillion.Outcome, name string) []string {
	a, _ := o.Value.(*unaryAttempt)
	if a == nil {
		return nil
	}
	return a.head(name)
}

// Explain says what a status means. An answer that broke off after its header is one
// that must not be asked for again.
func (x *unaryCall) Explain(c *pillion.Call, o *pillion.Outcome, err error) {
	a := &x.attempt(c).attempt
	explain(c, a, o, err)
	if a.header != nil && o.Is.Any(pillion.NoAnswer) {
		o.Is = pillion.Failed
	}
}

// Discard has nothing to do: an answer is never open.
func (x *unaryCall) Discard(*pillion.Call, *pillion.Outcome) {}

// Replayable is true: the request is a message that the caller holds.
func (x *unaryCall) Replayable() bool { return true }

// newLike makes an empty message of m's type.
func newLike(m any) any { return reflect.New(reflect.TypeOf(m).Elem()).Interface() }

// copyValue makes of to what from is; both are pointers to one type.
func copyValue(to, from any) { reflect.ValueOf(to).Elem().Set(reflect.ValueOf(from).Elem()) }
