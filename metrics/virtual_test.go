package metrics

import (
	"net"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	hosts "github.com/pillion-go/pillion/cluster"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// onPath matches a prefix of the path.
func onPath(prefix string) envoy.HeaderMatcher {
	return envoy.HeaderMatcher{Name: ":path", Prefix: prefix}
}

// TestVirtualClusters makes calls whose statistics Envoy 1.40.0 printed.
func TestVirtualClusters(t *testing.T) {
	r := registry(t, Settings{})
	u := upstream(t, Config{Registry: r, VirtualHost: "svc", VirtualClusters: []VirtualCluster{
		{Name: "orders", Headers: []envoy.HeaderMatcher{onPath("/ok")}},
		{Name: "retried", Headers: []envoy.HeaderMatcher{onPath("/r"), {Name: ":method", Exact: "GET"}}},
		{Name: "dead", Headers: []envoy.HeaderMatcher{{Name: ":path", Exact: "/dead?a=b"}, {Name: ":authority", Exact: "recipes"}}},
		{Name: "late", Headers: []envoy.HeaderMatcher{{Name: ":authority", Exact: "recipes"}, onPath("/slow"), {Name: "x-late"}}},
	}}, timeout.Config{Total: 100 * time.Millisecond}, retry.Config{On: "5xx", NumRetries: 1, BaseInterval: time.Millisecond, MaxInterval: time.Millisecond})
	attempts := map[string]int{}
	rt := u.Transport(responding(func(req *http.Request) (*http.Response, error) {
		attempts[req.URL.Path]++
		switch first := attempts[req.URL.Path] == 1; {
		case req.URL.Path == "/r" && first, req.URL.Path == "/503":
			return sized(http.StatusServiceUnavailable, "soup"), nil
		case req.URL.Path == "/dead":
			return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
		case req.URL.Path == "/slow":
			<-req.Context().Done()
			return nil, req.Context().Err()
		}
		return sized(http.StatusOK, "soup"), nil
	}))
	for _, call := range []struct{ method, target string }{
		{"GET", "/ok"}, {"POST", "/ok?a=b"}, {"GET", "/r"}, {"POST", "/r"}, {"GET", "/dead?a=b"}, {"GET", "/slow"}, {"POST", "/503"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), call.method, "http://recipes"+call.target, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Late", "")
		if resp, err := rt.RoundTrip(req); err == nil {
			_ = resp.Body.Close()
		}
	}
	want := `vhost.svc.vcluster.dead.upstream_rq_503: 1
vhost.svc.vcluster.dead.upstream_rq_5xx: 1
vhost.svc.vcluster.dead.upstream_rq_completed: 1
vhost.svc.vcluster.dead.upstream_rq_retry: 1
vhost.svc.vcluster.dead.upstream_rq_retry_limit_exceeded: 1
vhost.svc.vcluster.dead.upstream_rq_retry_overflow: 0
vhost.svc.vcluster.dead.upstream_rq_retry_success: 0
vhost.svc.vcluster.dead.upstream_rq_timeout: 0
vhost.svc.vcluster.dead.upstream_rq_total: 0
vhost.svc.vcluster.late.upstream_rq_504: 1
vhost.svc.vcluster.late.upstream_rq_5xx: 1
vhost.svc.vcluster.late.upstream_rq_completed: 1
vhost.svc.vcluster.late.upstream_rq_retry: 0
vhost.svc.vcluster.late.upstream_rq_retry_limit_exceeded: 0
vhost.svc.vcluster.late.upstream_rq_retry_overflow: 0
vhost.svc.vcluster.late.upstream_rq_retry_success: 0
vhost.svc.vcluster.late.upstream_rq_timeout: 1
vhost.svc.vcluster.late.upstream_rq_total: 1
vhost.svc.vcluster.orders.upstream_rq_200: 2
vhost.svc.vcluster.orders.upstream_rq_2xx: 2
vhost.svc.vcluster.orders.upstream_rq_completed: 2
vhost.svc.vcluster.orders.upstream_rq_retry: 0
vhost.svc.vcluster.orders.upstream_rq_retry_limit_exceeded: 0
vhost.svc.vcluster.orders.upstream_rq_retry_overflow: 0
vhost.svc.vcluster.orders.upstream_rq_retry_success: 0
vhost.svc.vcluster.orders.upstream_rq_timeout: 0
vhost.svc.vcluster.orders.upstream_rq_total: 2
vhost.svc.vcluster.other.upstream_rq_200: 1
vhost.svc.vcluster.other.upstream_rq_2xx: 1
vhost.svc.vcluster.other.upstream_rq_503: 1
vhost.svc.vcluster.other.upstream_rq_5xx: 1
vhost.svc.vcluster.other.upstream_rq_completed: 2
vhost.svc.vcluster.other.upstream_rq_retry: 1
vhost.svc.vcluster.other.upstream_rq_retry_limit_exceeded: 1
vhost.svc.vcluster.other.upstream_rq_retry_overflow: 0
vhost.svc.vcluster.other.upstream_rq_retry_success: 0
vhost.svc.vcluster.other.upstream_rq_timeout: 0
vhost.svc.vcluster.other.upstream_rq_total: 3
vhost.svc.vcluster.retried.upstream_rq_200: 1
vhost.svc.vcluster.retried.upstream_rq_2xx: 1
vhost.svc.vcluster.retried.upstream_rq_completed: 1
vhost.svc.vcluster.retried.upstream_rq_retry: 1
vhost.svc.vcluster.retried.upstream_rq_retry_limit_exceeded: 0
vhost.svc.vcluster.retried.upstream_rq_retry_overflow: 0
vhost.svc.vcluster.retried.upstream_rq_retry_success: 1
vhost.svc.vcluster.retried.upstream_rq_timeout: 0
vhost.svc.vcluster.retried.upstream_rq_total: 2
`
	if diff := cmp.Diff(want, page(t, r, "/stats?filter=^vhost&type=Counters")); diff != "" {
		t.Errorf("statistics (-want +got):\n%s", diff)
	}
	times := map[string]string{}
	for _, m := range regexp.MustCompile(`upstream_rq_time_count\{envoy_virtual_cluster="(\w+)",envoy_virtual_host="svc"} (\d+)`).FindAllStringSubmatch(page(t, r, "/stats/prometheus"), -1) {
		times[m[1]] = m[2]
	}
	if diff := cmp.Diff(map[string]string{"orders": "2", "other": "2", "retried": "1"}, times); diff != "" {
		t.Errorf("times (-want +got):\n%s", diff)
	}
}

// TestVirtualClusters_names compares names and labels with those that Envoy 1.40.0 printed.
func TestVirtualClusters_names(t *testing.T) {
	for _, test := range []struct{ host, cluster, want string }{
		{"svc", "orders", `envoy_vhost_vcluster_upstream_rq{envoy_response_code="200",envoy_virtual_cluster="orders",envoy_virtual_host="svc"} 1`},
		{"svc.a", "or.ders", `envoy_vhost_a_vcluster_or_ders_upstream_rq{envoy_response_code="200",envoy_virtual_host="svc"} 1`},
	} {
		for _, tags := range [][]Tag{nil, {{Name: "never", Regex: `(\z.)`}}} { // a regular expression has the names matched as a whole
			r := registry(t, Settings{Tags: tags})
			u := upstream(t, Config{Registry: r, VirtualHost: test.host, VirtualClusters: []VirtualCluster{{Name: test.cluster, Headers: []envoy.HeaderMatcher{onPath("/")}}}})
			send(t, u.Transport(responding(func(*http.Request) (*http.Response, error) { return sized(200, "soup"), nil })))
			if got := page(t, r, "/stats/prometheus"); !strings.Contains(got, "\n"+test.want+"\n") {
				t.Errorf("%s, %s: got\n%s, want a line %q", test.host, test.cluster, got, test.want)
			}
			name := "vhost." + test.host + ".vcluster." + test.cluster + ".upstream_rq_200: 1\n"
			if got := page(t, r, "/stats"); !strings.Contains(got, "\n"+name) {
				t.Errorf("got\n%s, want a line %q", got, name)
			}
			validPrometheus(t, page(t, r, "/stats/prometheus"))
		}
	}
}

// TestVirtualClusters_empty checks that names without a first word stay distinct.
func TestVirtualClusters_empty(t *testing.T) {
	r := registry(t, Settings{})
	for _, host := range []string{".", "a", "a."} {
		for _, name := range []string{".", "a", ".a", "a."} {
			r.virtualStats(host, name).sent.Inc()
		}
	}
	validPrometheus(t, page(t, r, "/stats/prometheus"))
	validJSON(t, page(t, r, "/stats?format=json"))
}

// TestVirtualClusters_shared has two upstreams count in the same virtual cluster, and a third one's
// refused call.
func TestVirtualClusters_shared(t *testing.T) {
	r := registry(t, Settings{})
	config := Config{Registry: r, VirtualHost: "svc", VirtualClusters: []VirtualCluster{{Name: "orders", Headers: []envoy.HeaderMatcher{onPath("/")}}}}
	for name, inside := range map[string]pillion.Policy{
		"soup": nil, "salad": nil, "bread": limits.Config{MaxRequests: limits.Zero},
	} {
		u, err := pillion.New(name, config, inside)
		if err != nil {
			t.Fatal(err)
		}
		send(t, u.Transport(responding(func(*http.Request) (*http.Response, error) { return sized(200, "soup"), nil })))
	}
	got := nonzero(r.virtualCluster("svc", "orders"))
	want := map[string]uint64{
		"upstream_rq_total": 2, "upstream_rq_200": 2, "upstream_rq_2xx": 2, "upstream_rq_503": 1, "upstream_rq_5xx": 1,
		"upstream_rq_completed": 3, "upstream_rq_time": 2,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestVirtualClusters_hosts refuses attempts by the limits of a cluster, which are counted as no
// attempts in Envoy either.
func TestVirtualClusters_hosts(t *testing.T) {
	r := registry(t, Settings{})
	c, err := hosts.New(hosts.Config{Endpoints: []hosts.Endpoint{{Address: "127.0.0.1:1"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	u := upstream(t, Config{Registry: r, VirtualHost: "svc", VirtualClusters: []VirtualCluster{{Name: "orders", Headers: []envoy.HeaderMatcher{onPath("/")}}}},
		limits.Config{MaxPendingRequests: limits.Zero}, c)
	send(t, u.Transport(nil))
	want := map[string]uint64{"upstream_rq_503": 1, "upstream_rq_5xx": 1, "upstream_rq_completed": 1}
	if diff := cmp.Diff(want, nonzero(r.virtualCluster("svc", "orders"))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestVirtualClusters_errors checks the texts of bad configurations.
func TestVirtualClusters_errors(t *testing.T) {
	_, err := pillion.New("recipes", Config{VirtualClusters: []VirtualCluster{
		{}, {Name: "orders", Headers: []envoy.HeaderMatcher{{Name: ":status"}, {}, {Name: ":path", Exact: "/", Prefix: "/"}}},
	}})
	want := strings.TrimSpace(`
upstream "recipes": metrics: Config.VirtualHost: empty, but VirtualClusters is not; write a name such as shop
metrics: Config.VirtualClusters[0].Name: empty; write a name such as orders
metrics: Config.VirtualClusters[0].Headers: empty; write at least one matcher, such as a prefix of :path
metrics: Config.VirtualClusters[1].Headers[0]: Name ":status" is not a pseudo-header; write :method, :path or :authority
metrics: Config.VirtualClusters[1].Headers[1]: Name is empty; write one such as X-Retry
metrics: Config.VirtualClusters[1].Headers[2]: "path" has more than one of Exact, Prefix, Suffix, Contains and Regex; write one of them`)
	if err == nil {
		t.Fatal("got no error")
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
