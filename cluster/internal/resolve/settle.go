package resolve

import (
	"math"
	"net/netip"
	"slices"
	"time"
)

// result is what a lookup of a target came to: err, or the records of the families that were
// asked for.
type result struct {
	records []Record
	// lost says which families could not be looked up, while the other one could.
	lost4, lost6 bool
	err          error
}

// known is what is known of a target. Its methods are pure functions of their arguments.
type known struct {
	// addrs are its addresses, each once, in the order of the last response.
	addrs []netip.Addr
	// bound is that of the random time after the next failure, 0 if there was none since the
	// last success.
	bound time.Duration
}

// verdict is what follows from a result.
type verdict struct {
	// failed, or else succeeded.
	failed bool
	// empty says that the last hosts stayed because there are no new ones.
	empty bool
	// changed says that the hosts are others than before.
	changed bool
	// wait is the time to the next lookup.
	wait time.Duration
}

// settle makes of k what is known after r.
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

// keep returns the records of r, followed by the last addresses of a family that was lost.
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

// differ reports whether hosts at b are others than those at a. A logical host is another one
// when the order of its addresses changes, as in Envoy.
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
	return time.Duration(c.Rand()%ms) * time.Millisecond //nolint:gosec // it is below ms
}
