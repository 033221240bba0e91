package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/cluster"
	"github.com/pillion-go/pillion/internal/testtime"
)

// zone answers lookups.
type zone struct {
	answer atomic.Pointer[[]net.IPAddr]
	fails  atomic.Bool
}

func (z *zone) set(addresses ...string) {
	all := make([]net.IPAddr, len(addresses))
	for i, a := range addresses {
		all[i].IP = net.ParseIP(a)
	}
	z.answer.Store(&all)
}

func (z *zone) lookup(_ context.Context, network, _ string) ([]net.IPAddr, error) {
	if z.fails.Load() {
		return nil, errors.New("SERVFAIL")
	}
	if network == "ip6" {
		return nil, nil
	}
	return *z.answer.Load(), nil
}

// named makes a cluster whose names z resolves.
func named(z *zone, kind cluster.Type, port string) cluster.Config {
	return cluster.Config{
		Type: kind, Endpoints: cluster.Addresses("recipes.internal:" + port),
		DNS: cluster.DNS{RefreshRate: time.Millisecond, Lookup: z.lookup},
	}
}

// TestStrictDNS follows the addresses of a name. After a failed or empty lookup the previous addresses
// remain.
func TestStrictDNS(t *testing.T) {
	a, _ := server(t, "a")
	_, port, _ := net.SplitHostPort(a)
	z := &zone{}
	z.set("127.0.0.1")
	c := made(t, named(z, cluster.StrictDNS, port))
	stat := stats{}
	u := upstream(t, stat, c)
	if body, err := get(t, u); err != nil || body != "a" {
		t.Fatalf("got %q, %v, want the first call to wait for the lookup", body, err)
	}
	if got := c.Hosts()[0].Endpoint; got.Address != a || got.Hostname != "recipes.internal" {
		t.Errorf("got %+v, want %s of recipes.internal", got, a)
	}
	z.set("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.1")
	testtime.Eventually(t, func() bool { return len(c.Hosts()) == 3 })
	z.fails.Store(true)
	before := stat["update_failure"]()
	testtime.Eventually(t, func() bool { return stat["update_failure"]() > before+2 })
	z.fails.Store(false)
	z.set()
	before = stat["update_empty"]()
	testtime.Eventually(t, func() bool { return stat["update_empty"]() > before+2 })
	if got := len(c.Hosts()); got != 3 {
		t.Errorf("got %d hosts, want the 3 of the last answer", got)
	}
	if err := c.Update(nil); err == nil || !strings.Contains(err.Error(), "STRICT_DNS") {
		t.Errorf("got %v, want an error that says where the hosts come from", err)
	}
}

// TestLogicalDNS uses the first address.
func TestLogicalDNS(t *testing.T) {
	a, _ := server(t, "a")
	_, port, _ := net.SplitHostPort(a)
	z := &zone{}
	z.set("127.0.0.1", "127.0.0.2")
	c := made(t, named(z, cluster.LogicalDNS, port))
	if body, err := get(t, upstream(t, c)); err != nil || body != "a" {
		t.Fatalf("got %q, %v, want a", body, err)
	}
	if got := len(c.Hosts()); got != 1 {
		t.Errorf("got %d hosts, want 1", got)
	}
}

// TestDNS_many makes a host of each of 10,000 addresses, and calls them in turn.
func TestDNS_many(t *testing.T) {
	z := &zone{}
	addresses := make([]string, 10_000)
	for i := range addresses {
		addresses[i] = fmt.Sprintf("10.1.%d.%d", i/250, i%250+1)
	}
	z.set(addresses...)
	cfg := named(z, cluster.StrictDNS, "80")
	cfg.DNS.RefreshRate, cfg.Transport = time.Hour, stubTransport()
	c := made(t, cfg)
	if err := c.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := len(c.Hosts()); got != len(addresses) {
		t.Errorf("got %d hosts, want %d", got, len(addresses))
	}
	const calls = 200
	u, called := upstream(t, c), map[string]bool{}
	for range calls {
		ctx, info := pillion.WithInfo(t.Context())
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://recipes/", nil)
		resp, err := u.Transport(nil).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		called[info.Endpoint()] = true
	}
	if len(called) != calls {
		t.Errorf("got %d hosts in %d calls, want another one each time", len(called), calls)
	}
}

// TestDNS_empty refuses calls if the first answer has no addresses, and serves them once there are some.
func TestDNS_empty(t *testing.T) {
	a, _ := server(t, "a")
	_, port, _ := net.SplitHostPort(a)
	for _, kind := range []cluster.Type{cluster.StrictDNS, cluster.LogicalDNS} {
		z := &zone{}
		z.set()
		c := made(t, named(z, kind, port))
		u := upstream(t, c)
		if _, err := get(t, u); err == nil || !strings.Contains(err.Error(), "no healthy upstream") {
			t.Errorf("%s: got %v, want no healthy upstream", kind, err)
		}
		z.set("127.0.0.1")
		testtime.Eventually(t, func() bool { return len(c.Hosts()) == 1 })
		if body, err := get(t, u); err != nil || body != "a" {
			t.Errorf("%s: got %q, %v, want a", kind, body, err)
		}
	}
}

// TestDNS_never refuses a call after the first lookup has failed, and a call whose timeout fires before
// that.
func TestDNS_never(t *testing.T) {
	z := &zone{}
	z.fails.Store(true)
	c := made(t, named(z, cluster.StrictDNS, "80"))
	if _, err := get(t, upstream(t, c)); err == nil || !strings.Contains(err.Error(), "no healthy upstream") {
		t.Errorf("got %v, want no healthy upstream", err)
	}
	if err := c.WaitReady(t.Context()); !errors.Is(err, cluster.ErrNoHosts) {
		t.Errorf("got %v, want no hosts", err)
	}
	hangs := named(z, cluster.StrictDNS, "80")
	hangs.DNS.Lookup = func(ctx context.Context, _, _ string) ([]net.IPAddr, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	u := upstream(t, made(t, hangs))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://recipes/", nil)
	_, err := u.Transport(nil).RoundTrip(req)
	if _, ok := errors.AsType[*pillion.TimeoutError](err); !ok {
		t.Errorf("got %v, want a timeout", err)
	}
}
