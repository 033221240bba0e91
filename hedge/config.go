package hedge

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/pillion-go/pillion/internal/settings"
	"github.com/pillion-go/pillion/policy"
)

// The values of a Config and of a Budget that names none.
const (
	DefaultPercentile    = 95.0
	DefaultMinDelay      = time.Millisecond
	DefaultWindow        = 30 * time.Second
	DefaultMinSamples    = 20
	DefaultMaxHedges     = 1
	DefaultBudgetPercent = 10.0
	DefaultBudgetBurst   = 10
)

// Zero is a number of zero where zero means the default.
const Zero = -1

// Config says when a call is sent once more. It is a policy, to stand inside retry, and outside of
// limits and breaker. The zero value hedges calls that take longer than 95 % of the upstream's.
type Config struct {
	// Delay is how long an attempt may wait for its response headers before the next one is sent. Zero means
	// that Percentile says it; any other value below 1ms is an error. Beside a Percentile it holds
	// while too few latencies are known.
	Delay time.Duration `json:"delay,omitempty"`

	// Percentile is the share of the upstream's responses, in percent, that take no longer than the
	// delay. Zero means 95 without a Delay, and that Delay is fixed with one. Below 1 and above 99.9
	// is an error.
	Percentile float64 `json:"percentile,omitempty"`

	// MinDelay bounds a delay by Percentile from below: it would help nothing to hedge calls that
	// are fast. Zero means 1ms; less than 1ms is an error.
	MinDelay time.Duration `json:"min_delay,omitempty"`

	// Window is the time whose latencies count for Percentile. It moves in halves. Zero means 30s;
	// less than 1s is an error.
	Window time.Duration `json:"window,omitempty"`

	// MinSamples is how many latencies must be known for Percentile. While there are fewer, calls
	// are hedged after Delay, or not at all. Zero means 20; negative is an error.
	MinSamples int `json:"min_samples,omitempty"`

	// MaxHedges is how many attempts are sent beside the first, each one delay after the one before.
	// Zero means 1; negative is an error.
	MaxHedges int `json:"max_hedges,omitempty"`

	// AnyCall hedges calls that may do harm when they are sent twice, too.
	AnyCall bool `json:"any_call,omitempty"`

	// Budget bounds the hedges of the upstream. Nil means the default values of [Budget].
	Budget *Budget `json:"budget,omitempty"`
}

// Budget bounds hedges by a share of the calls: each call adds to it, and each hedge takes from it.
type Budget struct {
	// Percent is how many hedges there may be for each 100 calls. Zero means 10, the constant Zero
	// none but Burst; any other value that is not within 1 and 100 is an error.
	Percent float64 `json:"percent,omitempty"`

	// Burst is how much of the budget is saved at most, and there at first. Zero means 10; negative
	// is an error.
	Burst int `json:"burst,omitempty"`

	// Disabled turns the budget off. It must be the only field that is set.
	Disabled bool `json:"disabled,omitempty"`
}

// Place is outside of what sees attempts, and inside of what sees calls and of retry.
func (Config) Place() policy.Place { return policy.Place{Rank: policy.Hedges} }

// check reports each bad field.
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
		say("Delay", "%v is fixed, so that MinDelay, Window and MinSamples have no effect; set Percentile too, or leave them out", c.Delay)
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
		say("Disabled: true leaves no effect to the other fields; leave them out")
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
