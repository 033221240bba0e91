package pool

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"time"
)

// errNotHTTP2 is the error of a connect whose server chose another protocol than [HTTP2].
var errNotHTTP2 = errors.New("the server did not choose HTTP/2 in the TLS handshake")

// start begins to make a connection. It is called with the pool locked.
func (p *Pool) start(hasSlot bool) {
	c := &conn{
		pool: p, hasSlot: hasSlot, expected: p.expect(), remaining: p.cfg.MaxRequestsPerConnection,
		began: time.Now(),
	}
	c.wire.observer = p.cfg.Observer
	var ctx context.Context
	if d := p.cfg.ConnectTimeout; d > 0 {
		ctx, c.cancel = context.WithTimeout(context.Background(), d)
	} else {
		ctx, c.cancel = context.WithCancel(context.Background())
	}
	p.connecting.push(c)
	p.expected += c.expected
	p.cfg.Observer.Observe(CxTotal, 1)
	p.cfg.Observer.Observe(CxActive, 1)
	if !p.negotiates() {
		p.countProtocol(p.cfg.Template.protocol == HTTP2)
	}
	go c.dial(ctx)
}

// negotiates reports whether the protocol is unknown before the handshake.
func (p *Pool) negotiates() bool { return p.cfg.Scheme == "https" && p.cfg.Template.protocol == Auto }

func (p *Pool) countProtocol(h2 bool) {
	if h2 {
		p.cfg.Observer.Observe(CxHTTP2Total, 1)
	} else {
		p.cfg.Observer.Observe(CxHTTP1Total, 1)
	}
}

// expect returns how many requests a connection that is being made will serve at the same
// time. A server that chose HTTP/1 before is expected to do so again.
func (p *Pool) expect() int {
	if p.cfg.Template.protocol == HTTP2 || p.negotiates() && !p.choseHTTP1 {
		return min(p.cfg.MaxConcurrentStreams, p.cfg.MaxRequestsPerConnection)
	}
	return 1
}

// dial makes the connection and hands it to the pool. It is a goroutine of its own.
func (c *conn) dial(ctx context.Context) {
	stop := context.AfterFunc(ctx, c.expired)
	cc, err := c.connect(ctx)
	stop()
	c.cancel()
	if err == nil {
		cc.SetStateHook(c.changed)
	}
	p := c.pool
	p.mu.Lock()
	switch {
	case c.state == closed: // its time ran out, or no request needs it any more
		p.unlock()
		if err == nil {
			_ = cc.Close()
			c.wire.shut()
		}
		return
	case err != nil:
		p.connectFailed(c, c.failure(reasonOf(err), err))
	default:
		p.connected(c, cc) //nolint:contextcheck // another dial is not part of this one
	}
	p.unlock()
}

// expired ends a dial whose time has run out, even if the dialer does not honor its context.
func (c *conn) expired() {
	p := c.pool
	p.mu.Lock()
	defer p.unlock()
	if c.state == connecting { // else the pool itself has canceled it
		p.connectFailed(c, c.failure(Timeout, context.DeadlineExceeded))
	}
}

// failure describes why there is no connection.
func (c *conn) failure(reason Reason, err error) *ConnectError {
	if p, ok := err.(*dialPanicError); ok { //nolint:errorlint // it is never wrapped
		reason, err = LocalFailure, p
	}
	return &ConnectError{
		Address: c.pool.cfg.Address, Reason: reason, Err: err,
		TLS: c.handshake.Load() || isTLS(err),
	}
}

// connect dials, and finds out which protocol the server chose.
func (c *conn) connect(ctx context.Context) (cc *http.ClientConn, err error) {
	cfg := &c.pool.cfg
	defer func() {
		if v := recover(); v != nil {
			cc, err = nil, &dialPanicError{v}
			if cfg.Panicked != nil {
				cfg.Panicked(v)
			}
		}
	}()
	var alpn string
	ctx = httptrace.WithClientTrace(context.WithValue(ctx, dialKey{}, c), &httptrace.ClientTrace{
		TLSHandshakeStart: func() { c.handshake.Store(true) },
		TLSHandshakeDone: func(cs tls.ConnectionState, err error) {
			alpn = cs.NegotiatedProtocol
			if err != nil && cfg.HandshakeFailed != nil {
				cfg.HandshakeFailed(err)
			}
		},
	})
	cc, err = cfg.Template.transport.NewClientConn(ctx, cfg.Scheme, cfg.Address)
	if err != nil {
		return nil, err
	}
	c.h2 = cfg.protocolOf(alpn) == HTTP2
	c.opaque = c.handshake.Load() || c.wire.Conn == nil
	if cfg.Template.protocol == HTTP2 && !c.h2 {
		_ = cc.Close()
		return nil, errNotHTTP2
	}
	return cc, nil
}

// dialPanicError holds the value of a panic in a dial function.
type dialPanicError struct{ value any }

func (e *dialPanicError) Error() string { return fmt.Sprintf("the dial panicked: %v", e.value) }
