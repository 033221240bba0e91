package cluster_test

import (
	_ "embed"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/cluster"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

//go:embed testdata/rows.txt
var envoysRows string

// absent matches the statistics of the recorded Envoy that the library cannot observe or has no
// counterpart for.
var absent = regexp.MustCompile(`^(` + strings.Join([]string{
	`http1\..*`, `upstream_flow_control_.*`, `upstream_cx_[rt]x_bytes_buffered`, // of the codec of HTTP
	`upstream_rq_rx_reset_no_error`,                                                               // net/http does not report the code
	`bind_errors`,                                                                                 // a dialer may bind an address unseen
	`client_ssl_socket_factory\..*`, `upstream_queue_overloaded`, `default\.total_match(_count)?`, // of discovery
	`circuit_breakers\.\w+\.remaining_cx_pools`,   // always close to 2^64 in Envoy
	`lb_subsets_single_host_per_subset_duplicate`, // of a policy with subsets
}, "|") + `) `)

// TestRows compares the statistics of a fresh upstream, with all policies, with the rows that the
// recorded Envoy prints before the first request: each row is present or listed as absent.
func TestRows(t *testing.T) {
	r := newRegistry(t)
	policies := func(c cluster.Config) []pillion.Policy {
		c.Endpoints, c.PerEndpointStats = cluster.Addresses("127.0.0.1:1"), true
		return []pillion.Policy{
			metrics.Config{Registry: r, TimeoutBudget: true, RequestResponseSizes: true},
			timeout.Config{},
			retry.Config{},
			limits.Config{TrackRemaining: true, MaxRetries: 3, High: &limits.Config{TrackRemaining: true, MaxRetries: 3}},
			breaker.Config{},
			made(t, c),
		}
	}
	for _, c := range []cluster.Config{
		{LBPolicy: cluster.RingHash, Outlier: &cluster.Outlier{}, HealthCheck: &cluster.HealthCheck{TCP: &cluster.TCPHealthCheck{}}},
		{LBPolicy: cluster.Maglev, TLS: &cluster.TLS{}, Protocol: cluster.HTTP2},
	} {
		upstream(t, policies(c)...)
	}
	want := map[string]bool{}
	for line := range strings.Lines(envoysRows) {
		if line = strings.TrimSpace(line) + " "; !strings.HasPrefix(line, "#") && !absent.MatchString(line) {
			want[strings.TrimSpace(line)] = true
		}
	}
	got := map[string]bool{}
	for kind, word := range map[string]string{"Counters": "counter", "Gauges": "gauge", "Histograms": "histogram"} {
		for line := range strings.Lines(pageOf(t, r, "/stats", "&type="+kind)) {
			name, _, _ := strings.Cut(line, ": ")
			got[strings.TrimPrefix(name, "cluster.recipes.")+" "+word] = true
		}
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got))); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
}
