package pool

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// A Stream is the use of a connection by one request. Its methods are not safe for
// concurrent use. A Stream must not be copied.
type Stream struct {
	conn *conn // nil after Release
	err  error // of the wait, then of RoundTrip
	sent bool
	resp *http.Response

	reused, wasIdle bool
	idleSince       time.Time

	waiting    bool // guarded by the pool's mu, like prev and next
	prev, next *Stream
	woken      chan struct{} // has a buffer for one value
}

var _ http.RoundTripper = (*Stream)(nil)

// Stream waits for a connection and returns a stream on it, which the caller must release. The
// error is a [*RefusedError], a [*ConnectError], [ErrClosed], or the cause of ctx.
//
// ctx should be the context of the request: [httptrace.ClientTrace.GetConn] and GotConn of its
// trace are called. Other hooks of a connect are not called, since dials belong to no request.
func (p *Pool) Stream(ctx context.Context) (*Stream, error) {
	s := new(Stream)
	if err := p.Attach(ctx, s); err != nil {
		return nil, err
	}
	return s, nil
}

// Attach is [Pool.Stream] for a stream that the caller allocates. s must be zero or released, or
// its last Attach must have failed.
func (p *Pool) Attach(ctx context.Context, s *Stream) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	trace := httptrace.ContextClientTrace(ctx)
	if trace != nil && trace.GetConn != nil {
		trace.GetConn(p.cfg.Address)
	}
	*s = Stream{woken: s.woken}
	if err := p.open(ctx, s); err != nil {
		return err
	}
	if trace != nil && trace.GotConn != nil {
		s.gotConn(trace) //nolint:contextcheck // a dial belongs to no request
	}
	return nil
}

// open attaches s to a ready connection. It waits if there is none.
func (p *Pool) open(ctx context.Context, s *Stream) error {
	if waits, err := p.begin(s); !waits { //nolint:contextcheck // a dial belongs to no request
		return err
	}
	select {
	case <-s.woken:
	case <-ctx.Done():
		if p.leave(s) {
			return context.Cause(ctx)
		}
		<-s.woken // before ctx ended
	}
	err := s.err
	s.err = nil
	return err
}

// begin attaches s, adds it to the waiting streams, or refuses it.
func (p *Pool) begin(s *Stream) (waits bool, err error) {
	p.mu.Lock()
	defer p.unlock()
	if p.closed {
		return false, ErrClosed
	}
	switch p.take(s, nil) {
	case attached:
		return false, nil
	case refused:
		return false, errRequests
	default:
	}
	if !p.cfg.Slots.TryAcquire(Pending) {
		p.cfg.Observer.Observe(RqPendingOverflow, 1)
		return false, errPending
	}
	if s.woken == nil {
		s.woken = make(chan struct{}, 1)
	}
	p.wait(s)
	p.grow()
	return true, nil
}

// gotConn calls trace.GotConn. If it panics, s is released first.
func (s *Stream) gotConn(trace *httptrace.ClientTrace) {
	info := httptrace.GotConnInfo{Conn: s.conn.wire.raw, Reused: s.reused, WasIdle: s.wasIdle}
	if s.wasIdle {
		info.IdleTime = time.Since(s.idleSince)
	}
	done := false
	defer func() {
		if !done {
			s.Release(nil)
		}
	}()
	trace.GotConn(info)
	done = true
}

// HTTP2 reports whether the connection uses HTTP/2. It must not be called after Release.
func (s *Stream) HTTP2() bool { return s.conn.h2 }

// Reused reports whether the connection had served a request before.
func (s *Stream) Reused() bool { return s.reused }

// RoundTrip sends req once, on the stream's connection. It can be called once. The URL of req
// does not affect the connection.
//
// RoundTrip does not copy req, except the struct (not the headers) if closing the body twice may
// not be safe. Like [http.RoundTripper], it always closes the body. The response's Request is
// req.
//
// The context of req must end after the request: a failed HTTP/1 round trip leaves a child
// context in it. If it has already ended, RoundTrip sends nothing and returns its cause, and the
// connection remains usable.
//
// Other errors are those of net/http, or [ErrUnusable]. The stream must be released even after
// an error.
func (s *Stream) RoundTrip(req *http.Request) (*http.Response, error) {
	if s.conn == nil || s.sent {
		closeBody(req)
		return nil, ErrUnusable
	}
	if ctx := req.Context(); ctx.Err() != nil {
		closeBody(req)
		s.err = context.Cause(ctx)
		return nil, s.err
	}
	s.sent = true
	resp, err := s.send(req)
	if err != nil {
		s.err = err
		return nil, err
	}
	resp.Request = req
	s.resp = resp
	if resp.Close && !s.conn.h2 { // also true if the body ends with the connection: net/http removes the header
		s.conn.pool.cfg.Observer.Observe(CxCloseNotify, 1)
	}
	return resp, nil
}

// send sends req. It closes the body if that fails.
func (s *Stream) send(req *http.Request) (*http.Response, error) {
	cc := s.conn.cc
	if s.conn.h2 {
		s.conn.sending.Add(1)
		defer s.conn.sending.Add(-1)
	}
	switch {
	case !hasBody(req):
		return cc.RoundTrip(req)
	case closesTwice(req.Body):
		resp, err := cc.RoundTrip(req)
		if err != nil {
			closeBody(req)
		}
		return resp, err
	default:
		u := track(req)
		resp, err := cc.RoundTrip(&u.req)
		if err != nil {
			_ = u.Close()
		}
		return resp, err
	}
}

// last reports whether the request or the response announces that the HTTP/1 connection is closed
// after the response.
func (s *Stream) last(c *conn) bool {
	resp := s.resp
	if resp == nil {
		return false
	}
	req := resp.Request
	return resp.Close || req.Close || resp.StatusCode == http.StatusSwitchingProtocols ||
		c.pool.cfg.Template.single || httpguts.HeaderValuesContainsToken(req.Header["Connection"], "close")
}

// Release ends the stream. It must be called for each stream, after the end of the response's
// body: io.EOF, Close, or an error. Later calls do nothing.
//
// err is the error that ended an incomplete exchange: the error of the body, or the reason to
// close it early. It is nil if the response was read to its end. An error of RoundTrip need not
// be repeated.
//
// The connection then serves the next request or is closed. Release can be called in another
// goroutine than RoundTrip, after RoundTrip has returned.
func (s *Stream) Release(err error) {
	c := s.conn
	if c == nil {
		return
	}
	s.conn = nil
	if err == nil {
		err = s.err
	}
	usable := c.h2 || !s.sent || c.usable()
	c.pool.mu.Lock()
	c.pool.release(c, s, err, usable)
	c.pool.unlock()
	s.resp = nil
}

// isCanceled reports whether the client ended the exchange.
func isCanceled(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// turnedAway reports whether err belongs to a stream that the server did not process according to
// its GOAWAY. Envoy counts such a stream as refused.
func turnedAway(err error) bool {
	text := err.Error()
	return strings.Contains(text, "http2: Transport received") && strings.Contains(text, "GOAWAY")
}

// waitList is a queue of waiting streams, the oldest one first. It is guarded by Pool.mu.
type waitList struct {
	front, back *Stream
	n           int
}

func (l *waitList) push(s *Stream) {
	s.waiting, s.prev, s.next = true, l.back, nil
	if l.back == nil {
		l.front = s
	} else {
		l.back.next = s
	}
	l.back = s
	l.n++
}

func (l *waitList) remove(s *Stream) {
	if s.prev == nil {
		l.front = s.next
	} else {
		s.prev.next = s.next
	}
	if s.next == nil {
		l.back = s.prev
	} else {
		s.next.prev = s.prev
	}
	s.waiting, s.prev, s.next = false, nil, nil
	l.n--
}
