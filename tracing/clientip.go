package tracing

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// parseProxies parses a list of addresses and networks. A nil list means the networks that
// are not routed on the internet.
func parseProxies(list []string) ([]netip.Prefix, error) {
	if list == nil {
		list = []string{"127.0.0.0/8", "::1/128", "fc00::/7", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"}
	}
	prefixes := make([]netip.Prefix, 0, len(list))
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			addr, alone := netip.ParseAddr(s)
			if alone != nil {
				return nil, fmt.Errorf("%q is neither an address nor a network; write it like 10.0.0.1 or 10.0.0.0/8", s)
			}
			p = netip.PrefixFrom(addr, addr.BitLen())
		}
		prefixes = append(prefixes, p.Masked())
	}
	return prefixes, nil
}

// trusted reports whether address belongs to a trusted proxy. Anything that is not an IP
// address, such as that of a Unix socket, is a proxy on this machine.
func (t *Tracer) trusted(address string) bool {
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return (address == "" || address == "@" || strings.HasPrefix(address, "/")) && len(t.proxies) != 0
	}
	addr = addr.Unmap().WithZone("")
	for _, p := range t.proxies {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// forwarded describes the client of a request, and how the request arrived.
type forwarded struct {
	client string // the address of the client
	header bool   // the request has X-Forwarded-For
	proto  string // the scheme that the client used, if a proxy reports it
}

// forwardedBy finds the client of r: the peer itself, or, if the peer is a trusted proxy,
// the last address in X-Forwarded-For that is not a trusted proxy. If all are trusted, it
// is the first one. Mirrors Rack::Request#ip.
func (t *Tracer) forwardedBy(r *http.Request) forwarded {
	values, has := r.Header["X-Forwarded-For"]
	f := forwarded{client: hostOf(r.RemoteAddr), header: has}
	if !t.trusted(f.client) {
		return f
	}
	f.proto = r.Header.Get("X-Forwarded-Proto")
	if len(values) == 0 {
		return f
	}
	first := ""
	for rest := strings.Join(values, ","); rest != ""; {
		var last string
		rest, last = cutLast(rest)
		if last = hostOf(strings.TrimSpace(last)); last == "" {
			continue
		}
		if first = last; !t.trusted(last) {
			break
		}
	}
	if first != "" {
		f.client = strings.Clone(cut(first, maxShort)) // it is a substring of the header
	}
	return f
}

// cutLast splits s at its last comma.
func cutLast(s string) (before, last string) {
	i := strings.LastIndexByte(s, ',')
	if i < 0 {
		return "", s
	}
	return s[:i], s[i+1:]
}

// hostOf returns an address without its port.
func hostOf(address string) string {
	if _, err := netip.ParseAddr(address); err == nil {
		return address
	}
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return strings.Trim(address, "[]")
}
