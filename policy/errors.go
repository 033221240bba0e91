package policy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pillion-go/pillion/envoy"
)

// TimeoutError says which limit ended a call or an attempt. It is the timeout
// package's Error. It unwraps to [context.DeadlineExceeded], and to Err.
type TimeoutError struct {
	Upstream string
	Scope    Scope
	Limit    time.Duration // 0 for the deadline of the caller's context
	Err      error         // what the attempt had failed with before its time was over; mostly nil
}

func (e *TimeoutError) Error() string {
	text := "timeout: " + e.Upstream + ": " + e.Scope.String()
	if e.Scope == ScopeCaller {
		text += " deadline passed"
	} else {
		text += " limit of " + e.Limit.String() + " reached"
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Timeout is true: it is what [net.Error] asks for.
func (e *TimeoutError) Timeout() bool { return true }

// Unwrap gives context.DeadlineExceeded and Err.
func (e *TimeoutError) Unwrap() []error {
	if e.Err == nil {
		return []error{context.DeadlineExceeded}
	}
	return []error{context.DeadlineExceeded, e.Err}
}

// UpstreamError says what the network or the upstream did to a call, around the
// error that the transport reported. The text names Envoy's response flags and
// details.
type UpstreamError struct {
	Upstream string
	Flags    envoy.Flags
	Detail   *envoy.Detail
	Err      error
}

func (e *UpstreamError) Error() string {
	return fmt.Sprintf("pillion: %s: %v %v: %v", e.Upstream, e.Flags, e.Detail, e.Err)
}

// Unwrap returns what the transport reported.
func (e *UpstreamError) Unwrap() error { return e.Err }

// Timeout reports whether the transport gave up for lack of time. It is what
// [net.Error] asks for.
func (e *UpstreamError) Timeout() bool {
	var timeout interface{ Timeout() bool }
	return errors.As(e.Err, &timeout) && timeout.Timeout()
}

// StatusError stands for an answer whose status counts against the upstream,
// where an error is asked for.
type StatusError struct {
	Code int // HTTP status or gRPC code
}

func (e *StatusError) Error() string { return fmt.Sprintf("upstream answered %d", e.Code) }

// PanicError stands for a panic in the outcome of a call that was being served.
type PanicError struct {
	Value any    // what was given to panic
	Stack []byte // of the goroutine that panicked
}

func (e *PanicError) Error() string { return fmt.Sprintf("pillion: the handler panicked: %v", e.Value) }

// Unwrap returns what was given to panic, if that was an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}
