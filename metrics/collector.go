package metrics

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"
)

// Collector returns a collector of a registry's statistics for Prometheus's client library, with
// the names and labels of /stats/prometheus. Nil means [Default]. It is an unchecked collector,
// because clusters can be added and removed. Register only one Collector of a Registry in a
// Prometheus registry, and none if a [Config] has it as its Registerer; otherwise each scrape
// fails.
//
//	prometheus.MustRegister(metrics.Collector(nil))
func Collector(r *Registry) prometheus.Collector {
	return collector{r.orDefault()}
}

type collector struct{ registry *Registry }

// Describe sends nothing, which makes it an unchecked collector.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect sends all statistics.
func (c collector) Collect(to chan<- prometheus.Metric) { collect(c.registry.layout().families, to) }

// collect sends the statistics of families.
func collect(families []family, to chan<- prometheus.Metric) {
	var bins []bin
	for _, f := range families {
		descs := describer{family: f.name}
		for _, e := range f.members {
			desc, values := descs.of(e)
			if e.kind != histogramKind {
				if n, ok := e.read(); ok {
					to <- prometheus.MustNewConstMetric(desc, valueTypes[e.kind], float64(n), values...)
				}
				continue
			}
			bins = e.bins.bins(bins[:0])
			to <- prometheus.MustNewConstHistogram(desc, count(bins), sum(bins), bucketMap(bins), values...)
		}
	}
}

//nolint:gochecknoglobals // read-only table
var valueTypes = map[kind]prometheus.ValueType{
	counterKind: prometheus.CounterValue,
	gaugeKind:   prometheus.GaugeValue,
}

// bucketMap returns the cumulative counts of a histogram.
func bucketMap(bins []bin) map[float64]uint64 {
	m := make(map[float64]uint64, len(bounds)+1)
	for i, below := range cumulate(bins) {
		m[bounds[i]] = below
	}
	m[math.Inf(1)] = count(bins)
	return m
}

// describer makes descriptions. It reuses the last one for series with the same label names.
type describer struct {
	family string
	last   *labels
	desc   *prometheus.Desc
}

// of returns the description of an entry and the values of its labels.
func (d *describer) of(e *entry) (desc *prometheus.Desc, values []string) {
	values = make([]string, 0, len(e.labels.list))
	for _, l := range e.labels.list {
		values = append(values, l.value)
	}
	if d.last == nil || !sameNames(d.last.list, e.labels.list) {
		names := make([]string, 0, len(e.labels.list))
		for _, l := range e.labels.list {
			names = append(names, l.name)
		}
		d.last, d.desc = e.labels, prometheus.NewDesc(d.family, help, names, nil)
	}
	return d.desc, values
}

// help is the help text of all statistics. Envoy has none.
const help = "See Envoy's documentation, cluster manager: statistics."

func sameNames(a, b []label) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].name != b[i].name {
			return false
		}
	}
	return true
}
