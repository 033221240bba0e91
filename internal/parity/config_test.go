package parity

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/cluster"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// scenarioWith returns a scenario with the given fragments of configuration.
func scenarioWith(t *testing.T, fragments string) *Scenario {
	t.Helper()
	s := &Scenario{Upstream: UpstreamScript{Hosts: []Host{{ID: "a"}}}}
	if err := json.Unmarshal([]byte(fragments), &s.Envoy); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestConfigure converts all fields that are understood.
func TestConfigure(t *testing.T) {
	got, err := configure(scenarioWith(t, `{
		"cluster": {
			"connect_timeout": "0.15s",
			"circuit_breakers": {"thresholds": [{
				"priority": "DEFAULT", "max_requests": 9, "max_retries": 0, "track_remaining": true, "retry_budget": {"min_retry_concurrency": 2},
				"max_connections": 7, "max_pending_requests": 0
			}, {"priority": "HIGH", "max_requests": 2}]},
			"lb_policy": "RING_HASH",
			"common_lb_config": {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"},
			"outlier_detection": {"consecutive_5xx": 0, "max_ejection_percent": 40, "interval": "0.2s", "always_eject_one_host": true},
			"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
				"@type": "x", "common_http_protocol_options": {"idle_timeout": "0.1s"}, "explicit_http_config": {}
			}},
			"track_cluster_stats": {"timeout_budgets": true}
		},
		"priorities": {"a": 1}, "host_metadata": {"a": {"filter_metadata": {"envoy.lb": {"canary": "1"}}}},
		"route": {"timeout": "0s", "priority": "HIGH", "hash_policy": [{"header": {"header_name": "x-user"}, "terminal": true}], "retry_policy": {
			"host_selection_retry_max_attempts": 5,
			"retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts"}, {
				"name": "envoy.retry_host_predicates.omit_host_metadata",
				"typed_config": {"metadata_match": {"filter_metadata": {"envoy.lb": {"canary": "1"}}}}
			}],
			"retry_priority": {"name": "envoy.retry_priorities.previous_priorities", "typed_config": {"update_frequency": 2}},
			"retry_on": "bogus, 5xx,retriable-headers", "num_retries": 0, "per_try_timeout": "0.1s", "per_try_idle_timeout": "1s",
			"retry_back_off": {"base_interval": "0.005s", "max_interval": "0.01s"},
			"retriable_status_codes": [404],
			"retriable_headers": [{"name": "x-again", "string_match": {"exact": "yes"}, "invert_match": true}],
			"retriable_request_headers": [{"name": "x-idempotent"}],
			"rate_limited_retry_back_off": {"max_interval": "5s", "reset_headers": [{"name": "Retry-After", "format": "SECONDS"}]}
		}},
		"virtual_host": {
			"include_request_attempt_count": true, "include_attempt_count_in_response": true,
			"include_is_timeout_retry_header": true, "per_request_buffer_limit_bytes": 1024
		},
		"router": {"suppress_envoy_headers": true}
	}`))
	if err != nil {
		t.Fatal(err)
	}
	want := &settings{
		connectTimeout: 150 * time.Millisecond,
		limits: &limits.Config{
			MaxRequests: 9, MaxRetries: limits.Zero, TrackRemaining: true, RetryBudget: &limits.RetryBudget{MinRetryConcurrency: 2},
			MaxConnections: 7, MaxPendingRequests: limits.Zero,
			High: &limits.Config{MaxRequests: 2, MaxRetries: limits.DefaultMaxRetries},
		},
		cluster: &cluster.Config{
			LBPolicy: cluster.RingHash, PanicThreshold: cluster.Zero, MergeWindow: cluster.Never, Protocol: cluster.HTTP1,
			ConnectTimeout: 150 * time.Millisecond, IdleTimeout: 100 * time.Millisecond,
			Outlier:   &cluster.Outlier{Consecutive5xx: cluster.Zero, MaxEjectionPercent: 40, Interval: 200 * time.Millisecond, AlwaysEjectOneHost: true},
			Endpoints: []cluster.Endpoint{{Hostname: "a", Priority: 1, Metadata: map[string]map[string]any{"envoy.lb": {"canary": "1"}}}},
		},
		metrics: metrics.Config{CallerStatNames: true, TimeoutBudget: true},
		routes: []route{{
			http: pillion.Options{
				LocalReplies: true, IncludeRequestAttemptCount: true, IncludeAttemptCountInResponse: true,
				IncludeIsTimeoutRetryHeader: true, SuppressEnvoyHeaders: true, ReplayBuffer: 1024,
			},
			timeout: timeout.Config{Total: timeout.Unlimited, PerTry: 100 * time.Millisecond, Idle: time.Second, EnvoyHeaders: true},
			retry: &retry.Config{
				On: "5xx,retriable-headers", NumRetries: retry.Never, BaseInterval: 5 * time.Millisecond, MaxInterval: 10 * time.Millisecond,
				RetriableStatusCodes:    []int{404},
				RetriableHeaders:        []retry.HeaderMatcher{{Name: "x-again", Exact: "yes", Invert: true}},
				RetriableRequestHeaders: []retry.HeaderMatcher{{Name: "x-idempotent"}},
				ResetHeaders:            []retry.ResetHeader{{Name: "Retry-After", Format: retry.Seconds}},
				MaxResetInterval:        5 * time.Second, EnvoyHeaders: true,
				Hosts: &retry.Hosts{
					PreviousHosts: true, OmitMetadata: map[string]map[string]any{"envoy.lb": {"canary": "1"}}, PreviousPriorities: 2, MaxAttempts: 5,
				},
			},
			cluster: cluster.Route{HighPriority: true, HashPolicy: []cluster.HashPolicy{{Header: "x-user", Terminal: true}}},
		}},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(settings{}, route{}, filters{}), cmpopts.IgnoreFields(cluster.Config{}, "Rand")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestConfigure_notYet checks that no setting is ignored silently.
func TestConfigure_notYet(t *testing.T) {
	tests := []struct{ name, fragments, want string }{
		{"a section", `{"hcm": {}}`, "(hcm)"},
		{"a filter", `{"http_filters": [{"name": "envoy.filters.http.buffer"}]}`, "filters: envoy.filters.http.buffer"},
		{"a field of a filter", `{"http_filters": [{"name": "envoy.filters.http.fault", "typed_config": {"surprise": 1}}]}`, "(http_filters.surprise)"},
		{"a field of the cluster", `{"cluster": {"dns_lookup_family": "ALL"}}`, "(cluster.dns_lookup_family)"},
		{"a nested field", `{"cluster": {"circuit_breakers": {"thresholds": [{"max_connection_pools": 1}]}}}`, "(cluster.max_connection_pools)"},
		{"a field of a retry policy", `{"route": {"retry_policy": {"retry_options_predicates": []}}}`, "(route.retry_options_predicates)"},
		{"a host predicate", `{"route": {"retry_policy": {"retry_host_predicate": [{"name": "other"}]}}}`, "(retry_policy.other)"},
		{"a retry priority", `{"route": {"retry_policy": {"retry_priority": {"name": "other"}}}}`, "(retry_policy.other)"},
		{"endpoints", `{"cluster": {"load_assignment": {"endpoints": [{}]}}}`, "load balancing"},
		{
			"protocol options",
			`{"cluster": {"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {"auto_config": {}}}}}`,
			"(typed_extension_protocol_options.auto_config)",
		},
		{"an unknown field", `{"route": {"surprise": 1}}`, "an unknown part (route.surprise)"},
		{"runtime", `{"runtime": {"upstream.use_retry": 100}}`, "(runtime.upstream.use_retry)"},
		{"another cluster", `{"route": {"cluster": "missing"}}`, "routing (cluster missing)"},
		{"another priority", `{"cluster": {"circuit_breakers": {"thresholds": [{"priority": "OTHER"}]}}}`, "(cluster.priority OTHER)"},
		{"a route's priority", `{"route": {"priority": "OTHER"}}`, "(route.priority OTHER)"},
		{
			"a format of reset headers", `{"route": {"retry_policy": {"rate_limited_retry_back_off": {"reset_headers": [{"name": "x", "format": "OTHER"}]}}}}`,
			"reset header format OTHER",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := configure(scenarioWith(t, test.fragments))
			if _, ok := errors.AsType[*NotYetError](err); !ok || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want a NotYetError with %q", err, test.want)
			}
		})
	}
}

// TestConfigure_wrong checks that an invalid configuration is not a NotYetError.
func TestConfigure_wrong(t *testing.T) {
	for _, fragments := range []string{`{"route": {"timeout": "soon"}}`, `{"route": {"timeout": "5"}}`, `{"external": "yes"}`} {
		_, err := configure(scenarioWith(t, fragments))
		if _, missing := errors.AsType[*NotYetError](err); err == nil || missing {
			t.Errorf("%s: got %v, want an error that is not a NotYetError", fragments, err)
		}
	}
}

func TestSupported(t *testing.T) {
	ask := func(r Request) Calls { return Calls{Ops: []Op{{Op: "request", Request: &r}}} }
	one := UpstreamScript{Hosts: []Host{{ID: "a"}}}
	tests := []struct {
		name string
		s    Scenario
		want string
	}{
		{"two hosts", Scenario{Upstream: UpstreamScript{Hosts: []Host{{}, {}}}}, ""},
		{
			"gRPC beside HTTP",
			Scenario{Upstream: one, Downstream: Calls{Ops: []Op{{Op: "concurrent", Requests: []Request{{GRPC: true}, {}}}}}},
			"gRPC beside HTTP",
		},
		{"gRPC", Scenario{Upstream: one, Downstream: ask(Request{GRPC: true})}, ""},
		{
			"a header that is not honored",
			Scenario{Upstream: one, Downstream: ask(Request{Headers: map[string]string{"x-envoy-new": "1"}})},
			"x-envoy-new",
		},
		{"a header that is honored", Scenario{Upstream: one, Downstream: ask(Request{Headers: map[string]string{"x-envoy-retry-on": "5xx"}})}, ""},
	}
	for _, test := range tests {
		err := supported(&test.s)
		if (err == nil) != (test.want == "") || (err != nil && !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
	}
}
