package main

import (
	"context"
	"slices"
	"time"

	"github.com/pillion-go/pillion/internal/measured"
)

// row is the result of one path with a number of callers: the calls of all rounds
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

// added is by how much a path took longer than the bare client in the same round:
// medians over all rounds. Noise lists those values that may as well be 0 or less.
type added struct {
	P50   float64 `json:"p50_us"`
	P90   float64 `json:"p90_us"`
	P99   float64 `json:"p99_us"`
	CPU   float64 `json:"cpu_us_per_call"`
	Noise noise   `json:"within_noise"`
}

// noise reports for each value of added that it is within the noise.
type noise struct {
	P50 bool `json:"p50"`
	P90 bool `json:"p90"`
	P99 bool `json:"p99"`
	CPU bool `json:"cpu"`
}

// level is a number of callers, of the calls that they make on each path in a round,
// and of rounds; there are fewer rounds when the time is over.
type level struct {
	callers, calls, rounds int
	time                   time.Duration
}

// loop makes the calls of one round.
type loop func(p *path, callers int, calls []call) round

// measure makes the same calls on all paths, one after the other, each round in
// another order. The bare path is the first.
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
		whole := sampleOf(sums[i])
		rows[i] = row{
			Protocol: protocol, Callers: l.callers, Path: p.name, P50: whole[0], P90: whole[1], P99: whole[2], CPU: whole[3],
			Added: addedTo(rounds[0], rounds[i]), Failed: sums[i].failed,
		}
	}
	return rows
}

// order is the order of n paths in a round. It alternates between forwards and
// backwards, and starts with each path equally often.
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

// sample is the result of a round: p50, p90, p99 and CPU time for each call, in
// microseconds.
type sample [4]float64

func sampleOf(r round) sample {
	return sample{us(r.quantile(0.5)), us(r.quantile(0.9)), us(r.quantile(0.99)), us(r.cpuPerCall())}
}

// addedTo compares the rounds of a path with those of the bare path.
func addedTo(bare, path []sample) added {
	var m sample
	var n [len(m)]bool
	for v := range m {
		d := differences(path, bare, v)
		m[v], n[v] = measured.Median(d), measured.WithinNoise(d)
	}
	return added{m[0], m[1], m[2], m[3], noise{n[0], n[1], n[2], n[3]}}
}

// differences are how much value v is above that of bare in the same round.
func differences(rounds, bare []sample, v int) []float64 {
	d := make([]float64, len(rounds))
	for i, s := range rounds {
		d[i] = s[v] - bare[i][v]
	}
	return d
}
