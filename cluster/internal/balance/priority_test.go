package balance

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// levels returns a membership with the given numbers of healthy, degraded, unhealthy
// and draining hosts in each priority.
func levels(numbers ...[4]int) (m Membership) {
	for p, n := range numbers {
		for i, s := range []Status{StatusHealthy, StatusDegraded, StatusUnhealthy, StatusDraining} {
			for range n[i] {
				m.Hosts = append(m.Hosts, host(len(m.Hosts), Endpoint{Priority: p, Status: s}))
			}
		}
	}
	return m
}

// loads returns the load of each priority, with "!" for panic, as in "70+0 30+0!".
func loads(s *Snapshot) string {
	var all []string
	for _, l := range s.Levels {
		text := fmt.Sprintf("%d+%d", l.LoadPercent, l.DegradedLoadPercent)
		if l.Panic {
			text += "!"
		}
		all = append(all, text)
	}
	return strings.Join(all, " ")
}

// TestLoads goes through the tables of Envoy's documentation on priority levels,
// degraded endpoints and the panic threshold.
func TestLoads(t *testing.T) {
	tests := []struct {
		name      string
		member    Membership
		threshold float64
		want      string
	}{
		{"all healthy", levels([4]int{100}, [4]int{100}), 0, "100+0 0+0"},
		{"72 % healthy", levels([4]int{72, 0, 28}, [4]int{100}), 0, "100+0 0+0"},
		{"71 % healthy", levels([4]int{71, 0, 29}, [4]int{100}), 0, "99+0 1+0"},
		{"50 % healthy", levels([4]int{50, 0, 50}, [4]int{100}), 0, "70+0 30+0"},
		{"25 % healthy", levels([4]int{25, 0, 75}, [4]int{100}), 0, "35+0 65+0"},
		{"none healthy", levels([4]int{0, 0, 100}, [4]int{100}), 0, "0+0 100+0"},
		{"25 and 25 %", levels([4]int{25, 0, 75}, [4]int{25, 0, 75}), Zero, "50+0 50+0"},
		{"three priorities", levels([4]int{20, 0, 80}, [4]int{20, 0, 80}, [4]int{10, 0, 90}), Zero, "40+0 40+0 20+0"},
		{"degraded", levels([4]int{0, 100}, [4]int{100}), 0, "0+0 100+0"},
		{"degraded takes what is left", levels([4]int{25, 75}), 0, "35+65"},
		{"rounding goes to the first", levels([4]int{10, 20, 70}, [4]int{20, 10, 70}, [4]int{10, 0, 90}), Zero, "16+28 28+14 14+0"},
		{"enough in all", levels([4]int{25, 0, 75}, [4]int{50, 0, 50}), 0, "35+0 65+0"},
		{"panic in the first only", levels([4]int{5, 0, 95}, [4]int{50, 0, 50}), 0, "10+0! 90+0"},
		{"panic in both", levels([4]int{5, 0, 95}, [4]int{25, 0, 75}), 0, "50+0! 50+0!"},
		{"panic in both, by number", levels([4]int{5, 0, 95}, [4]int{5, 0, 45}), 0, "67+0! 33+0!"},
		{"none available", levels([4]int{0, 0, 2}, [4]int{0, 0, 2}), 0, "50+0! 50+0!"},
		{"none available, no panic", levels([4]int{0, 0, 2}, [4]int{0, 0, 2}), Zero, "100+0 0+0"},
		{"no hosts", Membership{}, 0, "100+0!"},
		{"no hosts, no panic", Membership{}, Zero, "100+0"},
		{"draining does not count", levels([4]int{1, 0, 0, 99}), 0, "100+0"},
		{"only draining", levels([4]int{0, 0, 0, 3}), 0, "100+0!"},
		{"degraded counts against panic", levels([4]int{25, 25, 50}), 0, "50+50"},
		{"degraded only", levels([4]int{0, 1, 1}), 0, "0+100"},
		{"threshold 100", levels([4]int{70, 0, 30}), 100, "100+0!"},
		{"rounding goes to the first that is available", levels([4]int{0, 0, 1}, [4]int{10, 20, 70}, [4]int{20, 10, 70}, [4]int{10, 0, 90}), Zero, "0+0 16+28 28+14 14+0"},
		{"panic in all behind a gap", levels([4]int{}, [4]int{0, 0, 1}, [4]int{0, 0, 2}), 0, "0+0! 34+0! 66+0!"},
		{"a gap", levels([4]int{0, 0, 1}, [4]int{}, [4]int{1, 0, 2}), 0, "25+0! 0+0! 75+0!"},
	}
	for _, test := range tests {
		s := balancer(t, Config{PanicThreshold: test.threshold}, test.member).Snapshot()
		if got := loads(s); got != test.want {
			t.Errorf("%s: got %s, want %s", test.name, got, test.want)
		}
	}
}

// TestPanicThreshold pins where the threshold lies, with a seventh of the hosts: a
// fraction is cut off, and 29 counts as 28, as in Envoy.
func TestPanicThreshold(t *testing.T) {
	for threshold, want := range map[float64]bool{28: false, 28.6: false, 28.9: false, 29: false, 30: true, 57: true} {
		s := balancer(t, Config{PanicThreshold: threshold}, levels([4]int{2, 0, 5})).Snapshot()
		if s.Levels[0].Panic != want {
			t.Errorf("threshold %v, 28.57 %% healthy: got panic %v, want %v", threshold, s.Levels[0].Panic, want)
		}
	}
}

func TestWeightedPriorityHealth(t *testing.T) {
	m := Membership{Hosts: []*Host{host(0, Endpoint{Weight: 9}), host(1, Endpoint{Status: StatusUnhealthy}), host(2, Endpoint{Priority: 1})}}
	if got := loads(balancer(t, Config{}, m).Snapshot()); got != "70+0 30+0" {
		t.Errorf("by number: got %s, want 70+0 30+0", got)
	}
	m.WeightedPriorityHealth = true
	if got := loads(balancer(t, Config{}, m).Snapshot()); got != "100+0 0+0" {
		t.Errorf("by weight: got %s, want 100+0 0+0", got)
	}
}

// slowLoads hands out the load percent by percent.
func slowLoads(s *Snapshot) (healthy, degraded []uint32) {
	available := uint32(0)
	for _, l := range s.Levels {
		available += l.HealthPercent + l.DegradedPercent
	}
	available = min(available, 100)
	healthy, degraded = make([]uint32, len(s.Levels)), make([]uint32, len(s.Levels))
	left := 100
	give := func(to *uint32, percent uint32) {
		for ; left > 0 && (*to+1)*available <= percent*100; left-- {
			*to++
		}
	}
	for i, l := range s.Levels {
		give(&healthy[i], l.HealthPercent)
	}
	for i, l := range s.Levels {
		give(&degraded[i], l.DegradedPercent)
	}
	for i, l := range s.Levels {
		if l.HealthPercent > 0 {
			healthy[i] += uint32(left)
			return healthy, degraded
		}
	}
	for i, l := range s.Levels {
		if l.DegradedPercent > 0 {
			degraded[i] += uint32(left)
			return healthy, degraded
		}
	}
	return healthy, degraded
}

// TestLoadsModel compares the loads and the choices by them with a slow model.
func TestLoadsModel(t *testing.T) {
	for seed := range uint64(1000) {
		s := balancer(t, Config{PanicThreshold: Zero}, drawMembership(seed, 40)).Snapshot()
		healthy, degraded := slowLoads(s)
		available := false
		for _, l := range s.Levels {
			available = available || l.HealthPercent+l.DegradedPercent > 0
		}
		if !available {
			healthy[0] = 100
		}
		if diff := cmp.Diff([][]uint32{healthy, degraded}, [][]uint32{s.load.healthy, s.load.degraded}); diff != "" {
			t.Fatalf("seed %d: loads (-want +got):\n%s", seed, diff)
		}
		type choice struct {
			priority int
			degraded bool
		}
		var slots []choice
		for degradedToo, shares := range [][]uint32{healthy, degraded} {
			for p, share := range shares {
				for range share {
					slots = append(slots, choice{p, degradedToo == 1})
				}
			}
		}
		if len(slots) != 100 {
			t.Fatalf("seed %d: the loads are %d %% in all", seed, len(slots))
		}
		for hash := range uint64(100) {
			if p, d := s.load.choose(hash + 300); (choice{p, d}) != slots[hash] {
				t.Fatalf("seed %d, hash %d: got priority %d, degraded %v, want %+v", seed, hash, p, d, slots[hash])
			}
		}
	}
	if p, d := (&load{healthy: []uint32{0, 1}, degraded: []uint32{0, 0}}).choose(50); p != 0 || d {
		t.Errorf("beyond all loads: got priority %d, degraded %v, want 0, false", p, d)
	}
}

// TestPanicModel pins when a level is in panic.
func TestPanicModel(t *testing.T) {
	for seed := range uint64(1000) {
		threshold := float64(seed % 101)
		if threshold == 0 {
			threshold = Zero
		}
		s := balancer(t, Config{PanicThreshold: threshold}, drawMembership(seed, 40)).Snapshot()
		available, all, sum := uint32(0), true, uint32(0)
		for _, l := range s.Levels {
			available += l.HealthPercent + l.DegradedPercent
			all = all && l.Panic
			sum += l.LoadPercent + l.DegradedLoadPercent
		}
		for i, l := range s.Levels {
			hosts, usable := len(l.All)-len(l.Excluded), len(l.Healthy)+len(l.Degraded)
			if hosts == 0 {
				usable = 0
			}
			want := available < 100 && usable*100 < int(wholePercent(max(threshold, 0)))*max(hosts, 1)
			if l.Panic != want {
				t.Errorf("seed %d, priority %d: got panic %v with %d of %d hosts, %d %% available, threshold %v", seed, i, l.Panic, usable, hosts, available, threshold)
			}
			if total, _, _, _ := s.Counts(); all && total > 0 {
				if share := uint32(100 * len(l.All) / total); l.LoadPercent != share && (l.LoadPercent < share || i > 0 && len(s.Levels[0].All) > 0) {
					t.Errorf("seed %d, priority %d: got load %d, want %d", seed, i, l.LoadPercent, share)
				}
			}
		}
		if sum != 100 {
			t.Errorf("seed %d: the loads are %d %% in all", seed, sum)
		}
	}
}
