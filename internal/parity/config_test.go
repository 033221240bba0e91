package parity

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
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
				"priority": "DEFAULT", "max_requests": 9, "max_retries": 0, "track_remaining": true, "retry_budget": {"min_retry_concurrency": 2}
			}]},
			"track_cluster_stats": {"timeout_budgets": true}
		},
		"route": {"timeout": "0s", "retry_policy": {
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
			},
		}},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(settings{}, route{}, filters{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestConfigure_notYet checks that no setting is ignored silently.
func TestConfigure_notYet(t *testing.T) {
	tests := []struct{ name, fragments, want string }{
		{"a section", `{"hcm": {}}`, "(hcm)"},
		{"a filter", `{"http_filters": [{"name": "envoy.filters.http.buffer"}]}`, "filters: envoy.filters.http.buffer"},
		{"a field of a filter", `{"http_filters": [{"name": "envoy.filters.http.fault", "typed_config": {"surprise": 1}}]}`, "(http_filters.surprise)"},
		{"a field of the cluster", `{"cluster": {"lb_policy": "RANDOM"}}`, "(cluster.lb_policy)"},
		{"a nested field", `{"cluster": {"circuit_breakers": {"thresholds": [{"max_pending_requests": 1}]}}}`, "(cluster.max_pending_requests)"},
		{"a field of a retry policy", `{"route": {"retry_policy": {"retry_priority": {}}}}`, "(route.retry_priority)"},
		{"an unknown field", `{"route": {"surprise": 1}}`, "an unknown part (route.surprise)"},
		{"runtime", `{"runtime": {"upstream.use_retry": 100}}`, "(runtime.upstream.use_retry)"},
		{"another cluster", `{"route": {"cluster": "missing"}}`, "routing (cluster missing)"},
		{"another priority", `{"cluster": {"circuit_breakers": {"thresholds": [{"priority": "HIGH"}]}}}`, "priorities"},
		{
			"limits of several routes", `{"cluster": {"circuit_breakers": {"thresholds": [{}]}}, "routes": [{"match": {"prefix": "/a"}, "route": {"cluster": "upstream"}}]}`,
			"limits that several routes share",
		},
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
		{"two hosts", Scenario{Upstream: UpstreamScript{Hosts: []Host{{}, {}}}}, "load balancing"},
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
