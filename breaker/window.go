package breaker

import (
	"math"
	"time"
)

// buckets is the number of buckets in a window. Expeditor has no option for it.
const buckets = 10

// counts holds a count for each [Result] that is counted.
type counts [resultCount]int64

// window is Expeditor's rolling counter: the sum of ten buckets on a grid that starts when the
// window is made or reset. An event counts for nine to ten bucket widths, depending on its
// position in its bucket. Each method takes the current time, which may step back: then nothing
// rolls.
type window struct {
	period  time.Duration
	start   time.Duration // the grid's origin
	current int64         // number of the newest bucket since start
	end     time.Duration // when the newest bucket ends
	ring    [buckets]counts
	sum     counts
}

// reset clears the counts and starts a new grid at now.
func (w *window) reset(now time.Duration) {
	*w = window{period: w.period, start: now}
	w.end = w.edge(1)
}

// edge returns when bucket i begins: the first instant at which elapsed*10/period, rounded
// down, is i.
func (w *window) edge(i int64) time.Duration {
	return w.start + (time.Duration(i)*w.period+buckets-1)/buckets
}

// roll drops the results that have left the window at now.
func (w *window) roll(now time.Duration) {
	if now >= w.end {
		w.advance(int64((now - w.start) * buckets / w.period))
	}
}

// advance makes bucket i the newest.
func (w *window) advance(i int64) {
	if i-w.current >= buckets {
		w.ring, w.sum = [buckets]counts{}, counts{}
	} else {
		for n := w.current + 1; n <= i; n++ {
			w.drop(&w.ring[n%buckets])
		}
	}
	w.current, w.end = i, w.edge(i+1)
}

// drop clears a bucket and subtracts it from the sum.
func (w *window) drop(b *counts) {
	for r := range b {
		w.sum[r] -= b[r]
	}
	*b = counts{}
}

// add counts a result r at now.
func (w *window) add(now time.Duration, r Result) {
	w.roll(now)
	w.ring[w.current%buckets][r]++
	w.sum[r]++
}

// succeeded counts n successes in the newest bucket.
func (w *window) succeeded(n int64) {
	w.ring[w.current%buckets][Success] += n
	w.sum[Success] += n
}

// before returns the number of successes in the bucket before the newest.
func (w *window) before() int64 { return w.ring[(w.current+buckets-1)%buckets][Success] }

// volume returns the number of results of which the threshold is a ratio.
func (w *window) volume() int64 { return w.sum[Success] + w.failing() }

// failing returns the number of results that count against the upstream.
func (w *window) failing() int64 { return w.sum[Failure] + w.sum[Timeout] }

// sum returns a+b, or the longest Duration on overflow. Neither a nor b may be negative.
func sum(a, b time.Duration) time.Duration {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// failingLeft returns the time from now until the window holds no failure, if none is added.
// The caller has rolled the window.
func (w *window) failingLeft(now time.Duration) time.Duration {
	for i := w.current; i > w.current-buckets && i >= 0; i-- {
		if b := &w.ring[i%buckets]; b[Failure]+b[Timeout] > 0 {
			return sum(w.edge(i), w.period) - now
		}
	}
	return 0
}
