package timeout

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/policytest"
	"github.com/pillion-go/pillion/retry"
)

// TestStream pins which timeout ends a call, and when.
func TestStream(t *testing.T) {
	tests := []struct {
		name    string
		stream  Stream
		config  Config
		server  server
		scope   policy.Scope // 0 for a good call
		flags   envoy.Flags
		details string
		elapsed time.Duration
	}{
		{"in time", Stream{MaxDuration: 100 * ms, Idle: 50 * ms}, Config{}, server{head: 40 * ms, gaps: []time.Duration{20 * ms}}, 0, 0, "via_upstream", 60 * ms},
		{"duration before the headers", Stream{MaxDuration: 100 * ms}, Config{}, server{head: never}, StreamDuration, 0, "max_duration_timeout", 100 * ms},
		{"duration in the body", Stream{MaxDuration: 100 * ms}, Config{}, server{gaps: []time.Duration{20 * ms, never}}, StreamDuration, 0, "max_duration_timeout", 100 * ms},
		{"idle before the headers", Stream{Idle: 100 * ms}, Config{}, server{head: never}, StreamIdle, envoy.SI, "stream_idle_timeout", 100 * ms},
		{"idle in the body", Stream{Idle: 100 * ms}, Config{}, server{gaps: []time.Duration{90 * ms, 90 * ms, never}}, StreamIdle, envoy.SI, "stream_idle_timeout", 280 * ms},
		{"idle of one attempt is shorter", Stream{Idle: 100 * ms}, Config{Idle: 50 * ms}, server{head: never}, Idle, envoy.UT, "upstream_per_try_idle_timeout", 50 * ms},
		{"total is shorter", Stream{MaxDuration: 100 * ms}, Config{Total: 50 * ms}, server{head: never}, Total, envoy.UT, "response_timeout", 50 * ms},
		{"total is longer", Stream{MaxDuration: 100 * ms}, Config{Total: time.Second}, server{head: never}, StreamDuration, 0, "max_duration_timeout", 100 * ms},
		{"none", Stream{MaxDuration: Unlimited, Idle: Unlimited}, Config{Total: Unlimited}, server{head: time.Hour}, 0, 0, "via_upstream", time.Hour},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := upstream(t, tc.config, tc.stream)
				r := call(t, u, tc.server, get(t.Context()), 0)
				limit, ok := errors.AsType[*Error](r.err)
				if ok != (tc.scope != 0) || ok && limit.Scope != tc.scope || r.flags != tc.flags || r.detail.String() != tc.details || r.elapsed != tc.elapsed {
					t.Errorf("got %v, %v, %v after %v, want scope %v, %v, %v after %v", r.err, r.flags, r.detail, r.elapsed, tc.scope, tc.flags, tc.details, tc.elapsed)
				}
			})
		})
	}
}

// TestStream_retry pins that a timeout of Stream is not retried, and that MaxDuration covers all
// attempts.
func TestStream_retry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := upstream(t, Stream{MaxDuration: 250 * ms, Idle: 200 * ms}, Config{PerTry: 100 * ms}, retry.Config{On: "5xx,reset", NumRetries: 5, Rand: func() float64 { return 0 }})
		r := call(t, u, server{head: never}, get(t.Context()), 0)
		if limit, ok := errors.AsType[*Error](r.err); !ok || limit.Scope != StreamDuration || r.attempts != 3 || r.elapsed != 250*ms {
			t.Errorf("got %v after %d attempts and %v", r.err, r.attempts, r.elapsed)
		}
		u = upstream(t, Stream{Idle: 50 * ms}, Config{PerTry: 100 * ms}, retry.Config{On: "5xx,reset", NumRetries: 5})
		r = call(t, u, server{head: never}, get(t.Context()), 0)
		if limit, ok := errors.AsType[*Error](r.err); !ok || limit.Scope != StreamIdle || r.attempts != 1 || r.elapsed != 50*ms {
			t.Errorf("got %v after %d attempts and %v", r.err, r.attempts, r.elapsed)
		}
	})
}

// TestStream_statistics pins the local replies, and that the upstream's statistics do not count them.
func TestStream_statistics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry, err := metrics.NewRegistry(metrics.Settings{})
		if err != nil {
			t.Fatal(err)
		}
		for want, stream := range map[string]Stream{"downstream duration timeout": {MaxDuration: 100 * ms}, "stream timeout": {Idle: 100 * ms}} {
			u := upstream(t, pillion.Options{LocalReplies: true}, metrics.Config{Registry: registry}, stream)
			resp, err := u.Transport(server{head: never}).RoundTrip(get(t.Context()))
			if err != nil {
				t.Fatal(err)
			}
			if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusGatewayTimeout || string(body) != want {
				t.Errorf("got %d and %q, want 504 and %q", resp.StatusCode, body, want)
			}
		}
		w := httptest.NewRecorder()
		metrics.Handler(registry).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/stats?usedonly", nil))
		if page := w.Body.String(); strings.Contains(page, "504") || strings.Contains(page, "upstream_rq_timeout: 2") || !strings.Contains(page, "upstream_rq_total: 2") {
			t.Errorf("got %s, want two requests without a response", page)
		}
	})
}

// TestStream_grpcTimeout pins how the header grpc-timeout changes the timeout of the call.
func TestStream_grpcTimeout(t *testing.T) {
	tests := []struct {
		name   string
		stream Stream
		header string
		want   time.Duration // 0 for no timeout
	}{
		{"not honored", Stream{}, "100m", 0},
		{"without a maximum", Stream{GRPCTimeoutMax: Unlimited}, "100m", 100 * ms},
		{"below the maximum", Stream{GRPCTimeoutMax: time.Second}, "100m", 100 * ms},
		{"above the maximum", Stream{GRPCTimeoutMax: 50 * ms}, "100m", 50 * ms},
		{"replaces MaxDuration", Stream{GRPCTimeoutMax: Unlimited, MaxDuration: 50 * ms}, "100m", 100 * ms},
		{"absent", Stream{GRPCTimeoutMax: Unlimited, MaxDuration: 50 * ms}, "", 50 * ms},
		{"invalid", Stream{GRPCTimeoutMax: Unlimited, MaxDuration: 50 * ms}, "soon", 50 * ms},
		{"offset", Stream{GRPCTimeoutMax: Unlimited, GRPCTimeoutOffset: 30 * ms}, "100m", 70 * ms},
		{"offset not below the header", Stream{GRPCTimeoutMax: Unlimited, GRPCTimeoutOffset: 100 * ms}, "100m", 100 * ms},
		{"zero", Stream{GRPCTimeoutMax: Unlimited}, "0m", 1},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				req := get(t.Context())
				req.Header.Set("Grpc-Timeout", tc.header)
				r := call(t, upstream(t, tc.stream), server{head: time.Hour}, req, 0)
				if want := max(tc.want, map[bool]time.Duration{true: time.Hour}[tc.want == 0]); r.elapsed != want || (r.err == nil) != (tc.want == 0) {
					t.Errorf("got %v after %v, want %v", r.err, r.elapsed, want)
				}
			})
		})
	}
}

// TestStream_expected pins that Total is announced to the server, and MaxDuration is not.
func TestStream_expected(t *testing.T) {
	for want, stream := range map[string]Stream{"1000": {Idle: 100 * ms}, "": {MaxDuration: 100 * ms}} {
		synctest.Test(t, func(t *testing.T) {
			base := roundTripper(func(req *http.Request) (*http.Response, error) {
				if got := req.Header.Get("X-Envoy-Expected-Rq-Timeout-Ms"); got != want {
					t.Errorf("%+v: got %q, want %q", stream, got, want)
				}
				return server{}.RoundTrip(req)
			})
			call(t, upstream(t, stream, Config{Total: time.Second, ExpectedHeader: true}), base, get(t.Context()), 0)
		})
	}
}

func TestStream_check(t *testing.T) {
	tests := map[string]Stream{
		"": {},
		"MaxDuration: -2ns is negative; " + such + ", or 0 for no timeout": {MaxDuration: -2},
		"MaxDuration: 5ns is below":                                        {MaxDuration: 5},
		"Idle: 5ns is below":                                               {Idle: 5},
		"GRPCTimeoutMax: 5ns is below 1ms; did you forget the unit? W" + such[1:] + ", 0 to ignore the header, or timeout.Unlimited": {GRPCTimeoutMax: 5},
		"GRPCTimeoutOffset: -1ns is negative; write a duration such as 5*time.Millisecond, or 0 to subtract nothing":                 {GRPCTimeoutMax: time.Second, GRPCTimeoutOffset: -1},
		"GRPCTimeoutOffset: 1s has no":   {GRPCTimeoutOffset: time.Second},
		"stream timeout outside stream ": {MaxDuration: time.Second},
	}
	for want, s := range tests {
		policies := []policy.Policy{s}
		if strings.HasPrefix(want, "stream timeout") {
			policies = []policy.Policy{s, s}
		}
		_, err := pillion.New("recipes", policies...)
		if want == "" != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestStream_contract(t *testing.T) {
	policytest.Policy(t, func() policy.Policy { return Stream{MaxDuration: time.Minute, Idle: time.Minute} })
}

// TestAltResponse pins that the request header replaces the status 504 with 204, also in statistics,
// and that it is not forwarded.
func TestAltResponse(t *testing.T) {
	for _, cfg := range []Config{{Total: 100 * ms}, {PerTry: 100 * ms}, {Idle: 100 * ms}} {
		synctest.Test(t, func(t *testing.T) {
			registry, err := metrics.NewRegistry(metrics.Settings{})
			if err != nil {
				t.Fatal(err)
			}
			cfg.EnvoyHeaders = true
			u := upstream(t, pillion.Options{LocalReplies: true}, metrics.Config{Registry: registry}, cfg)
			req := get(t.Context())
			req.Header.Set("X-Envoy-Upstream-Rq-Timeout-Alt-Response", "1")
			resp, err := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
				if req.Header.Get("X-Envoy-Upstream-Rq-Timeout-Alt-Response") != "" {
					t.Error("the header was forwarded")
				}
				return server{head: never}.RoundTrip(req)
			})).RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != http.StatusNoContent || len(resp.Header) != 0 || resp.Body != http.NoBody {
				t.Errorf("got %d, %v, want an empty 204", resp.StatusCode, resp.Header)
			}
			w := httptest.NewRecorder()
			metrics.Handler(registry).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/stats", nil))
			if page := w.Body.String(); !strings.Contains(page, "recipes.upstream_rq_204: 1") || strings.Contains(page, "504") {
				t.Errorf("got %s, want a 204", page)
			}
		})
	}
}
