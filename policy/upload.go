package policy

import "time"

// As in Envoy, limits begin when the request has been sent. While its body is being sent, the
// per-try and idle limits do not run, and the total limit bounds each pause between two parts of
// the body: a slow upload may go on, a stalled one times out.

// BeginUpload reports, before the request is sent, that sending its body takes time.
// [Attempt.Uploading] and [Attempt.Uploaded] report the progress.
func (a *Attempt) BeginUpload() {
	if s := a.stream; s != nil && s.own != nil && a.limits.deadline != 0 {
		s.own.until = 0 // the deadline may move
	}
}

// Uploading reports that the wire asks for the first part of the body, so there is a connection for
// it: the per-try and idle limits pause. Any goroutine may call it, after [Attempt.BeginUpload] and
// until Try returns.
func (a *Attempt) Uploading() { a.LiftPerTry() }

// Uploaded reports that the wire received the next part of the body, or, if whole is true, all of
// it: then the per-try and idle limits start again. live means that the caller has just supplied
// the part, that it is no copy which an earlier attempt has sent as well: then the total limit
// starts again. Any goroutine may call it, after [Attempt.BeginUpload] and until Try returns.
func (a *Attempt) Uploaded(live, whole bool) {
	if live && a.limits.deadline != 0 && (a.limits.kind == 0 || a.limits.kind == ScopeTotal) {
		a.frame.progress.Store(int64(a.frame.chain.now()))
	}
	if whole {
		a.ArmPerTry()
	}
}

// deadline returns when the total timeout fires, 0 for never.
func (c *Call) deadline() time.Duration {
	d := c.limits.deadline
	if d == 0 {
		return 0
	}
	if at := c.frame.progress.Load(); at != 0 {
		d = max(d, after(time.Duration(at), c.limits.total))
	}
	return d
}
