//go:build unix

package pool_test

import (
	"slices"
	"syscall"
	"testing"
	"time"
)

// processTime returns the CPU time that the process has used.
func processTime(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// BenchmarkRatio reports the pool's CPU time as a share of a bare transport's: the medians
// of blocks that take turns, so that a busy machine does not matter much.
func BenchmarkRatio(b *testing.B) {
	for name, response := range map[string]string{"body": cannedBody, "empty": cannedEmpty} {
		b.Run(name, func(b *testing.B) {
			ways, end := canned(response)
			defer end()
			req := benchRequest(b)
			took := map[string][]time.Duration{}
			for b.Loop() {
				for way, send := range ways {
					start := processTime(b)
					for range 300 {
						if err := send(req); err != nil {
							b.Fatal(err)
						}
					}
					took[way] = append(took[way], processTime(b)-start)
				}
			}
			median := func(way string) float64 {
				slices.Sort(took[way])
				return float64(took[way][len(took[way])/2])
			}
			for _, way := range []string{"pool", "storage"} {
				b.ReportMetric(median(way)/median("transport"), way+"/transport")
			}
		})
	}
}
