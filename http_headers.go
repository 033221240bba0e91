package pillion

import (
	"net/http"
	"strconv"
	"time"
)

// addHeaders makes the attempt's header what the configuration says.
func (x *httpCall) addHeaders(c *Call) {
	u := x.transport.upstream
	for _, name := range u.consumed {
		if _, ok := x.req.Header[name]; ok {
			x.Header(c).Del(name)
		}
	}
	if u.http.Sidecar {
		x.tellSidecar(c)
	}
	if u.http.SuppressEnvoyHeaders {
		return
	}
	if u.announce {
		if left, limited := c.patience(); limited {
			x.Header(c).Set("X-Envoy-Expected-Rq-Timeout-Ms", milliseconds(left))
		}
	}
	if u.http.IncludeRequestAttemptCount {
		x.Header(c).Set("X-Envoy-Attempt-Count", strconv.Itoa(c.attempt))
	}
	if u.http.IncludeIsTimeoutRetryHeader && c.attempt > 1 {
		x.Header(c).Set("X-Envoy-Is-Timeout-Retry", strconv.FormatBool(c.afterTimeout))
	}
}

// tellSidecar leaves retries to us, and our limits to the sidecar too.
func (x *httpCall) tellSidecar(c *Call) {
	h := x.Header(c)
	h.Set("X-Envoy-Max-Retries", "0")
	if left, limited := c.patience(); limited {
		h.Set("X-Envoy-Upstream-Rq-Timeout-Ms", milliseconds(left))
	}
}

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
