package metrics

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/pillion-go/pillion"
)

// flat returns every series of families with its value and sorted labels.
func flat(families map[string]*dto.MetricFamily) map[string]string {
	series := map[string]string{}
	for name, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			slices.Sort(labels)
			key := fmt.Sprintf("%v %s{%s}", f.GetType(), name, strings.Join(labels, ","))
			switch {
			case m.GetCounter() != nil:
				series[key] = fmt.Sprint(m.GetCounter().GetValue())
			case m.GetGauge() != nil:
				series[key] = fmt.Sprint(m.GetGauge().GetValue())
			default:
				h := m.GetHistogram()
				text := []any{h.GetSampleCount(), h.GetSampleSum()}
				for _, b := range h.GetBucket() {
					if !math.IsInf(b.GetUpperBound(), 1) {
						text = append(text, b.GetUpperBound(), b.GetCumulativeCount())
					}
				}
				series[key] = fmt.Sprint(text...)
			}
		}
	}
	return series
}

// TestCollector checks that the client library gathers what the page shows: the same names, labels
// and values, for any cluster names.
func TestCollector(t *testing.T) {
	r := registry(t, Settings{Tags: []Tag{{Name: "service.node", Value: "n"}}})
	for _, name := range odd {
		called(r, name)
	}
	r.Cluster("plain").ReadGauge("circuit_breakers.default.remaining_rq", func() uint64 { return 1024 })
	gatherer := prometheus.NewPedanticRegistry()
	gatherer.MustRegister(Collector(r))
	list, err := gatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]*dto.MetricFamily{}
	for _, f := range list {
		got[f.GetName()] = f
	}
	want := flat(validPrometheus(t, page(t, r, "/stats/prometheus")))
	if diff := cmp.Diff(want, flat(got)); diff != "" {
		t.Errorf("(-page +collector):\n%s", diff)
	}
	if len(want) < 15*len(odd) {
		t.Errorf("got %d series, want more", len(want))
	}
}

// counted makes an upstream whose registry is exported through to, and makes n calls.
func counted(t *testing.T, name string, r *Registry, to prometheus.Registerer, n int) {
	t.Helper()
	u, err := pillion.New(name, Config{Registry: r, Registerer: to})
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		if _, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 0, nil }); err != nil {
			t.Fatal(err)
		}
	}
}

// totals gathers all series and returns those of upstream_rq_total.
func totals(t *testing.T, from prometheus.Gatherer) map[string]string {
	t.Helper()
	list, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]*dto.MetricFamily{}
	for _, f := range list {
		if strings.HasSuffix(f.GetName(), "envoy_cluster_upstream_rq_total") {
			found[f.GetName()] = f
		}
	}
	return flat(found)
}

func series(name, labels string) string {
	return "COUNTER " + name + "envoy_cluster_upstream_rq_total{" + labels + "}"
}

// own is a custom registerer.
type own struct{ prometheus.Registerer }

// hiding is a registerer that registers another collector instead of each.
type hiding struct{ prometheus.Registerer }

type hidden struct{ prometheus.Collector }

func (h *hiding) Register(c prometheus.Collector) error { return h.Registerer.Register(hidden{c}) }

// TestRegisterer exports registries to one Prometheus registry in many ways. Each scrape succeeds,
// and no series is duplicate.
func TestRegisterer(t *testing.T) {
	with := func(labels prometheus.Labels) func(prometheus.Registerer) prometheus.Registerer {
		return func(to prometheus.Registerer) prometheus.Registerer { return prometheus.WrapRegistererWith(labels, to) }
	}
	prefix := func(to prometheus.Registerer) prometheus.Registerer {
		return prometheus.WrapRegistererWithPrefix("app_", to)
	}
	plain := func(to prometheus.Registerer) prometheus.Registerer { return to }
	app := with(prometheus.Labels{"app": "shop"})
	const a, b = `envoy_cluster_name="a"`, `envoy_cluster_name="b"`
	for _, tc := range []struct {
		name string
		wrap []func(prometheus.Registerer) prometheus.Registerer // for a, for b, for a again
		want map[string]string
	}{
		{"plain", []func(prometheus.Registerer) prometheus.Registerer{plain, plain, plain}, map[string]string{
			series("", a): "5", series("", b): "2",
		}},
		{"new wrapper with labels", []func(prometheus.Registerer) prometheus.Registerer{app, app, app}, map[string]string{
			series("", `app="shop",`+a): "5", series("", `app="shop",`+b): "2",
		}},
		{"new wrapper with a prefix", []func(prometheus.Registerer) prometheus.Registerer{prefix, prefix, prefix}, map[string]string{
			series("app_", a): "5", series("app_", b): "2",
		}},
		{"new wrapper of a custom type", []func(prometheus.Registerer) prometheus.Registerer{
			func(to prometheus.Registerer) prometheus.Registerer { return &own{to} },
			func(to prometheus.Registerer) prometheus.Registerer { return own{to} },
			plain,
		}, map[string]string{
			series("", a): "5", series("", b): "2",
		}},
		{"other labels", []func(prometheus.Registerer) prometheus.Registerer{app, with(prometheus.Labels{"app": "bar"}), app}, map[string]string{
			series("", `app="shop",`+a): "5", series("", `app="shop",`+b): "2",
			series("", `app="bar",`+a): "5", series("", `app="bar",`+b): "2",
		}},
		{"other label names", []func(prometheus.Registerer) prometheus.Registerer{app, with(prometheus.Labels{"team": "x"}), app}, map[string]string{
			series("", `app="shop",`+a): "5", series("", `app="shop",`+b): "2",
			series("", a+`,team="x"`): "5", series("", b+`,team="x"`): "2",
		}},
		{"plain and wrapped", []func(prometheus.Registerer) prometheus.Registerer{plain, app, plain}, map[string]string{
			series("", a): "5", series("", b): "2",
			series("", `app="shop",`+a): "5", series("", `app="shop",`+b): "2",
		}},
		{"wrapped and plain, with a prefix", []func(prometheus.Registerer) prometheus.Registerer{
			func(to prometheus.Registerer) prometheus.Registerer { return prefix(app(to)) }, plain,
			func(to prometheus.Registerer) prometheus.Registerer { return prefix(app(to)) },
		}, map[string]string{
			series("", a): "5", series("", b): "2",
			series("app_", `app="shop",`+a): "5", series("app_", `app="shop",`+b): "2",
		}},
		{"wrapped nil", []func(prometheus.Registerer) prometheus.Registerer{
			plain, func(prometheus.Registerer) prometheus.Registerer { return prometheus.WrapRegistererWith(nil, nil) }, plain,
		}, map[string]string{
			series("", a): "5", series("", b): "2",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, to := registry(t, Settings{}), prometheus.NewPedanticRegistry()
			counted(t, "a", r, tc.wrap[0](to), 2)
			totals(t, to)
			counted(t, "b", r, tc.wrap[1](to), 2)
			totals(t, to)
			counted(t, "a", r, tc.wrap[2](to), 3)
			if diff := cmp.Diff(tc.want, totals(t, to)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestRegisterer_registries exports several registries to one Prometheus registry. Clusters of the
// same name form one series, even if they are made later.
func TestRegisterer_registries(t *testing.T) {
	first, second, tagged := registry(t, Settings{}), registry(t, Settings{}), registry(t, Settings{Tags: []Tag{
		{Name: "node", Value: "n"}, {Name: "kind", Regex: `(never\.)`},
	}})
	to := prometheus.NewPedanticRegistry()
	counted(t, "a", first, to, 1)
	counted(t, "b", second, prometheus.WrapRegistererWith(nil, to), 2)
	counted(t, "a", tagged, to, 3)
	counted(t, "a", second, nil, 4)
	counted(t, "b", tagged, to, 5)
	counted(t, "c", second, to, 6)
	want := map[string]string{
		series("", `envoy_cluster_name="a"`):          "5",
		series("", `envoy_cluster_name="b"`):          "2",
		series("", `envoy_cluster_name="c"`):          "6",
		series("", `envoy_cluster_name="a",node="n"`): "3",
		series("", `envoy_cluster_name="b",node="n"`): "5",
	}
	if diff := cmp.Diff(want, totals(t, to)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	second.Cluster("a").Gauge("upstream_rq_odd").Set(1) // another type in each registry
	first.Cluster("a").Counter("upstream_rq_odd").Inc()
	totals(t, to)
}

// TestRegisterer_removed removes a cluster and makes it again.
func TestRegisterer_removed(t *testing.T) {
	r, to := registry(t, Settings{}), prometheus.NewRegistry()
	counted(t, "a", r, to, 1)
	r.Remove("a")
	if got := totals(t, to); len(got) != 0 {
		t.Errorf("removed: got %v, want nothing", got)
	}
	counted(t, "a", r, prometheus.WrapRegistererWith(nil, to), 2)
	if diff := cmp.Diff(map[string]string{series("", `envoy_cluster_name="a"`): "2"}, totals(t, to)); diff != "" {
		t.Errorf("made again (-want +got):\n%s", diff)
	}
}

// TestRegisterer_concurrent makes upstreams concurrently with scrapes.
func TestRegisterer_concurrent(t *testing.T) {
	to := prometheus.NewRegistry()
	registries := []*Registry{registry(t, Settings{}), registry(t, Settings{})}
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			wrapped := prometheus.WrapRegistererWith(prometheus.Labels{"app": "shop"}, to)
			if _, err := pillion.New(strconv.Itoa(i%4), Config{Registry: registries[i%2], Registerer: wrapped}); err != nil {
				t.Error(err)
			}
			if _, err := to.Gather(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := totals(t, to); len(got) != 4 {
		t.Errorf("got %v, want 4 clusters", got)
	}
}

// uncomparable is a registerer that is not comparable.
type uncomparable struct {
	prometheus.Registerer
	_ []int
}

// refusing is a registerer that refuses all collectors.
type refusing struct{ prometheus.Registerer }

func (*refusing) Register(prometheus.Collector) error { return errors.New("no") }

// TestRegistererErrors checks that New reports each registerer whose scrapes would fail, and that
// nothing stays registered.
func TestRegistererErrors(t *testing.T) {
	to := prometheus.NewRegistry()
	with := func(labels prometheus.Labels) prometheus.Registerer { return prometheus.WrapRegistererWith(labels, to) }
	for _, tc := range []struct {
		name string
		to   prometheus.Registerer
		want string
	}{
		{"uncomparable", uncomparable{}, "is not comparable"},
		{"wrapped uncomparable", own{uncomparable{}}, "is not comparable"},
		{"refusing", &refusing{}, "metrics: Config.Registerer: no"},
		{"nil pointer", (*prometheus.Registry)(nil), "metrics: Config.Registerer: a nil *prometheus.Registry; leave the field out"},
		{"nil pointer of a custom type", (*refusing)(nil), "a nil *metrics.refusing"},
		{"wrapped nil pointer", prometheus.WrapRegistererWith(nil, (*prometheus.Registry)(nil)), "does it wrap a nil pointer"},
		{"wrapped nil interface", &own{}, "does it wrap a nil pointer"},
		{"a label of statistics", with(prometheus.Labels{"envoy_cluster_name": "a"}), "duplicate label names"},
		{"a label of gRPC", with(prometheus.Labels{"envoy_grpc_bridge_method": "a"}), "duplicate label names"},
		{"a label of histograms", with(prometheus.Labels{"le": "1"}), "duplicate label names"},
		{"a label of a tag", with(prometheus.Labels{"node": "a"}), "duplicate label names"},
		{"an invalid label name", with(prometheus.Labels{"__x": "a"}), "not a valid label name"},
		{"an invalid label value", with(prometheus.Labels{"x": "\xff"}), "UTF-8"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := registry(t, Settings{Tags: []Tag{{Name: "node", Value: "n"}}})
			_, err := pillion.New("recipes", Config{Registry: r, Registerer: tc.to})
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "metrics: Config.Registerer: ") {
				t.Errorf("got %v, want %q in it", err, tc.want)
			}
			if got := totals(t, to); len(got) != 0 {
				t.Errorf("got series %v, want none", got)
			}
		})
	}
	if err := to.Register(Collector(registry(t, Settings{}))); err != nil {
		t.Errorf("afterwards: got %v, want no error", err)
	}
}

// TestRegistererErrors_hidden checks the error of a registerer that hides an existing exporter. The
// same registerer can be used again.
func TestRegistererErrors_hidden(t *testing.T) {
	r, to := registry(t, Settings{}), prometheus.NewRegistry()
	first := &hiding{to}
	counted(t, "a", r, first, 1)
	counted(t, "b", r, first, 1)
	_, err := pillion.New("c", Config{Registry: r, Registerer: &hiding{to}})
	if want := "metrics: Config.Registerer: a *metrics.hiding hides the registered collectors"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q in it", err, want)
	}
	if got := totals(t, to); len(got) != 2 {
		t.Errorf("got series %v, want two", got)
	}
}

// TestRegistererPanics checks that a registerer's panic propagates, and that the registry works
// afterwards.
func TestRegistererPanics(t *testing.T) {
	r := registry(t, Settings{})
	func() {
		defer func() {
			if got := recover(); got != "soup" {
				t.Errorf("got panic %v, want soup", got)
			}
		}()
		_, _ = pillion.New("recipes", Config{Registry: r, Registerer: panicking{}})
	}()
	counted(t, "recipes", r, prometheus.NewRegistry(), 1)
}

type panicking struct{ prometheus.Registerer }

func (panicking) Register(prometheus.Collector) error { panic("soup") }
