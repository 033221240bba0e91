package balance

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// inZones returns a host for each letter, in the zone of that name; capital letters
// are unhealthy hosts.
func inZones(zones string) (all []*Host) {
	for i, z := range zones {
		e := Endpoint{Locality: Locality{Zone: strings.ToLower(string(z))}}
		if z < 'a' {
			e.Status = StatusUnhealthy
		}
		all = append(all, host(i, e))
	}
	return all
}

// TestZones pins how picks are distributed over zones when the caller is in zone a.
func TestZones(t *testing.T) {
	tests := []struct {
		name, upstream, local string
		zone                  ZoneAware
		want                  string // zones, or nil, and the counts of the update
	}{
		{"same shares", "aabbcc", "abc", ZoneAware{}, "direct"},
		{"more here", "aaabbc", "abc", ZoneAware{}, "direct"},
		{"less here", "abbbcc", "abc", ZoneAware{}, "4998 to local, residual [0 1667 1667]"},
		{"half here", "abbccccc", "aabc", ZoneAware{}, "2500 to local, residual [0 0 3750]"},
		{"none here", "bbbccc", "abc", ZoneAware{}, "0 to local, residual [1667 3334]"},
		{"healthy hosts count", "aAAbbbcc", "abc", ZoneAware{}, "4998 to local, residual [0 1667 1667]"},
		{"too few", "aabbc", "abc", ZoneAware{}, "none, 1 too small"},
		{"enough when asked", "aabbc", "abc", ZoneAware{MinClusterSize: 5}, "direct"},
		{"one zone only", "aaaaaa", "abc", ZoneAware{}, "none"},
		{"callers in one zone", "aabbcc", "aa", ZoneAware{}, "none"},
		{"callers elsewhere", "aabbcc", "bc", ZoneAware{}, "none, 1 not ok"},
		{"callers unknown", "aabbcc", "", ZoneAware{}, "none, 0 updates"},
		{"forced", "abbbcc", "a", ZoneAware{ForceLocalZone: 1}, "direct"},
		{"forced with too few", "abbbcc", "aab", ZoneAware{ForceLocalZone: 2}, "2499 to local, residual [0 1667 5000]"},
		{"callers in panic", "aabbcc", "aAAAb", ZoneAware{}, "6666 to local, residual [0 0 3333], in panic"},
	}
	for _, test := range tests {
		b := balancer(t, Config{Locality: Locality{Zone: "a"}, ZoneAware: &test.zone}, Membership{Hosts: inZones(test.upstream), Local: inZones(test.local)})
		z, s := b.state.Load().levels[0].zones, b.Stats()
		got := "none"
		switch {
		case z != nil && z.direct:
			got = "direct"
		case z != nil:
			got = fmt.Sprintf("%d to local, residual %v", z.toLocal, z.residual)
		}
		if z != nil && z.localPanic {
			got += ", in panic"
		}
		if n := s.ZoneClusterTooSmall; n > 0 {
			got += fmt.Sprintf(", %d too small", n)
		}
		if n := s.LocalClusterNotOK; n > 0 {
			got += fmt.Sprintf(", %d not ok", n)
		}
		if s.RecalculateZoneStructures != 1 {
			got += fmt.Sprintf(", %d updates", s.RecalculateZoneStructures)
		}
		if got != test.want {
			t.Errorf("%s: got %s, want %s", test.name, got, test.want)
		}
	}
}

// TestZonesByWeight pins that the weights count when they are to.
func TestZonesByWeight(t *testing.T) {
	m := Membership{Hosts: inZones("abbbcc"), Local: inZones("abc")}
	m.Hosts[0].SetEndpoint(Endpoint{Weight: 5, Locality: Locality{Zone: "a"}})
	for byWeight, want := range map[bool]bool{false: false, true: true} {
		b := balancer(t, Config{Locality: Locality{Zone: "a"}, ZoneAware: &ZoneAware{ByWeight: byWeight}}, m)
		if got := b.state.Load().levels[0].zones.direct; got != want {
			t.Errorf("by weight %v: got direct %v, want %v", byWeight, got, want)
		}
	}
}

// TestZonePicks compares the shares of the hosts with those that the zones are to
// have, and the counts with each other.
func TestZonePicks(t *testing.T) {
	const picks = 100000
	tests := []struct {
		name, upstream, local string
		zone                  ZoneAware
		want                  []float64 // shares of the zones a, b, c and of no host
		stats                 Stats
	}{
		{"direct", "aabbcc", "abc", ZoneAware{}, []float64{1, 0, 0, 0}, Stats{ZoneRoutingAllDirectly: picks}},
		{"residual", "abbbcc", "abc", ZoneAware{}, []float64{0.5, 0.5, 0, 0}, Stats{ZoneRoutingSampled: picks / 2, ZoneRoutingCrossZone: picks / 2}},
		{"three", "abbccccc", "aabc", ZoneAware{}, []float64{0.25, 0, 0.75, 0}, Stats{ZoneRoutingSampled: picks / 4, ZoneRoutingCrossZone: picks * 3 / 4}},
		{"sometimes", "aabbcc", "abc", ZoneAware{RoutingEnabled: 40}, []float64{0.4 + 0.6/3, 0.6 / 3, 0.6 / 3, 0}, Stats{ZoneRoutingAllDirectly: picks * 4 / 10}},
		{"never", "aabbcc", "abc", ZoneAware{RoutingEnabled: Zero}, []float64{1. / 3, 1. / 3, 1. / 3, 0}, Stats{}},
		{"callers in panic", "aabbcc", "aAAAb", ZoneAware{}, []float64{1. / 3, 1. / 3, 1. / 3, 0}, Stats{LocalClusterNotOK: picks}},
		{"callers in panic, fails", "aabbcc", "aAAAb", ZoneAware{FailTrafficOnPanic: true}, []float64{0, 0, 0, 1}, Stats{LocalClusterNotOK: picks}},
		{"panic", "aABBBcCC", "abc", ZoneAware{}, []float64{0.25, 0.375, 0.375, 0}, Stats{HealthyPanic: picks, ZoneClusterTooSmall: 1}},
		{"panic, fails", "aABBBcCC", "abc", ZoneAware{FailTrafficOnPanic: true}, []float64{0, 0, 0, 1}, Stats{HealthyPanic: picks, ZoneClusterTooSmall: 1}},
	}
	for _, test := range tests {
		c := Config{Locality: Locality{Zone: "a"}, ZoneAware: &test.zone, Rand: random(1).Uint64}
		b := balancer(t, c, Membership{Hosts: inZones(test.upstream), Local: inZones(test.local)})
		got := make([]float64, 4)
		for range picks {
			if h, _ := b.Pick(Request{}); h == nil {
				got[3]++
			} else {
				got[h.Endpoint().Locality.Zone[0]-'a']++
			}
		}
		for i := range got {
			if math.Abs(got[i]/picks-test.want[i]) > 0.01 {
				t.Errorf("%s: got %v of %d, want shares %v", test.name, got, picks, test.want)
				break
			}
		}
		stats := b.Stats()
		test.stats.RecalculateZoneStructures = 1
		near := cmp.Comparer(func(a, b uint64) bool { return max(a, b)-min(a, b) < picks/100 && (a > 9) == (b > 9) })
		if diff := cmp.Diff(test.stats, stats, near); diff != "" {
			t.Errorf("%s: statistics (-want +got):\n%s", test.name, diff)
		}
	}
}

// TestZoneBounds pins which zone the first and the last random number of each share
// leads to.
func TestZoneBounds(t *testing.T) {
	z, c := &zones{toLocal: 2500, residual: []uint64{0, 10, 10, 30}}, &counters{}
	for _, test := range []struct {
		sampled, drawn uint64
		want           int
	}{
		{0, 0, 0}, {2499, 0, 0}, {2500, 0, 1}, {9999, 9, 1}, {2500, 10, 3}, {2500, 29, 3}, {2500, 30, 1}, {10000, 0, 0}, {12500, 40, 3},
	} {
		numbers := []uint64{test.sampled, test.drawn}
		got := z.choose(func() uint64 { defer func() { numbers = numbers[1:] }(); return numbers[0] }, c)
		if got != test.want {
			t.Errorf("random numbers %d and %d: got zone %d, want %d", test.sampled, test.drawn, got, test.want)
		}
	}
}

// TestZoneWithoutCapacity pins what happens when rounding leaves no capacity.
func TestZoneWithoutCapacity(t *testing.T) {
	z, c := &zones{residual: []uint64{0, 0, 0}}, &counters{}
	r, got := random(1), make([]int, 3)
	for range 3000 {
		got[z.choose(r.Uint64, c)]++
	}
	for i, n := range got {
		if n < 800 {
			t.Errorf("zone %d: got %d of 3000 picks", i, n)
		}
	}
	if s := c.read(); s.ZoneNoCapacityLeft != 3000 || s.ZoneRoutingCrossZone != 3000 {
		t.Errorf("got %+v, want 3000 without capacity", s)
	}
}

// TestZoneOfDegraded pins that the zones of degraded hosts are those of healthy ones,
// as in Envoy: a zone without degraded hosts leaves the pick without a host.
func TestZoneOfDegraded(t *testing.T) {
	m := Membership{Hosts: inZones("aabbAAAAAAAAAA"), Local: inZones("ab")}
	m.Hosts = append(m.Hosts, host(99, Endpoint{Status: StatusDegraded, Locality: Locality{Zone: "b"}}))
	b := balancer(t, Config{Locality: Locality{Zone: "a"}, ZoneAware: &ZoneAware{MinClusterSize: 1}, PanicThreshold: 1}, m)
	none := 0
	for range 1000 {
		h, info := b.Pick(Request{})
		if (h == nil) != info.Degraded {
			t.Fatalf("got %v, %+v, want no host for degraded picks alone", h, info)
		}
		if h == nil {
			none++
		}
	}
	if none == 0 || none == 1000 {
		t.Errorf("got no host %d times of 1000", none)
	}
}

// TestLeaveZone pins that a pick leaves the zone only after so many rejected ones, and
// then counts as none of the zones'.
func TestLeaveZone(t *testing.T) {
	all := inZones("abbccb")
	b := balancer(t, Config{Locality: Locality{Zone: "a"}, ZoneAware: &ZoneAware{ForceLocalZone: 1}, Rand: random(1).Uint64}, Membership{Hosts: all, Local: inZones("abc")})
	reject := func(h *Host) bool { return h == all[0] }
	for _, test := range []struct {
		after, picks int
		stays        bool
	}{{0, 21, true}, {30, 21, true}, {5, 5, false}} {
		before := b.Stats().ZoneRoutingAllDirectly
		h, info := b.Pick(Request{Reject: reject, MaxAttempts: 20, LeaveZoneAfter: test.after})
		if (h == all[0]) != test.stays || info.Rejected != test.stays {
			t.Errorf("after %d: got %v, %+v, want to stay: %v", test.after, h.Endpoint().Locality, info, test.stays)
		}
		if got := b.Stats().ZoneRoutingAllDirectly - before; got != uint64(test.picks) {
			t.Errorf("after %d: got %d picks of the zone, want %d", test.after, got, test.picks)
		}
	}
}
