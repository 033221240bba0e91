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

// Type says where the hosts of a cluster come from. Mirrors Envoy's DiscoveryType.
type Type string

// The types.
const (
	// Static hosts are the endpoints, and those of [Cluster.Update]. It is the default.
	Static Type = "STATIC"
	// StrictDNS has a host for each address of each endpoint's name.
	StrictDNS Type = "STRICT_DNS"
	// LogicalDNS has one host, with the first address of the one endpoint's name.
	LogicalDNS Type = "LOGICAL_DNS"
)

// Family says which addresses of a name are used. Mirrors Envoy's DnsLookupFamily.
type Family string

// The families.
const (
	FamilyAuto  Family = "AUTO"         // IPv6, or else IPv4; the default
	V4Only      Family = "V4_ONLY"      //
	V6Only      Family = "V6_ONLY"      //
	V4Preferred Family = "V4_PREFERRED" // IPv4, or else IPv6
	AllFamilies Family = "ALL"          // both
)

// DNS configures the lookups of [StrictDNS] and [LogicalDNS]. The last hosts stay while lookups
// fail, or find no address; an Envoy with STRICT_DNS removes them in the latter case.
type DNS struct {
	// RefreshRate is the time from a successful lookup to the next. Zero means 5s; less than 1ms is
	// an error. Mirrors dns_refresh_rate.
	RefreshRate time.Duration `json:"dns_refresh_rate,omitempty"`

	// RespectTTL uses the TTL of the response instead. It needs Go's own resolver, which on some
	// systems reads less of the system's configuration than the system's: see package net. Mirrors
	// respect_dns_ttl.
	RespectTTL bool `json:"respect_dns_ttl,omitempty"`

	// MinRefreshRate is the least time that a TTL can ask for. Zero means no bound. Mirrors
	// dns_min_refresh_rate.
	MinRefreshRate time.Duration `json:"dns_min_refresh_rate,omitempty"`

	// Jitter bounds a random time that is added. Zero adds none. Mirrors dns_jitter.
	Jitter time.Duration `json:"dns_jitter,omitempty"`

	// FailureBase bounds the random time after a first failed lookup; the bound doubles with each
	// failure after it, up to FailureMax. Zero means RefreshRate after failures, too, and ten times
	// FailureBase for FailureMax. Mirrors dns_failure_refresh_rate.
	FailureBase time.Duration `json:"base_interval,omitempty"`
	FailureMax  time.Duration `json:"max_interval,omitempty"`

	// Family says which addresses are used. Empty means FamilyAuto. Mirrors dns_lookup_family.
	Family Family `json:"dns_lookup_family,omitempty"`

	// Servers are DNS servers to use instead of the system's, as IP addresses with or without a
	// port. Mirrors dns_resolvers.
	Servers []string `json:"dns_resolvers,omitempty"`

	// UseTCP sends queries over TCP only. Mirrors use_tcp_for_dns_lookups.
	UseTCP bool `json:"use_tcp_for_dns_lookups,omitempty"`

	// NoSearch looks names up without the system's search domains. Mirrors
	// no_default_search_domain.
	NoSearch bool `json:"no_default_search_domain,omitempty"`

	// Lookup looks a name up instead of DNS. Network is "ip4" or "ip6". A [net.DNSError] with
	// IsNotFound, as well as no address, means that there is none. Servers, UseTCP and NoSearch are
	// an error beside it. It must not call Close.
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

// resolver makes what looks the endpoints' names up. It returns nil for static hosts.
func (c *Cluster) resolver() (*resolve.Resolver, error) {
	if !types[c.cfg.Type] {
		return nil, nil //nolint:nilnil // there is none
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

// records returns addresses as the resolver has them.
func records(addresses []net.IPAddr, err error) ([]resolve.Record, error) {
	var all []resolve.Record
	for _, a := range addresses {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			all = append(all, resolve.Record{Addr: addr.Unmap().WithZone(a.Zone)})
		}
	}
	return all, err
}

// startResolver begins to look the names up. The resolver ends when the cluster is closed, or when
// nothing uses it any more.
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

// firstLookupsEnded lets the callers continue that wait for the hosts.
func (c *Cluster) firstLookupsEnded() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unresolved = false
	c.readied()
}

// resolved makes the addresses that were found the hosts. One that several names have is a host of
// the first.
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
	_ = c.setEndpoints(endpoints) // it fails only once the cluster is closed
}

// offerNames offers what the lookups count.
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

// awaitHosts waits for the first hosts of a cluster that does not know any yet, as long as the call
// may take. It returns the outcome of a call whose time is over, or that was canceled.
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
