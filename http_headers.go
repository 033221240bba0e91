package pillion

import (
	"net/http"
	"strconv"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// countAttemptsIn sets the header with the number of attempts, if configured.
func (t *transport) countAttemptsIn(resp *http.Response, f *policy.Frame) {
	if t.upstream.options.IncludeAttemptCountInResponse {
		setAttempts(resp, f.Attempts())
	}
}

// setAttempts sets the header with the number of attempts, if any were made.
func setAttempts(resp *http.Response, attempts int) {
	if attempts == 0 {
		return
	}
	if resp.Header == nil {
		resp.Header = http.Header{}
	}
	resp.Header.Set(envoy.AttemptCountHeader, strconv.Itoa(attempts))
}

// headerValues returns the values of a header, nil if it is absent. For a header without a value it
// returns an empty slice, not nil: net/http does not send such a header, but callers use it as a
// mark.
func headerValues(h http.Header, name string) []string {
	values, ok := h[http.CanonicalHeaderKey(name)]
	if ok && values == nil {
		return []string{}
	}
	return values
}

// copyHeader copies h; the copy is never nil.
func copyHeader(h http.Header) http.Header {
	if h == nil {
		return http.Header{}
	}
	return h.Clone()
}
