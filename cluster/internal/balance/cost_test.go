//go:build unix

package balance

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"
)

// processTime returns the processor time that the process has used.
func processTime(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// reference is work with which picks are compared: it depends on the machine as they do.
func reference() func() {
	const n = 1000
	addresses, by := make([]string, n), map[string]*Host{}
	for i, h := range hosts(n) {
		addresses[i] = h.Endpoint().Address
		by[addresses[i]] = h
	}
	i := 0
	return func() {
		i = (i*31 + 7) % n
		by[addresses[i]].AddActive(1)
	}
}

// BenchmarkPickCost reports the processor time and the allocations of a pick among 1,000 hosts, and of
// the reference: medians of blocks that take turns, so that a busy machine does not matter much.
func BenchmarkPickCost(b *testing.B) {
	const rounds, picks = 41, 20_000
	ways := map[string]func(){"reference": reference()}
	for name, p := range policiesToMeasure(1000) {
		lb := balancer(b, p.Config, p.Membership)
		r := Request{HasHash: true, Now: time.Second}
		ways[name] = func() {
			r.Hash = r.Hash*6364136223846793005 + 1442695040888963407
			lb.Pick(r)
		}
	}
	names := []string{}
	for name := range ways {
		names = append(names, name)
	}
	slices.Sort(names)
	took, allocs := map[string][]float64{}, map[string]uint64{}
	for range rounds {
		for _, i := range rand.Perm(len(names)) {
			pick := ways[names[i]]
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := processTime(b)
			for range picks {
				pick()
			}
			took[names[i]] = append(took[names[i]], float64(processTime(b)-start)/picks)
			runtime.ReadMemStats(&after)
			allocs[names[i]] += after.Mallocs - before.Mallocs
		}
	}
	for _, name := range names {
		b.Run(name, func(b *testing.B) {
			slices.Sort(took[name])
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(took[name][rounds/2], "ns/pick")
			b.ReportMetric(float64(allocs[name])/(rounds*picks), "allocs/pick")
		})
	}
}
