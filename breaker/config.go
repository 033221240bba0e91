package breaker

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/pillion-go/pillion/internal/settings"
	"github.com/pillion-go/pillion/policy"
)

// Zero is a threshold or a sleep of zero, where zero means the default.
const Zero = -1

// Never is the threshold of a circuit that never opens. The breaker still counts results.
const Never = -2

// The defaults of a Config, as in Expeditor.
const (
	DefaultThreshold     = 0.5
	DefaultNonBreakCount = 20
	DefaultSleep         = time.Second
	DefaultPeriod        = 10 * time.Second
)

// Config configures a circuit breaker with Expeditor's rules. It is a policy: each
// upstream that uses it has a separate breaker, which a program observes through
// OnStateChange and the errors only. Use [New] to read a breaker's status or to share it.
// Mirrors the options of Expeditor::Service.
type Config struct {
	// Name is the breaker's name in errors and changes. Empty means the name of the
	// upstream. Set it for a breaker made with New, which belongs to no upstream.
	Name string `json:"name,omitempty"`

	// Threshold is the ratio of failures and timeouts at or above which the circuit opens. 0
	// means 0.5; the constant Zero is a threshold of 0, which opens after any result; with the
	// constant Never the circuit never opens. Any other negative value, NaN, and a value
	// above 1 are errors. Mirrors threshold.
	Threshold float64 `json:"threshold,omitempty"`

	// NonBreakCount is the number of results the window must hold before the circuit can
	// open. Zero means 20; negative is an error. Mirrors non_break_count.
	NonBreakCount int `json:"non_break_count,omitempty"`

	// Sleep is how long an open circuit waits before it admits a trial, and between one trial
	// and the next. It starts at the first refused call. 0 means 1s; the constant Zero means
	// no wait; any other negative value is an error, as is less than a millisecond. Mirrors
	// sleep.
	Sleep time.Duration `json:"sleep,omitempty"`

	// Period is the length of the window. The window has ten buckets, so that a result counts
	// for nine tenths of Period to all of it. Zero means 10s; negative is an error, as is less
	// than a millisecond. Mirrors period.
	Period time.Duration `json:"period,omitempty"`

	// Classify returns the Result that an outcome counts as. It is called when the response
	// headers arrive and, unless it then returns Failure or Timeout, again when the response
	// ends. It must be safe for concurrent use. If it panics, the call counts as a failure and
	// the panic propagates to the caller. Nil means [Classify].
	Classify func(*policy.Outcome) Result `json:"-"`

	// OnStateChange is called when the circuit opens or closes, in the goroutine of a call that
	// the breaker guards. Calls are in order and never concurrent, and no lock is held: it may
	// use the breaker. If it panics, the state has changed and the call is counted; the panic
	// propagates to the caller. Nil means no callback.
	OnStateChange func(Change) `json:"-"`
}

// Place returns a place inside retry and hedge policies.
func (Config) Place() policy.Place { return place() }

// Wrap makes the breaker of an upstream and wraps next with it.
func (c Config) Wrap(s *policy.Builder, next policy.Func) (policy.Func, error) {
	if c.Name == "" {
		c.Name = s.Upstream()
	}
	b, err := New(c)
	if err != nil {
		return nil, err
	}
	return b.Wrap(s, next)
}

func (c Config) check() error {
	return errors.Join(
		c.checkThreshold(),
		c.checkCount(),
		c.checkDuration("Sleep", c.Sleep, c.Sleep == Zero, "breaker.Zero for none"),
		c.checkDuration("Period", c.Period, false, "0 for 10s"),
	)
}

func (c Config) checkThreshold() error {
	const field = "Threshold"
	switch t := c.Threshold; {
	case math.IsNaN(t):
		return wrong(field, t, "is no ratio; write one from 0 to 1")
	case t < 0 && t != Zero && t != Never:
		return wrong(field, t, "is negative; write a ratio from 0 to 1, breaker.Zero or breaker.Never")
	case t > 1:
		return wrong(field, t, "is above 1; write a ratio such as 0.5, or breaker.Never for a circuit that never opens")
	}
	return nil
}

func (c Config) checkCount() error {
	if why := settings.Count(int64(c.NonBreakCount), "0 for 20"); why != "" {
		return wrong("NonBreakCount", c.NonBreakCount, why)
	}
	return nil
}

// checkDuration checks a field that may be zero, or special. other describes what a user can
// write instead of a duration.
func (Config) checkDuration(field string, d time.Duration, special bool, other string) error {
	if why := settings.Duration(d, other); why != "" && !special {
		return wrong(field, d, why)
	}
	return nil
}

func wrong(field string, value any, why string) error {
	return fmt.Errorf("breaker: Config.%s: %v %s", field, value, why)
}

func (c Config) withDefaults() Config {
	switch c.Threshold {
	case 0:
		c.Threshold = DefaultThreshold
	case Zero:
		c.Threshold = 0
	case Never:
		c.Threshold = math.Inf(1)
	}
	if c.NonBreakCount == 0 {
		c.NonBreakCount = DefaultNonBreakCount
	}
	if c.Sleep == 0 {
		c.Sleep = DefaultSleep
	}
	c.Sleep = max(c.Sleep, 0) // Zero
	if c.Period == 0 {
		c.Period = DefaultPeriod
	}
	return c
}
