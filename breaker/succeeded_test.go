package breaker

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestCircuit_succeededConcurrently checks that no success is lost or counted twice while other
// goroutines take the lock.
func TestCircuit_succeededConcurrently(t *testing.T) {
	const goroutines, each = 8, 2000
	c := newCircuit(Config{Threshold: Never, Period: time.Hour}.withDefaults())
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for range each {
				c.record(Success)
			}
		})
		wg.Go(func() {
			for range each / 10 {
				c.record(Failure)
				if s := c.status(); s.Success > goroutines*each {
					t.Errorf("got %d successes, want at most %d", s.Success, goroutines*each)
				}
			}
		})
	}
	wg.Wait()
	want := Status{Success: goroutines * each, Failure: goroutines * each / 10}
	if got := c.status(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestCircuit_succeededBuckets checks that a success that was counted without the lock leaves the window
// with its own bucket, whichever call takes the lock next.
func TestCircuit_succeededBuckets(t *testing.T) {
	next := map[string]func(*circuit){
		"admit":  func(c *circuit) { _, _ = c.admit(true) },
		"record": func(c *circuit) { c.record(Rejection) },
		"status": func(c *circuit) { c.status() },
		"left":   func(c *circuit) { c.left() },
	}
	for name, lock := range next {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCircuit(Config{Period: 10 * time.Second}.withDefaults())
				want := func(successes int64) {
					t.Helper()
					if got := c.status().Success; got != successes {
						t.Errorf("got %d successes, want %d", got, successes)
					}
				}
				c.cannotTrip.Store(false) // so that admit takes the lock
				c.record(Success)         // in the first bucket
				time.Sleep(5 * time.Second)
				lock(c)
				c.record(Success) // in the sixth
				time.Sleep(5*time.Second - 1)
				want(2)
				time.Sleep(time.Nanosecond)
				want(1)
				time.Sleep(5 * time.Second)
				want(0)
			})
		})
	}
}
