package breaker

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// State is the state of a circuit. Expeditor has no half-open state: an open circuit
// admits one call each time its sleep has passed.
type State uint8

// The states of a circuit.
const (
	Closed State = iota
	Open
	HalfOpen // only with a gobreaker engine
)

// String returns the name of the state in lower case.
func (s State) String() string { return [...]string{"closed", "open", "half-open"}[s] }

// Change describes an opening or a closing of a circuit.
type Change struct {
	Name   string
	From   State
	To     State
	At     time.Time
	Status Status   // the counters at that time; after a closing, at most the trial's success
	Last   []Failed // at an opening, the last failures, newest first
}

// engine decides which calls are admitted, and counts how they end.
type engine interface {
	// admit admits or refuses a call. If count is set, it counts a refusal as a Break.
	admit(count bool) (ticket, *OpenError)
	// done counts an admitted call that ended with r. f describes a failure.
	done(t ticket, r Result, f Failed)
	record(r Result)
	status() Status
	state() State
	reset()
}

// ticket is an engine's admission of one call.
type ticket struct {
	verdict verdict
	settle  func(error) // set by a two-step gobreaker
}

// circuit is the engine with Expeditor's rules: the core with a clock and a lock.
type circuit struct {
	name     string
	epoch    time.Time
	onChange func(Change)
	shorten  bool // long failure texts: they may contain a key that a client chose

	cannotTrip atomic.Bool  // the last result of core.cannotTrip: admission may skip the lock and the clock
	calm       atomic.Bool  // the last result of cannotTrip or core.calm: until end, admission may skip the lock
	end        atomic.Int64 // when the newest bucket of the window ends, on the clock of now
	fresh      atomic.Bool  // end is some time away: a success may be counted without the clock, too
	successes  atomic.Int64 // counted without the lock since it was last taken; they belong to the newest bucket

	mu       sync.Mutex
	core     core       // guarded by mu
	refusal  *OpenError // for all calls refused until the next trial; guarded by mu
	last     [3]Failed  // ring buffer of the last failures; guarded by mu
	failures int        // total number of failures; guarded by mu
	changes  []Change   // not yet passed to onChange; guarded by mu
	telling  bool       // a goroutine is calling onChange; guarded by mu
}

func newCircuit(cfg Config) *circuit {
	c := &circuit{name: cfg.Name, epoch: time.Now(), onChange: cfg.OnStateChange}
	c.core = newCore(cfg.Threshold, int64(cfg.NonBreakCount), cfg.Sleep, cfg.Period, 0)
	c.derive()
	return c
}

// now returns the time since the circuit was made.
func (c *circuit) now() time.Duration { return time.Since(c.epoch) }

func (c *circuit) admit(count bool) (ticket, *OpenError) {
	if c.cannotTrip.Load() {
		return ticket{verdict: normal}, nil
	}
	return c.decide(count)
}

// decide is admit for a circuit that may trip or is open.
func (c *circuit) decide(count bool) (ticket, *OpenError) {
	now := c.now()
	if int64(now) < c.end.Load() && c.calm.Load() { // in this order: see derive
		return ticket{verdict: normal}, nil
	}
	c.lock()
	was := c.core.open
	v := c.core.admit(now)
	if v == trial {
		c.refusal = nil // the next one names a later Until
	}
	if v != refused {
		c.unlock(now, was)
		return ticket{verdict: v}, nil
	}
	if c.refusal == nil {
		c.refusal = c.openError(now)
	}
	refusal := c.refusal
	if count {
		c.core.record(Break, now)
	}
	c.unlock(now, was)
	return ticket{}, refusal
}

// succeeded counts a call without the lock, and reports whether it did. It does so for a success
// that changes only a count: it does not close the circuit, and the window does not roll.
func (c *circuit) succeeded(v verdict, r Result) bool {
	if r != Success || v == trial || !c.fresh.Load() && int64(c.now()) >= c.end.Load() {
		return false
	}
	c.successes.Add(1)
	return true
}

// busy is how many successes of the bucket before make a bucket worth a timer.
const busy = 64

// leastMargin is how long before the end of a bucket its timer must fire. A timer may be late.
const leastMargin = 10 * time.Millisecond

// refresh sets fresh until shortly before the end of a new bucket, if the bucket before was busy: to
// read the clock takes as long as the rest of the breaker does for a call. The timer is not used
// again, so that circuits may be used in several bubbles of package synctest. The caller holds mu.
func (c *circuit) refresh() {
	w := &c.core.window
	margin := w.period / buckets / 8
	rest := w.end - margin - c.now()
	if margin < leastMargin || rest <= 0 || w.before() < busy {
		return
	}
	c.fresh.Store(true)
	time.AfterFunc(rest, func() { c.fresh.Store(false) })
}

// lock takes mu, and passes to core the successes that were counted without it. Only a holder of
// the lock rolls the window, so the newest bucket is still the one in which they ended.
func (c *circuit) lock() {
	c.mu.Lock()
	if c.successes.Load() != 0 {
		c.core.window.succeeded(c.successes.Swap(0))
	}
}

func (c *circuit) done(t ticket, r Result, f Failed) {
	if !c.succeeded(t.verdict, r) {
		c.count(t, r, f)
	}
}

// count is done with the lock.
func (c *circuit) count(t ticket, r Result, f Failed) {
	if c.shorten && r.failing() {
		f.Err = shortened(f.Err)
	}
	now := c.now()
	c.lock()
	was := c.core.open
	c.core.done(t.verdict, r, now)
	if r.failing() {
		f.At, f.Result = c.epoch.Add(now), r
		c.last[c.failures%len(c.last)] = f
		c.failures++
	}
	c.unlock(now, was)
}

// longestText is the number of bytes that shortened keeps of a failure's text.
const longestText = 1024

// shortened returns err, or the beginning of its text if that is too long to keep.
func shortened(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	if len(text) <= longestText {
		return err
	}
	return errors.New(strings.ToValidUTF8(text[:longestText], "") + "...")
}

func (c *circuit) record(r Result) { c.done(ticket{}, r, Failed{}) }

func (c *circuit) reset() {
	now := c.now()
	c.lock()
	was := c.core.open
	c.core.reset(now)
	c.unlock(now, was)
}

func (c *circuit) status() Status {
	now := c.now()
	c.lock()
	defer c.mu.Unlock()
	c.core.window.roll(now)
	return c.core.window.sum.status()
}

func (c *circuit) state() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return stateOf(c.core.open)
}

// left returns how long the circuit still matters: see core.left.
func (c *circuit) left() time.Duration {
	now := c.now()
	c.lock()
	defer c.mu.Unlock()
	return c.core.left(now)
}

func stateOf(open bool) State {
	if open {
		return Open
	}
	return Closed
}

// openError makes the error of the current opening. The caller holds mu.
func (c *circuit) openError(now time.Duration) *OpenError {
	c.core.window.roll(now)
	return &OpenError{
		Name:   c.name,
		Until:  c.epoch.Add(c.core.since).Add(c.core.sleep), // added separately: the sum can overflow a Duration
		Status: c.core.window.sum.status(),
		Last:   c.lastFailures(),
	}
}

// lastFailures returns a copy of the failures in the ring since the window was last reset,
// newest first. The caller holds mu.
func (c *circuit) lastFailures() []Failed {
	var last []Failed
	emptied := c.epoch.Add(c.core.window.start)
	for i := c.failures - 1; i >= 0 && len(last) < len(c.last); i-- {
		f := c.last[i%len(c.last)]
		if f.At.Before(emptied) {
			break
		}
		last = append(last, f)
	}
	return last
}

// derive updates the fields that are derived from core, which calls read without the lock. It stores
// only what has changed, because a Store takes long. It stores calm before end, and admit loads end
// before calm, so that a caller that sees the new end also sees whether the window is calm until
// then. The caller holds mu.
func (c *circuit) derive() {
	cannot := c.core.cannotTrip()
	if cannot != c.cannotTrip.Load() {
		c.cannotTrip.Store(cannot)
	}
	if calm := cannot || c.core.calm(); calm != c.calm.Load() {
		c.calm.Store(calm)
	}
	if end := int64(c.core.window.end); end != c.end.Load() {
		c.end.Store(end)
		c.refresh()
	}
}

// unlock ends a change of the core: it updates the derived fields, releases mu, and reports a
// change of state. was reports whether the circuit was open before.
func (c *circuit) unlock(now time.Duration, was bool) {
	c.derive()
	if was == c.core.open {
		c.mu.Unlock()
		return
	}
	if !c.core.open {
		c.refusal = nil
	}
	if c.onChange == nil {
		c.mu.Unlock()
		return
	}
	change := Change{
		Name: c.name, From: stateOf(was), To: stateOf(c.core.open),
		At: c.epoch.Add(now), Status: c.core.window.sum.status(),
	}
	if c.core.open {
		change.Last = c.lastFailures()
	}
	c.changes = append(c.changes, change)
	c.mu.Unlock()
	c.tell()
}

// tell calls onChange for the pending changes, in order, without holding mu and never
// concurrently.
func (c *circuit) tell() {
	for {
		c.mu.Lock()
		if c.telling || len(c.changes) == 0 {
			c.mu.Unlock()
			return
		}
		change := c.changes[0]
		c.changes = c.changes[1:]
		c.telling = true
		c.mu.Unlock()
		c.tellOne(change)
	}
}

// tellOne calls onChange. If it panics, the pending changes are still reported before the
// panic propagates.
func (c *circuit) tellOne(change Change) {
	returned := false
	defer func() {
		c.mu.Lock()
		c.telling = false
		c.mu.Unlock()
		if !returned {
			c.tell()
		}
	}()
	c.onChange(change)
	returned = true
}
