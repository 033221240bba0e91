package measured

import (
	"slices"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{7}, 7},
		{[]float64{9, 1, 2}, 2},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		before := slices.Clone(test.values)
		if got := Median(test.values); got != test.want || !slices.Equal(test.values, before) {
			t.Errorf("%v: got %v and left %v, want %v", before, got, test.values, test.want)
		}
	}
}

// TestWithinNoise pins how many of the rounds must have a negative difference. For up to 120 rounds
// the limits equal those of the exact sign test.
func TestWithinNoise(t *testing.T) {
	for _, test := range []struct {
		rounds, negative int
		want             bool
	}{
		{1, 0, true},
		{5, 0, true},
		{6, 0, false},
		{6, 1, true},
		{12, 2, false},
		{12, 3, true},
		{21, 5, false},
		{21, 6, true},
		{120, 48, false},
		{120, 49, true},
		{120, 120, true},
		{2000, 940, false},
		{2000, 960, true},
		{2000, 2000, true},
	} {
		differences := slices.Concat(slices.Repeat([]float64{3}, test.rounds-test.negative), slices.Repeat([]float64{-1}, test.negative))
		if got := WithinNoise(differences); got != test.want {
			t.Errorf("%d of %d differences negative: got %v, want %v", test.negative, test.rounds, got, test.want)
		}
	}
}
