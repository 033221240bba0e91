package command

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/pillion-go/pillion/breaker"
)

// The errors of methods that are called too early or too late. They are not counted.
var (
	// ErrNotStarted is what Get and Wait return before the start. Mirrors
	// Expeditor::NotStartedError.
	ErrNotStarted = errors.New("command: not started")

	// ErrAlreadyStarted is what a second start returns, and what SetFallback and After return
	// after the start. Mirrors Expeditor::AlreadyStartedError.
	ErrAlreadyStarted = errors.New("command: already started")
)

// ErrInvalid matches the errors about invalid arguments and settings, such as a nil
// function, a negative timeout or a bad retry option. A command that was made with them fails
// with such an error when it is started, and is counted as a failure.
var ErrInvalid = errors.New("command: invalid")

// ErrRejected matches every [*RejectedError].
var ErrRejected = errors.New("command: rejected")

// RejectedError reports that a pool had no free slot for a command. Mirrors
// Expeditor::RejectedExecutionError.
type RejectedError struct {
	Service string // the name of the service; may be empty
	Reason  Reason
}

// Reason is the reason for a rejection.
type Reason uint8

// The reasons for a rejection.
const (
	Full      Reason = iota // the pool is full, and its overflow policy is Abort
	Shutdown                // the pool was shut down before the start
	Discarded               // the pool is full, and its overflow policy is Discard
)

// String returns the reason in words.
func (r Reason) String() string {
	return [...]string{"the pool is full", "the pool is shut down", "the pool is full and discards"}[r]
}

func (e *RejectedError) Error() string { return text(e.Service, "rejected: "+e.Reason.String()) }

// Is reports whether target is [ErrRejected].
func (e *RejectedError) Is(target error) bool { return target == ErrRejected }

// CircuitBreakError reports that the breaker refused the last attempt, until when it
// refuses, and why the circuit opened. It is the error of package breaker under the gem's
// name, and matches [breaker.ErrOpen]. All refusals while the circuit is open share one: it
// must not be modified. Mirrors Expeditor::CircuitBreakError.
type CircuitBreakError = breaker.OpenError

// DependencyError reports that the work did not run, because a dependency failed. Its text
// is that of the dependency's error, as in the gem. If the dependency failed because of its
// own dependency, Err is a DependencyError too. Mirrors Expeditor::DependencyError.
type DependencyError struct{ Err error }

func (e *DependencyError) Error() string { return e.Err.Error() }

// Unwrap returns the error of the dependency.
func (e *DependencyError) Unwrap() error { return e.Err }

// TimeoutError reports that the timeout of a command fired. It matches
// [context.DeadlineExceeded], and [context.Cause] returns it in the work. It corresponds to
// Ruby's Timeout::Error.
type TimeoutError struct {
	Service string // the name of the service; may be empty
	Limit   time.Duration
	Err     error // of the work when its context ended, or of the attempt before; may be nil
}

func (e *TimeoutError) Error() string {
	t := text(e.Service, fmt.Sprintf("limit of %v reached", e.Limit))
	if e.Err == nil {
		return t
	}
	return t + ": " + e.Err.Error()
}

// Is reports whether target is [context.DeadlineExceeded].
func (e *TimeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// Timeout returns true, as for net.Error.
func (e *TimeoutError) Timeout() bool { return true }

// Unwrap returns the error of the work.
func (e *TimeoutError) Unwrap() error { return e.Err }

// PanicError is a panic of the caller's function: of the work, of the fallback, of a retry
// option or of a hook. A panic of the work is the command's result and is counted as a
// failure. It corresponds to Ruby's errors outside StandardError: it is retried only if
// Retryable.On matches it.
type PanicError struct {
	Value any    // the value of the panic, or [Goexit]
	Stack []byte // the stack, as of debug.Stack; not part of the text
}

// Goexit is the Value of a function that ended its goroutine by runtime.Goexit.
const Goexit goexit = "runtime.Goexit"

type goexit string

func newPanicError(value any) *PanicError { return &PanicError{value, debug.Stack()} }

func (e *PanicError) Error() string { return fmt.Sprintf("command: panic: %v", e.Value) }

// Unwrap returns the value of the panic, if that is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// CycleError reports that commands would wait for each other in a cycle, so that none
// could end. It matches [ErrInvalid].
type CycleError struct {
	Length int // the number of commands; 1 for one that would wait for itself
}

func (e *CycleError) Error() string {
	if e.Length == 1 {
		return "command: a command waits for itself"
	}
	return fmt.Sprintf("command: a cycle of %d commands that wait for each other", e.Length)
}

// Is reports whether target is [ErrInvalid].
func (e *CycleError) Is(target error) bool { return target == ErrInvalid }

// text writes an error, with the service's name if there is one.
func text(service, what string) string {
	if service == "" {
		return "command: " + what
	}
	return "command: " + service + ": " + what
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrInvalid, fmt.Errorf(format, args...))
}
