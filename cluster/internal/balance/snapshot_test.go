package balance

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// sameHosts compares hosts by identity.
func sameHosts() cmp.Options {
	return cmp.Options{cmp.Comparer(func(a, b *Host) bool { return a == b }), cmpopts.EquateEmpty()}
}

// drawMembership draws hosts of all kinds.
func drawMembership(seed uint64, most int) Membership {
	r := random(seed)
	m := Membership{LocalityWeights: map[PriorityLocality]uint32{}, WeightedPriorityHealth: r.IntN(2) == 0, OverprovisioningFactor: []uint32{0, 100, 140, 500}[r.IntN(4)]}
	priorities, sick := 1+r.IntN(4), r.IntN(5)
	locality := func() Locality {
		return Locality{Region: string(rune('a' + r.IntN(2))), Zone: string(rune('a' + r.IntN(2))), SubZone: string(rune('a' + r.IntN(2)))}
	}
	for i := range r.IntN(most) {
		e := Endpoint{Priority: r.IntN(priorities), Locality: locality(), Weight: uint32(r.IntN(5))}
		if r.IntN(4) < sick {
			e.Status = Status(r.IntN(6))
		}
		h := host(i, e)
		h.SetFlags(1 << r.IntN(20) & 0x7ff)
		m.Hosts = append(m.Hosts, h)
		m.LocalityWeights[PriorityLocality{e.Priority, e.Locality}] = uint32(r.IntN(4))
	}
	for i := range r.IntN(10) {
		m.Local = append(m.Local, host(1000+i, Endpoint{Locality: locality(), Priority: r.IntN(3)}))
	}
	return m
}

// TestPartition compares the lists of a snapshot with what filtering all hosts for
// each of them finds.
func TestPartition(t *testing.T) {
	for seed := range uint64(300) {
		m := drawMembership(seed, 60)
		local := Locality{Region: "b", Zone: "a", SubZone: "b"}
		s := balancer(t, Config{Locality: local, LocalityWeighted: true}, m).Snapshot()
		filter := func(keep func(h *Host, e *Endpoint) bool) (kept []*Host) {
			for _, h := range m.Hosts {
				if keep(h, h.Endpoint()) {
					kept = append(kept, h)
				}
			}
			return kept
		}
		for p, l := range s.Levels {
			at := func(e *Endpoint, where *Locality) bool {
				return e.Priority == p && (where == nil || e.Locality == *where)
			}
			groups := append([]LocalityHosts{{All: l.All, Healthy: l.Healthy, Degraded: l.Degraded, Excluded: l.Excluded}}, l.Localities...)
			for i, group := range groups {
				where := &group.Locality
				if i == 0 {
					where = nil
				}
				want := LocalityHosts{
					Locality: group.Locality,
					All:      filter(func(_ *Host, e *Endpoint) bool { return at(e, where) }),
					Healthy:  filter(func(h *Host, e *Endpoint) bool { return at(e, where) && h.Health() == Healthy }),
					Degraded: filter(func(h *Host, e *Endpoint) bool { return at(e, where) && h.Health() == Degraded }),
					Excluded: filter(func(h *Host, e *Endpoint) bool { return at(e, where) && h.Flags().Excluded() }),
				}
				if where != nil {
					want.Weight = m.LocalityWeights[PriorityLocality{p, *where}]
				}
				if diff := cmp.Diff(want, group, sameHosts()); diff != "" {
					t.Fatalf("seed %d, priority %d, group %d (-want +got):\n%s", seed, p, i, diff)
				}
			}
			rest := l.Localities
			if hasLocal := slices.ContainsFunc(l.All, func(h *Host) bool { return h.Endpoint().Locality == local }); hasLocal != l.HasLocal || hasLocal && rest[0].Locality != local {
				t.Fatalf("seed %d, priority %d: HasLocal is %v, localities %+v", seed, p, l.HasLocal, l.Localities)
			}
			if l.HasLocal {
				rest = rest[1:]
			}
			if !slices.IsSortedFunc(rest, func(a, b LocalityHosts) int {
				return strings.Compare(a.Locality.Region+a.Locality.Zone+a.Locality.SubZone, b.Locality.Region+b.Locality.Zone+b.Locality.SubZone)
			}) {
				t.Fatalf("seed %d, priority %d: the localities are not in order", seed, p)
			}
		}
		total, healthy, degraded, excluded := s.Counts()
		want := []int{len(m.Hosts), len(filter(func(h *Host, _ *Endpoint) bool { return h.Health() == Healthy })), len(filter(func(h *Host, _ *Endpoint) bool { return h.Health() == Degraded })), len(filter(func(h *Host, _ *Endpoint) bool { return h.Flags().Excluded() }))}
		if diff := cmp.Diff(want, []int{total, healthy, degraded, excluded}); diff != "" {
			t.Fatalf("seed %d: counts (-want +got):\n%s", seed, diff)
		}
	}
}

// TestPriorityGaps pins that a level without hosts stands for each gap.
func TestPriorityGaps(t *testing.T) {
	h := host(0, Endpoint{Priority: 128})
	b := balancer(t, Config{}, Membership{Hosts: []*Host{h}})
	if got := len(b.Snapshot().Levels); got != 129 {
		t.Errorf("got %d levels, want 129", got)
	}
	if got, info := b.Pick(Request{}); got != h || info.Priority != 128 || info.Panic {
		t.Errorf("got %v, %+v, want the host of priority 128", got, info)
	}
	if l := b.Snapshot().Levels[0].Localities; l != nil {
		t.Errorf("got localities %v, want none, since nothing uses them", l)
	}
}

func TestBadMembership(t *testing.T) {
	good := []*Host{host(0, Endpoint{})}
	tests := []struct {
		name   string
		policy Policy
		member Membership
		want   string
	}{
		{"nil host", RoundRobin, Membership{Hosts: []*Host{good[0], nil}}, "balance: Membership.Hosts[1]: nil"},
		{"nil local host", RoundRobin, Membership{Local: []*Host{nil}}, "balance: Membership.Local[0]: nil"},
		{"negative priority", RoundRobin, Membership{Hosts: []*Host{host(1, Endpoint{Priority: -1})}}, "balance: Membership.Hosts[0] (10.0.0.1:80): Priority: -1 is not between 0 and 128"},
		{"large priority", RoundRobin, Membership{Hosts: []*Host{host(1, Endpoint{Priority: 129})}}, "balance: Membership.Hosts[0] (10.0.0.1:80): Priority: 129 is not between 0 and 128"},
		{"weights", RingHash, Membership{Hosts: weightedHosts(math.MaxUint32, 1)}, "balance: Membership.Hosts: the sum of the weights of priority 0 exceeds 4294967295"},
		{"locality weights", Maglev, Membership{LocalityWeights: map[PriorityLocality]uint32{{1, Locality{}}: math.MaxUint32, {1, Locality{Zone: "a"}}: 1}}, "balance: Membership.LocalityWeights: the sum of priority 1 exceeds 4294967295"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := balancer(t, Config{Policy: test.policy}, Membership{Hosts: good})
			before := b.Snapshot()
			if err := b.Update(test.member, 0); err == nil || err.Error() != test.want {
				t.Errorf("got %v, want %s", err, test.want)
			}
			if h, _ := b.Pick(Request{}); b.Snapshot() != before || h != good[0] {
				t.Error("the hosts before the error did not stay")
			}
		})
	}
	b := balancer(t, Config{}, Membership{Hosts: weightedHosts(math.MaxUint32, math.MaxUint32)})
	if h, _ := b.Pick(Request{}); h == nil {
		t.Error("round robin: got no host with large weights, want one")
	}
	h := host(0, Endpoint{})
	b = balancer(t, Config{}, Membership{Hosts: []*Host{h}})
	h.SetEndpoint(Endpoint{Priority: 200})
	if err := b.Refresh(0); err == nil {
		t.Error("Refresh with a bad priority: got no error")
	}
}

// TestMembershipIsCopied pins that what a caller does to its slices changes no pick.
func TestMembershipIsCopied(t *testing.T) {
	m := Membership{Hosts: hosts(2), LocalityWeights: map[PriorityLocality]uint32{{}: 1}}
	b := balancer(t, Config{LocalityWeighted: true}, m)
	m.Hosts[0], m.Hosts[1] = nil, nil
	m.LocalityWeights[PriorityLocality{}] = 0
	if err := b.Refresh(0); err != nil {
		t.Error(err)
	}
	if h, _ := b.Pick(Request{}); h == nil || b.Snapshot().Levels[0].Localities[0].Weight != 1 {
		t.Errorf("got host %v of %+v", h, b.Snapshot().Levels[0])
	}
}
