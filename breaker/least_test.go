package breaker

import (
	"math"
	"math/rand/v2"
	"testing"
)

// TestCore_cannotTripAsByDivision compares the integer limit with the ratio that it replaces, at each
// side of the limit and for thresholds that rounding puts on either side of it.
func TestCore_cannotTripAsByDivision(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	thresholds := []float64{
		math.Inf(-1), -1, 0, math.SmallestNonzeroFloat64, 1e-9, 0.1, 0.3, 1.0 / 3, 0.5, 0.7, 0.999,
		math.Nextafter(1, 0), 1, math.Nextafter(1, 2), 2, math.MaxFloat64, math.Inf(1), math.NaN(),
	}
	volumes := []int64{1, 2, 3, 7, 10, 20, 49, 100, 1000, 1<<53 - 1, 1 << 53, 1<<53 + 1, math.MaxInt64 - 1, math.MaxInt64}
	for range 300 {
		volume := 1 + random.Int64N(1<<random.IntN(62))
		volumes = append(volumes, volume)
		ratio := float64(random.Int64N(volume+1)) / float64(volume)
		thresholds = append(thresholds, random.Float64(), ratio, math.Nextafter(ratio, 0), math.Nextafter(ratio, 2))
	}
	both := [2]int{}
	for _, threshold := range thresholds {
		for _, volume := range volumes {
			c := newCore(threshold, volume, 0, DefaultPeriod, 0)
			failures := []int64{0, 1, volume / 2, volume - 1, volume, math.MaxInt64}
			for step := int64(-2); step <= 2; step++ {
				if n := c.least + step; n >= 0 && (step < 0 || n >= c.least) { // neither negative nor overflown
					failures = append(failures, n)
				}
			}
			for _, failing := range failures {
				if failing == math.MaxInt64 && c.least == math.MaxInt64 {
					continue // more failures than a program can count
				}
				c.window.sum = counts{Failure: failing - failing/3, Timeout: failing / 3}
				got, want := c.cannotTrip(), threshold > 0 && float64(failing)/float64(volume) < threshold
				if got != want {
					t.Fatalf("threshold %v, volume %d: got cannotTrip %t with %d failures, want %t", threshold, volume, got, failing, want)
				}
				if got {
					both[1]++
				} else {
					both[0]++
				}
			}
		}
	}
	if min(both[0], both[1]) < 100_000 {
		t.Errorf("got %d cores that can trip and %d that cannot, want at least 100000 of each", both[0], both[1])
	}
}
