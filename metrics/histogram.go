package metrics

import (
	"math"
	"sync/atomic"
)

// Histogram counts values in Envoy's bins. A bin is two significant decimal digits: 44 and 44.9
// share a bin, as do 440 and 449. Quantiles and the sum are Envoy's; the sum is computed from the
// bins and may be off by a few percent. Its methods are safe for concurrent use. Recording costs
// one atomic addition, and allocates once for each power of ten.
type Histogram struct {
	reveal  func() // called when a bin is first used; may be nil
	zero    atomic.Uint64
	decades [20]atomic.Pointer[decade]
}

// decade holds the bins from 10^i to 10^(i+1), by their first two digits.
type decade [90]atomic.Uint64

// Record records a value in whole units: milliseconds, bytes, percent.
func (h *Histogram) Record(v uint64) {
	if h.bin(v).Add(1) == 1 && h.reveal != nil {
		h.reveal()
	}
}

// bin returns the bin of v.
func (h *Histogram) bin(v uint64) *atomic.Uint64 {
	if v == 0 {
		return &h.zero
	}
	power := 0
	if v < 10 {
		v *= 10
	} else {
		for power = 1; v >= 100; power++ {
			v /= 10
		}
	}
	d := h.decades[power].Load()
	if d == nil {
		d = &decade{}
		if !h.decades[power].CompareAndSwap(nil, d) {
			d = h.decades[power].Load()
		}
	}
	return &d[v-10]
}

// bin is a snapshot of a bin: its lowest value, its width and its number of values.
type bin struct {
	low, width float64
	count      uint64
}

// middle returns the value that represents the bin. As in Envoy it is the harmonic mean of its
// ends, computed in the order that reproduces Envoy's last digit.
func (b bin) middle() float64 {
	if b.low == 0 {
		return 0
	}
	return b.low + b.width*(b.low/(b.low+b.low+b.width))
}

// histograms is a sum of histograms.
type histograms []*Histogram

// bins appends the used bins to into, lowest first. It sums the bins of the histograms, which all
// have the same ends.
func (hs histograms) bins(into []bin) []bin {
	var zero uint64
	for _, h := range hs {
		zero += h.zero.Load()
	}
	if zero != 0 {
		into = append(into, bin{count: zero})
	}
	for power := range len(Histogram{}.decades) {
		into = hs.decade(into, power)
	}
	return into
}

func (hs histograms) decade(into []bin, power int) []bin {
	var found [2]*decade // avoids an allocation; more than two are rare
	decades := found[:0]
	for _, h := range hs {
		if d := h.decades[power].Load(); d != nil {
			decades = append(decades, d)
		}
	}
	if len(decades) == 0 {
		return into
	}
	width := math.Pow10(power) / 10
	for i := range len(decade{}) {
		var count uint64
		for _, d := range decades {
			count += d[i].Load()
		}
		if count != 0 {
			low := float64(i+10) * math.Pow10(power) / 10 // this order keeps whole numbers exact
			into = append(into, bin{low, width, count})
		}
	}
	return into
}

// used reports whether anything was recorded.
func (hs histograms) used() bool {
	for _, h := range hs {
		if h.zero.Load() != 0 {
			return true
		}
		for i := range h.decades {
			if h.decades[i].Load() != nil {
				return true
			}
		}
	}
	return false
}

// Envoy's quantiles and upper bounds.
//
//nolint:gochecknoglobals // read-only tables
var (
	quantiles = [...]float64{0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1}
	bounds    = [...]float64{
		0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000,
		60000, 300000, 600000, 1800000, 3600000,
	}
)

// count returns the number of values.
func count(bins []bin) uint64 {
	var n uint64
	for _, b := range bins {
		n += b.count
	}
	return n
}

// sum returns Envoy's sum of the values.
func sum(bins []bin) float64 {
	var s float64
	for _, b := range bins {
		s += b.middle() * float64(b.count)
	}
	return s
}

// cumulate returns for each bound the number of values not above it. A bin counts if its lowest
// value is not above the bound.
func cumulate(bins []bin) (below [len(bounds)]uint64) {
	var n uint64
	i := 0
	for at, bound := range bounds {
		for i < len(bins) && bins[i].low <= bound {
			n += bins[i].count
			i++
		}
		below[at] = n
	}
	return below
}

// quantile returns the quantile q. It assumes that the values of a bin are evenly distributed. It
// returns NaN if there are no values.
func quantile(bins []bin, q float64) float64 {
	n := count(bins)
	if n == 0 {
		return math.NaN()
	}
	rank := min(max(1, uint64(math.Ceil(q*float64(n)))), n)
	for _, b := range bins {
		if rank <= b.count {
			if b.low == 0 {
				return 0
			}
			return b.low + b.width*(float64(rank)/float64(b.count+1))
		}
		rank -= b.count
	}
	return math.NaN() // not reached: rank is at most n
}
