package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/internal/statstest"
	"github.com/pillion-go/pillion/pilliongrpc"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/policytest"
	"github.com/pillion-go/pillion/retry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// perMinute returns a bucket of n tokens that fills in a minute.
func perMinute(n int) TokenBucket {
	return TokenBucket{MaxTokens: n, TokensPerFill: n, FillInterval: time.Minute}
}

// call calls a function, and reports whether the call was admitted.
func call(t *testing.T, u *pillion.Upstream) bool {
	t.Helper()
	_, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 0, nil })
	if err != nil && !errors.Is(err, ErrLimited) {
		t.Fatalf("got %v, want none or ErrLimited", err)
	}
	return err == nil
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func get(ctx context.Context, u *pillion.Upstream, tenant string) (*http.Response, *pillion.Info, error) {
	ctx, info := pillion.WithInfo(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://recipes/1", nil)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("X-Tenant", tenant)
	resp, err := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: req}, nil
	})).RoundTrip(req)
	return resp, info, err
}

// TestConfig pins which calls are admitted, and the statistics.
func TestConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, registry := statstest.New(t, Config{TokenBucket: TokenBucket{MaxTokens: 2, FillInterval: time.Second}})
		for _, step := range []struct {
			after time.Duration
			want  bool
		}{{0, true}, {0, true}, {0, false}, {500 * time.Millisecond, false}, {500 * time.Millisecond, true}, {0, false}, {time.Hour, true}, {0, true}, {0, false}} {
			time.Sleep(step.after)
			if got := call(t, u); got != step.want {
				t.Errorf("after %v: got %v, want %v", step.after, got, step.want)
			}
		}
		got := statstest.Used(t, registry, "")
		want := map[string]int{
			"http_local_rate_limit.enabled": 9, "http_local_rate_limit.ok": 5, "http_local_rate_limit.rate_limited": 4, "http_local_rate_limit.enforced": 4,
			"internal.upstream_rq_200": 5, "internal.upstream_rq_2xx": 5, "internal.upstream_rq_completed": 5,
			"upstream_rq_200": 5, "upstream_rq_2xx": 5, "upstream_rq_completed": 5, "upstream_rq_total": 5,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("statistics: %s", diff)
		}
	})
}

// TestRefusal pins the local reply to an HTTP client, and that a refusal is not retried and is no
// failure for a breaker.
func TestRefusal(t *testing.T) {
	b, err := breaker.New(breaker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		config Config
		status int
	}{"default": {Config{}, 429}, "status": {Config{Status: 503}, 503}} {
		tc.config.TokenBucket = TokenBucket{MaxTokens: Zero, FillInterval: time.Minute}
		u, _ := statstest.New(t, pillion.Options{LocalReplies: true}, tc.config, retry.Config{On: "5xx,gateway-error"}, b)
		resp, info, err := get(t.Context(), u, "")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != tc.status || string(body) != "local_rate_limited" || resp.Header.Get("X-Envoy-Overloaded") != "" {
			t.Errorf("%s: got %d, %q and %v", name, resp.StatusCode, body, resp.Header)
		}
		if info.Flags() != envoy.RL || info.Detail().String() != "local_rate_limited" || info.Attempts() != 0 || !errors.Is(info.Err(), ErrLimited) {
			t.Errorf("%s: got %v, %v, %d attempts and %v", name, info.Flags(), info.Detail(), info.Attempts(), info.Err())
		}
	}
	if b.Status() != (breaker.Status{}) {
		t.Errorf("breaker: got %+v", b.Status())
	}
}

// TestRefusal_error pins the error that a client without local replies receives.
func TestRefusal_error(t *testing.T) {
	u, _ := statstest.New(t, Config{TokenBucket: TokenBucket{MaxTokens: Zero, FillInterval: time.Minute}})
	_, _, err := get(t.Context(), u, "")
	if limited, ok := errors.AsType[*Error](err); !ok || *limited != (Error{Upstream: "recipes"}) || err.Error() != "ratelimit: recipes: too many calls" {
		t.Errorf("got %v", err)
	}
}

// TestInsideRetry pins that inside retry each attempt takes a token, and that the error of a refused
// retry wraps the error of the previous attempt.
func TestInsideRetry(t *testing.T) {
	u, _ := statstest.New(t, retry.Config{On: "5xx", NumRetries: 5, BaseInterval: time.Millisecond}, Config{TokenBucket: perMinute(2)})
	broken, attempts := errors.New("broken"), 0
	_, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) {
		attempts++
		return 0, broken
	})
	if attempts != 2 || !errors.Is(err, ErrLimited) || !errors.Is(err, broken) {
		t.Errorf("got %d attempts and %v, want 2, and both errors", attempts, err)
	}
}

// TestShares pins that Enabled and Enforced select calls by random numbers.
func TestShares(t *testing.T) {
	next := uint64(0)
	random := func() uint64 { next++; return next % 2 * 99 } // 99, 0, 99, 0, ...
	half := envoy.Percent{Numerator: 50}
	empty := TokenBucket{MaxTokens: Zero, FillInterval: time.Minute}
	u, registry := statstest.New(t, Config{TokenBucket: empty, Enabled: half, Rand: random, StatPrefix: "a"}, Config{TokenBucket: empty, Enforced: envoy.Percent{Numerator: envoy.Never}, StatPrefix: "b"})
	refused := 0
	for range 10 {
		if !call(t, u) {
			refused++
		}
	}
	got := statstest.Used(t, registry, "")
	if refused != 5 || got["a.http_local_rate_limit.enabled"] != 5 || got["a.http_local_rate_limit.enforced"] != 5 {
		t.Errorf("got %d refused and %v, want half of 10", refused, got)
	}
	if got["b.http_local_rate_limit.enabled"] != 5 || got["b.http_local_rate_limit.rate_limited"] != 5 || got["b.http_local_rate_limit.enforced"] != 0 {
		t.Errorf("got %v, want 5 calls rate limited and none enforced", got)
	}
}

// TestNew pins that several upstreams take tokens from one bucket.
func TestNew(t *testing.T) {
	l, err := New(Config{TokenBucket: perMinute(3)})
	if err != nil {
		t.Fatal(err)
	}
	first, _ := statstest.New(t, l)
	second, _ := statstest.New(t, l)
	for i, u := range []*pillion.Upstream{first, second, first} {
		if !call(t, u) {
			t.Errorf("call %d was refused", i)
		}
	}
	if call(t, first) || call(t, second) {
		t.Error("a call after the third was admitted")
	}
}

func byTenant(_ context.Context, c *policy.Call) string { return c.RequestHeader("X-Tenant") }

// TestKeys pins that each key has a separate bucket, and that the error has the key.
func TestKeys(t *testing.T) {
	u, _ := statstest.New(t, Config{TokenBucket: perMinute(1), Key: byTenant})
	for _, tenant := range []string{"a", "b", ""} {
		if _, _, err := get(t.Context(), u, tenant); err != nil {
			t.Errorf("%q: got %v", tenant, err)
		}
		_, _, err := get(t.Context(), u, tenant)
		if limited, ok := errors.AsType[*Error](err); !ok || limited.Key != tenant {
			t.Errorf("%q: got %v, want an Error with the key", tenant, err)
		}
	}
}

// TestKeys_bounded pins that callers that invent keys can neither fill the memory with buckets, nor
// take more tokens.
func TestKeys_bounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := New(Config{TokenBucket: TokenBucket{MaxTokens: 1, FillInterval: time.Minute}, Key: byTenant, MaxKeys: 10})
		if err != nil {
			t.Fatal(err)
		}
		u, _ := statstest.New(t, l)
		admitted := 0
		for i := range 1000 {
			if _, _, err := get(t.Context(), u, strconv.Itoa(i)); err == nil {
				admitted++
			}
		}
		if admitted != 11 || len(l.keys.buckets) != 10 {
			t.Errorf("got %d calls and %d buckets, want 10 buckets, and 11 calls: one for each, and one for all other keys", admitted, len(l.keys.buckets))
		}
		time.Sleep(time.Minute)
		admitted = 0
		for i := range 1000 {
			if _, _, err := get(t.Context(), u, fmt.Sprint("later", i)); err == nil {
				admitted++
			}
		}
		if admitted < 10 || admitted > 11 || len(l.keys.buckets) > 10 {
			t.Errorf("a minute later: got %d calls and %d buckets", admitted, len(l.keys.buckets))
		}
	})
}

// TestKeys_concurrent pins that no key takes more than its tokens while buckets are made
// concurrently. It is also for the race detector.
func TestKeys_concurrent(t *testing.T) {
	k := newKeys(4)
	r := perMinute(5).rate()
	var mu sync.Mutex
	taken := map[string]int{}
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for i := range 400 {
				key := strconv.Itoa(i % 8)
				if ok, _ := k.take(key, r, time.Second); ok {
					mu.Lock()
					taken[key]++
					mu.Unlock()
				}
			}
		})
	}
	callers.Wait()
	if len(taken) > 4 || len(k.buckets) > 4 {
		t.Errorf("got %d keys with tokens, want at most 4", len(taken))
	}
	for key, n := range taken {
		if n != 5 {
			t.Errorf("key %s: got %d, want 5", key, n)
		}
	}
}

// TestHandler pins the response that the client of a server receives.
func TestHandler(t *testing.T) {
	u, _ := statstest.New(t, Config{TokenBucket: perMinute(1)})
	h, err := u.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{200, 429} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
		if w.Code != want || want == 429 && w.Body.String() != "local_rate_limited" {
			t.Errorf("got %d and %q, want %d", w.Code, w.Body, want)
		}
	}
}

// TestGRPC pins the status of a refusal on clients and servers.
func TestGRPC(t *testing.T) {
	for _, tc := range []struct {
		config Config
		want   codes.Code
	}{{Config{}, codes.Unavailable}, {Config{ResourceExhausted: true}, codes.ResourceExhausted}, {Config{Status: 403}, codes.PermissionDenied}} {
		tc.config.TokenBucket = TokenBucket{MaxTokens: Zero, FillInterval: time.Minute}
		for _, side := range []string{"client", "server"} {
			u, _ := statstest.New(t, tc.config)
			_, err := dial(t, u, side).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
			if got := status.Code(err); got != tc.want {
				t.Errorf("%s, %+v: got %v, want %v", side, tc.config, err, tc.want)
			}
		}
	}
}

// dial serves health checks and returns a client for them. side, client or server, is under the
// policies of u.
func dial(t *testing.T, u *pillion.Upstream, side string) grpc_health_v1.HealthClient {
	t.Helper()
	options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	var served []grpc.ServerOption
	if side == "client" {
		options = append(options, pilliongrpc.DialOptions(u)...)
	} else {
		var err error
		if served, err = pilliongrpc.ServerOptions(u); err != nil {
			t.Fatal(err)
		}
	}
	listener := bufconn.Listen(1 << 16)
	s := grpc.NewServer(served...)
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	go func() { _ = s.Serve(listener) }()
	options = append(options, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	conn, err := grpc.NewClient("passthrough:///recipes", options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		s.Stop()
	})
	return grpc_health_v1.NewHealthClient(conn)
}

func TestConfig_check(t *testing.T) {
	good := perMinute(1)
	tests := map[string]Config{
		"": {TokenBucket: good},
		"TokenBucket.MaxTokens: 0 is not a limit; write the largest burst of calls, or ratelimit.Zero to admit none": {TokenBucket: TokenBucket{FillInterval: time.Second}},
		"TokenBucket.FillInterval: 0s":   {TokenBucket: TokenBucket{MaxTokens: 1}},
		"TokenBucket.FillInterval: 49ms": {TokenBucket: TokenBucket{MaxTokens: 1, FillInterval: 49 * time.Millisecond}},
		"Enabled.Numerator: -7":          {TokenBucket: good, Enabled: envoy.Percent{Numerator: -7}},
		"Enforced.Denominator: 9":        {TokenBucket: good, Enforced: envoy.Percent{Numerator: 1, Denominator: 9}},
		"Status: 399 is not within 400 and 599; write a status such as 503, or 0 for 429": {TokenBucket: good, Status: 399},
		"Status: 600":                      {TokenBucket: good, Status: 600},
		"MaxKeys: 5 has no effect without": {TokenBucket: good, MaxKeys: 5},
		"TokenBucket.MaxTokens: -2 is negative; write the largest burst of calls, or ratelimit.Zero to admit none": {TokenBucket: TokenBucket{MaxTokens: -2, FillInterval: time.Second}},
		"TokenBucket.TokensPerFill: -1 is negative; write 1 or more, or 0 for 1":                                   {TokenBucket: TokenBucket{MaxTokens: 1, TokensPerFill: -1, FillInterval: time.Second}},
		"MaxKeys: -1 is negative; write 1 or more, or 0 for 1024":                                                  {TokenBucket: good, MaxKeys: -1, Key: byTenant},
	}
	for want, c := range tests {
		_, err := pillion.New("recipes", c)
		if want == "" != (err == nil) || err != nil && !strings.Contains(err.Error(), "ratelimit: Config."+want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// TestAllocations pins that neither an admitted nor a refused call allocates.
func TestAllocations(t *testing.T) {
	for name, tokens := range map[string]int{"admitted": 1_000_000, "refused": Zero} {
		l, err := New(Config{TokenBucket: TokenBucket{MaxTokens: tokens, FillInterval: time.Hour}})
		if err != nil {
			t.Fatal(err)
		}
		if got := testing.AllocsPerRun(100, func() { l.take("") }); got != 0 {
			t.Errorf("%s: got %v allocations, want none", name, got)
		}
	}
	k, r := newKeys(2), perMinute(10).rate()
	if got := testing.AllocsPerRun(100, func() { k.take("a", r, time.Second) }); got != 0 {
		t.Errorf("key: got %v allocations, want none", got)
	}
}

// TestContract checks the contract of policies.
func TestContract(t *testing.T) {
	policytest.Policy(t, func() policy.Policy { return Config{TokenBucket: perMinute(3)} })
}
