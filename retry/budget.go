package retry

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// The values of a [Budget] that names none, as in Finagle and linkerd.
const (
	DefaultBudgetPercent      = 20.0
	DefaultBudgetMinPerSecond = 10
	DefaultBudgetWindow       = 10 * time.Second
)

const (
	minBudgetWindow = time.Second
	windowParts     = 10 // the window moves in tenths
	depositBatch    = 16 // calls that are counted with one look at the clock
)

// Budget bounds the retries of an upstream by a share of its calls: in the last Window
// there are at most Percent retries for each 100 calls, and MinPerSecond for each second more.
// So single failures are always retried, however long the back-off takes, and an outage of
// the upstream is not made worse.
//
// A call counts as soon as one of its attempts has returned that no policy inside refused. A
// retry after a refused attempt takes nothing of the budget: nothing was sent. A retry over the
// budget is not made; the result is the last attempt's, with flag UO,
// [policy.EventRetryOverflow] and [pillion.Info.RetryOverflow].
//
// Each upstream counts for itself. The window moves in tenths, and up to 15 calls are counted
// late. Mirrors RetryBudget of Finagle and linkerd.
type Budget struct {
	// Percent is the share of the calls, in percent. The zero value means 20, Zero no share; any other
	// value below 1 is an error. Mirrors percentCanRetry, which is a ratio.
	Percent float64 `json:"percent,omitempty"`

	// MinPerSecond is how many retries for each second of Window are allowed whatever the
	// number of calls. The zero value means 10, Zero none; any other negative value is an error.
	// Mirrors minRetriesPerSec.
	MinPerSecond int `json:"min_per_second,omitempty"`

	// Window is the time over which calls and retries are counted. Zero means 10s; less than
	// 1s is an error. Mirrors ttl.
	Window time.Duration `json:"window,omitempty"`

	// Disabled turns the budget off. It must be the only field that is set.
	Disabled bool `json:"disabled,omitempty"`
}

// check reports what is wrong with the budget of the named field.
func (b *Budget) check(field string) error {
	if b == nil || *b == (Budget{Disabled: true}) {
		return nil
	}
	var bad []error
	say := func(name, format string, args ...any) {
		bad = append(bad, fmt.Errorf("retry: %s.%s: %s", field, name, fmt.Sprintf(format, args...)))
	}
	if b.Disabled {
		say("Disabled", "true leaves no effect to the other fields; leave them out")
	}
	switch {
	case b.Percent > 0 && b.Percent < 1:
		say("Percent", "%v is below 1; write %v for %v percent", b.Percent, 100*b.Percent, 100*b.Percent)
	case b.Percent != Zero && !(b.Percent >= 0 && b.Percent <= math.MaxFloat64):
		say("Percent", "%v is no percentage; write one from 1 up, or Zero for no share", b.Percent)
	}
	if b.MinPerSecond < 0 && b.MinPerSecond != Zero {
		say("MinPerSecond", "%d is negative; write Zero for none", b.MinPerSecond)
	}
	if b.Window != 0 && b.Window < minBudgetWindow {
		say("Window", "%v is below %v; did you forget the unit?", b.Window, minBudgetWindow)
	}
	return errors.Join(bad...)
}

// start makes the state of one upstream, nil if there is no budget.
func (b *Budget) start() *budget {
	if b == nil {
		b = &Budget{}
	}
	if b.Disabled {
		return nil
	}
	window := orDefault(b.Window, DefaultBudgetWindow)
	return &budget{epoch: time.Now(), core: budgetCore{
		percent: orStandard(b.Percent, DefaultBudgetPercent),
		reserve: orStandard(float64(b.MinPerSecond), DefaultBudgetMinPerSecond) * window.Seconds(),
		part:    window / windowParts,
	}}
}

// orStandard is value, where 0 stands for the standard and Zero for 0.
func orStandard(value, standard float64) float64 {
	switch value {
	case 0:
		return standard
	case Zero:
		return 0
	}
	return value
}

// budget is a Budget at work. It looks at the clock for one of 16 calls, and for each
// retry. It is safe for concurrent use.
type budget struct {
	uncounted atomic.Int64 // calls that core does not have yet
	epoch     time.Time

	mu   sync.Mutex
	core budgetCore // guarded by mu
}

// deposit counts a call.
func (b *budget) deposit() {
	if b.uncounted.Add(1)%depositBatch == 0 {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.count()
	}
}

// withdraw counts a retry, if there may be one.
func (b *budget) withdraw() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.core.retry(b.count())
}

// count has core count the calls so far. The caller holds mu.
func (b *budget) count() (now time.Duration) {
	now = time.Since(b.epoch)
	b.core.call(now, b.uncounted.Swap(0))
	return now
}

// budgetCore counts calls and retries in the last window. It depends on nothing but the
// instants that it is given. One that lies before the latest counts as the latest.
type budgetCore struct {
	percent float64
	reserve float64 // retries in a window whatever the calls
	part    time.Duration

	newest int64 // number of the newest part
	parts  [windowParts]counts
	sum    counts
}

// counts is what is counted.
type counts struct{ calls, retries int64 }

// call counts n calls at the instant now.
func (c *budgetCore) call(now time.Duration, n int64) {
	c.moveTo(now).calls += n
	c.sum.calls += n
}

// retry counts a retry at the instant now, if there may be one.
func (c *budgetCore) retry(now time.Duration) bool {
	part := c.moveTo(now)
	if float64(c.sum.retries+1) > c.reserve+c.percent*float64(c.sum.calls)/100 {
		return false
	}
	part.retries++
	c.sum.retries++
	return true
}

// moveTo forgets what is older than the window, and returns the part of the instant now.
func (c *budgetCore) moveTo(now time.Duration) *counts {
	part := int64(now / c.part)
	c.newest = max(c.newest, part-windowParts)
	for c.newest < part {
		c.newest++
		old := &c.parts[c.newest%windowParts]
		c.sum.calls -= old.calls
		c.sum.retries -= old.retries
		*old = counts{}
	}
	return &c.parts[c.newest%windowParts]
}
