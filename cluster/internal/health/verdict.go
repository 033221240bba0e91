package health

import (
	"context"
	"errors"
	"os"
)

// Verdict is the result of one check.
type Verdict struct {
	// Result is the outcome of the check.
	Result Result

	// Failure is the kind of the failure, if Result is [Failed].
	Failure Failure

	// Retriable makes an [Active] failure count toward UnhealthyThreshold, instead of failing
	// the host immediately.
	Retriable bool

	// Exclude reports that the response has x-envoy-immediate-health-check-fail.
	Exclude bool

	// Verified reports that the name of the service was compared with the expected one.
	Verified bool

	// Code is the status of an HTTP response, or 0.
	Code int

	// Err is the cause of a failure, for logs.
	Err error
}

// Result is the outcome of a check.
type Result uint8

// The results.
const (
	// Failed: see [Verdict.Failure].
	Failed Result = iota
	// Passed: the host is healthy.
	Passed
	// PassedDegraded: the host is degraded.
	PassedDegraded
)

// Failure is the kind of a failure, as Envoy's HealthCheckFailureType.
type Failure uint8

// The kinds of failures.
const (
	// Active: the host sent an unexpected response.
	Active Failure = iota
	// Passive: a response of ordinary traffic reported it, see [Session.Fail].
	Passive
	// Network: there was no response, or it was incomplete.
	Network
	// NetworkTimeout: the check timed out.
	NetworkTimeout
)

// String returns the name that Envoy's health check log uses.
func (f Failure) String() string {
	switch f {
	case Active:
		return "ACTIVE"
	case Passive:
		return "PASSIVE"
	case Network:
		return "NETWORK"
	case NetworkTimeout:
		return "NETWORK_TIMEOUT"
	default:
		return "UNKNOWN"
	}
}

// network reports whether f is a network failure, which counts toward UnhealthyThreshold.
func (f Failure) network() bool { return f == Network || f == NetworkTimeout }

// Broken returns the verdict of a check without a complete response. If ctx has expired, it is a
// timeout.
func Broken(err error, timeout bool) Verdict {
	if timeout {
		return Verdict{Failure: NetworkTimeout, Err: err}
	}
	return Verdict{Failure: Network, Err: err}
}

// broken returns the verdict of a check that ended with err. A dialer can report the deadline of
// ctx before ctx has expired.
func broken(ctx context.Context, err error) Verdict {
	timeout := errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
	return Broken(err, timeout)
}
