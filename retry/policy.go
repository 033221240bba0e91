package retry

import (
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// envoyRule is a compiled Config.
type envoyRule struct {
	on             conditions
	when           func(*policy.Outcome) bool // nil if none
	refused        bool
	most           int
	statusCodes    []int
	headers        []envoy.Matcher
	requestHeaders []envoy.Matcher
	base, max      time.Duration
	source         func() backoff.BackOff
	reset          []ResetHeader
	maxReset       time.Duration
	random         func() float64
}

// again applies the conditions and When.
func (p *envoyRule) again(c *policy.Call, o *policy.Outcome) bool {
	switch {
	case o.Conditions == 0 && p.byConditions():
		return false // first, because it is cheap and most outcomes are plain successes
	case o.Has(policy.Cancelled | policy.Invalid):
		return false
	case o.Has(policy.Refused):
		return p.refused && p.eligible(c)
	case !p.byWords(c, o) && !p.byWhen(o):
		return false
	case !p.eligible(c):
		return false
	}
	_, _, stop := pushback(c, o)
	return !stop
}

// byConditions reports whether only the conditions of an outcome can cause a retry.
func (p *envoyRule) byConditions() bool {
	return p.when == nil && !p.on.statusCodes && !p.on.headers && !p.on.rateLimited && !p.on.is.Any(byGRPC)
}

// byWords applies the conditions of On. For a response with x-envoy-ratelimited only
// envoy-ratelimited counts.
func (p *envoyRule) byWords(c *policy.Call, o *policy.Outcome) bool {
	matches := p.matches(c, o)
	if !matches && !p.on.rateLimited {
		return false
	}
	if c.ResponseHeaderValues(o, envoy.RateLimitedHeader) != nil {
		return p.on.rateLimited
	}
	return matches
}

// byWhen applies When, unless the call is out of time.
func (p *envoyRule) byWhen(o *policy.Outcome) bool { return p.when != nil && !timeOver(o) && p.when(o) }

// pushback returns the wait that a gRPC server asks for, which replaces any other wait. stop
// reports whether the server asks not to retry; an invalid value means the same. Mirrors
// grpc-retry-pushback-ms of gRPC's proposal A6.
func pushback(c *policy.Call, o *policy.Outcome) (wait time.Duration, asked, stop bool) {
	if o.Detail != envoy.ViaUpstream || c.Request().Protocol != policy.ProtocolGRPC {
		return 0, false, false
	}
	values := c.ResponseHeaderValues(o, "grpc-retry-pushback-ms")
	if len(values) != 1 {
		return 0, len(values) > 1, len(values) > 1
	}
	ms, err := strconv.ParseUint(values[0], 10, 31)
	return time.Duration(ms) * time.Millisecond, true, err != nil
}

// matches reports whether o meets a condition.
func (p *envoyRule) matches(c *policy.Call, o *policy.Outcome) bool {
	return o.Has(p.on.is) ||
		(p.on.statusCodes && slices.Contains(p.statusCodes, o.Code)) ||
		(p.on.headers && hasHead(c, o) && anyMatches(p.headers, func(name string) []string {
			return c.ResponseHeaderValues(o, name)
		})) ||
		(p.on.is.Any(byGRPC) && grpcStatus(c, o).Any(p.on.is))
}

// grpcStatus returns the condition of a gRPC status in the response headers, 0 if none.
func grpcStatus(c *policy.Call, o *policy.Outcome) policy.Condition {
	if !hasHead(c, o) {
		return 0
	}
	values := c.ResponseHeaderValues(o, envoy.GRPCStatusHeader)
	if len(values) != 1 {
		return 0
	}
	code, _ := strconv.Atoi(values[0]) // 0, which is no condition, if it is no number
	return policy.GRPCCondition(code)
}

// hasHead reports whether there are response headers. Without a response, and for a function, an
// inverted matcher must not match a missing header.
func hasHead(c *policy.Call, o *policy.Outcome) bool {
	return o.Detail == envoy.ViaUpstream && c.Request().Protocol != policy.ProtocolFunc
}

// concerns reports whether any outcome of the call could be retried.
func (p *envoyRule) concerns(c *policy.Call) bool {
	return (p.on.some() || p.when != nil) && p.eligible(c)
}

// hedges reports whether the call may be hedged. As in Envoy, RetriableRequestHeaders have no say.
func (p *envoyRule) hedges(c *policy.Call) bool {
	return (p.on.some() || p.when != nil) && p.permits(c)
}

// permits reports whether the request is safe to repeat, if that is a condition.
func (p *envoyRule) permits(c *policy.Call) bool { return !p.on.idempotent || c.Idempotent() }

// eligible reports whether the request may be retried, whatever its outcome.
func (p *envoyRule) eligible(c *policy.Call) bool {
	return p.permits(c) && (len(p.requestHeaders) == 0 || anyMatches(p.requestHeaders, c.RequestHeaderValues))
}

// begin returns the number of retries and the source of the call's waits.
func (p *envoyRule) begin(c *policy.Call) (most int, wait waiter) {
	next := p.exponential
	if source := p.newSource(); source != nil {
		source.Reset()
		next = func(int) (time.Duration, bool) {
			d := source.NextBackOff()
			return d, d != backoff.Stop
		}
	}
	return p.most, func(n int, o *policy.Outcome) (policy.BackOff, bool) {
		if d, ok, _ := pushback(c, o); ok {
			return policy.BackOff{Wait: d, RateLimited: true}, true
		}
		if d, ok := p.asked(c, o); ok {
			return policy.BackOff{Wait: d, RateLimited: true}, true
		}
		d, ok := next(n)
		return policy.BackOff{Wait: d}, ok
	}
}

func (p *envoyRule) newSource() backoff.BackOff {
	if p.source == nil {
		return nil
	}
	return p.source()
}

// exponential returns Envoy's jittered back-off before retry n.
func (p *envoyRule) exponential(n int) (wait time.Duration, ok bool) {
	ceiling := p.max
	if shift := n - 1; p.base <= p.max>>shift { // so that the product does not overflow
		ceiling = p.base << shift
	}
	return time.Duration(p.random() * float64(ceiling)), true
}

// asked returns the wait that a response asks for.
func (p *envoyRule) asked(c *policy.Call, o *policy.Outcome) (wait time.Duration, ok bool) {
	for _, h := range p.reset {
		value, there := c.ResponseHeader(o, h.Name)
		if !there {
			continue
		}
		if wait, ok = h.Format.parse(value, time.Now()); ok && wait <= p.maxReset {
			return p.spread(wait), true
		}
	}
	return 0, false
}

// spread adds up to a half to a wait that a response asked for, so that callers with the same
// wait do not retry at the same instant.
func (p *envoyRule) spread(wait time.Duration) time.Duration {
	extra := time.Duration(float64(wait/2) * p.random())
	return wait + min(extra, math.MaxInt64-wait)
}

func (p *envoyRule) waited(int, *policy.Outcome) {}
