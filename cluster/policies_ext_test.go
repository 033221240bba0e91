package cluster_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/cluster"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/internal/testtime"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// page returns the statistics of a registry.
func page(t *testing.T, r *metrics.Registry) string {
	t.Helper()
	w := httptest.NewRecorder()
	metrics.Handler(r).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/stats", nil))
	return w.Body.String()
}

// checkPage checks the statistics of the upstream recipes: each line of want is there, and no
// statistic of absent.
func checkPage(t *testing.T, r *metrics.Registry, want, absent []string) {
	t.Helper()
	got := page(t, r)
	for _, line := range want {
		if !strings.Contains(got, "cluster.recipes."+line+"\n") {
			t.Errorf("got no %q in the statistics", line)
		}
	}
	for _, name := range absent {
		if strings.Contains(got, "cluster.recipes."+name+":") {
			t.Errorf("got %q in the statistics, want none", name)
		}
	}
}

// TestMaintenance refuses calls before a host is picked, and serves them again later.
func TestMaintenance(t *testing.T) {
	a, requests := server(t, "a")
	r := new(metrics.Registry)
	var down limits.Maintenance
	if err := down.Set(envoy.Percent{}); err != nil {
		t.Fatal(err)
	}
	u := upstream(t, pillion.Options{LocalReplies: true}, metrics.Config{Registry: r}, &down, retry.Config{},
		limits.Config{}, made(t, cluster.Config{Endpoints: cluster.Addresses(a)}))
	if body, err := get(t, u); body != "maintenance mode" || err != nil {
		t.Errorf("got %q, %v, want maintenance mode", body, err)
	}
	if requests.Load() != 0 {
		t.Error("got a request, want none")
	}
	checkPage(t, r, []string{
		"upstream_rq_maintenance_mode: 1", "upstream_rq_503: 1", "upstream_rq_total: 0", "upstream_rq_pending_total: 0", "upstream_cx_total: 0",
	}, nil)
	if err := down.Set(envoy.Percent{Numerator: envoy.Never}); err != nil {
		t.Fatal(err)
	}
	if body, err := get(t, u); body != "a" || err != nil {
		t.Errorf("got %q, %v, want the host", body, err)
	}
	checkPage(t, r, []string{"upstream_rq_maintenance_mode: 1", "upstream_rq_200: 1", "upstream_rq_total: 1", "upstream_cx_total: 1"}, nil)
}

// TestNoDynamicStats omits the statistics of responses, but not those of the cluster.
func TestNoDynamicStats(t *testing.T) {
	a, _ := server(t, "a")
	r := new(metrics.Registry)
	u := upstream(t, metrics.Config{Registry: r, NoDynamicStats: true}, made(t, cluster.Config{Endpoints: cluster.Addresses(a)}))
	if _, err := get(t, u); err != nil {
		t.Fatal(err)
	}
	checkPage(t, r, []string{"upstream_rq_total: 1", "upstream_rq_pending_total: 1", "upstream_cx_total: 1", "membership_total: 1", "upstream_rq_completed: 0"},
		[]string{"upstream_rq_200", "upstream_rq_2xx", "internal.upstream_rq_200"})
}

// TestTimeouts pins which timeouts are failures of the host for outlier detection, and which count as
// a response: those of an attempt, but not those of a stream.
func TestTimeouts(t *testing.T) {
	const short = 30 * time.Millisecond
	tests := []struct {
		name    string
		outside pillion.Policy
		cluster cluster.Config
		detail  *envoy.Detail
		ejected bool
	}{
		{"per try", timeout.Config{PerTry: short}, cluster.Config{}, envoy.PerTryTimeout, true},
		{"stream", timeout.Stream{MaxDuration: short}, cluster.Config{}, envoy.StreamDuration, false},
		{"stream idle", timeout.Stream{Idle: short}, cluster.Config{}, envoy.StreamIdle, false},
		{"stream of the cluster", timeout.Stream{}, cluster.Config{MaxStreamDuration: short}, cluster.MaxStreamDuration, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
			t.Cleanup(s.Close)
			test.cluster.Endpoints = cluster.Addresses(s.Listener.Addr().String())
			test.cluster.Outlier = &cluster.Outlier{Consecutive5xx: 1, AlwaysEjectOneHost: true}
			c, r, stat := made(t, test.cluster), new(metrics.Registry), stats{}
			u := upstream(t, pillion.Options{LocalReplies: true}, metrics.Config{Registry: r}, stat, test.outside, limits.Config{}, c)
			ctx, info := pillion.WithInfo(t.Context())
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://recipes.internal/", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := u.Transport(nil).RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != http.StatusGatewayTimeout || info.Detail() != test.detail {
				t.Errorf("got %d and %v, want 504 and %v", resp.StatusCode, info.Detail(), test.detail)
			}
			if got := c.Hosts()[0].Health == cluster.Unhealthy; got != test.ejected {
				t.Errorf("got an ejected host: %v, want %v", got, test.ejected)
			}
			want, absent := []string{"upstream_rq_total: 1"}, []string{"upstream_rq_504"}
			if test.ejected {
				want, absent = []string{"upstream_rq_total: 1", "upstream_rq_504: 1"}, nil
			}
			checkPage(t, r, want, absent)
			for _, name := range []string{"upstream_rq_active", "upstream_rq_pending_active", "upstream_cx_active"} {
				testtime.Eventually(t, func() bool { return stat[name]() == 0 })
			}
		})
	}
}
