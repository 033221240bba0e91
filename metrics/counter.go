package metrics

import "sync/atomic"

// Counter is a number that only grows. Its methods are safe for concurrent use and
// cost one atomic addition.
type Counter struct{ n atomic.Uint64 }

// Inc adds one.
func (c *Counter) Inc() { c.n.Add(1) }

// Add adds n.
func (c *Counter) Add(n uint64) { c.n.Add(n) }

// Value is the sum of all that was added.
func (c *Counter) Value() uint64 { return c.n.Load() }

func (c *Counter) used() bool { return c.n.Load() != 0 }

// Gauge is a number that goes up and down. Its methods are safe for concurrent
// use.
type Gauge struct {
	n       atomic.Int64
	touched atomic.Bool
}

// Set makes n the value.
func (g *Gauge) Set(n int64) {
	g.n.Store(n)
	g.touch()
}

// Add adds n, which may be negative.
func (g *Gauge) Add(n int64) {
	g.n.Add(n)
	g.touch()
}

// touch looks before it writes, so that a gauge in use is not written twice.
func (g *Gauge) touch() {
	if !g.touched.Load() {
		g.touched.Store(true)
	}
}

// Value is the value, 0 where it would be negative: Envoy's gauges never are.
func (g *Gauge) Value() uint64 { return uint64(max(0, g.n.Load())) }

func (g *Gauge) used() bool { return g.touched.Load() }

// readGauge is a function that is asked for a value when it is shown.
type readGauge func() uint64

// Value asks the function.
func (g readGauge) Value() uint64 { return g() }

func (g readGauge) used() bool { return g() != 0 }

// readCounter are functions whose values are added up when they are shown.
type readCounter []func() uint64

// Value asks the functions.
func (c readCounter) Value() (sum uint64) {
	for _, read := range c {
		sum += read()
	}
	return sum
}

func (c readCounter) used() bool { return c.Value() != 0 }
