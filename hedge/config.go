package hedge

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/pillion-go/pillion/internal/settings"
	"github.com/pillion-go/pillion/policy"
)

// The defaults of a Config and of a Budget.
const (
	DefaultPercentile    = 95.0
	DefaultMinDelay      = time.Millisecond
	DefaultWindow        = 30 * time.Second
	DefaultMinSamples    = 20
	DefaultMaxHedges     = 1
	DefaultBudgetPercent = 10.0
	DefaultBudgetBurst   = 10
)

// Zero is a Percent of zero, where the zero value means the default.
const Zero = -1

// Config configures which calls are hedged, and after what delay. It is a policy that must be inside
// retry, and outside limits and breaker. Each upstream that uses it has separate latencies and a
// separate budget. The zero value hedges calls that take longer than 95% of the upstream's calls.
type Config struct {
	// Delay is how long an attempt waits for its response headers before a hedge is sent. With a
	// Percentile, it applies until MinSamples latencies are known. Zero means that Percentile alone
	// determines the delay; any other value below 1ms is an error.
	Delay time.Duration `json:"delay,omitempty"`

	// Percentile is the share of the upstream's responses, in percent, that are faster than the
	// delay. Zero means 95 if Delay is zero, else that the delay is always Delay. Any other value
	// outside 1 to 99.9 is an error.
	Percentile float64 `json:"percentile,omitempty"`

	// MinDelay is the least delay that Percentile can result in: to hedge fast calls is of no use.
	// Zero means 1ms; any other value below 1ms is an error, as is a value together with a Delay and
	// no Percentile.
	MinDelay time.Duration `json:"min_delay,omitempty"`

	// Window is the period whose latencies determine the percentile. The window moves in halves. Zero
	// means 30s; any other value below 1s is an error, as is a value together with a Delay and no
	// Percentile.
	Window time.Duration `json:"window,omitempty"`

	// MinSamples is the number of latencies that the window must hold for Percentile. With fewer,
	// calls are hedged after Delay, or not at all if Delay is zero. Zero means 20; negative is an
	// error, as is a value together with a Delay and no Percentile.
	MinSamples int `json:"min_samples,omitempty"`

	// MaxHedges is the maximum number of hedges of a call, in addition to its first attempt. Each
	// hedge is sent one delay after the attempt before it. Zero means 1; negative is an error.
	MaxHedges int `json:"max_hedges,omitempty"`

	// AnyCall also hedges calls that are not safe to send twice. Set it only if all calls of the
	// upstream are.
	AnyCall bool `json:"any_call,omitempty"`

	// Budget bounds the hedges of the upstream. Nil means the defaults of [Budget].
	Budget *Budget `json:"budget,omitempty"`
}

// Budget bounds the hedges of an upstream to a share of its calls. Each call adds Percent/100 of a
// hedge to the budget, and each hedge takes 1 from it. A hedge over the budget is not sent: the call
// waits for the attempts that are running.
type Budget struct {
	// Percent is the number of hedges for every 100 calls. The zero value means 10; with Zero the
	// calls add nothing, and only Burst hedges can be sent; any other value outside 1 to 100 is an
	// error.
	Percent float64 `json:"percent,omitempty"`

	// Burst is the maximum number of hedges that the budget holds. It holds as many at the start.
	// Zero means 10; negative is an error.
	Burst int `json:"burst,omitempty"`

	// Disabled turns the budget off. All other fields must be zero.
	Disabled bool `json:"disabled,omitempty"`
}

// Place returns a place inside retry and policies that see calls, and outside those that see
// attempts.
func (Config) Place() policy.Place { return policy.Place{Rank: policy.Hedges} }

// check returns an error for each invalid field.
func (c Config) check() error {
	bad := []error{c.Budget.check()}
	say := func(field, format string, args ...any) {
		bad = append(bad, fmt.Errorf("hedge: Config.%s: %s", field, fmt.Sprintf(format, args...)))
	}
	switch p := c.Percentile; {
	case p > 0 && p < 1:
		say("Percentile", "%v is below 1; write %v for %v percent", p, 100*p, 100*p)
	case p != 0 && !(p >= 1 && p <= 99.9):
		say("Percentile", "%v is not within 1 and 99.9; write a percentage, or 0 for 95", p)
	}
	wrong := func(field string, value any, why string) {
		if why != "" {
			say(field, "%v %s", value, why)
		}
	}
	wrong("Delay", c.Delay, settings.Duration(c.Delay, "0 for Percentile"))
	wrong("MinDelay", c.MinDelay, settings.Duration(c.MinDelay, "0 for 1ms"))
	wrong("Window", c.Window, settings.AtLeast(c.Window, time.Second, "0 for 30s"))
	wrong("MinSamples", c.MinSamples, settings.Count(int64(c.MinSamples), "0 for 20"))
	wrong("MaxHedges", c.MaxHedges, settings.Count(int64(c.MaxHedges), "0 for 1"))
	if c.fixed() && (c.MinDelay != 0 || c.Window != 0 || c.MinSamples != 0) {
		say("Delay", "%v is fixed without Percentile: MinDelay, Window and MinSamples have no effect; leave them out, or set Percentile", c.Delay)
	}
	return errors.Join(bad...)
}

// fixed reports whether the delay does not depend on latencies.
func (c Config) fixed() bool { return c.Delay != 0 && c.Percentile == 0 }

func (c Config) withDefaults() Config {
	if !c.fixed() {
		c.Percentile = cmp.Or(c.Percentile, DefaultPercentile)
	}
	c.MinDelay = cmp.Or(c.MinDelay, DefaultMinDelay)
	c.Window = cmp.Or(c.Window, DefaultWindow)
	c.MinSamples = cmp.Or(c.MinSamples, DefaultMinSamples)
	c.MaxHedges = cmp.Or(c.MaxHedges, DefaultMaxHedges)
	return c
}

func (b *Budget) check() error {
	if b == nil || *b == (Budget{Disabled: true}) {
		return nil
	}
	var bad []error
	say := func(format string, args ...any) {
		bad = append(bad, fmt.Errorf("hedge: Config.Budget."+format, args...))
	}
	if b.Disabled {
		say("Disabled: true disables the other fields; leave them out")
	}
	switch p := b.Percent; {
	case p > 0 && p < 1:
		say("Percent: %v is below 1; write %v for %v percent", p, 100*p, 100*p)
	case p != Zero && !(p >= 0 && p <= 100):
		say("Percent: %v is not within 1 and 100; write a percentage, 0 for 10, or hedge.Zero for no share", p)
	}
	if why := settings.Count(int64(b.Burst), "0 for 10"); why != "" {
		say("Burst: %d %s", b.Burst, why)
	}
	return errors.Join(bad...)
}
