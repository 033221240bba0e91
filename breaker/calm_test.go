package breaker

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestCircuit_calm runs the same schedule on a normal circuit, on one that takes the lock for each
// admission, and on a slow model. Failures are rare, so that the window often holds enough of them to trip
// one day, but not yet.
func TestCircuit_calm(t *testing.T) {
	shortcuts, refusals := 0, 0
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			s := newSchedule(seed)
			quick, thorough, slow := newCircuit(s.cfg.withDefaults()), newCircuit(s.cfg.withDefaults()), newSlowBreaker(s.cfg, 0)
			for i := range 300 {
				if s.IntN(3) == 0 {
					time.Sleep(s.step(quick.now(), slow.window.(*slowWindow).start, slow.since))
				}
				now := quick.now()
				if !quick.cannotTrip.Load() && quick.calm.Load() && int64(now) < quick.end.Load() {
					shortcuts++
				}
				pair, ok := admitAlike(t, s, i, quick, thorough, slow)
				if !ok {
					refusals++
					continue
				}
				r := Success
				if s.IntN(4) == 0 {
					r = s.result(i)
				}
				quick.done(pair[0], r, Failed{})
				thorough.done(pair[1], r, Failed{})
				slow.done(pair[0].verdict, r, now)
			}
			slow.window.roll(quick.now())
			if got, same, want := quick.status(), thorough.status(), slow.window.sum().status(); got != want || same != want {
				t.Fatalf("seed %d, %+v: got %+v, without shortcut %+v, want %+v", seed, s.cfg, got, same, want)
			}
		})
	}
	if shortcuts < 500 || refusals < 500 {
		t.Errorf("got %d calls by the shortcut and %d refusals, want at least 500 of each", shortcuts, refusals)
	}
}
