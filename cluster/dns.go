package cluster

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"time"
	"weak"

	"github.com/pillion-go/pillion/cluster/internal/resolve"
	"github.com/pillion-go/pillion/policy"
)

// Type is the source of the hosts of a cluster. The zero value means Static. Mirrors Envoy's
// DiscoveryType.
type Type string

// The types.
const (
	// Static uses the endpoints of the Config, or those of [Cluster.Update].
	Static Type = "STATIC"
	// StrictDNS uses one host for each address of each endpoint's name.
	StrictDNS Type = "STRICT_DNS"
	// LogicalDNS uses one host: the first address of the name of the only endpoint.
	LogicalDNS Type = "LOGICAL_DNS"
)

// Family determines which addresses of a name are used. The zero value means FamilyAuto. Mirrors
// Envoy's DnsLookupFamily.
type Family string

// The families.
const (
	FamilyAuto  Family = "AUTO"         // IPv6 addresses, or IPv4 addresses if there are none
	V4Only      Family = "V4_ONLY"      // IPv4 addresses
	V6Only      Family = "V6_ONLY"      // IPv6 addresses
	V4Preferred Family = "V4_PREFERRED" // IPv4 addresses, or IPv6 addresses if there are none
	AllFamilies Family = "ALL"          // all addresses
)

// DNS configures the lookups of [StrictDNS] and [LogicalDNS]. The zero value uses the system's
// resolver. If a lookup fails or finds no address, the previous hosts remain; Envoy's STRICT_DNS
// removes them in the second case. A negative duration is an error.
type DNS struct {
	// RefreshRate is the time from a successful lookup to the next one. Zero means 5s; less than 1ms
	// is an error. Mirrors dns_refresh_rate.
	RefreshRate time.Duration `json:"dns_refresh_rate,omitempty"`

	// RespectTTL uses the TTL of the response instead of RefreshRate. It needs Go's resolver, which
	// on some systems supports less of the system's configuration than the system's resolver: see
	// package net. Mirrors respect_dns_ttl.
	RespectTTL bool `json:"respect_dns_ttl,omitempty"`

	// MinRefreshRate is the minimum time between lookups, for short TTLs. Zero means no minimum.
	// Mirrors dns_min_refresh_rate.
	MinRefreshRate time.Duration `json:"dns_min_refresh_rate,omitempty"`

	// Jitter is the upper bound of a random time that is added after a successful lookup. Zero means
	// none. Mirrors dns_jitter.
	Jitter time.Duration `json:"dns_jitter,omitempty"`

	// FailureBase is the upper bound of the random time from a first failed lookup to the next one.
	// The bound doubles with each further failure, up to FailureMax. Zero means RefreshRate after each
	// failure; less than 1ms is an error. Mirrors dns_failure_refresh_rate.base_interval.
	FailureBase time.Duration `json:"base_interval,omitempty"`

	// FailureMax is the largest bound. Zero means ten times FailureBase; a value below FailureBase is
	// an error, and so is FailureMax without FailureBase. Mirrors
	// dns_failure_refresh_rate.max_interval.
	FailureMax time.Duration `json:"max_interval,omitempty"`

	// Family determines which addresses are used. Empty means FamilyAuto. Mirrors
	// dns_lookup_family.
	Family Family `json:"dns_lookup_family,omitempty"`

	// Servers lists DNS servers that are used instead of the system's, as IP addresses with or
	// without a port. The default port is 53. Mirrors dns_resolvers.
	Servers []string `json:"dns_resolvers,omitempty"`

	// UseTCP sends queries over TCP only. Mirrors use_tcp_for_dns_lookups.
	UseTCP bool `json:"use_tcp_for_dns_lookups,omitempty"`

	// NoSearch does not use the search domains of the system. Mirrors no_default_search_domain.
	NoSearch bool `json:"no_default_search_domain,omitempty"`

	// Lookup, if set, replaces DNS: it returns the addresses of a name. network is "ip4" or "ip6". No
	// address and no error means that the name has none, and so does a [net.DNSError] with
	// IsNotFound; any other error is a failed lookup. ctx ends when the lookup times out or the
	// cluster is closed. A panic is a failed lookup, too. It must be safe for concurrent use, and must
	// not call Close. Lookup together with Servers, UseTCP or NoSearch is an error.
	Lookup func(ctx context.Context, network, name string) ([]net.IPAddr, error) `json:"-"`
}

//nolint:gochecknoglobals // tables that nothing writes
var (
	types    = map[Type]bool{"": false, Static: false, StrictDNS: true, LogicalDNS: true} // whether names are looked up
	families = map[Family]resolve.Family{
		"": resolve.Auto, FamilyAuto: resolve.Auto, V4Only: resolve.V4Only, V6Only: resolve.V6Only,
		V4Preferred: resolve.V4Preferred, AllFamilies: resolve.All,
	}
)

// resolver makes the resolver of the endpoints' names. It returns nil for static hosts.
func (c *Cluster) resolver() (*resolve.Resolver, error) {
	if !types[c.cfg.Type] {
		return nil, nil //nolint:nilnil // no resolver
	}
	ref := weak.Make(c)
	cfg := c.cfg.DNS.core()
	cfg.Logical = c.cfg.Type == LogicalDNS
	cfg.OnUpdate = func(hosts []resolve.Host) {
		if of := ref.Value(); of != nil {
			of.resolved(hosts)
		}
	}
	for _, e := range c.cfg.Endpoints {
		name, port, _ := net.SplitHostPort(e.Address)
		n, _ := strconv.ParseUint(port, 10, 16) // the endpoint was checked
		cfg.Targets = append(cfg.Targets, resolve.Target{Name: name, Port: uint16(n)})
	}
	r, err := resolve.New(cfg)
	if err != nil {
		return nil, renamed(err, "resolve: Config.", "DNS.")
	}
	return r, nil
}

// core returns the configuration of the resolver.
func (d *DNS) core() resolve.Config {
	c := resolve.Config{
		Family: families[d.Family], RefreshRate: d.RefreshRate, RespectTTL: d.RespectTTL, MinRefreshRate: d.MinRefreshRate,
		Jitter: d.Jitter, FailureBase: d.FailureBase, FailureMax: d.FailureMax,
		Servers: d.Servers, UseTCP: d.UseTCP, NoSearch: d.NoSearch,
	}
	if lookup := d.Lookup; lookup != nil {
		c.Lookup = func(ctx context.Context, network, name string) ([]resolve.Record, error) {
			return records(lookup(ctx, network, name))
		}
	}
	return c
}

// records returns addresses for the resolver.
func records(addresses []net.IPAddr, err error) ([]resolve.Record, error) {
	var all []resolve.Record
	for _, a := range addresses {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			all = append(all, resolve.Record{Addr: addr.Unmap().WithZone(a.Zone)})
		}
	}
	return all, err
}

// startResolver starts the lookups. They end when the cluster is closed or no longer referenced.
func (c *Cluster) startResolver() error {
	r, err := c.resolver()
	if err != nil || r == nil {
		return err
	}
	c.names, c.unresolved = r, true
	runtime.AddCleanup(c, func(r *resolve.Resolver) { go r.Close() }, r)
	r.Start()
	ref, ready := weak.Make(c), r.Ready()
	go func() {
		<-ready
		if c := ref.Value(); c != nil {
			c.firstLookupsEnded()
		}
	}()
	return nil
}

// firstLookupsEnded releases the callers that wait for the first lookups.
func (c *Cluster) firstLookupsEnded() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unresolved = false
	c.readied()
}

// resolved replaces the hosts by those that were found. If several names have the same address, the
// host belongs to the first name.
func (c *Cluster) resolved(found []resolve.Host) {
	defer randPanicked()
	var endpoints []Endpoint
	seen := map[string]bool{}
	for _, h := range found {
		e := c.cfg.Endpoints[h.Target]
		if e.Hostname == "" {
			e.Hostname, _, _ = net.SplitHostPort(e.Address)
		}
		if e.Address = h.Addr.String(); seen[e.Address] {
			continue
		}
		seen[e.Address] = true
		endpoints = append(endpoints, e)
	}
	_ = c.setEndpoints(endpoints) // the only error is ErrClosed
}

// offerNames offers the statistics of the lookups.
func (c *Cluster) offerNames(b *policy.Builder) {
	r := c.names
	if r == nil {
		return
	}
	for name, read := range map[string]func(resolve.Stats) uint64{
		"update_attempt":    func(s resolve.Stats) uint64 { return s.UpdateAttempt },
		"update_success":    func(s resolve.Stats) uint64 { return s.UpdateSuccess },
		"update_failure":    func(s resolve.Stats) uint64 { return s.UpdateFailure },
		"update_empty":      func(s resolve.Stats) uint64 { return s.UpdateEmpty },
		"update_no_rebuild": func(s resolve.Stats) uint64 { return s.UpdateNoRebuild },
	} {
		b.Stat(policy.Stat{Kind: policy.Counter, Name: name, Of: c.stats, Read: func() uint64 { return read(r.Stats()) }})
	}
}

// awaitHosts waits until the cluster is ready. If the timeout of the call fires or the call is
// canceled first, it returns the outcome of the call, otherwise nil.
func (c *Cluster) awaitHosts(ctx context.Context, call *policy.Call) *policy.Outcome {
	var expired <-chan time.Time
	if left, limited := call.Remaining(); limited {
		t := time.NewTimer(left)
		defer t.Stop()
		expired = t.C
	}
	select {
	case <-c.ready:
	case <-c.background.Done():
	case <-ctx.Done():
		return call.Gone(ctx, &policy.Outcome{})
	case <-expired:
		return call.Expired(&policy.Outcome{})
	}
	return nil
}
