package resolve

import (
	"net/netip"
	"slices"
	"time"
)

// Host is a host that a lookup found.
type Host struct {
	// Target is the index of the host's target in [Config.Targets].
	Target int
	// Addr is the address of the host.
	Addr netip.AddrPort
	// More lists, with [Config.Logical], the other addresses of the response in its order, for
	// use if Addr does not accept connections. It is nil otherwise. It is shared and must not be
	// changed.
	More []netip.AddrPort
}

// hostsOf returns the hosts of the target with index i at addrs.
func (c *Config) hostsOf(i int, addrs []netip.Addr) []Host {
	port := c.Targets[i].Port
	if len(addrs) > 0 && c.Logical {
		return []Host{{Target: i, Addr: netip.AddrPortFrom(addrs[0], port), More: withPortOf(addrs[1:], port)}}
	}
	hosts := make([]Host, len(addrs))
	for j, a := range addrs {
		hosts[j] = Host{Target: i, Addr: netip.AddrPortFrom(a, port)}
	}
	return hosts
}

func withPortOf(addrs []netip.Addr, port uint16) []netip.AddrPort {
	var with []netip.AddrPort
	for _, a := range addrs {
		with = append(with, netip.AddrPortFrom(a, port))
	}
	return with
}

// distinct returns the addresses of records in their order, each once. It converts an IPv4 address
// in IPv6 form to IPv4, and omits invalid addresses.
func distinct(records []Record) []netip.Addr {
	addrs := make([]netip.Addr, 0, len(records))
	seen := make(map[netip.Addr]struct{}, len(records))
	for _, r := range records {
		a := r.Addr.Unmap()
		if _, twice := seen[a]; twice || !a.IsValid() {
			continue
		}
		seen[a] = struct{}{}
		addrs = append(addrs, a)
	}
	return addrs
}

// sameSet reports whether a and b have the same addresses, in any order. Neither must contain an
// address twice.
func sameSet(a, b []netip.Addr) bool {
	if len(a) != len(b) {
		return false
	}
	if slices.Equal(a, b) {
		return true
	}
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, netip.Addr.Compare)
	slices.SortFunc(b, netip.Addr.Compare)
	return slices.Equal(a, b)
}

// longest is the maximum TTL. RFC 8767 recommends a similar one: a wrong TTL must not keep the hosts
// for years.
const longest = 24 * time.Hour

// ttl returns the lifetime of records. There must be at least one. Zero means that it is unknown.
func (c *Config) ttl(records []Record) time.Duration {
	least := records[0].TTL
	if !c.Logical {
		for _, r := range records[1:] {
			least = min(least, r.TTL)
		}
	}
	return min(max(0, least), longest)
}
