package outlier

import (
	"errors"
	"fmt"
	"time"
)

// Config holds the parameters of a [Detector], each under the name of its field in Envoy's
// message OutlierDetection. No zero value means a default: use [Defaults].
type Config struct {
	// Interval is the time between ticks. It must be positive. Default 10s.
	Interval time.Duration

	// BaseEjectionTime is the duration of the first ejection; the nth in a row lasts n times as
	// long. It must be positive. Default 30s.
	BaseEjectionTime time.Duration

	// MaxEjectionTime bounds the length of an ejection. It must not be below
	// BaseEjectionTime. Zero means 300s or BaseEjectionTime, whichever is longer.
	MaxEjectionTime time.Duration

	// MaxEjectionTimeJitter bounds the random time, in whole milliseconds, that is added to
	// each ejection. Default 0.
	MaxEjectionTimeJitter time.Duration

	// MaxEjectionPercent is the maximum share of ejected hosts: a host is ejected only if
	// (ejected+1)/hosts does not exceed it. With the default of 10, no host of a cluster of
	// fewer than ten hosts is ever ejected, see [Config.Ejects].
	MaxEjectionPercent uint32

	// AlwaysEjectOneHost allows one ejected host, whatever MaxEjectionPercent is. Default
	// false.
	AlwaysEjectOneHost bool

	// Consecutive5xx is the length of the run of 5xx results that is detected. Zero detects
	// none. Default 5.
	Consecutive5xx uint32

	// EnforcingConsecutive5xx is the probability, in percent, that a detected run ejects.
	// Default 100.
	EnforcingConsecutive5xx uint32

	// ConsecutiveGatewayFailure is the length of the run of 502, 503 and 504 that is detected;
	// another 5xx ends it. Zero detects none. Default 5.
	ConsecutiveGatewayFailure uint32

	// EnforcingConsecutiveGatewayFailure is the probability, in percent, that a detected run of
	// gateway failures ejects. Default 0: such runs are only counted.
	EnforcingConsecutiveGatewayFailure uint32

	// SplitExternalLocalOriginErrors separates failures of local origin (failed connects,
	// resets, timeouts) from the responses of the host. Without it a failed connect counts as
	// 503 and a timeout as 504. Default false.
	SplitExternalLocalOriginErrors bool

	// ConsecutiveLocalOriginFailure is the length of the run of local origin failures that is
	// detected with SplitExternalLocalOriginErrors. Zero detects none. Default 5.
	ConsecutiveLocalOriginFailure uint32

	// EnforcingConsecutiveLocalOriginFailure is the probability, in percent, that a detected run
	// of local origin failures ejects. Default 100.
	EnforcingConsecutiveLocalOriginFailure uint32

	// SuccessRateMinimumHosts is the minimum number of hosts with enough results; with fewer
	// hosts, success rates are not evaluated. Default 5.
	SuccessRateMinimumHosts uint32

	// SuccessRateRequestVolume is the minimum number of results of a host in an interval; with
	// fewer results, its success rate is not evaluated. Default 100.
	SuccessRateRequestVolume uint32

	// SuccessRateStdevFactor is the maximum distance below the mean, in thousandths of the
	// standard deviation of all hosts. Default 1900.
	SuccessRateStdevFactor uint32

	// EnforcingSuccessRate is the probability, in percent, that a success rate that is too low
	// ejects. Default 100.
	EnforcingSuccessRate uint32

	// EnforcingLocalOriginSuccessRate is EnforcingSuccessRate for local origin results.
	// Default 100.
	EnforcingLocalOriginSuccessRate uint32

	// FailurePercentageThreshold is the percentage of failures from which a host is detected.
	// Default 85.
	FailurePercentageThreshold uint32

	// FailurePercentageMinimumHosts is the minimum number of hosts with enough results; with
	// fewer hosts, failure percentages are not evaluated. Default 5.
	FailurePercentageMinimumHosts uint32

	// FailurePercentageRequestVolume is the minimum number of results of a host in an interval;
	// with fewer results, its failure percentage is not evaluated. Default 50.
	FailurePercentageRequestVolume uint32

	// EnforcingFailurePercentage is the probability, in percent, that a failure percentage that
	// is too high ejects. Default 0: it is only counted.
	EnforcingFailurePercentage uint32

	// EnforcingFailurePercentageLocalOrigin is EnforcingFailurePercentage for local origin
	// results. Default 0.
	EnforcingFailurePercentageLocalOrigin uint32

	// SuccessfulActiveHealthCheckUnejectHost makes [Detector.HealthCheckPassed] end an ejection.
	// Default true.
	SuccessfulActiveHealthCheckUnejectHost bool

	// DetectDegradedHosts marks hosts that respond with x-envoy-degraded as degraded. Default
	// false.
	DetectDegradedHosts bool
}

// defaultMaxEjectionTime applies unless BaseEjectionTime is longer.
const defaultMaxEjectionTime = 300 * time.Second

// longest is the maximum of every duration, so that no sum of two overflows.
const longest = time.Duration(1) << 61

// Defaults returns Envoy's defaults, except that MaxEjectionTime is zero, since its default
// depends on BaseEjectionTime.
func Defaults() Config {
	return Config{
		Interval:                               10 * time.Second,
		BaseEjectionTime:                       30 * time.Second,
		MaxEjectionPercent:                     10,
		Consecutive5xx:                         5,
		EnforcingConsecutive5xx:                100,
		ConsecutiveGatewayFailure:              5,
		ConsecutiveLocalOriginFailure:          5,
		EnforcingConsecutiveLocalOriginFailure: 100,
		SuccessRateMinimumHosts:                5,
		SuccessRateRequestVolume:               100,
		SuccessRateStdevFactor:                 1900,
		EnforcingSuccessRate:                   100,
		EnforcingLocalOriginSuccessRate:        100,
		FailurePercentageThreshold:             85,
		FailurePercentageMinimumHosts:          5,
		FailurePercentageRequestVolume:         50,
		SuccessfulActiveHealthCheckUnejectHost: true,
	}
}

// Check returns the joined errors of all fields that Envoy would refuse, or nil.
func (c Config) Check() error {
	errs := []error{
		positive("Interval", c.Interval, "write 10s for the default"),
		positive("BaseEjectionTime", c.BaseEjectionTime, "write 30s for the default"),
		notNegative("MaxEjectionTime", c.MaxEjectionTime, "write 0 for the default"),
		notNegative("MaxEjectionTimeJitter", c.MaxEjectionTimeJitter, "write 0 for none"),
		percent("MaxEjectionPercent", c.MaxEjectionPercent),
		percent("EnforcingConsecutive5xx", c.EnforcingConsecutive5xx),
		percent("EnforcingConsecutiveGatewayFailure", c.EnforcingConsecutiveGatewayFailure),
		percent("EnforcingConsecutiveLocalOriginFailure", c.EnforcingConsecutiveLocalOriginFailure),
		percent("EnforcingSuccessRate", c.EnforcingSuccessRate),
		percent("EnforcingLocalOriginSuccessRate", c.EnforcingLocalOriginSuccessRate),
		percent("FailurePercentageThreshold", c.FailurePercentageThreshold),
		percent("EnforcingFailurePercentage", c.EnforcingFailurePercentage),
		percent("EnforcingFailurePercentageLocalOrigin", c.EnforcingFailurePercentageLocalOrigin),
	}
	if c.MaxEjectionTime != 0 && c.MaxEjectionTime < c.BaseEjectionTime {
		errs = append(errs, invalid("MaxEjectionTime", "%v is less than BaseEjectionTime; write %v or more", c.MaxEjectionTime, c.BaseEjectionTime))
	}
	return errors.Join(errs...)
}

func positive(field string, d time.Duration, instead string) error {
	if d == 0 {
		return invalid(field, "%v is not positive; %s", d, instead)
	}
	return notNegative(field, d, instead)
}

func notNegative(field string, d time.Duration, instead string) error {
	switch {
	case d < 0:
		return invalid(field, "%v is negative; %s", d, instead)
	case d > longest:
		return invalid(field, "%v is too long; write %v or less", d, longest)
	}
	return nil
}

func percent(field string, value uint32) error {
	if value > 100 {
		return invalid(field, "%d is more than 100 percent; write 100 or less", value)
	}
	return nil
}

// invalid returns an error about a field of a Config.
func invalid(field, format string, args ...any) error {
	return fmt.Errorf("outlier: Config.%s: "+format, append([]any{field}, args...)...)
}

// Ejects reports whether a cluster with this number of hosts can have an ejected host. If not,
// MaxEjectionPercent is below the share of one host, which is rarely intended.
func (c Config) Ejects(hosts int) bool {
	return hosts > 0 && c.room(0, hosts)
}

// room reports whether one more host may be ejected.
func (c *Config) room(ejected, hosts int) bool {
	within := 100*(int64(ejected)+1) <= int64(c.MaxEjectionPercent)*int64(hosts)
	return within || c.AlwaysEjectOneHost && ejected == 0
}

// maxEjectionTime returns MaxEjectionTime or its default.
func (c *Config) maxEjectionTime() time.Duration {
	if c.MaxEjectionTime == 0 {
		return max(defaultMaxEjectionTime, c.BaseEjectionTime)
	}
	return c.MaxEjectionTime
}

// enforcing returns the probability, in percent, that a detection of kind k ejects. k must not
// be Degraded.
func (c *Config) enforcing(k Kind) uint32 {
	return [...]uint32{
		c.EnforcingConsecutive5xx, c.EnforcingConsecutiveGatewayFailure, c.EnforcingConsecutiveLocalOriginFailure,
		c.EnforcingSuccessRate, c.EnforcingLocalOriginSuccessRate,
		c.EnforcingFailurePercentage, c.EnforcingFailurePercentageLocalOrigin,
	}[k]
}
