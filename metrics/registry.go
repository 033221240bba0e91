package metrics

import (
	"errors"
	"fmt"
	"regexp"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Registry holds clusters and the settings for their statistics' names. It is safe for concurrent
// use. The zero value has zero [Settings]; use [NewRegistry] for others. Everywhere a nil Registry
// means [Default].
type Registry struct {
	tags  []tag
	plain bool // do not extract Envoy's tags from names
	shape atomic.Uint64

	mu       sync.RWMutex
	clusters map[string]*ClusterStats // by the name that pages show; guarded by mu
	virtual  map[string]*ClusterStats // of virtual clusters, by prefix; guarded by mu

	planning sync.Mutex // held while a page is laid out
	plan     atomic.Pointer[plan]

	registered []prometheus.Registerer // that registered an exporter; guarded by registering
}

// Settings configures the names of a registry's statistics. Mirrors Envoy's stats_config.
type Settings struct {
	// Tags are added to the statistics, or extracted from their names. Mirrors stats_tags.
	Tags []Tag `json:"stats_tags,omitempty"`

	// NoDefaultTags keeps whole names: envoy_cluster_recipes_upstream_rq_200 instead of
	// envoy_cluster_upstream_rq{envoy_response_code="200",envoy_cluster_name="recipes"}. Mirrors
	// use_all_default_tags: false.
	NoDefaultTags bool `json:"no_default_tags,omitempty"`
}

// Tag is a label of statistics in Prometheus. Exactly one of Value and Regex must be set.
type Tag struct {
	// Name is the name of the tag. Dots become underscores in Prometheus: service.node.
	Name string `json:"tag_name"`

	// Value is a fixed value for all statistics, such as the name of this service or host. Mirrors
	// fixed_value.
	Value string `json:"fixed_value,omitempty"`

	// Regex extracts the tag from each statistic's name that it matches. Its first group is cut
	// out of the name. The value is its second group, or the first if there is only one. The
	// syntax is that of package regexp, which is RE2's, as in Envoy.
	Regex string `json:"regex,omitempty"`
}

//nolint:gochecknoglobals // as http.DefaultServeMux is
var defaultRegistry = sync.OnceValue(func() *Registry { return newRegistry(nil, false) })

// Default returns the registry that is used if none is set.
func Default() *Registry { return defaultRegistry() }

// orDefault returns r, or Default if r is nil.
func (r *Registry) orDefault() *Registry {
	if r == nil {
		return Default()
	}
	return r
}

// NewRegistry returns a registry. Its error joins one error for each invalid tag.
func NewRegistry(s Settings) (*Registry, error) {
	var bad []error
	var tags []tag
	seen := map[string]bool{}
	for i, t := range s.Tags {
		made, err := newTag(t)
		if err == nil && seen[made.label] {
			err = fmt.Errorf("%q is a duplicate; remove one of the two", t.Name)
		}
		if err != nil {
			bad = append(bad, fmt.Errorf("metrics: Settings.Tags[%d]: %w", i, err))
			continue
		}
		seen[made.label] = true
		tags = append(tags, made)
	}
	if err := errors.Join(bad...); err != nil {
		return nil, err
	}
	return newRegistry(tags, s.NoDefaultTags), nil
}

func newRegistry(tags []tag, plain bool) *Registry {
	return &Registry{tags: tags, plain: plain}
}

// newTag checks a tag.
func newTag(t Tag) (tag, error) {
	made := tag{label: labelName(t.Name), value: clean(t.Value)}
	switch {
	case t.Name == "":
		return made, errors.New("the name is empty")
	case reserved(made.label):
		return made, fmt.Errorf("the name %q is reserved by Prometheus; write another", t.Name)
	case (t.Value == "") == (t.Regex == ""):
		return made, fmt.Errorf("%q needs either a value or a regex", t.Name)
	case t.Regex == "":
		return made, nil
	}
	re, err := regexp.Compile(t.Regex)
	if err != nil {
		return made, fmt.Errorf("%q: %w", t.Name, err)
	}
	if re.NumSubexp() == 0 {
		return made, fmt.Errorf("%q: the regex %q has no group", t.Name, t.Regex)
	}
	made.re = re
	return made, nil
}

// Cluster returns the cluster with the given name. It makes the cluster at its first use. As in
// Envoy names that a page shows alike are the same cluster: a colon, or a character that would
// break a line of text, is shown as an underscore.
func (r *Registry) Cluster(name string) *ClusterStats {
	r = r.orDefault()
	name = clusterName(name)
	r.mu.RLock()
	c := r.clusters[name]
	r.mu.RUnlock()
	if c != nil {
		return c
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c = r.clusters[name]; c == nil {
		c = newCluster(r, name)
		if r.clusters == nil {
			r.clusters = map[string]*ClusterStats{}
		}
		r.clusters[name] = c
		r.shape.Add(1)
	}
	return c
}

// virtualCluster returns the statistics of a virtual cluster. It makes them at their first use.
func (r *Registry) virtualCluster(host, name string) *ClusterStats {
	c := newVirtualCluster(r, clusterName(host), clusterName(name))
	r.mu.Lock()
	defer r.mu.Unlock()
	if found := r.virtual[c.prefix]; found != nil {
		return found
	}
	if r.virtual == nil {
		r.virtual = map[string]*ClusterStats{}
	}
	r.virtual[c.prefix] = c
	r.shape.Add(1)
	return c
}

// Remove deletes a cluster whose upstream is no longer used. Existing handles keep working but are
// no longer shown. A later call of Cluster with that name makes a new one. Virtual clusters stay.
func (r *Registry) Remove(name string) {
	r = r.orDefault()
	name = clusterName(name)
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.clusters[name]
	if c == nil {
		return
	}
	delete(r.clusters, name)
	c.mu.Lock()
	c.detached = true
	c.mu.Unlock()
	r.shape.Add(1)
}
