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

// exporter collects registries for one Prometheus registry. All Registerers that lead
// there with the same labels and prefix share one: so no statistic is there twice, and the
// clusters of one name are one series, whichever registries count them.
type exporter struct {
	mu         sync.Mutex
	registries []*Registry // guarded by mu
	merged     *plan       // of several registries; guarded by mu
}

// Describe describes nothing, which makes it an unchecked collector.
func (*exporter) Describe(chan<- *prometheus.Desc) {}

// Collect reads all statistics.
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

// families lays out what is collected. Several registries are laid out together.
func (e *exporter) families() []family {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.registries) == 1 {
		return e.registries[0].layout().families
	}
	var shape uint64 // grows with each registry's
	for _, r := range e.registries {
		shape += r.shape.Load()
	}
	if e.merged == nil || e.merged.shape != shape {
		e.merged = &plan{shape: shape, families: merge(e.registries)}
	}
	return e.merged.families
}

// merge lays out several registries. What has one name and the same labels is summed.
func merge(registries []*Registry) []family {
	var all []entry
	for _, r := range registries {
		all = append(all, r.entries(newTagger(r.tags, r.plain))...)
	}
	return distinct(familiesOf(all), true)
}

// marker marks a Prometheus registry that has an exporter. An exporter has no description,
// so that a registry cannot tell that it has it already; a marker has one, and collects
// nothing.
type marker struct {
	desc     *prometheus.Desc
	exporter *exporter
}

// Describe describes the marker.
func (m *marker) Describe(to chan<- *prometheus.Desc) { to <- m.desc }

// Collect collects nothing.
func (*marker) Collect(chan<- prometheus.Metric) {}

// registering is held while an exporter is looked for and registered.
//
//nolint:gochecknoglobals // registries share exporters
var registering sync.Mutex

// register exports the registry's statistics through a registerer, unless they are
// exported there already.
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

// usable reports whether a registerer is one, and can be told from others.
func usable(to prometheus.Registerer) error {
	v := reflect.ValueOf(to)
	if v.Kind() == reflect.Pointer && v.IsNil() {
		return fmt.Errorf("a nil %T; leave the field out to export nothing, or set prometheus.DefaultRegisterer", to)
	}
	if !v.Comparable() {
		return fmt.Errorf("a %T cannot be told from another; set a pointer to one", to)
	}
	return nil
}

// export finds the exporter behind to, or registers one, and adds r to it.
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

// labelSets is under how many different sets of label names one Prometheus registry takes
// exporters.
const labelSets = 16

// markerOf finds the marker of the Prometheus registry behind to, or registers one. A
// registry takes one name under one set of label names alone, so that each set that
// Registerers add has a name of its own.
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
			return nil, false, fmt.Errorf("a %T hides what is registered; register a Collector yourself", to)
		}
	}
	return nil, false, err
}

// probes counts the names of probes.
//
//nolint:gochecknoglobals // names are unique in a process
var probes atomic.Uint64

// tryLabels reports labels of to, such as those of [prometheus.WrapRegistererWith], that
// statistics have themselves. Otherwise each scrape would fail.
func (r *Registry) tryLabels(to prometheus.Registerer) error {
	labels := []string{
		"envoy_response_code", "envoy_response_code_class", "envoy_grpc_bridge_method", "envoy_grpc_bridge_service",
		"envoy_cluster_name", "le", "quantile",
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

// registerAt registers a collector. A registerer that wraps a nil pointer is an error.
func registerAt(to prometheus.Registerer, c prometheus.Collector) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case runtime.Error:
			err = fmt.Errorf("registering in a %T panicked, as over a nil pointer: %w", to, p)
		default:
			panic(p)
		}
	}()
	return to.Register(c)
}
