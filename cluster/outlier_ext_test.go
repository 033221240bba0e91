package cluster_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/cluster"
	"github.com/pillion-go/pillion/internal/testtime"
	"github.com/pillion-go/pillion/retry"
)

// failing starts a host that responds with status 503 while failing is true.
func failing(t *testing.T) (address string, failing *atomic.Bool, requests *atomic.Int64) {
	t.Helper()
	failing, requests = new(atomic.Bool), new(atomic.Int64)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		if failing.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://"), failing, requests
}

// TestOutlier ejects a host that fails, and ends the ejection.
func TestOutlier(t *testing.T) {
	bad, fails, requests := failing(t)
	good, _ := server(t, "good")
	fails.Store(true)
	c := made(t, cluster.Config{
		Endpoints: cluster.Addresses(bad, good), Rand: func() uint64 { return 0 },
		Outlier: &cluster.Outlier{Consecutive5xx: 2, MaxEjectionPercent: 50, BaseEjectionTime: 50 * time.Millisecond, Interval: 10 * time.Millisecond},
	})
	stat := stats{}
	u := upstream(t, stat, c)
	for range 4 {
		if _, err := get(t, u); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.Hosts()[0]; got.Health != cluster.Unhealthy || got.Flags != "/failed_outlier_check" {
		t.Errorf("got %+v, want an ejected host", got)
	}
	before := requests.Load()
	for range 4 {
		if body, err := get(t, u); err != nil || body != "good" {
			t.Errorf("got %q, %v, want the good host", body, err)
		}
	}
	if requests.Load() != before {
		t.Error("got a request at an ejected host, want none")
	}
	want := map[string]uint64{
		"outlier_detection.ejections_enforced_consecutive_5xx": 1, "outlier_detection.ejections_active": 1,
		"membership_healthy": 1, "membership_total": 2, "lb_healthy_panic": 0,
	}
	got := map[string]uint64{}
	for name := range want {
		got[name] = stat[name]()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("statistics (-want +got):\n%s", diff)
	}
	fails.Store(false)
	testtime.Eventually(t, func() bool { return c.Hosts()[0].Health == cluster.Healthy })
}

// TestOutlier_allOut refuses calls if all hosts are ejected and panic is off.
func TestOutlier_allOut(t *testing.T) {
	bad, fails, _ := failing(t)
	fails.Store(true)
	c := made(t, cluster.Config{
		Endpoints: cluster.Addresses(bad), PanicThreshold: cluster.Zero, MergeWindow: cluster.Never,
		Outlier: &cluster.Outlier{Consecutive5xx: 1, AlwaysEjectOneHost: true},
	})
	u := upstream(t, c)
	if _, err := get(t, u); err != nil {
		t.Fatal(err)
	}
	if _, err := get(t, u); err == nil || !strings.Contains(err.Error(), "no healthy upstream") {
		t.Errorf("got %v, want no healthy upstream", err)
	}
}

// TestRetry_otherHost pins that a retry uses another host.
func TestRetry_otherHost(t *testing.T) {
	bad, fails, _ := failing(t)
	fails.Store(true)
	good, _ := server(t, "good")
	hashed := []cluster.HashPolicy{{Header: "User"}}
	c := made(t, cluster.Config{Endpoints: cluster.Addresses(bad, good), LBPolicy: cluster.Maglev})
	tests := []struct {
		name  string
		hosts *retry.Hosts
		other bool
	}{
		{"by default", nil, true},
		{"previous hosts", &retry.Hosts{PreviousHosts: true, MaxAttempts: 20}, true},
		{"as Envoy by default", &retry.Hosts{}, false},
	}
	for _, test := range tests {
		u := upstream(t, retry.Config{On: "5xx", Hosts: test.hosts}, c.Route(cluster.Route{HashPolicy: hashed}))
		others := 0
		for user := range 20 {
			ctx, info := pillion.WithInfo(t.Context())
			req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://recipes/", nil)
			req.Header.Set("User", string(rune('a'+user)))
			resp, err := u.Transport(nil).RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			switch {
			case info.Attempts() == 1:
			case resp.StatusCode == http.StatusOK && info.Endpoint() == good:
				others++
			case test.other:
				t.Errorf("%s: got %d of %s, want a response of the other host", test.name, resp.StatusCode, info.Endpoint())
			}
		}
		if (others > 0) != test.other {
			t.Errorf("%s: got %d retries on another host", test.name, others)
		}
	}
}

// TestRetry_priorities pins that a retry uses another priority.
func TestRetry_priorities(t *testing.T) {
	bad, fails, _ := failing(t)
	fails.Store(true)
	good, _ := server(t, "good")
	c := made(t, cluster.Config{Endpoints: []cluster.Endpoint{{Address: bad}, {Address: good, Priority: 3}}})
	u := upstream(t, retry.Config{On: "5xx", Hosts: &retry.Hosts{PreviousPriorities: 1}}, c)
	if body, err := get(t, u); err != nil || body != "good" {
		t.Errorf("got %q, %v, want the host of the other priority", body, err)
	}
}

// TestRetry_metadata pins that a retry avoids hosts by their metadata.
func TestRetry_metadata(t *testing.T) {
	canary := map[string]map[string]any{"envoy.lb": {"canary": true}}
	first, fails, _ := failing(t)
	fails.Store(true)
	second, _ := server(t, "canary")
	third, _ := server(t, "good")
	c := made(t, cluster.Config{
		Endpoints: []cluster.Endpoint{{Address: first}, {Address: second, Metadata: canary}, {Address: third}},
		Rand:      func() uint64 { return 0 },
	})
	u := upstream(t, retry.Config{On: "5xx", Hosts: &retry.Hosts{OmitMetadata: canary, MaxAttempts: 3}}, c)
	if body, err := get(t, u); err != nil || body != "good" {
		t.Errorf("got %q, %v, want the host that is no canary", body, err)
	}
}
