package metrics

import (
	"errors"
	"fmt"
	"regexp"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Registry holds clusters, and says how their statistics are named. It is safe for
// concurrent use. The zero value has the names of zero [Settings]; others are made with
// [NewRegistry]. A nil Registry stands for [Default] everywhere.
type Registry struct {
	tags  []tag
	plain bool // no tags are taken out of names
	shape atomic.Uint64

	mu       sync.RWMutex
	clusters map[string]*ClusterStats // by the name as it is shown; guarded by mu

	planning sync.Mutex // held while a page is laid out
	plan     atomic.Pointer[plan]

	registered []prometheus.Registerer // through which an exporter was registered; guarded by registering
}

// Settings say how a registry's statistics are named. It mirrors Envoy's
// stats_config.
type Settings struct {
	// Tags are added to the statistics, or taken out of their names. Mirrors stats_tags.
	Tags []Tag `json:"stats_tags,omitempty"`

	// NoDefaultTags leaves the names whole: envoy_cluster_recipes_upstream_rq_200 in place
	// of envoy_cluster_upstream_rq{envoy_response_code="200",envoy_cluster_name="recipes"}.
	// Mirrors use_all_default_tags: false.
	NoDefaultTags bool `json:"no_default_tags,omitempty"`
}

// Tag is a label of statistics in Prometheus. It has either a Value or a Regex.
type Tag struct {
	// Name may have dots, which Prometheus shows as underscores: service.node.
	Name string `json:"tag_name"`

	// Value is the same for all statistics, such as the name of this service or host.
	// Mirrors fixed_value.
	Value string `json:"fixed_value,omitempty"`

	// Regex takes the tag out of a statistic's name, for all names that it matches: its
	// first group is cut out of the name, its second, or where there is only one that, is the
	// value. The syntax is that of package regexp, which is RE2's, as in Envoy.
	Regex string `json:"regex,omitempty"`
}

//nolint:gochecknoglobals // as http.DefaultServeMux is
var defaultRegistry = sync.OnceValue(func() *Registry { return newRegistry(nil, false) })

// Default is the registry that is used where none is set.
func Default() *Registry { return defaultRegistry() }

// orDefault is r, or Default in the place of nil.
func (r *Registry) orDefault() *Registry {
	if r == nil {
		return Default()
	}
	return r
}

// NewRegistry makes a registry. The error joins all that is wrong with the settings.
func NewRegistry(s Settings) (*Registry, error) {
	var bad []error
	var tags []tag
	seen := map[string]bool{}
	for i, t := range s.Tags {
		made, err := newTag(t)
		if err == nil && seen[made.label] {
			err = fmt.Errorf("%q is there twice", t.Name)
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
		return made, errors.New("a tag without a name")
	case reserved(made.label):
		return made, fmt.Errorf("the name %q is Prometheus's own", t.Name)
	case (t.Value == "") == (t.Regex == ""):
		return made, fmt.Errorf("%q needs a value or a regex, and not both", t.Name)
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

// Cluster returns the cluster of that name, made at its first use. Names that are shown
// alike are one cluster, as in Envoy: a colon is shown as an underscore, and so is what would
// break a line of text.
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

// Remove deletes a cluster, for an upstream that is no more. Its handles keep working and
// are no longer shown; a later Cluster of that name makes a new one.
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
