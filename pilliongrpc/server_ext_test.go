package pilliongrpc_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/pilliongrpc"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// serverOptions returns the options for a server under u's policies.
func serverOptions(t *testing.T, u *pillion.Upstream) []grpc.ServerOption {
	t.Helper()
	options, err := pilliongrpc.ServerOptions(u)
	if err != nil {
		t.Fatal(err)
	}
	return options
}

// bare is an upstream without policies, for clients.
func bare(t *testing.T) *pillion.Upstream {
	t.Helper()
	u, err := pillion.New("bare")
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestServerRefuses checks the errors for a nil resolver and for policies that retry.
func TestServerRefuses(t *testing.T) {
	u, err := pillion.New("front", retry.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []pillion.Resolver{nil, u, (*pillion.Upstream)(nil)} {
		if _, err = pilliongrpc.ServerOptions(r); err == nil {
			t.Errorf("%v: got no error, want one", r)
		}
		if _, err = pilliongrpc.StreamServerInterceptor(r); err == nil {
			t.Errorf("%v: got no error from StreamServer, want one", r)
		}
	}
	lazy := resolver(func(pillion.Target) (*pillion.Upstream, error) { return u, nil })
	options, err := pilliongrpc.ServerOptions(lazy)
	if err != nil {
		t.Fatal(err)
	}
	c := client(t, &service{}, bare(t), options...)
	for _, kind := range kinds {
		if err := kind.call(t.Context(), c); status.Code(err) != codes.Internal {
			t.Errorf("%s: got %v, want Internal", kind.name, err)
		}
	}
}

// TestServerSheds refuses served calls by a limit and by a breaker.
func TestServerSheds(t *testing.T) {
	open, err := breaker.New(breaker.Config{NonBreakCount: 1, Sleep: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	open.Record(breaker.Failure)
	for name, policy := range map[string]pillion.Policy{"limits": limits.Config{MaxRequests: limits.Zero}, "breaker": open} {
		for _, kind := range kinds {
			t.Run(name+"/"+kind.name, func(t *testing.T) {
				registry, _ := metrics.NewRegistry(metrics.Settings{})
				u, _ := upstream(t, metrics.Config{Registry: registry}, policy)
				s := &service{}
				var tail metadata.MD
				err := kind.call(t.Context(), client(t, s, bare(t), serverOptions(t, u)...), grpc.Trailer(&tail))
				if status.Code(err) != codes.Unavailable || s.n.Load() != 0 || len(tail.Get("x-envoy-overloaded")) != 1 {
					t.Errorf("got %v, trailers %v, want Unavailable with x-envoy-overloaded", err, tail)
				}
				if got := counted(registry, http.StatusServiceUnavailable); got != 1 {
					t.Errorf("upstream_rq_503: got %d, want 1", got)
				}
			})
		}
	}
}

// TestServerPanics checks that a panic results in Internal, that policies receive it, and that the
// server continues.
func TestServerPanics(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			b, err := breaker.New(breaker.Config{Threshold: breaker.Never})
			if err != nil {
				t.Fatal(err)
			}
			u, log := upstream(t, limits.Config{MaxRequests: 1}, b)
			c := client(t, &service{serve: func(_ context.Context, n int64, _ stream) error {
				if n == 1 {
					panic("secret")
				}
				return nil
			}}, bare(t), serverOptions(t, u)...)
			if err := kind.call(t.Context(), c); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v, want Internal without the panic's value", err)
			}
			var p *pillion.PanicError
			if end := <-log.ends; !errors.As(end.Err, &p) || p.Value != "secret" || !strings.Contains(string(p.Stack), "server_ext_test.go") {
				t.Errorf("got %v, want a PanicError with the stack of the handler", end.Err)
			}
			if err := kind.call(t.Context(), c); err != nil {
				t.Errorf("after that: %v", err)
			}
			<-log.ends
			if got := b.Status(); got.Failure != 1 || got.Success != 1 {
				t.Errorf("breaker: got %+v, want one of each", got)
			}
		})
	}
}

// TestServerDeadlines checks that the first deadline ends the handler's context.
func TestServerDeadlines(t *testing.T) {
	tests := []struct {
		name   string
		limits timeout.Config
		header string
		took   time.Duration
	}{
		{"total", timeout.Config{Total: 2 * time.Second}, "", 2 * time.Second},
		{"per try", timeout.Config{Total: time.Hour, PerTry: time.Second}, "", time.Second},
		{"what the client expects", timeout.Config{Total: time.Hour}, "500", 500 * time.Millisecond},
		{"no number", timeout.Config{Total: 2 * time.Second}, "soon", 2 * time.Second},
	}
	for _, test := range tests {
		for _, kind := range kinds {
			for _, honors := range []bool{true, false} {
				t.Run(test.name+"/"+kind.name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						u, log := upstream(t, test.limits, limits.Config{MaxRequests: 1})
						c := client(t, &service{serve: func(ctx context.Context, _ int64, _ stream) error {
							began := time.Now()
							<-ctx.Done()
							if took := time.Since(began); took != test.took {
								t.Errorf("the handler's context ended after %v, want %v", took, test.took)
							}
							if honors {
								return ctx.Err()
							}
							return nil
						}}, bare(t), serverOptions(t, u)...)
						ctx := t.Context()
						if test.header != "" {
							ctx = metadata.AppendToOutgoingContext(ctx, "x-envoy-expected-rq-timeout-ms", test.header)
						}
						err := kind.call(ctx, c)
						end := <-log.ends
						if honors && (status.Code(err) != codes.DeadlineExceeded || !end.Flags.Has(envoy.UT)) {
							t.Errorf("got %v, %v, want DeadlineExceeded, UT", err, end.Flags)
						}
					})
				})
			}
		}
	}
}

// TestServerStreamOutlivesTheTry continues for longer than the per-try timeout after the first
// message.
func TestServerStreamOutlivesTheTry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, log := upstream(t, timeout.Config{Total: timeout.Unlimited, PerTry: time.Second, Idle: time.Second})
		c := client(t, &service{serve: func(ctx context.Context, _ int64, s stream) error {
			if err := s.send(); err != nil {
				return err
			}
			time.Sleep(time.Hour)
			return ctx.Err()
		}}, bare(t), serverOptions(t, u)...)
		if err := kinds[1].call(t.Context(), c); err != nil {
			t.Errorf("got %v, want no timeout to have fired", err)
		}
		if end := <-log.ends; end.Err != nil {
			t.Errorf("got %v, want no error", end.Err)
		}
	})
}

// TestServerClientLeaves checks that a disconnect is no failure.
func TestServerClientLeaves(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			b, err := breaker.New(breaker.Config{Threshold: breaker.Never})
			if err != nil {
				t.Fatal(err)
			}
			u, log := upstream(t, b)
			there := make(chan struct{})
			c := client(t, &service{serve: func(ctx context.Context, _ int64, _ stream) error {
				close(there)
				<-ctx.Done()
				return errors.New("left alone")
			}}, bare(t), serverOptions(t, u)...)
			ctx, cancel := context.WithCancel(t.Context())
			go func() { <-there; cancel() }()
			if err := kind.call(ctx, c); status.Code(err) != codes.Canceled {
				t.Errorf("got %v, want Canceled", err)
			}
			if end := <-log.ends; end.Conditions != policy.Cancelled {
				t.Errorf("got %v, want Cancelled", end.Conditions)
			}
			if got := b.Status(); got != (breaker.Status{}) {
				t.Errorf("breaker: got %+v, want nothing", got)
			}
		})
	}
}
