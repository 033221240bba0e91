package pilliongrpc_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
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
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/pilliongrpc"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/timeout"
)

// TestRefused refuses every kind of call by a limit and by a breaker.
func TestRefused(t *testing.T) {
	open, err := breaker.New(breaker.Config{NonBreakCount: 1, Sleep: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	open.Record(breaker.Failure)
	tests := []struct {
		name   string
		policy pillion.Policy
		want   error
	}{{"limits", limits.Config{MaxRequests: limits.Zero}, limits.ErrFull}, {"breaker", open, breaker.ErrOpen}}
	for _, test := range tests {
		for _, kind := range kinds {
			for _, waits := range []bool{false, true} {
				t.Run(fmt.Sprint(test.name, "/", kind.name, "/", waits), func(t *testing.T) {
					policies := []pillion.Policy{test.policy}
					if waits { // a stream then runs the policies in a goroutine
						policies = append([]pillion.Policy{again("unavailable,reset", 2)}, policies...)
					}
					u, log := upstream(t, policies...)
					s := &service{}
					err := kind.call(t.Context(), client(t, s, u))
					if !errors.Is(err, test.want) || status.Code(err) != codes.Unavailable || s.n.Load() != 0 || log.count(policy.EventRefused) != 1 {
						t.Errorf("got %v after %d calls and %d refusals, want %v as Unavailable", err, s.n.Load(), log.count(policy.EventRefused), test.want)
					}
					wantFlags(t, err, envoy.UO)
				})
			}
		}
	}
}

// TestTime checks timeouts for every kind of call to a server that does not respond.
func TestTime(t *testing.T) {
	tests := []struct {
		name     string
		limits   timeout.Config
		caller   time.Duration
		code     codes.Code
		scope    policy.Scope
		took     time.Duration
		attempts int
	}{
		{"per try", timeout.Config{Total: timeout.Unlimited, PerTry: time.Second}, 0, codes.DeadlineExceeded, timeout.PerTry, 3 * time.Second, 3},
		{"total", timeout.Config{Total: 1500 * time.Millisecond, PerTry: time.Second}, 0, codes.DeadlineExceeded, timeout.Total, 1500 * time.Millisecond, 2},
		{"idle", timeout.Config{Total: timeout.Unlimited, Idle: time.Second}, 0, codes.DeadlineExceeded, timeout.Idle, 3 * time.Second, 3},
		{"the caller's deadline", timeout.Config{Total: time.Minute}, 2 * time.Second, codes.DeadlineExceeded, timeout.Caller, 2 * time.Second, 1},
	}
	for _, test := range tests {
		for _, kind := range kinds {
			t.Run(test.name+"/"+kind.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					u, log := upstream(t, test.limits, again("reset", 2), limits.Config{MaxRequests: 1})
					c := client(t, &service{serve: func(ctx context.Context, _ int64, _ stream) error {
						<-ctx.Done()
						return ctx.Err()
					}}, u)
					ctx, info := pillion.WithInfo(t.Context())
					if test.caller != 0 {
						limited, cancel := context.WithTimeout(ctx, test.caller)
						defer cancel()
						ctx = limited
					}
					began := time.Now()
					err := kind.call(ctx, c)
					if took := time.Since(began); took != test.took {
						t.Errorf("took %v, want %v", took, test.took)
					}
					var limit *timeout.Error
					if status.Code(err) != test.code || !errors.As(err, &limit) || limit.Scope != test.scope || !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("got %v, want %v by %v", err, test.code, test.scope)
					}
					<-log.ends
					if info.Attempts() != test.attempts || !info.Flags().Has(envoy.UT) {
						t.Errorf("got %d attempts, %v, want %d, UT", info.Attempts(), info.Flags(), test.attempts)
					}
					wantFlags(t, err, envoy.UT)
				})
			})
		}
	}
}

// TestUploadOutlivesTheTry sends for longer than the per-try timeout, which starts when the sending
// ends.
func TestUploadOutlivesTheTry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, log := upstream(t, timeout.Config{Total: timeout.Unlimited, PerTry: time.Second}, again("reset", 2), limits.Config{MaxRequests: 1})
		c := client(t, &service{serve: func(_ context.Context, _ int64, s stream) error {
			return drain(s.recv)
		}}, u)
		s, err := c.StreamingInputCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			time.Sleep(time.Minute)
			if err := s.Send(&testgrpc.StreamingInputCallRequest{}); err != nil {
				t.Error(err)
			}
		}
		if _, err := s.CloseAndRecv(); err != nil {
			t.Errorf("got %v, want no timeout to have fired", err)
		}
		if end := <-log.ends; end.Err != nil || log.count(policy.EventAttempt) != 1 {
			t.Errorf("got %v after %d attempts, want none after 1", end.Err, log.count(policy.EventAttempt))
		}
	})
}

// TestDeadline checks the deadlines sent to the server: grpc-timeout is the remaining time of the
// total timeout, since the per-try timeout ends with the response headers;
// x-envoy-expected-rq-timeout-ms is the shorter of both, as in Envoy.
func TestDeadline(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u, _ := upstream(t, timeout.Config{Total: 10 * time.Second, PerTry: 4 * time.Second, ExpectedHeader: true}, again("unavailable", 3))
				c := client(t, &service{serve: func(ctx context.Context, n int64, _ stream) error {
					until, ok := ctx.Deadline()
					want := 10*time.Second - time.Duration(n-1)*3*time.Second
					if left := time.Until(until); !ok || left > want || left < want-time.Millisecond {
						t.Errorf("attempt %d:  got a deadline in %v, want %v", n, left, want)
					}
					md, _ := metadata.FromIncomingContext(ctx)
					if got, want := md.Get("x-envoy-expected-rq-timeout-ms"), map[int64]string{1: "4000", 2: "4000", 3: "4000", 4: "1000"}[n]; len(got) != 1 || got[0] != want {
						t.Errorf("attempt %d:  x-envoy-expected-rq-timeout-ms: got %v, want %v", n, got, want)
					}
					if n == 4 {
						return nil
					}
					time.Sleep(3 * time.Second)
					return errUnavailable
				}}, u)
				if err := kind.call(t.Context(), c); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestTargets checks that the caller's targets have the metadata of the attempt whose response the
// caller received, and nothing else.
func TestTargets(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			u, _ := upstream(t, again("unavailable", 2), limits.Config{})
			c := client(t, &service{serve: func(_ context.Context, n int64, s stream) error {
				if n == 1 {
					s.tail(metadata.Pairs("first", "1"))
					return errUnavailable
				}
				s.tail(metadata.Pairs("second-tail", "1"))
				return s.head(metadata.Pairs("second", "1"))
			}}, u)
			var head, tail metadata.MD
			var at peer.Peer
			var finished []error
			err := kind.call(t.Context(), c, grpc.Header(&head), grpc.Trailer(&tail), grpc.Peer(&at), grpc.OnFinish(func(err error) { finished = append(finished, err) }))
			if err != nil || len(head.Get("second")) != 1 || len(head.Get("first")) != 0 || len(tail.Get("second-tail")) != 1 || len(tail.Get("first")) != 0 || at.Addr == nil {
				t.Errorf("got %v, header %v, trailer %v, peer %v, want those of the second attempt", err, head, tail, at)
			}
			if len(finished) != 1 || finished[0] != nil {
				t.Errorf("OnFinish: got %v, want to be called once with nil", finished)
			}
		})
	}
}

// hedge runs two attempts concurrently, and returns the response of the second.
type hedge struct{ discarded *sync.WaitGroup }

func (hedge) Place() policy.Place { return policy.Place{Rank: policy.Hedges} }

func (h hedge) Wrap(_ *policy.Builder, next policy.Func) (policy.Func, error) {
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		second := c.Next()
		h.discarded.Go(func() { next(ctx, c).Discard() })
		return next(ctx, second)
	}, nil
}

// TestHedge runs concurrent attempts, each with a separate reply and targets: the race detector
// reports shared ones. A stream has one attempt at a time.
func TestHedge(t *testing.T) {
	var discarded sync.WaitGroup
	u, _ := upstream(t, hedge{&discarded}, limits.Config{})
	c := client(t, &service{serve: func(_ context.Context, n int64, s stream) error {
		return s.head(metadata.Pairs("n", strconv.FormatInt(n, 10)))
	}}, u)
	for range 100 {
		var head, tail metadata.MD
		var at peer.Peer
		got, err := c.UnaryCall(t.Context(), &testgrpc.SimpleRequest{}, grpc.Header(&head), grpc.Trailer(&tail), grpc.Peer(&at))
		if err != nil || got.GetUsername() != "me" || len(head.Get("n")) != 1 {
			t.Fatalf("got %v, %v, header %v", got, err, head)
		}
	}
	discarded.Wait()
	if err := kinds[3].call(t.Context(), c); err == nil {
		t.Error("got no error for a hedged stream, want one")
	}
	discarded.Wait()
}

// TestAbandoned cancels 1,000 streams: all ends are reported, all slots are freed, and no goroutine
// is left.
func TestAbandoned(t *testing.T) {
	const n = 1000
	for _, waits := range []bool{false, true} {
		t.Run(fmt.Sprint("retried ", waits), func(t *testing.T) {
			policies := []pillion.Policy{limits.Config{MaxRequests: n}}
			if waits {
				policies = append([]pillion.Policy{again("unavailable", 1)}, policies...)
			}
			u, log := upstream(t, policies...)
			c := client(t, &service{serve: func(ctx context.Context, _ int64, s stream) error {
				_ = s.head(nil)
				<-ctx.Done()
				return ctx.Err()
			}}, u)
			ctx, cancel := context.WithCancel(t.Context())
			for range n {
				s, err := c.FullDuplexCall(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.Header(); err != nil {
					t.Fatal(err)
				}
			}
			if err := kinds[0].call(t.Context(), c); !errors.Is(err, limits.ErrFull) {
				t.Errorf("one more: got %v, want ErrFull", err)
			}
			<-log.ends
			cancel()
			for range n {
				if end := <-log.ends; end.Conditions != policy.Cancelled || end.Flags != envoy.DC {
					t.Fatalf("got %v %v, want Cancelled, DC", end.Conditions, end.Flags)
				}
			}
			ctx, cancel = context.WithCancel(t.Context())
			defer cancel()
			s, err := c.FullDuplexCall(ctx)
			if err == nil {
				_, err = s.Header()
			}
			if err != nil {
				t.Errorf("after that: got %v, want a slot", err)
			}
		})
	}
}

// TestHeaders checks that requests have the headers that policies add and not those that policies
// honor, and that the caller's metadata is unchanged.
func TestHeaders(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			u, err := pillion.New("recipes", timeout.Config{EnvoyHeaders: true}, again("unavailable", 1),
				pillion.Options{IncludeRequestAttemptCount: true, ReplayBuffer: 1 << 20})
			if err != nil {
				t.Fatal(err)
			}
			c := client(t, &service{serve: func(ctx context.Context, n int64, _ stream) error {
				md, _ := metadata.FromIncomingContext(ctx)
				if got := md.Get("x-envoy-attempt-count"); len(got) != 1 || got[0] != strconv.FormatInt(n, 10) {
					t.Errorf("attempt %d: got count %v", n, got)
				}
				if got := md.Get("x-envoy-upstream-rq-timeout-ms"); len(got) != 0 || len(md.Get("mine")) != 1 {
					t.Errorf("got %v, want the caller's without the timeout", md)
				}
				if n == 1 {
					return errUnavailable
				}
				return nil
			}}, u)
			ctx := metadata.AppendToOutgoingContext(t.Context(), "x-envoy-upstream-rq-timeout-ms", "5000", "mine", "1")
			if err := kind.call(ctx, c); err != nil {
				t.Error(err)
			}
			if md, _ := metadata.FromOutgoingContext(ctx); len(md) != 2 {
				t.Errorf("the caller's metadata: got %v, want it unchanged", md)
			}
		})
	}
}

// TestResolver resolves the upstream of each call.
func TestResolver(t *testing.T) {
	u, log := upstream(t)
	bad := errors.New("no route")
	r := resolver(func(target pillion.Target) (*pillion.Upstream, error) {
		if target.Protocol != "grpc" || target.Authority != "recipes" || target.Path != target.Method || target.Header("to") == "" {
			t.Errorf("got target %+v", target)
		}
		switch target.Header("to") {
		case "recipes":
			return u, nil
		case "nowhere":
			return nil, bad
		}
		return nil, nil
	})
	c := client(t, &service{serve: func(context.Context, int64, stream) error { return nil }}, r)
	for _, kind := range kinds {
		for to, want := range map[string]codes.Code{"recipes": codes.OK, "nowhere": codes.Unavailable, "nil": codes.Unavailable} {
			err := kind.call(metadata.AppendToOutgoingContext(t.Context(), "to", to), c)
			if status.Code(err) != want || (to == "nowhere") != errors.Is(err, bad) {
				t.Errorf("%s to %s: got %v, want %v", kind.name, to, err, want)
			}
		}
		<-log.ends
	}
	for name, construct := range map[string]func(){
		"nil":          func() { pilliongrpc.DialOptions(nil) },
		"nil upstream": func() { pilliongrpc.UnaryClientInterceptor((*pillion.Upstream)(nil)) },
		"stream":       func() { pilliongrpc.StreamClientInterceptor(nil) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: got no panic, want one", name)
				}
			}()
			construct()
		}()
	}
}

type resolver func(pillion.Target) (*pillion.Upstream, error)

func (r resolver) Resolve(_ context.Context, t pillion.Target) (*pillion.Upstream, error) {
	return r(t)
}

// TestLocalReplies checks Envoy's codes and texts with LocalReplies.
func TestLocalReplies(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u, err := pillion.New("recipes", timeout.Config{Total: time.Second}, again("reset", 1), pillion.Options{LocalReplies: true})
				if err != nil {
					t.Fatal(err)
				}
				c := client(t, &service{serve: func(ctx context.Context, _ int64, _ stream) error { <-ctx.Done(); return ctx.Err() }}, u)
				err = kind.call(t.Context(), c)
				if s, _ := status.FromError(err); s.Code() != codes.Unavailable || s.Message() != "upstream request timeout" || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v, want Envoy's Unavailable, upstream request timeout", err)
				}
			})
		})
	}
}

// TestError_zero uses an Error not made by the library.
func TestError_zero(t *testing.T) {
	for _, err := range []*pilliongrpc.Error{{}, {Err: errFired}} {
		if status.Code(err) != codes.Unknown || err.Error() == "" || err.Timeout() {
			t.Errorf("got %v, want Unknown", err)
		}
	}
}

// TestNoResponse pins the error of a call whose policy returns neither a response nor an error.
func TestNoResponse(t *testing.T) {
	u, _ := upstream(t, refuser{})
	c := client(t, &service{}, u)
	for _, kind := range kinds {
		err := kind.call(t.Context(), c)
		var e *pilliongrpc.Error
		if status.Code(err) != codes.Internal || !errors.As(err, &e) ||
			e.Err.Error() != "pillion: recipes: a policy returned a <nil> in place of a response" {
			t.Errorf("%s: got %v, want Internal and the value's type", kind.name, err)
		}
	}
}
