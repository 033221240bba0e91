package ratelimit

import (
	"strings"
	"sync"
	"time"
)

// keys are the buckets of keys. There are never more of them than most. One that is full is as good
// as a new one, and makes room for another key.
type keys struct {
	most int

	mu      sync.RWMutex
	buckets map[string]*bucket // guarded by mu
}

func newKeys(most int) *keys { return &keys{most: most, buckets: map[string]*bucket{}} }

// take takes a token out of the bucket of a key. There is none if there is no room for one.
func (k *keys) take(key string, r rate, now time.Duration) (ok, there bool) {
	if ok, there = k.find(key, r, now); there {
		return ok, true
	}
	return k.add(key, r, now)
}

// find takes a token out of a bucket that is there. It holds mu: a bucket that is dropped
// meanwhile would have tokens that a new one has too.
func (k *keys) find(key string, r rate, now time.Duration) (ok, there bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	b := k.buckets[key]
	return b != nil && b.take(r, now), b != nil
}

// add is take for a key that had no bucket.
func (k *keys) add(key string, r rate, now time.Duration) (ok, there bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	b := k.buckets[key]
	if b == nil {
		if len(k.buckets) >= k.most && !k.makeRoom(r, now) {
			return false, false
		}
		b = r.newBucket(now)
		k.buckets[strings.Clone(key)] = b // which may be a part of something large
	}
	return b.take(r, now), true
}

// looks is how many buckets are looked at to make room for another: the cost of a call must not
// grow with their number. The order is random.
const looks = 16

// makeRoom drops buckets that are full. It reports whether there was one. The caller holds mu.
func (k *keys) makeRoom(r rate, now time.Duration) (made bool) {
	n := 0
	for key, b := range k.buckets {
		if b.full(r, now) {
			delete(k.buckets, key)
			made = true
		}
		if n++; n == looks {
			break
		}
	}
	return made
}
