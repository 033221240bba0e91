package breaker

import (
	"math"
	"time"
)

// verdict is the decision about a call before it runs.
type verdict uint8

const (
	refused verdict = iota // the circuit is open
	normal                 // the circuit is closed
	trial                  // the circuit is open, and this call tests the upstream
)

// core is Expeditor's breaker without a clock, a lock or a name: each method takes the current
// time. It checks the counters before a call and never after one.
type core struct {
	threshold float64
	volume    int64 // the smallest volume at which it can trip
	least     int64 // see leastFailing
	sleep     time.Duration
	window    window
	open      bool
	since     time.Duration // when it opened, or admitted the last trial
}

func newCore(threshold float64, volume int64, sleep, period, now time.Duration) core {
	c := core{threshold: threshold, volume: max(volume, 1), sleep: sleep, window: window{period: period}}
	c.least = leastFailing(threshold, c.volume)
	c.window.reset(now)
	return c
}

// leastFailing returns the smallest number of failures whose ratio to volume is not below threshold,
// or the largest int64 if there is none. It is computed once, so that each result is compared with an
// integer, which is faster than a division of floats. The search divides as the rule does, so that
// both round alike.
func leastFailing(threshold float64, volume int64) int64 {
	least, most := int64(0), int64(math.MaxInt64)
	for least < most {
		if n := least + (most-least)/2; float64(n)/float64(volume) < threshold {
			least = n + 1
		} else {
			most = n
		}
	}
	return least
}

// admit admits or refuses a call. The call that finds the threshold reached opens the circuit
// and is refused. An open circuit admits a trial each time more than sleep has passed since it
// opened or since the last trial began.
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

// cannotTrip reports whether the window cannot trip however much time passes: it holds too few
// failures even if all successes leave it first. Admission may then skip the lock and the clock.
func (c *core) cannotTrip() bool {
	return !c.open && c.window.failing() < c.least
}

// calm reports whether the window cannot trip until it rolls or a failure is counted: successes only
// lower the ratio.
func (c *core) calm() bool {
	volume := max(c.window.volume(), c.volume)
	return !c.open && float64(c.window.failing())/float64(volume) < c.threshold
}

// done counts an admitted call. A trial that succeeded first closes the circuit.
func (c *core) done(v verdict, r Result, now time.Duration) {
	if v == trial && r == Success {
		c.reset(now)
	}
	c.record(r, now)
}

// record counts r. It does not open or close the circuit.
func (c *core) record(r Result, now time.Duration) {
	if r < resultCount {
		c.window.add(now, r)
	}
}

// reset closes the circuit and resets the window.
func (c *core) reset(now time.Duration) {
	c.open, c.since = false, 0
	c.window.reset(now)
}

// left returns the time from now until the window holds no failure and the circuit, if it is
// open, would admit a trial, provided that no call comes. It is zero or less if both hold now.
func (c *core) left(now time.Duration) time.Duration {
	c.window.roll(now)
	left := c.window.failingLeft(now)
	if c.open {
		left = max(left, sum(c.since, c.sleep)-now+1)
	}
	return left
}
