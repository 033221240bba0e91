package pool

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
)

// wire is the network connection under a conn. It counts bytes and records whether the
// server closed it.
type wire struct {
	net.Conn // nil until wrap, and for a dialer that does its own TLS

	raw      net.Conn // the connection of the dialer
	observer Observer
	closed   atomic.Bool // closed by the client
	remote   atomic.Bool // closed by the server before the client
}

func (w *wire) wrap(nc net.Conn) net.Conn {
	w.Conn, w.raw = nc, nc
	return w
}

// Read reads from the connection.
func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if n > 0 {
		w.observer.Observe(CxRxBytes, int64(n))
	}
	w.note(err)
	return n, err
}

// Write writes to the connection.
func (w *wire) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	w.wrote(int64(n), err)
	return n, err
}

// ReadFrom lets the kernel copy a file to the connection, if possible.
func (w *wire) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(w.Conn, r)
	if n > 0 {
		w.observer.Observe(CxTxBytes, n)
	}
	return n, err // err can be an error of r
}

func (w *wire) wrote(n int64, err error) {
	if n > 0 {
		w.observer.Observe(CxTxBytes, n)
	}
	w.note(err)
}

// note records an error of the connection: the server closed it, unless the client closed it or set
// a deadline.
func (w *wire) note(err error) {
	if err == nil || w.closed.Load() || errors.Is(err, os.ErrDeadlineExceeded) {
		return
	}
	w.remote.Store(true)
}

// Close closes the connection.
func (w *wire) Close() error {
	w.closed.Store(true)
	return w.Conn.Close()
}

// shut closes the connection if it is open, such as a connection that the caller received after a
// protocol upgrade.
func (w *wire) shut() {
	switch {
	case w.Conn != nil && !w.closed.Load():
		_ = w.Close()
	case w.Conn == nil && w.raw != nil:
		_ = w.raw.Close()
	}
}
