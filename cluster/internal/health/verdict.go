package health

import (
	"context"
	"errors"
	"os"
)

// Verdict is the result of one check.
type Verdict struct {
	// Result says whether the host passed.
	Result Result

	// Failure is why it did not, if Result is [Failed].
	Failure Failure

	// Retriable makes an [Active] failure count toward UnhealthyThreshold, instead of failing
	// the host immediately.
	Retriable bool

	// Exclude reports that the response carried x-envoy-immediate-health-check-fail.
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
	// Passed: the host is well.
	Passed
	// PassedDegraded: the host is well, but asks for less traffic.
	PassedDegraded
)

// Failure is the kind of a failure, as Envoy's HealthCheckFailureType.
type Failure uint8

// The kinds of failures.
const (
	// Active: the host responded, and not as it should.
	Active Failure = iota
	// Passive: ordinary traffic said so, see [Session.Fail].
	Passive
	// Network: there was no response, or it broke off.
	Network
	// NetworkTimeout: there was no response in time.
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

// network reports whether f counts toward UnhealthyThreshold by itself.
func (f Failure) network() bool { return f == Network || f == NetworkTimeout }

// Broken returns the verdict of a check that got no response. If the check's time is up
// it is a timeout.
func Broken(err error, timeout bool) Verdict {
	if timeout {
		return Verdict{Failure: NetworkTimeout, Err: err}
	}
	return Verdict{Failure: Network, Err: err}
}

// broken returns the verdict of a check that ended with err. A dialer notices the end of ctx's
// time before ctx does.
func broken(ctx context.Context, err error) Verdict {
	timeout := errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
	return Broken(err, timeout)
}
