package main

import (
	"log"
	"math"
	"math/rand/v2"
	"runtime"
	"syscall"
	"time"

	"github.com/pillion-go/pillion/internal/measured"
)

// candidate is one way to do a group's work. The first of a group is the bare work, to
// which the others add.
type candidate struct {
	name string
	op   func()
}

// group is a set of candidates that are measured together.
type group struct {
	name       string
	candidates []candidate
	fine       bool // more rounds, and no collection of garbage before each: for small differences of slow and noisy work
}

// result is the cost of a candidate's operation: medians over the rounds. What is added
// is the difference from the bare work in the same round.
type result struct {
	ns, added      float64
	noise          bool // added may as well be 0 or less
	allocs, addedA float64
	each           []float64 // what is added in each round
}

// ratio returns the median, over the rounds, of what r adds divided by what rival adds. The candidates
// of a round run one shortly after the other, so a machine that is slow for a while changes little. It
// returns NaN, which meets no bound, if one of them was not measured.
func (r result) ratio(rival result) float64 {
	if len(r.each) == 0 || len(r.each) != len(rival.each) {
		return math.NaN()
	}
	ratios := make([]float64, len(r.each))
	for i := range ratios {
		ratios[i] = quotient(r.each[i], rival.each[i])
	}
	return measured.Median(ratios)
}

// quotient returns ours/theirs. Noise can make either of them 0 or less: then it returns 0 if ours is,
// else infinity, so that a rival that seems to cost nothing does not meet a bound.
func quotient(ours, theirs float64) float64 {
	switch {
	case ours <= 0:
		return 0
	case theirs <= 0:
		return math.Inf(1)
	}
	return ours / theirs
}

// measure runs all candidates of a group in each round. The order is random, since the
// machine's speed drifts.
func measure(g group, rounds int, slice time.Duration) map[string]result {
	if g.fine {
		rounds *= 2
	}
	n := make([]int, len(g.candidates))
	for i, c := range g.candidates {
		n[i] = calibrate(c.op, slice)
	}
	ns := make([][]float64, len(g.candidates))
	allocs := make([][]float64, len(g.candidates))
	for range rounds {
		for _, i := range rand.Perm(len(g.candidates)) {
			if !g.fine {
				runtime.GC() // each starts with a clean heap
			}
			t, a := timed(g.candidates[i].op, n[i])
			ns[i] = append(ns[i], t)
			allocs[i] = append(allocs[i], a)
		}
	}
	results := map[string]result{}
	for i, c := range g.candidates {
		added := differences(ns[i], ns[0])
		results[c.name] = result{
			ns: measured.Median(ns[i]), added: measured.Median(added), noise: measured.WithinNoise(added),
			allocs: measured.Median(allocs[i]), addedA: measured.Median(differences(allocs[i], allocs[0])),
			each: added,
		}
	}
	return results
}

// calibrate returns how many operations fill a slice of time. It believes the fastest of several
// trials: other work of the process, such as a collection of garbage, can make one of them slow, and
// with too few operations the candidate would be measured cold.
func calibrate(op func(), slice time.Duration) int {
	for n := 1; ; n *= 2 {
		if d := fastest(op, n, slice); d >= slice {
			return max(1, int(float64(n)*float64(slice)/float64(d)))
		}
	}
}

// fastest returns the processor time of the fastest of five trials of n operations, or that of the
// first that takes less than slice.
func fastest(op func(), n int, slice time.Duration) time.Duration {
	best := time.Duration(math.MaxInt64)
	for range 5 {
		start := cpuTime()
		for range n {
			op()
		}
		if best = min(best, cpuTime()-start); best < slice {
			break
		}
	}
	return best
}

func timed(op func(), n int) (ns, allocs float64) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := cpuTime()
	for range n {
		op()
	}
	d := cpuTime() - start
	runtime.ReadMemStats(&after)
	return float64(d.Nanoseconds()) / float64(n), float64(after.Mallocs-before.Mallocs) / float64(n)
}

// cpuTime returns the processor time that the program has used so far. Other programs on the machine
// change it little, and it contains the work of the garbage collector.
func cpuTime() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		log.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func differences(values, bare []float64) []float64 {
	d := make([]float64, len(values))
	for i := range values {
		d[i] = values[i] - bare[i]
	}
	return d
}
