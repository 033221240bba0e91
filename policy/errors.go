package policy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pillion-go/pillion/envoy"
)

// TimeoutError reports which limit ended a call or an attempt. The timeout package calls it Error.
// It unwraps to [context.DeadlineExceeded] and Err.
type TimeoutError struct {
	Upstream string
	Scope    Scope
	Limit    time.Duration // 0 for the deadline of the caller's context
	Err      error         // what the attempt failed with before the timeout fired; nil if it did not
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

// Timeout returns true. It is a method of [net.Error].
func (e *TimeoutError) Timeout() bool { return true }

// Unwrap returns context.DeadlineExceeded and Err.
func (e *TimeoutError) Unwrap() []error {
	if e.Err == nil {
		return []error{context.DeadlineExceeded}
	}
	return []error{context.DeadlineExceeded, e.Err}
}

// UpstreamError describes a failure of the network or the upstream. It wraps the error that the
// transport returned. Its text names Envoy's response flags and details.
type UpstreamError struct {
	Upstream string
	Flags    envoy.Flags
	Detail   *envoy.Detail
	Err      error
}

func (e *UpstreamError) Error() string {
	return fmt.Sprintf("pillion: %s: %v %v: %v", e.Upstream, e.Flags, e.Detail, e.Err)
}

// Unwrap returns the error of the transport.
func (e *UpstreamError) Unwrap() error { return e.Err }

// Timeout reports whether a timeout of the transport fired. It is a method of [net.Error].
func (e *UpstreamError) Timeout() bool {
	var timeout interface{ Timeout() bool }
	return errors.As(e.Err, &timeout) && timeout.Timeout()
}

// StatusError is the error that stands for a response whose status counts against the upstream.
type StatusError struct {
	Code int // HTTP status or gRPC code
}

func (e *StatusError) Error() string { return fmt.Sprintf("upstream responded with status %d", e.Code) }

// PanicError is the error that stands for a panic in a call that was being served.
type PanicError struct {
	Value any    // the argument of panic
	Stack []byte // of the goroutine that panicked
}

func (e *PanicError) Error() string { return fmt.Sprintf("pillion: the handler panicked: %v", e.Value) }

// Unwrap returns Value if it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}
