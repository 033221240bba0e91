package hedge

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// latency estimates a percentile of the latencies in a window. The window consists of two spans of
// time, the current one and the previous one. Each span counts its latencies in buckets, whose bounds
// are at most 1/16 apart. So the memory is bounded, old latencies are dropped, and recording takes two
// atomic additions. All instants are arguments. It is safe for concurrent use.
type latency struct {
	percentile float64
	span       time.Duration // half of the window
	least      uint64        // the number of latencies that an estimate needs

	spans   [2]counts
	current atomic.Int64 // the number of the current span
	moving  sync.Mutex   // held while the current span changes

	next  atomic.Int64 // the instant of the next calculation
	known atomic.Int64 // the estimate; 0 for none
}

// counts are the latencies of one span.
type counts struct {
	buckets [buckets]atomic.Uint32
	total   atomic.Uint64
}

const (
	steps   = 16                     // buckets for each doubling
	unit    = 10 * time.Microsecond  // the width of the first buckets
	buckets = 40 * steps             // up to months, longer than any call
	fresh   = 100 * time.Millisecond // how long an estimate is used
)

// newLatency returns an estimator over a window.
func newLatency(percentile float64, window time.Duration, least int) *latency {
	return &latency{percentile: percentile, span: window / 2, least: uint64(least)} //nolint:gosec // it is not negative
}

// bucketOf returns the number of the bucket of a latency.
func bucketOf(d time.Duration) int {
	n := uint64(max(d/unit, 0))
	if n < steps {
		return int(n)
	}
	shift := bits.Len64(n) - 5                       // 16 <= n>>shift < 32
	return min(shift*steps+int(n>>shift), buckets-1) //nolint:gosec // it is below 32
}

// upper returns the upper bound of a bucket.
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

// move makes the span of the instant now the current span, unless a later one is, and returns the
// number of the current span. A latency that is recorded concurrently may be lost.
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
	if span > before+1 { // nothing was recorded for a whole span
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

// estimate returns the percentile at the instant now, or 0 if too few latencies are known.
func (l *latency) estimate(now time.Duration) time.Duration {
	next := l.next.Load()
	if int64(now) >= next && l.next.CompareAndSwap(next, int64(now+fresh)) {
		l.move(now)
		l.known.Store(int64(l.calculate()))
	}
	return time.Duration(l.known.Load())
}

// calculate computes the estimate from the buckets, 0 for none.
func (l *latency) calculate() time.Duration {
	total := l.spans[0].total.Load() + l.spans[1].total.Load()
	if total < l.least {
		return 0
	}
	above := uint64(float64(total) * (100 - l.percentile) / 100) // how many latencies may exceed the estimate
	for i := buckets - 1; i >= 0; i-- {
		n := uint64(l.spans[0].buckets[i].Load()) + uint64(l.spans[1].buckets[i].Load())
		if n > above {
			return upper(i)
		}
		above -= n
	}
	return 0
}
