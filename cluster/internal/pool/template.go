package pool

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"slices"
)

// A Protocol is the protocol of a pool's connections.
type Protocol uint8

// The protocols.
const (
	// HTTP1 is HTTP/1.1, with or without TLS.
	HTTP1 Protocol = iota
	// HTTP2 is HTTP/2: over TLS, or with prior knowledge (h2c) without TLS. The connect fails
	// if the server does not select HTTP/2 in the TLS handshake.
	HTTP2
	// Auto uses the protocol that the server selects in the TLS handshake (ALPN). Without TLS
	// it is HTTP1.
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

// A Template makes connections with the settings of an [http.Transport]: its dialer, TLS, proxy,
// buffer sizes, header limits, compression and HTTP/2 settings. It is safe for concurrent use.
type Template struct {
	transport *http.Transport
	protocol  Protocol
	single    bool // each connection serves one request
}

// NewTemplate returns a template for connections of a protocol. It copies base and does not
// change it; base can be in use. If base is nil, [http.DefaultTransport] is copied.
//
// The copy differs from base as follows. It uses the given protocol. MaxConnsPerHost,
// MaxIdleConns, MaxIdleConnsPerHost, IdleConnTimeout and TLSHandshakeTimeout are zero: the pool
// has its own limits and timeouts, and net/http would panic at the end of a connection that it
// counts. With DisableKeepAlives each connection serves one request. TLSNextProto and registered
// protocols are removed.
//
// The server name in TLS is TLSClientConfig.ServerName, or else the host of the address.
func NewTemplate(base *http.Transport, protocol Protocol) *Template {
	if base == nil {
		base = defaultTransport()
	}
	t := base.Clone()
	t.TLSNextProto = nil // the values of a used transport belong to its own connections
	t.MaxConnsPerHost, t.MaxIdleConns, t.MaxIdleConnsPerHost = 0, 0, 0
	t.IdleConnTimeout, t.TLSHandshakeTimeout = 0, 0
	t.Protocols, t.ForceAttemptHTTP2 = protocol.set(), false
	t.TLSClientConfig = protocol.offer(t.TLSClientConfig)
	watchDials(t)
	return &Template{transport: t, protocol: protocol, single: t.DisableKeepAlives}
}

// Transport returns the transport of the template. It must not be changed.
func (t *Template) Transport() *http.Transport { return t.transport }

func defaultTransport() *http.Transport {
	if t, ok := http.DefaultTransport.(*http.Transport); ok {
		return t
	}
	return &http.Transport{Proxy: http.ProxyFromEnvironment}
}

// set returns the protocols of a transport that uses only p.
func (p Protocol) set() *http.Protocols {
	var s http.Protocols
	s.SetHTTP1(p != HTTP2)
	s.SetHTTP2(p != HTTP1)
	s.SetUnencryptedHTTP2(p == HTTP2)
	return &s
}

// offer returns a configuration that offers p in the TLS handshake. A used transport has "h2" in
// its configuration; net/http adds it again if needed.
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

// dialKey is the context key of the conn of a dial.
type dialKey struct{}

// watchDials makes t report each network connection to the conn for which it was dialed.
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

// watchTLSDials is watchDials for a dial function that does its own TLS. Its connections are not
// wrapped, since net/http needs a *tls.Conn.
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
