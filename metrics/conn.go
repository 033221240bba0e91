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

// DialFunc dials a connection, as [net.Dialer.DialContext] does.
type DialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// conns holds the statistics of a cluster's connections.
type conns struct {
	total, connectFail, connectTimeout  *Counter
	destroyLocal, destroyRemote         *Counter
	localActive, remoteActive           *Counter // destroyed with an active request
	protocolError                       *Counter
	http1, http2, received, transmitted *Counter
	active                              *Gauge
	connect, length                     *Histogram
}

// connections returns the statistics of connections, and makes their rows at the first call. If
// the library cannot see connections, the rows are absent, not zero.
func (c *ClusterStats) connections() *conns {
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

// dialed returns the statistics of connections, or nil if connections was not called.
func (c *ClusterStats) dialed() *conns {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.conns
}

// version returns the major version of HTTP of all connections, 0 if they differ or there is none
// yet.
func (s *conns) version() int {
	switch {
	case s == nil || s.http1.used() == s.http2.used():
		return 0
	case s.http1.used():
		return 1
	}
	return 2
}

// InstrumentDial returns a function that dials with dial and counts the connections, their bytes and
// their ends under upstream_cx_*. Nil means a zero [net.Dialer]. For an [http.Transport] use
// [ClusterStats.InstrumentTransport]. The connections have the methods of those of dial beyond net.Conn, such
// as CloseWrite, SyscallConn and ConnectionState. Their NetConn returns the underlying connection.
func (c *ClusterStats) InstrumentDial(dial DialFunc) DialFunc {
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	s := c.connections()
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		return s.dial(ctx, dial, network, address)
	}
}

// dial dials a connection and counts it.
func (s *conns) dial(ctx context.Context, dial DialFunc, network, address string) (_ net.Conn, err error) {
	began := time.Now()
	s.total.Inc()
	s.active.Add(1)
	err = errDial // in case dial panics
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

// failed counts a connection that was not established. As in Envoy it also counts as a connection
// that has ended.
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

// cut counts a connection that ended with an active request.
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

// conn is a counted connection.
type conn struct {
	net.Conn

	stats    *conns
	began    time.Time
	remote   atomic.Bool // the peer ended it
	written  atomic.Bool
	finished sync.Once
}

// Read reads, and records whether the peer has ended the connection.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.stats.received.Add(uint64(n)) //nolint:gosec // not negative
	c.notice(err)
	return n, err
}

// Write writes, and detects the protocol from the first bytes.
func (c *conn) Write(p []byte) (int, error) {
	if !c.written.Load() && len(p) != 0 && c.written.CompareAndSwap(false, true) {
		c.stats.speak(p)
	}
	n, err := c.Conn.Write(p)
	c.stats.transmitted.Add(uint64(n)) //nolint:gosec // not negative
	c.notice(err)
	return n, err
}

// ReadFrom sends the data of r, without a buffer if the connection supports that.
func (c *conn) ReadFrom(r io.Reader) (int64, error) {
	if !c.written.Load() { // without the first bytes the protocol stays unknown
		c.written.Store(true)
	}
	n, err := io.Copy(c.Conn, r)
	c.stats.transmitted.Add(uint64(n)) //nolint:gosec // not negative
	return n, err
}

// notice records an end by the peer, unlike a deadline or a local Close.
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

// speak counts the protocol of a connection by its first bytes. It ignores TLS, whose protocol the
// handshake determines, and a CONNECT to a proxy, which is not the cluster's protocol.
func (s *conns) speak(first []byte) {
	switch {
	case first[0] == 0x16 || bytes.HasPrefix(first, []byte("CONNECT ")):
	case bytes.HasPrefix(first, []byte("PRI * HTTP/2.0")):
		s.http2.Inc()
	default:
		s.http1.Inc()
	}
}

// countTLS counts the protocol of a connection by its TLS handshake.
func (s *conns) countTLS(state tls.ConnectionState) {
	if state.NegotiatedProtocol == "h2" {
		s.http2.Inc()
		return
	}
	s.http1.Inc()
}

// InstrumentTransport returns a clone of base whose connections are counted under upstream_cx_*. Nil
// means [http.DefaultTransport]. Do not use the clone for another cluster.
//
//	recipes.Transport(metrics.Default().Cluster("recipes").InstrumentTransport(nil))
//
// TLS connections that base makes with DialTLSContext are not counted.
func (c *ClusterStats) InstrumentTransport(base *http.Transport) *http.Transport {
	if base == nil {
		own, ok := http.DefaultTransport.(*http.Transport)
		if !ok { // the program has replaced it
			own = &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true}
		}
		base = own
	}
	t := base.Clone()
	if _, ok := base.TLSNextProto["h2"]; ok { // Clone has configured HTTP/2 in base
		t.ForceAttemptHTTP2 = true // with a DialContext net/http no longer enables HTTP/2 itself
	}
	t.DialContext = c.InstrumentDial(dialerOf(t))
	t.Dial = nil //nolint:staticcheck // DialContext replaces it
	c.watchTLS(t)
	c.neverHappens(t)
	return t
}

// neverHappens makes the rows of things that a transport of net/http never does to its
// connections. They are 0, as in an Envoy that is not configured to do them. upstream_cx_overflow
// is absent if MaxConnsPerHost is set: requests then wait for a connection unseen.
func (c *ClusterStats) neverHappens(t *http.Transport) {
	for _, name := range neverConnections {
		c.Counter(name)
	}
	c.Counter("upstream_cx_none_healthy") // 0 unless a policy counts it
	if t.MaxConnsPerHost == 0 {
		c.Counter("upstream_cx_overflow")
	}
}

//nolint:gochecknoglobals // read-only table
var neverConnections = [...]string{
	"upstream_cx_connect_attempts_exceeded", "upstream_cx_connect_with_0_rtt", "upstream_cx_http3_total",
	"upstream_cx_max_duration_reached", "upstream_cx_max_requests", "upstream_cx_pool_overflow",
	"upstream_cx_preconnect_skipped", "upstream_http3_broken", "upstream_rq_0rtt",
}

// neverPooled makes the statistics of events that never happen to a carrier's connections.
func (c *ClusterStats) neverPooled() {
	for _, name := range neverPooled {
		c.Counter(name)
	}
	for _, name := range []string{"lb_subsets_active", "version", "warming_state"} {
		c.Gauge(name)
	}
}

//nolint:gochecknoglobals // a read-only table
var neverPooled = [...]string{
	"upstream_cx_connect_attempts_exceeded", "upstream_cx_connect_with_0_rtt", "upstream_cx_http3_total",
	"upstream_cx_none_healthy", "upstream_cx_pool_overflow", "upstream_cx_preconnect_skipped",
	"upstream_http3_broken", "upstream_rq_0rtt",
	"update_attempt", "update_empty", "update_failure", "update_no_rebuild", "update_success",
	"assignment_stale", "assignment_timeout_received", "assignment_use_cached", "original_dst_host_invalid",
	"lb_subsets_created", "lb_subsets_fallback", "lb_subsets_fallback_panic", "lb_subsets_removed", "lb_subsets_selected",
}

// dialerOf returns the function with which t would dial.
func dialerOf(t *http.Transport) DialFunc {
	if t.DialContext != nil {
		return t.DialContext
	}
	if old := t.Dial; old != nil { //nolint:staticcheck // a program may set it
		return func(_ context.Context, network, address string) (net.Conn, error) { return old(network, address) }
	}
	return (&net.Dialer{}).DialContext
}

// watchTLS counts the protocol of each TLS handshake of t.
func (c *ClusterStats) watchTLS(t *http.Transport) {
	s := c.connections()
	cfg := t.TLSClientConfig
	if cfg == nil {
		cfg = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	verify := cfg.VerifyConnection
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		s.countTLS(state)
		if verify != nil {
			return verify(state)
		}
		return nil
	}
	t.TLSClientConfig = cfg // t is a clone, so that cfg is not shared
}
