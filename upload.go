package pillion

import "time"

// As in Envoy, limits begin when the request has been sent. While it is being sent no
// limit of one attempt runs, and the total limit bounds each pause between two of its parts:
// a slow upload may take its time, one that stands still may not.

// BeginUpload reports that the request of this attempt takes time to send. It is for
// [Exchange] Try. [Call.Uploaded] reports how it goes on.
func (c *Call) BeginUpload() {
	if c.attempt == 1 && c.limits.deadline != 0 && !c.limits.client {
		c.flight.progress.Store(int64(c.flight.upstream.now()))
		if s := c.span; s != nil && s.guard != nil {
			s.guard.until = 0 // nobody knows yet
		}
	}
	c.LiftTry()
}

// Uploaded reports that the next part of the request was handed to the wire, or that
// the whole of it was. It is for any goroutine, after [Call.BeginUpload] and until Try
// returns. Only what the first attempt sends moves the total limit: later attempts send what
// is there already.
func (c *Call) Uploaded(whole bool) {
	if c.flight.progress.Load() != 0 && c.attempt == 1 {
		c.flight.progress.Store(int64(c.flight.upstream.now()))
	}
	if whole {
		c.ArmTry()
	}
}

// deadline returns when the total limit fires, 0 for never.
func (c *Call) deadline() time.Duration {
	d := c.limits.deadline
	if d == 0 {
		return 0
	}
	if at := c.flight.progress.Load(); at != 0 {
		d = max(d, after(time.Duration(at), c.limits.total))
	}
	return d
}
