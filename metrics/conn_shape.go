package metrics

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"syscall"
)

// What connections can do beyond [net.Conn]. Programs find it out by their type, so that
// a counted connection has what its connection has, and nothing more.
type (
	readCloser  interface{ CloseRead() error }
	writeCloser interface{ CloseWrite() error }
	tlsConn     interface {
		writeCloser
		ConnectionState() tls.ConnectionState
		Handshake() error
		HandshakeContext(ctx context.Context) error
		OCSPResponse() []byte
		VerifyHostname(host string) error
	}
)

// shaped returns c with what its connection can do: a half-close and its file descriptor,
// as connections of package net have them, or the state of TLS.
func (c *conn) shaped() net.Conn {
	if t, ok := c.Conn.(tlsConn); ok {
		return struct {
			*conn
			tlsConn
		}{c, t}
	}
	r, reads := c.Conn.(readCloser)
	w, writes := c.Conn.(writeCloser)
	s, system := c.Conn.(syscall.Conn)
	switch {
	case reads && writes && system:
		return struct {
			*conn
			readCloser
			writeCloser
			syscall.Conn
		}{c, r, w, s}
	case reads && writes:
		return struct {
			*conn
			readCloser
			writeCloser
		}{c, r, w}
	case reads && system:
		return struct {
			*conn
			readCloser
			syscall.Conn
		}{c, r, s}
	case writes && system:
		return struct {
			*conn
			writeCloser
			syscall.Conn
		}{c, w, s}
	case reads:
		return struct {
			*conn
			readCloser
		}{c, r}
	case writes:
		return struct {
			*conn
			writeCloser
		}{c, w}
	case system:
		return struct {
			*conn
			syscall.Conn
		}{c, s}
	}
	return c
}

// NetConn returns the connection that is counted, or, where that is one over another, as
// one of TLS is, the other. What is read or written there is not counted.
func (c *conn) NetConn() net.Conn {
	if over, ok := c.Conn.(interface{ NetConn() net.Conn }); ok {
		return over.NetConn()
	}
	return c.Conn
}

// WriteTo copies what is received to w, without a buffer where the connection can.
func (c *conn) WriteTo(w io.Writer) (int64, error) {
	from, ok := c.Conn.(io.WriterTo)
	if !ok {
		return io.Copy(w, struct{ io.Reader }{c})
	}
	n, err := from.WriteTo(w)
	c.stats.received.Add(uint64(n)) //nolint:gosec // not negative
	if err == nil {
		c.remote.Store(true) // the other side has ended it
	}
	return n, err
}
