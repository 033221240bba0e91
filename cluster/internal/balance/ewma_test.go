package balance

import (
	"math"
	"testing"
	"time"
)

// slowPeak is Finagle's metric.
type slowPeak struct {
	cost  float64
	stamp time.Duration
}

func (s *slowPeak) observe(rtt float64, now, tau time.Duration) {
	w := math.Exp(-max((now-s.stamp).Seconds(), 0) / tau.Seconds())
	if rtt >= s.cost {
		s.cost = rtt
	} else {
		s.cost = rtt*(1-w) + s.cost*w
	}
	s.stamp = max(now, s.stamp)
}

// read is what each pick does with the hosts that it draws.
func (s *slowPeak) read(now, tau time.Duration) { s.observe(0, now, tau) }

// TestPeakModel compares averages with those of Finagle's metric, which the pick of
// each request reads, and others before it; also when observations arrive in another
// order than that of their instants.
func TestPeakModel(t *testing.T) {
	for seed := range uint64(100) {
		r, decay := random(seed), 10*time.Second
		var p peak
		var s slowPeak
		now := time.Duration(0)
		for i := range 300 {
			now += time.Duration(r.Int64N(5e9)) - time.Second
			latency := time.Duration(1 + r.Int64N(2e9))
			s.read(now-latency-time.Duration(r.Int64N(3e9)), decay)
			s.read(now-latency, decay)
			p.observe(latency, now, decay)
			s.observe(float64(latency), now, decay)
			if got, age := p.read(now + time.Hour); math.Abs(got-s.cost) > 1e-6*s.cost || age != now+time.Hour-s.stamp {
				t.Fatalf("seed %d, observation %d: got %v of %v, want %v of %v", seed, i, got, age, s.cost, now+time.Hour-s.stamp)
			}
		}
	}
}

// TestPeak pins what the average is for: a rise counts immediately, a fall slowly.
func TestPeak(t *testing.T) {
	var p peak
	if got, _ := p.read(time.Hour); got != 0 {
		t.Errorf("nothing observed: got %v, want 0", got)
	}
	p.observe(10*time.Millisecond, 0, 10*time.Second)
	p.observe(time.Second, time.Millisecond, 10*time.Second)
	if got, _ := p.last(); got != time.Second {
		t.Errorf("after a rise: got %v, want 1s", got)
	}
	p.observe(10*time.Millisecond, 2*time.Millisecond, 10*time.Second)
	if got, _ := p.last(); got < 999*time.Millisecond {
		t.Errorf("after a fall: got %v, want almost 1s", got)
	}
	p.observe(10*time.Millisecond, 10*time.Second, 10*time.Second)
	if got, _ := p.last(); got < 366*time.Millisecond || got > 370*time.Millisecond {
		t.Errorf("10s after a fall: got %v, want about 368ms", got)
	}
	p.observe(-time.Second, 20*time.Second, 10*time.Second)
	if got, ok := p.last(); !ok || got <= 0 {
		t.Errorf("after a negative latency: got %v, %v, want more than 0", got, ok)
	}
}

// TestCheaper compares it with decayed averages.
func TestCheaper(t *testing.T) {
	r, decay := random(1), 10*time.Second
	for range 100000 {
		a, b := 1000*r.Float64(), 1000*r.Float64()
		aAge, bAge := time.Duration(r.IntN(5))*time.Second, time.Duration(r.IntN(5))*time.Second
		decayed := func(v float64, age time.Duration) float64 { return v * math.Exp(-age.Seconds()/10) }
		if want := decayed(a, aAge) < decayed(b, bAge); cheaper(a, aAge, b, bAge, decay) != want {
			t.Fatalf("%v of %v, %v of %v: got %v", a, aAge, b, bAge, !want)
		}
	}
	if cheaper(1, 0, 1, 0, decay) || cheaper(0, 0, 0, time.Hour, decay) {
		t.Error("equal costs: got cheaper")
	}
}

// TestPeakEWMA pins which of two hosts is used.
func TestPeakEWMA(t *testing.T) {
	const ms = time.Millisecond
	type state struct {
		latency, at time.Duration
		active      int64
		weight      uint32
	}
	tests := []struct {
		name   string
		states [2]state
		now    time.Duration
		want   []int // those that may be used
	}{
		{"faster", [2]state{{latency: 10 * ms}, {latency: 20 * ms}}, 0, []int{0}},
		{"fewer active", [2]state{{latency: 10 * ms, active: 2}, {latency: 20 * ms}}, 0, []int{1}},
		{"never used", [2]state{{latency: ms}, {}}, 0, []int{1}},
		{"never used, waiting", [2]state{{latency: time.Second, active: 1000}, {active: 1}}, 0, []int{0}},
		{"both waiting", [2]state{{active: 1}, {active: 2}}, 0, []int{0}},
		{"heavier", [2]state{{latency: 10 * ms}, {latency: 15 * ms, weight: 2}}, 0, []int{1}},
		{"decayed", [2]state{{latency: 100 * ms}, {latency: 20 * ms, at: 30 * time.Second}}, 30 * time.Second, []int{0}},
		{"the same", [2]state{{latency: ms}, {latency: ms}}, 0, []int{0, 1}},
		{"a negative count", [2]state{{latency: ms, active: -5}, {latency: 2 * ms}}, 0, []int{0}},
	}
	for _, test := range tests {
		all := make([]*Host, 2)
		for i, s := range test.states {
			all[i] = host(i, Endpoint{Weight: s.weight})
		}
		b := balancer(t, Config{Policy: PeakEWMA, Rand: random(1).Uint64}, Membership{Hosts: all})
		for i, s := range test.states {
			if s.latency > 0 {
				b.Observe(all[i], s.latency, s.at)
			}
			all[i].AddActive(s.active)
		}
		got := map[int]bool{}
		for _, i := range []int{0, 1} {
			if shares(b, all, 200, test.now)[i] > 0 {
				got[i] = true
			}
		}
		if len(got) != len(test.want) || !got[test.want[0]] {
			t.Errorf("%s: got hosts %v, want %v", test.name, got, test.want)
		}
	}
}

// TestPeakEWMADraws pins that two different hosts are drawn, each as often, so that
// the slowest of all is never used and others share the picks.
func TestPeakEWMADraws(t *testing.T) {
	all := hosts(5)
	b := balancer(t, Config{Policy: PeakEWMA, Rand: random(1).Uint64}, Membership{Hosts: all})
	for i, h := range all {
		b.Observe(h, time.Duration(i+1)*time.Millisecond, 0)
	}
	for i, n := range shares(b, all, 10000, 0) {
		if want := 1000 * (4 - i); n < want-150 || n > want+150 {
			t.Errorf("host %d: got %d of 10000 picks, want about %d", i, n, want)
		}
	}
	b = balancer(t, Config{Policy: RoundRobin}, Membership{Hosts: all})
	before, _ := all[0].Latency()
	if b.Observe(all[0], time.Hour, time.Hour); b.UsesTime() {
		t.Error("round robin: UsesTime is true")
	}
	if after, _ := all[0].Latency(); after != before {
		t.Errorf("round robin: Observe changed the latency to %v", after)
	}
}

// TestObserveAtLeast pins that a canceled request raises the latency of a host, and
// never lowers it.
func TestObserveAtLeast(t *testing.T) {
	all := hosts(1)
	b := balancer(t, Config{Policy: PeakEWMA}, Membership{Hosts: all})
	for i, step := range []struct{ took, want time.Duration }{
		{20 * time.Millisecond, 20 * time.Millisecond}, {time.Millisecond, 20 * time.Millisecond}, {time.Second, time.Second},
	} {
		b.ObserveAtLeast(all[0], step.took, time.Duration(i)*time.Hour)
		if got, _ := all[0].Latency(); got != step.want {
			t.Errorf("%v: got %v, want %v", step.took, got, step.want)
		}
	}
}
