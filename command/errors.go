package command

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/pillion-go/pillion/breaker"
)

// Misuse of a command. None of it is counted.
var (
	// ErrNotStarted is what Get and Wait give before the command is started. Mirrors
	// Expeditor::NotStartedError.
	ErrNotStarted = errors.New("command: not started")

	// ErrAlreadyStarted is what a second start gives, which does nothing else, and what
	// comes too late after the first. Mirrors Expeditor::AlreadyStartedError.
	ErrAlreadyStarted = errors.New("command: already started")
)

// ErrInvalid matches the error of what cannot work as it was made: a nil
// function, a negative time-out, a bad retry option. A command that was made so fails
// with it when it is started, and counts as a failure.
var ErrInvalid = errors.New("command: invalid")

// ErrRejected matches every [*RejectedError].
var ErrRejected = errors.New("command: rejected")

// RejectedError says that a pool had no place for a command. Mirrors
// Expeditor::RejectedExecutionError.
type RejectedError struct {
	Service string // the name of the service; may be empty
	Reason  Reason
}

// Reason is why a pool has no place.
type Reason uint8

// The reasons for a rejection.
const (
	Full      Reason = iota // the queue is full, and the pool aborts
	Shutdown                // the pool was shut down before the start
	Discarded               // the queue is full, and the pool discards
)

// String is the reason in words.
func (r Reason) String() string {
	return [...]string{"the pool is full", "the pool is shut down", "the pool is full and discards"}[r]
}

func (e *RejectedError) Error() string { return text(e.Service, "rejected: "+e.Reason.String()) }

// Is reports whether target is [ErrRejected].
func (e *RejectedError) Is(target error) bool { return target == ErrRejected }

// CircuitBreakError says that the service's breaker refused the last attempt,
// until when it will, and why it opened. It is breaker's error under the gem's name, so
// that [breaker.ErrOpen] matches it too. One is made for each opening and shared: treat
// it as read-only. Mirrors Expeditor::CircuitBreakError.
type CircuitBreakError = breaker.OpenError

// DependencyError says that the work did not run, since a command failed that it
// depends on, whatever it failed with. Its text is the cause's, as in the gem; there is
// one around the other for each level. Mirrors Expeditor::DependencyError.
type DependencyError struct{ Err error }

func (e *DependencyError) Error() string { return e.Err.Error() }

// Unwrap gives what the dependency failed with.
func (e *DependencyError) Unwrap() error { return e.Err }

// TimeoutError says that a command's limit was reached. It matches
// [context.DeadlineExceeded] and is what [context.Cause] gives in the work. It stands for
// Ruby's Timeout::Error.
type TimeoutError struct {
	Service string // the name of the service; may be empty
	Limit   time.Duration
	Err     error // what the work said when its context ended, or the last attempt before; may be nil
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

// Timeout is true: it is what net.Error asks.
func (e *TimeoutError) Timeout() bool { return true }

// Unwrap gives what the work said.
func (e *TimeoutError) Unwrap() error { return e.Err }

// PanicError is a panic of a function that was handed in: of the work, then it is
// counted as a failure and is the command's result, of the fallback, or of a hook. It
// stands for Ruby's errors outside StandardError, and like them is not retried unless
// asked for.
type PanicError struct {
	Value any    // what was panicked with, or [Goexit]
	Stack []byte // where, as debug.Stack has it; not part of the text
}

// Goexit is the Value of a function that ended its goroutine by runtime.Goexit.
const Goexit goexit = "runtime.Goexit"

type goexit string

func newPanicError(value any) *PanicError { return &PanicError{value, debug.Stack()} }

func (e *PanicError) Error() string { return fmt.Sprintf("command: panic: %v", e.Value) }

// Unwrap gives what was panicked with, if that is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// CycleError says that commands would wait for each other in a circle, so that none
// could end. It matches [ErrInvalid].
type CycleError struct {
	Length int // how many commands; 1 for one that would wait for itself
}

func (e *CycleError) Error() string {
	if e.Length == 1 {
		return "command: a command waits for itself"
	}
	return fmt.Sprintf("command: a cycle of %d commands that wait for each other", e.Length)
}

// Is reports whether target is [ErrInvalid].
func (e *CycleError) Is(target error) bool { return target == ErrInvalid }

// text is what happened, with the service's name where there is one.
func text(service, what string) string {
	if service == "" {
		return "command: " + what
	}
	return "command: " + service + ": " + what
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrInvalid, fmt.Errorf(format, args...))
}
