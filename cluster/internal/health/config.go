package health

import (
	"cmp"
	"errors"
	"fmt"
	"time"
)

// Config holds the parameters that all kinds of checks share, each under the name of its field
// in Envoy's message HealthCheck.
type Config struct {
	// Timeout is how long a check may take. It must be positive.
	Timeout time.Duration

	// Interval is the time between the end of a check and the next. It must be positive.
	Interval time.Duration

	// UnhealthyThreshold is how many failures in a row make a healthy host fail, if they are of
	// the kinds that count. It must be positive.
	UnhealthyThreshold uint32

	// HealthyThreshold is how many passed checks in a row make a failed host healthy. The
	// first check of a session needs no second. It must be positive.
	HealthyThreshold uint32

	// InitialJitter delays the first check by a random time below it, in whole milliseconds. Zero
	// means that the first check is due immediately.
	InitialJitter time.Duration

	// IntervalJitter adds a random time below it, in whole milliseconds, to every interval. Zero
	// means none.
	IntervalJitter time.Duration

	// IntervalJitterPercent adds a random time below this percentage of the interval to every
	// interval, in whole milliseconds. Zero means none.
	IntervalJitterPercent uint32

	// NoTrafficInterval is the interval as long as the cluster has had no connection; see
	// [Checker.Traffic]. Zero means 60s.
	NoTrafficInterval time.Duration

	// NoTrafficHealthyInterval is NoTrafficInterval after a passed check, unless a change is
	// pending. Zero means NoTrafficInterval.
	NoTrafficHealthyInterval time.Duration

	// UnhealthyInterval is the interval after a failure. Zero means Interval.
	UnhealthyInterval time.Duration

	// UnhealthyEdgeInterval is the interval after a failure of a host that is still healthy.
	// Zero means UnhealthyInterval.
	UnhealthyEdgeInterval time.Duration

	// HealthyEdgeInterval is the interval after a passed check of a host that is still failed.
	// Zero means Interval.
	HealthyEdgeInterval time.Duration

	// MinInterval and MaxInterval bound every interval, jitter included; the lower bound wins.
	// They mirror the runtime values health_check.min_interval and health_check.max_interval.
	// Zero means no bound. No interval is ever shorter than 1ms.
	MinInterval, MaxInterval time.Duration

	// AlwaysLogFailures makes an event of every failure, not of the first check's alone.
	// It mirrors always_log_health_check_failures.
	AlwaysLogFailures bool

	// AlwaysLogSuccess makes an event of every passed check that changes nothing. It mirrors
	// always_log_health_check_success.
	AlwaysLogSuccess bool
}

const (
	defaultNoTrafficInterval = 60 * time.Second
	leastInterval            = time.Millisecond
	longest                  = time.Duration(1) << 60 // no sum of four overflows
)

// Check returns every reason for which c cannot be used, joined, or nil.
func (c Config) Check() error {
	errs := []error{
		required("Timeout", c.Timeout, "write how long a check may take, such as 1s"),
		required("Interval", c.Interval, "write the time between two checks, such as 5s"),
		optional("InitialJitter", c.InitialJitter, "write 0 for none"),
		optional("IntervalJitter", c.IntervalJitter, "write 0 for none"),
		optional("NoTrafficInterval", c.NoTrafficInterval, "write 0 for 60s"),
		optional("NoTrafficHealthyInterval", c.NoTrafficHealthyInterval, "write 0 for NoTrafficInterval"),
		optional("UnhealthyInterval", c.UnhealthyInterval, "write 0 for Interval"),
		optional("UnhealthyEdgeInterval", c.UnhealthyEdgeInterval, "write 0 for UnhealthyInterval"),
		optional("HealthyEdgeInterval", c.HealthyEdgeInterval, "write 0 for Interval"),
		optional("MinInterval", c.MinInterval, "write 0 for no bound"),
		optional("MaxInterval", c.MaxInterval, "write 0 for no bound"),
	}
	if c.UnhealthyThreshold == 0 {
		errs = append(errs, invalid("Config", "UnhealthyThreshold", "0 is not positive; write 1 for hosts that fail at the first failure"))
	}
	if c.HealthyThreshold == 0 {
		errs = append(errs, invalid("Config", "HealthyThreshold", "0 is not positive; write 1 for hosts that return at the first passed check"))
	}
	base := max(c.Interval, c.noTrafficInterval(), c.NoTrafficHealthyInterval, c.UnhealthyInterval, c.UnhealthyEdgeInterval, c.HealthyEdgeInterval)
	if float64(c.IntervalJitterPercent)/100*float64(base) > float64(longest) {
		errs = append(errs, invalid("Config", "IntervalJitterPercent", "%d percent of %v is too long; write less", c.IntervalJitterPercent, base))
	}
	return errors.Join(errs...)
}

func required(field string, d time.Duration, instead string) error {
	if d == 0 {
		return invalid("Config", field, "%v is not positive; %s", d, instead)
	}
	return optional(field, d, instead)
}

func optional(field string, d time.Duration, instead string) error {
	switch {
	case d < 0:
		return invalid("Config", field, "%v is negative; %s", d, instead)
	case d > longest:
		return invalid("Config", field, "%v is too long; write %v or less", d, longest)
	}
	return nil
}

// invalid returns an error about a field of a configuration of this kind.
func invalid(kind, field, format string, args ...any) error {
	return fmt.Errorf("health: %s.%s: "+format, append([]any{kind, field}, args...)...)
}

func (c *Config) noTrafficInterval() time.Duration {
	return cmp.Or(c.NoTrafficInterval, defaultNoTrafficInterval)
}

// base returns the interval after a check, without jitter.
func (c *Config) base(healthy, pending, traffic bool) time.Duration {
	switch {
	case !traffic && healthy && !pending:
		return cmp.Or(c.NoTrafficHealthyInterval, c.noTrafficInterval())
	case !traffic:
		return c.noTrafficInterval()
	case healthy && pending:
		return cmp.Or(c.HealthyEdgeInterval, c.Interval)
	case healthy:
		return c.Interval
	case pending:
		return cmp.Or(c.UnhealthyEdgeInterval, c.UnhealthyInterval, c.Interval)
	}
	return cmp.Or(c.UnhealthyInterval, c.Interval)
}

// spread adds jitter to an interval and bounds it.
func (c *Config) spread(base, jitter time.Duration, random func() uint64) time.Duration {
	d := base
	d += below(base/100*time.Duration(c.IntervalJitterPercent)+base%100*time.Duration(c.IntervalJitterPercent)/100, random)
	d += below(jitter, random)
	if c.MaxInterval > 0 {
		d = min(d, c.MaxInterval)
	}
	return max(d, c.MinInterval, leastInterval)
}

// below draws a time below limit, in whole milliseconds. It spends no random number on less
// than one.
func below(limit time.Duration, random func() uint64) time.Duration {
	ms := uint64(limit / time.Millisecond) //nolint:gosec // not negative
	if ms == 0 {
		return 0
	}
	return time.Duration(random()%ms) * time.Millisecond //nolint:gosec // less than limit
}
