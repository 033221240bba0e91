package breaker

import "time"

// verdict is what a call is told at the gate.
type verdict uint8

const (
	refused verdict = iota // the circuit is open
	normal                 // the circuit is closed
	trial                  // the circuit is open, and this call finds out whether it still has to be
)

// core is Expeditor's breaker, without a clock, a lock or a name: instants are
// given. It judges before a call and never after one.
type core struct {
	threshold float64
	volume    int64 // the least volume at which it can trip
	sleep     time.Duration
	window    window
	open      bool
	since     time.Duration // the opening, or the last trial let in
}

func newCore(threshold float64, volume int64, sleep, period, now time.Duration) core {
	c := core{threshold: threshold, volume: max(volume, 1), sleep: sleep, window: window{period: period}}
	c.window.reset(now)
	return c
}

// admit judges a call. The one that finds the window bad enough opens the
// circuit, and is refused itself. An open circuit lets one trial through each time
// that more than sleep has passed since its opening or since the last trial began.
func (c *core) admit(now time.Duration) verdict {
	switch {
	case !c.open:
		c.window.roll(now)
		if !c.tripping() {
			return normal
		}
		c.open, c.since = true, now
		return refused
	case now-c.since > c.sleep:
		c.since = now
		return trial
	}
	return refused
}

func (c *core) tripping() bool {
	volume := c.window.volume()
	return volume >= c.volume && float64(c.window.failing())/float64(volume) >= c.threshold
}

// cannotTrip reports that no passage of time can make the window trip: what has
// been counted holds too few failures, even if all successes left first. Then a call
// may pass without a look at the clock.
func (c *core) cannotTrip() bool {
	return !c.open && c.threshold > 0 && float64(c.window.failing())/float64(c.volume) < c.threshold
}

// done counts how an admitted call ended. A trial that succeeded closes the
// circuit first.
func (c *core) done(v verdict, r Result, now time.Duration) {
	if v == trial && r == Success {
		c.reset(now)
	}
	c.record(r, now)
}

// record counts r and does nothing else.
func (c *core) record(r Result, now time.Duration) {
	if r < resultCount {
		c.window.add(now, r)
	}
}

// reset closes the circuit and empties the window.
func (c *core) reset(now time.Duration) {
	c.open, c.since = false, 0
	c.window.reset(now)
}

// left is how long it is from now until the window holds no failure and the circuit, if it
// is open, would admit a trial, provided that nothing happens. It is zero or less when both are so.
func (c *core) left(now time.Duration) time.Duration {
	c.window.roll(now)
	left := c.window.failingLeft(now)
	if c.open {
		left = max(left, sum(c.since, c.sleep)-now+1)
	}
	return left
}
