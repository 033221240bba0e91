package command

import (
	"context"

	"github.com/pillion-go/pillion/breaker"
)

// Classify returns how an attempt that ended with err is counted, if the [ServiceConfig]
// has no other function. Only the kind of the error matters, not where it came from. If
// errors are wrapped, the outermost one of a known kind decides:
//   - nil is a Success
//   - a [*DependencyError] is a Dependency, a [*RejectedError] a Rejection, a
//     [*CircuitBreakError] of any breaker a Break, a [*PanicError] a Failure
//   - [context.DeadlineExceeded] and errors whose Timeout method returns true are a Timeout,
//     whichever limit it was
//   - [context.Canceled] is Ignored: a caller canceled
//   - any other error is a Failure
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

// classify walks the tree of err from the outside. Ruby looks at the class of the outermost
// error alone, but Go programs wrap errors.
func classify(err error) (breaker.Result, bool) {
	if r, ok := classOf(err); ok {
		return r, true
	}
	switch wrapper := err.(type) { //nolint:errorlint // this walks the tree itself
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

// classOf classifies err itself, without what it wraps.
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
