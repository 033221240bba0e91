package pillion

import (
	"io"
	"net/http"

	"github.com/pillion-go/pillion/policy"
)

// body is the body of a response whose end matters to a policy, with the state that its attempt
// leaves behind.
type body struct {
	stream policy.Stream
	inner  io.ReadCloser
}

// wiredBody is a body with room for the context of its attempt.
type wiredBody struct {
	body
	limits policy.StreamLimits
	wire   wireContext // what net/http reports of the attempt
}

// upgraded is the body of a 101 response, which can also be written to.
type upgraded struct {
	*body
	io.Writer
}

// CloseWrite closes the write side of the connection if it supports that, as the body of net/http
// does.
func (u upgraded) CloseWrite() error {
	if c, ok := u.Writer.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return http.ErrNotSupported
}

// NewStream returns the stream of an attempt, in the same allocation as its body.
func (x *httpCall) NewStream(c *policy.Attempt) *policy.Stream {
	b := &body{}
	attemptOf(c).body = b
	return &b.stream
}

// NewLimitedStream returns the stream of an attempt, in the same allocation as its body and its
// context.
func (x *httpCall) NewLimitedStream(c *policy.Attempt) (*policy.Stream, *policy.StreamLimits) {
	a, b := attemptOf(c), &wiredBody{}
	a.body, a.room = &b.body, &b.wire
	return &b.stream, &b.limits
}

// hand wraps the body of an open response. After it the attempt must not be used.
func hand(c *policy.Attempt, resp *http.Response) {
	a, inner := attemptOf(c), resp.Body
	b := a.body
	if b == nil {
		b = &body{}
		c.Keep(&b.stream)
	}
	b.inner = a.measured(inner)
	resp.Body = b
	if w, ok := inner.(io.Writer); ok {
		resp.Body = upgraded{b, w}
	}
	c.Watch()
}

// Read reads from the body, and ends the call at the end of the body.
func (b *body) Read(p []byte) (n int, err error) {
	returned := false
	defer b.unwound(&returned)
	b.stream.Await()
	n, err = b.inner.Read(p)
	returned = true
	b.stream.Received()
	if err == nil {
		return n, nil
	}
	if err == io.EOF {
		_ = b.stream.End(nil)
		return n, err
	}
	return n, b.stream.End(err)
}

// unwound ends the call of a body whose Read panics.
func (b *body) unwound(returned *bool) {
	if !*returned {
		b.stream.Unwound()
	}
}

// Close closes the body. Before its end that means that the caller stops reading, which is no
// failure; Read returns the error of a timeout, Close does not.
func (b *body) Close() error { return b.stream.Close(b.inner.Close) }

// Discard reads a small rest of a response that is not going to be read, so that its connection can
// be reused, and cuts off a large or slow one.
func (x *httpCall) Discard(c *policy.Attempt, _ *policy.Outcome) {
	a := attemptOf(c)
	resp := a.resp // not o.Value, which a policy can remove
	a.freeze()
	defer c.Drop() // also when the body panics
	defer func() { _ = resp.Body.Close() }()
	u := x.transport.upstream
	h, within := &u.options, u.options.DrainTime
	if d := c.DrainTime(); d > 0 && !u.patientDrain {
		within = min(within, d)
	}
	if !c.Upgraded() && resp.ContentLength <= h.DrainBytes && c.DiscardWithin(within) {
		// After an error the rest cannot be read: Close follows in any case.
		_, _ = io.CopyN(io.Discard, resp.Body, h.DrainBytes)
	}
}
