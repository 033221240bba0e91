package pillion

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http/httptrace"
	"net/textproto"
	"sync"
	"sync/atomic"

	"github.com/pillion-go/pillion/policy"
)

// wire observes one attempt inside net/http: its connection, and whether a 1xx response arrived. It
// is part of the attempt's context, and makes a trace when net/http first looks for one. A round
// tripper that never looks for a trace costs nothing.
//
// A wire serves one attempt. If a round tripper uses the context after the attempt has ended, as in
// a dial that continues in the background, it never reports to another attempt.
type wire struct {
	transport *transport // nil for other protocols than HTTP
	trace     atomic.Pointer[wireTrace]
}

// wireState is the set of what net/http has reported of an attempt.
type wireState uint32

const (
	wireLooked    wireState = 1 << iota // net/http looked for a trace
	wireAsked                           // net/http asked for a connection
	wireWaiting                         // and still waits for it
	wireConnected                       // net/http has a connection
	wireWrote                           // net/http wrote the headers of a request
	wireSent                            // and did so on the latest connection
	wireResponded                       // and a response to it began
	wireAgain                           // net/http asked for another connection instead
	wireResent                          // the attempt was canceled: net/http was about to resend the request
)

func (s wireState) has(bits wireState) bool { return s&bits == bits }

// unconnected reports whether the attempt certainly has no connection and has sent nothing.
func (s wireState) unconnected() bool { return s.has(wireWaiting) && !s.has(wireWrote) }

// seen returns the trace if net/http has looked for it and still reports to it, else nil.
func (w *wire) seen() *wireTrace {
	if w == nil {
		return nil
	}
	if t := w.trace.Load(); t != nil && t != &w.transport.spent {
		return t
	}
	return nil
}

// state returns what net/http has reported, 0 if it does not report or has stopped.
func (w *wire) state() wireState {
	if t := w.seen(); t != nil {
		return wireLooked | wireState(t.state.Load())
	}
	return 0
}

// informational reports whether a 1xx response arrived.
func (w *wire) informational() bool {
	t := w.seen()
	return t != nil && t.early.Load() != 0
}

// value returns the trace if key is the one under which package httptrace looks for it. parent is
// the context that the wire's context was made from, stream the attempt's.
func (w *wire) value(parent context.Context, stream *policy.Stream, key any) any {
	if key != traceKey || w.transport == nil {
		return nil
	}
	t := w.trace.Load()
	if t == nil {
		t = w.begin(parent, stream)
	}
	if t == &w.transport.spent {
		return nil
	}
	return &t.trace
}

// begin makes the trace. A trace is reused only if net/http alone calls it and the caller has no
// hooks: package httptrace adds those to the trace permanently.
func (w *wire) begin(parent context.Context, stream *policy.Stream) *wireTrace {
	var t *wireTrace
	var pool *sync.Pool
	caller := httptrace.ContextClientTrace(parent) != nil
	if w.transport.netHTTP && !caller {
		pool = &w.transport.upstream.traces
		t, _ = pool.Get().(*wireTrace)
	}
	if t == nil {
		t = newWireTrace(w.transport.netHTTP)
	}
	t.stream, t.h2c, t.limit, t.pool = stream, w.transport.h2c, w.transport.headerBytes, pool
	t.repeats = w.transport.upstream.chain.Repeats()
	if caller {
		_ = httptrace.WithClientTrace(parent, &t.trace) // it adds the caller's hooks to t.trace
	}
	if !w.trace.CompareAndSwap(nil, t) {
		return w.trace.Load() // another goroutine was faster
	}
	return t
}

// release returns the trace of an attempt with a response to its pool, unless net/http may still
// call its hooks.
func (w *wire) release() {
	t := w.trace.Swap(&w.transport.spent)
	if t == nil || t.pool == nil || !wireState(t.state.Load()).has(wireSent) {
		return
	}
	t.stream = nil
	t.state.Store(0)
	if t.early.Load() != 0 {
		t.early.Store(0)
	}
	t.pool.Put(t)
}

// wireContext is the context of an attempt with a wire.
type wireContext struct {
	context.Context //nolint:containedctx // wireContext is a context
	wire            wire
	stream          *policy.Stream // the attempt's; nil if the attempt has no context of its own
}

// Value returns the value of the wire if it has one, else that of the attempt's context.
func (c *wireContext) Value(key any) any {
	if v := c.wire.value(c.Context, c.stream, key); v != nil {
		return v
	}
	return c.Context.Value(key)
}

// traced returns the attempt's context with a wire in it. If the attempt's storage has no room for
// a wire, it makes one for TLS only, where errors contain too little.
func (x *httpCall) traced(ctx context.Context, a *httpAttempt) context.Context {
	var c *wireContext
	switch {
	case a.guarded:
		c = a.room
		c.stream = &a.body.stream
	case x.req.URL == nil || x.req.URL.Scheme != "https":
		return ctx
	default:
		c = &wireContext{}
	}
	c.Context, c.wire.transport = ctx, x.transport
	a.wire = &c.wire
	return c
}

// wireTrace is the trace of one attempt at a time.
type wireTrace struct {
	trace   httptrace.ClientTrace
	state   atomic.Uint32  // a wireState
	early   atomic.Int64   // bytes of the headers of 1xx responses; 0 if none arrived
	stream  *policy.Stream // the attempt's; this and the fields below are written before net/http has the trace
	repeats bool           // a policy retries or hedges
	h2c     bool           // connections without TLS use HTTP/2
	limit   int64          // of early, in bytes
	pool    *sync.Pool     // where the trace goes for reuse; nil if it is not reused
}

// newWireTrace makes a trace. Another round tripper around net/http may send several requests in
// one attempt; the hook for a response distinguishes them from a request that net/http resends.
func newWireTrace(netHTTP bool) *wireTrace {
	t := &wireTrace{}
	t.trace = httptrace.ClientTrace{GetConn: t.getConn, GotConn: t.gotConn, WroteHeaders: t.wroteHeaders, Got1xxResponse: t.got1xx}
	if !netHTTP {
		t.trace.GotFirstResponseByte = t.responded
	}
	return t
}

// change clears and then sets bits of the state, and returns the state before.
func (t *wireTrace) change(clearing, set wireState) (before wireState) {
	for {
		before = wireState(t.state.Load())
		if t.state.CompareAndSwap(uint32(before), uint32(before&^clearing|set)) {
			return before
		}
	}
}

func (t *wireTrace) getConn(string) {
	set := wireAsked | wireWaiting
	if s := wireState(t.state.Load()); s.has(wireSent) && !s.has(wireResponded) {
		set |= wireAgain
	}
	t.change(0, set)
}

// gotConn records a connection. If net/http asks for one instead of reading the response to a
// request that it sent over HTTP/2, it is about to resend the request, because the server refused
// the stream. The retry policy decides whether a request is retried, so gotConn cancels the
// attempt. net/http also resends a stream that the server reset with PROTOCOL_ERROR; it cannot be
// distinguished from a refused one.
func (t *wireTrace) gotConn(info httptrace.GotConnInfo) {
	before := t.change(wireWaiting|wireSent|wireResponded|wireAgain, wireConnected)
	if before.has(wireAgain) && t.stream != nil && t.repeats && t.speaksHTTP2(info.Conn) {
		t.change(0, wireResent)
		t.stream.Cancel(errResent)
	}
}

func (t *wireTrace) wroteHeaders() { t.change(0, wireWrote|wireSent) }

func (t *wireTrace) responded() { t.change(0, wireResponded) }

// got1xx records a 1xx response. With this hook net/http does not limit how many of them arrive, so
// the hook does.
func (t *wireTrace) got1xx(_ int, header textproto.MIMEHeader) error {
	size := int64(len("HTTP/1.1 103\r\n\r\n"))
	for name, values := range header {
		for _, value := range values {
			size += int64(len(name) + len(value) + len(": \r\n"))
		}
	}
	if t.early.Add(size) > t.limit {
		return fmt.Errorf("net/http: server response headers exceeded %d bytes; aborted", t.limit)
	}
	return nil
}

// errResent is the error of a stream that the server refused, when net/http was about to resend the
// request.
var errResent = errors.New("pillion: the server refused the stream")

// speaksHTTP2 reports whether a connection certainly uses HTTP/2. Over HTTP/1, net/http resends a
// request only if a kept-alive connection turns out to be closed.
func (t *wireTrace) speaksHTTP2(conn net.Conn) bool {
	for {
		if secured, ok := conn.(interface{ ConnectionState() tls.ConnectionState }); ok {
			return secured.ConnectionState().NegotiatedProtocol == "h2"
		}
		inner, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return t.h2c
		}
		conn = inner.NetConn()
	}
}

// traceKey is the key under which package httptrace looks for a trace.
//
//nolint:gochecknoglobals // a key that nothing writes after it was found
var traceKey = findTraceKey()

func findTraceKey() any {
	var spy keySpy
	httptrace.ContextClientTrace(&spy)
	return spy.key
}

// keySpy is a context that records the key that it was asked for.
type keySpy struct {
	context.Context //nolint:containedctx // it is nil: only Value is called
	key             any
}

func (s *keySpy) Value(key any) any {
	s.key = key
	return nil
}
