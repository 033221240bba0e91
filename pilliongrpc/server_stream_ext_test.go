package pilliongrpc_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
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
	"github.com/pillion-go/pillion/timeout"
)

// TestServerLimitEndsStream fires a timeout while a handler waits for its client in RecvMsg or
// SendMsg, in one goroutine or two: the stream ends, its slot is freed, and the handler is woken.
func TestServerLimitEndsStream(t *testing.T) {
	receiving := func(_ context.Context, _ int64, s stream) error { return drain(s.recv) }
	sending := func(_ context.Context, _ int64, s stream) error {
		for {
			if err := s.send(); err != nil {
				return err
			}
		}
	}
	handlers := map[string]func(ctx context.Context, n int64, s stream) error{
		"receiving": receiving,
		"sending":   sending,
		"both": func(ctx context.Context, n int64, s stream) error {
			var other sync.WaitGroup
			other.Go(func() { _ = receiving(ctx, n, s) })
			defer other.Wait()
			return sending(ctx, n, s)
		},
		"receiving after a header": func(ctx context.Context, n int64, s stream) error {
			_ = s.head(nil)
			return receiving(ctx, n, s)
		},
	}
	ends := map[string]struct {
		limits timeout.Config
		header string
		before bool // the timeout ends with the header
		scope  policy.Scope
	}{
		"total":    {limits: timeout.Config{Total: time.Second}, scope: timeout.Total},
		"per try":  {limits: timeout.Config{Total: timeout.Unlimited, PerTry: time.Second}, before: true, scope: timeout.PerTry},
		"idle":     {limits: timeout.Config{Total: timeout.Unlimited, Idle: time.Second}, before: true, scope: timeout.Idle},
		"client's": {limits: timeout.Config{Total: time.Hour}, header: "1000", scope: timeout.Caller},
	}
	for name, handler := range handlers {
		for limit, end := range ends {
			if end.before && name != "receiving" {
				continue
			}
			t.Run(name+"/"+limit, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					u, log := upstream(t, end.limits, limits.Config{MaxRequests: 1})
					var woken atomic.Bool
					c := client(t, &service{serve: func(ctx context.Context, n int64, s stream) error {
						if n > 1 {
							return nil
						}
						defer woken.Store(true)
						return handler(ctx, n, s)
					}}, bare(t), serverOptions(t, u)...)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					if end.header != "" {
						ctx = metadata.AppendToOutgoingContext(ctx, "x-envoy-expected-rq-timeout-ms", end.header)
					}
					began := time.Now()
					s, err := c.FullDuplexCall(ctx)
					if err != nil {
						t.Fatal(err)
					}
					over := <-log.ends
					var fired *timeout.Error
					if took := time.Since(began); took != time.Second || !errors.As(over.Err, &fired) || fired.Scope != end.scope || !over.Has(policy.Cancelled) {
						t.Errorf("ended after %v with %v, %v, want %v after 1s, caused by the client", took, over.Conditions, over.Err, end.scope)
					}
					if err := kinds[0].call(t.Context(), c); err != nil {
						t.Errorf("the next call: got %v, want the slot free", err)
					}
					synctest.Wait()
					if !woken.Load() {
						t.Error("the handler still waits, want it woken")
					}
					if err := drain(func() error { _, err := s.Recv(); return err }); status.Code(err) != codes.DeadlineExceeded {
						t.Errorf("the client got %v, want DeadlineExceeded", err)
					}
				})
			})
		}
	}
}

// TestServerLimitWaits fires a timeout while a handler does something else: the server waits for it,
// it holds its slot, and its later use of the stream fails.
func TestServerLimitWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, log := upstream(t, timeout.Config{Total: time.Second}, limits.Config{MaxRequests: 1})
		c := client(t, &service{serve: func(ctx context.Context, n int64, s stream) error {
			if n > 1 {
				return nil
			}
			time.Sleep(time.Hour)
			if got := status.Code(s.send()); got != codes.DeadlineExceeded || ctx.Err() == nil {
				t.Errorf("send: got %v, want DeadlineExceeded", got)
			}
			if got := status.Code(s.recv()); got != codes.DeadlineExceeded {
				t.Errorf("receive: got %v, want DeadlineExceeded", got)
			}
			return nil
		}}, bare(t), serverOptions(t, u)...)
		began := time.Now()
		s, err := c.FullDuplexCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if err := kinds[0].call(t.Context(), c); status.Code(err) != codes.Unavailable {
			t.Errorf("the next call: got %v, want it refused while the handler runs", err)
		}
		<-log.ends
		if _, err := s.Recv(); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("the client got %v, want DeadlineExceeded", err)
		}
		if end := <-log.ends; time.Since(began) != time.Hour || end.Has(policy.Cancelled) || !end.Has(policy.Timeout) {
			t.Errorf("ended after %v with %v, want a timeout of the service after 1h", time.Since(began), end.Conditions)
		}
	})
}

// TestServerLeftHandlerPanics panics in a handler after a timeout ended its stream: the panic is
// reported and does not end the process.
func TestServerLeftHandlerPanics(t *testing.T) {
	reports := reported(t)
	synctest.Test(t, func(t *testing.T) {
		u, log := upstream(t, timeout.Config{Total: time.Second}, limits.Config{MaxRequests: 1})
		intercept, err := pilliongrpc.StreamServerInterceptor(u)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		err = intercept(nil, bareStream{ctx: ctx}, info, func(_ any, s grpc.ServerStream) error {
			panic(s.RecvMsg(nil))
		})
		<-log.ends
		if status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("got %v, want DeadlineExceeded", err)
		}
		cancel() // as gRPC's server does when the interceptor has returned
		synctest.Wait()
	})
	if got := reports(); strings.Count(got, "recovered") != 1 || !strings.Contains(got, "DeadlineExceeded") {
		t.Errorf("got log %q, want the panic in it once", got)
	}
}

// TestServerPanics_limited is TestServerPanics for handlers in a separate goroutine.
func TestServerPanics_limited(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			registry, _ := metrics.NewRegistry(metrics.Settings{})
			b, err := breaker.New(breaker.Config{Threshold: breaker.Never})
			if err != nil {
				t.Fatal(err)
			}
			u, log := upstream(t, metrics.Config{Registry: registry}, timeout.Config{}, limits.Config{MaxRequests: 1}, b)
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
			if end := <-log.ends; !errors.As(end.Err, &p) || p.Value != "secret" || !strings.Contains(string(p.Stack), "server_stream_ext_test.go") {
				t.Errorf("got %v, want a PanicError with the stack of the handler", end.Err)
			}
			if got := registry.Cluster("recipes").Gauge("upstream_rq_active").Value(); got != 0 {
				t.Errorf("upstream_rq_active: got %d, want 0", got)
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

// TestServerExit ends the goroutine of handlers, gRPC's or a separate one: slots and gauges are
// correct afterwards.
func TestServerExit(t *testing.T) {
	exit := func() error { runtime.Goexit(); return nil }
	for _, limit := range []timeout.Config{{Total: timeout.Unlimited}, {}} {
		for _, kind := range []string{"unary", "stream"} {
			t.Run(fmt.Sprint(kind, " ", limit.Total), func(t *testing.T) {
				registry, _ := metrics.NewRegistry(metrics.Settings{})
				u, log := upstream(t, metrics.Config{Registry: registry}, limit, limits.Config{MaxRequests: 1})
				unary, err := pilliongrpc.UnaryServerInterceptor(u)
				if err != nil {
					t.Fatal(err)
				}
				stream, err := pilliongrpc.StreamServerInterceptor(u)
				if err != nil {
					t.Fatal(err)
				}
				serve := func(handle func() error) error {
					if kind == "stream" {
						return stream(nil, bareStream{ctx: t.Context()}, info, func(any, grpc.ServerStream) error { return handle() })
					}
					_, got := unary(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/pkg.Svc/Method"}, func(context.Context, any) (any, error) { return nil, handle() })
					return got
				}
				got := make(chan error, 1)
				go func() {
					defer close(got)
					got <- serve(exit)
				}()
				err, returned := <-got
				if wantReturn := kind == "stream" && limit.Total == 0; returned != wantReturn || returned && status.Code(err) != codes.Internal {
					t.Errorf("got %v, returned %v, want %v", err, returned, wantReturn)
				}
				if end := <-log.ends; !end.Has(policy.Failed) {
					t.Errorf("got %v, want a failure", end.Conditions)
				}
				if got := registry.Cluster("recipes").Gauge("upstream_rq_active").Value(); got != 0 {
					t.Errorf("upstream_rq_active: got %d, want 0", got)
				}
				if err := serve(func() error { return nil }); err != nil {
					t.Errorf("after that: %v", err)
				}
			})
		}
	}
}

// TestServerLateHeader sends from goroutines of a handler on a stream that has ended. The storage of
// its call already serves another stream, whose timeouts must not change. The race detector reports
// a use of the call.
func TestServerLateHeader(t *testing.T) {
	u, log := upstream(t, timeout.Config{Total: timeout.Unlimited, PerTry: time.Minute})
	intercept, err := pilliongrpc.StreamServerInterceptor(u)
	if err != nil {
		t.Fatal(err)
	}
	var late sync.WaitGroup
	for i := range 2000 {
		err := intercept(nil, bareStream{ctx: t.Context()}, info, func(_ any, s grpc.ServerStream) error {
			late.Go(func() {
				if i%2 == 0 {
					_ = s.SendMsg(nil)
				} else {
					_ = s.SendHeader(nil)
				}
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		<-log.ends
	}
	late.Wait()
}

// perTry is a per-try timeout shorter than a timeout.Config accepts.
type perTry time.Duration

func (p perTry) Wrap(_ *policy.Builder, next policy.Func) (policy.Func, error) {
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		c.LimitPerTry(time.Duration(p))
		return next(ctx, c)
	}, nil
}

// TestServerHeaderRace sends response headers at the instant at which the per-try timeout fires: the
// reported reason of the end is correct, and a timeout that fired is not lost.
func TestServerHeaderRace(t *testing.T) {
	u, log := upstream(t, perTry(100*time.Microsecond), limits.Config{MaxRequests: 1})
	intercept, err := pilliongrpc.StreamServerInterceptor(u)
	if err != nil {
		t.Fatal(err)
	}
	for range 3000 {
		var fired bool
		err := intercept(nil, bareStream{ctx: t.Context()}, info, func(_ any, s grpc.ServerStream) error {
			for began := time.Now(); time.Since(began) < 100*time.Microsecond; {
				runtime.Gosched()
			}
			_ = s.SendHeader(nil)
			fired = s.Context().Err() != nil
			return s.Context().Err()
		})
		end := <-log.ends
		if fired != (end.Detail == envoy.PerTryTimeout) || fired != end.Flags.Has(envoy.UT) || fired != (status.Code(err) == codes.DeadlineExceeded) {
			t.Fatalf("got %v, %v, flags %v, want a timeout: %v", err, end.Detail, end.Flags, fired)
		}
	}
}

// TestServerStreamsUnderLoad ends many streams concurrently in every way, under a limit: no slot is
// lost.
func TestServerStreamsUnderLoad(t *testing.T) {
	left := gauges{}
	u, log := upstream(t, left, timeout.Config{Total: 5 * time.Millisecond}, limits.Config{MaxRequests: 100, TrackRemaining: true})
	c := client(t, &service{serve: func(ctx context.Context, n int64, s stream) error {
		switch n % 5 {
		case 0:
			panic("oops")
		case 1:
			return s.recv()
		case 2:
			<-ctx.Done()
			return ctx.Err()
		case 3:
			return drain(s.send)
		}
		return nil
	}}, bare(t), serverOptions(t, u)...)
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			for range 50 {
				ctx, cancel := context.WithCancel(t.Context())
				if s, err := c.FullDuplexCall(ctx); err == nil {
					_, _ = s.Recv()
				}
				cancel()
			}
		})
	}
	calls.Wait()
	for range 400 {
		wantEnd(t, log)
	}
	if got := left["circuit_breakers.default.remaining_rq"](); got != 100 {
		t.Errorf("got %d slots, want 100", got)
	}
}

// gauges is a policy that collects the gauges of the policies inside it.
type gauges map[string]func() uint64

// Wrap collects the gauges.
func (g gauges) Wrap(s *policy.Builder, next policy.Func) (policy.Func, error) {
	s.Stats(func(s policy.Stat) error {
		g[s.Name] = s.Read
		return nil
	})
	return next, nil
}

// TestNilServer omits arguments that gRPC's server always passes.
func TestNilServer(t *testing.T) {
	u := bare(t)
	unary, err := pilliongrpc.UnaryServerInterceptor(u)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := pilliongrpc.StreamServerInterceptor(u)
	if err != nil {
		t.Fatal(err)
	}
	ctx, named := t.Context(), &grpc.UnaryServerInfo{FullMethod: "/pkg.Svc/Method"}
	handle := func(context.Context, any) (any, error) { return nil, nil }
	serve := func(any, grpc.ServerStream) error { return nil }
	serveUnary := func(ctx context.Context, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) func() error {
		return func() error {
			_, got := unary(ctx, nil, info, handler)
			return got
		}
	}
	wantNil(t, []nilTest{
		{"unary: context", serveUnary(nil, named, handle), "nil context"},
		{"unary: info", serveUnary(ctx, nil, handle), "no method"},
		{"unary: handler", serveUnary(ctx, named, nil), "nil handler"},
		{"stream: stream", func() error { return stream(nil, nil, info, serve) }, "nil context"},
		{"stream: info", func() error { return stream(nil, bareStream{ctx: ctx}, nil, serve) }, "no method"},
		{"stream: handler", func() error { return stream(nil, bareStream{ctx: ctx}, info, nil) }, "nil handler"},
	})
}
