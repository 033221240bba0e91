package outlier_test

import (
	"strings"
	"testing"
	"time"

	"github.com/pillion-go/pillion/cluster/internal/outlier"
)

func TestCheck(t *testing.T) {
	t.Parallel()
	if err := outlier.Defaults().Check(); err != nil {
		t.Errorf("Defaults: got %v, want nil", err)
	}
	shortest := outlier.Defaults()
	shortest.Interval, shortest.BaseEjectionTime, shortest.MaxEjectionTime = 1, 1, 1
	if err := shortest.Check(); err != nil {
		t.Errorf("the shortest times: got %v, want nil", err)
	}
	for name, test := range map[string]struct {
		change func(*outlier.Config)
		want   string
	}{
		"interval":     {func(c *outlier.Config) { c.Interval = 0 }, "outlier: Config.Interval: 0s is not positive; write 10s for the default"},
		"base":         {func(c *outlier.Config) { c.BaseEjectionTime = -time.Second }, "outlier: Config.BaseEjectionTime: -1s is negative; write 30s for the default"},
		"maximum":      {func(c *outlier.Config) { c.MaxEjectionTime = -1 }, "outlier: Config.MaxEjectionTime: -1ns is negative; write 0 for the default"},
		"below base":   {func(c *outlier.Config) { c.MaxEjectionTime = time.Second }, "outlier: Config.MaxEjectionTime: 1s is less than BaseEjectionTime; write 30s or more"},
		"jitter":       {func(c *outlier.Config) { c.MaxEjectionTimeJitter = -1 }, "outlier: Config.MaxEjectionTimeJitter: -1ns is negative; write 0 for none"},
		"too long":     {func(c *outlier.Config) { c.Interval = 1 << 62 }, "outlier: Config.Interval: 1281023h53m38.427387904s is too long; write 640511h56m49.213693952s or less"},
		"percent":      {func(c *outlier.Config) { c.MaxEjectionPercent = 101 }, "outlier: Config.MaxEjectionPercent: 101 is more than 100 percent; write 100 or less"},
		"two mistakes": {func(c *outlier.Config) { c.Interval, c.EnforcingSuccessRate = 0, 200 }, "outlier: Config.EnforcingSuccessRate: 200 is more than 100 percent; write 100 or less"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := outlier.Defaults()
			test.change(&c)
			_, err := outlier.New[string](c, func() uint64 { return 0 }, start)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want it to contain %q", err, test.want)
			}
		})
	}
}

// TestLongestTimes: no sum or product of the longest durations overflows.
func TestLongestTimes(t *testing.T) {
	t.Parallel()
	c := runs()
	c.BaseEjectionTime, c.MaxEjectionTime, c.MaxEjectionTimeJitter = 1<<61, 1<<61, 1<<61
	k := newClock(t, c, "a", "b")
	for range 5 {
		k.draws = []uint64{0}
		k.report("a", times(3, 500)...)
		k.sleep(time.Hour)
		if !k.d.Ejected("a") {
			t.Fatal("got the host back after an hour, want it ejected for 73 years")
		}
		k.took(k.d.HealthCheckPassed("a", k.now))
	}
}

// TestDefaultMaximum: without MaxEjectionTime, the maximum is 300s or the base time.
func TestDefaultMaximum(t *testing.T) {
	t.Parallel()
	for base, want := range map[time.Duration]time.Duration{200 * second: 300 * second, 400 * second: 400 * second} {
		c := runs()
		c.BaseEjectionTime = base
		k := newClock(t, c, "a", "b")
		for range 2 {
			k.report("a", times(3, 500)...)
			s, _ := k.d.Status("a")
			if s.Ejections == 2 && s.Until.Sub(s.EjectedAt) != want {
				t.Errorf("base %v: got a second ejection of %v, want %v", base, s.Until.Sub(s.EjectedAt), want)
			}
			k.took(k.d.HealthCheckPassed("a", k.now))
		}
	}
}

func TestGRPCCode(t *testing.T) {
	t.Parallel()
	want := []int{200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401, 500}
	for status, code := range want {
		if got := outlier.GRPCCode(uint32(status)); got != code {
			t.Errorf("GRPCCode(%d): got %d, want %d", status, got, code)
		}
	}
}

// TestNames: every name is one of Envoy's, in alphabetical order, and unknown values have
// names too.
func TestNames(t *testing.T) {
	t.Parallel()
	before := ""
	for s := range outlier.Stat(outlier.StatCount) {
		if s.String() <= before || !strings.HasPrefix(s.String(), "ejections_") {
			t.Errorf("got %q after %q, want alphabetical order", s, before)
		}
		if got, want := s.Gauge(), s.String() == "ejections_active"; got != want {
			t.Errorf("%v.Gauge: got %v, want %v", s, got, want)
		}
		before = s.String()
	}
	for got, want := range map[string]string{
		outlier.Stat(outlier.StatCount).String(): "unknown",
		outlier.Kind(200).String():               "UNKNOWN",
		outlier.Degraded.String():                "DEGRADED",
		outlier.Uneject.String():                 "UNEJECT",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
