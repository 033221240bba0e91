package metrics

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"syscall"
)

// Optional methods of connections beyond [net.Conn]. Programs look for them with type assertions,
// so that a counted connection must have the same methods as its connection.
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

// shaped returns c with the optional methods of its connection: half-close and file descriptor, as
// connections of package net have them, or the state of TLS.
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

// NetConn returns the counted connection, or the connection under it if it has one, as a TLS
// connection does. Bytes read from or written to it are not counted.
func (c *conn) NetConn() net.Conn {
	if over, ok := c.Conn.(interface{ NetConn() net.Conn }); ok {
		return over.NetConn()
	}
	return c.Conn
}

// WriteTo copies received data to w, without a buffer if the connection supports that.
func (c *conn) WriteTo(w io.Writer) (int64, error) {
	from, ok := c.Conn.(io.WriterTo)
	if !ok {
		return io.Copy(w, struct{ io.Reader }{c})
	}
	n, err := from.WriteTo(w)
	c.stats.received.Add(uint64(n)) //nolint:gosec // not negative
	if err == nil {
		c.remote.Store(true) // the peer has ended it
	}
	return n, err
}
