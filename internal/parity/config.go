package parity

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/cluster"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// NotYetError reports that a scenario needs a part that the library does not have.
type NotYetError struct {
	Missing string
}

func (e *NotYetError) Error() string { return "not yet: " + e.Missing }

func notYet(format string, args ...any) error {
	return &NotYetError{Missing: fmt.Sprintf(format, args...)}
}

// settings is the configuration of the library that stands for Envoy's.
type settings struct {
	filters        filters
	maintenance    *limits.Maintenance // nil for none
	connectTimeout time.Duration
	limits         *limits.Config
	cluster        *cluster.Config
	metrics        metrics.Config
	routes         []route
}

// route contains the policies for some of the paths.
type route struct {
	prefix  string
	http    pillion.Options
	timeout timeout.Config
	stream  timeout.Stream
	retry   *retry.Config // nil if there is none
	cluster cluster.Route
}

// The parts of Envoy's configuration that are understood. Any other field is a
// [NotYetError].
type (
	envoyCluster struct {
		ConnectTimeout  *duration `json:"connect_timeout"`
		CircuitBreakers struct {
			Thresholds []envoyThresholds `json:"thresholds"`
		} `json:"circuit_breakers"`
		TrackClusterStats struct {
			TimeoutBudgets       bool `json:"timeout_budgets"`
			RequestResponseSizes bool `json:"request_response_sizes"`
			PerEndpointStats     bool `json:"per_endpoint_stats"`
		} `json:"track_cluster_stats"`
		CommonLBConfig   envoyLBConfig              `json:"common_lb_config"`
		LBPolicy         string                     `json:"lb_policy"`
		LoadAssignment   *envoyLoadAssignment       `json:"load_assignment"`
		OutlierDetection *envoyOutlier              `json:"outlier_detection"`
		ProtocolOptions  map[string]json.RawMessage `json:"typed_extension_protocol_options"`
	}
	envoyThresholds struct {
		Priority           string       `json:"priority"`
		MaxConnections     *int         `json:"max_connections"`
		MaxPendingRequests *int         `json:"max_pending_requests"`
		MaxRequests        *int         `json:"max_requests"`
		MaxRetries         *int         `json:"max_retries"`
		RetryBudget        *envoyBudget `json:"retry_budget"`
		TrackRemaining     bool         `json:"track_remaining"`
	}
	envoyBudget struct {
		BudgetPercent *struct {
			Value float64 `json:"value"`
		} `json:"budget_percent"`
		MinRetryConcurrency *int `json:"min_retry_concurrency"`
	}
	envoyRouteAction struct {
		Cluster           string            `json:"cluster"`
		Timeout           *duration         `json:"timeout"`
		RetryPolicy       *envoyRetryPolicy `json:"retry_policy"`
		IdleTimeout       duration          `json:"idle_timeout"`
		MaxStreamDuration *envoyMaxStream   `json:"max_stream_duration"`
		HashPolicy        []envoyHashPolicy `json:"hash_policy"`
		Priority          string            `json:"priority"`
		HedgePolicy       struct {
			HedgeOnPerTryTimeout bool `json:"hedge_on_per_try_timeout"`
		} `json:"hedge_policy"`
	}
	envoyRoute struct {
		Match struct {
			Prefix string `json:"prefix"`
		} `json:"match"`
		Route envoyRouteAction `json:"route"`
	}
	envoyRetryPolicy struct {
		RetryOn                 string               `json:"retry_on"`
		NumRetries              *int                 `json:"num_retries"`
		PerTryTimeout           duration             `json:"per_try_timeout"`
		PerTryIdleTimeout       duration             `json:"per_try_idle_timeout"`
		RetryBackOff            envoyBackOff         `json:"retry_back_off"`
		RateLimitedRetryBackOff envoyRateLimited     `json:"rate_limited_retry_back_off"`
		RetriableStatusCodes    []int                `json:"retriable_status_codes"`
		RetriableHeaders        []envoyHeaderMatcher `json:"retriable_headers"`
		RetriableRequestHeaders []envoyHeaderMatcher `json:"retriable_request_headers"`

		RetryHostPredicate            []envoyExtension `json:"retry_host_predicate"`
		RetryPriority                 *envoyExtension  `json:"retry_priority"`
		HostSelectionRetryMaxAttempts int              `json:"host_selection_retry_max_attempts"`
	}
	envoyBackOff struct {
		BaseInterval duration `json:"base_interval"`
		MaxInterval  duration `json:"max_interval"`
	}
	envoyRateLimited struct {
		MaxInterval  duration `json:"max_interval"`
		ResetHeaders []struct {
			Name   string `json:"name"`
			Format string `json:"format"`
		} `json:"reset_headers"`
	}
	envoyVirtualCluster struct {
		Name    string               `json:"name"`
		Headers []envoyHeaderMatcher `json:"headers"`
	}
	envoyHeaderMatcher struct {
		Name        string `json:"name"`
		StringMatch struct {
			Exact    string `json:"exact"`
			Prefix   string `json:"prefix"`
			Suffix   string `json:"suffix"`
			Contains string `json:"contains"`
		} `json:"string_match"`
		InvertMatch bool `json:"invert_match"`
	}
	envoyVirtualHost struct {
		RetryPolicy                   *envoyRetryPolicy     `json:"retry_policy"`
		VirtualClusters               []envoyVirtualCluster `json:"virtual_clusters"`
		IncludeRequestAttemptCount    bool                  `json:"include_request_attempt_count"`
		IncludeAttemptCountInResponse bool                  `json:"include_attempt_count_in_response"`
		IncludeIsTimeoutRetryHeader   bool                  `json:"include_is_timeout_retry_header"`
		PerRequestBufferLimit         *int64                `json:"per_request_buffer_limit_bytes"`
	}
	envoyRouter struct {
		SuppressEnvoyHeaders bool  `json:"suppress_envoy_headers"`
		DynamicStats         *bool `json:"dynamic_stats"`
	}
	envoyRuntime struct {
		BaseRetryBackOffMS int64 `json:"upstream.base_retry_backoff_ms"`
		Maintenance        int   `json:"upstream.maintenance_mode.upstream"`
	}
)

// fragments is the whole configuration.
type fragments struct {
	filters     filters
	cluster     envoyCluster
	route       envoyRouteAction
	routes      []envoyRoute
	virtualHost envoyVirtualHost
	router      envoyRouter
	runtime     envoyRuntime
	external    bool
	priorities  map[string]int // by host
	metadata    map[string]envoyMetadata
}

// duration is a duration in Envoy's format: "0.5s".
type duration time.Duration

// UnmarshalJSON parses seconds.
func (d *duration) UnmarshalJSON(text []byte) error {
	var s string
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	seconds, found := strings.CutSuffix(s, "s")
	f, err := strconv.ParseFloat(seconds, 64)
	if err != nil || !found {
		return fmt.Errorf("%q is not a duration", s)
	}
	*d = duration(time.Duration(f * float64(time.Second)).Round(time.Microsecond))
	return nil
}

// parts names the parts of the library that some of Envoy's fields need.
//
//nolint:gochecknoglobals // a read-only table
var parts = map[string]string{
	"internal_redirect_policy": "internal redirects",
	"route_entry":              "routing",
	"route_config":             "routing",
	"domains":                  "routing",
	"hcm":                      "routing",
	"priority":                 "priorities",
}

// missingField returns the error for a field that is not understood.
func missingField(section, field string) error {
	part := parts[field]
	if part == "" {
		part = "an unknown part"
	}
	if section != "" {
		field = section + "." + field
	}
	return notYet("%s (%s)", part, field)
}

// configure returns the settings for a scenario.
func configure(s *Scenario) (*settings, error) {
	if err := supported(s); err != nil {
		return nil, err
	}
	f, err := readFragments(s.Envoy)
	if err != nil {
		return nil, err
	}
	c := &settings{connectTimeout: 500 * time.Millisecond} // the value of all recordings
	if t := f.cluster.ConnectTimeout; t != nil {
		c.connectTimeout = time.Duration(*t)
	}
	c.filters = f.filters
	if c.maintenance, err = maintenance(f.runtime.Maintenance); err != nil {
		return nil, err
	}
	c.metrics = metrics.Config{External: f.external, CallerStatNames: !f.external, TimeoutBudget: f.cluster.TrackClusterStats.TimeoutBudgets}
	c.metrics.RequestResponseSizes = f.cluster.TrackClusterStats.RequestResponseSizes
	c.metrics.NoDynamicStats = f.router.DynamicStats != nil && !*f.router.DynamicStats
	if len(f.virtualHost.VirtualClusters) != 0 {
		c.metrics.VirtualHost = virtualHost
	}
	for _, v := range f.virtualHost.VirtualClusters {
		c.metrics.VirtualClusters = append(c.metrics.VirtualClusters, metrics.VirtualCluster{Name: v.Name, Headers: headerMatchers(v.Headers)})
	}
	if c.limits, err = f.cluster.limits(); err != nil {
		return nil, err
	}
	if c.cluster, err = f.makeCluster(s); err != nil {
		return nil, err
	}
	f.routes = append(f.routes, envoyRoute{Route: f.route})
	for _, r := range f.routes {
		made, err := f.makeRoute(r)
		if err != nil {
			return nil, err
		}
		c.routes = append(c.routes, made)
	}
	return c, nil
}

// virtualHost is the name of the virtual host of all recordings.
const virtualHost = "svc"

// supported returns an error if a scenario, apart from Envoy's configuration, needs a part
// that the library does not have.
func supported(s *Scenario) error {
	if all, none := speaksGRPC(s); !all && !none {
		return notYet("gRPC beside HTTP")
	}
	for _, op := range s.Downstream.Ops {
		requests := op.Requests
		if op.Request != nil {
			requests = append(requests, *op.Request)
		}
		for _, r := range requests {
			if err := supportedHeaders(r.Headers); err != nil {
				return err
			}
		}
	}
	return nil
}

// honored lists the request headers of Envoy that the policies honor.
//
//nolint:gochecknoglobals // a read-only list
var honored = []string{
	"x-envoy-retry-on", "x-envoy-retry-grpc-on", "x-envoy-max-retries", "x-envoy-retriable-status-codes", "x-envoy-retriable-header-names",
	"x-envoy-upstream-rq-timeout-ms", "x-envoy-upstream-rq-per-try-timeout-ms", "x-envoy-upstream-alt-stat-name",
	"x-envoy-hedge-on-per-try-timeout", "x-envoy-upstream-rq-timeout-alt-response",
}

// supportedHeaders returns an error if a caller sends a header of Envoy that no policy
// honors.
func supportedHeaders(headers map[string]string) error {
	for name := range headers {
		if strings.HasPrefix(name, "x-envoy-") && !slices.Contains(honored, name) && !isFaultHeader(name) {
			return missingField("", name)
		}
	}
	return nil
}

// readFragments reads all fragments, and returns an error for a field that it does not
// understand.
func readFragments(sections map[string]json.RawMessage) (*fragments, error) {
	f := &fragments{route: envoyRouteAction{Cluster: clusterName}}
	into := map[string]any{
		"cluster": &f.cluster, "route": &f.route, "routes": &f.routes, "virtual_host": &f.virtualHost,
		"router": &f.router, "runtime": &f.runtime, "external": &f.external, "priorities": &f.priorities, "host_metadata": &f.metadata, "http_filters": &f.filters,
	}
	for _, section := range slices.Sorted(maps.Keys(sections)) {
		target, ok := into[section]
		if !ok {
			return nil, missingField("", section)
		}
		err := strictBytes(sections[section], target)
		if err == nil {
			continue
		}
		if field, unknown := strings.CutPrefix(err.Error(), "json: unknown field "); unknown {
			return nil, missingField(section, strings.Trim(field, `"`))
		}
		return nil, fmt.Errorf("%s: %w", section, err)
	}
	return f, nil
}

// share converts a percentage to the form in which 0 stands for the default.
func share(percent float64) float64 {
	if percent == 0 {
		return limits.Zero
	}
	return percent
}

// zero converts a number to the form in which 0 stands for the default.
func zero(n *int) int {
	switch {
	case n == nil:
		return 0
	case *n == 0:
		return limits.Zero
	}
	return *n
}

// defaultBuffer is the number of bytes of a request that Envoy keeps for a retry by
// default.
const defaultBuffer = 1 << 20

// makeRoute converts a route of the virtual host.
func (f *fragments) makeRoute(r envoyRoute) (made route, err error) {
	if r.Route.Cluster != clusterName {
		return route{}, notYet("routing (cluster %s)", r.Route.Cluster)
	}
	made = route{
		prefix:  r.Match.Prefix,
		http:    f.http(),
		timeout: timeout.Config{ExpectedHeader: !f.router.SuppressEnvoyHeaders, EnvoyHeaders: !f.external},
	}
	f.makeStream(r, &made)
	if t := r.Route.Timeout; t != nil && r.Route.MaxStreamDuration == nil {
		made.timeout.Total = unlimited(*t)
	}
	if made.cluster, err = r.Route.makeRoute(); err != nil {
		return route{}, err
	}
	policy := r.Route.RetryPolicy
	if policy == nil {
		policy = f.virtualHost.RetryPolicy
	}
	if policy == nil {
		if !f.external { // a caller may still ask for retries
			made.retry = &retry.Config{EnvoyHeaders: true, ResetHeaders: []retry.ResetHeader{}, Hosts: &retry.Hosts{}}
		}
		return made, nil
	}
	made.timeout.PerTry, made.timeout.Idle = f.limit(r, policy.PerTryTimeout), f.limit(r, policy.PerTryIdleTimeout)
	if made.retry, err = policy.retries(f.runtime, !f.external); made.retry != nil {
		made.retry.HedgeOnPerTryTimeout = r.Route.HedgePolicy.HedgeOnPerTryTimeout
	}
	return made, err
}

// limit converts a limit of one attempt. It is 0 if it has no effect, because callers
// cannot extend the route's timeout.
func (f *fragments) limit(r envoyRoute, d duration) time.Duration {
	total := timeout.DefaultTotal
	if t := r.Route.Timeout; t != nil {
		total = time.Duration(*t)
	}
	if f.external && total > 0 && time.Duration(d) >= total {
		return 0
	}
	return time.Duration(d)
}

// http converts the settings that all routes share.
func (f *fragments) http() pillion.Options {
	vh := f.virtualHost
	h := pillion.Options{
		LocalReplies:                  true,
		IncludeRequestAttemptCount:    vh.IncludeRequestAttemptCount,
		IncludeAttemptCountInResponse: vh.IncludeAttemptCountInResponse,
		IncludeIsTimeoutRetryHeader:   vh.IncludeIsTimeoutRetryHeader,
		SuppressEnvoyHeaders:          f.router.SuppressEnvoyHeaders,
		ReplayBuffer:                  defaultBuffer,
	}
	if vh.PerRequestBufferLimit != nil {
		h.ReplayBuffer = max(1, *vh.PerRequestBufferLimit) // a size of 0 would mean no buffer, which no body can exceed
	}
	return h
}

// unlimited converts a timeout to the form in which 0 stands for the default.
func unlimited(d duration) time.Duration {
	if d == 0 {
		return timeout.Unlimited
	}
	return time.Duration(d)
}

// retries converts a retry policy. It returns nil if nothing is ever retried. callers
// reports whether callers may ask for more in headers.
func (p *envoyRetryPolicy) retries(runtime envoyRuntime, callers bool) (*retry.Config, error) {
	c := &retry.Config{
		RetriableRequestHeaders: headerMatchers(p.RetriableRequestHeaders),
		RetriableStatusCodes:    p.RetriableStatusCodes,
		RetriableHeaders:        headerMatchers(p.RetriableHeaders),
		BaseInterval:            interval(p.RetryBackOff.BaseInterval),
		MaxInterval:             interval(p.RetryBackOff.MaxInterval),
		MaxResetInterval:        interval(p.RateLimitedRetryBackOff.MaxInterval),
		ResetHeaders:            []retry.ResetHeader{}, // Envoy does not honor Retry-After by default
		EnvoyHeaders:            callers,
	}
	var err error
	if c.Hosts, err = p.hosts(); err != nil {
		return nil, err
	}
	words := knownWords(p.RetryOn)
	if !callers {
		words = pair(c, words)
	}
	if c.On = strings.Join(words, ","); len(words) == 0 && !callers {
		return nil, nil
	}
	if c.BaseInterval == 0 {
		c.BaseInterval = time.Duration(runtime.BaseRetryBackOffMS) * time.Millisecond
	}
	if p.NumRetries != nil {
		if c.NumRetries = *p.NumRetries; c.NumRetries == 0 {
			c.NumRetries = retry.Never
		}
	}
	for _, h := range p.RateLimitedRetryBackOff.ResetHeaders {
		format, ok := map[string]retry.ResetFormat{"": retry.Seconds, "SECONDS": retry.Seconds, "UNIX_TIMESTAMP": retry.UnixTimestamp}[h.Format]
		if !ok {
			return nil, notYet("retry (reset header format %s)", h.Format)
		}
		c.ResetHeaders = append(c.ResetHeaders, retry.ResetHeader{Name: h.Name, Format: format})
	}
	return c, nil
}

// interval converts a wait, which Envoy rounds up to 1 ms.
func interval(d duration) time.Duration {
	if d > 0 {
		return max(time.Duration(d), time.Millisecond)
	}
	return 0
}

// pair removes lists that no condition uses, and conditions without their list: Envoy
// ignores them, and the library returns an error.
func pair(c *retry.Config, words []string) []string {
	without := func(word string, n int) bool {
		if n == 0 {
			words = slices.DeleteFunc(words, func(w string) bool { return w == word })
		}
		return !slices.Contains(words, word)
	}
	if without("retriable-status-codes", len(c.RetriableStatusCodes)) {
		c.RetriableStatusCodes = nil
	}
	if without("retriable-headers", len(c.RetriableHeaders)) {
		c.RetriableHeaders = nil
	}
	return words
}

// knownWords removes conditions of retry_on that Envoy does not know: it ignores them. Two
// of them are conditions of the library.
func knownWords(on string) []string {
	var known []string
	for word := range strings.SplitSeq(on, ",") {
		word = strings.TrimSpace(word)
		if word == "" || word == "default" || word == "idempotent" {
			continue
		}
		if _, err := pillion.New("words", retry.Config{On: word, EnvoyHeaders: true}); err == nil {
			known = append(known, word)
		}
	}
	return known
}

func headerMatchers(list []envoyHeaderMatcher) []retry.HeaderMatcher {
	var made []retry.HeaderMatcher
	for _, m := range list {
		made = append(made, retry.HeaderMatcher{
			Name: m.Name, Exact: m.StringMatch.Exact, Prefix: m.StringMatch.Prefix,
			Suffix: m.StringMatch.Suffix, Contains: m.StringMatch.Contains, Invert: m.InvertMatch,
		})
	}
	return made
}
