package pool

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"slices"
)

// A Protocol is what a pool's connections speak.
type Protocol uint8

// The protocols.
const (
	// HTTP1 is HTTP/1.1, with or without TLS.
	HTTP1 Protocol = iota
	// HTTP2 is HTTP/2: over TLS, or with prior knowledge (h2c) without. A server that
	// does not choose it in the TLS handshake fails the connect.
	HTTP2
	// Auto lets the server choose in the TLS handshake (ALPN). Without TLS it is HTTP1.
	Auto
)

// String returns the protocol's name.
func (p Protocol) String() string {
	switch p {
	case HTTP1:
		return "HTTP/1.1"
	case HTTP2:
		return "HTTP/2"
	case Auto:
		return "auto"
	default:
		return "unknown"
	}
}

// A Template makes connections as an [http.Transport] is configured to: its dialer, TLS,
// proxy, buffers, limits of headers, compression and HTTP/2 settings. It is safe for
// concurrent use.
type Template struct {
	transport *http.Transport
	protocol  Protocol
	single    bool // each connection serves one request
}

// NewTemplate returns a template for connections that speak protocol. It copies base and
// does not change it; base may be in use. If base is nil, [http.DefaultTransport] is
// copied.
//
// The copy differs from base as follows. It speaks the given protocol, whatever base speaks.
// MaxConnsPerHost, MaxIdleConns, MaxIdleConnsPerHost, IdleConnTimeout and
// TLSHandshakeTimeout are zero: the pool has limits and timeouts of its own, and net/http
// would panic at the end of a connection that it counts. DisableKeepAlives makes each
// connection serve one request. TLSNextProto and registered protocols are dropped.
//
// The server's name in TLS is TLSClientConfig.ServerName, or else the host of the address.
func NewTemplate(base *http.Transport, protocol Protocol) *Template {
	if base == nil {
		base = defaultTransport()
	}
	t := base.Clone()
	t.TLSNextProto = nil // what a used transport left there is bound to its own connections
	t.MaxConnsPerHost, t.MaxIdleConns, t.MaxIdleConnsPerHost = 0, 0, 0
	t.IdleConnTimeout, t.TLSHandshakeTimeout = 0, 0
	t.Protocols, t.ForceAttemptHTTP2 = protocol.set(), false
	t.TLSClientConfig = protocol.offer(t.TLSClientConfig)
	watchDials(t)
	return &Template{transport: t, protocol: protocol, single: t.DisableKeepAlives}
}

// Transport returns the template's transport, for what is to be read from it. It must not
// be changed.
func (t *Template) Transport() *http.Transport { return t.transport }

func defaultTransport() *http.Transport {
	if t, ok := http.DefaultTransport.(*http.Transport); ok {
		return t
	}
	return &http.Transport{Proxy: http.ProxyFromEnvironment}
}

// set returns the protocols of a transport that speaks p alone.
func (p Protocol) set() *http.Protocols {
	var s http.Protocols
	s.SetHTTP1(p != HTTP2)
	s.SetHTTP2(p != HTTP1)
	s.SetUnencryptedHTTP2(p == HTTP2)
	return &s
}

// offer returns a configuration that offers p in the TLS handshake. A transport that was
// used has left "h2" in its configuration; net/http adds it again where it belongs.
func (p Protocol) offer(config *tls.Config) *tls.Config {
	if config == nil {
		config = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	config.NextProtos = slices.DeleteFunc(slices.Clone(config.NextProtos), func(name string) bool {
		return name == "h2" || name == "http/1.1"
	})
	if p == HTTP1 {
		config.NextProtos = append(config.NextProtos, "http/1.1")
	}
	return config
}

// dialKey finds the connection that a dial is for in the dial's context.
type dialKey struct{}

// watchDials makes t report each network connection to the conn that it was dialed for.
func watchDials(t *http.Transport) {
	dial := t.DialContext
	switch {
	case dial != nil:
	case t.Dial != nil: //nolint:staticcheck // users still set it
		old := t.Dial //nolint:staticcheck // users still set it
		dial = func(_ context.Context, network, address string) (net.Conn, error) { return old(network, address) }
	default:
		dial = new(net.Dialer).DialContext
	}
	t.Dial = nil //nolint:staticcheck // DialContext calls it
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		nc, err := dial(ctx, network, address)
		if c, ok := ctx.Value(dialKey{}).(*conn); ok && err == nil && nc != nil {
			return c.wire.wrap(nc), nil
		}
		return nc, err
	}
	watchTLSDials(t)
}

// watchTLSDials does the same for a dial function that does its own TLS. Its connections
// are not wrapped, since net/http must see a *tls.Conn.
func watchTLSDials(t *http.Transport) {
	dial := t.DialTLSContext
	if dial == nil && t.DialTLS != nil { //nolint:staticcheck // users still set it
		old := t.DialTLS //nolint:staticcheck // users still set it
		dial = func(_ context.Context, network, address string) (net.Conn, error) { return old(network, address) }
	}
	if dial == nil {
		return
	}
	t.DialTLS = nil //nolint:staticcheck // DialTLSContext calls it
	t.DialTLSContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		nc, err := dial(ctx, network, address)
		if c, ok := ctx.Value(dialKey{}).(*conn); ok && err == nil {
			c.wire.raw = nc
		}
		return nc, err
	}
}
