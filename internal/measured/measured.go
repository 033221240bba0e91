// Package measured evaluates measurements that were repeated in rounds.
package measured

import (
	"math"
	"slices"
)

// Median returns the median of values, which must not be empty: the middle one, or the mean of the
// two in the middle. It does not change values.
func Median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// WithinNoise reports whether the median of the differences may be 0 or less. It returns false if the
// median is above 0 with a confidence of 97.5%. It uses the sign test, which assumes no distribution,
// with the normal approximation.
func WithinNoise(differences []float64) bool {
	above := 0
	for _, d := range differences {
		if d > 0 {
			above++
		}
	}
	n := float64(len(differences))
	return float64(above) < n/2+0.5+1.96*math.Sqrt(n)/2
}
