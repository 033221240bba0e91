package metrics

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pillion-go/pillion/policy"
)

// listed offers endpoints that a test replaces.
type listed struct{ all *policy.EndpointStats }

func (l *listed) Wrap(b *policy.Builder, next policy.Func) (policy.Func, error) {
	b.Stat(policy.Stat{Kind: policy.Endpoints, Name: "endpoint", Of: l, Endpoints: func() *policy.EndpointStats { return l.all }})
	return next, nil
}

// endpointsAt returns endpoints with one counter and one gauge each.
func endpointsAt(addresses ...string) *policy.EndpointStats {
	all := &policy.EndpointStats{}
	for _, address := range addresses {
		all.List = append(all.List, policy.EndpointStat{Address: address, Hostname: "kitchen", Stats: []policy.Stat{
			{Kind: policy.Counter, Name: "rq_total", Read: func() uint64 { return 3 }},
			{Kind: policy.Gauge, Name: "rq_active", Read: func() uint64 { return 1 }},
			{Kind: policy.Gauge, Name: "nothing"},
		}})
	}
	return all
}

// TestEndpoints shows endpoints that come and go. As in Envoy a cluster's whole name is a label,
// even with dots, and no regular expression applies.
func TestEndpoints(t *testing.T) {
	for _, test := range []struct {
		name     string
		settings Settings
		want     string // of the first endpoint's rq_total
	}{
		{"default", Settings{}, `envoy_cluster_endpoint_rq_total{envoy_cluster_name="recipes.a",envoy_endpoint_address="a:1",envoy_endpoint_hostname="kitchen"} 3`},
		{"fixed tag", Settings{Tags: []Tag{{Name: "service", Value: "shop"}}}, `envoy_cluster_endpoint_rq_total{service="shop",envoy_cluster_name="recipes.a",envoy_endpoint_address="a:1",envoy_endpoint_hostname="kitchen"} 3`},
		{"regex", Settings{Tags: []Tag{{Name: "letter", Regex: `endpoint\.(a)`}}}, `envoy_cluster_endpoint_rq_total{envoy_cluster_name="recipes.a",envoy_endpoint_address="a:1",envoy_endpoint_hostname="kitchen"} 3`},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := registry(t, test.settings)
			l := &listed{}
			upstream(t, Config{Registry: r, StatName: "recipes.a"}, l)
			if got := page(t, r, "/stats?filter=endpoint"); got != "" {
				t.Errorf("got %q, want no endpoints", got)
			}
			l.all = endpointsAt("b:1", "a:1")
			want := "cluster.recipes.a.endpoint.a_1.rq_active: 1\ncluster.recipes.a.endpoint.a_1.rq_total: 3\n" +
				"cluster.recipes.a.endpoint.b_1.rq_active: 1\ncluster.recipes.a.endpoint.b_1.rq_total: 3\n"
			if diff := cmp.Diff(want, page(t, r, "/stats?filter=endpoint")); diff != "" {
				t.Errorf("text (-want +got):\n%s", diff)
			}
			got := page(t, r, "/stats/prometheus")
			validPrometheus(t, got)
			if !strings.Contains(got, "\n"+test.want+"\n") {
				t.Errorf("got\n%s, want a line %q", got, test.want)
			}
			validJSON(t, page(t, r, "/stats?format=json"))
			l.all = nil
			if got := page(t, r, "/stats?filter=endpoint"); got != "" {
				t.Errorf("got %q, want no endpoints", got)
			}
		})
	}
}

// TestEndpoints_exported exports endpoints of two registries together.
func TestEndpoints_exported(t *testing.T) {
	to, l := prometheus.NewRegistry(), &listed{}
	for _, name := range []string{"soup", "salad"} {
		upstream(t, Config{Registry: registry(t, Settings{}), Registerer: to, StatName: name}, l)
	}
	for _, want := range []int{0, 2, 4} {
		l.all = endpointsAt([]string{"a:1", "b:1"}[:want/2]...)
		if got := countSeries(t, to, "envoy_cluster_endpoint_rq_total"); got != want {
			t.Errorf("got %d series, want %d", got, want)
		}
	}
}

// countSeries returns how many series of a name are exported.
func countSeries(t *testing.T, g prometheus.Gatherer, name string) (n int) {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			n += len(f.GetMetric())
		}
	}
	return n
}

// TestEndpoints_panic keeps the endpoints of before if a policy's function panics.
func TestEndpoints_panic(t *testing.T) {
	r, all, broken := registry(t, Settings{}), endpointsAt("a:1"), false
	upstream(t, Config{Registry: r}, policyFunc(func(b *policy.Builder, next policy.Func) (policy.Func, error) {
		b.Stat(policy.Stat{Kind: policy.Endpoints, Endpoints: func() *policy.EndpointStats {
			if broken {
				panic("soup")
			}
			return all
		}})
		return next, nil
	}))
	want := page(t, r, "/stats?filter=endpoint")
	broken = true
	if got := page(t, r, "/stats?filter=endpoint"); got != want || want == "" {
		t.Errorf("got %q, want %q", got, want)
	}
}
