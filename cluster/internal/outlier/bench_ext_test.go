package outlier_test

import (
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/pillion-go/pillion/cluster/internal/outlier"
)

func bigDetector(tb testing.TB, hosts int) (*outlier.Detector[string], []string) {
	tb.Helper()
	d, err := outlier.New[string](outlier.Defaults(), rand.Uint64, start)
	if err != nil {
		tb.Fatal(err)
	}
	names := make([]string, hosts)
	for i := range names {
		names[i] = "10.0.0." + strconv.Itoa(i) + ":8080"
	}
	d.Update(names, nil)
	return d, names
}

// TestAllocations: results that detect nothing, also those of runs that go on, allocate
// nothing; nor do an idle tick and what a picker reads.
func TestAllocations(t *testing.T) {
	d, names := bigDetector(t, 100)
	d.Report(names[0], outlier.Response(200), start)
	now := start
	for name, f := range map[string]func(){
		"success": func() { d.Report(names[1], outlier.Response(200), now) },
		"failure": func() {
			d.Report(names[1], outlier.Response(503), now)
			d.Report(names[1], outlier.Response(200), now)
		},
		"connect": func() { d.Report(names[1], outlier.Result{Outcome: outlier.ConnectSuccess}, now) },
		"unknown": func() { d.Report("unknown", outlier.Response(200), now) },
		"ejected": func() { d.Ejected(names[1]) },
		"status":  func() { d.Status(names[1]) },
		"stat":    func() { d.Stat(outlier.EjectionsActive) },
		"tick": func() {
			d.Report(names[1], outlier.Response(200), now)
			now = now.Add(10 * second)
			d.Tick(now)
		},
	} {
		if got := testing.AllocsPerRun(100, f); got != 0 {
			t.Errorf("%s: got %v allocations, want 0", name, got)
		}
	}
}

func BenchmarkReport(b *testing.B) {
	for _, hosts := range []int{1, 10, 1000} {
		d, names := bigDetector(b, hosts)
		b.Run("success/"+strconv.Itoa(hosts), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				d.Report(names[i%hosts], outlier.Response(200), start)
			}
		})
		b.Run("parallel/"+strconv.Itoa(hosts), func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					d.Report(names[i%hosts], outlier.Response(200), start)
				}
			})
		})
	}
}

func BenchmarkTick(b *testing.B) {
	for _, hosts := range []int{10, 1000, 10000} {
		b.Run(strconv.Itoa(hosts), func(b *testing.B) {
			d, names := bigDetector(b, hosts)
			b.ReportAllocs()
			now := start
			for b.Loop() {
				for _, name := range names {
					for range 5 {
						d.Report(name, outlier.Response(200), now)
					}
				}
				now = now.Add(10 * time.Second)
				d.Tick(now)
			}
		})
	}
}
