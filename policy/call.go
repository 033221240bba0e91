package policy

import (
	"context"
	"math"
	"time"

	"github.com/pillion-go/pillion/envoy"
)

// Call carries one request through the policies. Retry and hedge derive a further Call for each
// further attempt ([Call.Next]); policies outside them hold the first. The attempts of a call
// share what is said of the request; limits, header, state and outcome are each attempt's own.
//
// A Call belongs to the goroutine that runs its attempt; it must not be kept after
// the end hooks ran. Adapters see it as an [Attempt].
type Call struct {
	frame        *Frame
	self         any // the adapter's own storage around this Call
	attempt      int
	from         *Call         // the attempt that this one was made from; nil for the first
	drain        time.Duration // how long discarding the response may take; 0 for the default
	endpoint     string
	limits       limits
	outcome      Outcome
	hooks        hooks
	state        uint32      // until stateWatched: see the table in lifecycle.go
	afterTimeout bool        // the attempt before ran into its timeout
	stream       *Stream     // what outlives the attempt; nil where nothing does
	isLate       func(*Call) // called when the attempt takes long: see beside.go; nil for none
	states       [3]State    // of the first slots; most chains need no more
	more         *[]State
}

// limits holds how long an attempt may take; zero is no limit.
type limits struct {
	deadline time.Duration // on the upstream's clock: when the total limit strikes
	total    time.Duration // the limit that set deadline
	try      time.Duration
	idle     time.Duration
	client   bool          // deadline was named by the client of a server
	soft     time.Duration // after which isLate is called
	lenient  bool          // try ends no attempt: isLate is called
}

// never is an instant on the upstream's clock that no timer reaches.
const never time.Duration = math.MaxInt64

// after returns the instant d after now, or never.
func after(now, d time.Duration) time.Duration { return now + min(d, never-now) }

// Slot is a place for a policy's own state in every Call of an upstream.
// [Builder.Slot] gives it out.
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
		more := make([]State, c.frame.chain.slots-len(c.states))
		c.more = &more
	}
	return &(*c.more)[int(slot)-len(c.states)]
}

// Upstream is the name of the upstream that the call goes to.
func (c *Call) Upstream() string { return c.frame.chain.name }

// Request describes the call, whatever its protocol.
func (c *Call) Request() Request { return c.frame.exchange.Request() }

// Unconnected reports whether this attempt surely ended without a connection to the
// upstream, whatever ended it: a failure, a limit or the caller. It may be asked at
// [EventAttemptEnd] and in hooks. It is false where the protocol's adapter cannot know:
// for HTTP, over a round tripper that does not use net/http, and for plain http where neither
// a limit on time nor a retry policy makes a context for the attempt.
func (c *Call) Unconnected() bool {
	if c.outcome.Has(ConnectFailure) {
		return true
	}
	x, ok := c.frame.exchange.(ConnectionObserver)
	return ok && x.Unconnected((*Attempt)(c))
}

// Context is the caller's context.
func (c *Call) Context() context.Context { return c.frame.ctx }

// Attempt is the number of this attempt, from 1.
func (c *Call) Attempt() int { return c.attempt }

// Attempts is how many attempts of the call have begun, refused ones included.
func (c *Call) Attempts() int { return c.frame.Attempts() }

// Endpoint is the address that this attempt goes to, as far as it is known: a
// policy that picks one said so, or somebody listens or asks with [pillion.WithInfo].
func (c *Call) Endpoint() string {
	if !c.frame.mayRace() {
		return c.endpoint
	}
	c.frame.naming.Lock()
	defer c.frame.naming.Unlock()
	return c.endpoint
}

// SetEndpoint is for whoever picks the address that this attempt goes to, before
// it is sent.
func (c *Call) SetEndpoint(address string) {
	if c.frame.mayRace() { // a policy outside may read it while another attempt has won
		c.frame.naming.Lock()
		defer c.frame.naming.Unlock()
	}
	c.endpoint = address
	c.frame.latest.Store(c)
}

// Idempotent reports whether the call may be sent twice without harm: its method
// is idempotent (RFC 9110, section 9.2.2), or the caller vouches for it with an
// Idempotency-Key or [pillion.WithIdempotent].
func (c *Call) Idempotent() bool {
	x, ok := c.frame.exchange.(Repeater)
	return ok && x.Idempotent() || c.frame.ctx.Value(idempotentKey{}) != nil
}

// Replayable reports whether the request can be sent once more: it has no body,
// or one that can be had again.
func (c *Call) Replayable() bool {
	x, ok := c.frame.exchange.(Repeater)
	return ok && x.Replayable()
}

// Outgrown reports whether the request's body was to be kept for a retry, but is larger than
// what is kept.
func (c *Call) Outgrown() bool { return c.frame.chain.keeps > 0 && !c.Replayable() }

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
	return c.frame.exchange.RequestHeader(name)
}

// Header is this attempt's own request header, for changing: the caller's is
// copied when it is first asked for, and never touched.
func (c *Call) Header() Header { return c.frame.exchange.Header((*Attempt)(c)) }

// ResponseHeader returns the first value of a header of o's response, and whether it is
// present.
func (c *Call) ResponseHeader(o *Outcome, name string) (value string, ok bool) {
	return firstOf(c.ResponseHeaderValues(o, name))
}

// ResponseHeaderValues returns the values of a header of o's response, one for each line
// in which it came; nil if it is absent. They must not be changed.
func (c *Call) ResponseHeaderValues(o *Outcome, name string) []string {
	return c.frame.exchange.ResponseHeader(o, name)
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

func (c *Call) limitTotal(d time.Duration, client bool) {
	deadline := after(c.frame.chain.now(), d)
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
func (c *Call) LimitPerTry(d time.Duration) { c.limits.try = shorter(c.limits.try, d) }

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
		left, limited = deadline-c.frame.chain.now(), true
	}
	if d, ok := c.frame.ctx.Deadline(); ok {
		if until := time.Until(d); !limited || until < left {
			left, limited = until, true
		}
	}
	return left, limited
}

// TryLimit is how long each attempt may take until its response headers. It is 0 without
// such a limit, and where the total limit is not longer, which is when Envoy ignores
// per_try_timeout.
func (c *Call) PerTryLimit() time.Duration {
	if l := &c.limits; l.total == 0 || l.try < l.total {
		return l.try
	}
	return 0
}

// Refuse is the outcome of an attempt that a policy does not let through. It
// costs no allocation beyond err.
func (c *Call) Refuse(err error, detail *envoy.Detail) *Outcome {
	o := &c.outcome
	if c.frame.hedged() || c.state != stateTrying { // the attempt has been made, or is being made
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
	c.frame.forked.Store(true)
	next := c.successor()
	next.frame, next.attempt, next.from, next.limits = c.frame, c.attempt+1, c, c.limits
	next.isLate = c.isLate
	next.afterTimeout = c.outcome.Has(PerTryTimeout)
	return next
}

func (c *Call) successor() *Call {
	if x, ok := c.frame.exchange.(Successor); ok {
		next := (*Call)(x.NewAttempt((*Attempt)(c)))
		if next == nil || next.frame != nil {
			panic("policy: Successor.NewAttempt returned nil, or an Attempt that was used before")
		}
		return next
	}
	return &Call{}
}

// discard discards the open response of the attempt, which will not be read.
func (c *Call) discard(o *Outcome) {
	if x, ok := c.frame.exchange.(Discarder); ok {
		x.Discard((*Attempt)(c), o)
	} else {
		(*Attempt)(c).Drop()
	}
}

// Messages is how many messages the caller has sent and received so far, for protocols that know
// of messages.
func (c *Call) Messages() (sent, received uint64) {
	if x, ok := c.frame.exchange.(MessageCounter); ok {
		return x.Messages()
	}
	return 0, 0
}

// GRPCStatus is the gRPC status code that the caller gets for o. The adapter decides it; of other
// protocols than gRPC it is what Envoy would reply.
func (c *Call) GRPCStatus(o *Outcome) int {
	if x, ok := c.frame.exchange.(GRPCCoder); ok {
		return x.GRPCStatus(o)
	}
	return o.GRPCStatus(false)
}

// RetriesLimited reports whether a policy limits concurrent retries ([Builder.LimitRetries]).
func (c *Call) RetriesLimited() bool { return c.frame.chain.retries.acquire != nil }

// AcquireRetry asks for leave to send the call once more, and holds its place
// among the upstream's concurrent retries until release is called, back-off
// included. Without a policy that limits retries there is always leave.
func (c *Call) AcquireRetry() (release func(), ok bool) {
	limiter := c.frame.chain.retries
	if limiter.acquire == nil {
		return func() {}, true
	}
	return limiter.release, limiter.acquire(c)
}
