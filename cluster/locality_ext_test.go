package cluster_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/cluster"
	"github.com/pillion-go/pillion/internal/memhttp"
	"github.com/pillion-go/pillion/retry"
)

// seeded returns numbers that depend on the seed alone.
func seeded(seed uint64) func() uint64 {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(seed, 1))
	return func() uint64 {
		mu.Lock()
		defer mu.Unlock()
		return r.Uint64()
	}
}

// inZones returns an endpoint for each letter, in the zone of that name.
func inZones(zones string) (all []cluster.Endpoint) {
	for i, z := range zones {
		all = append(all, cluster.Endpoint{Address: fmt.Sprintf("10.0.0.%d:80", i+1), Locality: cluster.Locality{Zone: string(z)}})
	}
	return all
}

// pipes serves hosts without a network, by their addresses.
type pipes map[string]*atomic.Int64

// transport returns the template of connections to hosts that serve with handler.
func (p pipes) transport(t *testing.T, endpoints []cluster.Endpoint, handler func(address string) http.HandlerFunc) *http.Transport {
	t.Helper()
	dials := map[string]func(context.Context, string, string) (net.Conn, error){}
	for _, e := range endpoints {
		n, serve := new(atomic.Int64), handler(e.Address)
		s := memhttp.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n.Add(1)
			serve(w, r)
		}))
		t.Cleanup(s.Close)
		p[e.Address], dials[e.Address] = n, s.DialContext
	}
	return &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return dials[address](ctx, network, address)
	}}
}

func served(string) http.HandlerFunc { return func(http.ResponseWriter, *http.Request) {} }

// of returns the number of calls of each zone's hosts since the last call of of.
func (p pipes) of(endpoints []cluster.Endpoint) map[string]int64 {
	zones := map[string]int64{}
	for _, e := range endpoints {
		zones[e.Locality.Zone] += p[e.Address].Swap(0)
	}
	return zones
}

func calls(t *testing.T, u *pillion.Upstream, n int) {
	t.Helper()
	for range n {
		if _, err := get(t, u); err != nil {
			t.Fatal(err)
		}
	}
}

// TestZoneAware keeps calls in the zone of the program as long as the load stays even, and counts
// them.
func TestZoneAware(t *testing.T) {
	const n = 1000
	tests := []struct {
		name, hosts, callers string
		share                float64 // of the calls that stay here, in zone a
		count                string
	}{
		{"hosts and callers alike", "aabbcc", "abc", 1, "lb_zone_routing_all_directly"},
		{"callers unknown", "aabbcc", "", 1, "lb_zone_routing_all_directly"},
		{"callers unknown, few hosts here", "abbbbbbb", "", 0.25, "lb_zone_routing_cross_zone"},
		{"half of the callers here", "abbccccc", "aabc", 0.25, "lb_zone_routing_sampled"},
		{"no host here", "bbbccc", "abc", 0, "lb_zone_routing_cross_zone"},
		{"too few hosts", "aabb", "ab", 0.5, "lb_zone_cluster_too_small"},
		{"callers elsewhere", "aabbcc", "bc", 1. / 3, "lb_local_cluster_not_ok"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			hosts, stat := pipes{}, stats{}
			endpoints := inZones(test.hosts)
			u := upstream(t, stat, made(t, cluster.Config{
				Endpoints: endpoints, Locality: cluster.Locality{Zone: "a"}, ZoneAware: &cluster.ZoneAware{LocalCluster: inZones(test.callers)},
				Transport: hosts.transport(t, endpoints, served), Rand: seeded(1),
			}))
			calls(t, u, n)
			if got := float64(hosts.of(endpoints)["a"]) / n; got < test.share-0.05 || got > test.share+0.05 {
				t.Errorf("got a share of %v here, want about %v", got, test.share)
			}
			if stat[test.count]() == 0 || stat["lb_recalculate_zone_structures"]() != 1 {
				t.Errorf("got %d, %d, want %s and one recalculation", stat[test.count](), stat["lb_recalculate_zone_structures"](), test.count)
			}
			routed := stat["lb_zone_routing_all_directly"]() + stat["lb_zone_routing_sampled"]() + stat["lb_zone_routing_cross_zone"]()
			if ignored := test.count == "lb_zone_cluster_too_small" || test.count == "lb_local_cluster_not_ok"; ignored != (routed == 0) || !ignored && routed != n {
				t.Errorf("got %d calls that honored zones, of %d", routed, n)
			}
		})
	}
}

// TestZoneAware_settings pins what the settings of zones do.
func TestZoneAware_settings(t *testing.T) {
	const n = 400
	for name, test := range map[string]struct {
		hosts string
		zone  cluster.ZoneAware
		want  map[string]int64
	}{
		"forced":             {"abbbbb", cluster.ZoneAware{ForceLocalZone: &cluster.ForceLocalZone{}}, map[string]int64{"a": n, "b": 0}},
		"forced, but few":    {"abbbbb", cluster.ZoneAware{ForceLocalZone: &cluster.ForceLocalZone{MinSize: 2}}, map[string]int64{"a": n / 3, "b": n * 2 / 3}},
		"off":                {"aaabbb", cluster.ZoneAware{RoutingEnabled: cluster.Zero}, map[string]int64{"a": n / 2, "b": n / 2}},
		"no minimum":         {"ab", cluster.ZoneAware{MinClusterSize: cluster.Zero}, map[string]int64{"a": n, "b": 0}},
		"a smaller minimum":  {"aab", cluster.ZoneAware{MinClusterSize: 3}, map[string]int64{"a": n, "b": 0}},
		"by weight":          {"aaabbb", cluster.ZoneAware{LocalityBasis: cluster.HealthyHostsWeight}, map[string]int64{"a": n / 2, "b": n / 2}},
		"by number of hosts": {"aaabbb", cluster.ZoneAware{LocalityBasis: cluster.HealthyHostsNum}, map[string]int64{"a": n, "b": 0}},
	} {
		t.Run(name, func(t *testing.T) {
			hosts, endpoints := pipes{}, inZones(test.hosts)
			if strings.HasPrefix(name, "by") { // the hosts here are a quarter of all by weight
				for i := range endpoints[3:] {
					endpoints[3+i].Weight = 3
				}
			}
			u := upstream(t, made(t, cluster.Config{
				Endpoints: endpoints, Locality: cluster.Locality{Zone: "a"}, ZoneAware: &test.zone, Transport: hosts.transport(t, endpoints, served), Rand: seeded(2),
			}))
			calls(t, u, n)
			got := hosts.of(endpoints)
			for zone, want := range test.want {
				if got[zone] < want-n/10 || got[zone] > want+n/10 {
					t.Errorf("got %v, want about %v", got, test.want)
				}
			}
		})
	}
}

// TestUpdateLocalCluster sends calls to the other zone only if most callers are in this zone.
func TestUpdateLocalCluster(t *testing.T) {
	hosts, endpoints := pipes{}, inZones("aabbcc")
	c := made(t, cluster.Config{
		Endpoints: endpoints, Locality: cluster.Locality{Zone: "a"}, ZoneAware: &cluster.ZoneAware{}, Transport: hosts.transport(t, endpoints, served), Rand: seeded(3),
	})
	u := upstream(t, c)
	for _, step := range []struct {
		callers    string
		least, max int64
	}{{"aaab", 120, 240}, {"abbb", 400, 400}, {"aaab", 120, 240}, {"", 400, 400}} {
		if err := c.UpdateLocalCluster(inZones(step.callers)); err != nil {
			t.Fatal(err)
		}
		calls(t, u, 400)
		if got := hosts.of(endpoints)["a"]; got < step.least || got > step.max {
			t.Errorf("callers %q: got %d of 400 calls here, want %d to %d", step.callers, got, step.least, step.max)
		}
	}
	if err := c.UpdateLocalCluster([]cluster.Endpoint{{Address: "a"}}); err == nil || !strings.Contains(err.Error(), `cluster: Config.ZoneAware.LocalCluster[0].Address: "a" is not an address`) {
		t.Errorf("got %v, want an error about the address", err)
	}
	if err := made(t, cluster.Config{}).UpdateLocalCluster(nil); err == nil || !strings.Contains(err.Error(), "Config.ZoneAware is nil") {
		t.Errorf("got %v, want an error about ZoneAware", err)
	}
	if c.Close(); !errors.Is(c.UpdateLocalCluster(nil), cluster.ErrClosed) {
		t.Error("closed: got no error")
	}
}

// TestLocalityWeighted sends each zone its share, whatever the number of its hosts.
func TestLocalityWeighted(t *testing.T) {
	hosts, endpoints := pipes{}, inZones("aaab")
	endpoints[0].LocalityWeight, endpoints[3].LocalityWeight = 1, 3
	c := made(t, cluster.Config{Endpoints: endpoints, LocalityWeighted: &cluster.LocalityWeighted{}, Transport: hosts.transport(t, endpoints, served)})
	u := upstream(t, c)
	check := func(want map[string]int64) {
		t.Helper()
		calls(t, u, 400)
		if diff := cmp.Diff(want, hosts.of(endpoints)); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
	}
	check(map[string]int64{"a": 100, "b": 300})
	if got := c.Hosts()[1].Endpoint.LocalityWeight; got != 1 {
		t.Errorf("got weight %d of the locality, want 1", got)
	}
	endpoints[0].LocalityWeight = 0
	if err := c.Update(endpoints); err != nil {
		t.Fatal(err)
	}
	check(map[string]int64{"a": 0, "b": 400})
}

// TestSlowStart adds a host to three others. Its share of the calls grows from a tenth of theirs to an
// equal one.
func TestSlowStart(t *testing.T) {
	for _, p := range []cluster.LBPolicy{cluster.RoundRobin, cluster.LeastRequest} {
		t.Run(string(p), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hosts, endpoints := pipes{}, inZones("abcd")
				c := made(t, cluster.Config{
					Endpoints: endpoints[:3], LBPolicy: p, SlowStart: cluster.SlowStart{Window: time.Minute}, Transport: hosts.transport(t, endpoints, served),
				})
				u := upstream(t, c)
				time.Sleep(time.Hour)
				if err := c.Update(endpoints); err != nil {
					t.Fatal(err)
				}
				for _, step := range []struct {
					wait       time.Duration
					least, max int64
				}{{0, 7, 13}, {30 * time.Second, 45, 55}, {time.Hour, 97, 103}} {
					time.Sleep(step.wait)
					calls(t, u, 300)
					hosts.of(endpoints)
					calls(t, u, int(300+(step.least+step.max)/2))
					if got := hosts.of(endpoints)["d"]; got < step.least || got > step.max {
						t.Errorf("after %v: got %d calls at the new host and 100 at each other, want %d to %d", step.wait, got, step.least, step.max)
					}
				}
				c.Close()
			})
		})
	}
}

// TestPeakEWMA_canceled pins that a host that does not respond attracts no calls, although its calls
// are canceled.
func TestPeakEWMA_canceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hosts, endpoints := pipes{}, inZones("ab")
		c := made(t, cluster.Config{
			Endpoints: endpoints, LBPolicy: cluster.PeakEWMA,
			Transport: hosts.transport(t, endpoints, func(address string) http.HandlerFunc {
				return func(_ http.ResponseWriter, r *http.Request) {
					if address == endpoints[0].Address {
						<-r.Context().Done()
					}
					time.Sleep(10 * time.Millisecond)
				}
			}),
		})
		u := upstream(t, c)
		for range 40 {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://recipes.internal/", nil)
			if resp, err := u.Transport(nil).RoundTrip(req); err == nil {
				resp.Body.Close()
			}
			cancel()
		}
		if got := hosts.of(endpoints); got["a"] > 2 || got["b"] < 38 {
			t.Errorf("got %v, want almost all calls at host b", got)
		}
		c.Close()
	})
}

// TestPeakEWMA_settings pins the effect of the settings on a host that fails quickly, and on a host
// that was slow once.
func TestPeakEWMA_settings(t *testing.T) {
	for name, test := range map[string]struct {
		config cluster.PeakEWMAConfig
		least  int64 // calls of 40 at the host that fails
		max    int64
	}{
		"failures count as 1s":                {cluster.PeakEWMAConfig{}, 1, 4},
		"failures count as long as they took": {cluster.PeakEWMAConfig{FailureLatency: -1}, 36, 39},
		"failures are forgotten":              {cluster.PeakEWMAConfig{Decay: 10 * time.Millisecond}, 5, 39},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hosts, endpoints := pipes{}, inZones("ab")
				c := made(t, cluster.Config{
					Endpoints: endpoints, LBPolicy: cluster.PeakEWMA, PeakEWMA: test.config,
					Transport: hosts.transport(t, endpoints, func(address string) http.HandlerFunc {
						return func(w http.ResponseWriter, _ *http.Request) {
							if address == endpoints[0].Address {
								time.Sleep(time.Millisecond)
								w.WriteHeader(http.StatusInternalServerError)
								return
							}
							time.Sleep(10 * time.Millisecond)
						}
					}),
				})
				calls(t, upstream(t, c), 40)
				if got := hosts.of(endpoints); got["a"] < test.least || got["a"] > test.max {
					t.Errorf("got %v, want %d to %d calls at host a", got, test.least, test.max)
				}
				c.Close()
			})
		})
	}
}

// TestConfig_jsonLocalities reads fields by Envoy's names.
func TestConfig_jsonLocalities(t *testing.T) {
	var got cluster.Config
	err := json.Unmarshal([]byte(`{
		"locality": {"region": "r", "zone": "a"}, "lb_policy": "PEAK_EWMA", "slow_start_config": {"slow_start_window": 60000000000, "aggression": 2, "min_weight_percent": 5},
		"peak_ewma_lb_config": {"decay_time": 5000000000, "failure_latency": 2000000000},
		"zone_aware_lb_config": {"routing_enabled": 80, "min_cluster_size": 3, "fail_traffic_on_panic": true,
			"force_local_zone": {"min_size": 2}, "locality_basis": "HEALTHY_HOSTS_WEIGHT", "local_cluster": [{"address": "a:80", "locality": {"zone": "a"}}]},
		"locality_weighted_lb_config": {}, "endpoints": [{"address": "b:80", "locality_weight": 3}]
	}`), &got)
	want := cluster.Config{
		Locality: cluster.Locality{Region: "r", Zone: "a"}, LBPolicy: cluster.PeakEWMA,
		SlowStart: cluster.SlowStart{Window: time.Minute, Aggression: 2, MinWeightPercent: 5},
		PeakEWMA:  cluster.PeakEWMAConfig{Decay: 5 * time.Second, FailureLatency: 2 * time.Second},
		ZoneAware: &cluster.ZoneAware{
			RoutingEnabled: 80, MinClusterSize: 3, FailTrafficOnPanic: true, ForceLocalZone: &cluster.ForceLocalZone{MinSize: 2},
			LocalityBasis: cluster.HealthyHostsWeight, LocalCluster: []cluster.Endpoint{{Address: "a:80", Locality: cluster.Locality{Zone: "a"}}},
		},
		LocalityWeighted: &cluster.LocalityWeighted{}, Endpoints: []cluster.Endpoint{{Address: "b:80", LocalityWeight: 3}},
	}
	if diff := cmp.Diff(want, got, cmp.FilterPath(func(p cmp.Path) bool { return p.String() == "Rand" }, cmp.Ignore())); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// TestSuspicious_localities reports localities that have no effect.
func TestSuspicious_localities(t *testing.T) {
	here := cluster.Locality{Zone: "a"}
	for _, test := range []struct {
		cfg  cluster.Config
		want string
	}{
		{cluster.Config{Endpoints: inZones("aabb"), Locality: here, ZoneAware: &cluster.ZoneAware{}}, "4 hosts of priority 0 are healthy, and MinClusterSize is 6"},
		{cluster.Config{Endpoints: inZones("aaabbb"), Locality: here, ZoneAware: &cluster.ZoneAware{}}, ""},
		{cluster.Config{Endpoints: inZones("ab"), Locality: here, ZoneAware: &cluster.ZoneAware{MinClusterSize: cluster.Zero}}, ""},
		{cluster.Config{Locality: here, ZoneAware: &cluster.ZoneAware{}}, ""},
		{cluster.Config{Endpoints: inZones("ab"), LocalityWeighted: &cluster.LocalityWeighted{}}, "no endpoint of priority 0 has a LocalityWeight"},
		{cluster.Config{Endpoints: []cluster.Endpoint{{Address: "a:80", LocalityWeight: 1}}, LocalityWeighted: &cluster.LocalityWeighted{}}, ""},
	} {
		got := strings.Join(made(t, test.cfg).Suspicious(), "\n")
		if !strings.Contains(got, test.want) || (got == "") != (test.want == "") {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

// TestZoneAware_retry pins that a retry leaves the zone if its only host has failed, except with
// Envoy's host selection.
func TestZoneAware_retry(t *testing.T) {
	for name, test := range map[string]struct {
		hosts *retry.Hosts
		want  int // calls of 10 that succeed
	}{"default": {nil, 10}, "as Envoy": {&retry.Hosts{PreviousHosts: true, MaxAttempts: 20}, 0}} {
		hosts, endpoints := pipes{}, inZones("abb")
		u := upstream(t, retry.Config{On: "5xx", BaseInterval: time.Millisecond, Hosts: test.hosts, Budget: &retry.Budget{Disabled: true}}, made(t, cluster.Config{
			Endpoints: endpoints, Locality: cluster.Locality{Zone: "a"}, ZoneAware: &cluster.ZoneAware{MinClusterSize: cluster.Zero, ForceLocalZone: &cluster.ForceLocalZone{}},
			Transport: hosts.transport(t, endpoints, func(address string) http.HandlerFunc {
				return func(w http.ResponseWriter, _ *http.Request) {
					if address == endpoints[0].Address {
						w.WriteHeader(http.StatusServiceUnavailable)
					}
				}
			}),
		}))
		succeeded := 0
		for range 10 {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://recipes.internal/", nil)
			resp, err := u.Transport(nil).RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			if resp.Body.Close(); resp.StatusCode == http.StatusOK {
				succeeded++
			}
		}
		if got := hosts[endpoints[0].Address].Load(); succeeded != test.want || got < 10 {
			t.Errorf("%s: got %d successful calls, %d attempts here, want %d and at least one for each", name, succeeded, got, test.want)
		}
	}
}
