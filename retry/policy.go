package retry

import (
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/pillion-go/pillion"
)

// policy is a Config made ready: Envoy's rules.
type policy struct {
	on             conditions
	idempotent     bool // only calls that may be sent twice
	refused        bool
	most           int
	statusCodes    []int
	headers        []matcher
	requestHeaders []matcher
	base, max      time.Duration
	source         func() backoff.BackOff
	reset          []ResetHeader
	maxReset       time.Duration
	random         func() float64
}

// again applies the conditions. An answer with x-envoy-ratelimited is a matter of
// envoy-ratelimited alone.
func (p *policy) again(c *pillion.Call, o *pillion.Outcome) bool {
	switch {
	case o.Is.Any(pillion.Cancelled | pillion.Invalid):
		return false
	case o.Is.Any(pillion.Refused):
		return p.refused && p.eligible(c)
	case !p.on.rateLimited && !p.matches(c, o):
		return false
	case !p.eligible(c):
		return false
	}
	if _, _, stop := pushback(c, o); stop {
		return false
	}
	if _, limited := c.ResponseHeader(o, "X-Envoy-Ratelimited"); limited {
		return p.on.rateLimited
	}
	return p.matches(c, o)
}

// pushback is what a gRPC server asks of those who would try again: a wait, which
// takes the place of every other, or that they stop, which is also what a value means that
// cannot be read. Mirrors grpc-retry-pushback-ms of gRPC's proposal A6.
func pushback(c *pillion.Call, o *pillion.Outcome) (wait time.Duration, asked, stop bool) {
	if o.Detail != pillion.ViaUpstream || c.Request().Protocol != "grpc" {
		return 0, false, false
	}
	value, asked := c.ResponseHeader(o, "grpc-retry-pushback-ms")
	if !asked {
		return 0, false, false
	}
	ms, err := strconv.ParseUint(value, 10, 31)
	return time.Duration(ms) * time.Millisecond, true, err != nil
}

// matches reports whether o meets one of the conditions.
func (p *policy) matches(c *pillion.Call, o *pillion.Outcome) bool {
	return o.Is.Any(p.on.is) ||
		(p.on.statusCodes && slices.Contains(p.statusCodes, o.Code)) ||
		(p.on.headers && hasHead(c, o) && anyMatches(p.headers, func(name string) (string, bool) {
			return c.ResponseHeader(o, name)
		})) ||
		(p.on.is.Any(byGRPC) && grpcStatus(c, o).Any(p.on.is))
}

// grpcStatus reads the gRPC status of an HTTP answer that has nothing but a head.
func grpcStatus(c *pillion.Call, o *pillion.Outcome) pillion.Condition {
	if !hasHead(c, o) {
		return 0
	}
	value, ok := c.ResponseHeader(o, "Grpc-Status")
	if !ok {
		return 0
	}
	code, _ := strconv.Atoi(value) // what is no number is no status either
	return pillion.GRPCCondition(code)
}

// hasHead reports whether there is a header to match. A matcher that is inverted
// must not find it missing where nothing was answered, or a function was called.
func hasHead(c *pillion.Call, o *pillion.Outcome) bool {
	return o.Detail == pillion.ViaUpstream && c.Request().Protocol != "func"
}

// eligible reports whether the call may be retried at all.
func (p *policy) eligible(c *pillion.Call) bool {
	if p.idempotent && !c.Idempotent() {
		return false
	}
	return len(p.requestHeaders) == 0 || anyMatches(p.requestHeaders, func(name string) (string, bool) {
		value := c.RequestHeader(name)
		return value, value != ""
	})
}

// begin finds the source of the call's waits.
func (p *policy) begin(c *pillion.Call) (most int, wait waiter) {
	next := p.exponential
	if p.source != nil {
		source := p.source()
		source.Reset()
		next = func(int) (time.Duration, bool) {
			d := source.NextBackOff()
			return d, d != backoff.Stop
		}
	}
	return p.most, func(n int, o *pillion.Outcome) (pillion.BackOff, bool) {
		if d, ok, _ := pushback(c, o); ok {
			return pillion.BackOff{Wait: d, RateLimited: true}, true
		}
		if d, ok := p.asked(c, o); ok {
			return pillion.BackOff{Wait: d, RateLimited: true}, true
		}
		d, ok := next(n)
		return pillion.BackOff{Wait: d}, ok
	}
}

// exponential is Envoy's jittered back-off before retry n.
func (p *policy) exponential(n int) (wait time.Duration, ok bool) {
	ceiling := p.max
	if shift := n - 1; p.base <= p.max>>shift { // and so the product does not overflow
		ceiling = p.base << shift
	}
	return time.Duration(p.random() * float64(ceiling)), true
}

// asked is the wait that an answer asks for.
func (p *policy) asked(c *pillion.Call, o *pillion.Outcome) (wait time.Duration, ok bool) {
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
func (p *policy) spread(wait time.Duration) time.Duration {
	extra := time.Duration(float64(wait/2) * p.random())
	return wait + min(extra, math.MaxInt64-wait)
}

func (p *policy) waited(int, *pillion.Outcome) {}
