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

// envoyRule is a Config that is ready for use: Envoy's rules.
type envoyRule struct {
	on             conditions
	when           func(*policy.Outcome) bool // nil for none
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

// again applies the conditions.
func (p *envoyRule) again(c *policy.Call, o *policy.Outcome) bool {
	switch {
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

// byWords applies the words. A response with x-envoy-ratelimited is a matter of
// envoy-ratelimited alone.
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

// byWhen asks the program, unless the time of the call is over.
func (p *envoyRule) byWhen(o *policy.Outcome) bool { return p.when != nil && !timeOver(o) && p.when(o) }

// pushback is what a gRPC server asks of those who would try again: a wait, which
// takes the place of every other, or that they stop, which is also what a value means that
// cannot be read. Mirrors grpc-retry-pushback-ms of gRPC's proposal A6.
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

// matches reports whether o meets one of the conditions.
func (p *envoyRule) matches(c *policy.Call, o *policy.Outcome) bool {
	return o.Has(p.on.is) ||
		(p.on.statusCodes && slices.Contains(p.statusCodes, o.Code)) ||
		(p.on.headers && hasHead(c, o) && anyMatches(p.headers, func(name string) []string {
			return c.ResponseHeaderValues(o, name)
		})) ||
		(p.on.is.Any(byGRPC) && grpcStatus(c, o).Any(p.on.is))
}

// grpcStatus reads the gRPC status of an HTTP response that has nothing but headers.
func grpcStatus(c *policy.Call, o *policy.Outcome) policy.Condition {
	if !hasHead(c, o) {
		return 0
	}
	values := c.ResponseHeaderValues(o, envoy.GRPCStatusHeader)
	if len(values) != 1 {
		return 0
	}
	code, _ := strconv.Atoi(values[0]) // what is no number is no status either
	return policy.GRPCCondition(code)
}

// hasHead reports whether there are response headers. An inverted matcher must not find
// its header missing where there was no response, or where a function was called.
func hasHead(c *policy.Call, o *policy.Outcome) bool {
	return o.Detail == envoy.ViaUpstream && c.Request().Protocol != policy.ProtocolFunc
}

// concerns reports whether any outcome of the call could be retried.
func (p *envoyRule) concerns(c *policy.Call) bool {
	return (p.on.some() || p.when != nil) && p.eligible(c)
}

// eligible reports whether the call may be retried at all.
func (p *envoyRule) eligible(c *policy.Call) bool {
	if p.on.idempotent && !c.Idempotent() {
		return false
	}
	return len(p.requestHeaders) == 0 || anyMatches(p.requestHeaders, c.RequestHeaderValues)
}

// begin finds the source of the call's waits.
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

// exponential is Envoy's jittered back-off before retry n.
func (p *envoyRule) exponential(n int) (wait time.Duration, ok bool) {
	ceiling := p.max
	if shift := n - 1; p.base <= p.max>>shift { // and so the product does not overflow
		ceiling = p.base << shift
	}
	return time.Duration(p.random() * float64(ceiling)), true
}

// asked is the wait that an answer asks for.
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

// spread adds up to a half to a wait that was asked for, so that callers who were
// asked for the same do not come back at once.
func (p *envoyRule) spread(wait time.Duration) time.Duration {
	extra := time.Duration(float64(wait/2) * p.random())
	return wait + min(extra, math.MaxInt64-wait)
}

func (p *envoyRule) waited(int, *policy.Outcome) {}
