package balance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestEnvoyHash compares ring hash and Maglev with a real Envoy: with hosts, weights,
// health, priorities, localities and tables of all kinds each of 300 keys must lead
// to the same host, and all statistics must be the same.
func TestEnvoyHash(t *testing.T) {
	const keys = 300
	u := startUpstream(t, 24)
	var clusters []*liveCluster
	for i := range 40 {
		clusters = append(clusters, u.drawHashed(rand.New(rand.NewPCG(uint64(i), 2)), fmt.Sprintf("hash%02d", i)))
	}
	plain := func(name string, p Policy, weights ...uint32) {
		c := &liveCluster{name: name, config: Config{Policy: p}}
		for i, w := range weights {
			c.member.Hosts = append(c.member.Hosts, NewHost(Endpoint{Address: u.addresses[i], Weight: w}))
		}
		clusters = append(clusters, c)
	}
	plain("ring", RingHash, 0, 0, 0, 0)
	plain("maglev", Maglev, 0, 0, 0, 0)
	plain("ringweights", RingHash, 1, 2, 5, 2)
	plain("maglevweights", Maglev, 1, 2, 5, 2)
	plain("ringalone", RingHash, 7)
	plain("maglevnone", Maglev)
	plain("ringnone", RingHash)
	e := startEnvoy(t, clusters, nil)
	for _, c := range clusters {
		t.Run(c.name, func(t *testing.T) {
			b := balancer(t, c.config, c.member)
			same := 0
			for i := range keys {
				key := fmt.Sprintf("%s key %d", c.name, i)
				h, _ := b.Pick(Request{Hash: Hash(key), HasHash: true})
				got, want := u.index(h), e.get(t, c.name, key)
				if got == want {
					same++
				} else if i-same < 3 {
					t.Errorf("key %q: got host %d, Envoy has %d", key, got, want)
				}
			}
			if same != keys {
				t.Errorf("got %d of %d keys the same; %+v", same, keys, c.config)
			}
			if diff := cmp.Diff(relevant(e.stats(t, c.name), b.Stats(), b.Snapshot())); diff != "" {
				t.Errorf("statistics (-Envoy +got):\n%s", diff)
			}
		})
	}
}

// relevant returns Envoy's statistics of load balancing and those of a Balancer by
// the same names.
func relevant(all map[string]uint64, s Stats, snapshot *Snapshot) (envoy, ours map[string]uint64) {
	total, healthy, degraded, excluded := snapshot.Counts()
	ours = map[string]uint64{
		"lb_healthy_panic": s.HealthyPanic, "lb_local_cluster_not_ok": s.LocalClusterNotOK, "lb_zone_cluster_too_small": s.ZoneClusterTooSmall,
		"lb_zone_no_capacity_left": s.ZoneNoCapacityLeft, "lb_zone_routing_all_directly": s.ZoneRoutingAllDirectly,
		"lb_zone_routing_cross_zone": s.ZoneRoutingCrossZone, "lb_zone_routing_sampled": s.ZoneRoutingSampled,
		"ring_hash_lb.size": s.Ring.Size, "ring_hash_lb.min_hashes_per_host": s.Ring.MinHashesPerHost, "ring_hash_lb.max_hashes_per_host": s.Ring.MaxHashesPerHost,
		"maglev_lb.min_entries_per_host": s.Maglev.MinEntriesPerHost, "maglev_lb.max_entries_per_host": s.Maglev.MaxEntriesPerHost,
		"membership_total": uint64(total), "membership_healthy": uint64(healthy), "membership_degraded": uint64(degraded), "membership_excluded": uint64(excluded),
	}
	envoy = map[string]uint64{}
	for name := range ours {
		envoy[name] = all[name]
	}
	return envoy, ours
}

// drawHashed returns a cluster with ring hash or Maglev.
func (u *upstream) drawHashed(r *rand.Rand, name string) *liveCluster {
	c := &liveCluster{name: name, config: Config{Policy: RingHash + Policy(r.IntN(2))}}
	c.member.Hosts = u.draw(r, c)
	c.config.RingHash.Function = HashFunction(r.IntN(2))
	if r.IntN(2) == 0 {
		c.config.RingHash.MinSize = uint64(1 + r.IntN(5000))
		c.config.RingHash.MaxSize = c.config.RingHash.MinSize + uint64(r.IntN(3000))
	}
	if primes := []uint64{0, 2, 3, 101, 251, 65521, 65537, 100003}; r.IntN(2) == 0 {
		c.config.Maglev.TableSize = primes[r.IntN(len(primes))]
	}
	return c
}

// draw returns hosts for the cluster, and draws how their load is distributed.
func (u *upstream) draw(r *rand.Rand, c *liveCluster) []*Host {
	priorities, localities, sick := 1+r.IntN(3)*r.IntN(2), 1+r.IntN(3), r.IntN(4)
	c.config.PanicThreshold = []float64{0, Zero, 20, 29, 57.5, 100}[r.IntN(6)]
	c.config.LocalityWeighted = r.IntN(3) == 0
	c.member.OverprovisioningFactor = []uint32{0, 0, 100, 200}[r.IntN(4)]
	c.member.WeightedPriorityHealth = r.IntN(3) == 0
	c.member.LocalityWeights = map[PriorityLocality]uint32{}
	var all []*Host
	for _, i := range r.Perm(len(u.addresses))[:1+r.IntN(len(u.addresses))] {
		e := Endpoint{Address: u.addresses[i], Priority: r.IntN(priorities), Locality: Locality{Zone: string(rune('a' + r.IntN(localities)))}}
		if r.IntN(3) > 0 {
			e.Weight = uint32(1 + r.IntN(9))
		}
		if r.IntN(4) < sick {
			e.Status = Status(r.IntN(6))
		}
		if r.IntN(10) == 0 {
			e.Metadata = Metadata{"envoy.lb": {"hash_key": fmt.Sprintf("key of %d", i)}}
		}
		c.member.LocalityWeights[PriorityLocality{e.Priority, e.Locality}] = uint32(r.IntN(4))
		all = append(all, NewHost(e))
	}
	slices.SortStableFunc(all, func(a, b *Host) int {
		return a.Endpoint().Priority - b.Endpoint().Priority
	})
	return all
}

// TestEnvoyRoundRobin compares the sequences of hosts with a real Envoy. Where they
// start depends on a number that Envoy draws: it is found by the first picks.
func TestEnvoyRoundRobin(t *testing.T) {
	const picks = 60
	u := startUpstream(t, 24)
	weights := [][]uint32{{0, 0, 0, 0}, {1, 2, 5, 2}, {7}, {3, 1}, {2, 2, 2}, {1, 1, 1, 1, 4}, {128, 1, 1}}
	for i := range 20 {
		r := rand.New(rand.NewPCG(uint64(i), 3))
		some := make([]uint32, 2+r.IntN(10))
		for i := range some {
			some[i] = uint32(1 + r.IntN(7))
		}
		weights = append(weights, some)
	}
	var clusters []*liveCluster
	for i, some := range weights {
		c := &liveCluster{name: fmt.Sprintf("robin%02d", i)}
		for i, w := range some {
			c.member.Hosts = append(c.member.Hosts, NewHost(Endpoint{Address: u.addresses[i], Weight: w}))
		}
		clusters = append(clusters, c)
	}
	e := startEnvoy(t, clusters, nil)
	for i, c := range clusters {
		t.Run(fmt.Sprint(weights[i]), func(t *testing.T) {
			find(t, e.sequence(t, c.name, picks), func(seed uint64) []int {
				c.config.Rand = fixed(seed)
				return sequence(balancer(t, c.config, c.member), c.member.Hosts, picks)
			})
		})
	}
}

// TestEnvoySlowStart compares the sequences of hosts that are all new. Their windows
// are so long that each keeps its least weight, and a schedule is used even where the
// weights are equal.
func TestEnvoySlowStart(t *testing.T) {
	const picks = 40
	u := startUpstream(t, 5)
	var clusters []*liveCluster
	for i, weights := range [][]uint32{{1, 1, 1, 1, 1}, {3, 1, 4}, {2, 7, 1, 8}} {
		for j, slow := range []SlowStart{{}, {MinWeightPercent: 33, Aggression: 2}, {MinWeightPercent: 100}} {
			slow.Window = 10000 * time.Hour
			for _, p := range []Policy{RoundRobin, LeastRequest} {
				c := &liveCluster{name: fmt.Sprintf("slow%d%d%d", i, j, p), config: Config{Policy: p, SlowStart: slow}}
				c.member.Hosts = u.weighing(weights)
				clusters = append(clusters, c)
			}
		}
	}
	e := startEnvoy(t, clusters, nil)
	for _, c := range clusters {
		t.Run(c.name, func(t *testing.T) {
			find(t, e.sequence(t, c.name, picks), func(seed uint64) []int {
				c.config.Rand = fixed(seed)
				return sequence(balancer(t, c.config, c.member), c.member.Hosts, picks)
			})
		})
	}
}

// TestEnvoySlowStartJoins compares the sequences before a host joins others that are new
// no longer, while it has its least weight, which is for half of the window, and after
// the window.
func TestEnvoySlowStartJoins(t *testing.T) {
	const picks, window = 30, 4 * time.Second
	u := startUpstream(t, 5)
	var clusters []*liveCluster
	for i, weights := range [][]uint32{{1, 1, 1}, {3, 1, 4}} {
		for _, p := range []Policy{RoundRobin, LeastRequest} {
			c := &liveCluster{
				name: fmt.Sprintf("joins%d%d", i, p), config: Config{Policy: p, SlowStart: SlowStart{Window: window, MinWeightPercent: 50}},
				eds: filepath.Join(t.TempDir(), "eds.json"),
			}
			c.member.Hosts = u.weighing(weights)
			c.update(t)
			clusters = append(clusters, c)
		}
	}
	e := startEnvoy(t, clusters, object{"node": object{"id": "1", "cluster": "local"}})
	traces := make([][]int, len(clusters))
	each := func(do func(i int, c *liveCluster)) {
		for i, c := range clusters {
			do(i, c)
		}
	}
	time.Sleep(window + window/4) // real time, which is Envoy's
	each(func(i int, c *liveCluster) {
		e.await(t, c.name, "update_success", 1)
		c.member.Hosts = append(c.member.Hosts, NewHost(Endpoint{Address: u.addresses[3]}))
		c.update(t)
		e.await(t, c.name, "update_success", 2)
		traces[i] = e.sequence(t, c.name, picks)
	})
	time.Sleep(window + window/4)
	each(func(i int, c *liveCluster) { traces[i] = append(traces[i], e.sequence(t, c.name, picks)...) })
	each(func(i int, c *liveCluster) {
		t.Run(c.name, func(t *testing.T) {
			find(t, traces[i], func(seed uint64) []int {
				c.config.Rand = fixed(seed)
				var all []*Host
				for _, h := range c.member.Hosts {
					all = append(all, NewHost(*h.Endpoint()))
				}
				b := balancer(t, c.config, Membership{Hosts: all[:3]})
				if err := b.Update(Membership{Hosts: all}, time.Minute); err != nil {
					t.Fatal(err)
				}
				var got []int
				for n := range 2 * picks {
					h, _ := b.Pick(Request{Now: time.Minute + time.Duration(n/picks)*2*window})
					got = append(got, u.index(h))
				}
				return got
			})
		})
	})
}

// find looks for a seed with which trace returns what Envoy did. Round robin uses all
// bits of a seed and schedules the lower half, so that both halves vary.
func find(t *testing.T, want []int, trace func(seed uint64) []int) {
	t.Helper()
	const low, high = 5000, 6
	for i := range uint64(low * high) {
		if seed := i%high<<32 | i/high; slices.Equal(trace(seed), want) {
			t.Logf("Envoy does what seed %d<<32 + %d does", i%high, i/high)
			return
		}
	}
	t.Errorf("none of %d seeds leads to what Envoy does:\n%v", low*high, want)
}

// TestEnvoyLeastRequest compares the sequences of weighted least request while some
// requests are active.
func TestEnvoyLeastRequest(t *testing.T) {
	const picks = 40
	u := startUpstream(t, 8)
	var clusters []*liveCluster
	for i, bias := range []float64{0, Zero, 0.5, 2} {
		c := &liveCluster{name: fmt.Sprintf("least%d", i), config: Config{Policy: LeastRequest}}
		c.config.LeastRequest.ActiveRequestBias = bias
		for i, w := range []uint32{3, 1, 5, 2, 7}[:3+i%3] {
			c.member.Hosts = append(c.member.Hosts, NewHost(Endpoint{Address: u.addresses[i], Weight: w}))
		}
		clusters = append(clusters, c)
	}
	e := startEnvoy(t, clusters, nil)
	for held, c := range clusters {
		t.Run(c.name, func(t *testing.T) {
			want, done := e.hold(t, u, c.name, make([]string, 2+held))
			want = append(want, e.sequence(t, c.name, picks)...)
			done()
			find(t, want, func(seed uint64) []int {
				c.config.Rand = fixed(seed)
				for i, h := range c.member.Hosts {
					c.member.Hosts[i] = NewHost(*h.Endpoint())
				}
				b := balancer(t, c.config, c.member)
				var got []int
				for range 2 + held {
					h, _ := b.Pick(Request{})
					h.AddActive(1)
					got = append(got, u.index(h))
				}
				return append(got, sequence(b, c.member.Hosts, picks)...)
			})
		})
	}
}

// hold starts a request for each key, one when the one before it has reached its
// server, and returns the servers, and a function that ends the requests.
func (e *sidecar) hold(t *testing.T, u *upstream, cluster string, keys []string) (reached []int, done func()) {
	t.Helper()
	ended := make(chan struct{})
	for i, key := range keys {
		go func() {
			e.get(t, cluster, key, "X-Hold")
			ended <- struct{}{}
		}()
		select {
		case server := <-u.held:
			reached = append(reached, server)
		case <-time.After(maxWait):
			t.Fatalf("request %d reached no server within %v", i, maxWait)
		}
	}
	return reached, func() {
		u.release()
		for range keys {
			<-ended
		}
	}
}

// TestEnvoyBounded compares the hosts of a hash policy that limits their active
// requests.
func TestEnvoyBounded(t *testing.T) {
	u := startUpstream(t, 8)
	var clusters []*liveCluster
	for i, factor := range []uint32{100, 120, 200, 1000} {
		for _, p := range []Policy{RingHash, Maglev} {
			c := &liveCluster{name: fmt.Sprintf("bounded%d%d", i, p), config: Config{Policy: p}}
			c.config.ConsistentHashing = ConsistentHashingConfig{BalanceFactor: factor, Active: &atomic.Int64{}}
			for i, w := range []uint32{1, 1, 3, 1, 2, 1, 1}[:3+i] {
				c.member.Hosts = append(c.member.Hosts, NewHost(Endpoint{Address: u.addresses[i], Weight: w}))
			}
			clusters = append(clusters, c)
		}
	}
	e := startEnvoy(t, clusters, nil)
	for _, c := range clusters {
		t.Run(c.name, func(t *testing.T) {
			b := balancer(t, c.config, c.member)
			keys := make([]string, 40)
			for i := range keys {
				keys[i] = fmt.Sprintf("%s %d", c.name, i%7)
			}
			want, done := e.hold(t, u, c.name, keys)
			defer done()
			var got []int
			for _, key := range keys {
				h, _ := b.Pick(Request{Hash: Hash(key), HasHash: true})
				h.AddActive(1)
				c.config.ConsistentHashing.Active.Add(1)
				got = append(got, u.index(h))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("hosts (-Envoy +got):\n%s", diff)
			}
		})
	}
}

// TestEnvoyRetries compares the hosts of retries that avoid previous hosts.
func TestEnvoyRetries(t *testing.T) {
	const keys, retries = 40, 5
	u := startUpstream(t, 12)
	var clusters []*liveCluster
	for i, p := range []Policy{RingHash, Maglev, RoundRobin, RingHash, Maglev, RoundRobin} {
		attempts := []int{1, 3, 2, 7, 1, 0}[i]
		c := &liveCluster{name: fmt.Sprintf("retries%d", i), config: Config{Policy: p}, route: object{"retry_policy": object{
			"retry_on": "5xx", "num_retries": retries, "host_selection_retry_max_attempts": attempts,
			"retry_back_off": object{"base_interval": "0.001s"}, "retry_host_predicate": []any{object{
				"name": "previous", "typed_config": object{"@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
			}},
		}}}
		c.picks = max(attempts, 1) // Envoy's default
		for j := range 3 + 2*(i%4) {
			c.member.Hosts = append(c.member.Hosts, NewHost(Endpoint{Address: u.addresses[j], Weight: uint32(1 + j*i%3)}))
		}
		clusters = append(clusters, c)
	}
	e := startEnvoy(t, clusters, nil)
	for _, c := range clusters {
		t.Run(c.name, func(t *testing.T) {
			var want []int
			for i := range keys {
				key := fmt.Sprintf("%s %d", c.name, i)
				e.get(t, c.name, key, "X-Fail")
				want = append(want, u.of(key)...)
			}
			find(t, want, func(seed uint64) []int {
				c.config.Rand = fixed(seed)
				b := balancer(t, c.config, c.member)
				var got []int
				for i := range keys {
					request := Request{Hash: Hash(fmt.Sprintf("%s %d", c.name, i)), HasHash: true}
					var tried []*Host
					for range 1 + retries {
						h, _ := b.Pick(request)
						tried = append(tried, h)
						request.MaxAttempts = c.picks
						request.Reject = func(h *Host) bool { return slices.Contains(tried, h) }
						got = append(got, u.index(h))
					}
				}
				return got
			})
		})
	}
}

// TestEnvoyPreviousPriorities compares the priorities of retries that avoid previous
// ones.
func TestEnvoyPreviousPriorities(t *testing.T) {
	const retries = 9
	u := startUpstream(t, 5)
	var clusters []*liveCluster
	for frequency := 1; frequency <= 3; frequency++ {
		for priorities := 1; priorities <= 5; priorities++ {
			c := &liveCluster{name: fmt.Sprintf("previous%d%d", frequency, priorities), picks: frequency, route: object{"retry_policy": object{
				"retry_on": "5xx", "num_retries": retries, "retry_back_off": object{"base_interval": "0.001s"}, "retry_priority": object{
					"name": "previous", "typed_config": object{
						"@type":            "type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
						"update_frequency": frequency,
					},
				},
			}}}
			for i := range priorities {
				c.member.Hosts = append(c.member.Hosts, NewHost(Endpoint{Address: u.addresses[i], Priority: i}))
			}
			clusters = append(clusters, c)
		}
	}
	e := startEnvoy(t, clusters, nil)
	for _, c := range clusters {
		t.Run(c.name, func(t *testing.T) {
			b := balancer(t, c.config, c.member)
			e.get(t, c.name, c.name, "X-Fail")
			previous := &PreviousPriorities{UpdateFrequency: c.picks}
			var got []int
			for attempt := range 1 + retries {
				r := Request{Previous: previous}
				if attempt == 0 {
					r.Previous = nil
				}
				h, _ := b.Pick(r)
				previous.Attempted(h)
				got = append(got, u.index(h))
			}
			if diff := cmp.Diff(u.of(c.name), got); diff != "" {
				t.Errorf("hosts (-Envoy +got):\n%s", diff)
			}
		})
	}
}

// TestEnvoyLocalities compares the sequences of locality weighted round robin.
func TestEnvoyLocalities(t *testing.T) {
	const picks = 60
	u := startUpstream(t, 12)
	var clusters []*liveCluster
	for i := range 10 {
		r := rand.New(rand.NewPCG(uint64(i), 4))
		c := &liveCluster{name: fmt.Sprintf("localities%d", i), config: Config{LocalityWeighted: true, PanicThreshold: Zero}}
		c.member.LocalityWeights = map[PriorityLocality]uint32{}
		for j := range 4 + r.IntN(8) {
			e := Endpoint{Address: u.addresses[j], Weight: uint32(1 + r.IntN(2)), Locality: Locality{Zone: string(rune('a' + r.IntN(3)))}}
			if r.IntN(4) == 0 {
				e.Status = StatusUnhealthy
			}
			c.member.LocalityWeights[PriorityLocality{0, e.Locality}] = uint32(r.IntN(5))
			c.member.Hosts = append(c.member.Hosts, NewHost(e))
		}
		clusters = append(clusters, c)
	}
	e := startEnvoy(t, clusters, object{"node": object{"id": "1", "cluster": "local", "locality": object{"zone": "b"}}})
	for _, c := range clusters {
		t.Run(c.name, func(t *testing.T) {
			c.config.Locality = Locality{Zone: "b"}
			want := e.sequence(t, c.name, picks)
			trace := func(seed, of uint64) []int {
				c.config.Rand = func() uint64 { defer func() { seed = of }(); return seed } // that of the hosts is drawn first
				return sequence(balancer(t, c.config, c.member), c.member.Hosts, picks)
			}
			zone := func(picks []int) (zones []Locality) {
				for _, i := range picks {
					if i < 0 {
						return nil
					}
					zones = append(zones, c.member.Hosts[i].Endpoint().Locality)
				}
				return zones
			}
			for of := range uint64(2000) {
				if got := trace(0, of); !slices.Equal(zone(got), zone(want)) {
					continue
				}
				for seed := range uint64(200) {
					if slices.Equal(trace(seed, of), want) {
						return
					}
				}
			}
			t.Errorf("no pair of seeds leads to what Envoy does:\n%v", want)
		})
	}
}

// TestEnvoyZones compares which localities are used when Envoy knows its own. What
// Envoy draws cannot be known: the shares of 500 requests must be within five
// standard deviations of what they are to be.
func TestEnvoyZones(t *testing.T) {
	const picks = 500
	u := startUpstream(t, 24)
	zoned := func(zones string, first int) (all []*Host) {
		for i, z := range zones {
			e := Endpoint{Address: u.addresses[first+i], Locality: Locality{Zone: string(z)}, Weight: uint32(1 + i%2)}
			if z < 'a' {
				e.Locality.Zone, e.Status = string(z+'a'-'A'), StatusUnhealthy
			}
			all = append(all, NewHost(e))
		}
		return all
	}
	kinds := []ZoneAware{
		{ByWeight: true}, {ForceLocalZone: 1}, {RoutingEnabled: 60}, {MinClusterSize: 7}, {ForceLocalZone: 3}, {RoutingEnabled: Zero}, {FailTrafficOnPanic: true},
	}
	for _, test := range []struct {
		name, local string
		upstreams   []string
	}{
		{"even", "aabbcc", []string{"aabbcc", "aaaabc", "abbbcc", "abbccc", "bbbccc", "aab", "aaaaaa", "AabbccB", "abcdefgh", "aAAAAAbbccdd"}},
		{"alone", "a", []string{"aabbcc", "bbbccc"}},
		{"absent", "bbcc", []string{"aabbcc"}},
		{"mostly here", "aaaab", []string{"aabbcc", "abbbbb", "aabbdd"}},
		{"mostly there", "abbbb", []string{"aabbcc", "bbcccc"}},
		{"sick", "aAABBc", []string{"aabbcc", "abbbcc"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var clusters []*liveCluster
			for i, zones := range test.upstreams {
				for j, zone := range []ZoneAware{{}, kinds[i%len(kinds)]} {
					c := &liveCluster{name: fmt.Sprintf("zones%d%d", i, j), config: Config{Locality: Locality{Zone: "a"}, ZoneAware: &zone}}
					c.member = Membership{Hosts: zoned(zones, 0), Local: zoned(test.local, 12)}
					clusters = append(clusters, c)
				}
			}
			local := &liveCluster{name: "local", member: Membership{Hosts: zoned(test.local, 12)}}
			e := startEnvoy(t, append(clusters, local), object{
				"node":            object{"id": "1", "cluster": "local", "locality": object{"zone": "a"}},
				"cluster_manager": object{"local_cluster_name": "local"},
			})
			for _, c := range clusters {
				b := balancer(t, c.config, c.member)
				ours := counted(sequence(b, c.member.Hosts, 20*picks), len(c.member.Hosts))
				theirs := counted(e.sequence(t, c.name, picks), len(c.member.Hosts))
				for i := range ours {
					share := float64(ours[i]) / (20 * picks)
					if math.Abs(float64(theirs[i])-share*picks) > 5*math.Sqrt(share*(1-share)*picks)+1 {
						t.Errorf("%s: got shares %v, Envoy has %v of %d", c.name, ours, theirs, picks)
						break
					}
				}
				envoy, stats := relevant(e.stats(t, c.name), b.Stats(), b.Snapshot())
				for name := range stats { // how often it counts depends on how often it updates
					stats[name], envoy[name] = min(stats[name], 1), min(envoy[name], 1)
				}
				if diff := cmp.Diff(envoy, stats); diff != "" {
					t.Errorf("%s: statistics (-Envoy +got):\n%s", c.name, diff)
				}
			}
		})
	}
}

// TestEnvoyUpdates compares the sequences before and after changes of the hosts: round
// robin goes on where it was, weighted schedules start anew.
func TestEnvoyUpdates(t *testing.T) {
	const picks = 17
	u := startUpstream(t, 8)
	type change func(all []*Host) []*Host
	status := func(i int, s Status) change {
		return func(all []*Host) []*Host {
			e := *all[i].Endpoint()
			e.Status = s
			all[i].SetEndpoint(e)
			return all
		}
	}
	weight := func(i int, w uint32) change {
		return func(all []*Host) []*Host {
			e := *all[i].Endpoint()
			e.Weight = w
			all[i].SetEndpoint(e)
			return all
		}
	}
	without := func(i int) change {
		return func(all []*Host) []*Host { return slices.Delete(slices.Clone(all), i, i+1) }
	}
	tests := []struct {
		name    string
		weights []uint32
		changes []change
	}{
		{"equal", []uint32{1, 1, 1, 1, 1}, []change{status(2, StatusUnhealthy), status(2, StatusHealthy), without(1), status(0, StatusUnhealthy)}},
		{"weights", []uint32{1, 2, 5, 2}, []change{status(1, StatusUnhealthy), status(1, StatusHealthy), without(0), weight(1, 3)}},
		{"become equal", []uint32{1, 2, 1}, []change{weight(1, 1), weight(0, 4), weight(0, 1)}},
	}
	var clusters []*liveCluster
	for i, test := range tests {
		c := &liveCluster{name: fmt.Sprintf("updates%d", i), eds: filepath.Join(t.TempDir(), "eds.json")}
		c.member.Hosts = u.weighing(test.weights)
		c.update(t)
		clusters = append(clusters, c)
	}
	e := startEnvoy(t, clusters, object{"node": object{"id": "1", "cluster": "local"}})
	for i, c := range clusters {
		t.Run(tests[i].name, func(t *testing.T) {
			e.await(t, c.name, "update_success", 1)
			want := e.sequence(t, c.name, picks)
			for n, change := range tests[i].changes {
				c.member.Hosts = change(c.member.Hosts)
				c.update(t)
				e.await(t, c.name, "update_success", uint64(n+2))
				want = append(want, e.sequence(t, c.name, picks)...)
			}
			find(t, want, func(seed uint64) []int {
				c.config.Rand = fixed(seed)
				member := Membership{Hosts: u.weighing(tests[i].weights)}
				b := balancer(t, c.config, member)
				got := u.sequence(b, picks)
				for _, change := range tests[i].changes {
					member.Hosts = change(member.Hosts)
					if err := b.Update(member, 0); err != nil {
						t.Fatal(err)
					}
					got = append(got, u.sequence(b, picks)...)
				}
				return got
			})
		})
	}
}

// weighing returns a host for each weight.
func (u *upstream) weighing(weights []uint32) (all []*Host) {
	for i, w := range weights {
		all = append(all, NewHost(Endpoint{Address: u.addresses[i], Weight: w}))
	}
	return all
}

// sequence returns the servers of n picks.
func (u *upstream) sequence(b *Balancer, n int) (servers []int) {
	for range n {
		h, _ := b.Pick(Request{})
		servers = append(servers, u.index(h))
	}
	return servers
}
