package ratelimit

import (
	"strings"
	"sync"
	"time"
)

// keys holds at most most buckets, by key. A full bucket is equal to a new one. So it is dropped when
// another key needs its room.
type keys struct {
	most int

	mu      sync.RWMutex
	buckets map[string]*bucket // guarded by mu
}

func newKeys(most int) *keys { return &keys{most: most, buckets: map[string]*bucket{}} }

// take takes a token from the bucket of a key, and makes the bucket if there is none. ok reports
// whether there was a token, there whether the key has a bucket: it has none if there is no room.
func (k *keys) take(key string, r rate, now time.Duration) (ok, there bool) {
	if ok, there = k.find(key, r, now); there {
		return ok, true
	}
	return k.add(key, r, now)
}

// find is take for a key that has a bucket. It holds mu so that the bucket is not dropped meanwhile:
// the key would then have its tokens twice.
func (k *keys) find(key string, r rate, now time.Duration) (ok, there bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	b := k.buckets[key]
	return b != nil && b.take(r, now), b != nil
}

// add is take for a key that has no bucket.
func (k *keys) add(key string, r rate, now time.Duration) (ok, there bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	b := k.buckets[key]
	if b == nil {
		if len(k.buckets) >= k.most && !k.makeRoom(r, now) {
			return false, false
		}
		b = r.newBucket(now)
		k.buckets[strings.Clone(key)] = b // key may be a part of a long string
	}
	return b.take(r, now), true
}

// looks is the number of buckets, in random order, that makeRoom checks. It is constant so that the
// cost of a call does not grow with the number of buckets.
const looks = 16

// makeRoom drops full buckets. It reports whether it dropped one. The caller holds mu.
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
