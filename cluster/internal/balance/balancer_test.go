package balance

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion/internal/raceflag"
)

// allPolicies returns a configuration for each policy.
func allPolicies() []Config {
	var all []Config
	for p := range policies {
		all = append(all, Config{Policy: p, Maglev: MaglevConfig{TableSize: 251}})
	}
	return append(all,
		Config{Policy: LeastRequest, LeastRequest: LeastRequestConfig{FullScan: true}},
		Config{Policy: LeastRequest, LeastRequest: LeastRequestConfig{ChoiceCount: 5, ActiveRequestBias: 0.3}},
		Config{Policy: RingHash, ConsistentHashing: ConsistentHashingConfig{BalanceFactor: 100, Active: &atomic.Int64{}}},
		Config{SlowStart: SlowStart{Window: time.Hour}}, Config{LocalityWeighted: true}, Config{Policy: Maglev, Maglev: MaglevConfig{TableSize: 251}, LocalityWeighted: true},
		Config{Locality: Locality{Region: "a", Zone: "a", SubZone: "a"}, ZoneAware: &ZoneAware{MinClusterSize: 1}}, Config{ContinueSchedules: true},
	)
}

// TestNoHosts pins what Envoy does without hosts: none is returned, and panic is
// counted.
func TestNoHosts(t *testing.T) {
	for _, c := range allPolicies() {
		b, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // before the first update and after it
			rejected := false
			h, info := b.Pick(Request{Reject: func(*Host) bool { rejected = true; return true }, MaxAttempts: 3})
			if h != nil || rejected || !info.Panic || info.Picks != 1 || info.Rejected {
				t.Errorf("%v: got %v, %+v, want no host in panic", c.Policy, h, info)
			}
			if err := b.Update(Membership{}, 0); err != nil {
				t.Fatal(err)
			}
		}
		if got := b.Stats().HealthyPanic; got != 2 {
			t.Errorf("%v: got %d picks in panic, want 2", c.Policy, got)
		}
	}
}

// TestAllOut pins what happens when no host is healthy: all are used in panic, and
// none without it.
func TestAllOut(t *testing.T) {
	for _, c := range allPolicies() {
		all := hosts(6)
		for _, h := range all {
			h.SetFlags(FailedOutlierCheck)
		}
		if c.LocalityWeighted && c.Policy.hashes() {
			continue // there are no locality weights
		}
		b := balancer(t, c, Membership{Hosts: all})
		used := map[*Host]bool{}
		for range 200 {
			h, info := b.Pick(Request{})
			if h == nil || !info.Panic {
				t.Fatalf("%v: got %v, %+v, want a host in panic", c.Policy, h, info)
			}
			used[h] = true
		}
		if len(used) != len(all) || b.Stats().HealthyPanic != 200 {
			t.Errorf("%v: got %d of %d hosts used, %d times panic", c.Policy, len(used), len(all), b.Stats().HealthyPanic)
		}
		c.PanicThreshold = Zero
		b = balancer(t, c, Membership{Hosts: all})
		if h, info := b.Pick(Request{}); h != nil || info.Panic || b.Stats().HealthyPanic != 0 {
			t.Errorf("%v without panic: got %v, %+v, want no host", c.Policy, h, info)
		}
	}
}

// TestRoundRobin pins that picks go on where they were when the hosts change.
func TestRoundRobin(t *testing.T) {
	all := hosts(5)
	b := balancer(t, Config{Rand: fixed(3)}, Membership{Hosts: all})
	if diff := cmp.Diff([]int{3, 4, 0, 1, 2, 3}, sequence(b, all, 6)); diff != "" {
		t.Errorf("picks (-want +got):\n%s", diff)
	}
	all[4].SetFlags(FailedOutlierCheck)
	if err := b.Refresh(0); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int{1, 2, 3, 0}, sequence(b, all, 4)); diff != "" {
		t.Errorf("without a host (-want +got):\n%s", diff)
	}
}

// TestSchedulesAfterUpdates pins where weighted schedules start when the hosts change:
// at the same point by default, as in Envoy, or where they were.
func TestSchedulesAfterUpdates(t *testing.T) {
	for _, continued := range []bool{false, true} {
		all := weightedHosts(1, 2, 5, 2)
		b := balancer(t, Config{ContinueSchedules: continued, Rand: fixed(0)}, Membership{Hosts: all})
		var got []int
		for range 100 { // one pick per update
			got = append(got, sequence(b, all, 1)...)
			if err := b.Refresh(0); err != nil {
				t.Fatal(err)
			}
		}
		want := []int{0, 0, 100, 0, 0}
		if continued {
			want = []int{10, 20, 50, 20, 0}
		}
		if diff := cmp.Diff(want, counted(got, 4)); diff != "" {
			t.Errorf("continued %v: hosts (-want +got):\n%s", continued, diff)
		}
	}
}

// TestLeastRequest pins which of equal hosts are preferred.
func TestLeastRequest(t *testing.T) {
	const picks = 20000
	all := hosts(4)
	for i, h := range all {
		h.AddActive(int64(i))
	}
	for _, test := range []struct {
		config LeastRequestConfig
		want   []float64
	}{ // host i is the best of n with replacement: ((4-i)/4)^n - ((3-i)/4)^n
		{LeastRequestConfig{}, []float64{7. / 16, 5. / 16, 3. / 16, 1. / 16}},
		{LeastRequestConfig{ChoiceCount: 3}, []float64{37. / 64, 19. / 64, 7. / 64, 1. / 64}},
		{LeastRequestConfig{FullScan: true}, []float64{1, 0, 0, 0}},
	} {
		b := balancer(t, Config{Policy: LeastRequest, LeastRequest: test.config, Rand: random(1).Uint64}, Membership{Hosts: all})
		for i, n := range shares(b, all, picks, 0) {
			if math.Abs(float64(n)/picks-test.want[i]) > 0.015 {
				t.Errorf("%+v: host %d: got %d of %d picks, want %v", test.config, i, n, picks, test.want[i])
			}
		}
	}
	tied := hosts(5)
	tied[0].AddActive(2)
	tied[1].AddActive(1)
	b := balancer(t, Config{Policy: LeastRequest, LeastRequest: LeastRequestConfig{FullScan: true}, Rand: random(2).Uint64}, Membership{Hosts: tied})
	for i, n := range shares(b, tied, picks, 0) {
		if want := []int{0, 0, picks / 3, picks / 3, picks / 3}[i]; n < want-500 || n > want+500 {
			t.Errorf("full scan with ties: host %d: got %d of %d picks, want about %d", i, n, picks, want)
		}
	}
}

// TestLeastRequestTies pins that of drawn hosts with the same number of active
// requests the first is used.
func TestLeastRequestTies(t *testing.T) {
	all := hosts(4)
	all[2].AddActive(-1)
	for _, test := range []struct {
		drawn []uint64
		want  int
	}{
		{[]uint64{0, 3}, 0},
		{[]uint64{3, 0}, 3},
		{[]uint64{1, 1}, 1},
		{[]uint64{1, 2}, 2},
		{[]uint64{3, 1, 0}, 3},
		{[]uint64{3, 1, 2}, 2},
		{[]uint64{2, 1, 0}, 2},
	} {
		numbers := []uint64{test.drawn[0]<<30 | test.drawn[1]<<62}
		for _, i := range test.drawn[2:] {
			numbers = append(numbers, i<<30)
		}
		c := Config{Policy: LeastRequest, LeastRequest: LeastRequestConfig{ChoiceCount: len(test.drawn)}, Rand: fixed(0)}
		b := balancer(t, c, Membership{Hosts: all})
		b.config.Rand = func() uint64 { defer func() { numbers = numbers[1:] }(); return numbers[0] }
		if got := sequence(b, all, 1); got[0] != test.want {
			t.Errorf("hosts %v are drawn: got host %d, want %d", test.drawn, got[0], test.want)
		}
	}
}

// TestLeastRequestWeighted pins how active requests reduce the weights.
func TestLeastRequestWeighted(t *testing.T) {
	for bias, want := range map[float64][]int{0: {250, 750}, Zero: {500, 500}, 0.5: {366, 634}, 2: {100, 900}} {
		all := weightedHosts(4, 4, 1)
		all[0].AddActive(2)
		all[2].SetFlags(FailedEDSHealth)
		all[2].SetEndpoint(Endpoint{Weight: 2, Status: StatusUnhealthy})
		all[1].SetEndpoint(Endpoint{Weight: 4000})
		all[0].SetEndpoint(Endpoint{Weight: 3999})
		b := balancer(t, Config{Policy: LeastRequest, LeastRequest: LeastRequestConfig{ActiveRequestBias: bias}}, Membership{Hosts: all})
		for i, n := range shares(b, all, 1000, 0)[:2] {
			if n < want[i]-2 || n > want[i]+2 {
				t.Errorf("bias %v, host %d: got %d of 1000 picks, want %d", bias, i, n, want[i])
			}
		}
	}
}

func TestRandom(t *testing.T) {
	all := weightedHosts(1, 100, 1, 1) // weights are ignored
	b := balancer(t, Config{Policy: Random, Rand: random(1).Uint64}, Membership{Hosts: all})
	for i, n := range shares(b, all, 20000, 0) {
		if n < 4600 || n > 5400 {
			t.Errorf("host %d: got %d of 20000 picks, want about 5000", i, n)
		}
	}
}

// TestReject pins how often a rejected pick is made again, and that the last host
// stands.
func TestReject(t *testing.T) {
	all := hosts(4)
	for _, c := range []Config{{}, {Policy: RingHash}, {Policy: Maglev}, {Policy: Random}} {
		b := balancer(t, c, Membership{Hosts: all})
		for attempts := range 5 {
			asked := 0
			h, info := b.Pick(Request{Hash: 7, HasHash: true, MaxAttempts: attempts, Reject: func(*Host) bool { asked++; return true }})
			if want := (Info{Picks: attempts + 1, Rejected: true}); h == nil || info != want || asked != attempts+1 {
				t.Errorf("%v: got %v, %+v, asked %d times, want %+v", c.Policy, h, info, asked, want)
			}
			asked = 0
			_, info = b.Pick(Request{Hash: 7, HasHash: true, MaxAttempts: attempts + 1, Reject: func(*Host) bool { asked++; return asked <= attempts }})
			if want := (Info{Picks: attempts + 1}); info != want {
				t.Errorf("%v: accepted at pick %d: got %+v, want %+v", c.Policy, attempts+1, info, want)
			}
		}
	}
	b := balancer(t, Config{Rand: fixed(0)}, Membership{Hosts: all})
	h, _ := b.Pick(Request{MaxAttempts: 9, Reject: func(h *Host) bool { return slices.Contains(all[:3], h) }})
	if h != all[3] {
		t.Errorf("got %s, want the only host that is not rejected", h.Endpoint().Address)
	}
}

// TestAttempt pins that an attempt of the caller begins where rejected picks lead.
func TestAttempt(t *testing.T) {
	for _, p := range []Policy{RingHash, Maglev} {
		b := balancer(t, Config{Policy: p}, Membership{Hosts: hosts(9)})
		for hash := range uint64(50) {
			r := Request{Hash: hash << 57, HasHash: true, MaxAttempts: 2}
			want, _ := b.Pick(Request{Hash: r.Hash, HasHash: true, MaxAttempts: 2, Reject: func(*Host) bool { return true }})
			r.Attempt = 2
			if got, _ := b.Pick(r); got != want {
				t.Errorf("%v, hash %d: got another host than after two rejections", p, hash)
			}
		}
	}
}

// TestHashWithoutHash pins that requests without a hash are spread at random.
func TestHashWithoutHash(t *testing.T) {
	for _, p := range []Policy{RingHash, Maglev} {
		all := hosts(4)
		b := balancer(t, Config{Policy: p, Rand: random(1).Uint64}, Membership{Hosts: all})
		for i, n := range shares(b, all, 4000, 0) {
			if n < 700 || n > 1300 {
				t.Errorf("%v, host %d: got %d of 4000 picks", p, i, n)
			}
		}
	}
}

// TestHashOfDegraded pins that tables have no degraded hosts, as in Envoy.
func TestHashOfDegraded(t *testing.T) {
	b := balancer(t, Config{Policy: RingHash}, levels([4]int{0, 3}))
	if h, info := b.Pick(Request{}); h != nil || !info.Degraded || info.Panic {
		t.Errorf("got %v, %+v, want no host", h, info)
	}
}

// TestTablesAreKept pins that a priority whose hosts did not change keeps its table.
func TestTablesAreKept(t *testing.T) {
	m := levels([4]int{3}, [4]int{3})
	b := balancer(t, Config{Policy: Maglev}, m)
	table := func(p int) any { return b.state.Load().levels[p].table }
	first, second, stats := table(0), table(1), b.Stats()
	m.Hosts[0].SetFlags(FailedActiveHC)
	if err := b.Refresh(0); err != nil {
		t.Fatal(err)
	}
	if table(0) == first || table(1) != second {
		t.Errorf("a host of priority 0 is out: kept %v and %v, want false and true", table(0) == first, table(1) == second)
	}
	if b.Stats().Maglev != stats.Maglev {
		t.Errorf("got %+v, want the statistics of the kept table, %+v", b.Stats(), stats)
	}
	for i, change := range []func(e *Endpoint){
		func(e *Endpoint) { e.Weight = 2 },
		func(e *Endpoint) { e.Address = "10.9.9.9:80" },
		func(e *Endpoint) { e.Metadata = Metadata{"envoy.lb": {"hash_key": "k"}} },
	} {
		second, e := table(1), *m.Hosts[4].Endpoint()
		change(&e)
		m.Hosts[4].SetEndpoint(e)
		if err := b.Refresh(0); err != nil {
			t.Fatal(err)
		}
		if table(1) == second {
			t.Errorf("change %d: the old table was kept", i)
		}
	}
}

// TestTableStats pins which gauges each hash policy has, also with bounded loads.
func TestTableStats(t *testing.T) {
	ring, maglev := RingStats{1024, 256, 256}, MaglevStats{16384, 16385}
	for p, want := range map[Policy]Stats{RingHash: {Ring: ring}, Maglev: {Maglev: maglev}, RoundRobin: {}} {
		for _, factor := range []uint32{0, 150} {
			c := Config{Policy: p, ConsistentHashing: ConsistentHashingConfig{BalanceFactor: factor, Active: &atomic.Int64{}}}
			if diff := cmp.Diff(want, balancer(t, c, Membership{Hosts: hosts(4)}).Stats()); diff != "" {
				t.Errorf("%v, factor %d (-want +got):\n%s", p, factor, diff)
			}
		}
	}
}

// TestManyHosts pins that 10,000 hosts are used, each about as often.
func TestManyHosts(t *testing.T) {
	n := 10000
	if raceflag.Enabled {
		n = 1000
	}
	for _, c := range allPolicies() {
		if c.LocalityWeighted && c.Policy.hashes() || c.LeastRequest.FullScan {
			continue // there are no locality weights; a full scan takes long
		}
		c.Maglev.TableSize = 0
		m := Membership{Hosts: make([]*Host, n)}
		for i := range m.Hosts {
			m.Hosts[i] = host(i, Endpoint{Weight: uint32(1 + i%2)})
		}
		b := balancer(t, c, m)
		used := 0
		for _, picks := range shares(b, m.Hosts, 6*n, time.Second) {
			if picks > 0 {
				used++
			}
		}
		least := n * 95 / 100     // what is drawn misses some
		if c.Policy == RingHash { // some hashes are close to each other
			least = n * 8 / 10
		}
		if used < least {
			t.Errorf("%v: got %d of %d hosts used, want at least %d", c.Policy, used, n, least)
		}
	}
}

// TestPickAllocates pins that picks allocate nothing.
func TestPickAllocates(t *testing.T) {
	m := drawMembership(4, 60)
	active := &atomic.Int64{}
	for i, c := range allPolicies() {
		if c.ConsistentHashing.Active != nil {
			c.ConsistentHashing.Active = active
		}
		if raceflag.Enabled && c.ConsistentHashing.BalanceFactor > 0 {
			continue // a sync.Pool drops some of what it is given
		}
		b := balancer(t, c, m)
		for _, h := range m.Hosts {
			h.AddActive(1000) // all are overloaded
		}
		reject := func(*Host) bool { return true }
		r := Request{HasHash: true, Reject: reject, MaxAttempts: 2, Now: time.Second}
		got := testing.AllocsPerRun(1000, func() {
			r.Hash += 1 << 60
			b.Pick(r)
		})
		if got >= 1 {
			t.Errorf("configuration %d, %v: got %v allocations, want none", i, c.Policy, got)
		}
		if h := m.Hosts[0]; testing.AllocsPerRun(100, func() { b.Observe(h, time.Second, time.Second) }) > 0 {
			t.Errorf("configuration %d: Observe allocates", i)
		}
	}
}

// TestUpdatesBesidePicks changes hosts and their health while picks are made. Each
// pick must return a host that some update had, and one of the last update after it.
func TestUpdatesBesidePicks(t *testing.T) {
	for _, c := range allPolicies() {
		t.Run(fmt.Sprint(c.Policy), func(t *testing.T) {
			all := make([]*Host, 40)
			known := map[*Host]bool{}
			for i := range all {
				all[i] = host(i, Endpoint{Weight: uint32(1 + i%3), Priority: i % 2, Locality: Locality{Zone: string(rune('a' + i%3))}})
				known[all[i]] = true
			}
			weights := map[PriorityLocality]uint32{}
			for _, h := range all {
				weights[PriorityLocality{h.Endpoint().Priority, h.Endpoint().Locality}] = 1
			}
			b := balancer(t, c, Membership{Hosts: all, LocalityWeights: weights, Local: all[:6]})
			var stop atomic.Bool
			var wait sync.WaitGroup
			for range 4 {
				wait.Go(func() {
					r := Request{HasHash: true, MaxAttempts: 1}
					for !stop.Load() {
						r.Hash += 1 << 58
						previous := &PreviousPriorities{}
						r.Previous, r.Now, r.Reject = previous, r.Now+time.Millisecond, func(h *Host) bool { return h.Active()%2 == 1 }
						h, _ := b.Pick(r)
						if h == nil || !known[h] {
							t.Errorf("got host %v", h)
							return
						}
						previous.Attempted(h)
						h.AddActive(1)
						b.Observe(h, time.Millisecond, r.Now)
						h.AddActive(-1)
						b.Stats()
						b.Snapshot().Counts()
					}
				})
			}
			r := random(1)
			for i := range 150 {
				h := all[r.IntN(len(all))]
				switch i % 4 {
				case 0:
					h.SetFlags(FailedOutlierCheck)
				case 1:
					h.ClearFlags(FailedOutlierCheck)
				case 2:
					e := *h.Endpoint()
					e.Weight = 1 + r.Uint32N(4)
					h.SetEndpoint(e)
				default:
				}
				some := slices.Clone(all)
				r.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
				if err := b.Update(Membership{Hosts: some[:20+r.IntN(20)], LocalityWeights: weights, Local: all[:6]}, time.Duration(i)*time.Millisecond); err != nil {
					t.Error(err)
				}
			}
			stop.Store(true)
			wait.Wait()
			last := all[3:5]
			if err := b.Update(Membership{Hosts: last, LocalityWeights: weights}, time.Second); err != nil {
				t.Fatal(err)
			}
			for range 20 {
				if h, _ := b.Pick(Request{}); !slices.Contains(last, h) {
					t.Fatalf("after the last update: got %v", h)
				}
			}
		})
	}
}

// TestInfo pins what a pick reports of priorities.
func TestInfo(t *testing.T) {
	b := balancer(t, Config{Rand: random(1).Uint64}, levels([4]int{1, 1, 2}, [4]int{1, 0, 2}))
	got := map[Info]bool{}
	for range 1000 {
		h, info := b.Pick(Request{})
		want := Healthy
		if info.Degraded {
			want = Degraded
		}
		if e := h.Endpoint(); e.Priority != info.Priority || !info.Panic && h.Health() != want {
			t.Fatalf("got a host of priority %d, %v, want %+v", e.Priority, h.Health(), info)
		}
		got[info] = true
	}
	want := map[Info]bool{{Picks: 1}: true, {Degraded: true, Picks: 1}: true, {Priority: 1, Picks: 1}: true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("infos (-want +got):\n%s", diff)
	}
}
