package metrics

import (
	"fmt"
	"sync"

	"github.com/pillion-go/pillion/internal/report"
	"github.com/pillion-go/pillion/policy"
)

// Cluster counts for one cluster, in Envoy's word for a service that is called.
// It is made by [Registry.Cluster]. Its statistics are made when they are first asked for,
// and stay; ask once and keep the handle, which is all that counting needs. Names are
// those after "cluster.<name>." in Envoy's list, such as upstream_rq_retry. All methods
// are safe for concurrent use. One that is asked for a name that exists as a statistic of
// another type panics, since that is a mistake in the program.
type Cluster struct {
	name     string
	prefix   string // "cluster.recipes."
	registry *Registry

	mu       sync.RWMutex
	rows     map[string]row       // by name after prefix; guarded by mu
	answers  map[string]*Answers  // by category; guarded by mu
	conns    *conns               // nil until something dials; guarded by mu
	offers   map[offered]struct{} // by policies, with an owner; guarded by mu
	detached bool                 // removed from its registry: counted on, shown no more
}

// kind is the type of a statistic.
type kind uint8

const (
	counterKind kind = iota
	gaugeKind
	histogramKind
)

// String is the type's name in Prometheus.
func (k kind) String() string { return [...]string{"counter", "gauge", "histogram"}[k] }

// row is one statistic as it is shown.
type row struct {
	name string // cluster.recipes.upstream_rq_200
	kind kind
	num  number     // of a counter or gauge
	bins histograms // of a histogram
}

// number is a value that is read when it is shown.
type number interface {
	Value() uint64
	used() bool
}

// used reports whether anything was counted. What cannot be read was not.
func (r row) used() (used bool) {
	if r.kind == histogramKind {
		return r.bins.used()
	}
	defer r.unread(func() { used = false })
	return r.num.used()
}

// read reads a number. It is not ok where the function of a gauge panics: there is nothing
// to show then.
func (r row) read() (n uint64, ok bool) {
	if r.kind == counterKind && !asks(r.num) { // it has no function
		return r.num.Value(), true
	}
	defer r.unread(func() { n, ok = 0, false })
	return r.num.Value(), true
}

// unread is deferred by those that read a number. It reports a panic, and calls then.
func (r row) unread(then func()) {
	if p := recover(); p != nil {
		report.Panic(fmt.Sprintf("the function of the %v %s", r.kind, r.name), p)
		then()
	}
}

func newCluster(r *Registry, name string) *Cluster {
	return &Cluster{
		name: name, prefix: "cluster." + name + ".", registry: r,
		rows: map[string]row{}, answers: map[string]*Answers{},
	}
}

// Name is the name as it is shown, which for an odd one is not the name that was
// asked for.
func (c *Cluster) Name() string { return c.name }

// Counter gives the counter of that name.
func (c *Cluster) Counter(name string) *Counter {
	r := c.row(name, counterKind, func() row { return row{num: &Counter{}} })
	switch n := r.num.(type) {
	case *Counter:
		return n
	case sumCounter:
		return n.own
	}
	panic(fmt.Sprintf("metrics: %s%s is a sum, which is not counted by itself", c.prefix, name))
}

// Gauge gives the gauge of that name.
func (c *Cluster) Gauge(name string) *Gauge {
	r := c.row(name, gaugeKind, func() row { return row{num: &Gauge{}} })
	switch g := r.num.(type) {
	case *Gauge:
		return g
	case sumGauge:
		return g.own
	}
	panic(fmt.Sprintf("metrics: %s%s is read from a function", c.prefix, name))
}

// ReadGauge has read called whenever the gauge of that name is shown. It must be fast and
// safe for concurrent use. Where it panics the gauge is left out of the page, and the panic
// is logged to [log/slog.Default]. A second function for one name takes the place of the
// first, as an upstream that is made anew takes that of the old one. A nil function, and a
// name of another statistic, panic.
func (c *Cluster) ReadGauge(name string, read func() uint64) {
	if err := c.offer(policy.Stat{Kind: policy.Gauge, Name: name, Read: read}); err != nil {
		panic(err.Error())
	}
}

// Histogram gives the histogram of that name.
func (c *Cluster) Histogram(name string) *Histogram {
	return c.row(name, histogramKind, func() row { return row{bins: histograms{{}}} }).bins[0]
}

// Answers gives the counters of a category of answers, such as [Internal] or
// [Retry]. Their rows appear with the first answer, upstream_rq_completed of the
// cluster's total at once.
func (c *Cluster) Answers(category string) *Answers {
	category = clean(category)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.category(category)
}

// category finds or makes a category. The caller holds mu.
func (c *Cluster) category(name string) *Answers {
	if a := c.answers[name]; a != nil {
		return a
	}
	a := &Answers{cluster: c, name: name + "."}
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

// widen makes the rows of a sum that got another part. The caller holds mu.
func (c *Cluster) widen(whole *Answers) {
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

// partsOf is a sum's own answers, and those of its parts.
func (c *Cluster) partsOf(a *Answers) []*Answers { return append([]*Answers{a}, a.parts...) }

func (c *Cluster) timesOf(a *Answers) histograms {
	all := histograms{&a.time}
	for _, part := range a.parts {
		all = append(all, &part.time)
	}
	return all
}

// showCode makes the row of a code. The caller holds mu.
func (c *Cluster) showCode(a *Answers, what int) {
	c.put(a.name+codeName(what), row{num: codeSum{c.partsOf(a), what}})
}

// row finds the row of that name, or makes it.
func (c *Cluster) row(name string, k kind, create func() row) row {
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

// put makes a row, if there is none of that name. The caller holds mu.
func (c *Cluster) put(name string, r row) {
	if _, ok := c.rows[name]; ok {
		return
	}
	r.name = c.prefix + name
	c.rows[name] = r
	if !c.detached {
		c.registry.shape.Add(1)
	}
}
