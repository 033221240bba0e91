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
	"github.com/pillion-go/pillion/internal/settings"
	"github.com/pillion-go/pillion/policy"
)

// Zero is the number 0 in fields whose zero value means a default.
const Zero = -1

// Never is a timeout that never fires, in fields whose zero value means a default.
const Never time.Duration = -1

// The defaults of a [Config], as in Envoy.
const (
	DefaultConnectTimeout       = pool.DefaultConnectTimeout       // 5s
	DefaultIdleTimeout          = pool.DefaultIdleTimeout          // 1h
	DefaultMaxConcurrentStreams = pool.DefaultMaxConcurrentStreams // 1024
	DefaultMergeWindow          = time.Second
	DefaultPanicThreshold       = 50.0 // percent
)

// LBPolicy is a load balancing policy: it determines how the host of an attempt is picked. The zero
// value means RoundRobin. Mirrors lb_policy of Envoy's Cluster.
type LBPolicy string

// The load balancing policies.
const (
	// RoundRobin picks the hosts in turn. If weights differ, it uses an earliest deadline first
	// schedule.
	RoundRobin LBPolicy = "ROUND_ROBIN"
	// LeastRequest prefers hosts with few active requests. See [LeastRequestConfig].
	LeastRequest LBPolicy = "LEAST_REQUEST"
	// Random picks a random host. It ignores weights.
	Random LBPolicy = "RANDOM"
	// RingHash looks up the hash of the call in a ring of the hosts' hashes. See [RingHashConfig] and
	// [Route].
	RingHash LBPolicy = "RING_HASH"
	// Maglev looks up the hash of the call in a table. See [MaglevConfig] and [Route].
	Maglev LBPolicy = "MAGLEV"
	// PeakEWMA compares two random hosts and picks the one with the lower cost: its latency,
	// multiplied by its number of active requests with this one, divided by its weight. Mirrors
	// Finagle's p2cPeakEwma. Envoy's extension of this name is another algorithm. See
	// [PeakEWMAConfig].
	PeakEWMA LBPolicy = "PEAK_EWMA"
)

// Protocol is the protocol of the connections to the hosts. The zero value means HTTP1.
type Protocol string

// The protocols.
const (
	// HTTP1 is HTTP/1.1. It is the default, as in Envoy.
	HTTP1 Protocol = "HTTP1"
	// HTTP2 is HTTP/2: over TLS if TLS is configured, otherwise with prior knowledge. Mirrors
	// explicit_http_config.http2_protocol_options.
	HTTP2 Protocol = "HTTP2"
	// Auto uses HTTP/2 if the host selects it in the TLS handshake, otherwise HTTP/1.1. Without TLS
	// it means HTTP1. Mirrors auto_config.
	Auto Protocol = "AUTO"
)

// Health is the health of a host. The zero value means Healthy. Mirrors Envoy's HealthStatus.
type Health string

// The states that a configuration can assign to a host.
const (
	Healthy   Health = "HEALTHY"   // receives calls, unless health checks or outlier detection exclude it
	Unhealthy Health = "UNHEALTHY" // receives calls only in panic
	Draining  Health = "DRAINING"  // as Unhealthy, and does not count when the health of its priority is computed
	TimedOut  Health = "TIMEOUT"   // as Unhealthy
	Degraded  Health = "DEGRADED"  // receives calls if there are too few healthy hosts
)

// Locality is the place where a host runs. The zero value is an unknown locality. Mirrors Envoy's
// Locality.
type Locality struct {
	Region  string `json:"region,omitempty"`
	Zone    string `json:"zone,omitempty"`
	SubZone string `json:"sub_zone,omitempty"`
}

// Endpoint is a host of a cluster. Mirrors Envoy's LbEndpoint, with the locality and the priority of
// its LocalityLbEndpoints.
type Endpoint struct {
	// Address is the address of the host, as host:port. It is required, and must be unique in the
	// cluster.
	Address string `json:"address"`

	// Hostname is a name of the host. It is the Host header of health checks, and consistent hashing
	// can hash it instead of the address (HashHostnames of [Config]). Empty means none.
	Hostname string `json:"hostname,omitempty"`

	// Weight is the share of the calls, relative to the other hosts. Zero means 1; a negative value
	// is an error. Mirrors load_balancing_weight.
	Weight int `json:"load_balancing_weight,omitempty"`

	// Priority is the priority of the host, from 0, which is used first, to 128. Hosts of a priority
	// receive calls only if too few hosts of lower numbers are healthy. Any other value is an error.
	Priority int `json:"priority,omitempty"`

	// Locality is where the host runs.
	Locality Locality `json:"locality,omitzero"`

	// LocalityWeight is the share of the calls that the hosts of this Locality and Priority receive
	// together, relative to the other localities, for [LocalityWeighted]. Zero means the
	// LocalityWeight of another host of the same Locality and Priority; if all are zero, these hosts
	// receive no calls. Two different weights and a negative value are errors. Mirrors
	// load_balancing_weight of LocalityLbEndpoints.
	LocalityWeight int `json:"locality_weight,omitempty"`

	// Metadata holds values by filter name and key. Retries can avoid hosts by their metadata, and
	// consistent hashing uses the key hash_key of the filter envoy.lb. The map must not be changed
	// after it was passed to a cluster. Mirrors metadata.filter_metadata.
	Metadata map[string]map[string]any `json:"filter_metadata,omitempty"`

	// Health is the health of the host according to the configuration. Empty means Healthy. Mirrors
	// health_status.
	Health Health `json:"health_status,omitempty"`
}

// Addresses returns one endpoint for each address, which has the form host:port.
func Addresses(addresses ...string) []Endpoint {
	endpoints := make([]Endpoint, len(addresses))
	for i, a := range addresses {
		endpoints[i].Address = a
	}
	return endpoints
}

// LeastRequestConfig configures [LeastRequest]. Mirrors least_request_lb_config.
type LeastRequestConfig struct {
	// ChoiceCount is the number of random hosts that are compared if all hosts have the same weight.
	// Zero means 2; any other value below 2 is an error. Mirrors choice_count.
	ChoiceCount int `json:"choice_count,omitempty"`

	// ActiveRequestBias determines how much active requests reduce the weight of a host if the
	// weights differ: weight / (active+1)^bias. Zero means 1, and the constant Zero means a bias of 0;
	// any other negative value is an error. Mirrors active_request_bias.
	ActiveRequestBias float64 `json:"active_request_bias,omitempty"`
}

// RingHashConfig configures [RingHash]. Mirrors ring_hash_lb_config, with its hash function
// XX_HASH.
type RingHashConfig struct {
	// MinSize is the minimum number of entries of the ring. Zero means 1,024; more than 8,388,608 is
	// an error. Mirrors minimum_ring_size.
	MinSize uint64 `json:"minimum_ring_size,omitempty"`

	// MaxSize is the maximum number of entries. Zero means 8,388,608; more than that or less than
	// MinSize is an error. Mirrors maximum_ring_size.
	MaxSize uint64 `json:"maximum_ring_size,omitempty"`
}

// MaglevConfig configures [Maglev]. Mirrors maglev_lb_config.
type MaglevConfig struct {
	// TableSize is the number of entries of the table. It must be a prime number. Zero means 65,537;
	// more than 5,000,011 is an error. Mirrors table_size.
	TableSize uint64 `json:"table_size,omitempty"`
}

// PeakEWMAConfig configures [PeakEWMA].
//
// The latency of an attempt is the time from the pick of the host to the response headers, including
// the time to get a connection. The latency of a host is an exponentially weighted moving average,
// which follows a rise immediately and a fall slowly. A host without a measured latency is preferred,
// unless its first requests still wait for a response. A canceled attempt counts as the time it
// took, if that is longer than the average: otherwise a host that does not respond would attract
// calls.
type PeakEWMAConfig struct {
	// Decay is the time after which a latency has lost 63 % of its weight. Zero means 10s; a negative
	// value or less than 1ms is an error. Mirrors decayTime of Finagle's Balancers.p2cPeakEwma.
	Decay time.Duration `json:"decay_time,omitempty"`

	// FailureLatency is the minimum latency of a failed attempt: otherwise a host that fails quickly
	// would attract calls. Zero means 1s; a negative value means no minimum; 1ns to less than 1ms is
	// an error.
	FailureLatency time.Duration `json:"failure_latency,omitempty"`
}

// failureLatency returns FailureLatency or its default.
func (p *PeakEWMAConfig) failureLatency() time.Duration { return cmp.Or(p.FailureLatency, time.Second) }

// SlowStart gives a new host a reduced weight, which grows with the time since the host was added or
// became healthy. It needs [RoundRobin], [LeastRequest] or [PeakEWMA]; with another LBPolicy a Window
// is an error. Mirrors slow_start_config.
type SlowStart struct {
	// Window is the time after which a new host has its full weight. Zero means no slow start; a
	// negative value or less than 1ms is an error. Mirrors slow_start_window.
	Window time.Duration `json:"slow_start_window,omitempty"`

	// Aggression is the speed of the growth: the weight is multiplied by
	// (age/Window)^(1/Aggression). Zero means 1; a negative value is an error. Mirrors aggression.
	Aggression float64 `json:"aggression,omitempty"`

	// MinWeightPercent is the minimum share of its weight that a new host has, in percent. Zero means
	// 10, and the constant Zero means 0. Mirrors min_weight_percent.
	MinWeightPercent float64 `json:"min_weight_percent,omitempty"`
}

// Config configures the hosts of an upstream and the connections to them. It is a policy that must
// be inside all others. Each upstream that uses a Config has its own hosts and connections; use [New]
// for a cluster that several upstreams share. The zero value is a cluster without hosts, which
// refuses all calls. Mirrors Envoy's Cluster.
type Config struct {
	// Type is the source of the hosts. Empty means Static. Mirrors type.
	Type Type `json:"type,omitempty"`

	// Endpoints lists the hosts of a Static cluster. With StrictDNS and LogicalDNS each Address is a
	// name with a port, and the other fields apply to each host that is found by the name. LogicalDNS
	// needs exactly one endpoint. Mirrors load_assignment.
	Endpoints []Endpoint `json:"endpoints,omitempty"`

	// DNS configures the lookups of StrictDNS and LogicalDNS.
	DNS DNS `json:"dns,omitzero"`

	// LBPolicy is the load balancing policy. Empty means RoundRobin. Mirrors lb_policy.
	LBPolicy LBPolicy `json:"lb_policy,omitempty"`

	// LeastRequest, RingHash, Maglev and PeakEWMA configure the LBPolicy of the same name. The zero
	// values mean the defaults.
	LeastRequest LeastRequestConfig `json:"least_request_lb_config,omitzero"`
	RingHash     RingHashConfig     `json:"ring_hash_lb_config,omitzero"`
	Maglev       MaglevConfig       `json:"maglev_lb_config,omitzero"`
	PeakEWMA     PeakEWMAConfig     `json:"peak_ewma_lb_config,omitzero"`

	// SlowStart reduces the weight of new hosts. The zero value means no slow start.
	SlowStart SlowStart `json:"slow_start_config,omitzero"`

	// Locality is where the program runs. ZoneAware needs it. Mirrors node.locality.
	Locality Locality `json:"locality,omitzero"`

	// ZoneAware prefers hosts of the program's locality. Nil means no preference; Envoy's default is
	// an empty ZoneAware. Mirrors common_lb_config.zone_aware_lb_config.
	ZoneAware *ZoneAware `json:"zone_aware_lb_config,omitempty"`

	// LocalityWeighted selects localities by their weights. Nil means that these weights have no
	// effect. LocalityWeighted together with ZoneAware is an error. Mirrors
	// common_lb_config.locality_weighted_lb_config.
	LocalityWeighted *LocalityWeighted `json:"locality_weighted_lb_config,omitempty"`

	// HashHostnames makes consistent hashing use the hostnames of hosts instead of their addresses.
	// Mirrors consistent_hashing_lb_config.use_hostname_for_hashing.
	HashHostnames bool `json:"use_hostname_for_hashing,omitempty"`

	// PanicThreshold is a share of available hosts, in percent. A priority with a smaller share is in
	// panic: all its hosts receive calls, whatever their health. Zero means 50, and the constant Zero
	// means no panic. Mirrors common_lb_config.healthy_panic_threshold.
	PanicThreshold float64 `json:"healthy_panic_threshold,omitempty"`

	// OverprovisioningFactor is how much load the available hosts of a priority or locality can take
	// over from the others, in percent. With 140, all calls stay in a priority while at least 72 % of
	// its hosts are available. Zero means 140; a negative value is an error. Mirrors
	// policy.overprovisioning_factor of load_assignment.
	OverprovisioningFactor int `json:"overprovisioning_factor,omitempty"`

	// MergeWindow is the time for which changes of the hosts' health are collected before picks use
	// them. The first change takes effect immediately and starts the window. Zero means 1s; a negative
	// value means that each change takes effect immediately; 1ns to less than 1ms is an error.
	// Mirrors common_lb_config.update_merge_window.
	MergeWindow time.Duration `json:"update_merge_window,omitempty"`

	// Protocol is the protocol of the connections. Empty means HTTP1. It has no effect on gRPC, which
	// always uses HTTP/2.
	Protocol Protocol `json:"protocol,omitempty"`

	// TLS encrypts the connections. Nil means no encryption; then a request whose URL has the scheme
	// https returns an error. With TLS the scheme may be http or https. gRPC uses the credentials of
	// its own connection instead. Mirrors transport_socket.
	TLS *TLS `json:"tls,omitempty"`

	// ConnectTimeout limits the time to make a connection, including the TLS handshake. Zero means
	// 5s, and Never or another negative value means no limit; 1ns to less than 1ms is an error.
	// Mirrors connect_timeout.
	ConnectTimeout time.Duration `json:"connect_timeout,omitempty"`

	// IdleTimeout is the time after which a connection without requests is closed. Zero means 1h, and
	// Never or another negative value means no limit; 1ns to less than 1ms is an error. Mirrors
	// common_http_protocol_options.idle_timeout.
	IdleTimeout time.Duration `json:"idle_timeout,omitempty"`

	// MaxConnectionDuration is the maximum age of a connection. An older connection takes no more
	// requests, and is closed when its last request ends. Zero means no limit; a negative value or
	// less than 1ms is an error. Mirrors common_http_protocol_options.max_connection_duration.
	MaxConnectionDuration time.Duration `json:"max_connection_duration,omitempty"`

	// MaxConnectionDurationJitter extends MaxConnectionDuration by a random share of it, at most this
	// value, in percent. With a jitter, connections that were made together do not end together. Zero
	// means none; a negative value is an error. In Envoy only listeners have this field.
	MaxConnectionDurationJitter float64 `json:"max_connection_duration_jitter,omitempty"`

	// MaxStreamDuration limits the time of each attempt, from the connection to the end of the
	// response. An attempt that exceeds it fails with the flag UMSDR and the detail
	// [MaxStreamDuration], and is retried as a reset. Zero means no limit; a negative value or less
	// than 1ms is an error. Mirrors common_http_protocol_options.max_stream_duration.
	MaxStreamDuration time.Duration `json:"max_stream_duration,omitempty"`

	// MaxRequestsPerConnection is the maximum number of requests of a connection; it is closed after
	// the last one. Zero means no limit; a negative value is an error. Mirrors
	// common_http_protocol_options.max_requests_per_connection.
	MaxRequestsPerConnection int `json:"max_requests_per_connection,omitempty"`

	// MaxConcurrentStreams is the maximum number of concurrent requests on an HTTP/2 connection. The
	// host can set a lower limit. Zero means 1024; a negative value is an error. Mirrors
	// http2_protocol_options.max_concurrent_streams.
	MaxConcurrentStreams int `json:"max_concurrent_streams,omitempty"`

	// Outlier ejects hosts that fail too often, for a time. Nil means no outlier detection. Mirrors
	// outlier_detection.
	Outlier *Outlier `json:"outlier_detection,omitempty"`

	// HealthCheck checks the health of each host at intervals. It uses one goroutine for each host,
	// which ends when the cluster is closed or no longer referenced. Nil means no checks. Mirrors
	// health_checks with one element.
	HealthCheck *HealthCheck `json:"health_check,omitempty"`

	// PerEndpointStats counts each host separately, under endpoint.<address>: cx_total,
	// cx_connect_fail, cx_active, rq_total, rq_error, rq_success, rq_timeout, rq_active,
	// rq_pending_active and healthy. An attempt counts as a success if its HTTP status is below 500,
	// or if its gRPC status corresponds to such a status. Unlike in Envoy, that also holds for an
	// attempt that is retried. The statistics of a host are removed when it leaves the cluster.
	// Mirrors per_endpoint_stats of track_cluster_stats.
	PerEndpointStats bool `json:"per_endpoint_stats,omitempty"`

	// Transport is the template of the connections: its dialer, buffer sizes and header limits are
	// used, its pool is not. It is copied. Nil means a clone of [http.DefaultTransport] without a
	// proxy.
	Transport *http.Transport `json:"-"`

	// Rand returns random numbers. It must be safe for concurrent use. Nil means
	// [math/rand/v2.Uint64].
	Rand func() uint64 `json:"-"`
}

// Place returns the place of a cluster in the order of policies: inside all others.
func (Config) Place() policy.Place {
	return policy.Place{
		Rank: policy.PerAttempt, Name: "cluster", Once: "would pick a host twice",
		Why: "would use one host for all attempts of a call",
	}
}

// Wrap implements [policy.Policy]. It makes the cluster of one upstream. The errors are those of [New].
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

// check returns the errors of c's own fields. Its parts check theirs.
func (c *Config) check() error {
	bad := append(checkEndpoints("Endpoints", c.Endpoints), c.checkLocalities()...)
	if _, ok := types[c.Type]; !ok {
		bad = append(bad, invalid("Type", "%q is unknown; write one of %s", c.Type, known(types)))
	}
	if _, ok := families[c.DNS.Family]; !ok {
		bad = append(bad, invalid("DNS.Family", "%q is unknown; write one of %s", c.DNS.Family, known(families)))
	}
	if c.Type == LogicalDNS && len(c.Endpoints) != 1 {
		bad = append(bad, invalid("Endpoints", "%d endpoints; LogicalDNS needs exactly one", len(c.Endpoints)))
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
			bad = append(bad, invalid(field, "%v is negative; write 1 or more, or 0 for the default", value))
		}
	}
	return errors.Join(append(bad, c.checkTimes()...)...)
}

// checkTimes returns the errors of durations. A negative duration is valid if it has a meaning.
func (c *Config) checkTimes() (bad []error) {
	for _, f := range []struct {
		field    string
		d        time.Duration
		negative bool // is valid, or is checked elsewhere
		instead  []string
	}{
		{"ConnectTimeout", c.ConnectTimeout, true, []string{"0 for 5s", "Never for no limit"}},
		{"IdleTimeout", c.IdleTimeout, true, []string{"0 for 1h", "Never for no limit"}},
		{"MergeWindow", c.MergeWindow, true, []string{"0 for 1s", "-1 for no window"}},
		{"MaxConnectionDuration", c.MaxConnectionDuration, false, []string{"0 for no limit"}},
		{"MaxStreamDuration", c.MaxStreamDuration, false, []string{"0 for no limit"}},
		{"PeakEWMA.Decay", c.PeakEWMA.Decay, true, []string{"0 for 10s"}},
		{"PeakEWMA.FailureLatency", c.PeakEWMA.FailureLatency, true, []string{"0 for 1s", "-1 for no minimum"}},
	} {
		if f.negative && f.d < 0 {
			continue
		}
		if wrong := settings.Duration(f.d, f.instead...); wrong != "" {
			bad = append(bad, invalid(f.field, "%v %s", f.d, wrong))
		}
	}
	return bad
}

// checkEndpoints returns the errors of the endpoints of the field list.
func checkEndpoints(list string, endpoints []Endpoint) (bad []error) {
	seen, weights := map[string]int{}, map[balance.PriorityLocality]int{}
	for i, e := range endpoints {
		field := fmt.Sprintf("%s[%d].", list, i)
		if before, twice := seen[e.Address]; twice {
			bad = append(bad, invalid(field+"Address", "%q is also the address of %s[%d]; write it once, with a greater Weight", e.Address, list, before))
		}
		if other := weights[e.group()]; other != 0 && e.LocalityWeight != 0 && other != e.LocalityWeight {
			bad = append(bad, invalid(field+"LocalityWeight", "%d differs from %d, the weight of another host of the locality; write one weight for all of them", e.LocalityWeight, other))
		}
		weights[e.group()] = cmp.Or(weights[e.group()], e.LocalityWeight)
		seen[e.Address] = i
		bad = append(bad, e.check(field)...)
	}
	return bad
}

// check returns the errors of an endpoint. field is the prefix of the names of its fields.
func (e *Endpoint) check(field string) (bad []error) {
	host, port, err := net.SplitHostPort(e.Address)
	switch {
	case err != nil || host == "" || port == "":
		bad = append(bad, invalid(field+"Address", "%q is not an address; write host:port, such as 10.0.0.1:80", e.Address))
	default:
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			bad = append(bad, invalid(field+"Address", "%q has no port from 1 to 65535; write host:port, such as 10.0.0.1:80", e.Address))
		}
	}
	if e.Weight < 0 || int64(e.Weight) > maxNumber {
		bad = append(bad, invalid(field+"Weight", "%d is out of range; write 1 to %d, or 0 for 1", e.Weight, maxNumber))
	}
	if e.LocalityWeight < 0 || int64(e.LocalityWeight) > maxNumber {
		bad = append(bad, invalid(field+"LocalityWeight", "%d is out of range; write 1 to %d, or 0 for the weight of another host of the locality", e.LocalityWeight, maxNumber))
	}
	if e.Priority < 0 || e.Priority > maxPriority {
		bad = append(bad, invalid(field+"Priority", "%d is out of range; write 0 to %d", e.Priority, maxPriority))
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

// known returns the names of a table, separated by commas.
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

// endpoint returns the endpoint for the balancer.
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

// mergeWindow returns MergeWindow or its default; 0 means no window.
func (c *Config) mergeWindow() time.Duration {
	return max(cmp.Or(c.MergeWindow, DefaultMergeWindow), 0)
}
