package health_test

import (
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pillion-go/pillion/cluster/internal/health"
)

var start = time.Unix(0, 0)

func config() health.Config {
	return health.Config{Timeout: time.Second, Interval: 10 * time.Second, UnhealthyThreshold: 2, HealthyThreshold: 2}
}

func newChecker(t *testing.T, c health.Config, draws ...uint64) *health.Checker {
	t.Helper()
	checker, err := health.New(c, func() uint64 {
		if len(draws) == 0 {
			t.Error("got one more draw than expected")
			return 0
		}
		draw := draws[0]
		draws = draws[1:]
		return draw
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if len(draws) > 0 {
			t.Errorf("got %d draws left, want 0", len(draws))
		}
	})
	return checker
}

var (
	passed  = health.Verdict{Result: health.Passed}
	network = health.Verdict{Failure: health.Network}
	refused = health.Verdict{Failure: health.Active, Code: 503, Err: errors.New("unexpected status 503")}
)

// done makes one check.
func done(t *testing.T, s *health.Session, v health.Verdict) health.Step {
	t.Helper()
	attempt, ok := s.Begin(start)
	if !ok {
		t.Fatal("Begin: got false, want true")
	}
	step, ok := attempt.Done(v, start)
	if !ok {
		t.Fatal("Done: got false, want true")
	}
	return step
}

func TestEvents(t *testing.T) {
	t.Parallel()
	always := config()
	always.AlwaysLogFailures, always.AlwaysLogSuccess = true, true
	degraded := health.Verdict{Result: health.PassedDegraded}
	for name, test := range map[string]struct {
		config   health.Config
		initial  health.Status
		verdicts []health.Verdict
		want     string
	}{
		"the first check passes": {config(), health.NewHost(), []health.Verdict{passed, passed}, "add_healthy_event(first) | "},
		"the first check fails":  {config(), health.NewHost(), []health.Verdict{refused, refused}, "health_check_failure_event(first ACTIVE 503) | "},
		"a healthy host's first check fails": {
			config(),
			health.Status{},
			[]health.Verdict{refused},
			"eject_unhealthy_event(first ACTIVE 503) health_check_failure_event(first ACTIVE 503)",
		},
		"thresholds": {
			config(), health.NewHost(),
			[]health.Verdict{passed, network, network, network, passed, passed},
			"add_healthy_event(first) |  | eject_unhealthy_event(NETWORK) |  |  | add_healthy_event()",
		},
		"always": {
			always, health.NewHost(),
			[]health.Verdict{passed, passed, network, refused, passed},
			"add_healthy_event(first) | successful_health_check_event() | health_check_failure_event(NETWORK) | " +
				"eject_unhealthy_event(ACTIVE 503) health_check_failure_event(ACTIVE 503) | successful_health_check_event()",
		},
		"degraded": {
			config(), health.NewHost(),
			[]health.Verdict{degraded, degraded, passed},
			"add_healthy_event(first) degraded_healthy_host() |  | no_longer_degraded_host()",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newChecker(t, test.config).Session(test.initial)
			var got []string
			for _, v := range test.verdicts {
				got = append(got, show(done(t, s, v).Events))
			}
			if got := strings.Join(got, " | "); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func show(events []health.Event) string {
	var all []string
	for _, e := range events {
		var about []string
		if e.First {
			about = append(about, "first")
		}
		if e.Kind == health.EjectUnhealthy || e.Kind == health.CheckFailed {
			about = append(about, e.Failure.String())
		}
		if e.Code != 0 {
			about = append(about, strconv.Itoa(e.Code))
		}
		all = append(all, e.Kind.String()+"("+strings.Join(about, " ")+")")
	}
	return strings.Join(all, " ")
}

// TestCause: an event says why a check failed.
func TestCause(t *testing.T) {
	t.Parallel()
	s := newChecker(t, config()).Session(health.Status{})
	events := done(t, s, refused).Events
	want := []health.Event{
		{Kind: health.EjectUnhealthy, Failure: health.Active, Code: 503, Err: refused.Err, First: true},
		{Kind: health.CheckFailed, Failure: health.Active, Code: 503, Err: refused.Err, First: true},
	}
	if diff := cmp.Diff(want, events, cmpopts.EquateErrors()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestJitter(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	for name, test := range map[string]struct {
		change func(*health.Config)
		draws  []uint64
		want   time.Duration
	}{
		"none":                {func(*health.Config) {}, nil, 10 * time.Second},
		"interval":            {func(c *health.Config) { c.IntervalJitter = 500 * ms }, []uint64{1499}, 10*time.Second + 499*ms},
		"percent":             {func(c *health.Config) { c.IntervalJitterPercent = 15 }, []uint64{1500 + 1499}, 10*time.Second + 1499*ms},
		"both, percent first": {func(c *health.Config) { c.IntervalJitterPercent, c.IntervalJitter = 1, 5*ms }, []uint64{99, 4}, 10*time.Second + 103*ms},
		"odd percent":         {func(c *health.Config) { c.Interval, c.IntervalJitterPercent = 1050*ms, 15 }, []uint64{156}, 1206 * ms},
		"percent of nothing":  {func(c *health.Config) { c.Interval, c.IntervalJitterPercent = 5*ms, 15 }, nil, 5 * ms},
		"below 1ms":           {func(c *health.Config) { c.IntervalJitter = ms - 1 }, nil, 10 * time.Second},
		"maximum":             {func(c *health.Config) { c.MaxInterval = 3 * time.Second }, nil, 3 * time.Second},
		"minimum":             {func(c *health.Config) { c.MinInterval = 30 * time.Second }, nil, 30 * time.Second},
		"minimum wins":        {func(c *health.Config) { c.MinInterval, c.MaxInterval = 30*time.Second, 3*time.Second }, nil, 30 * time.Second},
		"never below 1ms":     {func(c *health.Config) { c.Interval = 5 }, nil, ms},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := config()
			test.change(&c)
			checker := newChecker(t, c, test.draws...)
			checker.Traffic()
			if got := done(t, checker.Session(health.NewHost()), passed).Next.Sub(start); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestInitialJitter(t *testing.T) {
	t.Parallel()
	c := config()
	if got := newChecker(t, c).Session(health.NewHost()).Start(start); !got.Equal(start) {
		t.Errorf("none: got %v, want %v", got, start)
	}
	c.InitialJitter = time.Millisecond
	if got, want := newChecker(t, c, 7).Session(health.NewHost()).Start(start), start.Add(time.Millisecond); !got.Equal(want) {
		t.Errorf("1ms: got %v, want %v", got, want)
	}
	c.InitialJitter = 3 * time.Second
	checker := newChecker(t, c, 4500, 3000)
	if got, want := checker.Session(health.NewHost()).Start(start), start.Add(1500*time.Millisecond); !got.Equal(want) {
		t.Errorf("3s: got %v, want %v", got, want)
	}
	if got, want := checker.Session(health.NewHost()).Start(start), start.Add(time.Millisecond); !got.Equal(want) {
		t.Errorf("a draw of 0: got %v, want %v", got, want)
	}
}

// TestClosed: a session that is closed counts no more, and every call says so.
func TestClosed(t *testing.T) {
	t.Parallel()
	checker := newChecker(t, config())
	s := checker.Session(health.NewHost())
	done(t, s, health.Verdict{Result: health.PassedDegraded})
	attempt, _ := s.Begin(start)
	s.Close()
	if checker.Stat(health.StatHealthy) != 0 || checker.Stat(health.StatDegraded) != 0 {
		t.Errorf("gauges: got %d healthy, %d degraded, want 0", checker.Stat(health.StatHealthy), checker.Stat(health.StatDegraded))
	}
	before := nonzero(checker)
	if _, ok := s.Close(); ok {
		t.Error("Close again: got true, want false")
	}
	if _, ok := attempt.Done(passed, start); ok {
		t.Error("Done: got true, want false")
	}
	if _, ok := (health.Attempt{}).Done(passed, start); ok {
		t.Error("Done of the zero Attempt: got true, want false")
	}
	if _, ok := s.Begin(start); ok {
		t.Error("Begin: got true, want false")
	}
	if _, ok := s.Fail(); ok {
		t.Error("Fail: got true, want false")
	}
	if diff := cmp.Diff(before, nonzero(checker)); diff != "" {
		t.Errorf("statistics (-before +after):\n%s", diff)
	}
}

func TestPassedAt(t *testing.T) {
	t.Parallel()
	s := newChecker(t, config()).Session(health.NewHost())
	if got := s.PassedAt(); !got.IsZero() {
		t.Errorf("new: got %v, want zero", got)
	}
	for i, v := range []health.Verdict{passed, passed, refused} {
		attempt, _ := s.Begin(start)
		attempt.Done(v, start.Add(time.Duration(i)*time.Second))
	}
	if got := s.PassedAt(); !got.Equal(start) {
		t.Errorf("got %v, want %v, the check that made the host healthy", got, start)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	if err := config().Check(); err != nil {
		t.Errorf("got %v, want nil", err)
	}
	largest := config()
	largest.Interval, largest.IntervalJitterPercent = 1<<60, 100
	if err := largest.Check(); err != nil {
		t.Errorf("the longest interval, doubled by jitter: got %v, want nil", err)
	}
	for name, test := range map[string]struct {
		change func(*health.Config)
		want   string
	}{
		"timeout":   {func(c *health.Config) { c.Timeout = 0 }, "health: Config.Timeout: 0s is not positive; write a limit of the time of a check, such as 1s"},
		"interval":  {func(c *health.Config) { c.Interval = -1 }, "health: Config.Interval: -1ns is negative; write the time between two checks, such as 5s"},
		"unhealthy": {func(c *health.Config) { c.UnhealthyThreshold = 0 }, "health: Config.UnhealthyThreshold: 0 is not positive; write 1 for "},
		"healthy":   {func(c *health.Config) { c.HealthyThreshold = 0 }, "health: Config.HealthyThreshold: 0 is not positive; write 1 for "},
		"negative":  {func(c *health.Config) { c.UnhealthyEdgeInterval = -1 }, "health: Config.UnhealthyEdgeInterval: -1ns is negative; write 0 for UnhealthyInterval"},
		"too long":  {func(c *health.Config) { c.IntervalJitter = 1 << 61 }, "health: Config.IntervalJitter: 640511h56m49.213693952s is too long; write 320255h58m24.606846976s or less"},
		"percent":   {func(c *health.Config) { c.Interval, c.IntervalJitterPercent = 1<<60, 101 }, "health: Config.IntervalJitterPercent: 101 percent of 320255h58m24.606846976s is too long; write less"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := config()
			test.change(&c)
			_, err := health.New(c, nil)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want it to contain %q", err, test.want)
			}
		})
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for got, want := range map[string]string{
		health.Stat(health.StatCount).String(): "unknown",
		health.EventKind(99).String():          "unknown",
		health.Failure(99).String():            "UNKNOWN",
		health.Passive.String():                "PASSIVE",
		health.NetworkTimeout.String():         "NETWORK_TIMEOUT",
		health.ServingServiceUnknown.String():  "SERVICE_UNKNOWN",
		health.ServingUnknown.String():         "UNKNOWN",
		health.Serving.String():                "SERVING",
		health.ServingStatus(9).String():       "ServingStatus(9)",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	var gauges []string
	for s := range health.Stat(health.StatCount) {
		if s.Gauge() {
			gauges = append(gauges, s.String())
		}
	}
	if diff := cmp.Diff([]string{"degraded", "healthy"}, gauges); diff != "" {
		t.Errorf("gauges (-want +got):\n%s", diff)
	}
}

// TestConcurrent has checks, passive failures and looks at the same sessions at a time. In the
// end the gauges agree with the sessions.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	checker, err := health.New(config(), rand.Uint64)
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	for range 20 {
		s := checker.Session(health.NewHost())
		for caller := range 3 {
			wait.Go(func() {
				choose := rand.New(rand.NewPCG(uint64(caller), 5))
				for range 300 {
					switch choose.IntN(6) {
					case 0:
						s.Fail()
					case 1:
						_ = s.Status()
						_ = s.PassedAt()
						checker.Traffic()
					default:
						attempt, _ := s.Begin(start)
						attempt.Done(randomVerdict(choose.IntN), start)
					}
				}
				if caller == 0 {
					s.Close()
				}
			})
		}
	}
	wait.Wait()
	for _, s := range []health.Stat{health.StatHealthy, health.StatDegraded} {
		if got := checker.Stat(s); got != 0 {
			t.Errorf("%v: got %d, want 0", s, got)
		}
	}
}
