package pillion

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pillion-go/pillion/envoy"
)

// Call is one attempt of a call, as policies see it. The attempts of a call share
// what is said of the request; limits, header, state and outcome are each attempt's
// own. A policy outside retry holds the first attempt's Call.
//
// A Call belongs to the goroutine that runs its attempt; it must not be kept after
// the end hooks ran. Open, End, Await, Received, Drop and LiftLimits are for adapters, all
// else is for policies.
type Call struct {
	flight       *flight
	self         any // the adapter's own storage around this Call
	attempt      int
	from         *Call         // the attempt that this one was made from; nil for the first
	afterTimeout bool          // the attempt before ran into its time-out
	drain        time.Duration // how long discarding the response may take; 0 for the default
	endpoint     string
	limits       limits
	outcome      Outcome
	tail         tail
	span         *span    // what outlives the attempt; nil where nothing does
	states       [3]State // of the first slots; most chains need no more
	more         *[]State
}

// flight is what the attempts of one call share. After its start it is read, or
// written atomically: attempts may run beside each other.
type flight struct {
	upstream            *Upstream
	exchange            Exchange
	ctx                 context.Context //nolint:containedctx // the caller's, for the length of the call
	attempts            atomic.Int32
	forked              atomic.Bool          // there is more than one Call
	overflowed          atomic.Bool          // a retry was not made because of a budget or a limit
	latest              atomic.Pointer[Call] // the attempt that last named its endpoint
	naming              sync.Mutex           // guards the endpoints of attempts that run concurrently
	observer            *Info
	progress            atomic.Int64         // on the upstream's clock: when the first attempt last sent a part of a slow request; 0 for never
	sent                atomic.Pointer[Call] // the last attempt that went to the wire, if it is not the first
	winner              *Call                // whose response a hedging policy returned; nil for none
	spans, guardedSpans func(*Call) *span    // where the adapter has room for one; nil for none
	recycle             func(*flight)        // called when nothing of the call is in use any more; nil for none
}

// begun is how many attempts have begun. Where no policy repeats calls nobody
// counts, and it is the one.
func (f *flight) begun() int {
	if !f.upstream.repeats {
		return 1
	}
	return int(f.attempts.Load())
}

// clear makes ready for another call what an adapter uses again.
func (f *flight) clear() {
	f.ctx = nil
	if f.progress.Load() != 0 {
		f.progress.Store(0)
	}
	if f.upstream.repeats {
		f.attempts.Store(0)
	}
	if f.overflowed.Load() {
		f.overflowed.Store(false)
	}
	if f.watched() {
		f.observer = nil
		f.latest.Store(nil)
	}
}

// watched reports whether anybody can ask where the call went.
func (f *flight) watched() bool { return f.observer != nil || len(f.upstream.listeners) != 0 }

// limits holds how long an attempt may take; zero is no limit.
type limits struct {
	deadline time.Duration // on the upstream's clock: when the total limit strikes
	total    time.Duration // the limit that set deadline
	try      time.Duration
	idle     time.Duration
	client   bool // deadline was named by the client of a server
}

// never is an instant on the upstream's clock that no timer reaches.
const never time.Duration = math.MaxInt64

// after returns the instant d after now, or never.
func after(now, d time.Duration) time.Duration { return now + min(d, never-now) }

// Slot is a place for a policy's own state in every Call of an upstream.
// [Site.Slot] gives it out.
type Slot int

// State is what a policy keeps in a Call between the start of an attempt and its
// end hook. It starts as zero in each attempt.
type State struct {
	N int64
	V any
}

// State gives the state that belongs to slot in this attempt.
func (c *Call) State(slot Slot) *State {
	if int(slot) < len(c.states) {
		return &c.states[slot]
	}
	if c.more == nil {
		more := make([]State, c.flight.upstream.slots-len(c.states))
		c.more = &more
	}
	return &(*c.more)[int(slot)-len(c.states)]
}

// clear makes ready for another call what an adapter uses again. Hooks that ran
// may stay where they are: they are the upstream's.
func (c *Call) clear() {
	c.endpoint, c.limits, c.outcome = "", limits{}, Outcome{}
	c.tail.phase, c.tail.count, c.tail.more = phaseTry, 0, nil
	c.drain = 0
	c.span, c.states, c.more = nil, [len(c.states)]State{}, nil
}

// Upstream is the name of the upstream that the call goes to.
func (c *Call) Upstream() string { return c.flight.upstream.name }

// Request describes the call, whatever its protocol.
func (c *Call) Request() Request { return c.flight.exchange.Request() }

// Unconnected reports whether this attempt surely ended without a connection to the
// upstream, whatever ended it: a failure, a limit or the caller. It may be asked at
// [EventAttemptEnd] and in hooks. It is false where the protocol's adapter cannot know:
// for HTTP, over a round tripper that does not use net/http, and for plain http where neither
// a limit on time nor a retry policy makes a context for the attempt.
func (c *Call) Unconnected() bool {
	if c.outcome.Is.Any(ConnectFailure) {
		return true
	}
	x, ok := c.flight.exchange.(interface{ Unconnected(c *Call) bool })
	return ok && x.Unconnected(c)
}

// Context is the caller's context.
func (c *Call) Context() context.Context { return c.flight.ctx }

// Attempt is the number of this attempt, from 1.
func (c *Call) Attempt() int { return c.attempt }

// Attempts is how many attempts of the call have begun, refused ones included.
func (c *Call) Attempts() int { return c.flight.begun() }

// Endpoint is the address that this attempt goes to, as far as it is known: a
// policy that picks one said so, or somebody listens or asks with [WithInfo].
func (c *Call) Endpoint() string {
	if !c.flight.upstream.hedges {
		return c.endpoint
	}
	c.flight.naming.Lock()
	defer c.flight.naming.Unlock()
	return c.endpoint
}

// SetEndpoint is for whoever picks the address that this attempt goes to, before
// it is sent.
func (c *Call) SetEndpoint(address string) {
	if c.flight.upstream.hedges { // a policy outside may read it while another attempt has won
		c.flight.naming.Lock()
		defer c.flight.naming.Unlock()
	}
	c.endpoint = address
	c.flight.latest.Store(c)
}

// Idempotent reports whether the call may be sent twice without harm: its method
// is idempotent (RFC 9110, section 9.2.2), or the caller vouches for it with an
// Idempotency-Key or [WithIdempotent].
func (c *Call) Idempotent() bool {
	return c.flight.exchange.Idempotent() || c.flight.ctx.Value(idempotentKey{}) != nil
}

// Replayable reports whether the request can be sent once more: it has no body,
// or one that can be had again.
func (c *Call) Replayable() bool { return c.flight.exchange.Replayable() }

// RequestHeader returns the first value of a header of the caller's request, "" if it is
// absent.
func (c *Call) RequestHeader(name string) string {
	value, _ := firstOf(c.RequestHeaderValues(name))
	return value
}

// RequestHeaderValues returns the values of a header of the caller's request, one for
// each line in which it came: nil if it is absent, empty if it is present without a value.
// They must not be changed.
func (c *Call) RequestHeaderValues(name string) []string {
	return c.flight.exchange.RequestHeader(name)
}

// Header is this attempt's own request header, for changing: the caller's is
// copied when it is first asked for, and never touched.
func (c *Call) Header() Header { return c.flight.exchange.Header(c) }

// ResponseHeader returns the first value of a header of o's response, and whether it is
// present.
func (c *Call) ResponseHeader(o *Outcome, name string) (value string, ok bool) {
	return firstOf(c.ResponseHeaderValues(o, name))
}

// ResponseHeaderValues returns the values of a header of o's response, one for each line
// in which it came; nil if it is absent. They must not be changed.
func (c *Call) ResponseHeaderValues(o *Outcome, name string) []string {
	return c.flight.exchange.ResponseHeader(o, name)
}

func firstOf(values []string) (value string, ok bool) {
	if len(values) == 0 {
		return "", false
	}
	return values[0], true
}

// LimitTotal lets the call take no longer than d from now: all that is still to
// come of it, further attempts, back-offs and the body included. Of several limits
// the shortest holds; one of 292 years, as math.MaxInt64 nanoseconds are, is no limit.
func (c *Call) LimitTotal(d time.Duration) { c.limitTotal(d, false) }

// LimitClient limits a call that is served, as [Call.LimitTotal] does, to the time that
// its client named. Where that limit fires, the scope is [ScopeCaller], and the call does not
// count as a failure: a client must not be able to make the server look broken. It is for
// adapters.
func (c *Call) LimitClient(d time.Duration) { c.limitTotal(d, true) }

func (c *Call) limitTotal(d time.Duration, client bool) {
	deadline := after(c.flight.upstream.now(), d)
	if deadline != never && (c.limits.deadline == 0 || deadline < c.limits.deadline) {
		c.limits.deadline, c.limits.total, c.limits.client = deadline, d, client
	}
}

// totalScope is the scope of the limit that set the deadline.
func (l *limits) totalScope() Scope {
	if l.client {
		return ScopeCaller
	}
	return ScopeTotal
}

// LimitTry lets this attempt and those made from it take no longer than d each,
// until the answer's head. Of several limits the shortest holds.
func (c *Call) LimitTry(d time.Duration) { c.limits.try = shorter(c.limits.try, d) }

// LimitIdle lets this attempt and those made from it wait no longer than d for
// the answer's head, nor for any next part of its body. Of several limits the
// shortest holds.
func (c *Call) LimitIdle(d time.Duration) { c.limits.idle = shorter(c.limits.idle, d) }

func shorter(limit, d time.Duration) time.Duration {
	if d != never && (limit == 0 || d < limit) {
		return d
	}
	return limit
}

// Remaining is how much time the call has left, by its total limit and by the
// caller's deadline, and whether there is any such limit. It is negative when the
// time is over.
func (c *Call) Remaining() (left time.Duration, limited bool) {
	if deadline := c.deadline(); deadline != 0 {
		left, limited = deadline-c.flight.upstream.now(), true
	}
	if d, ok := c.flight.ctx.Deadline(); ok {
		if until := time.Until(d); !limited || until < left {
			left, limited = until, true
		}
	}
	return left, limited
}

// TryLimit is how long each attempt may take until its response headers. It is 0 without
// such a limit, and where the total limit is not longer, which is when Envoy ignores
// per_try_timeout.
func (c *Call) TryLimit() time.Duration {
	if l := &c.limits; l.total == 0 || l.try < l.total {
		return l.try
	}
	return 0
}

// LocalReplies reports whether callers get Envoy's response in the place of one that the
// upstream did not send: [HTTP] LocalReplies.
func (c *Call) LocalReplies() bool { return c.flight.upstream.http.LocalReplies }

// Refuse is the outcome of an attempt that a policy does not let through. It
// costs no allocation beyond err.
func (c *Call) Refuse(err error, detail *envoy.Detail) *Outcome {
	o := &c.outcome
	if c.flight.hedged() || c.tail.phase != phaseTry { // the attempt has been made, or is being made
		o = &Outcome{}
	}
	o.fail(err, Refused, detail)
	c.Emit(EventRefused, o)
	return o
}

// Next makes the following attempt of the same call, under the limits of this
// one, and with its request header. Attempts may run one after the other or beside each other; in the latter case
// each is made before the one that it is made from runs.
func (c *Call) Next() *Call {
	c.flight.forked.Store(true)
	next := c.flight.exchange.NewCall(c)
	next.flight, next.attempt, next.from, next.limits = c.flight, c.attempt+1, c, c.limits
	next.afterTimeout = c.outcome.Is.Any(PerTryTimeout)
	return next
}

// AcquireRetry asks for leave to send the call once more, and holds its place
// among the upstream's concurrent retries until release is called, back-off
// included. Without a policy that limits retries there is always leave.
func (c *Call) AcquireRetry() (release func(), ok bool) {
	limiter := c.flight.upstream.retries
	if limiter.acquire == nil {
		return func() {}, true
	}
	return limiter.release, limiter.acquire(c)
}
