package pilliongrpc_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/timeout"
)

// TestHeaderEndsTheTry sends response headers in time and the rest later. The per-try timeout has
// ended; the idle and total timeouts continue. None of them causes a retry, because the server has
// processed the call.
func TestHeaderEndsTheTry(t *testing.T) {
	tests := []struct {
		name   string
		limits timeout.Config
		head   time.Duration // when the headers arrive
		rest   time.Duration // when the rest arrives
		took   time.Duration
		detail *envoy.Detail // of a timeout; via_upstream for none
		scope  policy.Scope
	}{
		{"later than the per-try timeout", timeout.Config{Total: timeout.Unlimited, PerTry: time.Second}, 500 * time.Millisecond, time.Hour, time.Hour, envoy.ViaUpstream, 0},
		{"headers just in time", timeout.Config{Total: timeout.Unlimited, PerTry: time.Second}, 999 * time.Millisecond, 2 * time.Second, 2 * time.Second, envoy.ViaUpstream, 0},
		{"silence after the headers", timeout.Config{Total: timeout.Unlimited, PerTry: time.Second, Idle: 2 * time.Second}, 500 * time.Millisecond, time.Hour, 2500 * time.Millisecond, envoy.PerTryIdleTimeout, timeout.Idle},
		{"shorter silence", timeout.Config{Total: timeout.Unlimited, Idle: 2 * time.Second}, 1500 * time.Millisecond, 3 * time.Second, 3 * time.Second, envoy.ViaUpstream, 0},
		{"the total timeout after the headers", timeout.Config{Total: 3 * time.Second, PerTry: time.Second, Idle: 2900 * time.Millisecond}, 500 * time.Millisecond, time.Hour, 3 * time.Second, envoy.ResponseTimeout, timeout.Total},
	}
	for _, test := range tests {
		for _, kind := range kinds {
			t.Run(test.name+"/"+kind.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b, err := breaker.New(breaker.Config{Threshold: breaker.Never})
					if err != nil {
						t.Fatal(err)
					}
					registry, _ := metrics.NewRegistry(metrics.Settings{})
					u, log := upstream(t, metrics.Config{Registry: registry}, test.limits, again("5xx,reset,unavailable,deadline-exceeded,cancelled,internal", 2), limits.Config{MaxRequests: 1}, b)
					c := client(t, &service{serve: func(ctx context.Context, n int64, s stream) error {
						if n > 1 {
							return nil
						}
						time.Sleep(test.head)
						_ = s.head(metadata.Pairs("x-head", "1"))
						select {
						case <-time.After(test.rest - test.head):
							return nil
						case <-ctx.Done():
							return ctx.Err()
						}
					}}, u)
					began := time.Now()
					err = kind.call(t.Context(), c)
					end := <-log.ends
					if took := time.Since(began); took != test.took || log.count(policy.EventAttempt) != 1 {
						t.Errorf("took %v and %d attempts, want %v and 1", took, log.count(policy.EventAttempt), test.took)
					}
					if end.Detail != test.detail || (err == nil) != (test.scope == 0) {
						t.Errorf("got %v, %v, want %v", err, end.Detail, test.detail)
					}
					var limit *timeout.Error
					if test.scope != 0 && (status.Code(err) != codes.DeadlineExceeded || !errors.As(err, &limit) || limit.Scope != test.scope || !end.Flags.Has(envoy.UT)) {
						t.Errorf("got %v, flags %v, want DeadlineExceeded by %v, UT", err, end.Flags, test.scope)
					}
					if got := registry.Cluster("recipes").Counter("upstream_rq_per_try_timeout").Value(); got != 0 {
						t.Errorf("upstream_rq_per_try_timeout: got %d, want 0", got)
					}
					if got := counted(registry, 200); got != 1 {
						t.Errorf("upstream_rq_200: got %d, want 1, because there were response headers", got)
					}
					if err := kind.call(t.Context(), c); err != nil {
						t.Errorf("after that: got %v, want its slot back", err)
					}
					if got := b.Status(); (got.Timeout == 1) != (test.scope != 0) || got.Failure != 0 {
						t.Errorf("breaker: got %+v", got)
					}
				})
			})
		}
	}
}

// TestHeaderRace sends response headers at the instant at which the per-try timeout fires: the call
// is retried or not, and the result is consistent.
func TestHeaderRace(t *testing.T) {
	u, log := upstream(t, timeout.Config{Total: timeout.Unlimited, PerTry: time.Millisecond}, again("reset", 1), limits.Config{MaxRequests: 1})
	c := client(t, &service{serve: func(ctx context.Context, _ int64, s stream) error {
		time.Sleep(time.Millisecond)
		_ = s.head(nil)
		time.Sleep(time.Millisecond)
		return ctx.Err()
	}}, u)
	for i := range 300 {
		err := kinds[i%len(kinds)].call(t.Context(), c)
		end := <-log.ends
		if fired := end.Detail == envoy.PerTryTimeout; fired != (status.Code(err) == codes.DeadlineExceeded) || (err == nil) != (end.Detail == envoy.ViaUpstream) {
			t.Fatalf("got %v, %v, flags %v", err, end.Detail, end.Flags)
		}
	}
}
