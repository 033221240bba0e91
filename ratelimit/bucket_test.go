package ratelimit

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// model is a slow token bucket that computes with exact integers. Each per adds fill tokens.
type model struct {
	max, fill int64
	per       time.Duration
	units     int64 // a token is per units
	last      time.Duration
}

func (m *model) take(now time.Duration) bool {
	m.units = min(m.max*int64(m.per), m.units+int64(now-m.last)*m.fill)
	m.last = now
	if m.units < int64(m.per) {
		return false
	}
	m.units -= int64(m.per)
	return true
}

// TestBucket compares the bucket with the model at random instants. They may differ if a token is
// added in that nanosecond.
func TestBucket(t *testing.T) {
	for _, tc := range []struct {
		max, fill int
		per       time.Duration
	}{{1, 1, time.Minute}, {3, 3, 50 * time.Millisecond}, {100, 7, time.Second}, {1000, 1000, 50 * time.Millisecond}, {5, 1, time.Hour}} {
		t.Run(fmt.Sprintf("%+v", tc), func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, 2))
			r := TokenBucket{MaxTokens: tc.max, TokensPerFill: tc.fill, FillInterval: tc.per}.rate()
			b := r.newBucket(0)
			m := &model{max: int64(tc.max), fill: int64(tc.fill), per: tc.per, units: int64(tc.max) * int64(tc.per)}
			each := float64(tc.per) / float64(tc.fill)
			now, difference := time.Duration(0), 0
			for range 20_000 {
				now += time.Duration(random.ExpFloat64() * each)
				got, want := b.take(r, now), m.take(now)
				if got != want {
					difference++
					m.units -= int64(m.per) * map[bool]int64{true: 1, false: -1}[got]
				}
			}
			if difference > 2 {
				t.Errorf("%d of 20,000 takes differ from the model, want at most 2", difference)
			}
		})
	}
}

// TestBucket_exact pins single instants.
func TestBucket_exact(t *testing.T) {
	r := TokenBucket{MaxTokens: 3, TokensPerFill: 3, FillInterval: 50 * time.Millisecond}.rate()
	b := r.newBucket(0)
	const third = 50 * time.Millisecond / 3
	steps := []struct {
		at   time.Duration
		take bool
		left int
		wait time.Duration
	}{
		{0, true, 2, 0},
		{0, true, 1, 0},
		{0, true, 0, third + 1},
		{0, false, 0, third + 1},
		{third - 1, false, 0, 2},
		{third + 1, true, 0, third + 1},
		{50*time.Millisecond + 1, true, 1, 0},
		{time.Hour, true, 2, 0},
	}
	for _, s := range steps {
		if got := b.take(r, s.at); got != s.take {
			t.Errorf("at %v: got %v, want %v", s.at, got, s.take)
		}
		if left, wait := b.left(r, s.at), b.wait(r, s.at); left != s.left || wait != s.wait {
			t.Errorf("at %v: got %d left and a wait of %v, want %d and %v", s.at, left, wait, s.left, s.wait)
		}
		if full := b.full(r, s.at); full {
			t.Errorf("at %v: the bucket is full", s.at)
		}
	}
	if !b.full(r, time.Hour+50*time.Millisecond) {
		t.Error("at the end: the bucket is not full")
	}
}

// TestBucket_concurrent pins that concurrent callers take at most the tokens of the bucket.
func TestBucket_concurrent(t *testing.T) {
	r := TokenBucket{MaxTokens: 1000, FillInterval: time.Hour}.rate()
	b := r.newBucket(0)
	var taken atomic.Int64
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for range 500 {
				if b.take(r, time.Second) {
					taken.Add(1)
				}
			}
		})
	}
	callers.Wait()
	if n := taken.Load(); n != 1000 {
		t.Errorf("got %d, want 1000", n)
	}
}

// FuzzBucket takes tokens at any instants, which may go back. It checks that at most the tokens are
// taken that the bucket held at the start or that were added.
func FuzzBucket(f *testing.F) {
	f.Add(uint16(3), uint16(3), int64(50_000_000), []byte{0, 0, 1, 200, 3})
	f.Add(uint16(0), uint16(1), int64(1_000_000_000), []byte{255, 255})
	f.Fuzz(func(t *testing.T, most, fill uint16, per int64, steps []byte) {
		if per < int64(shortestInterval) || per > int64(time.Hour) || fill == 0 {
			return
		}
		r := rate{max: float64(most), tokens: float64(fill) / float64(per)}
		b := r.newBucket(0)
		now, latest, taken := time.Duration(0), time.Duration(0), 0
		for _, s := range steps {
			now += time.Duration(int8(s)) * time.Duration(per) / 16
			latest = max(latest, now)
			if left := b.left(r, now); left < 0 || left > int(most) {
				t.Fatalf("got %d left of %d", left, most)
			}
			if b.take(r, now) {
				taken++
			}
		}
		if limit := float64(most) + r.at(latest) + 1e-3; float64(taken) > limit {
			t.Errorf("got %d tokens in %v, want at most %v", taken, latest, limit)
		}
	})
}

// level returns now and empty, in tokens. The bucket holds at - empty tokens, at most r.max.
func (b *bucket) level(r rate, now time.Duration) (at, empty float64) {
	at = r.at(now)
	return at, max(math.Float64frombits(b.empty.Load()), at-r.max)
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
