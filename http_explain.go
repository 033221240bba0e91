package pillion

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strings"
	"syscall"
)

// UpstreamError says what the network or the upstream did to a call, around the
// error that the transport reported. The text names Envoy's response flags and
// details.
type UpstreamError struct {
	Upstream string
	Flags    Flags
	Detail   Detail
	Err      error
}

func (e *UpstreamError) Error() string {
	return fmt.Sprintf("pillion: %s: %v %v: %v", e.Upstream, e.Flags, e.Detail, e.Err)
}

// Unwrap gives what the transport reported.
func (e *UpstreamError) Unwrap() error { return e.Err }

// Timeout reports whether the transport gave up for lack of time. It is what
// [net.Error] asks for.
func (e *UpstreamError) Timeout() bool { return isTimeout(e.Err) }

// Temporary is true: the next call may fare better. It is what [net.Error] asks for.
func (e *UpstreamError) Temporary() bool { return true }

// Explain finds out what an error of the transport means.
func (x *httpCall) Explain(_ *Call, o *Outcome, err error) {
	is, detail := wireFailure(err)
	if o.Code != 0 {
		is, detail = answerFailure(err, o.Value.(*http.Response).ProtoMajor)
	}
	if detail != NoDetail {
		err = &UpstreamError{Upstream: x.flight.upstream.name, Flags: detail.Flags(), Detail: detail, Err: sameScheme(err)}
	}
	o.blame(err, is, detail)
}

// wireFailure classifies why no answer came. An error of a kind unknown here is a
// reset: a round tripper has nothing to fail with but the wire.
func wireFailure(err error) (Condition, Detail) {
	if is, detail, ok := networkFailure(err); ok {
		return is, detail
	}
	switch {
	case isMalformed(err) || errors.Is(err, io.ErrUnexpectedEOF):
		return ProtocolError, MalformedAnswer
	case isInvalid(err):
		return Invalid, NoDetail
	}
	return Reset, ConnectionTermination
}

// networkFailure recognises the failures that any protocol can meet.
func networkFailure(err error) (Condition, Detail, bool) {
	if is, detail, ok := connectFailure(err); ok {
		return is, detail, true
	}
	if is, detail, ok := streamFailure(err); ok {
		return is, detail, true
	}
	switch {
	case isTimeout(err):
		// A limit of the transport's own, such as ResponseHeaderTimeout.
		return Timeout | PerTryTimeout, TryTimeout, true
	case errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE):
		return Reset, ConnectionTermination, true
	}
	return 0, NoDetail, false
}

// answerFailure classifies why an answer broke off. Envoy finds an HTTP/1 answer
// that is cut short malformed, and so do we; an HTTP/2 stream is reset.
func answerFailure(err error, protoMajor int) (Condition, Detail) {
	if is, _, ok := streamFailure(err); ok {
		return is, RemoteResetAfter
	}
	switch {
	case isTimeout(err):
		return Timeout, ResponseTimeout
	case protoMajor < 2:
		return ProtocolError | Reset, MalformedAnswerAfter
	}
	return Reset, ConnectionTerminationAfter
}

// connectFailure recognises that no connection was made. TLS counts, as in Envoy.
func connectFailure(err error) (Condition, Detail, bool) {
	var dns *net.DNSError
	var op *net.OpError
	dialling := errors.As(err, &op) && (op.Op == "dial" || op.Op == "proxyconnect" || op.Op == "socks connect")
	switch {
	case errors.As(err, &dns):
		return withTimeout(ConnectFailure, err), DNSFailure, true
	case dialling && isTimeout(err):
		return ConnectFailure | Timeout, ConnectionTimeout, true
	case dialling && errors.Is(err, syscall.ECONNREFUSED):
		return ConnectFailure, ConnectionRefused, true
	case dialling || isTLS(err):
		return withTimeout(ConnectFailure, err), ConnectionFailure, true
	}
	return 0, NoDetail, false
}

func withTimeout(is Condition, err error) Condition {
	if isTimeout(err) {
		return is | Timeout
	}
	return is
}

// streamError has the shape of the HTTP/2 stream error that net/http keeps to
// itself; its As method fills in any such shape.
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (e streamError) Error() string { return fmt.Sprintf("HTTP/2 stream error %d", e.Code) }

// refusedStream is HTTP/2's REFUSED_STREAM (RFC 9113, section 7).
const refusedStream = 7

// streamFailure recognises an HTTP/2 stream that was reset.
func streamFailure(err error) (Condition, Detail, bool) {
	var stream streamError
	switch {
	case !errors.As(err, &stream):
		return 0, NoDetail, false
	case stream.Code == refusedStream:
		return Reset | RefusedStream, RemoteRefusedStream, true
	}
	return Reset, RemoteReset, true
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}

func isTLS(err error) bool {
	var (
		certificate *tls.CertificateVerificationError
		record      tls.RecordHeaderError
		alert       tls.AlertError
	)
	return errors.As(err, &certificate) || errors.As(err, &record) || errors.As(err, &alert) ||
		hasPrefix(err, "tls: ", "remote error: tls: ", "x509: ", "net/http: TLS handshake timeout")
}

// isMalformed recognises an answer that is no HTTP. net/http has no types for
// most of these errors; the texts are those of Go 1.26.
func isMalformed(err error) bool {
	var protocol textproto.ProtocolError
	return errors.As(err, &protocol) ||
		hasPrefix(err, "malformed HTTP", "net/http: server response headers exceeded", "bad Content-Length",
			"http: message cannot contain multiple Content-Length", "invalid empty Content-Length",
			"unsupported transfer encoding", "http2: response header list larger", "connection error: PROTOCOL_ERROR",
			"connection error: FRAME_SIZE_ERROR", "connection error: COMPRESSION_ERROR")
}

// isInvalid recognises a request that cannot be sent.
func isInvalid(err error) bool {
	return hasPrefix(err, "http: nil Request", "net/http: invalid", "unsupported protocol scheme",
		"http: no Host in request", "http: Request.ContentLength=", "http: ContentLength=")
}

// hasPrefix reports whether the text of err, or of an error inside it, starts
// with one of the prefixes.
func hasPrefix(err error, prefixes ...string) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		text := err.Error()
		for _, p := range prefixes {
			if strings.HasPrefix(text, p) {
				return true
			}
		}
	}
	return false
}

// sameScheme says, as [http.Client] does, that an HTTPS request met an HTTP
// server: the client can no longer see it through an UpstreamError.
func sameScheme(err error) error {
	var record tls.RecordHeaderError
	if errors.As(err, &record) && string(record.RecordHeader[:]) == "HTTP/" {
		return fmt.Errorf("%w: %w", http.ErrSchemeMismatch, err)
	}
	return err
}
