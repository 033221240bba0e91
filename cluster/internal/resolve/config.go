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

// Family determines which addresses of a name are used. It mirrors Envoy's dns_lookup_family.
type Family int

const (
	// Auto looks up IPv6 addresses, and IPv4 addresses only if there are none. It is the
	// default, as in Envoy.
	Auto Family = iota
	// V4Only looks up IPv4 addresses.
	V4Only
	// V6Only looks up IPv6 addresses.
	V6Only
	// V4Preferred looks up IPv4 addresses, and IPv6 addresses only if there are none.
	V4Preferred
	// All looks up both concurrently and uses all addresses, the IPv4 addresses first.
	All
)

// The defaults of a Config.
const (
	DefaultRefreshRate = 5 * time.Second
	DefaultTimeout     = 20 * time.Second
)

// patience is the timeout of a DNS server, as in Envoy.
const patience = 5 * time.Second

// shortest is the minimum of the times between two lookups of a name.
const shortest = time.Millisecond

// Target is a name with the port of its hosts.
type Target struct {
	// Name is a domain name or an IP address. An address is used in every lookup family, and is
	// never looked up.
	Name string
	Port uint16
}

// Config configures a [Resolver].
type Config struct {
	// Targets are the names to look up. Several may have the same name. With Logical there
	// is exactly one.
	Targets []Target

	// Logical uses one host with the first address of the response, as Envoy's LOGICAL_DNS. If
	// false, each address is a host, as in STRICT_DNS.
	Logical bool

	// Family determines which addresses are used. Zero is Auto.
	Family Family

	// RefreshRate is the time from the end of a successful lookup to the next one. Zero means
	// DefaultRefreshRate; less than 1ms is an error. Mirrors dns_refresh_rate.
	RefreshRate time.Duration

	// RespectTTL uses the TTL of the response instead of RefreshRate, if it is not zero. It
	// needs Go's resolver, which on some systems supports less of the system's configuration
	// than the system's resolver: see package net. Mirrors respect_dns_ttl.
	RespectTTL bool

	// MinRefreshRate is the minimum time between lookups, for short TTLs. Zero means no
	// minimum. Mirrors dns_min_refresh_rate.
	MinRefreshRate time.Duration

	// Jitter is the upper bound of a random time that is added after a successful lookup. Zero
	// means none. Mirrors dns_jitter.
	Jitter time.Duration

	// FailureBase is the upper bound of the random time from a first failed lookup to the next
	// one. The bound doubles with each further failure, up to FailureMax. Zero means RefreshRate
	// after each failure. Mirrors dns_failure_refresh_rate.base_interval.
	FailureBase time.Duration

	// FailureMax is the largest bound. Zero means 10 times FailureBase; less than FailureBase
	// is an error. Mirrors dns_failure_refresh_rate.max_interval.
	FailureMax time.Duration

	// Timeout limits the time of a lookup in one family. Zero means DefaultTimeout. The timeout
	// of each server is 5s, or that of the system's configuration if it is shorter. It is
	// reduced so that two queries, and one to each of Servers, fit into Timeout.
	Timeout time.Duration

	// Servers lists DNS servers that are used instead of the system's, as IP addresses with or
	// without a port. The default port is 53. A server is used until it fails, then the next one.
	// The search domains and files of the system, and their order, still apply. Mirrors the
	// resolvers of Envoy's DNS resolver configuration.
	Servers []string

	// UseTCP sends queries over TCP only. It implies Go's resolver, like Servers.
	// Mirrors use_tcp_for_dns_lookups.
	UseTCP bool

	// NoSearch looks up names without the search domains of the system.
	// Mirrors no_default_search_domain.
	NoSearch bool

	// Dial connects to a DNS server. It implies Go's resolver. Nil means a [net.Dialer]. A
	// connection for network "udp" must be a [net.PacketConn]; otherwise it is used as a stream.
	// A panic is a failed lookup, see [PanicError].
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Lookup, if set, replaces DNS: it looks up a name. network is "ip4" or "ip6". No record and
	// no error means that there are no addresses, and so does a [net.DNSError] with IsNotFound;
	// any other error is a failed lookup. The context ends at Timeout and at Close. A panic is a
	// failed lookup, see [PanicError]. Lookup together with Servers, UseTCP, NoSearch or Dial is
	// an error.
	Lookup func(ctx context.Context, network, name string) ([]Record, error)

	// Rand returns random numbers, for tests. Calls do not overlap. Nil means [rand.Uint64].
	Rand func() uint64

	// OnUpdate is called with the hosts of all targets, in the order of the targets, when those
	// of a target have changed. Calls do not overlap. OnUpdate may change the slice, but not the
	// data that its elements refer to. It must not call Close. A panic is not recovered. Nil means
	// no call.
	OnUpdate func(hosts []Host)

	// OnFailure is called after a failed lookup, with an error that names the target. Calls for
	// different targets can overlap. It must not call Close. A panic is not recovered. Nil means
	// no call.
	OnFailure func(t Target, err error)
}

// Record is an address of a name.
type Record struct {
	Addr netip.Addr
	// TTL is the lifetime of the record. Zero means that it is unknown or that the record must not
	// be cached; then RefreshRate applies.
	TTL time.Duration
}

// normal returns a copy of c with its defaults, or the errors of all fields.
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
		errs = append(errs, bad("Targets", len(c.Targets), "write exactly one name for Logical"))
	}
	for i, t := range c.Targets {
		if t.Name == "" {
			errs = append(errs, bad(fmt.Sprintf("Targets[%d].Name", i), `""`, "write a domain name or an IP address"))
		}
		if _, _, err := net.SplitHostPort(t.Name); err == nil {
			errs = append(errs, bad(fmt.Sprintf("Targets[%d].Name", i), t.Name, "write the port in Port"))
		}
	}
	if c.Family < Auto || c.Family > All {
		errs = append(errs, bad("Family", int(c.Family), "write one of the constants"))
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
			errs = append(errs, bad(d.field, d.value, fmt.Sprintf("write %v or more, or 0 for the default", d.least)))
		}
	}
	if c.FailureMax != 0 && c.FailureBase == 0 {
		errs = append(errs, bad("FailureMax", c.FailureMax, "set FailureBase, too"))
	}
	return errors.Join(errs...)
}

func (c *Config) checkServers() error {
	var errs []error
	for i, s := range c.Servers {
		if _, err := netip.ParseAddrPort(withPort(s)); err != nil {
			errs = append(errs, bad(fmt.Sprintf("Servers[%d]", i), s, `write an IP address with or without a port, such as "10.0.0.53" or "[::1]:5353"`))
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

// own reports whether Go's resolver is needed.
func (c *Config) own() bool {
	return c.RespectTTL || c.UseTCP || len(c.Servers) > 0 || c.Dial != nil
}

// tries returns the number of queries of a lookup: one for each server, but at least two.
func (c *Config) tries() int { return max(2, len(c.Servers)) }

// queryTimeout returns the timeout of one query to one server.
func (c *Config) queryTimeout() time.Duration {
	return min(patience, c.Timeout/time.Duration(c.tries()))
}
