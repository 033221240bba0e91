package breaker

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestCircuit_shortcutComesBack checks that calls skip the lock and the clock again when the
// failures have left the window, and when the window is reset.
func TestCircuit_shortcutComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCircuit(Config{}.withDefaults())
		want := func(cannotTrip bool) {
			t.Helper()
			if got := c.cannotTrip.Load(); got != cannotTrip {
				t.Errorf("got cannotTrip %t, want %t", got, cannotTrip)
			}
		}
		fail := func() {
			for range 9 {
				c.record(Failure)
			}
			want(true) // nine of twenty are below the ratio
			c.record(Timeout)
			want(false)
		}
		fail()
		time.Sleep(DefaultPeriod)
		c.record(Success)
		want(true)
		fail()
		c.reset()
		want(true)
	})
}

// admitAlike admits a call to a circuit, to one that takes the lock and the clock for it, and to a slow
// model, and fails the test if they disagree. It reports whether they admit it.
func admitAlike(t *testing.T, s *schedule, event int, quick, thorough *circuit, slow *slowBreaker) (pair [2]ticket, ok bool) {
	t.Helper()
	now := quick.now()
	thorough.cannotTrip.Store(false)
	thorough.calm.Store(false)
	got, _ := quick.admit(true)
	same, _ := thorough.admit(true)
	want := slow.admit(now)
	if got.verdict != want || same.verdict != want {
		t.Fatalf("seed %d, %+v, event %d at %v: got verdict %d, without shortcut %d, want %d",
			s.seed, s.cfg, event, now, got.verdict, same.verdict, want)
	}
	if want == refused {
		slow.record(Break, now)
	}
	return [2]ticket{got, same}, want != refused
}

// TestCircuit_shortcut runs the same schedule on a normal circuit, on one that never skips the
// lock and the clock, and on a slow model.
func TestCircuit_shortcut(t *testing.T) {
	shortcuts := 0
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			s := newSchedule(seed)
			quick, thorough, slow := newCircuit(s.cfg.withDefaults()), newCircuit(s.cfg.withDefaults()), newSlowBreaker(s.cfg, 0)
			var under flights[[2]ticket]
			for i := range 300 {
				time.Sleep(s.step(quick.now(), slow.window.(*slowWindow).start, slow.since))
				now := quick.now()
				switch n := s.IntN(100); {
				case n < 60:
					if quick.cannotTrip.Load() {
						shortcuts++
					}
					if pair, ok := admitAlike(t, s, i, quick, thorough, slow); ok {
						under.add(pair)
					} else {
						continue
					}
				case n < 95:
					if pair, ok := under.take(s.Rand); ok {
						r := s.result(i)
						quick.done(pair[0], r, Failed{})
						thorough.done(pair[1], r, Failed{})
						slow.done(pair[0].verdict, r, now)
					}
				case n < 98:
					r := s.result(i)
					quick.record(r)
					thorough.record(r)
					slow.record(r, now)
				default:
					quick.reset()
					thorough.reset()
					slow.reset(now)
				}
				if s.IntN(3) == 0 { // not always: reading rolls the window
					slow.window.roll(now)
					want := slow.window.sum().status()
					if got, same := quick.status(), thorough.status(); got != want || same != want {
						t.Fatalf("seed %d, %+v, event %d at %v: got %+v, without shortcut %+v, want %+v", seed, s.cfg, i, now, got, same, want)
					}
				}
				if want := stateOf(slow.open); quick.state() != want || thorough.state() != want {
					t.Fatalf("seed %d, %+v, event %d at %v: got %v, without shortcut %v, want %v",
						seed, s.cfg, i, now, quick.state(), thorough.state(), want)
				}
			}
		})
	}
	if shortcuts < 500 {
		t.Errorf("got %d calls by the shortcut, want at least 500", shortcuts)
	}
}
