package hedge

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestBuckets pins that buckets are in order, without gaps, and at most 1/16 wide.
func TestBuckets(t *testing.T) {
	last := time.Duration(0)
	for i := range buckets {
		up := upper(i)
		if up <= last {
			t.Fatalf("bucket %d ends at %v, and the one before at %v", i, up, last)
		}
		if got := bucketOf(up - 1); got != i {
			t.Errorf("%v: got bucket %d, want %d", up-1, got, i)
		}
		if got := bucketOf(up); got != min(i+1, buckets-1) {
			t.Errorf("%v: got bucket %d, want %d", up, got, i+1)
		}
		if i >= steps && float64(up-last)/float64(last) > 1.0/steps+1e-9 {
			t.Errorf("bucket %d is from %v to %v", i, last, up)
		}
		if last = up; up > math.MaxInt64/4 {
			break
		}
	}
	for _, d := range []time.Duration{-1, 0, 1, math.MaxInt64} {
		if got := bucketOf(d); got < 0 || got >= buckets {
			t.Errorf("%v: got bucket %d of %d", d, got, buckets)
		}
	}
}

// TestLatency_estimate compares the estimate with the percentile of the sorted latencies.
func TestLatency_estimate(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for name, draw := range map[string]func() float64{
		"uniform":     random.Float64,
		"exponential": random.ExpFloat64,
		"heavy tail":  func() float64 { return math.Exp(3 * random.NormFloat64()) },
	} {
		for _, percentile := range []float64{50, 90, 95, 99, 99.9} {
			l := newLatency(percentile, time.Minute, 100)
			var all []time.Duration
			for range 20_000 {
				d := time.Duration(draw() * float64(50*time.Millisecond))
				l.record(0, d)
				all = append(all, d)
			}
			slices.Sort(all)
			want := all[len(all)-1-int(float64(len(all))*(100-percentile)/100)]
			got := l.estimate(0)
			if ratio := float64(got) / float64(want); ratio < 0.999 || ratio > 1.08 {
				t.Errorf("%s, %v: got %v, want %v", name, percentile, got, want)
			}
		}
	}
}

// TestLatency_window pins that there is no estimate of too few latencies, that an estimate is used
// for a while, and that old latencies are dropped.
func TestLatency_window(t *testing.T) {
	l := newLatency(90, 10*time.Second, 20)
	record := func(now time.Duration, n int, d time.Duration) {
		for range n {
			l.record(now, d)
		}
	}
	want := func(now, least, most time.Duration) {
		t.Helper()
		if got := l.estimate(now); got < least || got > most {
			t.Errorf("at %v: got %v, want from %v to %v", now, got, least, most)
		}
	}
	record(0, 19, time.Second)
	want(0, 0, 0)
	record(0, 1, time.Second)
	want(fresh-1, 0, 0)
	want(fresh, time.Second, 1100*time.Millisecond)
	record(4*time.Second, 1000, 10*time.Millisecond)
	want(4*time.Second, 10*time.Millisecond, 11*time.Millisecond)
	record(6*time.Second, 1000, 100*time.Millisecond)
	want(6*time.Second, 100*time.Millisecond, 110*time.Millisecond)
	want(11*time.Second, 100*time.Millisecond, 110*time.Millisecond) // those of the previous span
	want(16*time.Second, 0, 0)
	record(time.Hour, 20, time.Millisecond)
	want(time.Hour, time.Millisecond, 1100*time.Microsecond)
	record(0, 20, time.Millisecond) // an instant that has passed counts as the latest
	want(time.Hour+fresh, time.Millisecond, 1100*time.Microsecond)
}

// TestLatency_concurrent records and reads concurrently, for the race detector.
func TestLatency_concurrent(t *testing.T) {
	l := newLatency(95, 20*time.Millisecond, 1)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range 5000 {
				now := time.Duration(i) * 20 * time.Microsecond
				l.record(now, time.Millisecond)
				if got := l.estimate(now); got != 0 && (got < time.Millisecond || got > 1100*time.Microsecond) {
					t.Errorf("got %v, want 1ms or none", got)
				}
			}
		})
	}
	all.Wait()
}

// TestLatency_allocations pins that neither recording nor estimating allocates.
func TestLatency_allocations(t *testing.T) {
	l := newLatency(95, time.Millisecond, 1)
	now := time.Duration(0)
	if got := testing.AllocsPerRun(1000, func() {
		now += 100 * time.Microsecond
		l.record(now, time.Second)
		l.estimate(now)
	}); got != 0 {
		t.Errorf("got %v allocations, want none", got)
	}
}

func BenchmarkLatency_record(b *testing.B) {
	l := newLatency(95, 10*time.Second, 20)
	b.ReportAllocs()
	for b.Loop() {
		l.record(time.Second, 12*time.Millisecond)
	}
}
