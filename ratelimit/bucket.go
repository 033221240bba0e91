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

// full reports whether the bucket is full at the instant now, and so is equal to a new one.
func (b *bucket) full(r rate, now time.Duration) bool {
	return r.at(now)-math.Float64frombits(b.empty.Load()) >= r.max-nearly
}
