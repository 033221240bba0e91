package hedge

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// latency estimates a percentile of the latest latencies. It counts them in buckets, whose bounds
// are at most 1/16 apart, of two spans of time: the current one, and the one before. So its memory
// is bounded, old latencies are forgotten, and recording is one atomic addition. It depends on nothing but the instants that it
// is given, and is safe for concurrent use.
type latency struct {
	percentile float64
	span       time.Duration // half of the window
	least      uint64        // latencies, before there is an estimate

	spans   [2]counts
	current atomic.Int64 // number of the current span
	moving  sync.Mutex   // held while the spans move on

	next  atomic.Int64 // when the estimate is made anew
	known atomic.Int64 // the estimate, 0 for none
}

// counts are the latencies of one span.
type counts struct {
	buckets [buckets]atomic.Uint32
	total   atomic.Uint64
}

const (
	steps   = 16                     // buckets for each doubling
	unit    = 10 * time.Microsecond  // below it all latencies are one
	buckets = 40 * steps             // up to months, more than any call takes
	fresh   = 100 * time.Millisecond // how long an estimate holds
)

// newLatency makes an estimator over a window.
func newLatency(percentile float64, window time.Duration, least int) *latency {
	return &latency{percentile: percentile, span: window / 2, least: uint64(least)} //nolint:gosec // it is not negative
}

// bucketOf returns the bucket of a latency.
func bucketOf(d time.Duration) int {
	n := uint64(max(d/unit, 0))
	if n < steps {
		return int(n)
	}
	shift := bits.Len64(n) - 5                       // so that 16 <= n>>shift < 32
	return min(shift*steps+int(n>>shift), buckets-1) //nolint:gosec // it is below 32
}

// upper returns the largest latency of a bucket.
func upper(bucket int) time.Duration {
	if bucket < steps {
		return time.Duration(bucket+1) * unit
	}
	shift := bucket/steps - 1
	return time.Duration(bucket%steps+steps+1) << shift * unit
}

// record counts a latency.
func (l *latency) record(now, d time.Duration) {
	c := &l.spans[l.move(now)&1]
	c.buckets[bucketOf(d)].Add(1)
	c.total.Add(1)
}

// move makes the span of the instant now the current one, and returns its number. What is recorded
// concurrently may be lost.
func (l *latency) move(now time.Duration) int64 {
	span := int64(now / l.span)
	if l.current.Load() >= span {
		return l.current.Load()
	}
	l.moving.Lock()
	defer l.moving.Unlock()
	before := l.current.Load()
	if before >= span {
		return before
	}
	l.spans[span&1].clear()
	if span > before+1 { // there was nothing for a whole span
		l.spans[before&1].clear()
	}
	l.current.Store(span)
	return span
}

func (c *counts) clear() {
	for i := range c.buckets {
		c.buckets[i].Store(0)
	}
	c.total.Store(0)
}

// estimate returns the percentile at the instant now, 0 if too few latencies are known.
func (l *latency) estimate(now time.Duration) time.Duration {
	next := l.next.Load()
	if int64(now) >= next && l.next.CompareAndSwap(next, int64(now+fresh)) {
		l.move(now)
		l.known.Store(int64(l.calculate()))
	}
	return time.Duration(l.known.Load())
}

// calculate goes through the buckets.
func (l *latency) calculate() time.Duration {
	total := l.spans[0].total.Load() + l.spans[1].total.Load()
	if total < l.least {
		return 0
	}
	above := uint64(float64(total) * (100 - l.percentile) / 100) // how many may be above
	for i := buckets - 1; i >= 0; i-- {
		n := uint64(l.spans[0].buckets[i].Load()) + uint64(l.spans[1].buckets[i].Load())
		if n > above {
			return upper(i)
		}
		above -= n
	}
	return 0
}
