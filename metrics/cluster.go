package metrics

import (
	"fmt"
	"strings"
	"sync"

	"github.com/pillion-go/pillion/internal/report"
	"github.com/pillion-go/pillion/policy"
)

// ClusterStats holds the statistics of one cluster, which is Envoy's term for an upstream service.
// [Registry.Cluster] makes it. A statistic is made when a method first requests it, and is never
// removed: request it once and keep the handle. Names are those after "cluster.<name>." in Envoy's
// list, such as upstream_rq_retry. All methods are safe for concurrent use. A method panics if the
// name exists as a statistic of another type, since that is a mistake in the program.
type ClusterStats struct {
	name     string
	prefix   string // "cluster.recipes."
	registry *Registry

	mu        sync.RWMutex
	rows      map[string]row               // by name after prefix; guarded by mu
	answers   map[string]*ResponseCounters // by category; guarded by mu
	conns     *conns                       // nil until something dials; guarded by mu
	offers    map[offered]struct{}         // by policies, with an owner; guarded by mu
	endpoints []*endpoints                 // that policies offer; guarded by mu
	detached  bool                         // removed from its registry: still counts, but is not shown
}

// kind is the type of a statistic.
type kind uint8

const (
	counterKind kind = iota
	gaugeKind
	histogramKind
)

// String returns the type's name in Prometheus.
func (k kind) String() string { return [...]string{"counter", "gauge", "histogram"}[k] }

// row is one statistic of a page.
type row struct {
	name string // cluster.recipes.upstream_rq_200
	kind kind
	num  number     // for a counter or gauge
	bins histograms // for a histogram
}

// number is a value that a page reads.
type number interface {
	Value() uint64
	used() bool
}

// used reports whether anything was counted. It is false if the value cannot be read.
func (r row) used() (used bool) {
	if r.kind == histogramKind {
		return r.bins.used()
	}
	defer r.unread(func() { used = false })
	return r.num.used()
}

// read returns a number. It is not ok if the function of the statistic panics.
func (r row) read() (n uint64, ok bool) {
	if r.kind == counterKind && !asks(r.num) { // no function that could panic
		return r.num.Value(), true
	}
	defer r.unread(func() { n, ok = 0, false })
	return r.num.Value(), true
}

// unread recovers from a panic while a number is read: it reports the panic and calls then. It must
// be deferred.
func (r row) unread(then func()) {
	if p := recover(); p != nil {
		report.Panic(fmt.Sprintf("the function of the %v %s", r.kind, r.name), p)
		then()
	}
}

func newCluster(r *Registry, name string) *ClusterStats {
	return newGroup(r, name, clusterPrefix+name+".")
}

// newVirtualCluster makes the statistics of a virtual cluster.
func newVirtualCluster(r *Registry, host, name string) *ClusterStats {
	return newGroup(r, name, virtualPrefix+host+".vcluster."+name+".")
}

func newGroup(r *Registry, name, prefix string) *ClusterStats {
	return &ClusterStats{name: name, prefix: prefix, registry: r, rows: map[string]row{}, answers: map[string]*ResponseCounters{}}
}

// The prefixes of the names of statistics.
const (
	clusterPrefix = "cluster."
	virtualPrefix = "vhost."
)

// isVirtual reports whether c is a virtual cluster.
func (c *ClusterStats) isVirtual() bool { return strings.HasPrefix(c.prefix, virtualPrefix) }

// Name returns the name as pages show it. Characters that a page cannot show are replaced, so that
// it can differ from the name passed to [Registry.Cluster].
func (c *ClusterStats) Name() string { return c.name }

// Counter returns the counter with the given name.
func (c *ClusterStats) Counter(name string) *Counter {
	r := c.row(name, counterKind, func() row { return row{num: &Counter{}} })
	switch n := r.num.(type) {
	case *Counter:
		return n
	case sumCounter:
		return n.own
	}
	panic(fmt.Sprintf("metrics: %s%s is a sum, which cannot be counted directly", c.prefix, name))
}

// Gauge returns the gauge with the given name.
func (c *ClusterStats) Gauge(name string) *Gauge {
	r := c.row(name, gaugeKind, func() row { return row{num: &Gauge{}} })
	switch g := r.num.(type) {
	case *Gauge:
		return g
	case sumGauge:
		return g.own
	}
	panic(fmt.Sprintf("metrics: %s%s is read from a function", c.prefix, name))
}

// ReadGauge makes a gauge whose value is the result of read, which is called each time the gauge
// is shown. read must be fast and safe for concurrent use. If it panics, the page omits the gauge
// and the panic is logged to [log/slog.Default]. A second function for the same name replaces the
// first, so that a new upstream can replace an old one. ReadGauge panics if read is nil or the
// name is that of another statistic.
func (c *ClusterStats) ReadGauge(name string, read func() uint64) {
	if err := c.offer(policy.Stat{Kind: policy.Gauge, Name: name, Read: read}); err != nil {
		panic(err.Error())
	}
}

// Histogram returns the histogram with the given name.
func (c *ClusterStats) Histogram(name string) *Histogram {
	return c.row(name, histogramKind, func() row { return row{bins: histograms{{}}} }).bins[0]
}

// Responses returns the counters of a category of responses, such as [Internal] or [Retry]. Its
// statistics appear with the first response, except upstream_rq_completed of the cluster's total,
// which appears immediately.
func (c *ClusterStats) Responses(category string) *ResponseCounters {
	category = clean(category)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.category(category)
}

// category returns a category, and makes it if needed. The caller holds mu.
func (c *ClusterStats) category(name string) *ResponseCounters {
	if a := c.answers[name]; a != nil {
		return a
	}
	a := &ResponseCounters{cluster: c, name: name + "."}
	a.time.reveal = a.showTime
	if name == "" {
		a.name = ""
	}
	c.answers[name] = a
	if whole, ok := wholeOf(name); ok {
		a.whole = c.category(whole)
		a.whole.parts = append(a.whole.parts, a)
		c.widen(a.whole)
	}
	return a
}

// widen remakes the rows of a sum that has a new part. The caller holds mu.
func (c *ClusterStats) widen(whole *ResponseCounters) {
	for name, r := range c.rows {
		if s, ok := r.num.(codeSum); ok && len(s.parts) != 0 && s.parts[0] == whole {
			delete(c.rows, name)
			c.put(name, row{num: codeSum{c.partsOf(whole), s.what}})
		}
	}
	if time := whole.name + "upstream_rq_time"; c.rows[time].kind == histogramKind {
		delete(c.rows, time)
		c.put(time, row{kind: histogramKind, bins: c.timesOf(whole)})
	}
	if whole.name == "" {
		c.showCode(whole, allCodes)
	}
}

// partsOf returns a category and its parts.
func (c *ClusterStats) partsOf(a *ResponseCounters) []*ResponseCounters {
	return append([]*ResponseCounters{a}, a.parts...)
}

func (c *ClusterStats) timesOf(a *ResponseCounters) histograms {
	all := histograms{&a.time}
	for _, part := range a.parts {
		all = append(all, &part.time)
	}
	return all
}

// showCode makes the row of a code. The caller holds mu.
func (c *ClusterStats) showCode(a *ResponseCounters, what int) {
	c.put(a.name+codeName(what), row{num: codeSum{c.partsOf(a), what}})
}

// row returns the row with the given name, and makes it if needed.
func (c *ClusterStats) row(name string, k kind, create func() row) row {
	name = clean(name)
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.rows[name]
	if !ok {
		r = create()
		r.kind = k
		c.put(name, r)
	}
	if r.kind != k {
		panic(fmt.Sprintf("metrics: %s%s is a %v, not a %v", c.prefix, name, r.kind, k))
	}
	return r
}

// put adds a row unless the name exists. The caller holds mu.
func (c *ClusterStats) put(name string, r row) {
	if _, ok := c.rows[name]; ok {
		return
	}
	r.name = c.prefix + name
	c.rows[name] = r
	if !c.detached {
		c.registry.shape.Add(1)
	}
}
