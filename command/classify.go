package command

import (
	"context"

	"github.com/pillion-go/pillion/breaker"
)

// Classify is how a service without a Classify of its own counts what an attempt
// ended with. Where the error came from plays no part, only what it is. The first error
// from the outside that says what it is decides:
//   - nil is a Success
//   - a [*DependencyError] is a Dependency, a [*RejectedError] a Rejection, a
//     [*CircuitBreakError] of any breaker a Break, a [*PanicError] a Failure
//   - [context.DeadlineExceeded] and errors whose Timeout method says so are a Timeout,
//     whoever set the limit
//   - [context.Canceled] is Ignored: somebody walked away
//   - all else is a Failure
//
// Mirrors the table of errors in lib/expeditor/command.rb, metrics.
func Classify(err error) breaker.Result {
	if err == nil {
		return breaker.Success
	}
	if r, ok := classify(err); ok {
		return r
	}
	return breaker.Failure
}

// classify walks the tree of err from the outside, for a class in Ruby is that of
// the outermost error alone, but in Go all wrap.
func classify(err error) (breaker.Result, bool) {
	if r, ok := classOf(err); ok {
		return r, true
	}
	switch wrapper := err.(type) { //nolint:errorlint // it is the tree itself that is walked
	case interface{ Unwrap() error }:
		if inner := wrapper.Unwrap(); inner != nil {
			return classify(inner)
		}
	case interface{ Unwrap() []error }:
		for _, inner := range wrapper.Unwrap() {
			if r, ok := classify(inner); ok {
				return r, true
			}
		}
	}
	return 0, false
}

// classOf knows err itself, whatever it wraps.
func classOf(err error) (breaker.Result, bool) {
	switch e := err.(type) { //nolint:errorlint // see classify
	case *DependencyError:
		return breaker.Dependency, true
	case *RejectedError:
		return breaker.Rejection, true
	case *CircuitBreakError:
		return breaker.Break, true
	case *PanicError:
		return breaker.Failure, true
	case interface{ Timeout() bool }:
		if e.Timeout() {
			return breaker.Timeout, true
		}
	}
	switch err { //nolint:errorlint // see classify
	case context.DeadlineExceeded:
		return breaker.Timeout, true
	case context.Canceled:
		return breaker.Ignored, true
	case ErrRejected:
		return breaker.Rejection, true
	case breaker.ErrOpen:
		return breaker.Break, true
	}
	return 0, false
}
