package metrics

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// Config counts an upstream's calls and attempts. It is a policy, to stand outside
// of retry; what the policies outside of it do to a call is counted too, but not the
// time that they take. Upstreams whose statistics have one name and one registry are
// counted together.
type Config struct {
	// StatName is the cluster's name in the statistics. Empty means the upstream's. A name
	// with dots is cut at the first one, as Envoy does: the rest becomes part of the
	// statistics' names. Mirrors alt_stat_name of Envoy's Cluster.
	StatName string `json:"alt_stat_name,omitempty"`

	// External counts answers as external.upstream_rq_*, for calls that are passed on
	// for somebody outside, in place of internal.upstream_rq_*.
	External bool `json:"external,omitempty"`

	// CallerStatNames counts responses also under the name that the caller's request has in
	// x-envoy-upstream-alt-stat-name, which is not sent on: 100 different ones of 256 bytes
	// at most; others are ignored. Set it where the callers are trusted.
	CallerStatNames bool `json:"caller_stat_names,omitempty"`

	// TimeoutBudget records in upstream_rq_timeout_budget_percent_used how many per cent of
	// its total limit each call took that completed or timed out, and in
	// upstream_rq_timeout_budget_per_try_percent_used the same of each attempt and its limit.
	// It is 0 where there is no limit. Mirrors timeout_budgets of track_cluster_stats.
	TimeoutBudget bool `json:"timeout_budgets,omitempty"`

	// Registry is where the cluster is counted. Nil means [Default].
	Registry *Registry `json:"-"`

	// Registerer exports the registry's statistics to a Prometheus registry, once: also
	// where it is wrapped anew for each upstream, as [prometheus.WrapRegistererWith] does,
	// and where several Registries are exported to one Prometheus registry, whose clusters of
	// one name are summed. With other labels or another prefix the statistics are exported
	// once more. A nil pointer, labels that the statistics have themselves, and a type that
	// cannot be compared are errors of New. Nil means no export: there is [Handler].
	Registerer prometheus.Registerer `json:"-"`
}

// Place is outside of what retries or hedges.
func (Config) Place() policy.Place { return place() }

// Wrap has the upstream's calls counted.
func (c Config) Wrap(s *policy.Builder, next policy.Func) (policy.Func, error) {
	cluster := clusterOf(s, c.Registry, c.StatName)
	if !s.Claim(countedCalls{cluster}) {
		return nil, errTwice("Config", cluster)
	}
	if c.Registerer != nil {
		if err := cluster.registry.register(c.Registerer); err != nil {
			return nil, err
		}
	}
	r := newRecorder(cluster, c)
	if s.Carrier() != nil {
		cluster.neverPooled()
	}
	if err := showStats(s, cluster); err != nil {
		return nil, err
	}
	r.slot, r.next = s.Slot(), next
	if r.tryBudget != nil {
		r.tries = s.Slot()
	}
	if c.CallerStatNames {
		s.Require(policy.Needs{Consume: []string{envoy.AltStatNameHeader}})
	}
	s.Require(policy.Needs{Headers: true}) // a response is counted at its header
	s.Listen(r.listen)
	return r.call, nil
}

// place is that of a policy that counts calls.
func place() policy.Place {
	return policy.Place{Rank: policy.PerCall, Name: "metrics", Why: "would see attempts and take them for calls"}
}

// OwnTransport has the connections of the upstream's own transport counted.
func (c Config) OwnTransport(upstream string, t *http.Transport) *http.Transport {
	return cluster(c.Registry, c.StatName, upstream).CountTransport(t)
}

// showStats shows the statistics that the other policies offer. It returns what is wrong with
// those of the policies inside.
func showStats(b *policy.Builder, cluster *Cluster) error {
	var bad []error
	b.Stats(func(s policy.Stat) { bad = append(bad, cluster.offer(s)) })
	return errors.Join(bad...)
}

// clusterOf finds the cluster that a policy counts in.
func clusterOf(s *policy.Builder, registry *Registry, name string) *Cluster {
	return cluster(registry, name, s.Upstream())
}

func cluster(registry *Registry, name, upstream string) *Cluster {
	if name == "" {
		name = upstream
	}
	return registry.Cluster(name)
}

// countedCalls is what a Config claims: an upstream is counted once in a cluster.
type countedCalls struct{ cluster *Cluster }

// errTwice is the error of a policy whose like counts the same already.
func errTwice(policy string, c *Cluster) error {
	return fmt.Errorf("metrics: %[1]s.StatName: another metrics.%[1]s of this upstream counts in the cluster %[2]q, and each call would count twice; "+
		"remove one of the two, or set another StatName or Registry", policy, c.Name())
}
