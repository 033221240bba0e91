package metrics_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/policy"
)

// rpc is a gRPC call whose outcome set makes.
type rpc struct {
	path string
	set  func(o *policy.Outcome)
}

// replied is a gRPC call whose caller receives Envoy's status for a timeout.
type replied struct{ rpc }

func (replied) GRPCStatus(o *policy.Outcome) int { return o.GRPCStatus(true) }

// canary is a gRPC call with a response from a canary.
type canary struct{ rpc }

func (canary) ResponseHeader(_ *policy.Outcome, name string) []string {
	if name == "x-envoy-upstream-canary" { // as in metadata
		return []string{"true"}
	}
	return nil
}

func (r rpc) Request() policy.Request { return policy.Request{Protocol: "grpc", Path: r.path} }
func (r rpc) Try(_ context.Context, _ *policy.Attempt, o *policy.Outcome) {
	r.set(o)
	if o.Err != nil && o.Conditions == 0 {
		o.Conditions = policy.Invalid
	}
}
func (rpc) Classify(*policy.Attempt, *policy.Outcome, error) {}
func (rpc) RequestHeader(string) []string                    { return nil }
func (rpc) Header(*policy.Attempt) policy.Header             { return nil }
func (rpc) ResponseHeader(*policy.Outcome, string) []string  { return nil }
func (rpc) Messages() (sent, received uint64)                { return 2, 3 }

// countRPC makes gRPC calls under g, and other calls between them.
func countRPC(t *testing.T, g metrics.GRPC, calls ...any) *metrics.ClusterStats {
	t.Helper()
	registry, err := metrics.NewRegistry(metrics.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	g.Registry = registry
	policies := []pillion.Policy{g}
	for _, c := range calls {
		if p, ok := c.(pillion.Policy); ok {
			policies = append(policies, p)
		}
	}
	u, err := pillion.New("recipes", policies...)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range calls {
		if c, ok := c.(policy.Exchange); ok {
			u.Chain().Invoke(t.Context(), c)
		}
	}
	_, _ = pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 0, nil }) // must not be counted
	return registry.Cluster("recipes")
}

var errBad = errors.New("bad")

// answer is a response of the upstream with a status.
func answer(code int) func(*policy.Outcome) {
	return func(o *policy.Outcome) {
		if o.Detail, o.Code = envoy.ViaUpstream, code; code != 0 {
			o.Err = errBad
		}
	}
}

// local is the end of a call without a status from the upstream.
func local(is policy.Condition, d *envoy.Detail) func(*policy.Outcome) {
	return func(o *policy.Outcome) { o.Err, o.Conditions, o.Detail = errBad, is, d }
}

// TestGRPC counts calls by method and status.
func TestGRPC(t *testing.T) {
	tests := []struct {
		set  func(*policy.Outcome)
		want int // -1 for no status
	}{
		{answer(0), 0},
		{answer(5), 5},
		{answer(16), 16},
		{answer(99), 2},
		{local(policy.Cancelled, envoy.CallerGone), 1},
		{local(policy.Timeout, envoy.ResponseTimeout), 4},
		{local(policy.Timeout|policy.PerTryTimeout, envoy.PerTryTimeout), 4},
		{local(policy.ConnectFailure|policy.Timeout, envoy.ConnectionTimeout), 14},
		{local(policy.Refused, limits.Overflow), 14},
		{local(policy.Reset, envoy.RemoteReset), 14},
		{local(policy.ProtocolError, envoy.MalformedResponse), 14},
		{local(policy.Reset, nil), 14},
		{local(policy.ProtocolError, nil), 13},
		{answer(http.StatusServiceUnavailable), -1}, // plain HTTP
		{answer(http.StatusOK), -1},
		{local(policy.Reset, envoy.RemoteResetAfter), -1},
		{local(policy.Failed, envoy.RemoteResetAfter), -1},
		{local(policy.Failed, envoy.ConnectionTerminationAfter), -1},
		{local(policy.ProtocolError, envoy.MalformedResponseAfter), -1},
		{local(policy.Failed, nil), 2},
	}
	for _, test := range tests {
		wantStatus(t, countRPC(t, metrics.GRPC{}, rpc{"/pkg.Svc/Method", test.set}), test.want)
	}
}

// wantStatus checks the statistics of one call of /pkg.Svc/Method.
func wantStatus(t *testing.T, c *metrics.ClusterStats, code int) {
	t.Helper()
	want := map[string]uint64{"request_message_count": 2, "response_message_count": 3}
	if code >= 0 {
		want[strconv.Itoa(code)], want["total"] = 1, 1
		if code == 0 {
			want["success"] = 1
		} else {
			want["failure"] = 1
		}
	}
	names := []string{"success", "failure", "total", "request_message_count", "response_message_count"}
	for code := range 17 {
		names = append(names, strconv.Itoa(code))
	}
	for _, name := range names {
		if got := c.Counter("grpc.pkg.Svc.Method." + name).Value(); got != want[name] {
			t.Errorf("status %d: %s: got %d, want %d", code, name, got, want[name])
		}
	}
}

// TestGRPC_localReplies counts the status that the adapter decides: here Envoy's, also for timeouts,
// but not for the caller's own deadline.
func TestGRPC_localReplies(t *testing.T) {
	timedOut := func(scope policy.Scope) func(*policy.Outcome) {
		return func(o *policy.Outcome) {
			o.Err, o.Conditions, o.Detail = &pillion.TimeoutError{Scope: scope}, policy.Timeout, scope.Detail()
		}
	}
	for _, test := range []struct {
		set  func(*policy.Outcome)
		want int
	}{
		{timedOut(policy.ScopeTotal), 14},
		{timedOut(policy.ScopePerTry), 14},
		{timedOut(policy.ScopeIdle), 14},
		{timedOut(policy.ScopeCaller), 4},
		{local(policy.Cancelled, envoy.CallerGone), 1},
		{local(policy.Refused, breaker.CircuitOpen), 14},
		{answer(4), 4},
	} {
		c := countRPC(t, metrics.GRPC{}, replied{rpc{"/pkg.Svc/Method", test.set}})
		wantStatus(t, c, test.want)
	}
}

// TestGRPC_bounded checks that methods beyond MaxMethods are counted together.
func TestGRPC_bounded(t *testing.T) {
	var calls []any
	for i := range 5 {
		calls = append(calls, rpc{fmt.Sprint("/pkg.Svc/M", i), answer(0)})
	}
	calls = append(calls, rpc{"no method", answer(0)})
	c := countRPC(t, metrics.GRPC{MaxMethods: 2}, calls...)
	if got := c.Counter("grpc.total").Value(); got != 4 {
		t.Errorf("grpc.total: got %d, want 4", got)
	}
	if got := c.Counter("grpc.pkg.Svc.M1.total").Value(); got != 1 {
		t.Errorf("M1: got %d, want 1", got)
	}
	if got := countRPC(t, metrics.GRPC{MaxMethods: -1}, calls...).Counter("grpc.total").Value(); got != uint64(len(calls)) {
		t.Errorf("without methods: got %d, want %d", got, len(calls))
	}
}

// TestGRPC_paths checks that paths are parsed as in Envoy, and that their length is bounded.
func TestGRPC_paths(t *testing.T) {
	long := strings.Repeat("m", 255-len("/pkg.Svc/"))
	for _, tc := range []struct{ path, want string }{
		{"/pkg.Svc/Method", "grpc.pkg.Svc.Method."},
		{"/Svc/Method", "grpc.Svc.Method."},
		{"/a.b.c.Svc/Method.v2", "grpc.a.b.c.Svc.Method.v2."},
		{"Svc/Method", "grpc.Svc.Method."},
		{"//Svc//Method/", "grpc.Svc.Method."},
		{"/Svc/Method?x=/y", "grpc.Svc.Method."},
		{"/Svc", "grpc."},
		{"/Svc/", "grpc."},
		{"/", "grpc."},
		{"", "grpc."},
		{"/a/b/c", "grpc."},
		{"/pkg.Svc/" + long, "grpc.pkg.Svc." + long + "."},
		{"/pkg.Svc/" + long + "mm", "grpc."},
		{"/pkg.Svc/" + strings.Repeat("m", 1<<20), "grpc."},
	} {
		c := countRPC(t, metrics.GRPC{}, rpc{tc.path, answer(0)})
		if got := c.Counter(tc.want + "total").Value(); got != 1 {
			t.Errorf("%.50q: got %d of %.50stotal, want 1", tc.path, got, tc.want)
		}
	}
}

// TestGRPC_labels checks that labels are those of Envoy 1.40 for the same calls. They are the text
// between the first dots.
func TestGRPC_labels(t *testing.T) {
	for _, tc := range []struct {
		cluster, path string
		replace       bool
		want          string
	}{
		{"recipes", "/kitchen.v1.Cook/Get", false, `envoy_cluster_grpc_Cook_Get_0{envoy_grpc_bridge_method="v1",envoy_grpc_bridge_service="kitchen",envoy_cluster_name="recipes"}`},
		{"recipes", "/pkg.Svc/Method", false, `envoy_cluster_grpc_Method_0{envoy_grpc_bridge_method="Svc",envoy_grpc_bridge_service="pkg",envoy_cluster_name="recipes"}`},
		{"recipes", "/Cook/Get", false, `envoy_cluster_grpc_0{envoy_grpc_bridge_method="Get",envoy_grpc_bridge_service="Cook",envoy_cluster_name="recipes"}`},
		{"recipes", "/a.b.c.Cook/Get", false, `envoy_cluster_grpc_c_Cook_Get_0{envoy_grpc_bridge_method="b",envoy_grpc_bridge_service="a",envoy_cluster_name="recipes"}`},
		{"recipes", "/kitchen.v1.Cook/Get", true, `envoy_cluster_grpc_0{envoy_grpc_bridge_method="Get",envoy_grpc_bridge_service="kitchen_v1_Cook",envoy_cluster_name="recipes"}`},
		{"recipes", "/no-method", false, `envoy_cluster_grpc_0{envoy_cluster_name="recipes"}`},
		{"recipes", "/a..b/c", false, `envoy_cluster_grpc_b_c_0{envoy_grpc_bridge_service="a",envoy_cluster_name="recipes"}`},
		{"a.b", "/Cook/Get", false, `envoy_cluster_b_grpc_Cook_Get_0{envoy_cluster_name="a"}`},
		{"a.grpc", "/Cook/Get", false, `envoy_cluster_grpc_Get_0{envoy_grpc_bridge_method="Cook",envoy_grpc_bridge_service="grpc",envoy_cluster_name="a"}`},
	} {
		for _, settings := range []metrics.Settings{{}, {Tags: []metrics.Tag{{Name: "never", Regex: "(never)"}}}} {
			registry, err := metrics.NewRegistry(settings)
			if err != nil {
				t.Fatal(err)
			}
			u, err := pillion.New("x", metrics.GRPC{Registry: registry, StatName: tc.cluster, ReplaceDots: tc.replace})
			if err != nil {
				t.Fatal(err)
			}
			u.Chain().Invoke(t.Context(), rpc{tc.path, answer(0)})
			w := httptest.NewRecorder()
			metrics.Handler(registry).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/stats/prometheus?filter=0$", http.NoBody))
			if !strings.Contains(w.Body.String(), "\n"+tc.want+" 1\n") {
				t.Errorf("%s of %s: got %s, want %s", tc.path, tc.cluster, w.Body, tc.want)
			}
		}
	}
}

// TestGRPC_canary counts responses from canaries, with their times.
func TestGRPC_canary(t *testing.T) {
	registry, err := metrics.NewRegistry(metrics.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	u, err := pillion.New("recipes", metrics.Config{Registry: registry})
	if err != nil {
		t.Fatal(err)
	}
	u.Chain().Invoke(t.Context(), canary{rpc{"/pkg.Svc/Method", answer(0)}})
	u.Chain().Invoke(t.Context(), canary{rpc{"/pkg.Svc/Method", answer(14)}})
	u.Chain().Invoke(t.Context(), rpc{"/pkg.Svc/Method", answer(0)})
	w := httptest.NewRecorder()
	metrics.Handler(registry).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/stats/prometheus", http.NoBody))
	for _, want := range []string{
		`envoy_cluster_canary_upstream_rq{envoy_response_code="200",envoy_cluster_name="recipes"} 2`,
		`envoy_cluster_canary_upstream_rq_completed{envoy_cluster_name="recipes"} 2`,
		`envoy_cluster_canary_upstream_rq_time_count{envoy_cluster_name="recipes"} 2`,
		`envoy_cluster_upstream_rq_completed{envoy_cluster_name="recipes"} 3`,
	} {
		if !strings.Contains(w.Body.String(), want+"\n") {
			t.Errorf("got no line %s, want one", want)
		}
	}
}

// TestGRPC_twice checks that counting an upstream's methods twice is an error.
func TestGRPC_twice(t *testing.T) {
	registry, err := metrics.NewRegistry(metrics.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = pillion.New("recipes", metrics.GRPC{Registry: registry}, metrics.GRPC{Registry: registry, StatName: "recipes"})
	if err == nil || !strings.Contains(err.Error(), "metrics: GRPC.StatName: ") {
		t.Errorf("one cluster: got %v, want an error that names GRPC.StatName", err)
	}
	if _, err = pillion.New("recipes", metrics.GRPC{Registry: registry}, metrics.GRPC{Registry: registry, StatName: "other"}); err != nil {
		t.Errorf("two clusters: got %v, want no error", err)
	}
}
