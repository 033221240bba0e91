package cluster

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pillion-go/pillion/cluster/internal/balance"
	"github.com/pillion-go/pillion/cluster/internal/pool"
	"github.com/pillion-go/pillion/policy"
)

// Zero stands for 0 in fields whose zero value means a default.
const Zero = -1

// Never is a duration that does not end, in fields whose zero value means a default.
const Never time.Duration = -1

// The values that stand for zero fields of a [Config], which are Envoy's.
const (
	DefaultConnectTimeout       = pool.DefaultConnectTimeout       // 5s
	DefaultIdleTimeout          = pool.DefaultIdleTimeout          // 1h
	DefaultMaxConcurrentStreams = pool.DefaultMaxConcurrentStreams // 1024
	DefaultMergeWindow          = time.Second
	DefaultPanicThreshold       = 50.0 // per cent
)

// LBPolicy says how the host of a call is picked. Mirrors lb_policy of Envoy's Cluster.
type LBPolicy string

// The policies of load balancing.
const (
	// RoundRobin uses the hosts in turn; with different weights, by an earliest deadline first
	// schedule. It is the default.
	RoundRobin LBPolicy = "ROUND_ROBIN"
	// LeastRequest prefers hosts with few active requests.
	LeastRequest LBPolicy = "LEAST_REQUEST"
	// Random draws a host, whatever its weight.
	Random LBPolicy = "RANDOM"
	// RingHash looks the hash of the call up in a ring of the hosts' hashes.
	RingHash LBPolicy = "RING_HASH"
	// Maglev looks the hash of the call up in a table.
	Maglev LBPolicy = "MAGLEV"
	// PeakEWMA draws two hosts and uses the one with the lower cost: its latency, times the active
	// requests that it would have, divided by its weight. It is Finagle's; Envoy's extension of this
	// name, which its own builds leave out, is another algorithm. See [PeakEWMAConfig].
	PeakEWMA LBPolicy = "PEAK_EWMA"
)

// Protocol is what connections to hosts speak.
type Protocol string

// The protocols.
const (
	// HTTP1 is HTTP/1.1. It is the default, as in Envoy.
	HTTP1 Protocol = "HTTP1"
	// HTTP2 is HTTP/2: over TLS, or with prior knowledge without. Mirrors
	// explicit_http_config.http2_protocol_options.
	HTTP2 Protocol = "HTTP2"
	// Auto lets the host choose in the TLS handshake; without TLS it is HTTP1. Mirrors
	// auto_config.
	Auto Protocol = "AUTO"
)

// Health is the health of a host as the configuration states it. Mirrors Envoy's HealthStatus.
type Health string

// The states that a configuration can assign to a host. The zero Health is Healthy.
const (
	Healthy   Health = "HEALTHY"   // used, unless a check or the outlier detection objects
	Unhealthy Health = "UNHEALTHY" // not used, but in panic
	Draining  Health = "DRAINING"  // not used, and left out when the health of its priority is computed
	TimedOut  Health = "TIMEOUT"   // as Unhealthy
	Degraded  Health = "DEGRADED"  // used when the healthy hosts do not suffice
)

// Locality is where a host runs. The zero value is an unknown locality. Mirrors Envoy's Locality.
type Locality struct {
	Region  string `json:"region,omitempty"`
	Zone    string `json:"zone,omitempty"`
	SubZone string `json:"sub_zone,omitempty"`
}

// Endpoint is a host of a cluster. It mirrors Envoy's LbEndpoint and the LocalityLbEndpoints
// around it.
type Endpoint struct {
	// Address is where the host listens, as host:port. It is required, and may be there once.
	Address string `json:"address"`

	// Hostname is a name of the host. Consistent hashing can hash it instead of the address.
	Hostname string `json:"hostname,omitempty"`

	// Weight is the share of the calls, relative to the other hosts. Zero means 1, negative
	// is an error. Mirrors load_balancing_weight.
	Weight int `json:"load_balancing_weight,omitempty"`

	// Priority is 0 for the hosts that are used first, at most 128. Hosts of a higher number are
	// used as far as those of lower ones are not healthy.
	Priority int `json:"priority,omitempty"`

	// Locality is where the host runs.
	Locality Locality `json:"locality,omitzero"`

	// LocalityWeight is the share of the calls that all hosts of the same Locality and Priority have
	// together, for [LocalityWeighted]. Zero is that of the other hosts there; without any they have
	// no calls. Negative is an error, and so are two different weights. Mirrors
	// load_balancing_weight of LocalityLbEndpoints.
	LocalityWeight int `json:"locality_weight,omitempty"`

	// Metadata is by filter name and key. Retries can avoid hosts by it; consistent hashing uses
	// hash_key of envoy.lb. It must not be changed afterwards. Mirrors metadata.filter_metadata.
	Metadata map[string]map[string]any `json:"filter_metadata,omitempty"`

	// Health is what is known of the host's health.
	Health Health `json:"health_status,omitempty"`
}

// Addresses returns endpoints at these addresses, each host:port.
func Addresses(addresses ...string) []Endpoint {
	endpoints := make([]Endpoint, len(addresses))
	for i, a := range addresses {
		endpoints[i].Address = a
	}
	return endpoints
}

// LeastRequestConfig configures [LeastRequest]. Mirrors least_request_lb_config.
type LeastRequestConfig struct {
	// ChoiceCount is how many hosts are drawn if all have the same weight. Zero means 2; less is an
	// error.
	ChoiceCount int `json:"choice_count,omitempty"`

	// ActiveRequestBias is how much active requests reduce the weight of a host if the weights
	// differ: weight / (active+1)^bias. Zero means 1, the constant Zero not at all; any other
	// negative value is an error.
	ActiveRequestBias float64 `json:"active_request_bias,omitempty"`
}

// RingHashConfig configures [RingHash]. Mirrors ring_hash_lb_config, with its hash function
// XX_HASH.
type RingHashConfig struct {
	// MinSize is the least number of entries of the ring. Zero means 1,024; more than 8,388,608 is
	// an error. Mirrors minimum_ring_size.
	MinSize uint64 `json:"minimum_ring_size,omitempty"`

	// MaxSize is the largest number of entries. Zero means 8,388,608; more, and less than MinSize,
	// is an error. Mirrors maximum_ring_size.
	MaxSize uint64 `json:"maximum_ring_size,omitempty"`
}

// MaglevConfig configures [Maglev]. Mirrors maglev_lb_config.
type MaglevConfig struct {
	// TableSize is the number of entries, a prime number. Zero means 65,537; more than 5,000,011 is
	// an error.
	TableSize uint64 `json:"table_size,omitempty"`
}

// PeakEWMAConfig configures [PeakEWMA]. The latency of a host is that of its response headers, from
// when it was picked, time for a connection included. It is an exponentially weighted moving average
// that follows a rise immediately and a fall slowly. A host without any is preferred, but not
// while its first requests wait for a response. A call that is canceled counts as long as it took, if that is
// longer than the latency: a host that does not respond must not attract calls.
type PeakEWMAConfig struct {
	// Decay is how long it takes until a latency has lost 63 % of its weight. Zero means 10s;
	// negative is an error. Mirrors decayTime of Finagle's Balancers.p2cPeakEwma.
	Decay time.Duration `json:"decay_time,omitempty"`

	// FailureLatency is the least latency that a failure counts as: a host that fails quickly must
	// not attract calls. Zero means 1s, negative means that failures count as long as they took.
	FailureLatency time.Duration `json:"failure_latency,omitempty"`
}

// failureLatency returns FailureLatency with its default.
func (p *PeakEWMAConfig) failureLatency() time.Duration { return cmp.Or(p.FailureLatency, time.Second) }

// SlowStart has new hosts receive few requests at first. It needs [RoundRobin], [LeastRequest] or
// [PeakEWMA]. Mirrors slow_start_config.
type SlowStart struct {
	// Window is how long it takes a new host to reach its weight. Zero is no slow start; less than
	// 1ms is an error. Mirrors slow_start_window.
	Window time.Duration `json:"slow_start_window,omitempty"`

	// Aggression is the speed: the weight is multiplied by (age/Window)^(1/Aggression). Zero means
	// 1; negative is an error.
	Aggression float64 `json:"aggression,omitempty"`

	// MinWeightPercent is the least share of its weight that a host has. Zero means 10, the
	// constant Zero means 0.
	MinWeightPercent float64 `json:"min_weight_percent,omitempty"`
}

// Config configures the hosts of an upstream's calls and the connections to them. It is a policy that
// must be inside all others. Each upstream that uses it has separate hosts and connections; use [New]
// for a cluster that several upstreams share. Mirrors Envoy's Cluster.
type Config struct {
	// Type says where the hosts come from. Empty means Static.
	Type Type `json:"type,omitempty"`

	// Endpoints are the hosts of a Static cluster. For the other types their addresses are names
	// with a port, and what else they say holds for all hosts of the name; LogicalDNS has exactly
	// one. Mirrors load_assignment.
	Endpoints []Endpoint `json:"endpoints,omitempty"`

	// DNS configures the lookups of StrictDNS and LogicalDNS.
	DNS DNS `json:"dns,omitzero"`

	// LBPolicy says how the host of a call is picked. Empty means RoundRobin.
	LBPolicy LBPolicy `json:"lb_policy,omitempty"`

	LeastRequest LeastRequestConfig `json:"least_request_lb_config,omitzero"`
	RingHash     RingHashConfig     `json:"ring_hash_lb_config,omitzero"`
	Maglev       MaglevConfig       `json:"maglev_lb_config,omitzero"`
	PeakEWMA     PeakEWMAConfig     `json:"peak_ewma_lb_config,omitzero"`
	SlowStart    SlowStart          `json:"slow_start_config,omitzero"`

	// Locality is where the program runs, for ZoneAware. Mirrors node.locality.
	Locality Locality `json:"locality,omitzero"`

	// ZoneAware prefers hosts of the same locality. Nil means that localities do not matter; Envoy's
	// default is an empty ZoneAware. Mirrors common_lb_config.zone_aware_lb_config.
	ZoneAware *ZoneAware `json:"zone_aware_lb_config,omitempty"`

	// LocalityWeighted has localities chosen by their weights. It excludes ZoneAware. Nil means that
	// localities do not matter. Mirrors common_lb_config.locality_weighted_lb_config.
	LocalityWeighted *LocalityWeighted `json:"locality_weighted_lb_config,omitempty"`

	// HashHostnames makes consistent hashing use the hostnames of hosts instead of their addresses.
	// Mirrors consistent_hashing_lb_config.use_hostname_for_hashing.
	HashHostnames bool `json:"use_hostname_for_hashing,omitempty"`

	// PanicThreshold is the share of available hosts, in per cent, below which all hosts of a
	// priority are used, whatever their health. Zero means 50, the constant Zero means 0: never.
	// Mirrors common_lb_config.healthy_panic_threshold.
	PanicThreshold float64 `json:"healthy_panic_threshold,omitempty"`

	// OverprovisioningFactor, in per cent, is how much more load the available hosts of a priority
	// are trusted with. Zero means 140; negative is an error.
	OverprovisioningFactor int `json:"overprovisioning_factor,omitempty"`

	// MergeWindow is how long changes of the hosts' health are collected before picks honor them,
	// after one that was honored immediately. Zero means 1s, negative means that each is honored
	// immediately. Mirrors common_lb_config.update_merge_window.
	MergeWindow time.Duration `json:"update_merge_window,omitempty"`

	// Protocol is what connections speak. Empty means HTTP1.
	Protocol Protocol `json:"protocol,omitempty"`

	// TLS encrypts the connections. Nil means that they are not encrypted; then a request whose URL
	// has the scheme https fails. With TLS the scheme may be http, too. Mirrors transport_socket.
	TLS *TLS `json:"tls,omitempty"`

	// ConnectTimeout limits the time to make a connection, TLS handshake included. Zero means 5s,
	// negative means no limit. Mirrors connect_timeout.
	ConnectTimeout time.Duration `json:"connect_timeout,omitempty"`

	// IdleTimeout is how long a connection may be without a request before it is closed. Zero
	// means 1h, negative means no limit. Mirrors common_http_protocol_options.idle_timeout.
	IdleTimeout time.Duration `json:"idle_timeout,omitempty"`

	// MaxConnectionDuration is the age from which a connection takes no more requests: it closes
	// when its last one has ended. Zero means no limit; negative is an error. Mirrors
	// common_http_protocol_options.max_connection_duration.
	MaxConnectionDuration time.Duration `json:"max_connection_duration,omitempty"`

	// MaxConnectionDurationJitter lengthens MaxConnectionDuration by a random share of it, up to so
	// many per cent, so that connections that were made together do not end together. Zero means
	// none; negative is an error. Envoy has it for its listeners alone.
	MaxConnectionDurationJitter float64 `json:"max_connection_duration_jitter,omitempty"`

	// MaxStreamDuration limits the time of each attempt, from when it has a connection to the end of
	// its response. What it ends has the flag UMSDR, and is retried as a reset. Zero means no limit;
	// negative is an error. Mirrors common_http_protocol_options.max_stream_duration.
	MaxStreamDuration time.Duration `json:"max_stream_duration,omitempty"`

	// MaxRequestsPerConnection is how many requests a connection serves before it closes. Zero
	// means no limit; negative is an error. Mirrors
	// common_http_protocol_options.max_requests_per_connection.
	MaxRequestsPerConnection int `json:"max_requests_per_connection,omitempty"`

	// MaxConcurrentStreams is how many requests may use a connection of HTTP/2 at the same time, if
	// the host allows as many. Zero means 1024; negative is an error. Mirrors
	// http2_protocol_options.max_concurrent_streams.
	MaxConcurrentStreams int `json:"max_concurrent_streams,omitempty"`

	// Outlier detects hosts that fail more than others, and ejects them for a while. Nil means no
	// detection. Mirrors outlier_detection.
	Outlier *Outlier `json:"outlier_detection,omitempty"`

	// HealthCheck asks each host at intervals whether it is well. It needs a goroutine for each host,
	// which ends when the cluster is closed or nothing uses it any more. Nil means no checks. Mirrors
	// health_checks, of which there is one.
	HealthCheck *HealthCheck `json:"health_check,omitempty"`

	// PerEndpointStats counts each host separately, under endpoint.<address>: cx_total,
	// cx_connect_fail, cx_active, rq_total, rq_error, rq_success, rq_timeout, rq_active,
	// rq_pending_active and healthy. An attempt succeeds with a status below 500, and over gRPC
	// with a status of which Envoy makes none above that; unlike in Envoy it does so even if it is
	// retried. What belongs to a host that has left the cluster is not shown. Mirrors
	// per_endpoint_stats of track_cluster_stats.
	PerEndpointStats bool `json:"per_endpoint_stats,omitempty"`

	// Transport is the template of connections: its dialer, buffers and limits of headers are used;
	// its own pool is not. It is copied. Nil means a clone of [http.DefaultTransport] without a
	// proxy.
	Transport *http.Transport `json:"-"`

	// Rand returns random numbers. It must be safe for concurrent use. Nil means
	// [math/rand/v2.Uint64].
	Rand func() uint64 `json:"-"`
}

// Place is inside of all other policies.
func (Config) Place() policy.Place {
	return policy.Place{
		Rank: policy.PerAttempt, Name: "cluster", Once: "would pick a host twice",
		Why: "would use one host for all attempts of a call",
	}
}

// Wrap makes the cluster of one upstream.
func (c Config) Wrap(b *policy.Builder, next policy.Func) (policy.Func, error) {
	made, err := New(c)
	if err != nil {
		return nil, err
	}
	return made.Wrap(b, next)
}

// invalid returns an error about a field of a Config.
func invalid(field, format string, args ...any) error {
	return fmt.Errorf("cluster: Config.%s: "+format, append([]any{field}, args...)...)
}

// check returns all that is wrong with c, apart from what the parts of it find.
func (c *Config) check() error {
	bad := append(checkEndpoints("Endpoints", c.Endpoints), c.checkLocalities()...)
	if _, ok := types[c.Type]; !ok {
		bad = append(bad, invalid("Type", "%q is unknown; write one of %s", c.Type, known(types)))
	}
	if _, ok := families[c.DNS.Family]; !ok {
		bad = append(bad, invalid("DNS.Family", "%q is unknown; write one of %s", c.DNS.Family, known(families)))
	}
	if c.Type == LogicalDNS && len(c.Endpoints) != 1 {
		bad = append(bad, invalid("Endpoints", "%d of them; LogicalDNS has exactly one", len(c.Endpoints)))
	}
	if _, ok := lbPolicies[c.LBPolicy]; !ok {
		bad = append(bad, invalid("LBPolicy", "%q is unknown; write one of %s", c.LBPolicy, known(lbPolicies)))
	}
	if _, ok := protocols[c.Protocol]; !ok {
		bad = append(bad, invalid("Protocol", "%q is unknown; write one of %s", c.Protocol, known(protocols)))
	}
	for field, value := range map[string]float64{
		"LeastRequest.ChoiceCount": float64(c.LeastRequest.ChoiceCount), "OverprovisioningFactor": float64(c.OverprovisioningFactor),
		"MaxConnectionDurationJitter": c.MaxConnectionDurationJitter, "MaxRequestsPerConnection": float64(c.MaxRequestsPerConnection),
		"MaxConcurrentStreams": float64(c.MaxConcurrentStreams),
	} {
		if !(value >= 0) {
			bad = append(bad, invalid(field, "%v is negative; leave it 0 for the default", value))
		}
	}
	return errors.Join(append(bad, c.checkTimes()...)...)
}

// checkTimes finds durations without a unit.
func (c *Config) checkTimes() (bad []error) {
	for _, f := range []struct {
		field string
		d     time.Duration
		never bool
	}{
		{"ConnectTimeout", c.ConnectTimeout, true},
		{"IdleTimeout", c.IdleTimeout, true},
		{"MergeWindow", c.MergeWindow, true},
		{"MaxConnectionDuration", c.MaxConnectionDuration, false},
		{"MaxStreamDuration", c.MaxStreamDuration, false},
		{"PeakEWMA.Decay", c.PeakEWMA.Decay, true},
		{"PeakEWMA.FailureLatency", c.PeakEWMA.FailureLatency, true},
	} {
		switch {
		case f.d < 0 && !f.never:
			bad = append(bad, invalid(f.field, "%v is negative; leave it 0 for no limit", f.d))
		case f.d > 0 && f.d < time.Millisecond:
			bad = append(bad, invalid(f.field, "%v is below 1ms; did you forget the unit, as in %d * time.Millisecond?", f.d, int64(f.d)))
		}
	}
	return bad
}

// checkEndpoints returns what is wrong with the endpoints of a field.
func checkEndpoints(list string, endpoints []Endpoint) (bad []error) {
	seen, weights := map[string]int{}, map[balance.PriorityLocality]int{}
	for i, e := range endpoints {
		field := fmt.Sprintf("%s[%d].", list, i)
		if before, twice := seen[e.Address]; twice {
			bad = append(bad, invalid(field+"Address", "%q is there already, in %s[%d]; give it a greater Weight instead", e.Address, list, before))
		}
		if other := weights[e.group()]; other != 0 && e.LocalityWeight != 0 && other != e.LocalityWeight {
			bad = append(bad, invalid(field+"LocalityWeight", "%d, but %d for another host of the locality; write one weight for all of them", e.LocalityWeight, other))
		}
		weights[e.group()] = cmp.Or(weights[e.group()], e.LocalityWeight)
		seen[e.Address] = i
		bad = append(bad, e.check(field)...)
	}
	return bad
}

// check returns what is wrong with an endpoint, whose fields are named after field.
func (e *Endpoint) check(field string) (bad []error) {
	host, port, err := net.SplitHostPort(e.Address)
	switch {
	case err != nil || host == "" || port == "":
		bad = append(bad, invalid(field+"Address", "%q is no address; write host:port, such as 10.0.0.1:80", e.Address))
	default:
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			bad = append(bad, invalid(field+"Address", "%q has no port within 1 and 65535; write host:port, such as 10.0.0.1:80", e.Address))
		}
	}
	if e.Weight < 0 || int64(e.Weight) > maxNumber {
		bad = append(bad, invalid(field+"Weight", "%d is not within 0 and %d; 0 means 1", e.Weight, maxNumber))
	}
	if e.LocalityWeight < 0 || int64(e.LocalityWeight) > maxNumber {
		bad = append(bad, invalid(field+"LocalityWeight", "%d is not within 0 and %d; 0 is that of the other hosts of the locality", e.LocalityWeight, maxNumber))
	}
	if e.Priority < 0 || e.Priority > maxPriority {
		bad = append(bad, invalid(field+"Priority", "%d is not within 0 and %d", e.Priority, maxPriority))
	}
	if _, ok := healths[e.Health]; !ok {
		bad = append(bad, invalid(field+"Health", "%q is unknown; write one of %s", e.Health, known(healths)))
	}
	return bad
}

const (
	maxPriority = 128
	maxNumber   = 1<<32 - 1
)

// known lists the names of a table.
func known[K ~string, V any](table map[K]V) string {
	var names []string
	for name := range table {
		if name != "" {
			names = append(names, string(name))
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

//nolint:gochecknoglobals // tables that nothing writes
var (
	lbPolicies = map[LBPolicy]balance.Policy{
		"": balance.RoundRobin, RoundRobin: balance.RoundRobin, LeastRequest: balance.LeastRequest, Random: balance.Random,
		RingHash: balance.RingHash, Maglev: balance.Maglev, PeakEWMA: balance.PeakEWMA,
	}
	protocols = map[Protocol]pool.Protocol{"": pool.HTTP1, HTTP1: pool.HTTP1, HTTP2: pool.HTTP2, Auto: pool.Auto}
	healths   = map[Health]balance.Status{
		"": balance.StatusHealthy, Healthy: balance.StatusHealthy, Unhealthy: balance.StatusUnhealthy,
		Draining: balance.StatusDraining, TimedOut: balance.StatusTimeout, Degraded: balance.StatusDegraded,
	}
)

// statedHealth returns the health that stands for a status in an [Endpoint].
func statedHealth(s balance.Status) Health {
	for h, of := range healths {
		if of == s && h != "" {
			return h
		}
	}
	return Healthy
}

// balance returns the configuration of the balancer.
func (c *Config) balance(s *stats) balance.Config {
	return balance.Config{
		Policy: lbPolicies[c.LBPolicy],
		LeastRequest: balance.LeastRequestConfig{
			ChoiceCount: c.LeastRequest.ChoiceCount, ActiveRequestBias: c.LeastRequest.ActiveRequestBias,
		},
		RingHash:          balance.RingHashConfig{MinSize: c.RingHash.MinSize, MaxSize: c.RingHash.MaxSize},
		Maglev:            balance.MaglevConfig(c.Maglev),
		SlowStart:         balance.SlowStart(c.SlowStart),
		PanicThreshold:    c.PanicThreshold,
		ConsistentHashing: balance.ConsistentHashingConfig{UseHostname: c.HashHostnames, Active: &s.events[pool.RqActive]},
		PeakEWMA:          balance.PeakEWMAConfig{Decay: c.PeakEWMA.Decay},
		Locality:          balance.Locality(c.Locality),
		LocalityWeighted:  c.LocalityWeighted != nil,
		ZoneAware:         c.ZoneAware.balance(),
		Rand:              c.Rand,
	}
}

// endpoint returns an endpoint as the balancer has it.
func (e *Endpoint) endpoint() balance.Endpoint {
	return balance.Endpoint{
		Address: e.Address, Hostname: e.Hostname, Weight: uint32(e.Weight), Priority: e.Priority, //nolint:gosec // checked
		Locality: balance.Locality(e.Locality), Metadata: e.Metadata, Status: healths[e.Health],
	}
}

// pool returns the configuration that all pools share.
func (c *Config) pool() pool.Config {
	return pool.Config{
		ConnectTimeout:           c.ConnectTimeout,
		IdleTimeout:              c.IdleTimeout,
		MaxConnectionDuration:    c.MaxConnectionDuration,
		DurationJitter:           c.MaxConnectionDurationJitter / 100,
		MaxRequestsPerConnection: c.MaxRequestsPerConnection,
		MaxConcurrentStreams:     c.MaxConcurrentStreams,
		KeepDials:                true,
	}
}

// mergeWindow returns MergeWindow with its default.
func (c *Config) mergeWindow() time.Duration {
	return max(cmp.Or(c.MergeWindow, DefaultMergeWindow), 0)
}
