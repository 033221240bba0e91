package policy

import (
	"context"
	"math"
	"sync/atomic"
	"time"

	"github.com/pillion-go/pillion/envoy"
)

// Call carries one request through the policies. Retry and hedge derive a further Call for each
// further attempt ([Call.Next]); policies outside them hold the first. All attempts of a call share
// the description of the request; each has its own limits, header, state and outcome.
//
// A Call belongs to the goroutine that runs its attempt. It must not be used after the end hooks
// have run. Adapters see it as an [Attempt].
type Call struct {
	frame        *Frame
	self         any           // the adapter's storage around this Call
	attempt      atomic.Int32  // a custom policy may end the call before the first attempt has begun
	from         *Call         // the attempt that this one was derived from; nil for the first
	drain        time.Duration // how long discarding the response may take; 0 for the default
	endpoint     string
	limits       limits
	outcome      Outcome
	hooks        hooks
	state        uint32      // until stateWatched: see the table in lifecycle.go
	afterTimeout bool        // the per-try timeout of the previous attempt fired
	upgraded     bool        // the caller owns the connection of the response: neither a limit nor the context of the request ends it
	stream       *Stream     // what outlives the attempt; nil if nothing does
	spare        *timer      // a stopped one; nil for none
	watched      bool        // the chain's sweep checks the response
	multiplexed  bool        // see SetMultiplexed
	watching     watching    // of the sweep
	isLate       func(*Call) // called when the attempt takes long: see beside.go; nil for none
	states       [3]State    // of the first slots; most chains need no others
	more         *[]State
}

// reset makes the first Call of a Frame ready for another call. While the garbage collector marks,
// writing a pointer costs more than comparing ten, and copying a struct with pointers still more. So
// reset writes only the pointers that are set. The hooks stay: they refer only to the chain and to
// this Call, and count hides them.
func (c *Call) reset() {
	c.number(1)
	c.drain, c.limits = 0, limits{}
	c.outcome.reset()
	c.state, c.afterTimeout, c.upgraded, c.watched, c.multiplexed, c.hooks.count = stateTrying, false, false, false, false, 0
	if c.endpoint != "" {
		c.endpoint = ""
	}
	if c.isLate != nil {
		c.isLate = nil
	}
	setNil(&c.stream)
	setNil(&c.hooks.more)
	setNil(&c.more)
	for i := range c.states {
		s := &c.states[i]
		if s.N = 0; s.V != nil {
			s.V = nil
		}
	}
}

// reused reports whether the storage of the call may be used for another one.
func (c *Call) reused() bool { return c.frame.storage != nil && !c.frame.forked.Load() }

// number sets the number of the attempt. It is usually right already, and a Store takes long.
func (c *Call) number(n int32) {
	if c.attempt.Load() != n {
		c.attempt.Store(n)
	}
}

func setNil[T any](p **T) {
	if *p != nil {
		*p = nil
	}
}

// limits holds how long an attempt may take; zero means no limit.
type limits struct {
	deadline time.Duration // on the chain's clock: when the total timeout fires
	total    time.Duration // the limit that set deadline
	try      time.Duration
	idle     time.Duration
	kind     Scope         // the scope of deadline; 0 for ScopeTotal
	quiet    Scope         // the scope of idle; 0 for ScopeIdle
	status   int           // the status of the local reply to a timeout; 0 for that of Envoy
	soft     time.Duration // after which isLate is called
	lenient  bool          // try ends no attempt: isLate is called
}

// never is an instant on the chain's clock that no timer reaches.
const never time.Duration = math.MaxInt64

// after returns the instant d after now, or never.
func after(now, d time.Duration) time.Duration { return now + min(d, never-now) }

// Slot identifies a policy's state in every Call of an upstream. [Builder.Slot] returns a new one.
type Slot int

// State is what a policy keeps in a Call between the start of an attempt and its end hook. Each
// attempt starts with the zero State.
type State struct {
	N int64
	V any
}

// State returns the state of slot in this attempt.
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

// Upstream returns the name of the upstream.
func (c *Call) Upstream() string { return c.frame.chain.name }

// Request describes the call, whatever its protocol.
func (c *Call) Request() Request { return c.frame.exchange.Request() }

// Unconnected reports whether this attempt certainly ended without a connection to the upstream,
// whatever ended it: a failure, a timeout or the caller. It may be called at [EventAttemptEnd] and
// in hooks. It is false if the protocol's adapter cannot know. For HTTP that is so over a round
// tripper that does not use net/http, and for plain http if neither a limit on time nor a retry
// policy asks for a context for each attempt.
func (c *Call) Unconnected() bool {
	if c.outcome.Has(ConnectFailure) {
		return true
	}
	x := c.frame.dials
	return x != nil && x.Unconnected((*Attempt)(c))
}

// Context returns the caller's context.
func (c *Call) Context() context.Context { return c.frame.ctx }

// Attempt returns the number of this attempt, from 1.
func (c *Call) Attempt() int { return int(c.attempt.Load()) }

// Attempts returns how many attempts of the call have begun, refused ones included.
func (c *Call) Attempts() int { return c.frame.Attempts() }

// Endpoint returns the address that this attempt goes to, "" if it is unknown. It is known if a
// policy picked the address, if the upstream has a listener, or if the caller used
// [pillion.WithInfo].
func (c *Call) Endpoint() string {
	if c.frame.mayRace() {
		return c.lockedEndpoint()
	}
	return c.endpoint
}

func (c *Call) lockedEndpoint() string {
	c.frame.naming.Lock()
	defer c.frame.naming.Unlock()
	return c.endpoint
}

// SetEndpoint sets the address that this attempt goes to. The policy or adapter that picks the
// address calls it before the attempt is sent.
func (c *Call) SetEndpoint(address string) {
	if c.frame.mayRace() { // a policy outside may read it while another attempt has won
		c.setLockedEndpoint(address)
	} else {
		c.endpoint = address
	}
	if c.frame.latest.Load() != c { // a Store takes long
		c.frame.latest.Store(c)
	}
}

func (c *Call) setLockedEndpoint(address string) {
	c.frame.naming.Lock()
	defer c.frame.naming.Unlock()
	c.endpoint = address
}

// Idempotent reports whether the call may be sent twice without harm: its method is idempotent (RFC
// 9110, section 9.2.2), or the caller says so with an Idempotency-Key or [pillion.WithIdempotent].
func (c *Call) Idempotent() bool {
	x, ok := c.frame.exchange.(Repeater)
	return ok && x.Idempotent() || c.frame.ctx.Value(idempotentKey{}) != nil
}

// Replayable reports whether the request can be sent once more: it has no body, or a body that can
// be read again.
func (c *Call) Replayable() bool {
	x, ok := c.frame.exchange.(Repeater)
	return ok && x.Replayable()
}

// Outgrown reports whether the request's body was to be kept for a retry but exceeds the limit.
func (c *Call) Outgrown() bool { return c.frame.chain.keeps > 0 && !c.Replayable() }

// RequestHeader returns the first value of a header of the caller's request, "" if it is absent.
func (c *Call) RequestHeader(name string) string {
	value, _ := firstOf(c.RequestHeaderValues(name))
	return value
}

// RequestHeaderValues returns the values of a header of the caller's request, one for each line in
// the request. It returns nil if the header is absent, and an empty slice if it is present without
// a value. The values must not be changed.
func (c *Call) RequestHeaderValues(name string) []string {
	return c.frame.exchange.RequestHeader(name)
}

// Header returns this attempt's own request header. It may be changed: the first call copies the
// caller's header, which stays as it is.
func (c *Call) Header() Header { return c.frame.exchange.Header((*Attempt)(c)) }

// ResponseHeader returns the first value of a header of o's response, and whether the header is
// present.
func (c *Call) ResponseHeader(o *Outcome, name string) (value string, ok bool) {
	return firstOf(c.ResponseHeaderValues(o, name))
}

// ResponseHeaderValues returns the values of a header of o's response, one for each line in the
// response, nil if it is absent. The values must not be changed.
func (c *Call) ResponseHeaderValues(o *Outcome, name string) []string {
	return c.frame.exchange.ResponseHeader(o, name)
}

func firstOf(values []string) (value string, ok bool) {
	if len(values) == 0 {
		return "", false
	}
	return values[0], true
}

// LimitTotal limits the rest of the call to d from now: further attempts, back-offs and the body
// included. The shortest of several limits applies. math.MaxInt64 means no limit.
func (c *Call) LimitTotal(d time.Duration) { c.limitTotal(d, ScopeTotal) }

func (c *Call) limitTotal(d time.Duration, kind Scope) {
	deadline := after(c.frame.chain.now(), d)
	if deadline != never && (c.limits.deadline == 0 || deadline < c.limits.deadline) {
		c.limits.deadline, c.limits.total, c.limits.kind = deadline, d, kind
	}
}

// totalScope is the scope of the limit that set the deadline.
func (l *limits) totalScope() Scope {
	if l.kind != 0 {
		return l.kind
	}
	return ScopeTotal
}

// LimitPerTry limits this attempt, and each attempt derived from it, to d until the response
// headers. The shortest of several limits applies.
func (c *Call) LimitPerTry(d time.Duration) { c.limits.try = shorter(c.limits.try, d) }

// LimitIdle limits how long this attempt, and each attempt derived from it, waits for the response
// headers and for each next part of the body. The shortest of several limits applies.
func (c *Call) LimitIdle(d time.Duration) { c.limitIdle(d, ScopeIdle) }

func (c *Call) limitIdle(d time.Duration, quiet Scope) {
	if l := &c.limits; shorter(l.idle, d) != l.idle {
		l.idle, l.quiet = d, quiet
	}
}

func shorter(limit, d time.Duration) time.Duration {
	if d != never && (limit == 0 || d < limit) {
		return d
	}
	return limit
}

// Remaining returns how much time the call has left until its total limit or the caller's deadline,
// whichever is earlier, and whether there is such a limit. It is negative after that.
func (c *Call) Remaining() (left time.Duration, limited bool) { return c.remaining(c.deadline()) }

// remaining is Remaining for a limit that fires at deadline, 0 for none.
func (c *Call) remaining(deadline time.Duration) (left time.Duration, limited bool) {
	if deadline != 0 {
		left, limited = deadline-c.frame.chain.now(), true
	}
	if d, ok := c.frame.ctx.Deadline(); ok {
		if until := time.Until(d); !limited || until < left {
			left, limited = until, true
		}
	}
	return left, limited
}

// PerTryLimit returns how long each attempt may take until its response headers. It is 0 if there
// is no such limit, or if the total limit is not longer, in which case Envoy ignores
// per_try_timeout.
func (c *Call) PerTryLimit() time.Duration {
	if l := &c.limits; l.total == 0 || l.try < l.total {
		return l.try
	}
	return 0
}

// Refuse returns the outcome of an attempt that a policy refuses. It does not allocate before the
// attempt has run.
func (c *Call) Refuse(err error, detail *envoy.Detail) *Outcome {
	o := &c.outcome
	if c.frame.hedged() || c.state != stateTrying { // the attempt has run or is running
		o = &Outcome{}
	}
	o.fail(err, Refused, detail)
	c.Emit(EventRefused, o)
	return o
}

// Next derives the next attempt of the same call. It starts with the limits and the request header
// of this one. Attempts may run one after the other or concurrently; in the latter case each must
// be derived before the attempt that it is derived from runs.
func (c *Call) Next() *Call {
	c.frame.forked.Store(true)
	next := c.successor()
	next.frame, next.from, next.limits = c.frame, c, c.limits
	next.number(c.attempt.Load() + 1)
	next.isLate = c.isLate
	if !c.frame.mayRace() { // then c has run
		next.spare, c.spare = c.spare, nil
	}
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

// discard discards the open response of the attempt.
func (c *Call) discard(o *Outcome) {
	if x, ok := c.frame.exchange.(Discarder); ok {
		x.Discard((*Attempt)(c), o)
	} else {
		(*Attempt)(c).Drop()
	}
}

// Messages returns how many messages the caller has sent and received so far. It returns 0, 0 for a
// protocol without messages.
func (c *Call) Messages() (sent, received uint64) {
	if x, ok := c.frame.exchange.(MessageCounter); ok {
		return x.Messages()
	}
	return 0, 0
}

// GRPCStatus returns the gRPC status code that the caller receives for o. The adapter decides it.
// For a protocol other than gRPC it is the code that Envoy would send.
func (c *Call) GRPCStatus(o *Outcome) int {
	if x, ok := c.frame.exchange.(GRPCCoder); ok {
		return x.GRPCStatus(o)
	}
	return o.GRPCStatus(false)
}

// RetriesLimited reports whether a policy limits concurrent retries ([Builder.LimitRetries]).
func (c *Call) RetriesLimited() bool { return c.frame.chain.retries.acquire != nil }

// AcquireRetry asks for a slot among the upstream's concurrent retries. If it is ok, the call holds
// the slot until release is called, back-off included. It is always ok if no policy limits retries.
func (c *Call) AcquireRetry() (release func(), ok bool) {
	limiter := c.frame.chain.retries
	if limiter.acquire == nil {
		return func() {}, true
	}
	return limiter.release, limiter.acquire(c)
}
