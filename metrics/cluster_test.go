package metrics

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// rowsOf returns the names and values of a cluster's counters and gauges.
func rowsOf(c *ClusterStats) map[string]uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	found := map[string]uint64{}
	for name, r := range c.rows {
		if r.kind != histogramKind {
			found[name] = r.num.Value()
		}
	}
	return found
}

// TestAnswers counts codes in several categories: single codes are counted, all else is a sum.
func TestAnswers(t *testing.T) {
	c := registry(t, Settings{}).Cluster("recipes")
	c.Responses(Internal).Count(200)
	c.Responses(External).Count(204)
	c.Responses(External).Count(503)
	c.Responses(Retry).Count(503)
	c.Responses(Canary).Count(200)
	c.Responses("alt.internal").Count(404)
	c.Responses(Internal).Count(101)
	for _, odd := range []int{0, 99, 600, 999, -1, 1 << 40} {
		c.Responses(Internal).Count(odd)
	}
	want := map[string]uint64{
		"internal.upstream_rq_200": 1, "internal.upstream_rq_2xx": 1, "internal.upstream_rq_101": 1,
		"internal.upstream_rq_1xx": 1, "internal.upstream_rq_unknown": 6, "internal.upstream_rq_completed": 8,
		"external.upstream_rq_204": 1, "external.upstream_rq_2xx": 1, "external.upstream_rq_503": 1,
		"external.upstream_rq_5xx": 1, "external.upstream_rq_completed": 2,
		"retry.upstream_rq_503": 1, "retry.upstream_rq_5xx": 1, "retry.upstream_rq_completed": 1,
		"canary.upstream_rq_200": 1, "canary.upstream_rq_2xx": 1, "canary.upstream_rq_completed": 1,
		"alt.internal.upstream_rq_404": 1, "alt.internal.upstream_rq_4xx": 1, "alt.internal.upstream_rq_completed": 1,
		"alt.upstream_rq_404": 1, "alt.upstream_rq_4xx": 1, "alt.upstream_rq_completed": 1,
		"upstream_rq_200": 1, "upstream_rq_204": 1, "upstream_rq_2xx": 2, "upstream_rq_503": 1, "upstream_rq_5xx": 1,
		"upstream_rq_101": 1, "upstream_rq_1xx": 1, "upstream_rq_unknown": 6, "upstream_rq_completed": 10,
	}
	if diff := cmp.Diff(want, rowsOf(c)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestResponsesModel compares ResponseCounters with maps, with random orders of categories.
func TestResponsesModel(t *testing.T) {
	categories := []string{Internal, External, Retry, "alt.internal", "alt.external", Canary, "x.y.internal"}
	for i := range 50 {
		c := registry(t, Settings{}).Cluster("recipes")
		want := map[string]uint64{}
		for n := range 200 {
			category := categories[(n*7+i*n/3)%len(categories)]
			code := 100 + (n*37+i*11)%700
			c.Responses(category).Count(code)
			add(want, category+".", code)
			if whole, ok := wholeOf(category); ok && whole != "" {
				add(want, whole+".", code)
			} else if ok {
				add(want, "", code)
			}
		}
		if diff := cmp.Diff(want, rowsOf(c)); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	}
}

func add(want map[string]uint64, prefix string, code int) {
	want[prefix+"upstream_rq_completed"]++
	if code > 599 {
		want[prefix+"upstream_rq_unknown"]++
		return
	}
	want[prefix+fmt.Sprintf("upstream_rq_%d", code)]++
	want[prefix+fmt.Sprintf("upstream_rq_%dxx", code/100)]++
}

// TestOtherType requests names as statistics of another type.
func TestOtherType(t *testing.T) {
	for name, ask := range map[string]func(c *ClusterStats){
		"a counter as a gauge":   func(c *ClusterStats) { c.Counter("x"); c.Gauge("x") },
		"a gauge as a histogram": func(c *ClusterStats) { c.Gauge("x"); c.Histogram("x") },
		"a sum as a counter":     func(c *ClusterStats) { c.Responses(Internal); c.Counter("upstream_rq_completed") },
		"a function as a gauge":  func(c *ClusterStats) { c.ReadGauge("x", func() uint64 { return 1 }); c.Gauge("x") },
		"a gauge as a function":  func(c *ClusterStats) { c.Gauge("x"); c.ReadGauge("x", func() uint64 { return 1 }) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.HasPrefix(got, "metrics: cluster.recipes.") {
					t.Errorf("got panic %q, want one that names the statistic", got)
				}
			}()
			ask(registry(t, Settings{}).Cluster("recipes"))
		})
	}
}

func TestGauges(t *testing.T) {
	r := registry(t, Settings{})
	c := r.Cluster("recipes")
	c.Gauge("a").Add(2)
	c.Gauge("a").Add(-5)
	c.Gauge("b").Set(7)
	c.ReadGauge("c", func() uint64 { return 1<<64 - 1 })
	before := page(t, r, "/stats")
	c.ReadGauge("d", func() uint64 { return 2 })
	c.ReadGauge("d", func() uint64 { return 3 })
	want := "cluster.recipes.a: 0\ncluster.recipes.b: 7\ncluster.recipes.c: 18446744073709551615\n"
	if before != want {
		t.Errorf("got %q, want %q", before, want)
	}
	if got := page(t, r, "/stats?filter=d$"); got != "cluster.recipes.d: 3\n" {
		t.Errorf("two functions for one gauge: got %q, want the second one's", got)
	}
}

// TestRegistry finds clusters by the name that pages show.
func TestRegistry(t *testing.T) {
	r := registry(t, Settings{})
	c := r.Cluster("a:b")
	if r.Cluster("a_b") != c || r.Cluster("a:b") != c || c.Name() != "a_b" {
		t.Errorf("got cluster %q, want one for all names that are shown as a_b", c.Name())
	}
	n := c.Counter("upstream_rq_retry")
	n.Inc()
	if got := page(t, r, "/stats"); got != "cluster.a_b.upstream_rq_retry: 1\n" {
		t.Errorf("got %q", got)
	}
	r.Remove("a:b")
	r.Remove("unknown")
	n.Inc()
	c.Counter("upstream_rq_timeout").Inc()
	if got := page(t, r, "/stats"); got != "" {
		t.Errorf("after Remove: got %q, want nothing", got)
	}
	if r.Cluster("a:b") == c {
		t.Error("after Remove: got the old cluster")
	}
	if first := Default(); first != Default() {
		t.Error("got two defaults")
	}
}

// TestSettings shows one statistic with various settings.
func TestSettings(t *testing.T) {
	for _, tc := range []struct {
		name string
		s    Settings
		want string
	}{
		{"none", Settings{}, `envoy_cluster_b_c_upstream_rq{envoy_response_code="200",envoy_cluster_name="a"} 1`},
		{
			"fixed",
			Settings{Tags: []Tag{{Name: "service.node", Value: "x\n\"\\"}, {Name: "0z", Value: "1"}}},
			`envoy_cluster_b_c_upstream_rq{envoy_response_code="200",service_node="x_\"\\",_0z="1",envoy_cluster_name="a"} 1`,
		},
		{"whole names", Settings{NoDefaultTags: true}, `envoy_cluster_a_b_c_upstream_rq_200{} 1`},
		{
			"whole names, fixed tag",
			Settings{NoDefaultTags: true, Tags: []Tag{{Name: "e", Value: "v"}}},
			`envoy_cluster_a_b_c_upstream_rq_200{e="v"} 1`,
		},
		{
			"regex",
			Settings{Tags: []Tag{{Name: "team", Regex: `^cluster\.a\.((b)\.)`}}},
			`envoy_cluster_c_upstream_rq{envoy_response_code="200",envoy_cluster_name="a",team="b"} 1`,
		},
		{
			"regex with one group",
			Settings{Tags: []Tag{{Name: "team", Regex: `(b\.)`}}},
			`envoy_cluster_c_upstream_rq{envoy_response_code="200",envoy_cluster_name="a",team="b."} 1`,
		},
		{
			"regex that overlaps another cut",
			Settings{Tags: []Tag{{Name: "all", Regex: `^(cluster\.(a\.b))`}}},
			`envoy__c_upstream_rq{envoy_response_code="200",envoy_cluster_name="a",all="a.b"} 1`,
		},
		{
			"regex that matches nothing",
			Settings{Tags: []Tag{{Name: "team", Regex: `(x)?y`}, {Name: "two", Regex: `(x)?c`}}},
			`envoy_cluster_b_c_upstream_rq{envoy_response_code="200",envoy_cluster_name="a"} 1`,
		},
		{
			"whole names, regex",
			Settings{NoDefaultTags: true, Tags: []Tag{{Name: "code", Regex: `(_(\d+))$`}}},
			`envoy_cluster_a_b_c_upstream_rq{code="200"} 1`,
		},
		{
			"a tag of the same name",
			Settings{Tags: []Tag{{Name: "envoy.cluster_name", Value: "mine"}}},
			`envoy_cluster_b_c_upstream_rq{envoy_response_code="200",envoy_cluster_name="mine"} 1`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := registry(t, tc.s)
			r.Cluster("a.b.c").Responses(Retry).Count(200)
			r.Cluster("a.b.c").Responses(Internal).Count(200)
			text := page(t, r, "/stats/prometheus?filter=c.upstream_rq_200")
			validPrometheus(t, text)
			if _, got, _ := strings.Cut(strings.TrimSpace(text), "\n"); got != tc.want {
				t.Errorf("got %s\nwant %s", got, tc.want)
			}
		})
	}
}

// TestLostTags uses settings that remove the difference between clusters: their series are summed,
// and none is duplicate.
func TestLostTags(t *testing.T) {
	for name, tags := range map[string][]Tag{
		"overwritten": {{Name: "envoy.cluster_name", Value: "all"}},
		"cut out":     {{Name: "envoy.cluster_name", Regex: `(x)`}, {Name: "z", Regex: `^cluster\.(a(\d))`}},
		"constant":    {{Name: "k", Regex: `^(cluster\.[^.]+\.((?:)))`}},
	} {
		t.Run(name, func(t *testing.T) {
			r := registry(t, Settings{Tags: tags})
			called(r, "a1")
			called(r, "a2")
			total := 0.0
			for name, f := range validPrometheus(t, page(t, r, "/stats/prometheus")) {
				for _, m := range f.GetMetric() {
					if strings.HasSuffix(name, "upstream_rq_total") {
						total += m.GetCounter().GetValue()
					}
				}
			}
			if total != 4 {
				t.Errorf("got a total of %v, want 4", total)
			}
		})
	}
}

func TestSettingsErrors(t *testing.T) {
	_, err := NewRegistry(Settings{Tags: []Tag{
		{Value: "x"},
		{Name: "both", Value: "x", Regex: "(y)"},
		{Name: "neither"},
		{Name: "no.group", Regex: "x"},
		{Name: "broken", Regex: "("},
		{Name: "le", Value: "x"},
		{Name: "__name", Value: "x"},
		{Name: "a.b", Value: "1"},
		{Name: "a_b", Value: "2"},
	}})
	if err == nil {
		t.Fatal("got no error, want one")
	}
	want := []string{
		`metrics: Settings.Tags[0]: the name is empty`,
		`metrics: Settings.Tags[1]: "both" needs either a value or a regex`,
		`metrics: Settings.Tags[2]: "neither" needs either a value or a regex`,
		`metrics: Settings.Tags[3]: "no.group": the regex "x" has no group`,
		"metrics: Settings.Tags[4]: \"broken\": error parsing regexp: missing closing ): `(`",
		`metrics: Settings.Tags[5]: the name "le" is reserved by Prometheus; write another`,
		`metrics: Settings.Tags[6]: the name "__name" is reserved by Prometheus; write another`,
		`metrics: Settings.Tags[8]: "a_b" is a duplicate; remove one of the two`,
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// FuzzNames shows clusters, statistics and tags with arbitrary names in all formats.
func FuzzNames(f *testing.F) {
	for _, name := range odd {
		f.Add(name, "upstream_rq_200", "value")
		f.Add("recipes", name, name)
	}
	f.Fuzz(func(t *testing.T, cluster, stat, value string) {
		if value == "" {
			value = "-"
		}
		r := registry(t, Settings{Tags: []Tag{{Name: "tag", Value: value}}})
		for i, name := range []string{cluster, cluster + ".x", "x", strings.ToUpper(cluster)} {
			c := r.Cluster(name)
			r.Cluster(fmt.Sprint(name, i)).Counter(stat).Inc()
			if _, taken := c.rows[clean(stat)]; !taken {
				c.Gauge(stat).Set(1)
			}
			called(r, fmt.Sprint(name, i, "y"))
		}
		for line := range strings.Lines(page(t, r, "/stats")) {
			if !strings.HasPrefix(line, "cluster.") {
				t.Errorf("not a line of the page: %q", line)
			}
		}
		validJSON(t, page(t, r, "/stats?format=json"))
		validPrometheus(t, page(t, r, "/stats/prometheus"))
	})
}

// TestBusyRegistry counts, adds and shows clusters concurrently.
func TestBusyRegistry(t *testing.T) {
	r := registry(t, Settings{})
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 200 {
				c := r.Cluster(fmt.Sprint("cluster-", j%20))
				c.Responses([]string{Internal, External, Retry}[i%3]).Count(100 + j%500)
				c.Responses(Internal).Time(uint64(j))
				c.Counter(fmt.Sprint("x", j%7)).Inc()
				switch {
				case j%50 == 0 && i == 0:
					r.Remove("cluster-19")
				case j%20 == 0 && i > 5:
					validPrometheus(t, page(t, r, "/stats/prometheus"))
					validText(t, page(t, r, "/stats"))
				}
			}
		})
	}
	all.Wait()
	names := slices.Sorted(maps.Keys(r.clusters))
	if len(names) != 20 && len(names) != 19 {
		t.Errorf("got clusters %v", names)
	}
}
