package pillion

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// TestResponseFailure pins how a response that breaks off is classified, by protocol.
func TestResponseFailure(t *testing.T) {
	tests := []struct {
		name   string
		err    error
		major  int
		is     policy.Condition
		detail *envoy.Detail
	}{
		{"HTTP/1, cut short", io.ErrUnexpectedEOF, 1, policy.ProtocolError | policy.Reset, envoy.MalformedResponseAfter},
		{"HTTP/2, cut short", io.ErrUnexpectedEOF, 2, policy.Reset, envoy.ConnectionTerminationAfter},
		{"HTTP/2, reset", errors.New("stream error: stream ID 1; INTERNAL_ERROR; received from peer"), 2, policy.Reset, envoy.RemoteResetAfter},
		{
			"HTTP/2, refused", errors.New("stream error: stream ID 1; REFUSED_STREAM; received from peer"), 2,
			policy.Reset | policy.RefusedStream, envoy.RemoteResetAfter,
		},
		{"HTTP/2, malformed", errors.New("stream error: stream ID 1; PROTOCOL_ERROR"), 2, policy.ProtocolError | policy.Reset, envoy.MalformedResponseAfter},
		{
			"HTTP/2, too long", errors.New("net/http: server replied with more than declared Content-Length; truncated"), 2,
			policy.ProtocolError | policy.Reset, envoy.MalformedResponseAfter,
		},
		{"the base was canceled", fmt.Errorf("read: %w", context.Canceled), 1, policy.Cancelled, envoy.CallerGone},
		{"the base ran out of time", os.ErrDeadlineExceeded, 1, policy.Timeout, envoy.ResponseTimeout},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if is, detail := responseFailure(test.err, test.major); is != test.is || detail != test.detail {
				t.Errorf("got %b, %v, want %b, %v", is, detail, test.is, test.detail)
			}
		})
	}
}

func TestUpstreamError(t *testing.T) {
	err := &UpstreamError{Upstream: "recipes", Flags: envoy.UC, Detail: envoy.ConnectionTermination, Err: io.EOF}
	if got, want := err.Error(), "pillion: recipes: UC upstream_reset_before_response_started{connection_termination}: EOF"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !errors.Is(err, io.EOF) || err.Timeout() {
		t.Errorf("got EOF %v, timeout %v, want true, false", errors.Is(err, io.EOF), err.Timeout())
	}
	if slow := (&UpstreamError{Err: os.ErrDeadlineExceeded}); !slow.Timeout() {
		t.Error("got no timeout, want one")
	}
}

// TestWireFailure pins errors that only a round tripper other than http.Transport returns.
func TestWireFailure(t *testing.T) {
	tests := []struct {
		name   string
		base   http.RoundTripper
		err    error
		is     policy.Condition
		detail *envoy.Detail
	}{
		{"unknown", nil, errors.New("broken"), policy.Reset, envoy.ConnectionTermination},
		{"the base was canceled", nil, context.Canceled, policy.Cancelled, envoy.CallerGone},
		{"the base cancelled", nil, errors.New("net/http: request canceled"), policy.Cancelled, envoy.CallerGone},
		{"unexpected EOF over HTTP/1", &http.Transport{}, io.ErrUnexpectedEOF, policy.ProtocolError, envoy.MalformedResponse},
		{"unexpected EOF over an unknown protocol", nil, io.ErrUnexpectedEOF, policy.Reset, envoy.ConnectionTermination},
		{"no HTTP at all", nil, errors.New("malformed HTTP response \"SSH\""), policy.ProtocolError, envoy.MalformedResponse},
		{"invalid", nil, errors.New("net/http: invalid method"), policy.Invalid, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://recipes.test/", nil)
			if err != nil {
				t.Fatal(err)
			}
			x := &httpCall{transport: &transport{base: test.base}, req: req}
			if is, detail := x.wireFailure(&httpAttempt{}, 0, false, test.err); is != test.is || detail != test.detail {
				t.Errorf("got %b, %v, want %b, %v", is, detail, test.is, test.detail)
			}
		})
	}
}
