package pillion

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http/httptrace"
	"net/textproto"
	"sync"
	"sync/atomic"
)

// wireTrace observes one attempt inside net/http: what became of its connection, and
// whether a 1xx response arrived. net/http finds it in the attempt's context. A round tripper
// that does not use net/http leaves it untouched.
type wireTrace struct {
	trace     httptrace.ClientTrace
	asked     atomic.Bool  // for a connection
	waiting   atomic.Bool  // for one
	connected atomic.Int32 // how often one was found
	wrote     atomic.Bool  // the request's headers
	early     atomic.Int64 // bytes of the headers of 1xx responses; 0 if none arrived
	limit     int64        // of early, in bytes; written before the attempt begins
	resent    atomic.Bool  // the attempt was ended because net/http was about to resend it
	http2     bool         // whatever the connection looks like; written before the attempt begins
	guard     atomic.Pointer[guard]
	values    contextValues // the trace itself, as the guard refers to it
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

func newWireTrace() *wireTrace {
	t := &wireTrace{}
	t.values = t
	t.trace.GetConn = func(string) {
		t.asked.Store(true)
		t.waiting.Store(true)
	}
	t.trace.GotConn = t.gotConn
	t.trace.WroteHeaders = func() { t.wrote.Store(true) }
	t.trace.Got1xxResponse = t.got1xx
	return t
}

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

// gotConn notes a connection. A second one for a request whose headers were written over
// HTTP/2 means that the server refused the stream, and that net/http resends it. That is for
// the retry policy to decide, so the attempt ends.
func (t *wireTrace) gotConn(info httptrace.GotConnInfo) {
	t.waiting.Store(false)
	if t.connected.Add(1) == 1 || !t.wrote.Load() || !t.http2 && !speaksHTTP2(info.Conn) {
		return
	}
	if g := t.guard.Load(); g != nil && g.upstream.repeats {
		t.resent.Store(true)
		g.cancel(errResent)
	}
}

// speaksHTTP2 reports whether a connection surely carries HTTP/2. net/http resends over
// HTTP/1 only where a kept-alive connection turns out to be closed.
func speaksHTTP2(conn net.Conn) bool {
	for {
		if secured, ok := conn.(interface{ ConnectionState() tls.ConnectionState }); ok {
			return secured.ConnectionState().NegotiatedProtocol == "h2"
		}
		inner, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return false
		}
		conn = inner.NetConn()
	}
}

// Value returns the trace to net/http.
func (t *wireTrace) Value(key any) any {
	if key == traceKey {
		return &t.trace
	}
	return nil
}

// traced returns the context of an attempt with a trace in it: one from the pool if the
// engine made the context, else a new one where it is worth its price.
func (x *httpCall) traced(ctx context.Context, a *httpAttempt) context.Context {
	g, guarded := ctx.(*guard)
	if !guarded && (x.req.URL == nil || x.req.URL.Scheme != "https") {
		return ctx
	}
	if !guarded || httptrace.ContextClientTrace(x.flight.ctx) != nil {
		a.trace = newWireTrace()
		a.trace.http2, a.trace.limit = x.transport.speaksHTTP2(x.req), x.transport.headerBytes
		a.trace.guard.Store(g)
		return httptrace.WithClientTrace(ctx, &a.trace.trace) // after which the caller's own hooks run, too
	}
	t, ok := x.flight.upstream.traces.Get().(*wireTrace)
	if !ok {
		t = newWireTrace()
	}
	t.http2, t.limit = x.transport.speaksHTTP2(x.req), x.transport.headerBytes
	t.guard.Store(g)
	g.values.Store(&t.values)
	a.trace = t
	return ctx
}

// release returns the trace of an attempt that got its response to the pool, unless
// net/http may still call its hooks.
func (t *wireTrace) release(pool *sync.Pool) {
	n := t.connected.Load()
	touched := n != 0 || t.asked.Load()
	if touched && (n != 1 || !t.wrote.Load()) {
		return
	}
	g := t.guard.Load()
	if g == nil || g.values.Load() != &t.values {
		return // it is in no pool: the context was not the engine's
	}
	g.values.Store(nil)
	if touched {
		t.asked.Store(false)
		t.connected.Store(0)
		t.wrote.Store(false)
		t.early.Store(0)
	}
	pool.Put(t)
}
