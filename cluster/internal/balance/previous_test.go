package balance

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPreviousPriorities goes through retries of clusters whose load is all in one
// priority at a time, as Envoy makes them.
func TestPreviousPriorities(t *testing.T) {
	tests := []struct {
		frequency, priorities int
		want                  []int
	}{
		{0, 3, []int{0, 1, 2, 0, 1, 2, 0}},
		{1, 1, []int{0, 0, 0, 0}},
		{1, 2, []int{0, 1, 0, 1, 0}},
		{1, 3, []int{0, 1, 2, 0, 1, 2, 0}},
		{2, 3, []int{0, 0, 1, 1, 2, 2, 0, 0, 1, 1}},
		{3, 2, []int{0, 0, 0, 1, 1, 1, 0, 0, 0}},
	}
	for _, test := range tests {
		m := Membership{}
		for p := range test.priorities {
			m.Hosts = append(m.Hosts, host(p, Endpoint{Priority: p}))
		}
		b := balancer(t, Config{}, m)
		previous := &PreviousPriorities{UpdateFrequency: test.frequency}
		var got []int
		for range test.want {
			h, info := b.Pick(Request{Previous: previous})
			previous.Attempted(h)
			got = append(got, info.Priority)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("frequency %d, %d priorities (-want +got):\n%s", test.frequency, test.priorities, diff)
		}
	}
}

// TestPreviousPrioritiesLoad pins the load that the remaining priorities receive.
func TestPreviousPrioritiesLoad(t *testing.T) {
	m := levels([4]int{1}, [4]int{1, 0, 1}, [4]int{1, 1, 2}, [4]int{0, 0, 1})
	s := balancer(t, Config{}, m).Snapshot()
	at := func(p int) *Host { return s.Levels[p].All[0] }
	p := &PreviousPriorities{}
	show := func() string {
		l := p.load(s)
		return fmt.Sprint(l.healthy, l.degraded)
	}
	for i, step := range []struct {
		attempted int
		want      string
	}{
		{-1, "[100 0 0 0] [0 0 0 0]"},
		{0, "[0 70 30 0] [0 0 0 0]"},
		{1, "[0 0 50 0] [0 0 50 0]"},
		{1, "[0 0 50 0] [0 0 50 0]"},
		{2, "[100 0 0 0] [0 0 0 0]"}, // none is left: it starts over
	} {
		if step.attempted >= 0 {
			p.Attempted(at(step.attempted))
		}
		if got := show(); got != step.want {
			t.Errorf("step %d: got %s, want %s", i, got, step.want)
		}
	}
	if got := p.load(s); got != &s.load {
		t.Error("after it started over: got a load of its own, want that of the snapshot until the next attempt")
	}
}

// TestPreviousPrioritiesUpdate has the hosts change between attempts.
func TestPreviousPrioritiesUpdate(t *testing.T) {
	b := balancer(t, Config{}, levels([4]int{1}, [4]int{1}))
	p := &PreviousPriorities{UpdateFrequency: 2}
	attempt := func(want int) {
		t.Helper()
		h, info := b.Pick(Request{Previous: p})
		if p.Attempted(h); info.Priority != want {
			t.Errorf("got priority %d, want %d", info.Priority, want)
		}
	}
	attempt(0)
	attempt(0)
	attempt(1)
	if err := b.Update(levels([4]int{1}, [4]int{1}, [4]int{1}), 0); err != nil {
		t.Fatal(err)
	}
	attempt(2) // the load is computed anew for three priorities, without 0 and 1
	if err := b.Update(levels([4]int{0, 0, 1}), 0); err != nil {
		t.Fatal(err)
	}
	if h, info := b.Pick(Request{Previous: p}); h == nil || !info.Panic {
		t.Errorf("none available: got %v, %+v, want a host in panic", h, info)
	}
}

// TestPreviousPrioritiesOut has the only priority that is not excluded fail between
// attempts: the next one uses what is left.
func TestPreviousPrioritiesOut(t *testing.T) {
	m := levels([4]int{1}, [4]int{1}, [4]int{1})
	b := balancer(t, Config{PanicThreshold: Zero}, m)
	p := &PreviousPriorities{UpdateFrequency: 2}
	for i, want := range []int{0, 0, 1, 2} {
		if i == 3 {
			m.Hosts[1].SetFlags(FailedOutlierCheck)
			if err := b.Refresh(0); err != nil {
				t.Fatal(err)
			}
		}
		h, info := b.Pick(Request{Previous: p})
		if h == nil || info.Priority != want {
			t.Fatalf("attempt %d: got %v, %+v, want a host of priority %d", i, h, info, want)
		}
		p.Attempted(h)
	}
}

// TestPreviousPrioritiesStartOver has a rejected pick start over, so that the next one
// uses the load of the snapshot: what is reported is that of the last pick.
func TestPreviousPrioritiesStartOver(t *testing.T) {
	m := levels([4]int{1, 1, 8})
	b := balancer(t, Config{Rand: fixed(99)}, m)
	p := &PreviousPriorities{}
	p.Attempted(m.Hosts[0])
	picks := 0
	h, info := b.Pick(Request{Previous: p, MaxAttempts: 1, Reject: func(*Host) bool { picks++; return picks == 1 }})
	if want := (Info{Panic: true, Picks: 2}); h == nil || info != want {
		t.Errorf("got %v, %+v, want %+v", h, info, want)
	}
}

// TestPreviousPrioritiesModel pins for all kinds of clusters that the load is 100 %
// in all, and that excluded priorities receive none while others are available.
func TestPreviousPrioritiesModel(t *testing.T) {
	for seed := range uint64(500) {
		r := random(seed)
		s := balancer(t, Config{}, drawMembership(seed, 40)).Snapshot()
		p := &PreviousPriorities{UpdateFrequency: r.IntN(4)}
		for range 8 {
			before := slices.Clone(p.attempted)
			l := p.load(s)
			if sum(l.healthy)+sum(l.degraded) != 100 {
				t.Fatalf("seed %d: got loads %v and %v, want 100 %% in all", seed, l.healthy, l.degraded)
			}
			for i := range s.Levels {
				excluded := l == &p.adjusted && len(p.attempted) > 0 && p.excluded[i]
				if got := l.healthy[i] + l.degraded[i]; excluded && got > 0 {
					t.Fatalf("seed %d: priority %d is excluded and receives %d %%", seed, i, got)
				}
			}
			if len(p.attempted) > len(before) {
				t.Fatalf("seed %d: the attempts grew", seed)
			}
			for i := range s.Levels {
				if hosts := s.Levels[i].All; len(hosts) > 0 && r.IntN(2) == 0 {
					p.Attempted(hosts[0])
					break
				}
			}
		}
	}
}
