package breaker

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// TestCircuit_fresh compares a busy circuit, which counts most successes without the clock, with a slow
// model. Many calls end exactly at the end of a bucket or 1ns beside it.
func TestCircuit_fresh(t *testing.T) {
	withoutClock, withClock := 0, 0
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 9))
			cfg := Config{Threshold: Never, Period: []time.Duration{10 * time.Second, time.Second, 7*time.Second + 3, 500 * time.Millisecond}[seed%4]}
			c, slow := newCircuit(cfg.withDefaults()), newSlowBreaker(cfg, 0)
			for i := range 200 {
				width := cfg.Period / buckets
				left := time.Duration(c.end.Load()) - c.now()
				if i%2 == 0 { // else several in a row at the same time
					time.Sleep(max(0, []time.Duration{left - 1, left, left + 1, left - width/8, width / 8, time.Duration(r.Int64N(int64(width))), time.Duration(r.Int64N(4 * int64(width)))}[r.IntN(7)]))
				}
				now := c.now()
				for range []int{1, 30, 100}[r.IntN(3)] {
					if c.fresh.Load() {
						withoutClock++
					} else {
						withClock++
					}
					c.record(Success)
					slow.record(Success, now)
				}
				if r.IntN(8) == 0 {
					c.record(Failure)
					slow.record(Failure, now)
				}
				if r.IntN(3) == 0 {
					slow.window.roll(now)
					if got, want := c.status(), slow.window.sum().status(); got != want {
						t.Fatalf("seed %d, event %d at %v: got %+v, want %+v", seed, i, now, got, want)
					}
				}
			}
		})
	}
	if withoutClock < 10000 || withClock < 10000 {
		t.Errorf("got %d successes without the clock and %d with it, want at least 10000 of each", withoutClock, withClock)
	}
}

// TestCircuit_idle checks that a circuit without calls needs no timer, and a busy one does not keep it.
func TestCircuit_idle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCircuit(Config{Period: 10 * time.Second}.withDefaults())
		call := func(n int) {
			for range n {
				c.record(Success)
			}
		}
		call(busy)
		if c.fresh.Load() {
			t.Error("the first bucket is fresh, and none before it was busy")
		}
		time.Sleep(time.Second)
		call(1)
		if !c.fresh.Load() {
			t.Error("the bucket after a busy one is not fresh")
		}
		time.Sleep(time.Second - time.Second/8)
		synctest.Wait()
		if c.fresh.Load() {
			t.Error("the bucket is fresh shortly before its end")
		}
		time.Sleep(time.Second)
		call(1)
		if c.fresh.Load() {
			t.Error("the bucket after an idle one is fresh")
		}
		if got := c.status().Success; got != busy+2 {
			t.Errorf("got %d successes, want %d", got, busy+2)
		}
	})
}
