package main

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"time"
)

// candidate is one way to do a group's work. The first of a group is the bare
// work, which the others add to.
type candidate struct {
	name string
	op   func()
}

// group is a set of candidates that are measured beside each other.
type group struct {
	name       string
	candidates []candidate
	fine       bool // many short rounds: for work that is slow and noisy itself
}

// result is what a candidate cost: medians over the rounds.
type result struct {
	ns, added      float64 // per operation; added is paired with the bare work of the same round
	allocs, addedA float64
}

// measure runs all candidates of a group in each round, in a new order each
// time, since the machine's speed drifts.
func measure(g group, rounds int, slice time.Duration) map[string]result {
	if g.fine {
		rounds, slice = rounds*20, slice/10
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
		results[c.name] = result{
			ns: median(ns[i]), added: median(differences(ns[i], ns[0])),
			allocs: median(allocs[i]), addedA: median(differences(allocs[i], allocs[0])),
		}
	}
	return results
}

// calibrate finds how many operations fill a slice of time.
func calibrate(op func(), slice time.Duration) int {
	for n := 1; ; n *= 2 {
		start := time.Now()
		for range n {
			op()
		}
		if d := time.Since(start); d >= slice/4 {
			return max(1, int(float64(n)*float64(slice)/float64(d)))
		}
	}
}

func timed(op func(), n int) (ns, allocs float64) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	for range n {
		op()
	}
	d := time.Since(start)
	runtime.ReadMemStats(&after)
	return float64(d.Nanoseconds()) / float64(n), float64(after.Mallocs-before.Mallocs) / float64(n)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func differences(values, bare []float64) []float64 {
	d := make([]float64, len(values))
	for i := range values {
		d[i] = values[i] - bare[i]
	}
	return d
}
