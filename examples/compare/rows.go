package main

import (
	"context"
	"slices"
	"time"
)

// row is what one path took with so many callers, the calls of all rounds taken
// together.
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

// added is what a path took more than the bare client in the same round: medians over
// all rounds.
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

// measure has all paths make the same calls in turn, each round in another order. The
// bare path is the first.
func measure(ctx context.Context, all []path, protocol string, l level, run loop) []row {
	rounds := make([][]sample, len(all))
	sums := make([]round, len(all))
	calls := healthy(protocol, l.calls)
	began := time.Now()
	for n := -1; n < 1 || (n < l.rounds && time.Since(began) < l.time && ctx.Err() == nil); n++ {
		for _, i := range order(len(all), n+1) {
			r := run(&all[i], l.callers, calls)
			if n >= 0 { // the first one warms up
				rounds[i] = append(rounds[i], sampleOf(r))
				sums[i].add(r)
			}
		}
	}
	rows := make([]row, len(all))
	for i, p := range all {
		slices.Sort(sums[i].took)
		whole, more := sampleOf(sums[i]), medianDifferences(rounds[i], rounds[0])
		rows[i] = row{
			Protocol: protocol, Callers: l.callers, Path: p.name, P50: whole[0], P90: whole[1], P99: whole[2], CPU: whole[3],
			Added: added{more[0], more[1], more[2], more[3]}, Failed: sums[i].failed,
		}
	}
	return rows
}

// order is that of n paths in a round: it alternates between forwards and backwards,
// and starts with each as often.
func order(n, round int) []int {
	paths := make([]int, n)
	for i := range paths {
		paths[i] = (round/2 + i) % n
	}
	if round%2 != 0 {
		slices.Reverse(paths)
	}
	return paths
}

// sample is what is known of a round: p50, p90, p99 and CPU time for each call, in
// microseconds.
type sample [4]float64

func sampleOf(r round) sample {
	return sample{us(r.quantile(0.5)), us(r.quantile(0.9)), us(r.quantile(0.99)), us(r.cpuPerCall())}
}

// medianDifferences gives, for each value, the median of what it is more than less in
// the same round.
func medianDifferences(rounds, less []sample) (m sample) {
	for v := range m {
		values := make([]float64, len(rounds))
		for i, s := range rounds {
			values[i] = s[v] - less[i][v]
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
