package parity

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/fault"
	"github.com/pillion-go/pillion/ratelimit"
)

// filters are Envoy's HTTP filters before the router, as policies: from the outside in.
type filters struct {
	grpcStats bool // the filter grpc_stats is there
	policies  []pillion.Policy
	draws     bool // chance decides which calls get a fault
}

// envoyFilter is one filter of an HTTP connection manager.
type envoyFilter struct {
	Name   string          `json:"name"`
	Config json.RawMessage `json:"typed_config"`
}

// UnmarshalJSON reads the section http_filters.
func (f *filters) UnmarshalJSON(raw []byte) error {
	var list []envoyFilter
	if err := strictBytes(raw, &list); err != nil {
		return err
	}
	for _, filter := range list {
		if err := f.add(filter); err != nil {
			return err
		}
	}
	return nil
}

// add reads one filter. A policy that it becomes is shared by all routes.
func (f *filters) add(filter envoyFilter) error {
	var p pillion.Policy
	var err error
	switch {
	case filter.countsMethods():
		f.grpcStats = true
		return nil
	case filter.Name == "envoy.filters.http.fault":
		p, err = f.readFault(filter.Config)
	case filter.Name == "envoy.filters.http.local_ratelimit":
		p, err = readRateLimit(filter.Config)
	default:
		return notYet("filters: %s", filter.Name)
	}
	f.policies = append(f.policies, p)
	return err
}

// countsMethods reports whether the filter is the one that metrics.GRPC mirrors, as it mirrors it.
func (f envoyFilter) countsMethods() bool {
	var config struct {
		All bool `json:"stats_for_all_methods"`
	}
	err := json.Unmarshal(f.Config, &config)
	return err == nil && f.Name == "envoy.filters.http.grpc_stats" && config.All
}

// The parts of HTTPFault that are understood.
type (
	envoyFault struct {
		Type  string `json:"@type"`
		Delay *struct {
			FixedDelay  *duration    `json:"fixed_delay"`
			HeaderDelay *struct{}    `json:"header_delay"`
			Percentage  envoyPercent `json:"percentage"`
		} `json:"delay"`
		Abort *struct {
			HTTPStatus  int          `json:"http_status"`
			GRPCStatus  int          `json:"grpc_status"`
			HeaderAbort *struct{}    `json:"header_abort"`
			Percentage  envoyPercent `json:"percentage"`
		} `json:"abort"`
		ResponseRateLimit *struct {
			FixedLimit struct {
				LimitKbps int `json:"limit_kbps"`
			} `json:"fixed_limit"`
			HeaderLimit *struct{}    `json:"header_limit"`
			Percentage  envoyPercent `json:"percentage"`
		} `json:"response_rate_limit"`
		UpstreamCluster string               `json:"upstream_cluster"`
		DownstreamNodes []string             `json:"downstream_nodes"`
		Headers         []envoyHeaderMatcher `json:"headers"`
		MaxActiveFaults *int                 `json:"max_active_faults"`
	}
	envoyPercent struct {
		Numerator   int               `json:"numerator"`
		Denominator envoy.Denominator `json:"denominator"`
	}
)

// percent is a share in the form in which 0 stands for all.
func (p envoyPercent) percent() envoy.Percent {
	if p.Numerator == 0 {
		p.Numerator = envoy.Never
	}
	return envoy.Percent(p)
}

// draws reports whether chance decides. All shares are percentages so far.
func (p envoyPercent) draws() bool { return p.Numerator > 0 && p.Numerator < 100 }

// drawsFaults recognizes a scenario in which chance decides how many calls get a fault.
func drawsFaults(s *Scenario) bool {
	f, err := readFragments(s.Envoy)
	return err == nil && f.filters.draws
}

// readFault maps a fault filter.
func (f *filters) readFault(raw json.RawMessage) (*fault.Fault, error) {
	var e envoyFault
	if err := strictBytes(raw, &e); err != nil {
		return nil, err
	}
	c := fault.Config{UpstreamCluster: e.UpstreamCluster, DownstreamNodes: e.DownstreamNodes, Headers: headerMatchers(e.Headers)}
	if d := e.Delay; d != nil {
		c.Delay = &fault.Delay{Header: d.HeaderDelay != nil, Percentage: d.Percentage.percent()}
		if d.FixedDelay != nil {
			c.Delay.Fixed = time.Duration(*d.FixedDelay)
		}
	}
	if a := e.Abort; a != nil {
		f.draws = a.Percentage.draws()
		c.Abort = &fault.Abort{HTTPStatus: a.HTTPStatus, GRPCStatus: a.GRPCStatus, Header: a.HeaderAbort != nil, Percentage: a.Percentage.percent()}
	}
	if r := e.ResponseRateLimit; r != nil {
		c.ResponseRateLimit = &fault.RateLimit{LimitKbps: r.FixedLimit.LimitKbps, Header: r.HeaderLimit != nil, Percentage: r.Percentage.percent()}
	}
	if n := e.MaxActiveFaults; n != nil {
		if c.MaxActiveFaults = *n; *n == 0 {
			c.MaxActiveFaults = fault.Zero
		}
	}
	return fault.New(c)
}

// The parts of LocalRateLimit that are understood.
type (
	envoyRateLimit struct {
		Type              string             `json:"@type"`
		StatPrefix        string             `json:"stat_prefix"`
		Status            struct{ Code int } `json:"status"`
		TokenBucket       envoyTokenBucket   `json:"token_bucket"`
		FilterEnabled     envoyShare         `json:"filter_enabled"`
		FilterEnforced    envoyShare         `json:"filter_enforced"`
		ResourceExhausted bool               `json:"rate_limited_as_resource_exhausted"`
	}
	envoyTokenBucket struct {
		MaxTokens     int      `json:"max_tokens"`
		TokensPerFill int      `json:"tokens_per_fill"`
		FillInterval  duration `json:"fill_interval"`
	}
	envoyShare struct {
		DefaultValue envoyPercent `json:"default_value"`
	}
)

// readRateLimit maps a local rate limit filter.
func readRateLimit(raw json.RawMessage) (*ratelimit.Limiter, error) {
	var e envoyRateLimit
	if err := strictBytes(raw, &e); err != nil {
		return nil, err
	}
	t := e.TokenBucket
	return ratelimit.New(ratelimit.Config{
		StatPrefix:        e.StatPrefix,
		Status:            e.Status.Code,
		TokenBucket:       ratelimit.TokenBucket{MaxTokens: t.MaxTokens, TokensPerFill: t.TokensPerFill, FillInterval: time.Duration(t.FillInterval)},
		Enabled:           e.FilterEnabled.DefaultValue.percent(),
		Enforced:          e.FilterEnforced.DefaultValue.percent(),
		ResourceExhausted: e.ResourceExhausted,
	})
}

// faultHeaders are the request headers that a fault filter knows.
//
//nolint:gochecknoglobals // a list that nothing writes
var faultHeaders = []string{
	"x-envoy-downstream-service-cluster", "x-envoy-downstream-service-node",
	"x-envoy-fault-abort-request", "x-envoy-fault-abort-grpc-request", "x-envoy-fault-abort-request-percentage",
	"x-envoy-fault-delay-request", "x-envoy-fault-delay-request-percentage",
	"x-envoy-fault-throughput-response", "x-envoy-fault-throughput-response-percentage",
}

func isFaultHeader(name string) bool { return slices.Contains(faultHeaders, name) }

// ofUpstream is the name that the library has for a statistic of Envoy's fault filter, which counts
// for a connection manager; any other name stays as it is.
func ofUpstream(name string) string {
	if rest, ok := strings.CutPrefix(name, "http.egress.fault."); ok {
		return "cluster." + clusterName + ".fault." + rest
	}
	return name
}

// recordedPath is the path in a recording of what has path here.
func recordedPath(path string) string {
	return strings.Replace(path, "/cluster."+clusterName+".fault.", "/http.egress.fault.", 1)
}

var faultNames = regexp.MustCompile(`^cluster\.` + clusterName +
	`\.fault\.((\w+\.)?(aborts|delays)_injected|response_rl_injected|faults_overflow|active_faults)$`)

// isFault reports whether the counter or gauge is one of faults.
func isFault(name string) bool { return faultNames.MatchString(name) }
