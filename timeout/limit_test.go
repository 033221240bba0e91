package timeout

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/internal/memhttp"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
)

// TestLimits checks which timeout fires, and when.
func TestLimits(t *testing.T) {
	silent := server{head: never}
	steady := func(n int, gap time.Duration) []time.Duration {
		gaps := make([]time.Duration, n)
		for i := range gaps {
			gaps[i] = gap
		}
		return gaps
	}
	for _, tc := range []struct {
		name    string
		cfg     Config
		caller  time.Duration // 0 for no deadline
		server  server
		pause   time.Duration // of the caller, before each read
		scope   policy.Scope  // 0 for a success
		limit   time.Duration
		elapsed time.Duration
		code    int
		read    int
	}{
		{name: "Total by default", server: silent, scope: Total, limit: 15 * time.Second, elapsed: 15 * time.Second},
		{name: "Total", cfg: Config{Total: 100 * ms}, server: silent, scope: Total, limit: 100 * ms, elapsed: 100 * ms},
		{name: "PerTry", cfg: Config{PerTry: 100 * ms}, server: silent, scope: PerTry, limit: 100 * ms, elapsed: 100 * ms},
		{name: "Idle", cfg: Config{Idle: 100 * ms}, server: silent, scope: Idle, limit: 100 * ms, elapsed: 100 * ms},
		{name: "deadline of the caller", caller: 100 * ms, server: silent, scope: Caller, elapsed: 100 * ms},
		{name: "in time", cfg: Config{Total: 100 * ms}, server: server{head: 99 * ms}, elapsed: 99 * ms, code: 200},
		{
			name: "no limit", cfg: Config{Total: Unlimited, PerTry: Unlimited, Idle: Unlimited},
			server: server{head: never, gaps: steady(2, never)}, elapsed: 3 * never, code: 200, read: 2,
		},
		{
			name: "shortest is Total", cfg: Config{Total: 100 * ms, PerTry: 200 * ms, Idle: 300 * ms}, caller: 400 * ms,
			server: silent, scope: Total, limit: 100 * ms, elapsed: 100 * ms,
		},
		{
			name: "shortest is PerTry", cfg: Config{Total: 200 * ms, PerTry: 100 * ms, Idle: 300 * ms}, caller: 400 * ms,
			server: silent, scope: PerTry, limit: 100 * ms, elapsed: 100 * ms,
		},
		{
			name: "shortest is Idle", cfg: Config{Total: 200 * ms, PerTry: 300 * ms, Idle: 100 * ms}, caller: 400 * ms,
			server: silent, scope: Idle, limit: 100 * ms, elapsed: 100 * ms,
		},
		{
			name: "shortest is the caller's", cfg: Config{Total: 200 * ms, PerTry: 300 * ms, Idle: 400 * ms}, caller: 100 * ms,
			server: silent, scope: Caller, elapsed: 100 * ms,
		},
		{
			name: "PerTry has no effect unless it is below Total", cfg: Config{Total: 100 * ms, PerTry: 100 * ms},
			server: silent, scope: Total, limit: 100 * ms, elapsed: 100 * ms,
		},
		{
			name: "PerTry ends at the headers", cfg: Config{Total: Unlimited, PerTry: 100 * ms},
			server: server{head: 99 * ms, gaps: steady(5, time.Second)}, elapsed: 5099 * ms, code: 200, read: 5,
		},
		{
			name: "Total covers the body", cfg: Config{Total: time.Second},
			server: server{head: 100 * ms, gaps: steady(10, 300*ms)},
			scope:  Total, limit: time.Second, elapsed: time.Second, code: 200, read: 3,
		},
		{
			name: "Total covers a slow caller", cfg: Config{Total: time.Second},
			server: server{gaps: steady(2, 0)}, pause: 600 * ms,
			scope: Total, limit: time.Second, elapsed: 1200 * ms, code: 200, read: 1,
		},
		{
			name: "deadline of the caller covers the body", caller: time.Second,
			server: server{head: 100 * ms, gaps: steady(10, 300*ms)}, scope: Caller, elapsed: time.Second, code: 200, read: 3,
		},
		{
			name: "Idle between reads", cfg: Config{Idle: 200 * ms},
			server: server{head: 150 * ms, gaps: []time.Duration{150 * ms, 150 * ms, never}},
			scope:  Idle, limit: 200 * ms, elapsed: 650 * ms, code: 200, read: 2,
		},
		{
			name: "Idle does not add up", cfg: Config{Idle: 200 * ms},
			server: server{head: 150 * ms, gaps: steady(20, 150*ms)}, elapsed: 3150 * ms, code: 200, read: 20,
		},
		{
			name: "Idle does not cover a slow caller", cfg: Config{Idle: 200 * ms},
			server: server{gaps: steady(3, 100*ms)}, pause: time.Second, elapsed: 4 * time.Second, code: 200, read: 3,
		},
		{
			name: "Idle starts with the read", cfg: Config{Idle: 200 * ms},
			server: server{gaps: []time.Duration{0, never}}, pause: time.Second,
			scope: Idle, limit: 200 * ms, elapsed: 2200 * ms, code: 200, read: 1,
		},
		{
			name: "Total before Idle in the body", cfg: Config{Total: time.Second, Idle: 400 * ms},
			server: server{head: 300 * ms, gaps: []time.Duration{350 * ms, never}},
			scope:  Total, limit: time.Second, elapsed: time.Second, code: 200, read: 1,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if tc.caller != 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tc.caller)
					defer cancel()
				}
				r := call(t, upstream(t, apart(tc.cfg)...), tc.server, get(ctx), tc.pause)
				if scope, limit := scopeOf(r.err); scope != tc.scope || limit != tc.limit || (scope == 0 && r.err != nil) {
					t.Errorf("got error %v, want timeout %v of %v", r.err, tc.scope, tc.limit)
				}
				if r.elapsed != tc.elapsed || r.code != tc.code || r.read != tc.read {
					t.Errorf("got %d and %d bytes after %v, want %d and %d after %v",
						r.code, r.read, r.elapsed, tc.code, tc.read, tc.elapsed)
				}
			})
		})
	}
}

// TestFlags checks Envoy's flags and details of each timeout, before the headers and in the body.
func TestFlags(t *testing.T) {
	head, body := server{head: never}, server{gaps: []time.Duration{never}}
	for _, tc := range []struct {
		name   string
		cfg    Config
		caller time.Duration
		server server
		detail *envoy.Detail
	}{
		{"total, headers", Config{Total: 10 * ms}, never, head, envoy.ResponseTimeout},
		{"total, body", Config{Total: 10 * ms}, never, body, envoy.ResponseTimeout},
		{"per try", Config{PerTry: 10 * ms}, never, head, envoy.PerTryTimeout},
		{"idle, headers", Config{Idle: 10 * ms}, never, head, envoy.PerTryIdleTimeout},
		{"idle, body", Config{Idle: 10 * ms}, never, body, envoy.PerTryIdleTimeout},
		{"caller, headers", Config{}, 10 * ms, head, envoy.ResponseTimeout},
		{"caller, body", Config{}, 10 * ms, body, envoy.ResponseTimeout},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), tc.caller)
				defer cancel()
				r := call(t, upstream(t, tc.cfg), tc.server, get(ctx), 0)
				if r.flags != envoy.UT || r.detail != tc.detail {
					t.Errorf("got %v %v, want UT %v", r.flags, r.detail, tc.detail)
				}
			})
		})
	}
}

// TestCallerLeaves cancels calls, which is no timeout.
func TestCallerLeaves(t *testing.T) {
	for name, s := range map[string]server{"before the headers": {head: never}, "in the body": {gaps: []time.Duration{never}}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(100*ms, cancel)
				r := call(t, upstream(t, apart(Config{Total: time.Second, PerTry: time.Second, Idle: time.Second})...), s, get(ctx), 0)
				if scope, _ := scopeOf(r.err); scope != 0 || !errors.Is(r.err, context.Canceled) || r.elapsed != 100*ms {
					t.Errorf("got %v after %v, want context.Canceled after 100ms", r.err, r.elapsed)
				}
				if r.flags != envoy.DC {
					t.Errorf("got flags %v, want DC", r.flags)
				}
			})
		})
	}
}

// TestRetries checks timeouts together with retries.
func TestRetries(t *testing.T) {
	silent := server{head: never}
	for _, tc := range []struct {
		name     string
		cfg      Config
		servers  []http.RoundTripper
		scope    policy.Scope
		elapsed  time.Duration
		attempts int
		code     int
	}{
		{
			name: "each attempt has the full PerTry", cfg: Config{Total: time.Minute, PerTry: 100 * ms}, servers: []http.RoundTripper{silent},
			scope: PerTry, elapsed: 340 * ms, attempts: 3,
		},
		{
			name: "each attempt has the full Idle", cfg: Config{Total: time.Minute, Idle: 100 * ms}, servers: []http.RoundTripper{silent},
			scope: Idle, elapsed: 340 * ms, attempts: 3,
		},
		{
			name: "last attempt in time", cfg: Config{Total: time.Minute, PerTry: 100 * ms},
			servers: []http.RoundTripper{silent, silent, server{head: 99 * ms}}, elapsed: 339 * ms, attempts: 3, code: 200,
		},
		{
			name: "Total fires in the third attempt", cfg: Config{Total: 300 * ms, PerTry: 100 * ms}, servers: []http.RoundTripper{silent},
			scope: Total, elapsed: 300 * ms, attempts: 3,
		},
		{
			name: "Total covers the back-off", cfg: Config{Total: 130 * ms},
			servers: []http.RoundTripper{server{status: 503, head: 50 * ms}, silent}, scope: Total, elapsed: 130 * ms, attempts: 2,
		},
		{
			name: "Total is not retried", cfg: Config{Total: 100 * ms}, servers: []http.RoundTripper{silent},
			scope: Total, elapsed: 100 * ms, attempts: 1,
		},
		{
			name: "Total does not fire in a back-off that is not started", cfg: Config{Total: 115 * ms},
			servers: []http.RoundTripper{server{status: 503, head: 100 * ms}}, elapsed: 100 * ms, attempts: 1, code: 503,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := upstream(t, tc.cfg, retry.Config{
					NumRetries: 2, BaseInterval: 40 * ms, MaxInterval: 40 * ms, Rand: func() float64 { return 0.5 },
				})
				r := call(t, u, each(tc.servers...), get(t.Context()), 0)
				if scope, _ := scopeOf(r.err); scope != tc.scope || r.elapsed != tc.elapsed || r.attempts != tc.attempts || r.code != tc.code {
					t.Errorf("got %d and %v after %d attempts and %v, want %d and scope %v after %d and %v",
						r.code, r.err, r.attempts, r.elapsed, tc.code, tc.scope, tc.attempts, tc.elapsed)
				}
			})
		})
	}
}

// TestOverHTTP checks the timeouts with a real client and a real server.
func TestOverHTTP(t *testing.T) {
	for _, tc := range []struct {
		name    string
		cfg     Config
		scope   policy.Scope
		elapsed time.Duration
		read    int
	}{
		{"slow body, PerTry", Config{PerTry: 100 * ms}, 0, 5 * time.Second, 5},
		{"slow body, Total", Config{Total: 2500 * ms}, Total, 2500 * ms, 2},
		{"slow body, Idle", Config{Idle: 900 * ms}, Idle, 900 * ms, 0},
		{"slow body, Idle that is long enough", Config{Idle: 1100 * ms}, 0, 5 * time.Second, 5},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := memhttp.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					flush := http.NewResponseController(w).Flush
					for _ = flush(); wait(r.Context(), time.Second) == nil; _ = flush() {
						_, _ = w.Write([]byte("x"))
					}
				}))
				defer s.Close()
				began := time.Now()
				resp, err := (&http.Client{Transport: upstream(t, tc.cfg).Transport(s)}).Do(get(t.Context()))
				if err != nil {
					t.Fatal(err)
				}
				read, err := drain(io.LimitReader(resp.Body, 5), 0)
				if scope, _ := scopeOf(err); scope != tc.scope || read != tc.read || time.Since(began) != tc.elapsed {
					t.Errorf("got %d bytes and %v after %v, want %d and scope %v after %v",
						read, err, time.Since(began), tc.read, tc.scope, tc.elapsed)
				}
				resp.Body.Close()
			})
		})
	}
}
