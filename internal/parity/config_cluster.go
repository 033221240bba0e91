package parity

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/pillion-go/pillion/cluster"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/retry"
)

// The parts of Envoy's configuration of a cluster that package cluster mirrors.
type (
	envoyLBConfig struct {
		PanicThreshold *struct {
			Value float64 `json:"value"`
		} `json:"healthy_panic_threshold"`
		MergeWindow *duration `json:"update_merge_window"`
	}
	envoyOutlier struct {
		Consecutive5xx                         *int      `json:"consecutive_5xx"`
		ConsecutiveGatewayFailure              *int      `json:"consecutive_gateway_failure"`
		ConsecutiveLocalOriginFailure          *int      `json:"consecutive_local_origin_failure"`
		EnforcingConsecutive5xx                *int      `json:"enforcing_consecutive_5xx"`
		EnforcingConsecutiveGatewayFailure     *int      `json:"enforcing_consecutive_gateway_failure"`
		EnforcingConsecutiveLocalOriginFailure *int      `json:"enforcing_consecutive_local_origin_failure"`
		EnforcingSuccessRate                   *int      `json:"enforcing_success_rate"`
		EnforcingLocalOriginSuccessRate        *int      `json:"enforcing_local_origin_success_rate"`
		EnforcingFailurePercentage             *int      `json:"enforcing_failure_percentage"`
		SuccessRateMinimumHosts                *int      `json:"success_rate_minimum_hosts"`
		SuccessRateRequestVolume               *int      `json:"success_rate_request_volume"`
		SuccessRateStdevFactor                 *int      `json:"success_rate_stdev_factor"`
		FailurePercentageMinimumHosts          *int      `json:"failure_percentage_minimum_hosts"`
		FailurePercentageRequestVolume         *int      `json:"failure_percentage_request_volume"`
		FailurePercentageThreshold             *int      `json:"failure_percentage_threshold"`
		MaxEjectionPercent                     *int      `json:"max_ejection_percent"`
		AlwaysEjectOneHost                     bool      `json:"always_eject_one_host"`
		SplitExternalLocalOriginErrors         bool      `json:"split_external_local_origin_errors"`
		Interval                               duration  `json:"interval"`
		BaseEjectionTime                       duration  `json:"base_ejection_time"`
		MaxEjectionTime                        duration  `json:"max_ejection_time"`
		MaxEjectionTimeJitter                  *duration `json:"max_ejection_time_jitter"`
	}
	envoyProtocolOptions struct {
		Type   string `json:"@type"`
		Common struct {
			IdleTimeout              duration `json:"idle_timeout"`
			MaxConnectionDuration    duration `json:"max_connection_duration"`
			MaxStreamDuration        duration `json:"max_stream_duration"`
			MaxRequestsPerConnection int      `json:"max_requests_per_connection"`
		} `json:"common_http_protocol_options"`
		Explicit json.RawMessage `json:"explicit_http_config"` // the scenario says which protocol
	}
	envoyLoadAssignment struct {
		ClusterName string            `json:"cluster_name"`
		Endpoints   []json.RawMessage `json:"endpoints"`
	}
	envoyHashPolicy struct {
		Header struct {
			Name string `json:"header_name"`
		} `json:"header"`
		Terminal bool `json:"terminal"`
	}
	envoyExtension struct {
		Name   string          `json:"name"`
		Config json.RawMessage `json:"typed_config"`
	}
	envoyMetadata struct {
		Filters map[string]map[string]any `json:"filter_metadata"`
	}
)

// protocolOptions is the one extension in typed_extension_protocol_options that is understood.
const protocolOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

// made converts the outlier detection.
func (o *envoyOutlier) made() *cluster.Outlier {
	if o == nil {
		return nil
	}
	made := &cluster.Outlier{
		Consecutive5xx:                         zero(o.Consecutive5xx),
		ConsecutiveGatewayFailure:              zero(o.ConsecutiveGatewayFailure),
		ConsecutiveLocalOriginFailure:          zero(o.ConsecutiveLocalOriginFailure),
		EnforcingConsecutive5xx:                zero(o.EnforcingConsecutive5xx),
		EnforcingConsecutiveGatewayFailure:     zero(o.EnforcingConsecutiveGatewayFailure),
		EnforcingConsecutiveLocalOriginFailure: zero(o.EnforcingConsecutiveLocalOriginFailure),
		EnforcingSuccessRate:                   zero(o.EnforcingSuccessRate),
		EnforcingLocalOriginSuccessRate:        zero(o.EnforcingLocalOriginSuccessRate),
		EnforcingFailurePercentage:             zero(o.EnforcingFailurePercentage),
		SuccessRateMinimumHosts:                zero(o.SuccessRateMinimumHosts),
		SuccessRateRequestVolume:               zero(o.SuccessRateRequestVolume),
		SuccessRateStdevFactor:                 zero(o.SuccessRateStdevFactor),
		FailurePercentageMinimumHosts:          zero(o.FailurePercentageMinimumHosts),
		FailurePercentageRequestVolume:         zero(o.FailurePercentageRequestVolume),
		FailurePercentageThreshold:             zero(o.FailurePercentageThreshold),
		MaxEjectionPercent:                     zero(o.MaxEjectionPercent),
		AlwaysEjectOneHost:                     o.AlwaysEjectOneHost,
		SplitExternalLocalOriginErrors:         o.SplitExternalLocalOriginErrors,
		Interval:                               time.Duration(o.Interval),
		BaseEjectionTime:                       time.Duration(o.BaseEjectionTime),
		MaxEjectionTime:                        time.Duration(o.MaxEjectionTime),
	}
	if o.MaxEjectionTimeJitter != nil {
		made.MaxEjectionTimeJitter = time.Duration(*o.MaxEjectionTimeJitter)
	}
	return made
}

// makeCluster maps the cluster of a scenario, apart from the addresses of its hosts.
func (f *fragments) makeCluster(s *Scenario) (*cluster.Config, error) {
	c := f.cluster
	made := &cluster.Config{
		LBPolicy: cluster.LBPolicy(c.LBPolicy), Outlier: c.OutlierDetection.made(), ConnectTimeout: 500 * time.Millisecond,
		Protocol: cluster.HTTP1, PerEndpointStats: c.TrackClusterStats.PerEndpointStats,
		Rand: func() uint64 { return uint64(s.first) }, //nolint:gosec // not negative
	}
	if s.Upstream.Protocol == "h2" {
		made.Protocol = cluster.HTTP2
	}
	if c.ConnectTimeout != nil {
		made.ConnectTimeout = time.Duration(*c.ConnectTimeout)
	}
	if p := c.CommonLBConfig.PanicThreshold; p != nil {
		made.PanicThreshold = share(p.Value)
	}
	if w := c.CommonLBConfig.MergeWindow; w != nil {
		if made.MergeWindow = time.Duration(*w); *w == 0 {
			made.MergeWindow = cluster.Never
		}
	}
	if err := c.protocol(made); err != nil {
		return nil, err
	}
	return made, f.hosts(s, made)
}

// protocol maps typed_extension_protocol_options.
func (c *envoyCluster) protocol(made *cluster.Config) error {
	for name, raw := range c.ProtocolOptions {
		var o envoyProtocolOptions
		if err := strictBytes(raw, &o); name != protocolOptions || err != nil {
			if field, unknown := strings.CutPrefix(err.Error(), "json: unknown field "); unknown {
				return missingField("typed_extension_protocol_options", strings.Trim(field, `"`))
			}
			return missingField("typed_extension_protocol_options", name)
		}
		made.IdleTimeout = time.Duration(o.Common.IdleTimeout)
		made.MaxConnectionDuration = time.Duration(o.Common.MaxConnectionDuration)
		made.MaxStreamDuration = time.Duration(o.Common.MaxStreamDuration)
		made.MaxRequestsPerConnection = o.Common.MaxRequestsPerConnection
	}
	return nil
}

// hosts maps the hosts of a scenario; their addresses are not known yet.
func (f *fragments) hosts(s *Scenario, made *cluster.Config) error {
	if a := f.cluster.LoadAssignment; a != nil {
		if len(a.Endpoints) != 0 {
			return notYet("load balancing (load_assignment)")
		}
		return nil
	}
	for _, h := range s.Upstream.Hosts {
		made.Endpoints = append(made.Endpoints, cluster.Endpoint{
			Hostname: h.ID, Priority: f.priorities[h.ID], Metadata: f.metadata[h.ID].Filters,
		})
	}
	return nil
}

// at sets the addresses of the hosts.
func at(c cluster.Config, addresses Addresses) cluster.Config {
	c.Endpoints = slices.Clone(c.Endpoints)
	for i := range c.Endpoints {
		c.Endpoints[i].Address = addresses[i]
	}
	return c
}

// makeRoute maps what a route has of a cluster.
func (r *envoyRouteAction) makeRoute() (made cluster.Route, err error) {
	for _, p := range r.HashPolicy {
		made.HashPolicy = append(made.HashPolicy, cluster.HashPolicy{Header: p.Header.Name, Terminal: p.Terminal})
	}
	switch r.Priority {
	case "", "DEFAULT":
	case "HIGH":
		made.HighPriority = true
	default:
		return made, missingField("route", "priority "+r.Priority)
	}
	return made, nil
}

// hosts maps which hosts a retry avoids.
func (p *envoyRetryPolicy) hosts() (*retry.Hosts, error) {
	h := &retry.Hosts{MaxAttempts: p.HostSelectionRetryMaxAttempts}
	for _, predicate := range p.RetryHostPredicate {
		switch predicate.Name {
		case "envoy.retry_host_predicates.previous_hosts":
			h.PreviousHosts = true
		case "envoy.retry_host_predicates.omit_host_metadata":
			var config struct {
				Type  string        `json:"@type"`
				Match envoyMetadata `json:"metadata_match"`
			}
			if err := strictBytes(predicate.Config, &config); err != nil {
				return nil, err
			}
			h.OmitMetadata = config.Match.Filters
		default:
			return nil, missingField("retry_policy", predicate.Name)
		}
	}
	if p.RetryPriority == nil {
		return h, nil
	}
	var config struct {
		Type            string `json:"@type"`
		UpdateFrequency int    `json:"update_frequency"`
	}
	if err := strictBytes(p.RetryPriority.Config, &config); err != nil || p.RetryPriority.Name != "envoy.retry_priorities.previous_priorities" {
		return nil, missingField("retry_policy", p.RetryPriority.Name)
	}
	h.PreviousPriorities = config.UpdateFrequency
	return h, nil
}

// limits maps the thresholds of both priorities.
func (c envoyCluster) limits() (*limits.Config, error) {
	l := &limits.Config{MaxRetries: limits.DefaultMaxRetries, High: &limits.Config{MaxRetries: limits.DefaultMaxRetries}}
	for _, t := range c.CircuitBreakers.Thresholds {
		switch t.Priority {
		case "", "DEFAULT":
			high := l.High
			*l = t.limits()
			l.High = high
		case "HIGH":
			*l.High = t.limits()
		default:
			return nil, missingField("cluster", "priority "+t.Priority)
		}
	}
	return l, nil
}

// limits maps thresholds.
func (t *envoyThresholds) limits() limits.Config {
	l := limits.Config{
		MaxConnections: zero(t.MaxConnections), MaxPendingRequests: zero(t.MaxPendingRequests), MaxRequests: zero(t.MaxRequests),
		MaxRetries: limits.DefaultMaxRetries, TrackRemaining: t.TrackRemaining,
	}
	if t.MaxRetries != nil {
		l.MaxRetries = zero(t.MaxRetries)
	}
	if b := t.RetryBudget; b != nil {
		l.RetryBudget = &limits.RetryBudget{MinRetryConcurrency: zero(b.MinRetryConcurrency)}
		if b.BudgetPercent != nil {
			l.RetryBudget.BudgetPercent = share(b.BudgetPercent.Value)
		}
	}
	return l
}
