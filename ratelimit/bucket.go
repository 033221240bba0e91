package ratelimit

import (
	"math"
	"sync/atomic"
	"time"
)

// rate says how buckets fill: continuously, as Envoy's do.
type rate struct {
	max    float64 // the most tokens
	tokens float64 // that come in a nanosecond
}

// at is the instant now as a number of tokens: how many have come since the clock began.
func (r rate) at(now time.Duration) float64 { return float64(now) * r.tokens }

// nearly allows for what is lost in rounding.
const nearly = 1e-9

// bucket is a token bucket. It depends on nothing but the instants that it is given, and is safe
// for concurrent use: all its state is one number, the instant at which it would have been empty
// if nothing had been taken since.
type bucket struct{ empty atomic.Uint64 } // of a float64, in tokens

// newBucket makes a full bucket.
func (r rate) newBucket(now time.Duration) *bucket {
	b := &bucket{}
	b.empty.Store(math.Float64bits(r.at(now) - r.max))
	return b
}

// level returns the instants now and empty; the latter as if nothing had run over.
func (b *bucket) level(r rate, now time.Duration) (at, empty float64) {
	at = r.at(now)
	return at, max(math.Float64frombits(b.empty.Load()), at-r.max)
}

// take takes a token at the instant now, if there is one.
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

// left is how many tokens there are at the instant now.
func (b *bucket) left(r rate, now time.Duration) int {
	at, empty := b.level(r, now)
	return int(max(0, at-empty+nearly))
}

// wait is how long until there is a token, 0 if there is one.
func (b *bucket) wait(r rate, now time.Duration) time.Duration {
	at, empty := b.level(r, now)
	missing := 1 - (at - empty)
	if missing <= nearly {
		return 0
	}
	return time.Duration(min(math.Ceil(missing/r.tokens), float64(longest)))
}

// longest bounds the wait for a token.
const longest = 100 * 365 * 24 * time.Hour

// full reports whether the bucket holds all that it can: then it is as a new one.
func (b *bucket) full(r rate, now time.Duration) bool {
	return r.at(now)-math.Float64frombits(b.empty.Load()) >= r.max-nearly
}
