package resolve

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
)

// lookup looks up a name.
type lookup struct {
	cfg  *Config
	name string
	// server is the index of the DNS server that responded last.
	server atomic.Int64
}

// do looks up the name in the families of the configuration.
func (l *lookup) do(ctx context.Context) result {
	if addr, err := netip.ParseAddr(l.name); err == nil {
		return result{records: []Record{{Addr: addr}}}
	}
	switch l.cfg.Family {
	case V4Only:
		return l.first(ctx, "ip4")
	case V6Only:
		return l.first(ctx, "ip6")
	case V4Preferred:
		return l.first(ctx, "ip4", "ip6")
	case All:
		return l.all(ctx)
	default:
		return l.first(ctx, "ip6", "ip4")
	}
}

// first returns the result of the first network with addresses. If there is none, the lookup has
// failed unless the lookup of each network has succeeded.
func (l *lookup) first(ctx context.Context, networks ...string) result {
	var failures []error
	for _, network := range networks {
		records, err := l.one(ctx, network)
		if len(records) > 0 {
			return result{records: records}
		}
		failures = append(failures, err)
	}
	return result{err: errors.Join(failures...)}
}

// all returns the addresses of both families. One of the two lookups may fail.
func (l *lookup) all(ctx context.Context) result {
	var v6 []Record
	var err6 error
	var wait sync.WaitGroup
	wait.Go(func() { v6, err6 = l.one(ctx, "ip6") })
	v4, err4 := l.one(ctx, "ip4")
	wait.Wait()
	if len(v4) == 0 && len(v6) == 0 {
		return result{err: errors.Join(err4, err6)}
	}
	return result{records: append(v4, v6...), lost4: err4 != nil, lost6: err6 != nil}
}

// one looks up the name in one family. It returns no records and no error if the name has no
// address in it.
func (l *lookup) one(ctx context.Context, network string) ([]Record, error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
	defer cancel()
	records, err := l.ask(ctx, network)
	switch {
	case err == nil:
		return records, nil
	case notFound(err):
		return nil, nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, &net.DNSError{UnwrapErr: context.DeadlineExceeded, Err: "no response within " + l.cfg.Timeout.String(), Name: l.name, IsTimeout: true}
	default:
		return nil, err
	}
}

func notFound(err error) bool {
	dns, ok := errors.AsType[*net.DNSError](err)
	return ok && dns.IsNotFound
}

func (l *lookup) ask(ctx context.Context, network string) ([]Record, error) {
	switch {
	case l.cfg.Lookup != nil:
		return l.custom(ctx, network)
	case l.cfg.own():
		if addrs := l.fromFile(ctx, network); len(addrs) > 0 {
			return ordered(addrs, nil), nil
		}
		return l.dns(ctx, network)
	default:
		addrs, err := net.DefaultResolver.LookupNetIP(ctx, network, l.fullName())
		return ordered(addrs, nil), err
	}
}

// custom calls the Lookup of the configuration. It returns a panic as an error.
func (l *lookup) custom(ctx context.Context, network string) (records []Record, err error) {
	defer recovered("Lookup", &err)
	return l.cfg.Lookup(ctx, network, l.name)
}

// fullName returns the name to look up. A dot at its end disables the search domains.
func (l *lookup) fullName() string {
	if l.cfg.NoSearch && !strings.HasSuffix(l.name, ".") {
		return l.name + "."
	}
	return l.name
}

// fromFile returns the addresses in the system's hosts file of a name without dots, if search domains
// are disabled. Go's resolver does not find its full name in the file.
func (l *lookup) fromFile(ctx context.Context, network string) []netip.Addr {
	if !l.cfg.NoSearch || strings.Contains(l.name, ".") {
		return nil
	}
	file := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) { return nil, errFileOnly }}
	addrs, _ := file.LookupNetIP(ctx, network, l.name) // after an error, DNS is used
	return addrs
}

var errFileOnly = errors.New("only the file of hosts is wanted")

// dns queries DNS servers with Go's resolver. The resolver ignores its context while it waits for a
// response. So dns passes a context that does not end, and closes the connection instead. No
// goroutine of the resolver remains when dns returns.
func (l *lookup) dns(ctx context.Context, network string) ([]Record, error) {
	w := &wire{cfg: l.cfg, server: int(l.server.Load())}
	stop := context.AfterFunc(ctx, func() { w.end(ctx.Err()) })
	defer stop()
	resolver := &net.Resolver{PreferGo: true, Dial: func(_ context.Context, network, address string) (net.Conn, error) {
		return w.dial(ctx, network, address)
	}}
	addrs, err := resolver.LookupNetIP(context.WithoutCancel(ctx), network, l.fullName())
	for err != nil && !notFound(err) && w.more() { // the system's configuration limits the attempts of the resolver
		addrs, err = resolver.LookupNetIP(context.WithoutCancel(ctx), network, l.fullName())
	}
	server, records, ended := w.outcome()
	l.server.Store(int64(server))
	if err != nil && ended != nil {
		return nil, ended
	}
	return ordered(addrs, records), err
}

// ordered returns a record for each of addrs, in the order and with the TTLs of received. Addresses
// that are not in received come last, without a TTL.
func ordered(addrs []netip.Addr, received []Record) []Record {
	wanted := make(map[netip.Addr]bool, len(addrs))
	for _, a := range addrs {
		wanted[a.Unmap()] = true
	}
	records := make([]Record, 0, len(addrs))
	for _, r := range received {
		if wanted[r.Addr] {
			records = append(records, r)
		}
	}
	for _, r := range records {
		wanted[r.Addr] = false
	}
	for _, a := range addrs {
		if wanted[a.Unmap()] {
			records = append(records, Record{Addr: a.Unmap()})
		}
	}
	return records
}
