package pillion

import (
	"context"
	"strconv"
	"time"

	"github.com/pillion-go/pillion/envoy"
)

// Target says where a call wants to go, for a [Resolver]: the request, and its
// header.
type Target struct {
	Request
	Header func(name string) string // the value of a request header, "" for none; never nil
}

// Resolver finds the upstream that a call belongs to. An [*Upstream] is one that
// answers with itself; a mesh goes by routes. It must be safe for concurrent use. An
// error means that there is none, and is the call's result.
type Resolver interface {
	Resolve(ctx context.Context, t Target) (*Upstream, error)
}

// Resolve gives u, whatever the target.
func (u *Upstream) Resolve(context.Context, Target) (*Upstream, error) { return u, nil }

// Repeats reports whether a policy sends calls again, which a server cannot. It is
// for adapters.
func (u *Upstream) Repeats() bool { return u.repeats }

// AwaitsHead reports whether a policy acts on an answer's head: then an adapter must
// have one when Try returns, or say that there will be none. It is for adapters of streams,
// which can be opened without it.
func (u *Upstream) AwaitsHead() bool { return u.repeats || u.awaitsHead }

// HTTP is the configuration that the upstream was given, defaults filled in, for
// adapters of protocols that are carried by HTTP.
func (u *Upstream) HTTP() HTTP { return u.http }

// AwaitHead asks that of a stream, too, the answer's head be waited for: the policy
// acts on it. Policies that send calls again need not ask.
func (s *Site) AwaitHead() { s.upstream.awaitsHead = true }

// storage is what the engine needs for a call.
type storage struct {
	flight flight
	first  Call
}

func (u *Upstream) newStorage() *storage {
	s := &storage{flight: flight{upstream: u}}
	s.first.flight, s.first.attempt = &s.flight, 1
	return s
}

// InvokeUnary is [Upstream.Invoke] for an exchange that is unary: use gets the
// outcome, which must not be kept, nor any Call, for what the engine needed for the call is
// used again afterwards.
func (u *Upstream) InvokeUnary(ctx context.Context, x Exchange, use func(o *Outcome)) {
	u.mustHave(ctx, x, "InvokeUnary")
	s, ok := u.storage.Get().(*storage)
	if !ok {
		s = u.newStorage()
	}
	s.flight.ctx, s.flight.exchange = ctx, x //nolint:fatcontext // it is not nested: the storage is used again
	o := s.flight.invoke(&s.first)
	use(o)
	if s.flight.forked.Load() {
		return // further attempts may still be about
	}
	s.flight.clear()
	s.first.clear()
	s.flight.exchange, s.first.self = nil, nil
	u.storage.Put(s)
}

// Attach keeps what an adapter must keep with an attempt. It is for [Exchange] Try
// and NewCall.
func (c *Call) Attach(v any) { c.self = v }

// Attached gives what was attached, nil for nothing.
func (c *Call) Attached() any { return c.self }

// Watched reports whether anybody can hear where the attempt goes: whether
// [Call.SetEndpoint] is worth its cost.
func (c *Call) Watched() bool { return c.flight.watched() }

// Messages is how many messages the caller has sent and received so far, for
// protocols that know of messages; an [Exchange] that counts them has a method of this name.
func (c *Call) Messages() (sent, received uint64) {
	if x, ok := c.flight.exchange.(interface {
		Messages() (sent, received uint64)
	}); ok {
		return x.Messages()
	}
	return 0, 0
}

// Prepare makes the attempt's header what policies and configuration ask for:
// without what policies obey ([Site.ConsumeHeaders]), and with the deadline, the number of
// the attempt and the like. It is for [Exchange] Try, of a client.
func (c *Call) Prepare() {
	if u := c.flight.upstream; u.headers {
		c.Consume()
		c.addHeaders()
	}
}

// Consume takes out of the attempt's header what policies obey. It is for [Exchange]
// Try, of a server; a client has [Call.Prepare].
func (c *Call) Consume() {
	x := c.flight.exchange
	for _, name := range c.flight.upstream.consumed {
		if x.RequestHeader(name) != nil {
			x.Header(c).Del(name)
		}
	}
}

// addHeaders makes the attempt's header what the configuration says.
func (c *Call) addHeaders() {
	u, x := c.flight.upstream, c.flight.exchange
	if u.http.Sidecar {
		c.tellSidecar(x.Header(c))
	}
	if u.announce && !u.http.SuppressEnvoyHeaders {
		if left, limited := c.patience(); limited {
			x.Header(c).Set(envoy.ExpectedTimeoutHeader, envoy.Milliseconds(left))
		}
	}
	if u.http.IncludeRequestAttemptCount {
		x.Header(c).Set(envoy.AttemptCountHeader, strconv.Itoa(c.attempt))
	}
	if u.http.IncludeIsTimeoutRetryHeader && c.attempt > 1 {
		x.Header(c).Set(envoy.IsTimeoutRetryHeader, strconv.FormatBool(c.afterTimeout))
	}
}

// tellSidecar leaves retries to us, and our limits to the sidecar too.
func (c *Call) tellSidecar(h Header) {
	h.Set(envoy.MaxRetriesHeader, "0")
	if left, limited := c.patience(); limited {
		h.Set(envoy.TimeoutHeader, envoy.Milliseconds(left))
	}
}

// LiftTry suspends the limits of one try, on its time and on silence, while the total
// one goes on: a stream's request is still being sent, which is not the upstream's silence,
// or the head of a served answer is out. It is for [Exchange] Try, and may be called by any
// goroutine until Try returns. It is not in time when a limit has struck.
func (c *Call) LiftTry() (inTime bool) {
	return c.rearm(func(scope Scope, left time.Duration) (Scope, time.Duration) { return scope, left })
}

// ArmTry starts the limits of one try, after [Call.LiftTry].
func (c *Call) ArmTry() { c.rearm(c.limits.tighter) }

// HeadersSent is [Call.LiftTry] for a server whose response headers are out: the
// outcome that Try reports stays, and a limit that strikes later is added to it.
func (c *Call) HeadersSent() (inTime bool) { return c.headersInTime(c.LiftTry()) }

// HeadersReceived says that the response headers are there, while Try still waits for the
// rest. The limit on the time of one attempt ends, and the limit on silence starts again. A
// limit that fires later cuts short a response that has begun, so the call is not retried
// for it. HeadersReceived is for [Exchange] Try of a client, and may be called by any goroutine
// until Try returns. It is not in time when a limit has fired.
func (c *Call) HeadersReceived() (inTime bool) { return c.headersInTime(c.rearm(c.limits.silence)) }

func (c *Call) headersInTime(inTime bool) bool {
	if inTime && c.span != nil {
		c.span.mu.Lock()
		defer c.span.mu.Unlock()
		c.span.headers = true
	}
	return inTime
}

// rearm has the attempt's timer strike for another limit, if it has not struck yet:
// for what choose makes of the total one. The caller's own deadline needs no timer.
func (c *Call) rearm(choose func(scope Scope, left time.Duration) (Scope, time.Duration)) (inTime bool) {
	s := c.span
	if s == nil || s.guard == nil {
		return true
	}
	scope := s.rearm(c, choose)
	if scope != 0 {
		s.guard.cancel(c.timeoutError(scope, nil))
	}
	return scope == 0
}

// rearm gives the limit that has struck, 0 for none.
func (s *span) rearm(c *Call, choose func(scope Scope, left time.Duration) (Scope, time.Duration)) (struck Scope) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.guard
	var scope Scope
	var left time.Duration
	if deadline := c.ownDeadline(); deadline != 0 {
		scope, left = c.limits.totalScope(), max(deadline-g.upstream.now(), 1)
	}
	scope, left = choose(scope, left)
	if s.body || (scope != 0 && scope == c.limits.totalScope() && scope == g.scope && g.timer != nil) {
		return g.hasStruck() // the total limit does not move
	}
	if struck = g.disarm(c); struck != 0 {
		return struck
	}
	if g.scope = scope; scope != 0 {
		g.timer = g.upstream.timer(s)
		g.timer.Reset(left)
	}
	return 0
}
