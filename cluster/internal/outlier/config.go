package outlier

import (
	"errors"
	"fmt"
	"time"
)

// Config holds the parameters of a [Detector], each under the name of its field in Envoy's
// message OutlierDetection. All values are exact: a zero is a zero. Start with [Defaults].
type Config struct {
	// Interval is the time between ticks. It must be positive. Default 10s.
	Interval time.Duration

	// BaseEjectionTime is how long the first ejection lasts; the nth in a row lasts n times as
	// long. It must be positive. Default 30s.
	BaseEjectionTime time.Duration

	// MaxEjectionTime bounds the length of an ejection. It must not be below
	// BaseEjectionTime. Zero means 300s or BaseEjectionTime, whichever is longer.
	MaxEjectionTime time.Duration

	// MaxEjectionTimeJitter bounds the random time, in whole milliseconds, that is added to
	// each ejection. Default 0.
	MaxEjectionTimeJitter time.Duration

	// MaxEjectionPercent is the share of hosts that may be ejected at the same time: a
	// host is ejected only if (ejected+1)/hosts stays within it. With the default of 10, no host
	// of a cluster of fewer than ten is ever ejected, see [Config.Ejects].
	MaxEjectionPercent uint32

	// AlwaysEjectOneHost permits one ejected host whatever MaxEjectionPercent says. Default
	// false.
	AlwaysEjectOneHost bool

	// Consecutive5xx is the length of the run of 5xx results that is detected. Zero detects
	// none. Default 5.
	Consecutive5xx uint32

	// EnforcingConsecutive5xx is the chance, in percent, that a detected run ejects. Default
	// 100.
	EnforcingConsecutive5xx uint32

	// ConsecutiveGatewayFailure is the length of the run of 502, 503 and 504 that is detected;
	// another 5xx ends it. Zero detects none. Default 5.
	ConsecutiveGatewayFailure uint32

	// EnforcingConsecutiveGatewayFailure is the chance, in percent, that a detected run of
	// gateway failures ejects. Default 0: detected and counted only.
	EnforcingConsecutiveGatewayFailure uint32

	// SplitExternalLocalOriginErrors keeps what happens on this side (failed connects, resets,
	// timeouts) apart from what the host responds. Without it a failed connect counts
	// as a 503, a timeout as a 504. Default false.
	SplitExternalLocalOriginErrors bool

	// ConsecutiveLocalOriginFailure is the length of the run of local origin failures that is
	// detected with SplitExternalLocalOriginErrors. Zero detects none. Default 5.
	ConsecutiveLocalOriginFailure uint32

	// EnforcingConsecutiveLocalOriginFailure is the chance, in percent, that a detected run of
	// local origin failures ejects. Default 100.
	EnforcingConsecutiveLocalOriginFailure uint32

	// SuccessRateMinimumHosts is the least number of hosts with enough results for success
	// rates to be judged. Default 5.
	SuccessRateMinimumHosts uint32

	// SuccessRateRequestVolume is the least number of results in one interval for a host to
	// take part. Default 100.
	SuccessRateRequestVolume uint32

	// SuccessRateStdevFactor is the distance from the mean that is tolerated, in thousandths
	// of the standard deviation of all hosts. Default 1900.
	SuccessRateStdevFactor uint32

	// EnforcingSuccessRate is the chance, in percent, that a success rate that is too low
	// ejects. Default 100.
	EnforcingSuccessRate uint32

	// EnforcingLocalOriginSuccessRate is EnforcingSuccessRate for local origin results.
	// Default 100.
	EnforcingLocalOriginSuccessRate uint32

	// FailurePercentageThreshold is the percentage of failures from which on a host is
	// detected. Default 85.
	FailurePercentageThreshold uint32

	// FailurePercentageMinimumHosts is the least number of hosts with enough results for
	// percentages to be judged. Default 5.
	FailurePercentageMinimumHosts uint32

	// FailurePercentageRequestVolume is the least number of results in one interval for a
	// host's percentage to be judged. Default 50.
	FailurePercentageRequestVolume uint32

	// EnforcingFailurePercentage is the chance, in percent, that a failure percentage that is
	// too high ejects. Default 0: detected and counted only.
	EnforcingFailurePercentage uint32

	// EnforcingFailurePercentageLocalOrigin is EnforcingFailurePercentage for local origin
	// results. Default 0.
	EnforcingFailurePercentageLocalOrigin uint32

	// SuccessfulActiveHealthCheckUnejectHost makes [Detector.HealthCheckPassed] return an
	// ejected host. Default true.
	SuccessfulActiveHealthCheckUnejectHost bool

	// DetectDegradedHosts marks hosts that respond with x-envoy-degraded as degraded. Default
	// false.
	DetectDegradedHosts bool
}

// defaultMaxEjectionTime applies unless BaseEjectionTime is longer.
const defaultMaxEjectionTime = 300 * time.Second

// longest bounds every duration, so that no sum of two overflows.
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

// Check returns every reason for which Envoy refuses c, joined, or nil.
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

// Ejects reports whether a cluster of so many hosts can have an ejected host at all. If
// not, MaxEjectionPercent is below the share of a single host, which is rarely what its
// author meant.
func (c Config) Ejects(hosts int) bool {
	return hosts > 0 && c.room(0, hosts)
}

// room reports whether one more host may be ejected.
func (c *Config) room(ejected, hosts int) bool {
	within := 100*(int64(ejected)+1) <= int64(c.MaxEjectionPercent)*int64(hosts)
	return within || c.AlwaysEjectOneHost && ejected == 0
}

// maxEjectionTime resolves the default.
func (c *Config) maxEjectionTime() time.Duration {
	if c.MaxEjectionTime == 0 {
		return max(defaultMaxEjectionTime, c.BaseEjectionTime)
	}
	return c.MaxEjectionTime
}

// enforcing returns the chance, in percent, that a detection of kind k, which is not Degraded,
// ejects.
func (c *Config) enforcing(k Kind) uint32 {
	return [...]uint32{
		c.EnforcingConsecutive5xx, c.EnforcingConsecutiveGatewayFailure, c.EnforcingConsecutiveLocalOriginFailure,
		c.EnforcingSuccessRate, c.EnforcingLocalOriginSuccessRate,
		c.EnforcingFailurePercentage, c.EnforcingFailurePercentageLocalOrigin,
	}[k]
}
