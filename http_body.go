package pillion

import (
	"io"
	"net/http"
	"time"
)

// body is the body of an answer that somebody waits for the end of, together with
// its attempt's span.
type body struct {
	span  span
	inner io.ReadCloser
}

// upgraded is the body of a 101 answer, which can be written to as well.
type upgraded struct {
	*body
	io.Writer
}

// CloseWrite ends the writing and leaves the reading, where the connection can.
// net/http has it too.
func (u upgraded) CloseWrite() error {
	if c, ok := u.inner.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return http.ErrNotSupported
}

// guardedBody is a body of an attempt that something limits.
type guardedBody struct {
	body
	guard guard
}

// bodySpan makes a span that has room for the body, guardedBodySpan one with a
// guard too. Several are made at a time, so that an answer whose body leaves our hands
// does not cost an allocation each; every one is used once. One that lives long keeps the
// others of its batch, up to 3 KiB in all.
func bodySpan(c *Call) *span {
	a, x := attemptOf(c)
	a.body = next(&x.bodies, a == &x.first)
	return &a.body.span
}

func guardedBodySpan(c *Call) *span {
	a, x := attemptOf(c)
	b := next(&x.guarded, a == &x.first)
	a.body, a.wire, b.span.guard, b.guard.wire.transport = &b.body, &b.guard.wire, &b.guard, x.transport
	return &a.body.span
}

func attemptOf(c *Call) (*httpAttempt, *httpCall) {
	return c.self.(*httpAttempt), c.flight.exchange.(*httpCall) //nolint:forcetypeassert // NewCall and newCall made them
}

// next gives one of a batch, or a single one to an attempt that the batch, which is
// the first attempt's alone, is not for.
func next[T any](batch *[]T, ours bool) *T {
	if !ours {
		return new(T)
	}
	if len(*batch) == 0 {
		*batch = make([]T, 16)
	}
	one := &(*batch)[0]
	*batch = (*batch)[1:]
	return one
}

// hand puts the wrapper around the body of an open answer. From then on the
// attempt must not be touched.
func (a *httpAttempt) hand(resp *http.Response) {
	a.call.open()
	b, inner := a.body, resp.Body
	b.inner = inner
	resp.Body = b
	if w, ok := inner.(io.Writer); ok {
		resp.Body = upgraded{b, w}
	}
	a.call.wait()
}

// Read reads on, and ends the call at the end of the body.
func (b *body) Read(p []byte) (n int, err error) {
	returned := false
	defer b.unwound(&returned)
	b.span.await()
	n, err = b.inner.Read(p)
	returned = true
	b.span.received()
	if err == nil {
		return n, nil
	}
	if err == io.EOF {
		_ = b.span.end(nil)
		return n, err
	}
	return n, b.span.end(err)
}

// unwound ends the call of a body whose Read panics.
func (b *body) unwound(returned *bool) {
	if !*returned {
		_ = b.span.end(errUnwound)
	}
}

// Close closes the body. Before its end that is a caller who has seen enough,
// and no failure; a limit that struck is not told here, but by Read.
func (b *body) Close() error {
	return b.span.close(b.inner.Close)
}

// Discard reads a small rest of an answer that nobody wants, so that its
// connection can be used again, and cuts off a large or slow one.
func (x *httpCall) Discard(c *Call, _ *Outcome) {
	a, _ := attemptOf(c)
	resp := a.resp // not o.Value, which a policy can take away
	a.freeze()
	defer c.Drop() // also when the body panics
	defer func() { _ = resp.Body.Close() }()
	u := x.transport.upstream
	h, within := &u.http, u.http.DrainTime
	if c.drain > 0 && !u.patientDrain {
		within = min(within, c.drain)
	}
	if !c.upgraded() && resp.ContentLength <= h.DrainBytes && c.limitDiscard(within) {
		// An error means that the rest cannot be had: closing is all that is left.
		_, _ = io.CopyN(io.Discard, resp.Body, h.DrainBytes)
	}
}

// limitDiscard has the attempt's context end after d, or at the call's deadline
// if that is earlier. It is false where there is no such context, or it has ended
// already: then nothing may wait for the upstream.
func (c *Call) limitDiscard(d time.Duration) bool {
	s := c.span
	if s == nil || s.guard == nil {
		return false
	}
	g := s.guard
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.struck.Load() != 0 {
		return false
	}
	if l := c.deadline(); l != 0 {
		if d = min(d, l-g.upstream.now()); d <= 0 {
			return false
		}
	}
	g.stop()
	g.scope = scopeDiscard
	g.timer = g.upstream.timer(s)
	g.timer.Reset(d)
	return true
}
