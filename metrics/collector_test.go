package metrics

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/pillion-go/pillion"
)

// flat gives every series of families with its value, labels sorted.
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

// TestCollector gathers through the client library what the page shows: the same
// names, labels and values, whatever the clusters are called.
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

// TestRegisterer gives one registerer to several upstreams.
func TestRegisterer(t *testing.T) {
	r, to := registry(t, Settings{}), prometheus.NewPedanticRegistry()
	for _, name := range []string{"a", "b", "a"} {
		if _, err := pillion.New(name, Config{Registry: r, Registerer: to}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := to.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		if f.GetName() == "envoy_cluster_upstream_rq_total" && len(f.GetMetric()) == 2 {
			return
		}
	}
	t.Errorf("got %v, want two clusters", list)
}

// uncomparable is a registerer that cannot be a map's key.
type uncomparable struct {
	prometheus.Registerer
	_ []int
}

// refusing is a registerer that takes nothing.
type refusing struct{ prometheus.Registerer }

func (*refusing) Register(prometheus.Collector) error { return errors.New("no") }

func TestRegistererErrors(t *testing.T) {
	for name, to := range map[string]prometheus.Registerer{
		"cannot be told from another":    uncomparable{},
		"metrics: Config.Registerer: no": &refusing{},
	} {
		_, err := pillion.New("recipes", Config{Registry: registry(t, Settings{}), Registerer: to})
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, want %q in it", err, name)
		}
	}
}
