package retry

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pillion-go/pillion/internal/settings"
)

// The defaults of a [Budget], as in Finagle and linkerd.
const (
	DefaultBudgetPercent      = 20.0
	DefaultBudgetMinPerSecond = 10
	DefaultBudgetWindow       = 10 * time.Second
)

const (
	minBudgetWindow = time.Second
	windowParts     = 10 // the window moves in tenths
	depositBatch    = 16 // calls counted with one reading of the clock
)

// Budget bounds the retries of an upstream to a share of its calls. In the last Window there
// are at most Percent retries per 100 calls, plus MinPerSecond retries per second. So single
// failures are always retried, however long the back-off, and retries do not make an outage
// worse.
//
// A call counts when its first attempt that no policy inside refused has returned. A retry
// after a refused attempt does not use the budget, because the attempt sent nothing. A retry
// over the budget is not made: the call returns the result of its last attempt, with flag UO,
// [policy.EventRetryOverflow] and [pillion.Info.RetryOverflow].
//
// Each upstream counts separately. The window moves in tenths, and up to 15 calls are counted
// late. Mirrors RetryBudget of Finagle and linkerd.
type Budget struct {
	// Percent is the share of the calls, in percent. The zero value means 20; Zero means no share;
	// any other value below 1 is an error. Mirrors percentCanRetry, which is a ratio.
	Percent float64 `json:"percent,omitempty"`

	// MinPerSecond is the number of retries per second of Window that are allowed in addition
	// to Percent. The zero value means 10; Zero means 0; any other negative value is an error.
	// Mirrors minRetriesPerSec.
	MinPerSecond int `json:"min_per_second,omitempty"`

	// Window is the period over which calls and retries are counted. Zero means 10s; less than
	// 1s is an error. Mirrors ttl.
	Window time.Duration `json:"window,omitempty"`

	// Disabled turns the budget off. All other fields must be zero.
	Disabled bool `json:"disabled,omitempty"`
}

// check reports the invalid values of the budget in the named field.
func (b *Budget) check(field string) error {
	if b == nil || *b == (Budget{Disabled: true}) {
		return nil
	}
	var bad []error
	say := func(name, format string, args ...any) {
		bad = append(bad, fmt.Errorf("retry: %s.%s: %s", field, name, fmt.Sprintf(format, args...)))
	}
	if b.Disabled {
		say("Disabled", "true disables the other fields; leave them out")
	}
	switch {
	case b.Percent > 0 && b.Percent < 1:
		say("Percent", "%v is below 1; write %v for %v percent", b.Percent, 100*b.Percent, 100*b.Percent)
	case b.Percent != Zero && !(b.Percent >= 0 && b.Percent <= math.MaxFloat64):
		say("Percent", "%v is no percentage; write 1 or more, 0 for 20, or retry.Zero for no share", b.Percent)
	}
	if why := settings.Count(int64(b.MinPerSecond), "0 for 10", "retry.Zero for none"); why != "" && b.MinPerSecond != Zero {
		say("MinPerSecond", "%d %s", b.MinPerSecond, why)
	}
	if why := settings.AtLeast(b.Window, minBudgetWindow, "0 for 10s"); why != "" {
		say("Window", "%v %s", b.Window, why)
	}
	return errors.Join(bad...)
}

// start returns the state of an upstream's budget, or nil if the budget is disabled.
func (b *Budget) start() *budget {
	if b == nil {
		b = &Budget{}
	}
	if b.Disabled {
		return nil
	}
	window := cmp.Or(b.Window, DefaultBudgetWindow)
	return &budget{epoch: time.Now(), core: budgetCore{
		percent: max(cmp.Or(b.Percent, DefaultBudgetPercent), 0), // 0 for Zero
		reserve: max(cmp.Or(float64(b.MinPerSecond), DefaultBudgetMinPerSecond), 0) * window.Seconds(),
		part:    window / windowParts,
	}}
}

// budget is the state of a Budget. It reads the clock for one of 16 calls, and for each retry.
// It is safe for concurrent use.
type budget struct {
	uncounted atomic.Int64 // calls not yet counted in core
	epoch     time.Time

	mu   sync.Mutex
	core budgetCore // guarded by mu
}

// deposit counts a call. It is small enough to be inlined.
func (b *budget) deposit() {
	if b.uncounted.Add(1)%depositBatch == 0 {
		b.collect()
	}
}

// collect passes the uncounted calls to core.
func (b *budget) collect() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count()
}

// withdraw counts a retry if the budget allows it, and reports whether it does.
func (b *budget) withdraw() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.core.retry(b.count())
}

// count is collect for a caller that holds mu. It returns the time.
func (b *budget) count() (now time.Duration) {
	now = time.Since(b.epoch)
	b.core.call(now, b.uncounted.Swap(0))
	return now
}

// budgetCore counts calls and retries in the last window. Each method takes the current time; a
// time before the latest one counts as the latest.
type budgetCore struct {
	percent float64
	reserve float64 // retries per window in addition to percent
	part    time.Duration

	newest int64 // number of the newest part
	parts  [windowParts]counts
	sum    counts
}

// counts holds the counts of one part of the window, or their sum.
type counts struct{ calls, retries int64 }

// call counts n calls at now.
func (c *budgetCore) call(now time.Duration, n int64) {
	c.moveTo(now).calls += n
	c.sum.calls += n
}

// retry counts a retry at now if the budget allows it, and reports whether it does.
func (c *budgetCore) retry(now time.Duration) bool {
	part := c.moveTo(now)
	if float64(c.sum.retries+1) > c.reserve+c.percent*float64(c.sum.calls)/100 {
		return false
	}
	part.retries++
	c.sum.retries++
	return true
}

// moveTo drops the parts older than the window and returns the part of now.
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
