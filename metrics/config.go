package metrics

import (
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// Config counts an upstream's calls and attempts. It is a policy that must be outside retry. It
// also counts calls that policies outside it refuse, but not the time these policies take.
// Upstreams with the same statistics name and registry are counted together.
type Config struct {
	// StatName is the cluster's name in the statistics. Empty means the name of the upstream. As
	// in Envoy, a name with dots is cut at the first dot, and the rest becomes part of the
	// statistics' names. Mirrors alt_stat_name of Envoy's Cluster.
	StatName string `json:"alt_stat_name,omitempty"`

	// External counts responses as external.upstream_rq_* instead of internal.upstream_rq_*. It
	// is for calls forwarded for external clients.
	External bool `json:"external,omitempty"`

	// CallerStatNames also counts responses under the name in the request header
	// x-envoy-upstream-alt-stat-name, which is not forwarded. It accepts at most 100 different
	// names of at most 256 bytes, and ignores others. Set it only for trusted callers.
	CallerStatNames bool `json:"caller_stat_names,omitempty"`

	// TimeoutBudget records how much of its timeout each call used, in percent:
	// upstream_rq_timeout_budget_percent_used for calls that completed or timed out, and
	// upstream_rq_timeout_budget_per_try_percent_used for attempts. Without a timeout it records
	// 0. Mirrors timeout_budgets of track_cluster_stats.
	TimeoutBudget bool `json:"timeout_budgets,omitempty"`

	// RequestResponseSizes records the sizes of each HTTP attempt when it ends:
	// upstream_rq_headers_size, upstream_rq_headers_count and upstream_rq_body_size, and for an
	// attempt with a response upstream_rs_headers_size, upstream_rs_headers_count and
	// upstream_rs_body_size. Sizes are in bytes. Recording allocates for each attempt. gRPC, functions
	// and servers have no sizes. Mirrors request_response_sizes of track_cluster_stats.
	//
	// As in Envoy, the size of a header field is that of its name and its value, the pseudo-header
	// fields of HTTP/2 are included for HTTP/1 too, and the body of a response that is discarded for a
	// retry has the size 0. Header fields that net/http adds are not included, except Content-Length.
	// The size of a response body is the number of bytes that the caller read, after net/http has
	// decompressed them.
	RequestResponseSizes bool `json:"request_response_sizes,omitempty"`

	// VirtualHost and VirtualClusters also count calls under vhost.<VirtualHost>.vcluster.<name>:
	// responses as upstream_rq_<code>, upstream_rq_<c>xx, upstream_rq_completed and upstream_rq_time,
	// attempts as upstream_rq_total, and upstream_rq_timeout and upstream_rq_retry*. A call counts in
	// the first VirtualCluster that matches it; if none matches, in the virtual cluster named other.
	// Upstreams with the same VirtualHost and registry are counted together. Names with dots are cut
	// as in StatName. VirtualClusters without VirtualHost is an error. Empty means no virtual
	// clusters. They mirror name and virtual_clusters of Envoy's VirtualHost.
	VirtualHost     string           `json:"virtual_host,omitempty"`
	VirtualClusters []VirtualCluster `json:"virtual_clusters,omitempty"`

	// NoDynamicStats omits the statistics of responses: upstream_rq_<code>, upstream_rq_<c>xx,
	// upstream_rq_completed and upstream_rq_time, in all categories. The statistics of attempts and
	// retries remain. Mirrors dynamic_stats: false of Envoy's Router.
	NoDynamicStats bool `json:"no_dynamic_stats,omitempty"`

	// Registry holds the cluster. Nil means [Default].
	Registry *Registry `json:"-"`

	// Registerer exports the registry's statistics to a Prometheus registry. They are exported
	// once, even if each upstream has a new wrapper, as of [prometheus.WrapRegistererWith]. If
	// several Registries are exported to one Prometheus registry, clusters of the same name are
	// summed. A wrapper with other labels or another prefix exports the statistics again. A nil
	// pointer, labels that the statistics already have, and a type that is not comparable are
	// errors of New. Nil means no export; [Handler] works without it.
	Registerer prometheus.Registerer `json:"-"`
}

// Place returns a place outside retry and hedge policies.
func (Config) Place() policy.Place { return place() }

// Wrap wraps next and counts the upstream's calls.
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
	virtual, err := c.virtualHost(cluster.registry)
	if err != nil {
		return nil, err
	}
	r := newRecorder(cluster, c)
	if s.Carrier() != nil {
		cluster.neverPooled()
	}
	s.Stats(cluster.offer)
	r.slot = s.Slot()
	if r.tryBudget != nil {
		r.tries = s.Slot()
	}
	if c.CallerStatNames {
		s.Require(policy.Needs{Consume: []string{envoy.AltStatNameHeader}})
	}
	s.Require(policy.Needs{Headers: true, Sizes: c.RequestResponseSizes}) // a response is counted when its headers arrive
	s.Listen(r.listener())
	if r.virtual = virtual; virtual != nil {
		virtual.slot = s.Slot()
		s.Listen(virtual.listen)
	}
	return r.wrap(next), nil
}

// place is the place of a policy that counts calls.
func place() policy.Place {
	return policy.Place{Rank: policy.PerCall, Name: "metrics", Why: "would see attempts and take them for calls"}
}

// OwnTransport returns a clone of the upstream's own transport whose connections are counted.
func (c Config) OwnTransport(upstream string, t *http.Transport) *http.Transport {
	return cluster(c.Registry, c.StatName, upstream).InstrumentTransport(t)
}

// clusterOf returns the cluster in which a policy counts.
func clusterOf(s *policy.Builder, registry *Registry, name string) *ClusterStats {
	return cluster(registry, name, s.Upstream())
}

func cluster(registry *Registry, name, upstream string) *ClusterStats {
	if name == "" {
		name = upstream
	}
	return registry.Cluster(name)
}

// countedCalls is the claim of a Config: an upstream is counted once in a cluster.
type countedCalls struct{ cluster *ClusterStats }

// errTwice is the error of a policy that would count the same calls as an earlier one.
func errTwice(policy string, c *ClusterStats) error {
	return fmt.Errorf("metrics: %[1]s.StatName: another metrics.%[1]s of this upstream counts in the cluster %[2]q, and each call would count twice; "+
		"remove one of the two, or set another StatName or Registry", policy, c.Name())
}
