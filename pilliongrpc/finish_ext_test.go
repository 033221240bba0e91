package pilliongrpc_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/pilliongrpc"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/timeout"
)

// finishes records the calls of an OnFinish function.
type finishes struct {
	n    atomic.Int64
	errs chan error
}

func newFinishes() *finishes { return &finishes{errs: make(chan error, 100)} }

func (f *finishes) option() grpc.CallOption {
	return grpc.OnFinish(func(err error) {
		f.n.Add(1)
		f.errs <- err
	})
}

// once checks that there was exactly one call, with the code.
func (f *finishes) once(t *testing.T, code codes.Code) {
	t.Helper()
	synctest.Wait()
	if f.n.Load() != 1 {
		t.Fatalf("got %d calls of OnFinish, want 1", f.n.Load())
	}
	if err := <-f.errs; status.Code(err) != code {
		t.Errorf("OnFinish: got %v, want %v", err, code)
	}
}

// openings holds chains of policies with which a stream is opened in the caller's goroutine, and
// chains with which it waits for the response headers.
func openings() map[string][]pillion.Policy {
	return map[string][]pillion.Policy{
		"no policy":        nil,
		"a limit":          {limits.Config{MaxRequests: 1}},
		"waiting":          {again("unavailable", 1)},
		"waiting, a limit": {again("unavailable", 1), limits.Config{MaxRequests: 1}},
	}
}

// silent sends response headers and nothing else.
func silent(ctx context.Context, _ int64, s stream) error {
	_ = s.head(metadata.Pairs("x-head", "1"))
	<-ctx.Done()
	return ctx.Err()
}

// TestOnFinish_abandoned ends streams while the caller is not inside them: by their context, a
// timeout or their connection. OnFinish is called once; before it the targets are written and the
// slot is freed.
func TestOnFinish_abandoned(t *testing.T) {
	tests := []struct {
		name   string
		limits timeout.Config
		end    func(cancel context.CancelFunc, conn *grpc.ClientConn)
		code   codes.Code
	}{
		{"canceled", timeout.Config{Total: timeout.Unlimited}, func(cancel context.CancelFunc, _ *grpc.ClientConn) { cancel() }, codes.Canceled},
		{"the caller's deadline", timeout.Config{Total: timeout.Unlimited}, func(context.CancelFunc, *grpc.ClientConn) { time.Sleep(time.Hour) }, codes.DeadlineExceeded},
		{"the total timeout", timeout.Config{Total: time.Second}, func(context.CancelFunc, *grpc.ClientConn) { time.Sleep(time.Second) }, codes.DeadlineExceeded},
		{"the connection is closed", timeout.Config{Total: timeout.Unlimited}, func(_ context.CancelFunc, conn *grpc.ClientConn) { _ = conn.Close() }, codes.Canceled},
	}
	for _, test := range tests {
		for name, policies := range openings() {
			t.Run(test.name+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					u, err := pillion.New("recipes", append([]pillion.Policy{test.limits}, policies...)...)
					if err != nil {
						t.Fatal(err)
					}
					conn := connect(t, &service{serve: silent}, pilliongrpc.DialOptions(u))
					c := testgrpc.NewTestServiceClient(conn)
					ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
					defer cancel()
					f := newFinishes()
					var head metadata.MD
					var at peer.Peer
					next := grpc.OnFinish(func(error) {
						if got := nextStream(t.Context(), c); errors.Is(got, limits.ErrFull) {
							t.Errorf("a stream that OnFinish opens: got %v, want the slot free", got)
						}
					})
					s, err := c.FullDuplexCall(ctx, f.option(), next, grpc.Header(&head), grpc.Peer(&at))
					if err != nil {
						t.Fatal(err)
					}
					if _, err := s.Header(); err != nil {
						t.Fatal(err)
					}
					test.end(cancel, conn)
					f.once(t, test.code)
					if len(head.Get("x-head")) != 1 || at.Addr == nil {
						t.Errorf("targets: got header %v, peer %v", head, at)
					}
					if _, err := s.Recv(); status.Code(err) != test.code {
						t.Errorf("Recv after that: got %v, want %v", err, test.code)
					}
					if n := f.n.Load(); n != 1 {
						t.Errorf("got %d calls of OnFinish, want 1", n)
					}
				})
			})
		}
	}
}

// nextStream opens a stream and ends it.
func nextStream(ctx context.Context, c testgrpc.TestServiceClient) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := c.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	cancel()
	_, err = s.Recv()
	return err
}

// TestOnFinish_noStream makes calls without a stream, and calls whose end the caller reads.
func TestOnFinish_noStream(t *testing.T) {
	open, err := breaker.New(breaker.Config{NonBreakCount: 1, Sleep: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	open.Record(breaker.Failure)
	tests := []struct {
		name     string
		policies []pillion.Policy
		serve    func(context.Context, int64, stream) error
		resolver resolver
		code     codes.Code
		panics   bool
	}{
		{name: "status OK", serve: func(context.Context, int64, stream) error { return nil }},
		{name: "an error", serve: func(context.Context, int64, stream) error { return errUnavailable }, code: codes.Unavailable},
		{name: "an error after a header", serve: func(_ context.Context, _ int64, s stream) error {
			_ = s.head(nil)
			return errUnavailable
		}, code: codes.Unavailable},
		{name: "refused by a limit", policies: []pillion.Policy{limits.Config{MaxRequests: limits.Zero}}, code: codes.Unavailable},
		{name: "refused by a breaker", policies: []pillion.Policy{open}, code: codes.Unavailable},
		{name: "no route", resolver: func(pillion.Target) (*pillion.Upstream, error) { return nil, errors.New("no route") }, code: codes.Unavailable},
		{name: "a resolver that panics", resolver: func(pillion.Target) (*pillion.Upstream, error) { panic("oops") }, code: codes.Internal, panics: true},
		{name: "a policy that panics", policies: []pillion.Policy{thrower{"oops"}}, code: codes.Internal, panics: true},
		{name: "no response", serve: func(ctx context.Context, _ int64, _ stream) error {
			<-ctx.Done()
			return ctx.Err()
		}, policies: []pillion.Policy{timeout.Config{Total: time.Second}}, code: codes.DeadlineExceeded},
	}
	for _, test := range tests {
		for _, waits := range []bool{false, true} {
			for _, kind := range kinds {
				t.Run(fmt.Sprint(test.name, "/", waits, "/", kind.name), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						policies := test.policies
						if waits {
							policies = append(slices.Clip(policies), again("internal", 1), pillion.AnyOrder{})
						}
						u, err := pillion.New("recipes", policies...)
						if err != nil {
							t.Fatal(err)
						}
						var r pillion.Resolver = u
						if test.resolver != nil {
							r = test.resolver
						}
						c := client(t, &service{serve: test.serve}, r)
						f := newFinishes()
						err = panicking(func() error { return kind.call(t.Context(), c, f.option()) })
						if status.Code(err) != test.code && !test.panics {
							t.Errorf("got %v, want %v", err, test.code)
						}
						if _, ok := errors.AsType[*thrown](err); ok != test.panics {
							t.Errorf("got %v, want a panic: %v", err, test.panics)
						}
						f.once(t, test.code)
					})
				})
			}
		}
	}
}

// reported redirects the default logger, and returns a function that returns the output.
func reported(t *testing.T) func() string {
	t.Helper()
	var mu sync.Mutex
	var b strings.Builder
	before := slog.Default()
	t.Cleanup(func() { slog.SetDefault(before) })
	slog.SetDefault(slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return b.Write(p)
	}), nil)))
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return b.String()
	}
}

type writer func(p []byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// thrower is a policy that panics.
type thrower struct{ value any }

// Wrap panics in every call.
func (p thrower) Wrap(*policy.Builder, policy.Func) (policy.Func, error) {
	return func(context.Context, *policy.Call) *policy.Outcome { panic(p.value) }, nil
}

// thrown is a panic as an error.
type thrown struct{ value any }

func (p *thrown) Error() string { return fmt.Sprint("panic: ", p.value) }

// panicking calls f and returns its panic as an error.
func panicking(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &thrown{p}
		}
	}()
	return f()
}

// TestOnFinish_panics panics in OnFinish functions: in the caller's goroutine the panic reaches the
// caller, in another one it does not end the process. In both cases the call has ended.
func TestOnFinish_panics(t *testing.T) {
	for name, policies := range openings() {
		t.Run(name, func(t *testing.T) {
			reports := reported(t)
			synctest.Test(t, func(t *testing.T) {
				u, err := pillion.New("recipes", policies...)
				if err != nil {
					t.Fatal(err)
				}
				c := client(t, &service{serve: func(ctx context.Context, n int64, s stream) error {
					if n == 1 {
						return silent(ctx, n, s)
					}
					return s.head(nil)
				}}, u)
				oops := grpc.OnFinish(func(error) { panic("oops") })
				ctx, cancel := context.WithCancel(t.Context())
				s, err := c.FullDuplexCall(ctx, oops)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = s.Header()
				cancel()
				synctest.Wait() // gRPC's goroutine has called it
				if got := reports(); !strings.Contains(got, "oops") || strings.Count(got, "recovered") != 1 {
					t.Errorf("got log %q, want the panic in it once", got)
				}
				s, err = c.FullDuplexCall(t.Context(), oops)
				if err != nil {
					t.Fatalf("after that: got %v, want a slot", err)
				}
				err = panicking(func() error { return drain(func() error { _, got := s.Recv(); return got }) })
				if _, ok := errors.AsType[*thrown](err); !ok {
					t.Errorf("got %v, want the panic", err)
				}
				if err := kinds[3].call(t.Context(), c); err != nil {
					t.Errorf("afterwards: got %v, want a slot", err)
				}
			})
		})
	}
}

// exiter is a policy that ends its goroutine.
type exiter struct{}

// Wrap ends the goroutine of every call.
func (exiter) Wrap(*policy.Builder, policy.Func) (policy.Func, error) {
	return func(context.Context, *policy.Call) *policy.Outcome {
		runtime.Goexit()
		return nil
	}, nil
}

// TestOnFinish_exit ends the goroutine of a stream's policies in a policy: the caller does not wait
// forever.
func TestOnFinish_exit(t *testing.T) {
	for _, kind := range kinds[1:] {
		t.Run(kind.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u, err := pillion.New("recipes", limits.Config{MaxRequests: 1}, exiter{}, again("internal", 1), pillion.AnyOrder{})
				if err != nil {
					t.Fatal(err)
				}
				c := client(t, &service{}, u)
				for range 2 { // the slot is freed
					f := newFinishes()
					if err := kind.call(t.Context(), c, f.option()); status.Code(err) != codes.Internal || errors.Is(err, limits.ErrFull) {
						t.Errorf("got %v, want Internal", err)
					}
					f.once(t, codes.Internal)
				}
			})
		})
	}
}
