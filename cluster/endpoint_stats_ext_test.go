package cluster_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/cluster"
	"github.com/pillion-go/pillion/internal/testtime"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// pageOf returns the lines of a page of statistics that match filter.
func pageOf(t *testing.T, r *metrics.Registry, page, filter string) string {
	t.Helper()
	w := httptest.NewRecorder()
	metrics.Handler(r).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, page+"?filter="+filter, nil))
	return w.Body.String()
}

// counted returns the statistics of endpoints that are not 0, without the address.
func counted(t *testing.T, r *metrics.Registry, address string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for line := range strings.Lines(pageOf(t, r, "/stats", "endpoint")) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		short, ok := strings.CutPrefix(name, "cluster.recipes.endpoint."+strings.ReplaceAll(address, ":", "_")+".")
		if !ok {
			t.Errorf("got %q, want a statistic of %s", line, address)
		}
		if value != "0" {
			found[short] = value
		}
	}
	return found
}

func newRegistry(t *testing.T) *metrics.Registry {
	t.Helper()
	r, err := metrics.NewRegistry(metrics.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestEndpointStats makes each call with a new cluster. The statistics are those of Envoy 1.40.0 for
// the same calls.
func TestEndpointStats(t *testing.T) {
	responds := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code); io.WriteString(w, "soup") }
	}
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	one := []pillion.Policy{}
	short := []pillion.Policy{timeout.Config{Total: 100 * time.Millisecond}}
	patient := pillion.Options{DrainTime: time.Minute} // the default before a retry is too short for a busy machine
	type counts = map[string]string
	for _, test := range []struct {
		name     string
		policies []pillion.Policy
		serve    func(w http.ResponseWriter, r *http.Request)
		want     counts
	}{
		{"a good response", one, responds(200), counts{"rq_success": "1", "rq_total": "1", "cx_total": "1", "cx_active": "1"}},
		{"a 404", one, responds(404), counts{"rq_success": "1", "rq_total": "1", "cx_total": "1", "cx_active": "1"}},
		{"a 503", one, responds(503), counts{"rq_error": "1", "rq_total": "1", "cx_total": "1", "cx_active": "1"}},
		{"no response", one, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, counts{"rq_error": "1", "rq_total": "1", "cx_total": "1"}},
		{"broken off", one, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9")
			io.WriteString(w, "soup")
		}, counts{"rq_success": "1", "rq_total": "1", "cx_total": "1"}},
		{"late", short, hang, counts{"rq_error": "1", "rq_timeout": "1", "rq_total": "1", "cx_total": "1"}},
		{"a late body", short, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			hang(w, r)
		}, counts{"rq_success": "1", "rq_timeout": "1", "rq_total": "1", "cx_total": "1"}},
		{"retried", []pillion.Policy{patient, retry.Config{On: "5xx", BaseInterval: time.Millisecond, MaxInterval: time.Millisecond}}, responds(503), counts{"rq_error": "2", "rq_total": "2", "cx_total": "1", "cx_active": "1"}},
		{"a 409 that is retried", []pillion.Policy{patient, retry.Config{On: "retriable-4xx", BaseInterval: time.Millisecond, MaxInterval: time.Millisecond}}, responds(409), counts{"rq_success": "2", "rq_total": "2", "cx_total": "1", "cx_active": "1"}}, // Envoy: rq_error 1
		{"refused by a limit", []pillion.Policy{limits.Config{MaxPendingRequests: limits.Zero}}, hang, counts{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(test.serve))
			defer s.Close()
			address := s.Listener.Addr().String()
			r := newRegistry(t)
			c := made(t, cluster.Config{Endpoints: cluster.Addresses(address), PerEndpointStats: true})
			u := upstream(t, append(append([]pillion.Policy{metrics.Config{Registry: r}}, test.policies...), c)...)
			_, _ = get(t, u)
			test.want["healthy"] = "1"
			defer func() {
				if diff := cmp.Diff(test.want, counted(t, r, address)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}()
			testtime.Eventually(t, func() bool { return cmp.Equal(test.want, counted(t, r, address)) }) // a connection ends later
		})
	}
}

// TestEndpointStats_dead counts a host that does not listen. Envoy counts no request of such an
// attempt.
func TestEndpointStats_dead(t *testing.T) {
	address, r := "127.0.0.1:1", newRegistry(t)
	u := upstream(t, metrics.Config{Registry: r}, made(t, cluster.Config{Endpoints: cluster.Addresses(address), PerEndpointStats: true}))
	_, _ = get(t, u)
	want := map[string]string{"cx_connect_fail": "1", "cx_total": "1", "rq_error": "1", "healthy": "1"}
	if diff := cmp.Diff(want, counted(t, r, address)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestEndpointStats_form pins the rows and labels of hosts that are added and removed, in a cluster
// that two upstreams share. They are those of Envoy 1.40.0.
func TestEndpointStats_form(t *testing.T) {
	r := newRegistry(t)
	c := made(t, cluster.Config{Endpoints: cluster.Addresses("127.0.0.1:1"), PerEndpointStats: true})
	upstream(t, metrics.Config{Registry: r}, c)
	upstream(t, metrics.Config{Registry: r}, c)
	want := `cluster.recipes.endpoint.127.0.0.1_1.cx_active: 0
cluster.recipes.endpoint.127.0.0.1_1.cx_connect_fail: 0
cluster.recipes.endpoint.127.0.0.1_1.cx_total: 0
cluster.recipes.endpoint.127.0.0.1_1.healthy: 1
cluster.recipes.endpoint.127.0.0.1_1.rq_active: 0
cluster.recipes.endpoint.127.0.0.1_1.rq_error: 0
cluster.recipes.endpoint.127.0.0.1_1.rq_pending_active: 0
cluster.recipes.endpoint.127.0.0.1_1.rq_success: 0
cluster.recipes.endpoint.127.0.0.1_1.rq_timeout: 0
cluster.recipes.endpoint.127.0.0.1_1.rq_total: 0
`
	if diff := cmp.Diff(want, pageOf(t, r, "/stats", "endpoint")); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
	if err := c.Update([]cluster.Endpoint{{Address: "[::1]:2", Hostname: "soup"}}); err != nil {
		t.Fatal(err)
	}
	want = `# TYPE envoy_cluster_endpoint_rq_total counter
envoy_cluster_endpoint_rq_total{envoy_cluster_name="recipes",envoy_endpoint_address="[::1]:2",envoy_endpoint_hostname="soup"} 0
`
	if diff := cmp.Diff(want, pageOf(t, r, "/stats/prometheus", "endpoint.*rq_total")); diff != "" {
		t.Errorf("Prometheus (-want +got):\n%s", diff)
	}
	if got, want := pageOf(t, r, "/stats", "endpoint.*rq_total"), "cluster.recipes.endpoint.[__1]_2.rq_total: 0\n"; got != want {
		t.Errorf("text: got %q, want %q", got, want)
	}
}

// TestEndpointStats_off pins that no endpoint is shown by default.
func TestEndpointStats_off(t *testing.T) {
	r := newRegistry(t)
	upstream(t, metrics.Config{Registry: r}, made(t, cluster.Config{Endpoints: cluster.Addresses("127.0.0.1:1")}))
	if got := pageOf(t, r, "/stats", "endpoint"); got != "" {
		t.Errorf("got %q, want nothing", got)
	}
}
