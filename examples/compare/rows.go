package main

import (
	"context"
	"slices"
	"time"
)

// row is what one path took with so many callers: the medians of all rounds.
type row struct {
	Protocol string  `json:"protocol"`
	Callers  int     `json:"callers"`
	Path     string  `json:"path"`
	P50      float64 `json:"p50_us"`
	P90      float64 `json:"p90_us"`
	P99      float64 `json:"p99_us"`
	CPU      float64 `json:"cpu_us_per_call"`
	Added    added   `json:"added"`
	Rate     float64 `json:"calls_per_s,omitempty"` // at which calls were due; 0 for a closed loop
	Failed   int     `json:"failed,omitempty"`
}

// added is what a path took more than the bare client in the same round: the medians
// of all rounds.
type added struct {
	P50 float64 `json:"p50_us"`
	P90 float64 `json:"p90_us"`
	P99 float64 `json:"p99_us"`
	CPU float64 `json:"cpu_us_per_call"`
}

// level is a number of callers, and how many calls they make on each path in each
// of so many rounds, or as many as there is time for.
type level struct {
	callers, calls, rounds int
	time                   time.Duration
}

// loop makes the calls of one round.
type loop func(p *path, callers int, calls []call) round

// measure has all paths make the same calls in turn, each round in the opposite order
// of the one before. The bare path is the first.
func measure(ctx context.Context, all []path, l level, run loop) []row {
	rounds := make([][]sample, len(all))
	calls := healthy(l.calls)
	failed := make([]int, len(all))
	began := time.Now()
	for n := -1; n < 1 || (n < l.rounds && time.Since(began) < l.time && ctx.Err() == nil); n++ {
		for i := range all {
			if n%2 != 0 {
				i = len(all) - 1 - i
			}
			r := run(&all[i], l.callers, calls)
			failed[i] += r.failed
			if n >= 0 { // the first one warms up
				rounds[i] = append(rounds[i], sampleOf(r))
			}
		}
	}
	rows := make([]row, len(all))
	for i, p := range all {
		m, a := medians(rounds[i], nil), medians(rounds[i], rounds[0])
		rows[i] = row{
			Protocol: "http", Callers: l.callers, Path: p.name, P50: m[0], P90: m[1], P99: m[2], CPU: m[3],
			Added: added{a[0], a[1], a[2], a[3]}, Failed: failed[i],
		}
	}
	return rows
}

// sample is what is known of a round: p50, p90, p99 and CPU time for each call, in
// microseconds.
type sample [4]float64

func sampleOf(r round) sample {
	return sample{us(r.quantile(0.5)), us(r.quantile(0.9)), us(r.quantile(0.99)), us(r.cpuPerCall())}
}

// medians gives the median of each value over all rounds, or of what it is more than
// less.
func medians(rounds, less []sample) (m sample) {
	for v := range m {
		values := make([]float64, len(rounds))
		for i, s := range rounds {
			if values[i] = s[v]; less != nil {
				values[i] -= less[i][v]
			}
		}
		m[v] = median(values)
	}
	return m
}

func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}
