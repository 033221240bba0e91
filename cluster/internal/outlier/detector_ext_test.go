package outlier_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion/cluster/internal/outlier"
)

const second = time.Second

// all permits every host to be ejected.
func all() outlier.Config {
	c := outlier.Defaults()
	c.MaxEjectionPercent = 100
	return c
}

// runs is all with runs of three, and every kind enforced.
func runs() outlier.Config {
	c := all()
	c.Consecutive5xx, c.ConsecutiveGatewayFailure, c.ConsecutiveLocalOriginFailure = 3, 3, 3
	c.EnforcingConsecutiveGatewayFailure = 100
	return c
}

// brief shows events by host, action and kind.
func brief(events []outlier.Event[string]) string {
	var b strings.Builder
	for _, e := range events {
		enforced := ""
		if !e.Enforced {
			enforced = " not enforced"
		}
		fmt.Fprintf(&b, "[%s %v %v%s]", e.Host, e.Action, e.Kind, enforced)
	}
	return b.String()
}

func TestRuns(t *testing.T) {
	t.Parallel()
	split := runs()
	split.SplitExternalLocalOriginErrors = true
	off := runs()
	off.Consecutive5xx, off.ConsecutiveGatewayFailure = 0, 0
	gateway := runs()
	gateway.Consecutive5xx = 4
	detectOnly := runs()
	detectOnly.EnforcingConsecutiveGatewayFailure = 0
	failed, timeout := outlier.Result{Outcome: outlier.ConnectFailed}, outlier.Result{Outcome: outlier.Timeout}
	connected := outlier.Result{Outcome: outlier.ConnectSuccess}
	for name, test := range map[string]struct {
		config  outlier.Config
		results []outlier.Result
		want    string
	}{
		"too short":                        {runs(), responses(500, 500), ""},
		"5xx":                              {runs(), responses(500, 501, 599), "[a EJECT CONSECUTIVE_5XX]"},
		"broken by a success":              {runs(), responses(500, 500, 200, 500, 500), ""},
		"4xx is a success":                 {runs(), responses(500, 500, 404, 500), ""},
		"600 is a success":                 {runs(), responses(500, 500, 600, 500), ""},
		"gateway failure goes first":       {runs(), responses(502, 503, 504), "[a EJECT CONSECUTIVE_GATEWAY_FAILURE]"},
		"500 ends a gateway run only":      {gateway, responses(503, 503, 500, 503), "[a EJECT CONSECUTIVE_5XX]"},
		"501 and 505 are no gateway":       {gateway, responses(501, 505, 501), ""},
		"gateway detected, 5xx ejects":     {detectOnly, responses(503, 503, 503), "[a EJECT CONSECUTIVE_GATEWAY_FAILURE not enforced][a EJECT CONSECUTIVE_5XX]"},
		"zero is off":                      {off, times(50, 503), ""},
		"merged: failed connects":          {runs(), []outlier.Result{failed, failed, failed}, "[a EJECT CONSECUTIVE_GATEWAY_FAILURE]"},
		"merged: timeouts":                 {runs(), []outlier.Result{timeout, timeout, timeout}, "[a EJECT CONSECUTIVE_GATEWAY_FAILURE]"},
		"merged: connects do not count":    {runs(), []outlier.Result{failed, connected, failed, connected, failed}, "[a EJECT CONSECUTIVE_GATEWAY_FAILURE]"},
		"merged: alternative response":     {runs(), []outlier.Result{failed, failed, {Outcome: outlier.Timeout, Code: 204}, failed}, ""},
		"merged: failure without a code":   {runs(), []outlier.Result{{Outcome: outlier.RequestFailed}, failed, failed}, "[a EJECT CONSECUTIVE_5XX]"},
		"merged: final connect":            {runs(), []outlier.Result{failed, failed, {Outcome: outlier.ConnectSuccessFinal}, failed}, ""},
		"split: local origin":              {split, []outlier.Result{failed, timeout, failed}, "[a EJECT CONSECUTIVE_LOCAL_ORIGIN_FAILURE]"},
		"split: a connect ends a run":      {split, []outlier.Result{failed, timeout, connected, failed}, ""},
		"split: a final connect too":       {split, []outlier.Result{failed, timeout, {Outcome: outlier.ConnectSuccessFinal}, failed}, ""},
		"split: a response does not":       {split, []outlier.Result{failed, timeout, outlier.Response(200), failed}, "[a EJECT CONSECUTIVE_LOCAL_ORIGIN_FAILURE]"},
		"split: nor do resets end 5xx":     {split, []outlier.Result{outlier.Response(500), failed, outlier.Response(500), outlier.Response(500)}, "[a EJECT CONSECUTIVE_5XX]"},
		"split: failure without a code":    {split, []outlier.Result{{Outcome: outlier.RequestFailed}, {Outcome: outlier.RequestFailed}, {Outcome: outlier.RequestFailed}}, "[a EJECT CONSECUTIVE_GATEWAY_FAILURE]"},
		"split: a timeout's code is local": {split, []outlier.Result{failed, failed, {Outcome: outlier.Timeout, Code: 204}}, "[a EJECT CONSECUTIVE_LOCAL_ORIGIN_FAILURE]"},
		"ejected hosts are left alone":     {runs(), times(9, 500), "[a EJECT CONSECUTIVE_5XX]"},
		"degraded is a success":            {runs(), []outlier.Result{failed, failed, {Outcome: outlier.RequestDegraded}, failed}, ""},
		"final success without a code":     {runs(), []outlier.Result{failed, failed, {}, failed}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newClock(t, test.config, "a", "b")
			k.report("a", test.results...)
			if got := brief(k.take()); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// TestRunStartsAnew: a detection that does not eject starts the run of its own kind anew.
func TestRunStartsAnew(t *testing.T) {
	t.Parallel()
	c := runs()
	c.MaxEjectionPercent = 10
	k := newClock(t, c, "a", "b")
	k.report("a", times(7, 500)...)
	if got, want := k.d.Stat(outlier.EjectionsOverflow), uint64(2); got != want {
		t.Errorf("7 failures, no room: got %d overflows, want %d", got, want)
	}
	if got, want := k.d.Stat(outlier.EjectionsDetectedConsecutive5xx), uint64(2); got != want {
		t.Errorf("7 failures, no room: got %d detections, want %d", got, want)
	}
	if got := brief(k.take()); got != "" {
		t.Errorf("got %s, want no event of an overflow", got)
	}
}

// TestReturnResetsRuns: results of an ejected host lengthen its runs, and none of that is left
// when it returns.
func TestReturnResetsRuns(t *testing.T) {
	t.Parallel()
	for name, back := range map[string]func(*clock){
		"tick":         func(k *clock) { k.sleep(40 * second) },
		"health check": func(k *clock) { k.took(k.d.HealthCheckPassed("a", k.now)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newClock(t, runs(), "a", "b")
			k.report("a", times(5, 500)...)
			back(k)
			if k.d.Ejected("a") {
				t.Fatal("got an ejected host, want it back")
			}
			k.report("a", times(2, 503)...)
			if k.d.Ejected("a") {
				t.Error("2 failures after the return: got an ejection, want none before 3")
			}
			k.report("a", times(1, 503)...)
			if !k.d.Ejected("a") {
				t.Error("3 failures after the return: got no ejection, want one")
			}
		})
	}
}

func TestRoom(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		hosts   int
		percent uint32
		always  bool
		want    uint64
	}{
		{9, 10, false, 0},
		{9, 10, true, 1},
		{10, 10, false, 1},
		{19, 10, false, 1},
		{20, 10, false, 2},
		{1, 99, false, 0},
		{1, 100, false, 1},
		{3, 66, false, 1},
		{3, 67, false, 2},
		{5, 40, false, 2},
		{5, 0, false, 0},
		{5, 0, true, 1},
		{5, 100, false, 5},
	} {
		t.Run(fmt.Sprintf("%d hosts, %d%%, always %v", test.hosts, test.percent, test.always), func(t *testing.T) {
			t.Parallel()
			c := runs()
			c.MaxEjectionPercent, c.AlwaysEjectOneHost = test.percent, test.always
			k := newClock(t, c)
			for i := range test.hosts {
				k.d.Update([]string{strconv.Itoa(i)}, nil)
			}
			for i := range test.hosts {
				k.report(strconv.Itoa(i), times(3, 500)...)
			}
			if got := k.d.Stat(outlier.EjectionsActive); got != test.want {
				t.Errorf("got %d ejected, want %d", got, test.want)
			}
			if got, want := k.d.Stat(outlier.EjectionsOverflow), uint64(test.hosts)-test.want; got != want {
				t.Errorf("got %d overflows, want %d", got, want)
			}
			if got, want := c.Ejects(test.hosts), test.want > 0; got != want {
				t.Errorf("Ejects: got %v, want %v", got, want)
			}
		})
	}
	always := outlier.Defaults()
	always.AlwaysEjectOneHost = true
	if always.Ejects(0) {
		t.Error("Ejects(0): got true, want false")
	}
}

// TestEjectionTime: an ejection ends at the first tick after base times the number of
// ejections, up to the maximum; good intervals take that back.
func TestEjectionTime(t *testing.T) {
	t.Parallel()
	c := runs()
	c.BaseEjectionTime, c.MaxEjectionTime = 25*second, 60*second
	k := newClock(t, c, "a", "b")
	eject := func(want time.Duration) {
		t.Helper()
		k.report("a", times(3, 500)...)
		since := k.now
		for k.d.Ejected("a") {
			k.sleep(second)
		}
		if got := k.now.Sub(since); got != want {
			t.Errorf("got an ejection of %v, want %v", got, want)
		}
	}
	eject(30 * second) // 25s, and the tick at 30s; each begins at a tick
	eject(50 * second)
	eject(60 * second) // 75s, but no more than the maximum
	for range 6 {
		eject(60 * second) // the steps beyond the maximum do not add up
	}
	k.sleep(10 * second) // one good interval
	eject(60 * second)   // 100s, then 75s: still more than the maximum
	k.sleep(30 * second)
	eject(50 * second)
	k.sleep(300 * second)
	eject(30 * second)
}

func TestJitterAndChance(t *testing.T) {
	t.Parallel()
	c := runs()
	c.MaxEjectionTimeJitter = 5 * second
	c.EnforcingConsecutive5xx = 30
	k := newClock(t, c, "a", "b")
	k.draws = []uint64{130, 129, 5001 + 4321}
	k.report("a", times(3, 500)...)
	if got, want := brief(k.take()), "[a EJECT CONSECUTIVE_5XX not enforced]"; got != want {
		t.Errorf("draw 130 of 30%%: got %s, want %s", got, want)
	}
	k.report("a", times(3, 500)...)
	s, _ := k.d.Status("a")
	if got, want := s.Until, start.Add(30*second+4321*time.Millisecond); !got.Equal(want) {
		t.Errorf("until: got %v, want %v", got, want)
	}
	if len(k.draws) != 0 {
		t.Errorf("got %d draws left, want 0", len(k.draws))
	}
	k.sleep(30 * second)
	if !k.d.Ejected("a") {
		t.Error("after 30s: got the host back, want it to wait for its jitter")
	}
	k.sleep(10 * second)
	if k.d.Ejected("a") {
		t.Error("after 40s: got an ejected host, want it back")
	}
}

// rates reports hosts a, b, ... with the given numbers of successes of 100 results.
func (k *clock) rates(successes ...int) {
	for i, n := range successes {
		host := string(rune('a' + i))
		k.report(host, times(n, 200)...)
		k.report(host, times(100-n, 501)...)
	}
}

func rateConfig() outlier.Config {
	c := all()
	c.Consecutive5xx, c.ConsecutiveGatewayFailure = 0, 0
	return c
}

func TestSuccessRate(t *testing.T) {
	t.Parallel()
	k := newClock(t, rateConfig(), "a", "b", "c", "d", "e")
	k.rates(50, 100, 100, 100, 100)
	k.sleep(10 * second)
	average := outlier.Average{Mean: 90, Threshold: 52}
	want := []outlier.Event[string]{{
		Host: "a", Action: outlier.Eject, Kind: outlier.SuccessRate, Enforced: true, Count: 1, SinceLast: -1,
		SuccessRate: 50, Cluster: average,
	}}
	if diff := cmp.Diff(want, k.take()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	external, local := k.d.Averages()
	if external != average || local != (outlier.Average{Mean: -1, Threshold: -1}) {
		t.Errorf("averages: got %v and %v, want %v and none", external, local, average)
	}
	if s, _ := k.d.Status("a"); s.SuccessRate != 50 || s.LocalOriginSuccessRate != -1 {
		t.Errorf("rates of a: got %v and %v, want 50 and none", s.SuccessRate, s.LocalOriginSuccessRate)
	}
	k.sleep(10 * second)
	if external, _ := k.d.Averages(); external.Mean != -1 {
		t.Errorf("an interval without results: got a mean of %v, want none", external.Mean)
	}
	if s, _ := k.d.Status("a"); s.SuccessRate != -1 {
		t.Errorf("an interval without results: got a rate of %v, want none", s.SuccessRate)
	}
}

func TestRatesNeedResults(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*outlier.Config)
		want   string
	}{
		"enough":        {func(*outlier.Config) {}, "[a EJECT SUCCESS_RATE]"},
		"few hosts":     {func(c *outlier.Config) { c.SuccessRateMinimumHosts = 6 }, ""},
		"few results":   {func(c *outlier.Config) { c.SuccessRateRequestVolume = 101 }, ""},
		"factor":        {func(c *outlier.Config) { c.SuccessRateStdevFactor = 2000 }, ""},
		"not enforced":  {func(c *outlier.Config) { c.EnforcingSuccessRate = 0 }, "[a EJECT SUCCESS_RATE not enforced]"},
		"no volume":     {func(c *outlier.Config) { c.SuccessRateRequestVolume, c.SuccessRateMinimumHosts = 0, 0 }, "[a EJECT SUCCESS_RATE]"},
		"percentage":    {func(c *outlier.Config) { c.FailurePercentageThreshold = 50 }, "[a EJECT SUCCESS_RATE]"},
		"no percentage": {func(c *outlier.Config) { c.FailurePercentageThreshold = 51 }, "[a EJECT SUCCESS_RATE]"},
		"percentage alone": {func(c *outlier.Config) {
			c.SuccessRateMinimumHosts, c.FailurePercentageThreshold, c.EnforcingFailurePercentage = 6, 50, 100
		}, "[a EJECT FAILURE_PERCENTAGE]"},
		"percentage not enforced": {func(c *outlier.Config) {
			c.SuccessRateMinimumHosts, c.FailurePercentageThreshold = 6, 50
		}, "[a EJECT FAILURE_PERCENTAGE not enforced]"},
		"percentage, few results": {func(c *outlier.Config) {
			c.SuccessRateMinimumHosts, c.FailurePercentageThreshold, c.FailurePercentageRequestVolume = 6, 50, 101
		}, ""},
		"percentage, few hosts": {func(c *outlier.Config) {
			c.SuccessRateMinimumHosts, c.FailurePercentageThreshold, c.FailurePercentageMinimumHosts = 6, 50, 6
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := rateConfig()
			test.change(&c)
			k := newClock(t, c, "a", "b", "c", "d", "e")
			k.rates(50, 100, 100, 100, 100)
			k.sleep(10 * second)
			if got := brief(k.take()); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// TestIntervals: results of two intervals do not add up.
func TestIntervals(t *testing.T) {
	t.Parallel()
	c := rateConfig()
	c.FailurePercentageRequestVolume = 100
	k := newClock(t, c, "a", "b", "c", "d", "e")
	for range 2 {
		for _, host := range []string{"a", "b", "c", "d", "e"} {
			code := 200
			if host == "a" {
				code = 500
			}
			k.report(host, times(60, code)...)
		}
		k.sleep(10 * second)
	}
	if got := brief(k.take()); got != "" {
		t.Errorf("60 results in each of 2 intervals: got %s, want nothing below 100", got)
	}
}

// TestLocalOriginRates: with the split, rates of local origin are judged apart.
func TestLocalOriginRates(t *testing.T) {
	t.Parallel()
	c := rateConfig()
	c.SplitExternalLocalOriginErrors, c.ConsecutiveLocalOriginFailure = true, 0
	c.FailurePercentageThreshold = 60
	k := newClock(t, c, "a", "b", "c", "d", "e")
	for _, host := range []string{"a", "b", "c", "d", "e"} {
		for i := range 100 {
			k.report(host, outlier.Result{Outcome: outlier.ConnectSuccess})
			if host == "a" && i < 80 {
				k.report(host, outlier.Result{Outcome: outlier.ConnectFailed})
			}
			k.report(host, outlier.Response(200))
		}
	}
	k.sleep(10 * second)
	if got, want := brief(k.take()), "[a EJECT SUCCESS_RATE_LOCAL_ORIGIN]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if s, _ := k.d.Status("a"); s.SuccessRate != 100 || s.LocalOriginSuccessRate > 56 {
		t.Errorf("rates of a: got %v and %v, want 100 and 55.6", s.SuccessRate, s.LocalOriginSuccessRate)
	}
	if got, want := k.d.Stat(outlier.EjectionsEnforcedLocalOriginSuccessRate), uint64(1); got != want {
		t.Errorf("got %d, want %d", got, want)
	}
	if got, want := k.d.Stat(outlier.EjectionsTotal), uint64(0); got != want {
		t.Errorf("the deprecated total: got %d, want %d", got, want)
	}
}

// TestTwoDetectionsOfOneTick: Envoy ejects such a host twice; then ejections_active
// never falls back to 0.
func TestTwoDetectionsOfOneTick(t *testing.T) {
	t.Parallel()
	c := rateConfig()
	c.EnforcingFailurePercentage = 100
	k := newClock(t, c, "a", "b", "c", "d", "e")
	k.rates(0, 100, 100, 100, 100)
	k.sleep(10 * second)
	if got, want := brief(k.take()), "[a EJECT SUCCESS_RATE]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for stat, want := range map[outlier.Stat]uint64{
		outlier.EjectionsDetectedSuccessRate: 1, outlier.EjectionsDetectedFailurePercentage: 1,
		outlier.EjectionsEnforcedTotal: 1, outlier.EjectionsEnforcedFailurePercentage: 0, outlier.EjectionsActive: 1,
	} {
		if got := k.d.Stat(stat); got != want {
			t.Errorf("%v: got %d, want %d", stat, got, want)
		}
	}
	k.sleep(30 * second)
	if got := k.d.Stat(outlier.EjectionsActive); got != 0 {
		t.Errorf("after the ejection: got %d active, want 0", got)
	}
}

func TestDegraded(t *testing.T) {
	t.Parallel()
	c := runs()
	degraded := outlier.Result{Outcome: outlier.RequestDegraded, Code: 200}
	k := newClock(t, c, "a", "b")
	k.report("a", degraded)
	if s, _ := k.d.Status("a"); s.Degraded || k.d.Stat(outlier.EjectionsDetectedDegradation) != 0 {
		t.Errorf("without DetectDegradedHosts: got %+v, want nothing", s)
	}
	c.DetectDegradedHosts = true
	k = newClock(t, c, "a", "b")
	k.report("a", degraded, degraded)
	k.report("a", times(3, 500)...)
	k.sleep(20 * second)
	k.took(k.d.HealthCheckPassed("a", k.now))
	s, _ := k.d.Status("a")
	if !s.Degraded || s.Ejected {
		t.Errorf("after a good health check: got %+v, want a degraded host that is not ejected", s)
	}
	k.sleep(10 * second)
	want := "[a EJECT DEGRADED][a EJECT CONSECUTIVE_5XX][a UNEJECT CONSECUTIVE_5XX][a UNEJECT DEGRADED]"
	if got := brief(k.take()); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := k.d.Stat(outlier.EjectionsDetectedDegradation); got != 1 {
		t.Errorf("got %d degradations, want 1", got)
	}
	if got := k.d.Stat(outlier.EjectionsEnforcedTotal); got != 1 {
		t.Errorf("got %d ejections, want 1: a degradation is none", got)
	}
}

func TestHealthCheckPassed(t *testing.T) {
	t.Parallel()
	c := runs()
	k := newClock(t, c, "a", "b")
	k.report("a", times(3, 500)...)
	k.take()
	k.now = k.now.Add(2 * second)
	k.took(k.d.HealthCheckPassed("a", k.now))
	k.took(k.d.HealthCheckPassed("a", k.now)) // it is back already
	k.took(k.d.HealthCheckPassed("unknown", k.now))
	want := []outlier.Event[string]{{
		Host: "a", Action: outlier.Uneject, Kind: outlier.Consecutive5xx, Enforced: true, Count: 1, SinceLast: 2 * second, SuccessRate: -1,
	}}
	if diff := cmp.Diff(want, k.take()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	c.SuccessfulActiveHealthCheckUnejectHost = false
	k = newClock(t, c, "a", "b")
	k.report("a", times(3, 500)...)
	k.took(k.d.HealthCheckPassed("a", k.now))
	if !k.d.Ejected("a") {
		t.Error("with SuccessfulActiveHealthCheckUnejectHost false: got the host back, want it ejected")
	}
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	c := runs()
	c.MaxEjectionPercent = 34
	k := newClock(t, c, "a", "b", "c")
	k.report("a", times(3, 500)...)
	k.d.Update([]string{"d", "b"}, []string{"a", "unknown"})
	if got := k.d.Stat(outlier.EjectionsActive); got != 0 {
		t.Errorf("after the ejected host was removed: got %d active, want 0", got)
	}
	if s := k.d.Report("a", outlier.Response(500), k.now); s.Events != nil || !s.Next.IsZero() {
		t.Errorf("a late result: got %+v, want nothing", s)
	}
	if _, ok := k.d.Status("a"); ok || k.d.Ejected("a") {
		t.Error("got the status of a host that was removed, want none")
	}
	k.report("b", times(2, 500)...)
	k.d.Update([]string{"a", "b"}, nil)
	k.report("b", times(1, 500)...)
	if !k.d.Ejected("b") {
		t.Error("adding a host again: got its run forgotten, want it kept")
	}
	if s, _ := k.d.Status("a"); s.Ejections != 0 || s.Ejected {
		t.Errorf("a host that came back: got %+v, want a new one", s)
	}
	k.d.Update([]string{"b"}, []string{"b"})
	if s, _ := k.d.Status("b"); s.Ejections != 0 {
		t.Errorf("removed and added in one update: got %+v, want a new host", s)
	}
}

// TestRest: a detector without results asks for no ticks, and its ticks stay on the grid that
// began with New.
func TestRest(t *testing.T) {
	t.Parallel()
	k := newClock(t, all(), "a", "b")
	if at, ok := k.d.Next(); ok || !at.IsZero() {
		t.Errorf("new: got a tick at %v, want none", at)
	}
	if s := k.d.Tick(start.Add(time.Hour)); !s.Next.IsZero() {
		t.Errorf("a tick without need: got one more at %v, want none", s.Next)
	}
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * second) }
	for _, test := range []struct{ at, next int }{{3, 10}, {4, 0}, {40, 50}, {1009, 1010}, {1020, 1030}} {
		k.sleep(at(test.at).Sub(k.now))
		var want time.Time
		if test.next != 0 {
			want = at(test.next)
		}
		s := k.d.Report("a", outlier.Response(200), k.now)
		k.took(s)
		if !s.Next.Equal(want) {
			t.Errorf("a result at %d s: got a tick at %v, want %v", test.at, s.Next, want)
		}
	}
}

func TestEarlyAndLateTicks(t *testing.T) {
	t.Parallel()
	k := newClock(t, runs(), "a", "b")
	k.report("a", times(3, 500)...)
	if s := k.d.Tick(start.Add(9 * second)); !s.Next.Equal(start.Add(10*second)) || s.Events != nil {
		t.Errorf("an early tick: got %+v, want Next at 10 s", s)
	}
	s := k.d.Tick(start.Add(47 * second))
	if got, want := brief(s.Events), "[a UNEJECT CONSECUTIVE_5XX]"; got != want {
		t.Errorf("a late tick: got %s, want %s", got, want)
	}
	if want := start.Add(57 * second); !s.Next.Equal(want) {
		t.Errorf("after a late tick: got %v, want %v", s.Next, want)
	}
}
