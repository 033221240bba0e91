package metrics

import "sync/atomic"

// Counter is a number that only increases. Its methods are safe for concurrent use and cost one
// atomic operation.
type Counter struct{ n atomic.Uint64 }

// Inc adds one.
func (c *Counter) Inc() { c.n.Add(1) }

// Add adds n.
func (c *Counter) Add(n uint64) { c.n.Add(n) }

// Value returns the current value.
func (c *Counter) Value() uint64 { return c.n.Load() }

func (c *Counter) used() bool { return c.n.Load() != 0 }

// Gauge is a number that can increase and decrease. Its methods are safe for concurrent use.
type Gauge struct {
	n       atomic.Int64
	touched atomic.Bool
}

// Set sets the value to n.
func (g *Gauge) Set(n int64) {
	g.n.Store(n)
	g.touch()
}

// Add adds n, which may be negative.
func (g *Gauge) Add(n int64) {
	g.n.Add(n)
	g.touch()
}

// touch reads before it writes, so that a gauge in use is not written twice.
func (g *Gauge) touch() {
	if !g.touched.Load() {
		g.touched.Store(true)
	}
}

// Value returns the current value, or 0 if it is negative: Envoy's gauges are never negative.
func (g *Gauge) Value() uint64 { return uint64(max(0, g.n.Load())) }

func (g *Gauge) used() bool { return g.touched.Load() }

// readGauge is a gauge whose value is the result of a function.
type readGauge func() uint64

// Value calls the function.
func (g readGauge) Value() uint64 { return g() }

func (g readGauge) used() bool { return g() != 0 }

// readCounter is a counter whose value is the sum of the results of functions.
type readCounter []func() uint64

// Value calls the functions.
func (c readCounter) Value() (sum uint64) {
	for _, read := range c {
		sum += read()
	}
	return sum
}

func (c readCounter) used() bool { return c.Value() != 0 }
