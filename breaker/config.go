package breaker

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/pillion-go/pillion"
)

// Zero is a threshold or a sleep of zero, where zero means the default.
const Zero = -1

// The values of a Config that names none, as in Expeditor.
const (
	DefaultThreshold     = 0.5
	DefaultNonBreakCount = 20
	DefaultSleep         = time.Second
	DefaultPeriod        = 10 * time.Second
)

// Config describes a circuit breaker with Expeditor's rules. It is a policy:
// each upstream that it is given to has a breaker of its own, which can be read with
// OnStateChange and the errors alone; make it with [New] to read its status or to share
// it. It mirrors the options of Expeditor::Service.
type Config struct {
	// Name is what the breaker is called in errors and changes. Empty means the name of
	// the upstream; a breaker made with New belongs to none, and should be given one.
	Name string `json:"name,omitempty"`

	// Threshold is the ratio of failures and timeouts at which the circuit opens: at it or
	// above it. 0 means 0.5; the constant Zero is a threshold of 0, which opens after any
	// result; above 1 it never opens. Any other negative value and NaN are errors. Mirrors
	// threshold.
	Threshold float64 `json:"threshold,omitempty"`

	// NonBreakCount is how many results the window must hold at least for the circuit to
	// open. Zero means 20; negative is an error. Mirrors non_break_count.
	NonBreakCount int `json:"non_break_count,omitempty"`

	// Sleep is how long the circuit stays open before it lets one call through as a trial,
	// and then the next. It starts with the first refused call. 0 means 1s; the constant Zero
	// is no time at all; any other negative value is an error. Mirrors sleep.
	Sleep time.Duration `json:"sleep,omitempty"`

	// Period is how long a result counts: nine to ten tenths of it, as the window has ten
	// parts. Zero means 10s; negative is an error, as is less than 10ns. Mirrors period.
	Period time.Duration `json:"period,omitempty"`

	// Classify says how an outcome is counted. It is asked for the head of an answer, and,
	// unless that is a Failure or a Timeout, again for its end. It must be safe for concurrent
	// use. Nil means [Classify].
	Classify func(*pillion.Outcome) Result `json:"-"`

	// OnStateChange is told when the circuit opens and closes: outside all locks, in order,
	// never twice at once. It may use the breaker. Nil tells nobody.
	OnStateChange func(Change) `json:"-"`
}

// Role is that of a policy that judges each try.
func (Config) Role() pillion.Role { return pillion.RoleBreaker }

// Wrap makes the breaker of one upstream.
func (c Config) Wrap(s *pillion.Site, next pillion.Func) (pillion.Func, error) {
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
	var bad []error
	say := func(field string, value any, why string) {
		bad = append(bad, fmt.Errorf("breaker: Config.%s: %v %s", field, value, why))
	}
	switch {
	case math.IsNaN(c.Threshold):
		say("Threshold", c.Threshold, "is no ratio")
	case c.Threshold < 0 && c.Threshold != Zero:
		say("Threshold", c.Threshold, "is negative")
	}
	if c.NonBreakCount < 0 {
		say("NonBreakCount", c.NonBreakCount, "is negative")
	}
	if c.Sleep < 0 && c.Sleep != Zero {
		say("Sleep", c.Sleep, "is negative")
	}
	switch {
	case c.Period < 0:
		say("Period", c.Period, "is negative")
	case c.Period > 0 && c.Period < buckets:
		say("Period", c.Period, "cannot be cut in ten")
	}
	return errors.Join(bad...)
}

func (c Config) withDefaults() Config {
	switch c.Threshold {
	case 0:
		c.Threshold = DefaultThreshold
	case Zero:
		c.Threshold = 0
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
	if c.Classify == nil {
		c.Classify = Classify
	}
	return c
}
