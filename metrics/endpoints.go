package metrics

import (
	"errors"
	"slices"
	"sync/atomic"

	"github.com/pillion-go/pillion/internal/report"
	"github.com/pillion-go/pillion/policy"
)

// endpoints holds the statistics of endpoints that one policy offers.
type endpoints struct {
	now  func() *policy.EndpointStats
	seen atomic.Pointer[policy.EndpointStats] // the result of now in the current layout of pages
}

// changed reports whether the endpoints have changed since the last call. If the policy's function
// panics, changed returns false.
func (e *endpoints) changed() bool {
	defer func() {
		if p := recover(); p != nil {
			report.Panic("the function of the statistics of endpoints", p)
		}
	}()
	now := e.now()
	return e.seen.Swap(now) != now
}

// offerEndpoints shows the statistics of endpoints.
func (c *ClusterStats) offerEndpoints(name string, s policy.Stat) error {
	if s.Endpoints == nil {
		return errors.New("metrics: the statistic " + c.prefix + name + " has no function Endpoints")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isKnown(name, s.Of) {
		return nil
	}
	c.endpoints = append(slices.Clip(c.endpoints), &endpoints{now: s.Endpoints})
	return nil
}

// refresh invalidates the layout of pages if the endpoints of a cluster have changed.
func (r *Registry) refresh() {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, c := range r.clusters {
		c.refresh()
	}
}

func (c *ClusterStats) refresh() {
	c.mu.RLock()
	offered := c.endpoints
	c.mu.RUnlock()
	for _, e := range offered {
		if e.changed() {
			c.registry.shape.Add(1)
		}
	}
}

// appendEndpoints appends the statistics of the endpoints. The caller holds mu.
func (c *ClusterStats) appendEndpoints(t *tagger, to []entry) []entry {
	for _, offered := range c.endpoints {
		all := offered.seen.Load()
		if all == nil {
			continue
		}
		for _, e := range all.List {
			to = c.appendEndpoint(t, to, e)
		}
	}
	return to
}

// appendEndpoint appends the statistics of one endpoint. As in Envoy, the tags are not extracted from
// the names, so that the names of clusters and addresses can contain dots.
func (c *ClusterStats) appendEndpoint(t *tagger, to []entry, e policy.EndpointStat) []entry {
	prefix := c.prefix + "endpoint." + clusterName(e.Address) + "."
	tags := []label{{"envoy_cluster_name", c.name}, {"envoy_endpoint_address", clean(e.Address)}}
	if e.Hostname != "" {
		tags = append(tags, label{"envoy_endpoint_hostname", clean(e.Hostname)})
	}
	labels := newLabels(t.list(label{}, tags...))
	for _, s := range e.Stats {
		if s.Read == nil {
			continue
		}
		num := number(readGauge(s.Read))
		if s.Kind == policy.Counter {
			num = readCounter{s.Read}
		}
		name := clean(s.Name)
		to = append(to, entry{row: row{name: prefix + name, kind: kindOf(s), num: num}, left: "cluster.endpoint." + name, labels: labels})
	}
	return to
}
