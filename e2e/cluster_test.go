package e2e

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/cluster"
	"github.com/pillion-go/pillion/internal/envoytest"
	"github.com/pillion-go/pillion/policy"
)

// hosts are servers that stand for the hosts of all clusters. Each responds with its number.
type hosts []string

func startHosts(t *testing.T, n int) (all hosts) {
	t.Helper()
	for i := range n {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, strconv.Itoa(i))
		}))
		t.Cleanup(s.Close)
		all = append(all, s.Listener.Addr().String())
	}
	return all
}

// noHost is what pick returns for a call that was refused for want of a host.
const noHost = -1

// beside is a cluster as Envoy and the library have it.
type beside struct {
	name string
	cfg  cluster.Config
}

// weighted adds hosts with these weights.
func (b *beside) weighted(all hosts, weights ...int) *beside {
	for i, w := range weights {
		b.cfg.Endpoints = append(b.cfg.Endpoints, cluster.Endpoint{Address: all[i], Weight: w})
	}
	return b
}

// prioritized adds the hosts of a priority, one for each letter: h is healthy, u is not, d is
// degraded.
func (b *beside) prioritized(all hosts, priority int, letters string) *beside {
	healths := map[rune]cluster.Health{'h': cluster.Healthy, 'u': cluster.Unhealthy, 'd': cluster.Degraded}
	for _, letter := range letters {
		b.cfg.Endpoints = append(b.cfg.Endpoints, cluster.Endpoint{
			Address: all[len(b.cfg.Endpoints)], Priority: priority, Health: healths[letter],
		})
	}
	return b
}

// envoy is the cluster in Envoy's configuration.
func (b *beside) envoy() envoytest.Object {
	common := envoytest.Object{}
	switch {
	case b.cfg.PanicThreshold < 0:
		common["healthy_panic_threshold"] = envoytest.Object{"value": 0}
	case b.cfg.PanicThreshold > 0:
		common["healthy_panic_threshold"] = envoytest.Object{"value": b.cfg.PanicThreshold}
	}
	var groups []envoytest.Object
	for _, priority := range slices.Sorted(maps.Keys(b.priorities())) {
		var endpoints []envoytest.Object
		for _, e := range b.priorities()[priority] {
			endpoints = append(endpoints, envoyEndpoint(e))
		}
		groups = append(groups, envoytest.Object{"priority": priority, "lb_endpoints": endpoints})
	}
	assignment := envoytest.Object{"cluster_name": b.name, "endpoints": groups}
	if f := b.cfg.OverprovisioningFactor; f > 0 {
		assignment["policy"] = envoytest.Object{"overprovisioning_factor": f}
	}
	made := envoytest.Object{
		"name": b.name, "connect_timeout": "5s", "lb_policy": cmp.Or(b.cfg.LBPolicy, cluster.RoundRobin),
		"common_lb_config": common, "load_assignment": assignment,
	}
	if r := b.cfg.RingHash; r.MinSize > 0 && b.cfg.LBPolicy == cluster.RingHash {
		made["ring_hash_lb_config"] = envoytest.Object{"minimum_ring_size": r.MinSize, "maximum_ring_size": r.MaxSize}
	}
	if size := b.cfg.Maglev.TableSize; size > 0 && b.cfg.LBPolicy == cluster.Maglev {
		made["maglev_lb_config"] = envoytest.Object{"table_size": size}
	}
	return made
}

// priorities are the hosts by priority.
func (b *beside) priorities() map[int][]cluster.Endpoint {
	by := map[int][]cluster.Endpoint{}
	for _, e := range b.cfg.Endpoints {
		by[e.Priority] = append(by[e.Priority], e)
	}
	return by
}

func envoyEndpoint(e cluster.Endpoint) envoytest.Object {
	host, port, _ := net.SplitHostPort(e.Address)
	number, _ := strconv.Atoi(port)
	return envoytest.Object{
		"endpoint":              envoytest.Object{"address": envoytest.Address(host, number)},
		"load_balancing_weight": max(e.Weight, 1), "health_status": cmp.Or(e.Health, cluster.Healthy),
	}
}

// caller sends calls, each with a key or without one.
type caller struct {
	client *http.Client
	url    string
}

// pick returns the number of the server that a call reaches, or noHost.
func (c *caller) pick(ctx context.Context, t *testing.T, key string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("X-Key", key)
	}
	resp, err := c.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if string(body) == "no healthy upstream" {
		return noHost
	}
	n, err := strconv.Atoi(string(body))
	if err != nil {
		t.Fatalf("got %d %q, want the number of a server", resp.StatusCode, body)
	}
	return n
}

// sequence returns the servers that n calls without a key reach.
func (c *caller) sequence(t *testing.T, n int) []int {
	t.Helper()
	picks := make([]int, n)
	for i := range picks {
		picks[i] = c.pick(t.Context(), t, "")
	}
	return picks
}

// here returns a caller through the library, whose random numbers are seed if it is given, and the
// statistics.
func (b *beside) here(t *testing.T, seed ...uint64) (*caller, clusterStats) {
	t.Helper()
	cfg := b.cfg
	if len(seed) > 0 {
		cfg.Rand = func() uint64 { return seed[0] }
	}
	c, err := cluster.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	stats := clusterStats{}
	u, err := pillion.New(b.name, stats, pillion.Options{LocalReplies: true},
		c.Route(cluster.Route{HashPolicy: []cluster.HashPolicy{{Header: "X-Key"}}}))
	if err != nil {
		t.Fatal(err)
	}
	return &caller{&http.Client{Transport: u.Transport(nil)}, "http://hosts.internal/"}, stats
}

// clusterStats is a policy that finds the statistics of those inside it.
type clusterStats map[string]func() uint64

func (s clusterStats) Wrap(b *policy.Builder, next policy.Func) (policy.Func, error) {
	b.Stats(func(of policy.Stat) error {
		s[of.Name] = of.Read
		return nil
	})
	return next, nil
}

// there returns a caller through Envoy.
func (b *beside) there(e *envoytest.Envoy) *caller {
	return &caller{http.DefaultClient, "http://" + e.Egress + "/" + b.name + "/"}
}

// startBeside runs an Envoy with the clusters, or skips the test.
func startBeside(t *testing.T, all []*beside) *envoytest.Envoy {
	t.Helper()
	hashed := envoytest.Object{"hash_policy": []envoytest.Object{{"header": envoytest.Object{"header_name": "x-key"}}}}
	var clusters, routes []envoytest.Object
	for _, b := range all {
		clusters, routes = append(clusters, b.envoy()), append(routes, envoytest.Route(b.name, hashed))
	}
	e := envoytest.RunListening(t, envoytest.Bootstrap(clusters, routes))
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return e
}

// compareStats compares the statistics of load balancing.
func (b *beside) compareStats(t *testing.T, e *envoytest.Envoy, ours clusterStats) {
	t.Helper()
	theirs := e.MustStats(t, "^cluster[.]"+b.name+"[.]")
	want, got := map[string]uint64{}, map[string]uint64{}
	for _, name := range []string{
		"lb_healthy_panic", "upstream_rq_total", "membership_total", "membership_healthy", "membership_degraded", "membership_excluded",
	} {
		want[name], got[name] = theirs["cluster."+b.name+"."+name], ours[name]()
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("statistics (-Envoy +got):\n%s", diff)
	}
}

// TestCluster_hash sends 300 keys through the library and a real Envoy: with ring hash and Maglev
// each must reach the same host, whatever the weights, priorities and health.
func TestCluster_hash(t *testing.T) {
	const keys = 300
	all := startHosts(t, 8)
	var clusters []*beside
	for _, lb := range []cluster.LBPolicy{cluster.RingHash, cluster.Maglev} {
		add := func(name string) *beside {
			b := &beside{name: string(lb) + "_" + name, cfg: cluster.Config{LBPolicy: lb}}
			clusters = append(clusters, b)
			return b
		}
		add("alone").weighted(all, 1)
		add("none")
		add("equal").weighted(all, 1, 1, 1, 1)
		add("weights").weighted(all, 1, 2, 5, 2)
		sized := add("size").weighted(all, 3, 1, 1)
		sized.cfg.RingHash, sized.cfg.Maglev = cluster.RingHashConfig{MinSize: 77, MaxSize: 100}, cluster.MaglevConfig{TableSize: 251}
		add("overprovisioned").prioritized(all, 0, "hhhu").prioritized(all, 1, "hh")
		add("spill").prioritized(all, 0, "huuh").prioritized(all, 1, "hh")
		add("panic").prioritized(all, 0, "huuu").prioritized(all, 1, "uuuh")
		add("degraded").prioritized(all, 0, "udud").prioritized(all, 1, "hh")
		add("gap").prioritized(all, 0, "uu").prioritized(all, 2, "hh")
		out := add("all_out").prioritized(all, 0, "uuu")
		out.cfg.PanicThreshold = cluster.Zero
		factor := add("factor").prioritized(all, 0, "huuu").prioritized(all, 1, "hhh")
		factor.cfg.OverprovisioningFactor, factor.cfg.PanicThreshold = 200, 20
	}
	e := startBeside(t, clusters)
	for _, b := range clusters {
		t.Run(b.name, func(t *testing.T) {
			here, stats := b.here(t)
			there, same := b.there(e), 0
			for i := range keys {
				key := fmt.Sprintf("key %d of %s", i, b.name)
				got, want := here.pick(t.Context(), t, key), there.pick(t.Context(), t, key)
				if got == want {
					same++
				} else if i-same < 3 {
					t.Errorf("%s: got host %d, Envoy has %d", key, got, want)
				}
			}
			if same != keys {
				t.Errorf("got the same host for %d of %d keys", same, keys)
			}
			b.compareStats(t, e, stats)
		})
	}
}

// TestCluster_roundRobin compares sequences of 60 calls of round robin with those of a real Envoy.
// Where they start depends on a number that Envoy draws: it is found by the sequence.
func TestCluster_roundRobin(t *testing.T) {
	const calls, seeds = 60, 500
	all := startHosts(t, 6)
	var clusters []*beside
	for i, weights := range [][]int{{1, 1, 1, 1}, {1, 2, 5, 2}, {3, 1}, {7, 1, 1}, {1, 1, 2, 3, 5, 8}} {
		clusters = append(clusters, (&beside{name: fmt.Sprintf("weights%d", i)}).weighted(all, weights...))
	}
	e := startBeside(t, clusters)
	for _, b := range clusters {
		t.Run(b.name, func(t *testing.T) {
			want := b.there(e).sequence(t, calls)
			for seed := range uint64(seeds) {
				here, _ := b.here(t, seed)
				got := 0
				for got < calls && here.pick(t.Context(), t, "") == want[got] {
					got++
				}
				if got == calls {
					t.Logf("Envoy does what seed %d does, %d of %d calls", seed, got, calls)
					return
				}
			}
			t.Errorf("none of %d seeds leads to what Envoy does: %v", seeds, want)
		})
	}
}

// TestCluster_priorities compares the shares of calls that the hosts receive with a real Envoy,
// with degraded health, overprovisioning and panic. What Envoy draws cannot be known: its shares of
// 500 calls must be within five standard deviations of those of 2000 calls here.
func TestCluster_priorities(t *testing.T) {
	const calls, more = 500, 4
	all := startHosts(t, 8)
	var clusters []*beside
	add := func(name string, factor int, threshold float64, priorities ...string) {
		b := &beside{name: name, cfg: cluster.Config{OverprovisioningFactor: factor, PanicThreshold: threshold}}
		for p, letters := range priorities {
			b.prioritized(all, p, letters)
		}
		clusters = append(clusters, b)
	}
	add("healthy", 0, 0, "hhhh", "hhhh")
	add("overprovisioned", 0, 0, "hhhu", "hh")
	add("half", 0, 0, "hhuu", "hh")
	add("quarter", 0, 0, "huuu", "hhhh")
	add("none_above", 0, 0, "uu", "hh")
	add("three", 0, 0, "huu", "huu", "hh")
	add("panic_in_one", 0, 0, "huuu", "huuu")
	add("panic", 0, 0, "uuuu", "uu")
	add("panic_is_off", 0, cluster.Zero, "huuu", "huuu")
	add("all_out", 0, cluster.Zero, "uu", "uu")
	add("threshold", 0, 20, "huuu", "huuu")
	add("factor", 200, 0, "huuu", "hhhh")
	add("exact", 100, 0, "hhhu", "hhhh")
	add("degraded", 0, 0, "hdud", "hd")
	add("gap", 0, 0, "hu", "", "hh")
	e := startBeside(t, clusters)
	for _, b := range clusters {
		t.Run(b.name, func(t *testing.T) {
			here, stats := b.here(t)
			got := counts(here.sequence(t, calls), len(all))
			want := counts(b.there(e).sequence(t, calls), len(all))
			if panics := stats["lb_healthy_panic"](); panics == 0 || panics == calls { // else it depends on what is drawn
				b.compareStats(t, e, stats)
			}
			for i, n := range counts(here.sequence(t, (more-1)*calls), len(all)) {
				share := float64(got[i]+n) / (more * calls)
				if math.Abs(float64(want[i])-share*calls) > 5*math.Sqrt(share*(1-share)*calls)+1 {
					t.Errorf("host %d: got a share of %.3f of the calls, Envoy has %d of %d", i-1, share, want[i], calls)
				}
			}
		})
	}
}

// counts returns how often there was no host, and how often each one was picked.
func counts(picks []int, n int) []int {
	counted := make([]int, 1+n)
	for _, i := range picks {
		counted[i-noHost]++
	}
	return counted
}
