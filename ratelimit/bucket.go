package ratelimit

import (
	"math"
	"sync/atomic"
	"time"
)

// rate is the rate at which buckets fill. They fill continuously, as in Envoy.
type rate struct {
	max    float64 // the maximum number of tokens
	tokens float64 // the number of tokens added in a nanosecond
}

// at converts the instant now to tokens: the number added since the clock began.
func (r rate) at(now time.Duration) float64 { return float64(now) * r.tokens }

// nearly is the tolerance for rounding errors.
const nearly = 1e-9

// bucket is a token bucket. All instants are arguments. Its state is one number, empty: at the
// instant t, in tokens, the bucket holds t - empty tokens. It is safe for concurrent use.
type bucket struct{ empty atomic.Uint64 } // the bits of a float64

// newBucket returns a full bucket.
func (r rate) newBucket(now time.Duration) *bucket {
	b := &bucket{}
	b.empty.Store(math.Float64bits(r.at(now) - r.max))
	return b
}

// level returns now and empty, in tokens. The bucket holds at - empty tokens, at most r.max.
func (b *bucket) level(r rate, now time.Duration) (at, empty float64) {
	at = r.at(now)
	return at, max(math.Float64frombits(b.empty.Load()), at-r.max)
}

// take takes a token at the instant now. It returns false if there is none.
func (b *bucket) take(r rate, now time.Duration) bool {
	at := r.at(now)
	for {
		was := b.empty.Load()
		empty := max(math.Float64frombits(was), at-r.max)
		if at-empty < 1-nearly {
			return false
		}
		if b.empty.CompareAndSwap(was, math.Float64bits(empty+1)) {
			return true
		}
	}
}

// left returns the number of whole tokens at the instant now.
func (b *bucket) left(r rate, now time.Duration) int {
	at, empty := b.level(r, now)
	return int(max(0, at-empty+nearly))
}

// wait returns the time from now until there is a token, 0 if there is one.
func (b *bucket) wait(r rate, now time.Duration) time.Duration {
	at, empty := b.level(r, now)
	missing := 1 - (at - empty)
	if missing <= nearly {
		return 0
	}
	return time.Duration(min(math.Ceil(missing/r.tokens), float64(longest)))
}

// longest is the maximum that wait returns.
const longest = 100 * 365 * 24 * time.Hour

// full reports whether the bucket is full at the instant now, and so is equal to a new one.
func (b *bucket) full(r rate, now time.Duration) bool {
	return r.at(now)-math.Float64frombits(b.empty.Load()) >= r.max-nearly
}
