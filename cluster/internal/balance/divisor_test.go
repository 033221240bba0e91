package balance

import (
	"math"
	"testing"
)

// TestDivisor compares remainders with those of a division, at the edges and everywhere.
func TestDivisor(t *testing.T) {
	for _, n := range []uint64{1, 2, 3, 7, 10, 1000, 65_537, 5_000_011, math.MaxInt32, math.MaxInt64} {
		d := newDivisor(n)
		for _, around := range []uint64{0, n, 2 * n, math.MaxUint64 / n * n, 1 << 63, math.MaxUint64} {
			for x := around - 3; x != around+4; x++ {
				if got, want := d.rest(x), x%n; got != want {
					t.Errorf("%d %% %d: got %d, want %d", x, n, got, want)
				}
			}
		}
		for i, x := 0, uint64(1); i < 10_000; i, x = i+1, x*6364136223846793005+1442695040888963407 {
			if got, want := d.rest(x), x%n; got != want {
				t.Fatalf("%d %% %d: got %d, want %d", x, n, got, want)
			}
		}
	}
}
