package balance

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestSlowStartFactor pins the share of its weight that a new host has.
func TestSlowStartFactor(t *testing.T) {
	tests := []struct {
		config SlowStart
		age    time.Duration
		want   float64
	}{
		{SlowStart{Window: time.Minute}, 0, 0.1},
		{SlowStart{Window: time.Minute}, 3 * time.Second, 0.1},
		{SlowStart{Window: time.Minute}, 30 * time.Second, 0.5},
		{SlowStart{Window: time.Minute}, 45*time.Second + 999*time.Microsecond, 0.75}, // whole milliseconds count
		{SlowStart{Window: time.Minute}, time.Minute, 1},
		{SlowStart{Window: time.Minute}, time.Hour, 1},
		{SlowStart{Window: time.Minute, MinWeightPercent: Zero}, 0, 1 / 60000.},
		{SlowStart{Window: time.Minute, MinWeightPercent: 40}, 15 * time.Second, 0.4},
		{SlowStart{Window: time.Minute, Aggression: 2}, 15 * time.Second, 0.5},
		{SlowStart{Window: time.Minute, Aggression: 0.5}, 30 * time.Second, 0.25},
	}
	for _, test := range tests {
		c, err := Config{SlowStart: test.config}.complete()
		if err != nil {
			t.Fatal(err)
		}
		h := host(0, Endpoint{})
		if got := c.SlowStart.factor(h, test.age); got != 1 {
			t.Errorf("no start: got %v, want 1", got)
		}
		h.SetHealthySince(time.Hour)
		if got := c.SlowStart.factor(h, time.Hour+test.age); math.Abs(got-test.want) > 1e-9 {
			t.Errorf("%+v after %v: got %v, want %v", test.config, test.age, got, test.want)
		}
		h.SetFlags(FailedOutlierCheck)
		if got := c.SlowStart.factor(h, time.Hour); got != 1 {
			t.Errorf("unhealthy: got %v, want 1", got)
		}
	}
}

// TestSlowStartEnters pins which window is the newest: one of a healthy host, that is
// still open, whatever the order of the hosts.
func TestSlowStartEnters(t *testing.T) {
	s := &SlowStart{Window: time.Minute}
	all := hosts(4)
	for i, since := range []time.Duration{30 * time.Second, 50 * time.Second, 10 * time.Second, 80 * time.Second} {
		all[i].SetHealthySince(since)
	}
	all[3].SetFlags(FailedActiveHC)
	for now, want := range map[time.Duration]time.Duration{
		90 * time.Second: 50 * time.Second, 110 * time.Second: 50 * time.Second, 111 * time.Second: 5 * time.Second,
	} {
		if got := s.enters(all, 5*time.Second, now); got != want {
			t.Errorf("at %v: got %v, want %v", now, got, want)
		}
	}
	if got := s.enters(all, time.Hour, 90*time.Second); got != time.Hour {
		t.Errorf("a newer one before: got %v, want 1h", got)
	}
}

// shares returns how many of n picks at now each host receives.
func shares(b *Balancer, all []*Host, n int, now time.Duration) []int {
	counts, index := make([]int, len(all)), map[*Host]int{}
	for i, h := range all {
		index[h] = i
	}
	for range n {
		h, _ := b.Pick(Request{Now: now})
		counts[index[h]]++
	}
	return counts
}

// TestSlowStart has a host join three others, and its share grow from a tenth of
// theirs to the same.
func TestSlowStart(t *testing.T) {
	for _, p := range []Policy{RoundRobin, LeastRequest} {
		all := hosts(4)
		b := balancer(t, Config{Policy: p, SlowStart: SlowStart{Window: time.Minute}}, Membership{Hosts: all[:3]})
		if !b.UsesTime() {
			t.Errorf("%v: UsesTime is false", p)
		}
		if diff := cmp.Diff([]int{31, 31, 31, 0}, shares(b, all, 93, time.Second)); diff != "" {
			t.Errorf("%v: all are new (-want +got):\n%s", p, diff)
		}
		if err := b.Update(Membership{Hosts: all}, time.Hour); err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			age  time.Duration
			want []int
		}{
			{0, []int{100, 100, 100, 10}}, {30 * time.Second, []int{100, 100, 100, 50}}, {time.Hour, []int{100, 100, 100, 100}},
		} {
			now := time.Hour + step.age
			shares(b, all, 100, now) // weights are read when a host is put back
			n := 0
			for _, w := range step.want {
				n += w
			}
			for i, got := range shares(b, all, n, now) {
				if diff := got - step.want[i]; diff*diff > 9 {
					t.Errorf("%v after %v: host %d: got %d of %d picks, want %d", p, step.age, i, got, n, step.want[i])
				}
			}
		}
	}
}

// TestSlowStartEnds pins that without new hosts equal weights need no schedule, and
// that a host that turns healthy again starts anew.
func TestSlowStartEnds(t *testing.T) {
	all := hosts(2)
	b := balancer(t, Config{SlowStart: SlowStart{Window: time.Minute}}, Membership{Hosts: all})
	scheduled := func() bool { return b.state.Load().levels[0].healthy.edf != nil }
	refresh := func(now time.Duration) {
		t.Helper()
		if err := b.Refresh(now); err != nil {
			t.Fatal(err)
		}
	}
	if !scheduled() {
		t.Error("all are new: got no schedule")
	}
	refresh(time.Hour)
	if scheduled() {
		t.Error("none is new: got a schedule")
	}
	all[0].SetFlags(FailedActiveHC)
	refresh(2 * time.Hour)
	all[0].ClearFlags(FailedActiveHC)
	all[0].SetHealthySince(3 * time.Hour)
	refresh(3 * time.Hour)
	if !scheduled() {
		t.Error("a host turned healthy: got no schedule")
	}
	if since, _ := all[1].HealthySince(); since != 0 {
		t.Errorf("the other host is new since %v, want 0", since)
	}
	if n := shares(b, all, 1100, 3*time.Hour+time.Second); n[0] < 90 || n[0] > 110 {
		t.Errorf("got %v of 1100 picks, want a tenth of the other's", n)
	}
}

// TestSlowStartModel compares each pick with a schedule that searches all hosts, whose
// weights are computed anew for each pick: hosts join at random instants, and time
// passes between picks.
func TestSlowStartModel(t *testing.T) {
	for seed := range uint64(100) {
		r := random(seed)
		slow := SlowStart{Window: time.Duration(1+r.IntN(100)) * time.Second, Aggression: 0.5 + 2*r.Float64(), MinWeightPercent: 1 + 50*r.Float64()}
		m := Membership{}
		b := balancer(t, Config{SlowStart: slow, Rand: fixed(0)}, m)
		now, model := time.Duration(0), &slowEDF{}
		weight := func(i int) float64 {
			since, _ := m.Hosts[i].HealthySince()
			share := math.Pow(float64(max((now-since).Milliseconds(), 1))/float64(slow.Window.Milliseconds()), 1/slow.Aggression)
			return float64(m.Hosts[i].Endpoint().Weight) * min(max(share, slow.MinWeightPercent/100), 1)
		}
		for pick := range 400 {
			if pick%50 == 0 {
				m.Hosts = append(m.Hosts, host(2*pick, Endpoint{Weight: uint32(1 + r.IntN(3))}), host(2*pick+1, Endpoint{Weight: uint32(4 + r.IntN(3))}))
				if err := b.Update(m, now); err != nil {
					t.Fatal(err)
				}
				model = &slowEDF{order: len(m.Hosts)}
				for i := range m.Hosts {
					model.deadline, model.put = append(model.deadline, 1/(weight(i)+epsilon)), append(model.put, i)
				}
			}
			now += time.Duration(r.IntN(1000)) * time.Millisecond
			want := model.pick(weight)
			if h, _ := b.Pick(Request{Now: now}); h != m.Hosts[want] {
				t.Fatalf("seed %d, pick %d: got %v, want host %d", seed, pick, h.Endpoint().Address, want)
			}
		}
	}
}
