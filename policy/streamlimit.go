package policy

import "time"

// LimitStream is [Call.LimitTotal] for a limit on the whole stream. The limit also runs during an
// upload, and is not announced to the server. The upstream's statistics do not count its timeout.
// Mirrors Envoy's max_stream_duration.
func (c *Call) LimitStream(d time.Duration) { c.limitTotal(d, ScopeStream) }

// LimitStreamIdle is [Call.LimitIdle] for a limit on each wait in the whole stream. A call whose
// timeout fires is not retried, and the upstream's statistics do not count the timeout. Mirrors
// idle_timeout of Envoy's RouteAction.
func (c *Call) LimitStreamIdle(d time.Duration) { c.limitIdle(d, ScopeStreamIdle) }

// ReplyToTimeouts sets the HTTP status of the local reply to timeouts of the call, instead of 504. The
// reply then has no text. Timeouts of [Call.LimitStream] and [Call.LimitStreamIdle] are not affected.
func (c *Call) ReplyToTimeouts(status int) { c.limits.status = status }

// announced returns the deadline to announce to the server, 0 for none.
func (c *Call) announced() time.Duration {
	if c.limits.kind == ScopeStream {
		return 0
	}
	return c.deadline()
}
