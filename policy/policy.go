package policy

import (
	"context"
	"fmt"
	"net/textproto"
	"slices"
)

// Func makes one attempt of a call, or all of them, as far as the policies inside
// it go.
type Func func(ctx context.Context, c *Call) *Outcome

// Policy is one rule that the calls of an upstream are put under. The
// configurations of the policy packages are policies; so is whatever a program
// writes itself.
type Policy interface {
	// Wrap puts the policy around next. It is called once for each upstream, inner
	// policies before outer ones, and reports all that is wrong with the policy's
	// configuration. What each call needs is prepared here: state slots, hooks.
	Wrap(s *Builder, next Func) (Func, error)
}

// Role tells New what a policy does to calls, so that an order that makes no
// sense can be refused. A policy without a role may stand anywhere. One that calls
// next more than once for a call, with [Call.Next], must have a repeating role
// (RoleRetry, RoleHedge), or its attempts are not counted.
type Role uint8

// The roles whose place matters.
const (
	RoleNone    Role = iota
	RoleMetrics      // counts calls and attempts
	RoleTracing      // draws calls and attempts
	RoleTotal        // limits the time of the whole call
	RoleRetry        // retries a call
	RoleHedge        // retries a call before the first attempt has ended
	RoleLimits       // holds a slot for each attempt
	RoleBreaker      // judges each attempt
)

// String names the role in a word or two.
func (r Role) String() string {
	names := [...]string{"none", "metrics", "tracing", "total timeout", "retry", "hedge", "limits", "breaker"}
	if int(r) >= len(names) {
		return fmt.Sprintf("Role(%d)", uint8(r))
	}
	return names[r]
}

// repeats reports whether the role sends calls again.
func (r Role) repeats() bool { return r == RoleRetry || r == RoleHedge }

// Placed is a [Policy] whose place among the others matters.
type Placed interface {
	Policy
	Role() Role
}

// Yielding is a [Placed] policy that may have its role by a default alone. Where another
// policy of the same role does not have it by default, New puts the policy of Yield in its place.
type Yielding interface {
	Placed
	// Yield returns the policy without its role. It is ok where the role is a default.
	Yield() (without Policy, ok bool)
}

// yield replaces policies whose role is a default, where another one has that role.
func yield(policies []Policy) {
	for i, p := range policies {
		without, ok := yielded(p)
		if ok && slices.ContainsFunc(policies, func(q Policy) bool {
			_, byDefault := yielded(q)
			return roleOf(q) == roleOf(p) && !byDefault
		}) {
			policies[i] = without
		}
	}
}

func yielded(p Policy) (without Policy, ok bool) {
	if y, is := p.(Yielding); is {
		return y.Yield()
	}
	return nil, false
}

// AnyOrder is a Policy that does nothing but allow an order of policies that New
// would refuse.
type AnyOrder struct{}

// Wrap returns next.
func (AnyOrder) Wrap(_ *Builder, next Func) (Func, error) { return next, nil }

// misplaced says why inside must not stand anywhere inside outside, "" if it may.
func misplaced(outside, inside Role) string {
	switch {
	case outside == inside && outside.repeats():
		return "would multiply the attempts"
	case outside == inside && outside == RoleTotal:
		return "would set the limits twice"
	case outside == inside && outside == RoleLimits:
		return "would hold two slots for each attempt"
	case outside == RoleHedge && inside == RoleRetry:
		return "would multiply the attempts"
	case !inside.repeats() && !outside.repeats():
		return ""
	case outside == RoleLimits:
		return "would hold its place during back-offs, and need a second one for nothing"
	case outside == RoleBreaker:
		return "would hide failed attempts from the breaker"
	case outside.repeats() && inside == RoleTotal:
		return "would limit each attempt, not the call"
	case outside.repeats() && (inside == RoleMetrics || inside == RoleTracing):
		return "would see attempts and take them for calls"
	}
	return ""
}

// checkOrder reports each pair of policies that stands in an order that makes
// no sense.
func checkOrder(policies []Policy) []error {
	if slices.ContainsFunc(policies, isAnyOrder) {
		return nil
	}
	var bad []error
	for i, p := range policies {
		for _, q := range policies[i+1:] {
			outer, inner := roleOf(p), roleOf(q)
			if why := misplaced(outer, inner); why != "" {
				bad = append(bad, fmt.Errorf("pillion: order: %v outside %v %s; put AnyOrder among the policies if you mean it",
					outer, inner, why))
			}
		}
	}
	return bad
}

func isAnyOrder(p Policy) bool {
	switch p.(type) {
	case AnyOrder, *AnyOrder:
		return true
	}
	return false
}

func roleOf(p Policy) Role {
	if placed, ok := p.(Placed); ok {
		return placed.Role()
	}
	return RoleNone
}

// Site is where a policy is being put.
type Builder struct {
	chain *Chain
}

// Upstream is the name of the upstream.
func (s *Builder) Upstream() string { return s.chain.name }

// Slot gives the policy a place for its own state in every Call.
func (s *Builder) Slot() Slot {
	s.chain.slots++
	return Slot(s.chain.slots - 1)
}

// Listen has listener hear what happens to the upstream's calls.
func (s *Builder) Listen(listener Listener) {
	s.chain.listeners = append(s.chain.listeners, listener)
}

// LimitRetries registers a limit of concurrent retries: acquire is called before each
// retry, with the attempt that failed, and release when the retry's response headers arrive. The
// last policy to register limits, in place of a retry policy's own budget.
func (s *Builder) LimitRetries(acquire func(failed *Call) bool, release func()) {
	s.chain.retries = retryLimiter{acquire, release}
}

// LimitsRetries reports whether a policy inside this one limits concurrent retries
// ([Builder.LimitRetries]). For a call, [Call.RetriesLimited] knows of all policies.
func (s *Builder) LimitsRetries() bool { return s.chain.retries.acquire != nil }

// KeepBodies says that adapters keep so many bytes of a request body that cannot be had again, for
// a retry.
func (s *Builder) KeepBodies(bytes int64) { s.chain.keeps = bytes }

// Prepare has prepare called before each attempt of a client goes to the wire, to add to its
// request header what the next hop is told.
func (s *Builder) Prepare(prepare func(a *Attempt)) {
	s.chain.preparers = append(s.chain.preparers, prepare)
}

// Claim reports whether key is new to the upstream. It is false where a policy inside this
// one has claimed the same key, so that a policy can refuse to stand twice. The key is
// comparable, and of a type of the policy's own package.
func (s *Builder) Claim(key any) bool {
	ch := s.chain
	if _, taken := ch.claims[key]; taken {
		return false
	}
	if ch.claims == nil {
		ch.claims = map[any]struct{}{}
	}
	ch.claims[key] = struct{}{}
	return true
}

// Gauge offers a number for statistics, such as how many places are left: name is
// Envoy's, after "cluster.<name>.". It is read whenever somebody looks, so read must be
// fast and safe for concurrent use.
func (s *Builder) Gauge(name string, read func() uint64) {
	s.chain.gauges = append(s.chain.gauges, gauge{name, read})
}

// Gauges hands the gauges of the policies inside this one to show, which is how a
// policy that shows statistics finds them.
func (s *Builder) Gauges(show func(name string, read func() uint64)) {
	for _, g := range s.chain.gauges {
		show(g.name, g.read)
	}
}

// AwaitHead asks that response headers be waited for also of a stream: the policy acts on them.
// Policies that send calls again need not ask.
func (s *Builder) AwaitHead() { s.chain.awaitsHead = true }

// gauge is a number that a policy offers.
type gauge struct {
	name string
	read func() uint64
}

// NeedCancel asks that each attempt have a context of its own, so that its answer
// can be discarded without waiting for a slow rest of it.
func (s *Builder) NeedCancel() { s.chain.cancellable = true }

// AnnounceDeadline has each attempt tell the server how long it will be waited
// for, in x-envoy-expected-rq-timeout-ms.
func (s *Builder) AnnounceDeadline() { s.chain.announce = true }

// ConsumeHeaders keeps request headers that a policy obeys from the upstream.
func (s *Builder) ConsumeHeaders(names ...string) {
	for _, name := range names {
		s.chain.consumed = append(s.chain.consumed, textproto.CanonicalMIMEHeaderKey(name))
	}
}

// retryLimiter asks leave for retries.
type retryLimiter struct {
	acquire func(failed *Call) bool
	release func()
}
