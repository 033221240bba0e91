package pillion

import (
	"net/http"
	"strconv"
	"time"
)

// patience is how long this attempt will be waited for.
func (c *Call) patience() (left time.Duration, limited bool) {
	left, limited = c.Remaining()
	if try := c.limits.try; try != 0 && (!limited || try < left) {
		left, limited = try, true
	}
	return left, limited
}

// milliseconds rounds up, and is never 0, which would mean no limit.
func milliseconds(d time.Duration) string {
	return strconv.FormatInt(int64(max(1, (d+time.Millisecond-1)/time.Millisecond)), 10)
}

// countAttemptsIn tells the caller, where it was asked for, how many attempts the
// response took.
func (t *transport) countAttemptsIn(resp *http.Response, attempts int) {
	h := t.upstream.http
	if !h.IncludeAttemptCountInResponse || h.SuppressEnvoyHeaders {
		return
	}
	if resp.Header == nil {
		resp.Header = http.Header{}
	}
	resp.Header.Set("X-Envoy-Attempt-Count", strconv.Itoa(attempts))
}

// has reports whether h has a header, whose name is in canonical form, if only an
// empty one.
func has(h http.Header, name string) bool {
	_, ok := h[name]
	return ok
}

// lookUp is the first value of a header, and whether there is one.
func lookUp(h http.Header, name string) (value string, ok bool) {
	values := h.Values(name)
	if len(values) == 0 {
		return "", false
	}
	return values[0], true
}

// copyHeader copies h; the copy is never nil.
func copyHeader(h http.Header) http.Header {
	if h == nil {
		return http.Header{}
	}
	return h.Clone()
}
