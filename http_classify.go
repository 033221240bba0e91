package pillion

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strings"
	"syscall"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// Classify classifies an error of the transport.
func (x *httpCall) Classify(c *policy.Attempt, o *policy.Outcome, err error) {
	is, detail, err := x.failure(attemptOf(c), o, err)
	if detail != nil {
		err = &UpstreamError{Upstream: x.transport.upstream.Name(), Flags: detail.Flags(), Detail: detail, Err: sameScheme(err)}
	}
	o.Blame(err, is, detail)
}

// failure classifies why an attempt failed: by its request, by what net/http reported of it, and by
// the error.
func (x *httpCall) failure(a *httpAttempt, o *policy.Outcome, err error) (policy.Condition, *envoy.Detail, error) {
	x.sending.Store(nil)
	if fault := a.fault(err); fault != nil {
		return policy.Invalid, nil, fault
	}
	if o.Code != 0 {
		is, detail := responseFailure(err, a.resp.ProtoMajor)
		return is, detail, err
	}
	seen, early := a.wire.state(), a.wire.informational()
	if seen.has(wireResent) {
		err = errResent
	}
	is, detail := x.wireFailure(a, seen, early, err)
	if is == policy.Reset {
		if fault := x.faultOfRequest(seen, err); fault != nil {
			return policy.Invalid, nil, fault
		}
	}
	if early && is.Any(policy.NoResponse) {
		return earlyFailure(is, detail), detail.AfterResponse(), err
	}
	return is, detail, err
}

// fault returns an error if the attempt's body caused err, else nil.
func (a *httpAttempt) fault(err error) error {
	if a.source == nil {
		return nil
	}
	return a.source.fault(err)
}

// earlyFailure returns the conditions of a failure after a 1xx response.
func earlyFailure(is policy.Condition, detail *envoy.Detail) policy.Condition {
	if detail == envoy.MalformedResponse {
		return policy.Informational | policy.ProtocolError | policy.Reset
	}
	return is | policy.Informational
}

// wireFailure classifies why there was no response. Unknown errors are classified as Reset, or as
// ConnectFailure if there certainly was no connection.
func (x *httpCall) wireFailure(a *httpAttempt, seen wireState, early bool, err error) (policy.Condition, *envoy.Detail) {
	switch {
	case err == errResent: //nolint:errorlint // nothing wraps it
		return policy.Reset | policy.RefusedStream, envoy.RemoteRefusedStream
	case isCancelled(err):
		return policy.Cancelled, envoy.CallerGone
	case seen.unconnected():
		return noConnection(err)
	case seen.has(wireConnected) && isTLS(err) && !isTimeout(err):
		return policy.Reset, envoy.ConnectionTermination
	}
	if is, detail, ok := networkFailure(err); ok {
		if seen.has(wireWrote) && is.Any(policy.ConnectFailure) { // of a connection to which net/http would have resent the request
			is = is&^policy.ConnectFailure | policy.Reset
		}
		return is, detail
	}
	switch {
	case early && errors.Is(err, io.ErrUnexpectedEOF):
		return policy.Reset, envoy.ConnectionTermination
	case isMalformed(err) || (errors.Is(err, io.ErrUnexpectedEOF) && x.speaksHTTP1(a)):
		return policy.ProtocolError, envoy.MalformedResponse
	case isInvalid(err):
		return policy.Invalid, nil
	}
	return policy.Reset, envoy.ConnectionTermination
}

// speaksHTTP1 reports whether the attempt certainly used HTTP/1. Then an unexpected EOF means that
// the response headers were cut short; for HTTP/2, net/http returns it for any closed connection.
func (x *httpCall) speaksHTTP1(a *httpAttempt) bool {
	if c := x.transport.carrier; c != nil {
		return c.SpeaksHTTP1(a.of)
	}
	base, ok := x.transport.base.(*http.Transport)
	req := x.req
	return ok && req.URL != nil && req.URL.Scheme == "http" && (base.Protocols == nil || !base.Protocols.UnencryptedHTTP2())
}

// isCancelled reports whether something other than the caller's context canceled the base's round
// trip.
func isCancelled(err error) bool {
	return errors.Is(err, context.Canceled) || hasPrefix(err, "net/http: request canceled")
}

// networkFailure recognizes the failures that any protocol can have.
func networkFailure(err error) (policy.Condition, *envoy.Detail, bool) {
	if is, detail, ok := connectFailure(err); ok {
		return is, detail, true
	}
	if is, detail, ok := streamFailure(err); ok {
		return is, detail, true
	}
	switch {
	case isTimeout(err):
		// A timeout of the transport itself, such as ResponseHeaderTimeout.
		return policy.Timeout | policy.PerTryTimeout, envoy.PerTryTimeout, true
	case errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE):
		return policy.Reset, envoy.ConnectionTermination, true
	}
	return 0, nil, false
}

// responseFailure classifies why a response broke off. Like Envoy, it classifies an HTTP/1 response
// that is cut short as malformed; an HTTP/2 stream is reset.
func responseFailure(err error, protoMajor int) (policy.Condition, *envoy.Detail) {
	is, detail, ok := streamFailure(err)
	switch {
	case ok && detail == envoy.MalformedResponse || hasPrefix(err, "net/http: server replied with more than declared Content-Length"):
		return policy.ProtocolError | policy.Reset, envoy.MalformedResponseAfter
	case ok:
		return is, envoy.RemoteResetAfter
	case isCancelled(err):
		return policy.Cancelled, envoy.CallerGone
	case isTimeout(err):
		return policy.Timeout, envoy.ResponseTimeout
	case protoMajor < 2:
		return policy.ProtocolError | policy.Reset, envoy.MalformedResponseAfter
	}
	return policy.Reset, envoy.ConnectionTerminationAfter
}

// noConnection classifies the failure of an attempt that certainly had no connection.
func noConnection(err error) (policy.Condition, *envoy.Detail) {
	if is, detail, ok := connectFailure(err); ok {
		return is, detail
	}
	if isTimeout(err) {
		return policy.ConnectFailure | policy.Timeout, envoy.ConnectionTimeout
	}
	return policy.ConnectFailure, envoy.ConnectionFailure
}

// connectFailure recognizes that no connection was made. A failed TLS handshake counts, as in
// Envoy.
func connectFailure(err error) (policy.Condition, *envoy.Detail, bool) {
	var dns *net.DNSError
	var op *net.OpError
	dialing := errors.As(err, &op) && (op.Op == "dial" || op.Op == "proxyconnect" || op.Op == "socks connect")
	switch {
	case errors.As(err, &dns):
		return withTimeout(policy.ConnectFailure, err), envoy.DNSFailure, true
	case (dialing || isTLS(err)) && isTimeout(err):
		return policy.ConnectFailure | policy.Timeout, envoy.ConnectionTimeout, true
	case dialing && errors.Is(err, syscall.ECONNREFUSED):
		return policy.ConnectFailure, envoy.ConnectionRefused, true
	case dialing && errors.Is(err, syscall.ECONNRESET):
		return policy.ConnectFailure, envoy.ConnectionReset, true
	case dialing || isTLS(err):
		return withTimeout(policy.ConnectFailure, err), envoy.ConnectionFailure, true
	}
	return 0, nil, false
}

func withTimeout(is policy.Condition, err error) policy.Condition {
	if isTimeout(err) {
		return is | policy.Timeout
	}
	return is
}

// streamFailure recognizes an HTTP/2 stream that was reset, by the upstream or because of what the
// upstream sent. net/http and golang.org/x/net have an error type each for it; the first is not
// exported, the second is no dependency. Their texts are the same.
func streamFailure(err error) (policy.Condition, *envoy.Detail, bool) {
	if isUnprocessed(err) {
		return policy.Reset | policy.RefusedStream, envoy.RemoteRefusedStream, true
	}
	text, ok := findText(err, "stream error: stream ID ", "http2: Transport: cannot retry err [stream error: stream ID ")
	switch {
	case !ok:
		return 0, nil, false
	case strings.Contains(text, "; REFUSED_STREAM"):
		return policy.Reset | policy.RefusedStream, envoy.RemoteRefusedStream, true
	case strings.Contains(text, "; PROTOCOL_ERROR"):
		return policy.ProtocolError, envoy.MalformedResponse, true
	}
	return policy.Reset, envoy.RemoteReset, true
}

// isUnprocessed recognizes a GOAWAY that reports that the stream was not processed, whatever its
// error code.
func isUnprocessed(err error) bool {
	return hasPrefix(err, "http2: Transport received Server's graceful shutdown GOAWAY", "http2: Transport received GOAWAY from server",
		"http2: Transport: cannot retry err [http2: Transport received Server's graceful shutdown GOAWAY")
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

// isMalformed recognizes a response that is not HTTP. net/http has no types for most of these
// errors; the texts are those of Go 1.26.
func isMalformed(err error) bool {
	var protocol textproto.ProtocolError
	return errors.As(err, &protocol) ||
		hasPrefix(err, "malformed HTTP", "net/http: server response headers exceeded", "bad Content-Length",
			"http: message cannot contain multiple Content-Length", "invalid empty Content-Length",
			"unsupported transfer encoding", "http2: response header list larger", "connection error: PROTOCOL_ERROR",
			"connection error: FRAME_SIZE_ERROR", "http2: failed reading the frame payload", "connection error: COMPRESSION_ERROR")
}

// isInvalid recognizes a request that cannot be sent.
func isInvalid(err error) bool {
	return hasPrefix(err, "http: nil Request", "net/http: invalid", "http: invalid header ", "http: invalid trailer ", "http: invalid method ", "net/http: can't write", "http2: invalid", "unsupported protocol scheme", "http2: unsupported scheme", "idna: ",
		"http: no Host in request", "http: Request.ContentLength=", "http: ContentLength=", "http: invalid Host header", "invalid Trailer key",
		"http: Request.Write on Request", "http2: request header list larger than peer's", "http2: Request.URL is nil",
		"http2: request body larger than", "net/http: extended connect not supported", "http: Request.RequestURI")
}

// hasPrefix reports whether the text of err, or of an error inside it, starts with one of the
// prefixes.
func hasPrefix(err error, prefixes ...string) bool {
	_, ok := findText(err, prefixes...)
	return ok
}

// findText returns the text of err, or of an error inside it, that starts with one of the prefixes.
func findText(err error, prefixes ...string) (text string, ok bool) {
	for ; err != nil; err = errors.Unwrap(err) {
		text = err.Error()
		for _, p := range prefixes {
			if strings.HasPrefix(text, p) {
				return text, true
			}
		}
	}
	return "", false
}

// sameScheme adds to err, as [http.Client] does, that an HTTPS request reached an HTTP server: the
// client cannot detect that through an UpstreamError.
func sameScheme(err error) error {
	var record tls.RecordHeaderError
	if errors.As(err, &record) && string(record.RecordHeader[:]) == "HTTP/" {
		return fmt.Errorf("%w: %w", http.ErrSchemeMismatch, err)
	}
	return err
}
