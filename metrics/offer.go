package metrics

import (
	"fmt"
	"slices"

	"github.com/pillion-go/pillion/policy"
)

// offered identifies a statistic whose owner several upstreams share.
type offered struct {
	name string
	of   any
}

// offer adds a statistic of a policy. A gauge replaces an earlier gauge of that name; a counter is
// added to an earlier one. A statistic with an owner is added once, even if several upstreams offer
// it, and its value is added to that of this package's statistic of that name.
func (c *ClusterStats) offer(s policy.Stat) error {
	name := clean(s.Name)
	if s.Kind == policy.Endpoints {
		return c.offerEndpoints(name, s)
	}
	if s.Read == nil && s.Record == nil {
		return fmt.Errorf("metrics: the %v %s%s has no function", kindOf(s), c.prefix, name)
	}
	if s.Kind == policy.Histogram {
		return c.offerHistogram(name, s)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isKnown(name, s.Of) {
		return nil
	}
	r, there := c.rows[name]
	num := joined(r.num, s)
	if num == nil || there && r.kind != kindOf(s) {
		return fmt.Errorf("metrics: %s%s already is a %v", c.prefix, name, r.kind)
	}
	delete(c.rows, name)
	c.put(name, row{kind: kindOf(s), num: num})
	return nil
}

func kindOf(s policy.Stat) kind {
	switch s.Kind {
	case policy.Counter:
		return counterKind
	case policy.Histogram:
		return histogramKind
	default:
		return gaugeKind
	}
}

// isKnown reports whether a statistic was added before, and remembers it. The caller holds mu.
func (c *ClusterStats) isKnown(name string, of any) bool {
	if of == nil {
		return false
	}
	key := offered{name, of}
	if _, known := c.offers[key]; known {
		return true
	}
	if c.offers == nil {
		c.offers = map[offered]struct{}{}
	}
	c.offers[key] = struct{}{}
	return false
}

// offerHistogram adds a histogram.
func (c *ClusterStats) offerHistogram(name string, s policy.Stat) error {
	c.mu.Lock()
	known := c.isKnown(name, s.Of)
	r, there := c.rows[name]
	c.mu.Unlock()
	switch {
	case known:
		return nil
	case s.Record == nil || there && r.kind != histogramKind:
		return fmt.Errorf("metrics: %s%s already is a %v, or has no function", c.prefix, name, r.kind)
	}
	s.Record(c.Histogram(name).Record)
	return nil
}

// joined returns the sum of a number and s, or nil if they cannot be added.
func joined(num number, s policy.Stat) number {
	if s.Kind == policy.Counter {
		return joinedCounter(num, s)
	}
	return joinedGauge(num, s)
}

func joinedCounter(num number, s policy.Stat) number {
	switch n := num.(type) {
	case readCounter:
		if s.Of != nil {
			return sumCounter{&Counter{}, append(slices.Clip(n), s.Read)}
		}
		return append(slices.Clip(n), s.Read)
	case sumCounter:
		return sumCounter{n.own, append(slices.Clip(n.read), s.Read)}
	case *Counter:
		if s.Of != nil {
			return sumCounter{n, readCounter{s.Read}}
		}
	case nil:
		if s.Of != nil {
			return sumCounter{&Counter{}, readCounter{s.Read}}
		}
		return readCounter{s.Read}
	}
	return nil
}

func joinedGauge(num number, s policy.Stat) number {
	switch n := num.(type) {
	case readGauge:
		if s.Of != nil {
			return sumGauge{&Gauge{}, s.Read}
		}
		return readGauge(s.Read)
	case sumGauge:
		return sumGauge{n.own, s.Read}
	case *Gauge:
		if s.Of != nil {
			return sumGauge{n, s.Read}
		}
	case nil:
		if s.Of != nil {
			return sumGauge{&Gauge{}, s.Read}
		}
		return readGauge(s.Read)
	}
	return nil
}

// sumCounter is the sum of a counter and of functions.
type sumCounter struct {
	own  *Counter
	read readCounter
}

// Value returns the sum.
func (c sumCounter) Value() uint64 { return c.own.Value() + c.read.Value() }

func (c sumCounter) used() bool { return c.Value() != 0 }

// sumGauge is the sum of a gauge and of a function.
type sumGauge struct {
	own  *Gauge
	read readGauge
}

// Value returns the sum.
func (g sumGauge) Value() uint64 { return g.own.Value() + g.read.Value() }

func (g sumGauge) used() bool { return g.own.used() || g.read.used() }

// asks reports whether a counter calls functions.
func asks(num number) bool {
	switch num.(type) {
	case readCounter, sumCounter:
		return true
	}
	return false
}
