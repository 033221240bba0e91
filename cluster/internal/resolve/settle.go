package resolve

import (
	"math"
	"net/netip"
	"slices"
	"time"
)

// result is the result of a lookup of a target: err, or the records of the families.
type result struct {
	records []Record
	// lost lists the families whose lookup failed, if that of the other family succeeded.
	lost4, lost6 bool
	err          error
}

// known is the state of a target. Its methods are pure functions of their arguments.
type known struct {
	// addrs are its addresses, each once, in the order of the last response.
	addrs []netip.Addr
	// bound is the upper bound of the random time after the next failure, 0 if there was none since
	// the last success.
	bound time.Duration
}

// verdict is the effect of a result.
type verdict struct {
	// failed reports whether the lookup failed.
	failed bool
	// empty reports that the previous hosts remain because no new ones were found.
	empty bool
	// changed reports that the hosts changed.
	changed bool
	// wait is the time to the next lookup.
	wait time.Duration
}

// settle updates k with r.
func (k *known) settle(c *Config, r result) verdict {
	addrs := distinct(k.keep(r))
	if r.err != nil || (len(addrs) == 0 && c.Logical) {
		return verdict{failed: true, wait: k.backoff(c)}
	}
	k.bound = 0
	if len(addrs) == 0 {
		return verdict{empty: len(k.addrs) > 0, wait: c.after(0)}
	}
	changed := c.differ(k.addrs, addrs)
	k.addrs = addrs
	return verdict{changed: changed, wait: c.after(c.ttl(r.records))}
}

// keep returns the records of r, followed by the previous addresses of a lost family.
func (k *known) keep(r result) []Record {
	records := r.records
	if len(records) == 0 || (!r.lost4 && !r.lost6) {
		return records
	}
	records = slices.Clip(records)
	for _, a := range k.addrs {
		if (a.Is4() && r.lost4) || (a.Is6() && r.lost6) {
			records = append(records, Record{Addr: a})
		}
	}
	return records
}

// differ reports whether the hosts at a and b differ. As in Envoy, logical hosts also differ if the
// order of their addresses differs.
func (c *Config) differ(a, b []netip.Addr) bool {
	if c.Logical {
		return !slices.Equal(a, b)
	}
	return !sameSet(a, b)
}

// after returns the time from a successful lookup to the next one.
func (c *Config) after(ttl time.Duration) time.Duration {
	wait := c.RefreshRate
	if c.RespectTTL && ttl > 0 {
		wait = max(ttl, c.MinRefreshRate)
	}
	jitter := min(c.below(c.Jitter), math.MaxInt64-wait)
	return max(shortest, wait+jitter)
}

// backoff returns the time from a failed lookup to the next one.
func (k *known) backoff(c *Config) time.Duration {
	if c.FailureBase == 0 {
		return c.RefreshRate
	}
	bound := max(k.bound, c.FailureBase)
	k.bound = c.FailureMax
	if bound < c.FailureMax/2 {
		k.bound = 2 * bound
	}
	return max(shortest, c.below(bound))
}

// below returns a random time of whole milliseconds below bound.
func (c *Config) below(bound time.Duration) time.Duration {
	ms := uint64(max(0, bound/time.Millisecond))
	if ms == 0 {
		return 0
	}
	return time.Duration(c.Rand()%ms) * time.Millisecond //nolint:gosec // below ms
}
