package policy

import "time"

// As in Envoy, limits begin when the request has been sent. While its body is being sent no
// limit of one attempt runs, and the total limit bounds each pause between two parts of it:
// a slow upload may take its time, one that stands still may not.

// BeginUpload reports that the body of this attempt's request takes time to send, before
// the request goes to the wire. [Attempt.Uploading] and [Attempt.Uploaded] report how it goes on.
func (a *Attempt) BeginUpload() {
	if s := a.stream; s != nil && s.limited && a.limits.deadline != 0 {
		s.until = 0 // the deadline may move
	}
}

// Uploading reports that the wire asks for the first part of the body, so that there is a
// connection for it: the limits of one attempt pause. It may be called by any goroutine, after
// [Attempt.BeginUpload] and until Try returns.
func (a *Attempt) Uploading() { a.LiftPerTry() }

// Uploaded reports that the wire was handed the next part of the body, or that it has the
// whole of it: then the limits of one attempt begin anew. The total limit begins anew where
// the part is live: it came from the caller just now, and is no copy that an earlier attempt
// has sent as well. It may be called by any goroutine, after [Attempt.BeginUpload] and until Try
// returns.
func (a *Attempt) Uploaded(live, whole bool) {
	if live && a.limits.deadline != 0 && !a.limits.client {
		a.frame.progress.Store(int64(a.frame.chain.now()))
	}
	if whole {
		a.ArmPerTry()
	}
}

// deadline returns when the total limit fires, 0 for never.
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
