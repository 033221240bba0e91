package metrics

import (
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// exporter collects several registries for one Prometheus registry. All Registerers that wrap it
// with the same labels and prefix share an exporter. So no statistic is exported twice, and
// clusters of the same name form one series, even from different registries.
type exporter struct {
	mu         sync.Mutex
	registries []*Registry // guarded by mu
	merged     *plan       // the plan of several registries; guarded by mu
}

// Describe sends nothing, which makes it an unchecked collector.
func (*exporter) Describe(chan<- *prometheus.Desc) {}

// Collect sends all statistics.
func (e *exporter) Collect(to chan<- prometheus.Metric) { collect(e.families(), to) }

func (e *exporter) has(r *Registry) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Contains(e.registries, r)
}

func (e *exporter) add(r *Registry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.registries, e.merged = append(e.registries, r), nil
}

// families returns the layout of all statistics. It lays out several registries together.
func (e *exporter) families() []family {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.registries) == 1 {
		return e.registries[0].layout().families
	}
	var shape uint64 // increases with that of each registry
	for _, r := range e.registries {
		r.refresh()
		shape += r.shape.Load()
	}
	if e.merged == nil || e.merged.shape != shape {
		e.merged = &plan{shape: shape, families: merge(e.registries)}
	}
	return e.merged.families
}

// merge lays out several registries. It sums statistics with the same name and labels.
func merge(registries []*Registry) []family {
	var all []entry
	for _, r := range registries {
		all = append(all, r.entries(newTagger(r.tags, r.plain))...)
	}
	return distinct(familiesOf(all), true)
}

// marker marks a Prometheus registry that has an exporter. An exporter has no description, so that
// a Prometheus registry does not recognize a second one. A marker has a description, and collects
// nothing.
type marker struct {
	desc     *prometheus.Desc
	exporter *exporter
}

// Describe sends the marker's description.
func (m *marker) Describe(to chan<- *prometheus.Desc) { to <- m.desc }

// Collect sends nothing.
func (*marker) Collect(chan<- prometheus.Metric) {}

// registering is held while an exporter is found or registered.
//
//nolint:gochecknoglobals // registries share exporters
var registering sync.Mutex

// register exports the registry's statistics through a registerer, unless they are already
// exported there.
func (r *Registry) register(to prometheus.Registerer) error {
	registering.Lock()
	defer registering.Unlock()
	if err := usable(to); err != nil {
		return fmt.Errorf("metrics: Config.Registerer: %w", err)
	}
	if slices.Contains(r.registered, to) {
		return nil
	}
	if err := r.export(to); err != nil {
		return fmt.Errorf("metrics: Config.Registerer: %w", err)
	}
	return nil
}

// usable returns an error if a registerer is a nil pointer or not comparable.
func usable(to prometheus.Registerer) error {
	v := reflect.ValueOf(to)
	if v.Kind() == reflect.Pointer && v.IsNil() {
		return fmt.Errorf("a nil %T; leave the field out to export nothing, or set prometheus.DefaultRegisterer", to)
	}
	if !v.Comparable() {
		return fmt.Errorf("a %T is not comparable; set a pointer to one", to)
	}
	return nil
}

// export adds r to the exporter behind to. It registers an exporter if there is none.
func (r *Registry) export(to prometheus.Registerer) error {
	m, found, err := markerOf(to)
	switch {
	case err != nil:
		return err
	case !found:
		return r.exportFirst(to, m)
	case m.exporter.has(r):
		return nil
	}
	if err := r.tryLabels(to); err != nil {
		return err
	}
	m.exporter.add(r)
	return nil
}

// exportFirst registers the exporter of a new marker.
func (r *Registry) exportFirst(to prometheus.Registerer, m *marker) error {
	m.exporter.add(r)
	err := r.tryLabels(to)
	if err == nil {
		err = registerAt(to, m.exporter)
	}
	if err != nil {
		to.Unregister(m)
		return err
	}
	r.registered = append(r.registered, to)
	return nil
}

// labelSets is the maximum number of sets of label names with which one Prometheus registry can
// have exporters.
const labelSets = 16

// markerOf returns the marker of the Prometheus registry behind to. It registers a marker if there
// is none. A Prometheus registry accepts a name with only one set of label names, so that each set
// that Registerers add needs a marker with another name.
func markerOf(to prometheus.Registerer) (m *marker, found bool, err error) {
	for i := range labelSets {
		name := fmt.Sprintf("pillion_metrics_exporter_%d", i)
		m = &marker{prometheus.NewDesc(name, "Marks a registry that exports statistics.", nil, nil), &exporter{}}
		if err = registerAt(to, m); err == nil {
			return m, false, nil
		}
		if there, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
			if m, ok = there.ExistingCollector.(*marker); ok {
				return m, true, nil
			}
			return nil, false, fmt.Errorf("a %T hides the registered collectors; register a Collector instead", to)
		}
	}
	return nil, false, err
}

// probes counts the names of probes.
//
//nolint:gochecknoglobals // names are unique in a process
var probes atomic.Uint64

// tryLabels returns an error if to adds labels, such as those of [prometheus.WrapRegistererWith],
// that statistics already have. Otherwise each scrape would fail.
func (r *Registry) tryLabels(to prometheus.Registerer) error {
	labels := []string{
		"envoy_response_code", "envoy_response_code_class", "envoy_grpc_bridge_method", "envoy_grpc_bridge_service",
		"envoy_cluster_name", "envoy_virtual_cluster", "envoy_virtual_host",
		"envoy_endpoint_address", "envoy_endpoint_hostname", "le", "quantile",
	}
	for _, t := range r.tags {
		if !slices.Contains(labels, t.label) {
			labels = append(labels, t.label)
		}
	}
	name := fmt.Sprintf("pillion_metrics_probe_%d", probes.Add(1))
	probe := &marker{desc: prometheus.NewDesc(name, "Tries labels.", labels, nil)}
	if err := registerAt(to, probe); err != nil {
		return err
	}
	to.Unregister(probe)
	return nil
}

// registerAt registers a collector. It returns an error if to wraps a nil pointer.
func registerAt(to prometheus.Registerer, c prometheus.Collector) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case runtime.Error:
			err = fmt.Errorf("a %T panicked; does it wrap a nil pointer? %w", to, p)
		default:
			panic(p)
		}
	}()
	return to.Register(c)
}
