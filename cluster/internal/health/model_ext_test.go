package health_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion/cluster/internal/health"
)

// model is a slow and obvious twin of a session: it keeps every result, and finds the status by
// looking back at them.
type model struct {
	c       health.Config
	initial health.Status
	traffic bool
	results []health.Verdict
	failed  []bool // after each result
}

func (m *model) wasFailed(before int) bool {
	if before == 0 {
		return m.initial.Failed
	}
	return m.failed[before-1]
}

// inARow counts the results at the end that all passed, or all failed, since the host became
// what it is.
func (m *model) inARow(passed bool) uint32 {
	n := uint32(0)
	for i := len(m.results) - 1; i >= 0 && (m.results[i].Result != health.Failed) == passed && m.wasFailed(i) == passed; i-- {
		n++
	}
	return n
}

func (m *model) add(v health.Verdict) health.Step {
	before := m.status()
	m.results = append(m.results, v)
	n := len(m.results)
	failed := m.wasFailed(n - 1)
	passed := v.Result != health.Failed
	switch {
	case failed && passed && (n == 1 || m.inARow(true) == m.c.HealthyThreshold):
		failed = false
	case !failed && !passed:
		believed := (v.Failure == health.Active || v.Failure == health.Passive) && !v.Retriable
		failed = believed || m.inARow(false) == m.c.UnhealthyThreshold
	}
	m.failed = append(m.failed, failed)
	step := health.Step{Healthy: passed, Status: m.status(), First: n == 1}
	switch {
	case failed != before.Failed || before.Pending:
		step.Transition = health.Changed
	case failed == passed:
		step.Transition = health.ChangePending
	case step.Status.Degraded != before.Degraded:
		step.Transition = health.Changed
	}
	return step
}

func (m *model) status() health.Status {
	s := m.initial
	for i, v := range m.results {
		s.Pending = false
		s.Failed = m.failed[i]
		if v.Result != health.Failed {
			s.Degraded = v.Result == health.PassedDegraded
			if m.wasFailed(i) && !m.failed[i] {
				s.Excluded, s.TimedOut = false, false
			}
			continue
		}
		s.Excluded = s.Excluded || v.Exclude
		s.TimedOut = v.Failure == health.NetworkTimeout && m.failed[i]
	}
	return s
}

// interval is Envoy's choice of the time to the next check.
func (m *model) interval(step health.Step) time.Duration {
	value := func(ds ...time.Duration) time.Duration {
		for _, d := range ds {
			if d != 0 {
				return d
			}
		}
		return 0
	}
	pending := step.Transition == health.ChangePending
	switch c := m.c; {
	case !m.traffic && step.Healthy && !pending:
		return value(c.NoTrafficHealthyInterval, c.NoTrafficInterval, time.Minute)
	case !m.traffic:
		return value(c.NoTrafficInterval, time.Minute)
	case step.Healthy && pending:
		return value(c.HealthyEdgeInterval, c.Interval)
	case step.Healthy:
		return c.Interval
	case pending:
		return value(c.UnhealthyEdgeInterval, c.UnhealthyInterval, c.Interval)
	default:
		return value(c.UnhealthyInterval, c.Interval)
	}
}

func (m *model) stats(attempts int, closed bool) map[string]uint64 {
	stats := map[string]uint64{"attempt": uint64(attempts)}
	for _, v := range m.results {
		if v.Verified {
			stats["verify_cluster"]++
		}
		if v.Result != health.Failed {
			stats["success"]++
			continue
		}
		stats["failure"]++
		switch v.Failure {
		case health.Network, health.NetworkTimeout:
			stats["network_failure"]++
		case health.Passive:
			stats["passive_failure"]++
		case health.Active:
		}
	}
	if s := m.status(); !closed {
		if !s.Failed {
			stats["healthy"] = 1
		}
		if s.Degraded {
			stats["degraded"] = 1
		}
	}
	for name, value := range stats {
		if value == 0 {
			delete(stats, name)
		}
	}
	return stats
}

func nonzero(c *health.Checker) map[string]uint64 {
	stats := map[string]uint64{}
	for s := range health.Stat(health.StatCount) {
		if value := c.Stat(s); value != 0 {
			stats[s.String()] = value
		}
	}
	return stats
}

// chooser draws numbers below n.
type chooser func(n int) int

func oneOf[T any](choose chooser, values ...T) T { return values[choose(len(values))] }

func randomVerdict(choose chooser) health.Verdict {
	v := health.Verdict{Result: oneOf(choose, health.Passed, health.Passed, health.PassedDegraded, health.Failed, health.Failed, health.Failed)}
	v.Verified = choose(4) == 0
	if v.Result == health.Failed {
		v.Failure = oneOf(choose, health.Active, health.Network, health.Network, health.NetworkTimeout)
		v.Exclude = choose(3) == 0
		v.Retriable = v.Failure == health.Active && choose(2) == 0
	}
	return v
}

// compareWithModel drives a session and a model with what choose draws, until done.
func compareWithModel(t *testing.T, choose chooser, done func() bool) {
	t.Helper()
	const s = time.Second
	m := &model{
		c: health.Config{
			Timeout: s, Interval: 2 * s, UnhealthyThreshold: oneOf[uint32](choose, 1, 2, 3), HealthyThreshold: oneOf[uint32](choose, 1, 2, 3),
			NoTrafficInterval: oneOf(choose, 0, 3*s), NoTrafficHealthyInterval: oneOf(choose, 0, 4*s), UnhealthyInterval: oneOf(choose, 0, 5*s),
			UnhealthyEdgeInterval: oneOf(choose, 0, 6*s), HealthyEdgeInterval: oneOf(choose, 0, 7*s),
		},
		initial: health.Status{Failed: choose(4) > 0, Degraded: choose(4) == 0, Pending: choose(4) == 0},
	}
	checker, err := health.New(m.c, func() uint64 { return 0 })
	if err != nil {
		t.Fatal(err)
	}
	session := checker.Session(m.initial)
	now, attempts := time.Unix(0, 0), 0
	var over, underWay []health.Attempt // underWay is at most one
	for !done() {
		now = now.Add(time.Duration(choose(1000)) * time.Millisecond)
		var got health.Step
		var v health.Verdict
		switch choose(8) {
		case 0:
			checker.Traffic()
			m.traffic = true
			continue
		case 1:
			if got, _ = session.Fail(); !got.Next.IsZero() {
				t.Fatalf("Fail: got a next check at %v, want none", got.Next)
			}
			v = health.Verdict{Failure: health.Passive, Exclude: true}
		case 2: // a check that is given up
			attempts++
			attempt, _ := session.Begin(now)
			over, underWay = append(over, underWay...), []health.Attempt{attempt}
			continue
		default:
			attempts++
			attempt, ok := session.Begin(now)
			if !ok || !attempt.Deadline.Equal(now.Add(s)) {
				t.Fatalf("Begin: got %v, %v, want a deadline after 1s", attempt.Deadline, ok)
			}
			v = randomVerdict(choose)
			if got, ok = attempt.Done(v, now); !ok {
				t.Fatal("Done: got false, want true")
			}
			over, underWay = append(append(over, underWay...), attempt), nil
		}
		want := m.add(v)
		if v.Failure != health.Passive {
			want.Next = now.Add(m.interval(want))
		}
		got.Events = nil
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%+v after %+v (-want +got):\n%s", v, m.results, diff)
		}
		for _, attempt := range over {
			if _, ok := attempt.Done(health.Verdict{}, now); ok {
				t.Fatal("Done of a check that is over: got true, want false")
			}
		}
		if got, want := session.Status(), m.status(); got != want {
			t.Fatalf("status: got %v, want %v", got, want)
		}
		if diff := cmp.Diff(m.stats(attempts, false), nonzero(checker)); diff != "" {
			t.Fatalf("statistics (-want +got):\n%s", diff)
		}
	}
	step, ok := session.Close()
	if want := (health.Step{Healthy: !m.status().Failed, Status: m.status(), First: len(m.results) == 0}); !ok || !cmp.Equal(want, step) {
		t.Errorf("Close: got %+v, want %+v", step, want)
	}
	if diff := cmp.Diff(m.stats(attempts, true), nonzero(checker)); diff != "" {
		t.Errorf("statistics after Close (-want +got):\n%s", diff)
	}
}

// TestModel compares sessions with the model, over random results.
func TestModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(400) {
		steps := 0
		compareWithModel(t, rand.New(rand.NewPCG(seed, 1)).IntN, func() bool { steps++; return steps > 60 })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// FuzzModel is TestModel with results drawn from the input. Whatever they are, session and model
// agree on transitions, status, intervals and statistics, and a check ends once.
func FuzzModel(f *testing.F) {
	f.Add([]byte("health"))
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 7, 3, 1, 1, 1, 7, 4, 2, 2, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		at := 0
		choose := func(n int) int {
			if at >= len(data) {
				return 0
			}
			at++
			return int(data[at-1]) % n
		}
		compareWithModel(t, choose, func() bool { return at >= len(data) || at > 600 })
	})
}
