package parity

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/fault"
)

// TestFilters_fault reads all fields of a fault filter, and pins that Envoy's 0 % is none.
func TestFilters_fault(t *testing.T) {
	var f filters
	err := strictBytes([]byte(`[{"name": "envoy.filters.http.fault", "typed_config": {
		"@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
		"delay": {"fixed_delay": "0.2s", "percentage": {"numerator": 5, "denominator": "MILLION"}},
		"abort": {"header_abort": {}},
		"response_rate_limit": {"fixed_limit": {"limit_kbps": 8}, "percentage": {"numerator": 100}},
		"upstream_cluster": "upstream", "downstream_nodes": ["a"], "headers": [{"name": "x-chaos", "string_match": {"exact": "yes"}}],
		"max_active_faults": 0
	}}]`), &f)
	if err != nil {
		t.Fatal(err)
	}
	want, err := fault.New(fault.Config{
		Delay:             &fault.Delay{Fixed: 200 * time.Millisecond, Percentage: envoy.Percent{Numerator: 5, Denominator: envoy.Million}},
		Abort:             &fault.Abort{Header: true, Percentage: envoy.Percent{Numerator: envoy.Never}},
		ResponseRateLimit: &fault.RateLimit{LimitKbps: 8, Percentage: envoy.Percent{Numerator: 100}},
		UpstreamCluster:   "upstream", DownstreamNodes: []string{"a"}, Headers: []envoy.HeaderMatcher{{Name: "x-chaos", Exact: "yes"}},
		MaxActiveFaults: fault.Zero,
	})
	if err != nil {
		t.Fatal(err)
	}
	got, ok := f.policies[0].(*fault.Fault)
	if !ok || len(f.policies) != 1 || f.draws || f.grpcStats {
		t.Fatalf("got %+v, want one fault that chance has no part in", f)
	}
	if diff := cmp.Diff(want.Config(), got.Config()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestFilters_names pins how the statistics of a connection manager are compared with an upstream's.
func TestFilters_names(t *testing.T) {
	for _, envoys := range []string{"http.egress.fault.aborts_injected", "http.egress.fault.shop.delays_injected", "http.egress.fault.active_faults"} {
		name := ofUpstream(envoys)
		if !isFault(name) || isFault(envoys) || recordedPath("/stats_nonzero/"+name) != "/stats_nonzero/"+envoys {
			t.Errorf("%s: got %s, which is compared: %v", envoys, name, isFault(name))
		}
	}
	if other := "http.egress.rq_total"; ofUpstream(other) != other || isFault(other) || isFault("cluster.upstream.fault.other") {
		t.Error("another statistic is taken for a fault's")
	}
}
