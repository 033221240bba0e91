package outlier

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

// TestExactRates compares the judgment of success rates with exact arithmetic. Only a rate
// that lies on the threshold, but for rounding errors, may be judged either way.
func TestExactRates(t *testing.T) {
	t.Parallel()
	choose := rand.New(rand.NewPCG(1, 2))
	judged, below := 0, 0
	for range 3000 {
		hosts := make([]*host[int], 2+choose.IntN(8))
		most := uint64(1 + choose.IntN(300))
		for i := range hosts {
			total := 1 + choose.Uint64N(most)
			hosts[i] = &host[int]{key: i, external: rate{last: bucket{successes: choose.Uint64N(total + 1), total: total}}}
		}
		factor := int64([]int{0, 500, 1000, 1414, 1900}[choose.IntN(5)])
		average := averageOf(hosts, externalOrigin, float64(factor)/1000)
		for _, h := range hosts {
			want, near := exactlyBelow(hosts, h, factor)
			if near {
				continue
			}
			judged++
			got := h.external.percent() < average.Threshold
			if got {
				below++
			}
			if got != want {
				t.Fatalf("%d of %d, threshold %v: got %v, want %v", h.external.last.successes, h.external.last.total, average.Threshold, got, want)
			}
		}
	}
	if below < 100 || judged-below < 1000 {
		t.Errorf("got %d rates below the threshold of %d, want many of either", below, judged)
	}
}

// exactlyBelow reports whether a host is more than factor thousandths of the standard
// deviation below the mean, and whether that is a close call.
func exactlyBelow(hosts []*host[int], h *host[int], factor int64) (below, near bool) {
	percent := func(h *host[int]) *big.Rat {
		return big.NewRat(int64(h.external.last.successes)*100, int64(h.external.last.total))
	}
	n := big.NewRat(int64(len(hosts)), 1)
	mean, variance := new(big.Rat), new(big.Rat)
	for _, other := range hosts {
		mean.Add(mean, percent(other))
	}
	mean.Quo(mean, n)
	for _, other := range hosts {
		distance := new(big.Rat).Sub(percent(other), mean)
		variance.Add(variance, distance.Mul(distance, distance))
	}
	variance.Quo(variance, n)
	distance := new(big.Rat).Sub(mean, percent(h))
	square := new(big.Rat).Mul(distance, distance)
	limit := variance.Mul(variance, big.NewRat(factor*factor, 1000*1000))
	difference, _ := new(big.Rat).Sub(square, limit).Float64()
	return distance.Sign() > 0 && square.Cmp(limit) > 0, difference < 1e-9 && difference > -1e-9
}

// TestLongestRun: a run that cannot grow any more does not start anew, and detects nothing.
func TestLongestRun(t *testing.T) {
	t.Parallel()
	r := run(math.MaxUint32 - 1)
	if !r.fail(math.MaxUint32) {
		t.Error("the last length: got false, want true")
	}
	for _, length := range []uint32{0, 1, math.MaxUint32} {
		if r.fail(length) || r != math.MaxUint32 {
			t.Errorf("beyond, length %d: got a detection or a run of %d, want neither", length, r)
		}
	}
}
