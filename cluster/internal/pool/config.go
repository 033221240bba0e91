package pool

import (
	"math"
	"math/rand/v2"
	"time"
)

// The defaults of [Config], as in Envoy.
const (
	DefaultConnectTimeout       = 5 * time.Second
	DefaultIdleTimeout          = time.Hour
	DefaultMaxConcurrentStreams = 1024
)

// Never is a timeout that never fires.
const Never time.Duration = -1

// unlimitedStreams means no limit of requests per connection, as in Envoy.
const unlimitedStreams = 1 << 29

// Config configures a [Pool].
type Config struct {
	// Template makes the connections. The pools of a cluster share one per protocol.
	// If nil, it is NewTemplate(nil, HTTP1).
	Template *Template

	// Scheme is "http" or "https". If empty, it is "http".
	Scheme string

	// Address is the address of the endpoint, as host:port.
	Address string

	// ConnectTimeout limits the time to make a connection, including the TLS handshake. Zero
	// means 5s; a negative value means no limit. Mirrors Cluster.connect_timeout.
	ConnectTimeout time.Duration

	// IdleTimeout is the time after which a connection without requests is closed. Zero
	// means 1h; a negative value, such as [Never], means no limit. Mirrors
	// HttpProtocolOptions.idle_timeout.
	IdleTimeout time.Duration

	// MaxConnectionDuration is the maximum age of a connection. An older connection takes no
	// more requests, and is closed when its last request ends. Zero or a negative value means
	// no limit. Mirrors HttpProtocolOptions.max_connection_duration.
	MaxConnectionDuration time.Duration

	// DurationJitter extends MaxConnectionDuration by a random share of it, in
	// [0, DurationJitter), for each connection, so that connections that were made together
	// do not end together. Zero means none. In Envoy only downstream connections have it.
	DurationJitter float64

	// MaxRequestsPerConnection is the maximum number of requests of a connection; it is closed
	// after the last one. Zero or a negative value means no limit. Mirrors
	// HttpProtocolOptions.max_requests_per_connection.
	MaxRequestsPerConnection int

	// MaxConcurrentStreams is the maximum number of concurrent requests on an HTTP/2
	// connection. The server can set a lower limit. Zero or a negative value means 1024. An
	// HTTP/1 connection serves one request at a time. Mirrors
	// Http2ProtocolOptions.max_concurrent_streams.
	MaxConcurrentStreams int

	// KeepDials continues a dial for which no request waits, as in Envoy's router; the
	// connection becomes idle. If false, such a dial is canceled.
	KeepDials bool

	// Slots lends slots for connections and requests. If nil, there are no limits.
	Slots Slots

	// Observer counts events. If nil, no event is counted.
	Observer Observer

	// Rand returns a random number in [0, 1) for DurationJitter. If nil, it is
	// math/rand/v2.Float64.
	Rand func() float64

	// Panicked is called with the value of a panic in a dial function, in the dial's
	// goroutine. The dial fails, whether Panicked is nil or not.
	Panicked func(value any)

	// HandshakeFailed is called with the error of a TLS handshake, in the dial's goroutine. It may
	// be nil.
	HandshakeFailed func(err error)
}

// withDefaults returns c with the zero values replaced.
func (c Config) withDefaults() Config {
	if c.Template == nil {
		c.Template = NewTemplate(nil, HTTP1)
	}
	if c.Scheme == "" {
		c.Scheme = "http"
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = DefaultConnectTimeout
	}
	if c.IdleTimeout == 0 {
		c.IdleTimeout = DefaultIdleTimeout
	}
	if c.MaxRequestsPerConnection <= 0 {
		c.MaxRequestsPerConnection = unlimitedStreams
	}
	if c.Template.single {
		c.MaxRequestsPerConnection = 1
	}
	if c.MaxConcurrentStreams <= 0 {
		c.MaxConcurrentStreams = DefaultMaxConcurrentStreams
	}
	if c.Slots == nil {
		c.Slots = unlimited{}
	}
	if c.Observer == nil {
		c.Observer = noObserver{}
	}
	if c.Rand == nil {
		c.Rand = rand.Float64
	}
	return c
}

// maxDuration returns the age limit of one connection.
func (c *Config) maxDuration() time.Duration {
	return Lengthened(c.MaxConnectionDuration, c.Rand()*c.DurationJitter)
}

// Lengthened returns d, which is positive, and a share of it in addition. A sum that exceeds any
// duration is the longest one.
func Lengthened(d time.Duration, share float64) time.Duration {
	more := share * float64(d)
	if more >= float64(math.MaxInt64-d) {
		return math.MaxInt64
	}
	return d + time.Duration(more)
}

// protocolOf returns the protocol of a connection that negotiated alpn, which is empty
// without TLS.
func (c *Config) protocolOf(alpn string) Protocol {
	switch {
	case alpn == "h2", c.Scheme == "http" && c.Template.protocol == HTTP2:
		return HTTP2
	default:
		return HTTP1
	}
}
