package breaker

import (
	"testing"
	"time"
)

// TestCore_transitions checks each event in each state, at the instants that matter. The
// golden traces check longer sequences.
func TestCore_transitions(t *testing.T) {
	const sleep, opened = time.Second, 5 * time.Second
	closed := func(results ...Result) core {
		c := coreOf(Config{NonBreakCount: 4, Sleep: sleep}, 0)
		for _, r := range results {
			c.record(r, 0)
		}
		return c
	}
	open := func() core {
		c := closed(Failure, Failure, Failure, Failure)
		c.admit(opened)
		return c
	}
	inTrial := func() core {
		c := open()
		c.admit(opened + sleep + 1)
		return c
	}
	admit := func(c *core, now time.Duration) verdict { return c.admit(now) }
	done := func(v verdict, r Result) func(*core, time.Duration) verdict {
		return func(c *core, now time.Duration) verdict {
			c.done(v, r, now)
			return v
		}
	}
	tests := map[string]struct {
		core  core
		event func(*core, time.Duration) verdict
		at    time.Duration
		want  verdict
		open  bool
		count int64 // success, failure and timeout in the window
	}{
		"empty":                       {closed(), admit, 0, normal, false, 0},
		"below the volume":            {closed(Failure, Failure, Failure), admit, 0, normal, false, 3},
		"other results do not count":  {closed(Failure, Rejection, Break, Dependency, Ignored), admit, 0, normal, false, 1},
		"below the ratio":             {closed(Failure, Success, Success, Success), admit, 0, normal, false, 4},
		"at the ratio":                {closed(Failure, Timeout, Success, Success), admit, 0, refused, true, 4},
		"last moment of the window":   {closed(Failure, Failure, Failure, Failure), admit, 10*time.Second - 1, refused, true, 4},
		"aged out":                    {closed(Failure, Failure, Failure, Failure), admit, 10 * time.Second, normal, false, 0},
		"failure does not open":       {closed(Failure, Failure, Failure), done(normal, Failure), 0, normal, false, 4},
		"open, immediately":           {open(), admit, opened, refused, true, 4},
		"open, exactly sleep later":   {open(), admit, opened + sleep, refused, true, 4},
		"open, more than sleep later": {open(), admit, opened + sleep + 1, trial, true, 4},
		"open, empty window":          {open(), admit, opened + time.Minute, trial, true, 4},
		"open, before it was opened":  {open(), admit, 0, refused, true, 4},
		"open, late success":          {open(), done(normal, Success), opened + 1, normal, true, 5},
		"second trial, too early":     {inTrial(), admit, opened + 2*sleep + 1, refused, true, 4},
		"second trial":                {inTrial(), admit, opened + 2*sleep + 2, trial, true, 4},
		"trial succeeds":              {inTrial(), done(trial, Success), opened + 2*sleep, trial, false, 1},
		"trial fails":                 {inTrial(), done(trial, Failure), opened + 2*sleep, trial, true, 5},
		"trial is refused inside":     {inTrial(), done(trial, Rejection), opened + 2*sleep, trial, true, 4},
		"trial is canceled":           {inTrial(), done(trial, Ignored), opened + 2*sleep, trial, true, 4},
		"trial succeeds once closed":  {closed(Failure, Failure), done(trial, Success), 1, trial, false, 1},
		"trial fails once closed":     {closed(Success), done(trial, Failure), 1, trial, false, 2},
		"unknown result is ignored":   {closed(Success), done(normal, Result(99)), 1, normal, false, 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := tt.core
			if got := tt.event(&c, tt.at); got != tt.want {
				t.Errorf("got verdict %d, want %d", got, tt.want)
			}
			if c.open != tt.open {
				t.Errorf("got open %t, want %t", c.open, tt.open)
			}
			if got := c.window.volume(); got != tt.count {
				t.Errorf("got a volume of %d, want %d", got, tt.count)
			}
		})
	}
}

func TestCore_random(t *testing.T) {
	opened, closed := 0, 0
	for seed := range uint64(300) {
		s := newSchedule(seed)
		now := s.upTo(time.Hour)
		fast, slow := coreOf(s.cfg, now), newSlowBreaker(s.cfg, now)
		var under flights[verdict]
		for i := range 400 {
			now += s.step(now, slow.window.(*slowWindow).start, slow.since)
			was := slow.open
			switch n := s.IntN(100); {
			case n < 55:
				got, want := fast.admit(now), slow.admit(now)
				if got != want {
					t.Fatalf("seed %d, %+v, event %d at %v: got verdict %d, want %d", seed, s.cfg, i, now, got, want)
				}
				if got != refused {
					under.add(got)
				}
			case n < 90:
				if v, ok := under.take(s.Rand); ok {
					r := s.result(i)
					fast.done(v, r, now)
					slow.done(v, r, now)
				}
			case n < 98:
				r := s.result(i)
				fast.record(r, now)
				slow.record(r, now)
			default:
				fast.reset(now)
				slow.reset(now)
			}
			fast.window.roll(now)
			slow.window.roll(now)
			if fast.open != slow.open || fast.window.sum != slow.window.sum() {
				t.Fatalf("seed %d, %+v, event %d at %v: got open %t, %v, want open %t, %v",
					seed, s.cfg, i, now, fast.open, fast.window.sum, slow.open, slow.window.sum())
			}
			switch {
			case slow.open && !was:
				opened++
			case was && !slow.open:
				closed++
			}
		}
	}
	// Schedules without transitions would prove nothing.
	if opened < 500 || closed < 500 {
		t.Errorf("got %d openings and %d closings, want at least 500 of each", opened, closed)
	}
}

// TestCore_cannotTrip looks ahead: while a core cannot trip it must admit a call at any later
// instant, as long as nothing else is counted.
func TestCore_cannotTrip(t *testing.T) {
	cannotTrip := 0
	for seed := range uint64(200) {
		s := newSchedule(seed)
		now := time.Duration(0)
		c := coreOf(s.cfg, now)
		for i := range 200 {
			now += s.step(now, c.window.start, c.since)
			if v := c.admit(now); v != refused {
				c.done(v, s.result(i), now)
			}
			if !c.cannotTrip() {
				continue
			}
			cannotTrip++
			later, at := c, now
			for range 5 {
				at += s.step(at, c.window.start, c.since)
				if got := later.admit(at); got != normal {
					t.Fatalf("seed %d, %+v, event %d: cannotTrip at %v: got verdict %d at %v, want %d", seed, s.cfg, i, now, got, at, normal)
				}
			}
		}
	}
	if cannotTrip < 1000 {
		t.Errorf("got a cannotTrip core %d times, want at least 1000", cannotTrip)
	}
}
