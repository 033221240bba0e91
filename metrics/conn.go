package metrics

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// DialFunc makes a connection, as [net.Dialer.DialContext] does.
type DialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// conns holds the statistics of a cluster's connections.
type conns struct {
	total, connectFail, connectTimeout  *Counter
	destroyLocal, destroyRemote         *Counter
	localActive, remoteActive           *Counter // of destroyed ones, with a request under way
	protocolError                       *Counter
	http1, http2, received, transmitted *Counter
	active                              *Gauge
	connect, length                     *Histogram
}

// connections makes the rows of connections, when something dials: where nobody
// sees connections they are absent, not zero.
func (c *Cluster) connections() *conns {
	if found := c.dialed(); found != nil {
		return found
	}
	s := &conns{
		total:          c.Counter("upstream_cx_total"),
		connectFail:    c.Counter("upstream_cx_connect_fail"),
		connectTimeout: c.Counter("upstream_cx_connect_timeout"),
		destroyLocal:   c.Counter("upstream_cx_destroy_local"),
		destroyRemote:  c.Counter("upstream_cx_destroy_remote"),
		localActive:    c.Counter("upstream_cx_destroy_local_with_active_rq"),
		remoteActive:   c.Counter("upstream_cx_destroy_remote_with_active_rq"),
		protocolError:  c.Counter("upstream_cx_protocol_error"),
		http1:          c.Counter("upstream_cx_http1_total"),
		http2:          c.Counter("upstream_cx_http2_total"),
		received:       c.Counter("upstream_cx_rx_bytes_total"),
		transmitted:    c.Counter("upstream_cx_tx_bytes_total"),
		active:         c.Gauge("upstream_cx_active"),
		connect:        c.Histogram("upstream_cx_connect_ms"),
		length:         c.Histogram("upstream_cx_length_ms"),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.put("upstream_cx_destroy", row{num: total{s.destroyLocal, s.destroyRemote}})
	c.put("upstream_cx_destroy_with_active_rq", row{num: total{s.localActive, s.remoteActive}})
	c.conns = s
	return s
}

// dialed returns the statistics of connections, nil while nothing dials.
func (c *Cluster) dialed() *conns {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.conns
}

// version is the major version of HTTP that all connections speak, 0 where they differ, or
// where there is none yet.
func (s *conns) version() int {
	switch {
	case s == nil || s.http1.used() == s.http2.used():
		return 0
	case s.http1.used():
		return 1
	}
	return 2
}

// CountDial returns a function that dials as dial does, and counts the connections under
// upstream_cx_*: also their bytes and their end. Nil stands for [net.Dialer] with its
// defaults. It is for connections other than an [http.Transport]'s, for which there is
// [Cluster.CountTransport]. The connections have what those of dial have beyond net.Conn, such
// as CloseWrite, SyscallConn and ConnectionState; their NetConn returns the connection below.
func (c *Cluster) CountDial(dial DialFunc) DialFunc {
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	s := c.connections()
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		return s.dial(ctx, dial, network, address)
	}
}

// dial makes a connection, and counts it.
func (s *conns) dial(ctx context.Context, dial DialFunc, network, address string) (_ net.Conn, err error) {
	began := time.Now()
	s.total.Inc()
	s.active.Add(1)
	err = errDial // unless dial returns
	defer func() {
		if err != nil {
			s.failed(began, err)
		}
	}()
	inner, failure := dial(ctx, network, address)
	if failure == nil && inner == nil {
		failure = errDial
	}
	if err = failure; err != nil {
		return nil, err
	}
	s.connect.Record(milliseconds(time.Since(began)))
	return (&conn{Conn: inner, stats: s, began: began}).shaped(), nil
}

// errDial is the error of a dialer that breaks its contract.
var errDial = errors.New("metrics: the dialer returned neither a connection nor an error")

// failed counts a connection that was not made. As in Envoy it existed, for a
// while.
func (s *conns) failed(began time.Time, err error) {
	s.connectFail.Inc()
	var timeout interface{ Timeout() bool }
	if errors.Is(err, context.Canceled) || errors.Is(err, os.ErrDeadlineExceeded) ||
		(errors.As(err, &timeout) && timeout.Timeout()) {
		if !errors.Is(err, context.Canceled) {
			s.connectTimeout.Inc()
		}
		s.end(began, s.destroyLocal)
		return
	}
	s.end(began, s.destroyRemote)
}

// end counts the end of a connection.
func (s *conns) end(began time.Time, by *Counter) {
	by.Inc()
	s.active.Add(-1)
	s.length.Record(milliseconds(time.Since(began)))
}

// cut counts a connection that ended with a request under way.
func (s *conns) cut(byUpstream, malformed bool) {
	if malformed {
		s.protocolError.Inc()
	}
	if byUpstream {
		s.remoteActive.Inc()
	} else {
		s.localActive.Inc()
	}
}

func milliseconds(d time.Duration) uint64 { return uint64(max(0, d.Milliseconds())) }

// conn is a connection that counts.
type conn struct {
	net.Conn

	stats    *conns
	began    time.Time
	remote   atomic.Bool // the other side ended it
	written  atomic.Bool
	finished sync.Once
}

// Read reads, and notices when the other side has ended the connection.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.stats.received.Add(uint64(n)) //nolint:gosec // not negative
	c.notice(err)
	return n, err
}

// Write writes, and finds out at the first bytes which protocol is spoken.
func (c *conn) Write(p []byte) (int, error) {
	if !c.written.Load() && len(p) != 0 && c.written.CompareAndSwap(false, true) {
		c.stats.speak(p)
	}
	n, err := c.Conn.Write(p)
	c.stats.transmitted.Add(uint64(n)) //nolint:gosec // not negative
	c.notice(err)
	return n, err
}

// ReadFrom sends what r has, without a buffer where the connection can.
func (c *conn) ReadFrom(r io.Reader) (int64, error) {
	if !c.written.Load() { // the first bytes are not seen, and so no protocol
		c.written.Store(true)
	}
	n, err := io.Copy(c.Conn, r)
	c.stats.transmitted.Add(uint64(n)) //nolint:gosec // not negative
	return n, err
}

// notice tells an end by the other side from a deadline or an end of our own.
func (c *conn) notice(err error) {
	if err == nil || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, io.ErrClosedPipe) {
		return
	}
	c.remote.Store(true)
}

// Close closes the connection, and counts its end once.
func (c *conn) Close() error {
	defer c.finished.Do(c.end)
	return c.Conn.Close()
}

// end counts the end of the connection.
func (c *conn) end() {
	by := c.stats.destroyLocal
	if c.remote.Load() {
		by = c.stats.destroyRemote
	}
	c.stats.end(c.began, by)
}

// speak counts the protocol of a connection by its first bytes. Of TLS its
// handshake tells, and what is said to a proxy is no protocol of the cluster's.
func (s *conns) speak(first []byte) {
	switch {
	case first[0] == 0x16 || bytes.HasPrefix(first, []byte("CONNECT ")):
	case bytes.HasPrefix(first, []byte("PRI * HTTP/2.0")):
		s.http2.Inc()
	default:
		s.http1.Inc()
	}
}

// shaken counts the protocol of a connection by its TLS handshake.
func (s *conns) shaken(state tls.ConnectionState) {
	if state.NegotiatedProtocol == "h2" {
		s.http2.Inc()
		return
	}
	s.http1.Inc()
}

// CountTransport gives a clone of base whose connections are counted under
// upstream_cx_*. Nil stands for [http.DefaultTransport]. The clone belongs to this
// cluster: give it to no other.
//
//	recipes.Transport(metrics.Default().Cluster("recipes").CountTransport(nil))
//
// A base that makes its TLS connections itself, with DialTLSContext, has those
// uncounted.
func (c *Cluster) CountTransport(base *http.Transport) *http.Transport {
	if base == nil {
		own, ok := http.DefaultTransport.(*http.Transport)
		if !ok { // a program has put something else in its place
			own = &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true}
		}
		base = own
	}
	t := base.Clone()
	if _, ok := base.TLSNextProto["h2"]; ok { // Clone had base make up its mind
		t.ForceAttemptHTTP2 = true // which net/http no longer does by itself beside a dialer
	}
	t.DialContext = c.CountDial(dialerOf(t))
	t.Dial = nil //nolint:staticcheck // it is in DialContext now
	c.watchTLS(t)
	c.neverHappens(t)
	return t
}

// neverHappens makes the rows of what a transport of net/http does not do to its
// connections, so that they are 0 as in an Envoy that is not configured to. A limit on their
// number would be waited for unseen.
func (c *Cluster) neverHappens(t *http.Transport) {
	for _, name := range neverConnections {
		c.Counter(name)
	}
	c.Counter("upstream_cx_none_healthy") // until a policy reports it
	if t.MaxConnsPerHost == 0 {
		c.Counter("upstream_cx_overflow")
	}
}

//nolint:gochecknoglobals // a table that nothing writes
var neverConnections = [...]string{
	"upstream_cx_connect_attempts_exceeded", "upstream_cx_connect_with_0_rtt", "upstream_cx_http3_total",
	"upstream_cx_max_duration_reached", "upstream_cx_max_requests", "upstream_cx_pool_overflow",
}

// neverPooled makes the rows of what a carrier of the upstream does not do.
func (c *Cluster) neverPooled() {
	for _, name := range neverPooled {
		c.Counter(name)
	}
}

//nolint:gochecknoglobals // a table that nothing writes
var neverPooled = [...]string{
	"upstream_cx_connect_attempts_exceeded", "upstream_cx_connect_with_0_rtt", "upstream_cx_http3_total",
	"upstream_cx_none_healthy", "upstream_cx_pool_overflow",
}

// dialerOf gives what t would dial with.
func dialerOf(t *http.Transport) DialFunc {
	if t.DialContext != nil {
		return t.DialContext
	}
	if old := t.Dial; old != nil { //nolint:staticcheck // it may be set
		return func(_ context.Context, network, address string) (net.Conn, error) { return old(network, address) }
	}
	return (&net.Dialer{}).DialContext
}

// watchTLS has each handshake of t's tell its protocol.
func (c *Cluster) watchTLS(t *http.Transport) {
	s := c.connections()
	cfg := t.TLSClientConfig
	if cfg == nil {
		cfg = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	verify := cfg.VerifyConnection
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		s.shaken(state)
		if verify != nil {
			return verify(state)
		}
		return nil
	}
	t.TLSClientConfig = cfg // Clone made it ours
}
