package resolve

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"time"
)

// wire is what lies between Go's resolver and the DNS servers during the lookup of a name in
// one family. It chooses the server and reads the TTLs off the responses. The resolver sends
// one query at a time and closes its connection before the next.
type wire struct {
	cfg *Config

	mu    sync.Mutex
	ended error    // why the lookup has ended; guarded by mu
	conn  net.Conn // the connection in use or the last one; guarded by mu
	// server is the index of the server in use, tried the number of servers that were tried.
	server, tried int    // guarded by mu
	udp           bool   // whether the last query was over UDP; guarded by mu
	last          answer // to the last query; guarded by mu
}

// end makes the lookup fail with err, which must not be nil, as soon as can be. Only the
// first call has an effect.
func (w *wire) end(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = cmp.Or(w.ended, err)
	if w.conn != nil {
		_ = w.conn.Close() // nothing more is expected of it
	}
}

// next returns the server for a query over network instead of address. A server is used as
// long as it responds; TCP after UDP means that the response of the same one was cut off.
func (w *wire) next(network, address string) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended != nil {
		return "", w.ended
	}
	if again := network == "tcp" && w.udp; !again && !w.last.final {
		if len(w.cfg.Servers) > 0 && w.tried == w.cfg.tries() {
			return "", errTried
		}
		w.server += min(w.tried, 1)
		w.tried++
	}
	w.udp, w.last = network == "udp", answer{}
	if len(w.cfg.Servers) == 0 {
		return address, nil
	}
	return w.cfg.Servers[w.server%len(w.cfg.Servers)], nil
}

// errTried ends a lookup in which no server is left to ask.
var errTried = errors.New("all DNS servers failed")

// dial is a net.Resolver's Dial, with the context of the lookup instead of the query's.
func (w *wire) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if w.cfg.UseTCP {
		network = "tcp"
	}
	address, err := w.next(network, address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, w.cfg.queryTimeout())
	defer cancel()
	conn, err := w.cfg.connect(ctx, network, address)
	if p, ok := errors.AsType[*PanicError](err); ok {
		w.end(p)
	}
	if err != nil {
		return nil, err
	}
	return w.watch(conn)
}

// connect calls the Dial of the configuration, and makes a panic in it an error.
func (c *Config) connect(ctx context.Context, network, address string) (conn net.Conn, err error) {
	dial := c.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	defer recovered("Dial", &err)
	return dial(ctx, network, address)
}

// more reports whether there are servers that were not tried yet.
func (w *wire) more() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ended == nil && w.tried < len(w.cfg.Servers)
}

// outcome returns the index of the server that responded last, the records of the last
// response, and why the lookup was ended, if it was.
func (w *wire) outcome() (server int, records []Record, ended error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.server, w.last.records, w.ended
}

// watch returns conn with w listening to it.
func (w *wire) watch(conn net.Conn) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended != nil {
		_ = conn.Close() // nothing is expected of it
		return nil, w.ended
	}
	w.conn = conn
	limited := limitedConn{conn, time.Now().Add(w.cfg.queryTimeout())}
	if p, ok := conn.(net.PacketConn); ok {
		return &packetConn{limited, p, w, asked{}}, nil
	}
	return &streamConn{limitedConn: limited, w: w}, nil
}

// receive takes note of a message that may be the response to q.
func (w *wire) receive(msg []byte, q asked, stream bool) {
	a, ok := readAnswer(msg, q, stream)
	if !ok {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = a
}

// PanicError is the error of a lookup in which [Config.Dial] or [Config.Lookup] panicked.
type PanicError struct {
	// Func is the name of the function, such as "Dial".
	Func string
	// Value is what it panicked with, Stack the stack at that time.
	Value any
	Stack []byte
}

// Error implements error.
func (e *PanicError) Error() string {
	return fmt.Sprintf("resolve: panic in Config.%s: %v", e.Func, e.Value)
}

// recovered makes a panic an error. Defer it.
func recovered(name string, err *error) {
	if v := recover(); v != nil {
		*err = &PanicError{Func: name, Value: v, Stack: debug.Stack()}
	}
}

// limitedConn is a connection for one query, which has until limit if the resolver says no less.
type limitedConn struct {
	net.Conn
	limit time.Time
}

// SetDeadline implements net.Conn.
func (c limitedConn) SetDeadline(t time.Time) error {
	if c.limit.Before(t) {
		t = c.limit
	}
	return c.Conn.SetDeadline(t)
}

// packetConn listens to messages that are packets. The resolver knows by its being a
// net.PacketConn that they are.
type packetConn struct {
	limitedConn
	packets net.PacketConn
	w       *wire
	q       asked // read and written by the goroutine of the query
}

// ReadFrom implements net.PacketConn.
func (c *packetConn) ReadFrom(b []byte) (int, net.Addr, error) { return c.packets.ReadFrom(b) }

// WriteTo implements net.PacketConn.
func (c *packetConn) WriteTo(b []byte, to net.Addr) (int, error) { return c.packets.WriteTo(b, to) }

// Write implements net.Conn.
func (c *packetConn) Write(b []byte) (int, error) {
	c.q, _ = readQuery(b)
	return c.limitedConn.Write(b)
}

// Read implements net.Conn.
func (c *packetConn) Read(b []byte) (int, error) {
	n, err := c.limitedConn.Read(b)
	c.w.receive(b[:n], c.q, false)
	return n, err
}

// streamConn listens to messages each of which follows its length in two bytes.
type streamConn struct {
	limitedConn
	w       *wire
	out, in []byte // read and written by the goroutine of the query
}

// Write implements net.Conn.
func (c *streamConn) Write(b []byte) (int, error) {
	c.out = append(c.out, b...)
	return c.limitedConn.Write(b)
}

// Read implements net.Conn.
func (c *streamConn) Read(b []byte) (int, error) {
	n, err := c.limitedConn.Read(b)
	c.in = append(c.in, b[:n]...)
	if msg, ok := framed(c.in); ok {
		c.in = nil
		query, _ := framed(c.out)
		q, _ := readQuery(query)
		c.w.receive(msg, q, true)
	}
	return n, err
}

// framed returns the message after its length, or false if b has not all of it.
func framed(b []byte) ([]byte, bool) {
	if len(b) < 2 {
		return nil, false
	}
	n := 2 + int(binary.BigEndian.Uint16(b))
	if len(b) < n {
		return nil, false
	}
	return b[2:n], true
}
