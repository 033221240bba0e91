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
	// Timeout limits the time of a check. It must be positive.
	Timeout time.Duration

	// Interval is the time between the end of a check and the next. It must be positive.
	Interval time.Duration

	// UnhealthyThreshold is the number of failures in a row, of the kinds that count, after which
	// a healthy host fails. It must be positive.
	UnhealthyThreshold uint32

	// HealthyThreshold is the number of passed checks in a row after which a failed host is
	// healthy. One is enough for the first check of a session. It must be positive.
	HealthyThreshold uint32

	// InitialJitter is the upper bound of a random delay of the first check, in whole
	// milliseconds. Zero means no delay.
	InitialJitter time.Duration

	// IntervalJitter is the upper bound of a random time, in whole milliseconds, that is added to
	// every interval. Zero means none.
	IntervalJitter time.Duration

	// IntervalJitterPercent is the upper bound of a random time that is added to every interval,
	// in percent of the interval. Zero means none.
	IntervalJitterPercent uint32

	// NoTrafficInterval is the interval until the cluster has had a connection; see
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

	// AlwaysLogFailures adds an event for every failure, not only for that of the first check.
	// It mirrors always_log_health_check_failures.
	AlwaysLogFailures bool

	// AlwaysLogSuccess adds an event for every passed check that changes nothing. It mirrors
	// always_log_health_check_success.
	AlwaysLogSuccess bool
}

const (
	defaultNoTrafficInterval = 60 * time.Second
	leastInterval            = time.Millisecond
	longest                  = time.Duration(1) << 60 // no sum of four overflows
)

// Check returns the joined errors of all invalid fields, or nil.
func (c Config) Check() error {
	errs := []error{
		required("Timeout", c.Timeout, "write a limit of the time of a check, such as 1s"),
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

// below returns a random time below limit, in whole milliseconds. It uses no random number if
// limit is below 1ms.
func below(limit time.Duration, random func() uint64) time.Duration {
	ms := uint64(limit / time.Millisecond) //nolint:gosec // not negative
	if ms == 0 {
		return 0
	}
	return time.Duration(random()%ms) * time.Millisecond //nolint:gosec // less than limit
}
