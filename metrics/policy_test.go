package metrics

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/internal/raceflag"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

func upstream(t *testing.T, policies ...policy.Policy) *pillion.Upstream {
	t.Helper()
	u, err := pillion.New("recipes", policies...)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestFunctions counts functions.
func TestFunctions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := registry(t, Settings{})
		u := upstream(t, Config{Registry: r}, timeout.Config{Total: time.Second}, retry.Config{On: "5xx", NumRetries: 1, Rand: func() float64 { return 0 }})
		do := func(work func(context.Context) (int, error)) { _, _ = pillion.Do(t.Context(), u, work) }
		do(func(context.Context) (int, error) { return 42, nil })
		do(func(context.Context) (int, error) { return 0, errors.New("broken") })
		do(func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
		do(func(context.Context) (int, error) { return 0, context.Canceled })
		want := map[string]uint64{
			"upstream_rq_total": 5, "upstream_rq_200": 1, "upstream_rq_2xx": 1, "upstream_rq_500": 1, "upstream_rq_504": 1,
			"upstream_rq_5xx": 2, "upstream_rq_completed": 3, "upstream_rq_timeout": 1, "upstream_rq_time": 2,
			"retry.upstream_rq_500": 1, "retry.upstream_rq_5xx": 1, "retry.upstream_rq_completed": 1,
			"upstream_rq_retry": 1, "upstream_rq_retry_backoff_exponential": 1, "upstream_rq_retry_limit_exceeded": 1,
		}
		if diff := cmp.Diff(want, withoutInternal(nonzero(r.Cluster("recipes")))); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func withoutInternal(found map[string]uint64) map[string]uint64 {
	for name := range found {
		if strings.HasPrefix(name, "internal.") {
			delete(found, name)
		}
	}
	return found
}

// TestRefusals counts refusals of policies inside and outside.
func TestRefusals(t *testing.T) {
	open, err := breaker.New(breaker.Config{NonBreakCount: 1, Sleep: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	open.Record(breaker.Failure)
	full := limits.Config{MaxRequests: limits.Zero}
	for name, tc := range map[string]struct {
		policies func(Config) []policy.Policy
		want     string
	}{
		"limits inside":   {func(c Config) []policy.Policy { return []policy.Policy{c, full} }, "upstream_rq_active_overflow"},
		"limits outside":  {func(c Config) []policy.Policy { return []policy.Policy{full, c} }, "upstream_rq_active_overflow"},
		"breaker inside":  {func(c Config) []policy.Policy { return []policy.Policy{c, open} }, "upstream_rq_breaker_open"},
		"breaker outside": {func(c Config) []policy.Policy { return []policy.Policy{open, c} }, "upstream_rq_breaker_open"},
	} {
		t.Run(name, func(t *testing.T) {
			r := registry(t, Settings{})
			u := upstream(t, tc.policies(Config{Registry: r})...)
			_, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 0, nil })
			want := map[string]uint64{tc.want: 1, "upstream_rq_503": 1, "upstream_rq_5xx": 1, "upstream_rq_completed": 1}
			if diff := cmp.Diff(want, withoutInternal(nonzero(r.Cluster("recipes")))); diff != "" || err == nil {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}

// TestInsideRetry checks that Config inside retry is an error.
func TestInsideRetry(t *testing.T) {
	_, err := pillion.New("recipes", retry.Config{}, Config{Registry: registry(t, Settings{})})
	if err == nil || !strings.Contains(err.Error(), "metrics") {
		t.Errorf("got %v, want an error that names metrics", err)
	}
}

// TestActive checks the statistics while a body is open: the attempt is active, its response is
// counted, its time is not.
func TestActive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := registry(t, Settings{})
		u := upstream(t, Config{Registry: r, StatName: "kitchen", TimeoutBudget: true}, timeout.Config{Total: 100 * time.Second})
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://recipes/", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := u.Transport(stub("soup")).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		c := r.Cluster("kitchen")
		want := map[string]uint64{
			"upstream_rq_active": 1, "upstream_rq_200": 1, "upstream_rq_2xx": 1, "upstream_rq_completed": 1,
		}
		got := withoutInternal(nonzero(c))
		delete(got, "upstream_rq_total") // counted at the headers or at the end
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("at the headers (-want +got):\n%s", diff)
		}
		time.Sleep(44 * time.Second)
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		delete(want, "upstream_rq_active")
		want["upstream_rq_total"], want["upstream_rq_time"] = 1, 1
		want["upstream_rq_timeout_budget_percent_used"] = 1
		want["upstream_rq_timeout_budget_per_try_percent_used"] = 1
		if diff := cmp.Diff(want, withoutInternal(nonzero(c))); diff != "" {
			t.Errorf("at the end (-want +got):\n%s", diff)
		}
		text := page(t, r, "/stats?filter=kitchen.upstream_rq_time&type=Histograms")
		if !strings.Contains(text, "rq_time: P0(nan,44500)") || !strings.Contains(text, "percent_used: P0(nan,44.5)") {
			t.Errorf("got %q, want 44s and 44 percent", text)
		}
	})
}

// TestCallerNames checks the limit on names that callers can make.
func TestCallerNames(t *testing.T) {
	r := registry(t, Settings{})
	u := upstream(t, Config{Registry: r, CallerStatNames: true})
	rt := u.Transport(stub(""))
	for i := range 3 * maxNames {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://recipes/", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Envoy-Upstream-Alt-Stat-Name", strings.Repeat("x", 1+i/2))
		resp, err := rt.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	found := nonzero(r.Cluster("recipes"))
	names := 0
	for name, n := range found {
		if strings.HasPrefix(name, "xx") && strings.HasSuffix(name, ".internal.upstream_rq_200") {
			names++
			if n != 2 {
				t.Errorf("got %d of %s, want 2", n, name)
			}
		}
	}
	if names != maxNames-1 || found["upstream_rq_200"] != 3*maxNames {
		t.Errorf("got %d names and %d responses, want %d and %d", names+1, found["upstream_rq_200"], maxNames, 3*maxNames)
	}
}

// TestShared counts two upstreams in one cluster.
func TestShared(t *testing.T) {
	r := registry(t, Settings{})
	for range 2 {
		u := upstream(t, Config{Registry: r})
		if _, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 0, nil }); err != nil {
			t.Fatal(err)
		}
	}
	if got := nonzero(r.Cluster("recipes"))["upstream_rq_total"]; got != 2 {
		t.Errorf("got %d, want 2", got)
	}
}

// TestAllocations checks that counting does not allocate.
func TestAllocations(t *testing.T) {
	if raceflag.Enabled {
		t.Skip("the race detector allocates")
	}
	r := registry(t, Settings{})
	policies := func(first ...policy.Policy) []policy.Policy {
		return append(first, timeout.Config{PerTry: time.Second}, retry.Config{}, limits.Config{}, breaker.Config{})
	}
	measure := func(u *pillion.Upstream) float64 {
		rt := u.Transport(stub("soup"))
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://recipes/", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		return testing.AllocsPerRun(2000, func() {
			resp, err := rt.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			for err == nil {
				_, err = resp.Body.Read(buf)
			}
			_ = resp.Body.Close()
		})
	}
	without := measure(upstream(t, policies()...))
	for _, test := range []struct {
		name   string
		config Config
		more   float64 // at most
	}{
		{"by default", Config{Registry: r}, 0},
		{"with sizes", Config{Registry: r, RequestResponseSizes: true}, 1},
		{"with virtual clusters", Config{Registry: r, VirtualHost: "svc", VirtualClusters: []VirtualCluster{
			{Name: "orders", Headers: []envoy.HeaderMatcher{onPath("/orders"), {Name: ":method", Exact: "GET"}}},
		}}, 0},
	} {
		if with := measure(upstream(t, policies(test.config)...)); with > without+test.more {
			t.Errorf("%s: got %v allocations with metrics, %v without", test.name, with, without)
		}
	}
	c := r.Cluster("recipes")
	n, g, h, a := c.Counter("a"), c.Gauge("b"), c.Histogram("c"), c.Responses(Internal)
	if got := testing.AllocsPerRun(100, func() {
		n.Inc()
		g.Add(1)
		h.Record(1)
		a.Count(200)
		a.Time(44)
	}); got != 0 {
		t.Errorf("got %v allocations for counting, want 0", got)
	}
}

// TestDay counts ten million calls from 64 goroutines. All must be counted.
func TestDay(t *testing.T) {
	const callers = 64
	calls := 10_000_000 / callers
	if raceflag.Enabled || testing.Short() {
		calls /= 20
	}
	r := registry(t, Settings{})
	u := upstream(t, Config{Registry: r}, limits.Config{MaxRequests: callers / 2})
	var good, bad, refused atomic.Uint64
	broken := errors.New("broken")
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			var g, b, full uint64
			for j := range calls {
				_, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) {
					if (i+j)%3 == 0 {
						return 0, broken
					}
					return 0, nil
				})
				switch {
				case errors.Is(err, limits.ErrFull):
					full++
				case err != nil:
					b++
				default:
					g++
				}
			}
			good.Add(g)
			bad.Add(b)
			refused.Add(full)
		})
	}
	stop := make(chan struct{})
	watched := make(chan struct{})
	go watch(t, r, stop, watched)
	all.Wait()
	close(stop)
	<-watched
	g, b, full := good.Load(), bad.Load(), refused.Load()
	found := nonzero(r.Cluster("recipes"))
	for name, want := range map[string]uint64{
		"upstream_rq_total": g + b, "upstream_rq_200": g, "upstream_rq_500": b, "upstream_rq_503": full,
		"upstream_rq_active_overflow": full, "upstream_rq_completed": uint64(calls * callers), "upstream_rq_active": 0,
		"upstream_rq_time": g + b, "internal.upstream_rq_completed": uint64(calls * callers),
	} {
		if found[name] != want {
			t.Errorf("got %d of %s, want %d", found[name], name, want)
		}
	}
	t.Logf("%d calls: %d good, %d bad, %d refused", calls*callers, g, b, full)
}

// watch reads pages repeatedly: no counter may decrease.
func watch(t *testing.T, r *Registry, stop, done chan struct{}) {
	t.Helper()
	defer close(done)
	last := map[string]uint64{}
	for {
		select {
		case <-stop:
			return
		default:
		}
		for name, n := range validJSON(t, page(t, r, "/stats?format=json&type=Counters")) {
			if n < last[name] {
				t.Errorf("%s decreased from %d to %d", name, last[name], n)
			}
			last[name] = n
		}
	}
}

// TestConfig_noDynamicStats pins that responses are not counted, and all else is.
func TestConfig_noDynamicStats(t *testing.T) {
	r := registry(t, Settings{})
	u, err := pillion.New("recipes", Config{Registry: r, NoDynamicStats: true, TimeoutBudget: true}, retry.Config{On: "5xx"})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	_, err = pillion.Do(t.Context(), u, func(context.Context) (int, error) {
		if n++; n == 1 {
			return 0, errors.New("broken")
		}
		return n, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	Handler(r).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/stats?usedonly", nil))
	page := w.Body.String()
	for _, name := range []string{"upstream_rq_200", "upstream_rq_2xx", "upstream_rq_completed", "upstream_rq_500", "upstream_rq_time:"} {
		if strings.Contains(page, name) {
			t.Errorf("got %s in %s", name, page)
		}
	}
	for _, line := range []string{"upstream_rq_total: 2", "upstream_rq_retry: 1", "upstream_rq_retry_success: 1"} {
		if !strings.Contains(page, line) {
			t.Errorf("got no %s in %s", line, page)
		}
	}
}
