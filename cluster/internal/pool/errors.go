package pool

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"syscall"
)

// ErrClosed is the error of a request after [Pool.Close].
var ErrClosed = errors.New("cluster: the endpoint's connection pool is closed")

// ErrUnusable is the error of [Stream.RoundTrip] on a stream that was used or released.
var ErrUnusable = errors.New("cluster: RoundTrip on a stream that was used or released")

// A RefusedError reports that a limit was reached. Envoy's response flag for it is UO.
// There is one value per limit, so that a refusal does not allocate.
type RefusedError struct {
	Limit Kind // Pending or Request
}

func (e *RefusedError) Error() string {
	return "cluster: refused: " + e.Limit.String() + " is reached"
}

var (
	errPending  = &RefusedError{Limit: Pending}
	errRequests = &RefusedError{Limit: Request}
)

// A Reason is the reason of a failed connect.
type Reason uint8

// The reasons, as Envoy distinguishes them.
const (
	// RemoteFailure is a connect that failed in the network, at the server or in the TLS
	// handshake.
	RemoteFailure Reason = iota
	// LocalFailure is a connect that the pool ended.
	LocalFailure
	// Timeout is a connect that the connect timeout ended.
	Timeout
)

// String returns Envoy's text for the reason.
func (r Reason) String() string {
	switch r {
	case RemoteFailure:
		return "remote connection failure"
	case LocalFailure:
		return "local connection failure"
	case Timeout:
		return "connection timeout"
	default:
		return "unknown"
	}
}

// A ConnectError reports a failed connect. No part of the request was sent. All requests that
// waited for the connection receive the same value.
type ConnectError struct {
	Address string
	Reason  Reason
	TLS     bool  // the TCP connection was established; the TLS handshake, or a proxy, failed
	Err     error // the error of the dialer or the handshake
}

func (e *ConnectError) Error() string {
	return fmt.Sprintf("cluster: connect to %s: %v: %v", e.Address, e.Reason, e.Err)
}

// Unwrap returns the error of the dialer or the handshake.
func (e *ConnectError) Unwrap() error { return e.Err }

// Timeout reports whether the connect timeout fired.
func (e *ConnectError) Timeout() bool { return e.Reason == Timeout }

// Temporary returns true: the next connect may succeed. It is part of [net.Error].
func (*ConnectError) Temporary() bool { return true }

// reasonOf returns the reason of a dial that failed without being canceled. A timeout of the
// kernel is a network failure, not the connect timeout.
func reasonOf(err error) Reason {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, syscall.ETIMEDOUT):
		return RemoteFailure
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return Timeout
	default:
		return RemoteFailure
	}
}

// isTLS reports whether err comes from a TLS handshake.
func isTLS(err error) bool {
	var (
		record tls.RecordHeaderError
		alert  tls.AlertError
		verify *tls.CertificateVerificationError
		host   x509.HostnameError
		auth   x509.UnknownAuthorityError
	)
	return errors.As(err, &record) || errors.As(err, &alert) || errors.As(err, &verify) ||
		errors.As(err, &host) || errors.As(err, &auth)
}

// isEOF reports whether err means that the server closed the connection.
func isEOF(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// streamError has the fields of net/http's error for an HTTP/2 stream, which [errors.As]
// converts to any struct that has them.
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (e streamError) Error() string { return "stream error" }

// Codes of RFC 9113, section 7.
const (
	protocolError = 1 // PROTOCOL_ERROR
	refusedStream = 7 // REFUSED_STREAM
)

// remoteReset reports whether the server reset the stream of err, and whether the code of the
// reset means that the server did not process it.
func remoteReset(err error) (reset, refused bool) {
	var e streamError
	if !errors.As(err, &e) {
		return false, false
	}
	reset = e.Cause != nil && e.Cause.Error() == "received from peer"
	return reset, reset && e.Code == refusedStream
}

// isProtocolError reports whether err is a stream that was reset with PROTOCOL_ERROR.
func isProtocolError(err error) bool {
	var e streamError
	return errors.As(err, &e) && e.Code == protocolError
}
