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

// wire connects Go's resolver to the DNS servers during the lookup of a name in one family. It
// chooses the server and reads the TTLs of the responses. The resolver sends one query at a time and
// closes its connection before the next one.
type wire struct {
	cfg *Config

	mu    sync.Mutex
	ended error    // the reason why the lookup was ended; guarded by mu
	conn  net.Conn // the connection in use or the last one; guarded by mu
	// server is the index of the server in use, tried the number of servers that were tried.
	server, tried int    // guarded by mu
	udp           bool   // the last query was over UDP; guarded by mu
	last          answer // to the last query; guarded by mu
}

// end makes the lookup fail with err, which must not be nil. Only the first call has an effect.
func (w *wire) end(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = cmp.Or(w.ended, err)
	if w.conn != nil {
		_ = w.conn.Close() // its result is not needed
	}
}

// next returns the server for a query over network; it replaces address. A server is used as long
// as it responds. TCP after UDP means that the response of the same server was truncated.
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

// errTried ends a lookup after all servers have failed.
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

// connect calls the Dial of the configuration. It returns a panic as an error.
func (c *Config) connect(ctx context.Context, network, address string) (conn net.Conn, err error) {
	dial := c.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	defer recovered("Dial", &err)
	return dial(ctx, network, address)
}

// more reports whether there are servers that have not failed.
func (w *wire) more() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ended == nil && w.tried < len(w.cfg.Servers)
}

// outcome returns the index of the server that responded last, the records of the last response, and
// the reason why the lookup was ended, if any.
func (w *wire) outcome() (server int, records []Record, ended error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.server, w.last.records, w.ended
}

// watch returns a connection that passes responses to w.
func (w *wire) watch(conn net.Conn) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended != nil {
		_ = conn.Close() // not needed
		return nil, w.ended
	}
	w.conn = conn
	limited := limitedConn{conn, time.Now().Add(w.cfg.queryTimeout())}
	if p, ok := conn.(net.PacketConn); ok {
		return &packetConn{limited, p, w, asked{}}, nil
	}
	return &streamConn{limitedConn: limited, w: w}, nil
}

// receive handles a message that may be the response to q.
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
	// Value is the value of the panic, and Stack is the stack of its goroutine.
	Value any
	Stack []byte
}

// Error implements error.
func (e *PanicError) Error() string {
	return fmt.Sprintf("resolve: panic in Config.%s: %v", e.Func, e.Value)
}

// recovered converts a panic to an error. It must be deferred.
func recovered(name string, err *error) {
	if v := recover(); v != nil {
		*err = &PanicError{Func: name, Value: v, Stack: debug.Stack()}
	}
}

// limitedConn is a connection for one query. Its deadline is limit, or that of the resolver if it is
// earlier.
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

// packetConn passes messages that are packets. It implements net.PacketConn, so that the resolver
// sends packets.
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

// streamConn passes messages that follow their length in two bytes.
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

// framed returns the message after its length. It returns false if b does not contain all of it.
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
