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

// wire observes one attempt inside net/http: what became of its connection, and whether a
// 1xx response arrived. It is part of the attempt's context, and makes a trace when net/http
// first looks for one. A round tripper that never looks pays nothing.
//
// A wire serves one attempt. A round tripper that uses the context when the attempt has
// ended, in a dial that goes on in the background, reports to no other attempt.
type wire struct {
	transport *transport // nil for other protocols than HTTP
	trace     atomic.Pointer[wireTrace]
}

// wireState is what net/http has reported of an attempt.
type wireState uint32

const (
	wireLooked    wireState = 1 << iota // net/http looked for a trace
	wireAsked                           // a connection was asked for
	wireWaiting                         // and is still awaited
	wireConnected                       // a connection was found
	wireWrote                           // the headers of a request were written
	wireSent                            // those of the request on the latest connection
	wireResponded                       // and a response to it began
	wireAgain                           // another connection was asked for in place of a response
	wireResent                          // the attempt was ended: net/http was about to resend the request
)

func (s wireState) has(bits wireState) bool { return s&bits == bits }

// unconnected reports whether the attempt surely has no connection and has sent nothing.
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

// state returns what net/http has reported; 0 if it reports nothing, or no more.
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

// value returns the trace for the key under which package httptrace looks for it, in a
// context that is made from parent, of an attempt with that stream.
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

// begin makes the trace. Traces are used again only if net/http alone calls them, and
// only without the hooks of the caller, which package httptrace adds for good.
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

// release returns the trace of an attempt that got its response to its pool, unless
// net/http may still call its hooks.
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
	context.Context //nolint:containedctx // it is one
	wire            wire
	stream          *policy.Stream // of the attempt; nil if the engine does not guard it
}

// Value is that of the wire, or else of the attempt's context.
func (c *wireContext) Value(key any) any {
	if v := c.wire.value(c.Context, c.stream, key); v != nil {
		return v
	}
	return c.Context.Value(key)
}

// traced returns the context of an attempt with a wire in it. Without room for it in the
// attempt's storage it is worth its price under TLS only, where errors say too little.
func (x *httpCall) traced(ctx context.Context, a *httpAttempt) context.Context {
	var c *wireContext
	switch {
	case a.guarded:
		c = &a.body.wire
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
	stream  *policy.Stream // of the attempt; it, and what follows, is written before net/http sees the trace
	repeats bool           // a policy decides about retries
	h2c     bool           // connections without TLS carry HTTP/2
	limit   int64          // of early, in bytes
	pool    *sync.Pool     // where the trace is used again; nil for nowhere
}

// newWireTrace makes a trace. Where net/http is wrapped by another round tripper, that may
// send several requests in one attempt: a response distinguishes them from resending.
func newWireTrace(netHTTP bool) *wireTrace {
	t := &wireTrace{}
	t.trace = httptrace.ClientTrace{GetConn: t.getConn, GotConn: t.gotConn, WroteHeaders: t.wroteHeaders, Got1xxResponse: t.got1xx}
	if !netHTTP {
		t.trace.GotFirstResponseByte = t.responded
	}
	return t
}

// change clears and then sets bits of the state, and returns what it was before.
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

// gotConn notes a connection. One in place of the response to a request that was sent over
// HTTP/2 means that net/http resends the request: the server refused the stream. Whether a
// request is retried is the retry policy's decision, so the attempt ends. A stream that the
// server reset with PROTOCOL_ERROR is resent too, and cannot be told from a refused one.
func (t *wireTrace) gotConn(info httptrace.GotConnInfo) {
	before := t.change(wireWaiting|wireSent|wireResponded|wireAgain, wireConnected)
	if before.has(wireAgain) && t.stream != nil && t.repeats && t.speaksHTTP2(info.Conn) {
		t.change(0, wireResent)
		t.stream.Cancel(errResent)
	}
}

func (t *wireTrace) wroteHeaders() { t.change(0, wireWrote|wireSent) }

func (t *wireTrace) responded() { t.change(0, wireResponded) }

// got1xx notes a 1xx response. With this hook in place net/http no longer limits how many
// of them arrive, so the hook does.
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

// errResent stands for a stream that the server refused where net/http was about to
// resend the request by itself.
var errResent = errors.New("pillion: the server refused the stream")

// speaksHTTP2 reports whether a connection surely carries HTTP/2. net/http resends over
// HTTP/1 only where a kept-alive connection turns out to be closed.
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

// keySpy is a context that remembers the key that it was asked for.
type keySpy struct {
	context.Context //nolint:containedctx // it has none: only Value is called
	key             any
}

func (s *keySpy) Value(key any) any {
	s.key = key
	return nil
}
