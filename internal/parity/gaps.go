package parity

import (
	"fmt"
	"math"
	"slices"
)

// compareGaps compares the waits between the attempts of each call, by the number of the
// retry: their mean, and the number of waits that are longer than any recorded one.
func (c *Case) compareGaps(got *Played) []Difference {
	want := map[int][]float64{}
	for _, run := range c.TimingRuns {
		addGaps(want, c.Observed.Attempts, run.Attempts)
	}
	have := map[int][]float64{}
	addGaps(have, got.Attempts, got.Timing.Attempts)
	var found []Difference
	for n := 1; len(want[n]) > 0; n++ {
		if d := compareWaits(want[n], have[n]); d != "" {
			found = append(found, Difference{Path: fmt.Sprintf("/timing/retry %d", n), Want: describe(want[n]), Got: describe(have[n]) + d})
		}
	}
	return found
}

// addGaps adds the times between each attempt and the next one of the same call.
func addGaps(to map[int][]float64, attempts []Attempt, arrivals []float64) {
	last := map[string]float64{}
	number := map[string]int{}
	for i, at := range attempts {
		if i >= len(arrivals) {
			return
		}
		if n := number[at.Case]; n > 0 {
			to[n] = append(to[n], arrivals[i]-last[at.Case])
		}
		number[at.Case]++
		last[at.Case] = arrivals[i]
	}
}

// late is the maximum delay of a timer on a busy machine, in milliseconds.
const late = 15

// compareWaits describes the difference between two sets of waits. Both are assumed to be
// uniform from 0 to the longest recorded wait; a longer wait is assumed to be late.
func compareWaits(want, got []float64) string {
	if len(got) == 0 {
		return " (none)"
	}
	longest := slices.Max(want)
	deviation := longest / math.Sqrt(12) * math.Sqrt(1/float64(len(got))+1/float64(len(want)))
	if off := mean(got, longest) - mean(want, longest); off > 3.5*deviation+late || off < -3.5*deviation {
		return fmt.Sprintf(" (the mean is %.1f ms off)", off)
	}
	longer := 0
	for _, g := range got {
		if g > longest*1.1+late {
			longer++
		}
	}
	if longer > len(got)/10+1 {
		return fmt.Sprintf(" (%d are longer)", longer)
	}
	return ""
}

// mean returns the mean of values, each limited to most.
func mean(values []float64, most float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += min(v, most)
	}
	return sum / float64(len(values))
}

func describe(values []float64) string {
	if len(values) == 0 {
		return "no waits"
	}
	longest := slices.Max(values)
	return fmt.Sprintf("%d waits, mean %.1f ms, longest %.1f ms", len(values), mean(values, longest), longest)
}
