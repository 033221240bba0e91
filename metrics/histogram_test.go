package metrics

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// naive is a histogram that stores every value.
type naive []uint64

// lowest returns the lowest value of the bin of v: its first two digits.
func lowest(v uint64) float64 {
	power := uint64(1)
	for v >= 100 {
		v /= 10
		power *= 10
	}
	return float64(v * power)
}

func binWidth(v uint64) float64 {
	if v == 0 {
		return 0
	}
	if v < 10 {
		return 0.1
	}
	width := 1.0
	for ; v >= 100; v /= 10 {
		width *= 10
	}
	return width
}

func (n naive) quantile(q float64) float64 {
	sorted := slices.Sorted(slices.Values(n))
	rank := min(max(1, int(math.Ceil(q*float64(len(n))))), len(n))
	v := sorted[rank-1]
	before, within := 0, 0
	for _, other := range sorted {
		switch {
		case lowest(other) == lowest(v):
			within++
		case other < v:
			before++
		}
	}
	return lowest(v) + binWidth(v)*float64(rank-before)/float64(within+1)
}

func (n naive) below(bound float64) (count uint64) {
	for _, v := range n {
		if lowest(v) <= bound {
			count++
		}
	}
	return count
}

// check compares a histogram with the values recorded in it.
func check(t *testing.T, h *Histogram, values naive) {
	t.Helper()
	bins := histograms{h}.bins(nil)
	if got := count(bins); got != uint64(len(values)) {
		t.Fatalf("got %d values, want %d", got, len(values))
	}
	for i, b := range bins[1:] {
		if b.low <= bins[i].low {
			t.Fatalf("got unsorted bins %v", bins)
		}
	}
	for _, q := range quantiles {
		if got, want := quantile(bins, q), values.quantile(q); !near(got, want) {
			t.Fatalf("quantile %v of %v: got %v, want %v", q, values, got, want)
		}
	}
	for i, got := range cumulate(bins) {
		if want := values.below(bounds[i]); got != want {
			t.Fatalf("up to %v of %v: got %d, want %d", bounds[i], values, got, want)
		}
	}
	exact := 0.0
	for _, v := range values {
		exact += float64(v)
	}
	if got := sum(bins); math.Abs(got-exact) > 0.05*exact {
		t.Fatalf("sum of %v: got %v, want %v within 5 %%", values, got, exact)
	}
}

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-12*math.Max(math.Abs(a), math.Abs(b)) }

// TestHistogramModel compares with a model that stores all values. Quantiles and counts are those
// of the bins; the sum is within 5 percent of the exact one.
func TestHistogramModel(t *testing.T) {
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 0))
		h, values := &Histogram{}, naive{}
		for range 1 + random.IntN(200) {
			v := uint64(math.Exp(random.Float64() * 16))
			if random.IntN(5) == 0 {
				v = uint64(random.IntN(12))
			}
			h.Record(v)
			values = append(values, v)
		}
		check(t, h, values)
	}
}

func TestHistogramEdges(t *testing.T) {
	for _, v := range []uint64{0, 1, 9, 10, 99, 100, 101, 999, 1000, 3599999, 3600000, 3600001, math.MaxUint64} {
		h := &Histogram{}
		h.Record(v)
		check(t, h, naive{v})
	}
	if q := quantile(nil, 0.5); !math.IsNaN(q) {
		t.Errorf("got %v for the median of no values, want NaN", q)
	}
}

// FuzzHistogram records arbitrary values: all are counted, the bins stay sorted, and no quantile is
// outside the bins of the values.
func FuzzHistogram(f *testing.F) {
	f.Add(uint64(0), uint64(1), uint64(math.MaxUint64))
	f.Add(uint64(99), uint64(100), uint64(1000))
	f.Fuzz(func(t *testing.T, a, b, c uint64) {
		h := &Histogram{}
		values := naive{a, b, c}
		for _, v := range values {
			h.Record(v)
		}
		check(t, h, values)
	})
}

// TestHistogramsAsOne reads the sum of two histograms.
func TestHistogramsAsOne(t *testing.T) {
	a, b, both := &Histogram{}, &Histogram{}, &Histogram{}
	for v := range uint64(3000) {
		[]*Histogram{a, b}[v%2].Record(v * v)
		both.Record(v * v)
	}
	got, want := histograms{a, b}.bins(nil), histograms{both}.bins(nil)
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
