package resolve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"
)

// Family says which addresses of a name are used. It mirrors Envoy's dns_lookup_family.
type Family int

const (
	// Auto asks for IPv6 addresses, and for IPv4 addresses only if that yields none. It is
	// the default, as in Envoy.
	Auto Family = iota
	// V4Only asks for IPv4 addresses.
	V4Only
	// V6Only asks for IPv6 addresses.
	V6Only
	// V4Preferred asks for IPv4 addresses, and for IPv6 addresses only if that yields none.
	V4Preferred
	// All asks for both concurrently and uses all, the IPv4 addresses first.
	All
)

// The defaults of the zero values of Config.
const (
	DefaultRefreshRate = 5 * time.Second
	DefaultTimeout     = 20 * time.Second
)

// patience is the longest time that a DNS server has to respond, as in Envoy.
const patience = 5 * time.Second

// shortest is the shortest time that may be set between two lookups of a name.
const shortest = time.Millisecond

// Target is a name with the port of its hosts.
type Target struct {
	// Name is a domain name or an IP address. An address stands for itself, in every
	// lookup family, and is never looked up.
	Name string
	Port uint16
}

// Config describes a [Resolver].
type Config struct {
	// Targets are the names to look up. Several may have the same name. With Logical there
	// is exactly one.
	Targets []Target

	// Logical makes the target one host with the first address of the response, as Envoy's
	// LOGICAL_DNS. False makes each address a host, as STRICT_DNS.
	Logical bool

	// Family says which addresses are used. Zero is Auto.
	Family Family

	// RefreshRate is the time from the end of a successful lookup to the next. Zero means
	// DefaultRefreshRate; less than 1ms is an error. Mirrors dns_refresh_rate.
	RefreshRate time.Duration

	// RespectTTL uses the TTL of the response instead of RefreshRate, if it is not zero. It
	// needs Go's own resolver, which on some systems reads less of the system's
	// configuration than the system's resolver: see package net. Mirrors respect_dns_ttl.
	RespectTTL bool

	// MinRefreshRate is the least time between lookups that a TTL can ask for. Zero means
	// no such bound. Mirrors dns_min_refresh_rate.
	MinRefreshRate time.Duration

	// Jitter is the bound of a random time that is added after a successful lookup. Zero
	// adds none. Mirrors dns_jitter.
	Jitter time.Duration

	// FailureBase is the bound of the random time from a first failed lookup to the next.
	// The bound doubles with each further failure up to FailureMax. Zero means that
	// RefreshRate is the time after a failure, without randomness.
	// Mirrors dns_failure_refresh_rate.base_interval.
	FailureBase time.Duration

	// FailureMax is the largest bound. Zero means 10 times FailureBase; less than FailureBase
	// is an error. Mirrors dns_failure_refresh_rate.max_interval.
	FailureMax time.Duration

	// Timeout is the limit of a lookup in one family, after which it has failed. Zero means
	// DefaultTimeout. A server has 5s to respond, or what the system's configuration says if
	// that is less; and so much less that two queries, and one to each of Servers, fit into
	// Timeout.
	Timeout time.Duration

	// Servers are DNS servers to use instead of the system's: IP addresses, with a port or
	// without one (53). A server is used until it fails, then the next one. The system's search
	// domains, its files and its order of both still apply. Mirrors the resolvers of Envoy's
	// DNS resolver configuration.
	Servers []string

	// UseTCP sends queries over TCP only. It implies Go's own resolver, as Servers does.
	// Mirrors use_tcp_for_dns_lookups.
	UseTCP bool

	// NoSearch looks names up as they are, without the search domains of the system.
	// Mirrors no_default_search_domain.
	NoSearch bool

	// Dial connects to a DNS server. It implies Go's own resolver. Nil means a [net.Dialer].
	// A connection for network "udp" must be a [net.PacketConn]; one that is not is used as
	// a stream. A panic in it is a failure of the lookup, see [PanicError].
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Lookup looks a name up, instead of DNS. Network is "ip4" or "ip6". An error that is a
	// [net.DNSError] with IsNotFound, as well as no record and no error, means that there are
	// no addresses; any other error is a failure. The context ends at Timeout and at Close.
	// A panic in it is a failure of the lookup, see [PanicError]. With Lookup, Servers,
	// UseTCP, NoSearch and Dial must be unset.
	Lookup func(ctx context.Context, network, name string) ([]Record, error)

	// Rand returns random numbers, for tests. Calls do not overlap. Nil means [rand.Uint64].
	Rand func() uint64

	// OnUpdate is called with all hosts, those of the first target first, when those of a
	// target have changed. Calls do not overlap. The slice belongs to the callee, what it
	// points to is shared. OnUpdate must not call Close, and a panic in it is not recovered.
	// Nil is allowed.
	OnUpdate func(hosts []Host)

	// OnFailure is called after a lookup that failed, with an error that names the target.
	// Calls for different targets may overlap. OnFailure must not call Close, and a panic in it
	// is not recovered. Nil is allowed.
	OnFailure func(t Target, err error)
}

// Record is an address of a name.
type Record struct {
	Addr netip.Addr
	// TTL says how long the record may be used. Zero means that it is not known or must not be
	// kept; either way RefreshRate applies.
	TTL time.Duration
}

// normal returns c with defaults and copies, or all that is wrong with it.
func (c Config) normal() (Config, error) {
	if err := c.check(); err != nil {
		return Config{}, err
	}
	c.RefreshRate = cmp.Or(c.RefreshRate, DefaultRefreshRate)
	c.Timeout = cmp.Or(c.Timeout, DefaultTimeout)
	c.FailureMax = cmp.Or(c.FailureMax, 10*c.FailureBase)
	c.Targets = slices.Clone(c.Targets)
	c.Servers = withPorts(c.Servers)
	if c.Rand == nil {
		c.Rand = rand.Uint64
	}
	return c, nil
}

func (c *Config) check() error {
	return errors.Join(c.checkTargets(), c.checkTimes(), c.checkServers(), c.checkLookup())
}

func (c *Config) checkTargets() error {
	var errs []error
	if c.Logical && len(c.Targets) != 1 {
		errs = append(errs, bad("Targets", len(c.Targets), "Logical needs exactly one name"))
	}
	for i, t := range c.Targets {
		if t.Name == "" {
			errs = append(errs, bad(fmt.Sprintf("Targets[%d].Name", i), `""`, "use a domain name or an IP address"))
		}
		if _, _, err := net.SplitHostPort(t.Name); err == nil {
			errs = append(errs, bad(fmt.Sprintf("Targets[%d].Name", i), t.Name, "put the port into Port"))
		}
	}
	if c.Family < Auto || c.Family > All {
		errs = append(errs, bad("Family", int(c.Family), "use one of the constants"))
	}
	return errors.Join(errs...)
}

func (c *Config) checkTimes() error {
	var errs []error
	for _, d := range []struct {
		field string
		value time.Duration
		least time.Duration
	}{
		{"RefreshRate", c.RefreshRate, shortest},
		{"MinRefreshRate", c.MinRefreshRate, 0},
		{"Jitter", c.Jitter, 0},
		{"FailureBase", c.FailureBase, shortest},
		{"FailureMax", c.FailureMax, c.FailureBase},
		{"Timeout", c.Timeout, shortest},
	} {
		if d.value != 0 && d.value < d.least || d.value < 0 {
			errs = append(errs, bad(d.field, d.value, fmt.Sprintf("use 0 for the default, or at least %v", d.least)))
		}
	}
	if c.FailureMax != 0 && c.FailureBase == 0 {
		errs = append(errs, bad("FailureMax", c.FailureMax, "it needs FailureBase"))
	}
	return errors.Join(errs...)
}

func (c *Config) checkServers() error {
	var errs []error
	for i, s := range c.Servers {
		if _, err := netip.ParseAddrPort(withPort(s)); err != nil {
			errs = append(errs, bad(fmt.Sprintf("Servers[%d]", i), s, `use an IP address, with a port or without, such as "10.0.0.53" or "[::1]:5353"`))
		}
	}
	return errors.Join(errs...)
}

func (c *Config) checkLookup() error {
	if c.Lookup != nil && (len(c.Servers) > 0 || c.UseTCP || c.NoSearch || c.Dial != nil) {
		return errors.New("resolve: Config.Lookup: set, so Servers, UseTCP, NoSearch and Dial must be unset")
	}
	return nil
}

func bad(field string, value any, instead string) error {
	return fmt.Errorf("resolve: Config.%s: %v: %s", field, value, instead)
}

func withPorts(servers []string) []string {
	with := make([]string, len(servers))
	for i, s := range servers {
		with[i] = withPort(s)
	}
	return with
}

// withPort returns the address of a DNS server with its port.
func withPort(server string) string {
	if addr, err := netip.ParseAddr(server); err == nil {
		return netip.AddrPortFrom(addr, 53).String()
	}
	return server
}

// own reports whether Go's own resolver is needed.
func (c *Config) own() bool {
	return c.RespectTTL || c.UseTCP || len(c.Servers) > 0 || c.Dial != nil
}

// tries is how often a lookup may go on to another server, or to the same one again if there
// are no others.
func (c *Config) tries() int { return max(2, len(c.Servers)) }

// queryTimeout is the limit of one query to one server.
func (c *Config) queryTimeout() time.Duration {
	return min(patience, c.Timeout/time.Duration(c.tries()))
}
