package policy

import "time"

// LimitStream is [Call.LimitTotal] for a limit on the whole stream. It runs on while a request is
// being sent, is not announced to the server, and its timeout is none of the upstream's in
// statistics: Envoy's max_stream_duration.
func (c *Call) LimitStream(d time.Duration) { c.limitTotal(d, ScopeStream) }

// LimitStreamIdle is [Call.LimitIdle] for a limit on the silence of the whole stream. A call is not
// retried when its timeout fires, which is none of the upstream's in statistics: Envoy's
// idle_timeout of a route.
func (c *Call) LimitStreamIdle(d time.Duration) { c.limitIdle(d, ScopeStreamIdle) }

// ReplyToTimeouts has the local reply to timeouts of the call have a status, and no text, in place
// of 504. It does not hold for those of LimitStream and LimitStreamIdle.
func (c *Call) ReplyToTimeouts(status int) { c.limits.status = status }

// announced is the deadline that the server is told, 0 for none.
func (c *Call) announced() time.Duration {
	if c.limits.kind == ScopeStream {
		return 0
	}
	return c.deadline()
}
