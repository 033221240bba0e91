package metrics

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion/policy"
)

// TestOffer_owned adds statistics of an owner to what is counted here, and shows each once, however
// many upstreams offer it.
func TestOffer_owned(t *testing.T) {
	r := registry(t, Settings{})
	of := new(int)
	var record func(uint64)
	subscribed := 0
	shared := policyFunc(func(b *policy.Builder, next policy.Func) (policy.Func, error) {
		b.Stat(
			policy.Stat{Kind: policy.Counter, Name: "upstream_rq_total", Of: of, Read: func() uint64 { return 3 }},
			policy.Stat{Kind: policy.Gauge, Name: "upstream_rq_active", Of: of, Read: func() uint64 { return 2 }},
			policy.Stat{Kind: policy.Counter, Name: "upstream_cx_total", Of: of, Read: func() uint64 { return 0 }},
			policy.Stat{Kind: policy.Histogram, Name: "upstream_cx_connect_ms", Of: of, Record: func(f func(uint64)) {
				record = f
				subscribed++
			}},
		)
		return next, nil
	})
	for range 2 {
		upstream(t, Config{Registry: r}, shared)
	}
	c := r.Cluster("recipes")
	c.Counter("upstream_rq_total").Inc()
	c.Gauge("upstream_rq_active").Add(1)
	record(7)
	got := page(t, r, "/stats?filter=rq_total|rq_active|cx_total&type=Counters") + page(t, r, "/stats?filter=rq_active$&type=Gauges")
	want := "cluster.recipes.upstream_cx_total: 0\ncluster.recipes.upstream_rq_active_overflow: 0\n" +
		"cluster.recipes.upstream_rq_total: 4\ncluster.recipes.upstream_rq_active: 3\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if subscribed != 1 {
		t.Errorf("got %d functions, want the histogram to be shown once", subscribed)
	}
	if got := page(t, r, "/stats/prometheus?filter=cx_connect_ms"); !strings.Contains(got, `envoy_cluster_upstream_cx_connect_ms_count{envoy_cluster_name="recipes"} 1`) {
		t.Errorf("got %q, want one value", got)
	}
}

// TestOffer_bad refuses a histogram without a function, and one that is another statistic.
func TestOffer_bad(t *testing.T) {
	c := registry(t, Settings{}).Cluster("recipes")
	c.Counter("x")
	for name, s := range map[string]policy.Stat{
		"no function":  {Kind: policy.Histogram, Name: "y", Read: func() uint64 { return 0 }},
		"no endpoints": {Kind: policy.Endpoints, Name: "z", Read: func() uint64 { return 0 }},
		"a counter":    {Kind: policy.Histogram, Name: "x", Record: func(func(uint64)) {}},
		"owned, taken": {Kind: policy.Gauge, Name: "x", Of: 1, Read: func() uint64 { return 0 }},
	} {
		if err := c.offer(s); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}
