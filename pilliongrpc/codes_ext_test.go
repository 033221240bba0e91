package pilliongrpc_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/timeout"
)

// words maps Envoy's retry conditions to the gRPC code that each retries, OK for none.
var words = map[string]codes.Code{
	"cancelled": codes.Canceled, "deadline-exceeded": codes.DeadlineExceeded, "internal": codes.Internal,
	"resource-exhausted": codes.ResourceExhausted, "unavailable": codes.Unavailable,
	"5xx": codes.OK, "gateway-error": codes.OK, "reset": codes.OK, "connect-failure": codes.OK, "refused-stream": codes.OK, "retriable-4xx": codes.OK,
}

// TestCodes responds with every code to every kind of call, trailers-only and after a header, under
// every condition: only the condition of that code retries it, and only if it is trailers-only. The
// caller receives the server's status and metadata, breaker and statistics count the call, and its
// slot is freed.
func TestCodes(t *testing.T) {
	failures := map[codes.Code]bool{
		codes.Unknown: true, codes.DeadlineExceeded: true, codes.Unimplemented: true, codes.Internal: true, codes.Unavailable: true, codes.DataLoss: true,
	}
	for word, retried := range words {
		t.Run(word, func(t *testing.T) {
			b, err := breaker.New(breaker.Config{Threshold: breaker.Never})
			if err != nil {
				t.Fatal(err)
			}
			registry, _ := metrics.NewRegistry(metrics.Settings{})
			u, log := upstream(t, metrics.Config{Registry: registry}, metrics.GRPC{Registry: registry}, again(word, 1), limits.Config{MaxRequests: 1}, b)
			c := client(t, &service{serve: answering}, u)
			var calls, failed, tries int64
			for code := codes.OK; code <= codes.Unauthenticated; code++ {
				for _, after := range []string{"", "header"} {
					for _, kind := range kinds {
						ctx := metadata.AppendToOutgoingContext(t.Context(), "code", strconv.Itoa(int(code)), "after", after)
						ctx, info := pillion.WithInfo(ctx)
						err := kind.call(ctx, c)
						if s, _ := status.FromError(err); s.Code() != code || (code != codes.OK && s.Message() != "asked for") {
							t.Errorf("%s, %v after %q: got %v, want the server's status", kind.name, code, after, err)
						}
						want := 1
						if after == "" && retried != codes.OK && code == retried {
							want = 2
						}
						end := <-log.ends
						if info.Attempts() != want {
							t.Errorf("%s, %v after %q: got %d attempts, want %d", kind.name, code, after, info.Attempts(), want)
						}
						if end.Code != int(code) || end.Detail != envoy.ViaUpstream {
							t.Errorf("%s, %v after %q: got code %d, %v, want %d, via_upstream", kind.name, code, after, end.Code, end.Detail, code)
						}
						if flags := end.Flags; (want == 2) != flags.Has(envoy.URX) {
							t.Errorf("%s, %v after %q: got flags %v", kind.name, code, after, flags)
						}
						calls++
						tries += int64(want)
						if failures[code] {
							failed += int64(want)
						}
					}
				}
			}
			if got := b.Status(); got != (breaker.Status{Success: tries - failed, Failure: failed}) {
				t.Errorf("breaker: got %+v, want %d failures of %d", got, failed, tries)
			}
			cluster := registry.Cluster("recipes")
			for name, want := range map[string]int64{"upstream_rq_total": tries, "upstream_rq_retry": tries - calls, "upstream_rq_retry_limit_exceeded": tries - calls} {
				if got := cluster.Counter(name).Value(); got != uint64(want) {
					t.Errorf("%s: got %d, want %d", name, got, want)
				}
			}
			for code := range 17 {
				for _, method := range []string{"UnaryCall", "StreamingOutputCall", "StreamingInputCall", "FullDuplexCall"} {
					name := fmt.Sprintf("grpc.grpc.testing.TestService.%s.%d", method, code)
					if got := cluster.Counter(name).Value(); got != 2 {
						t.Errorf("%s: got %d, want 2", name, got)
					}
				}
			}
		})
	}
}

// TestPushback checks grpc-retry-pushback-ms: a number is the wait, any other value means no retry.
func TestPushback(t *testing.T) {
	for value, want := range map[string]int{"0": 2, "1": 2, "-1": 1, "soon": 1, "": 1} {
		for _, kind := range kinds {
			t.Run(value+" "+kind.name, func(t *testing.T) {
				u, _ := upstream(t, again("unavailable", 1))
				ctx, info := pillion.WithInfo(t.Context())
				err := kind.call(ctx, client(t, &service{serve: func(_ context.Context, n int64, s stream) error {
					if n > 1 {
						return nil
					}
					s.tail(metadata.Pairs("grpc-retry-pushback-ms", value))
					return errUnavailable
				}}, u))
				if info.Attempts() != want || (err == nil) != (want == 2) {
					t.Errorf("got %d attempts and %v, want %d", info.Attempts(), err, want)
				}
			})
		}
	}
}

// TestCounted checks that statistics count the status that the caller receives, for timeouts with
// and without Envoy's local replies, and for refusals.
func TestCounted(t *testing.T) {
	full := limits.Config{MaxRequests: limits.Zero}
	for name, policies := range map[string][]pillion.Policy{
		"total timeout":                {timeout.Config{Total: 20 * time.Millisecond}},
		"total timeout, local replies": {timeout.Config{Total: 20 * time.Millisecond}, pillion.Options{LocalReplies: true}},
		"refused":                      {full},
		"refused, local replies":       {full, pillion.Options{LocalReplies: true}},
	} {
		for _, after := range []string{"", "header"} {
			for _, kind := range kinds {
				t.Run(name+" "+after+" "+kind.name, func(t *testing.T) {
					registry, _ := metrics.NewRegistry(metrics.Settings{})
					ended := make(chan struct{}, 1)
					end := pillion.Listener(func(_ context.Context, e policy.Event) {
						if e.Kind == policy.EventEnd {
							ended <- struct{}{}
						}
					})
					u, bad := pillion.New("recipes", append([]pillion.Policy{metrics.GRPC{Registry: registry}, end}, policies...)...)
					if bad != nil {
						t.Fatal(bad)
					}
					err := kind.call(t.Context(), client(t, &service{serve: func(ctx context.Context, _ int64, s stream) error {
						if after != "" {
							if err := s.head(metadata.Pairs("some", "thing")); err != nil {
								return err
							}
						}
						<-ctx.Done()
						return ctx.Err()
					}}, u))
					<-ended
					code := status.Code(err)
					got := uint64(0)
					for _, method := range []string{"UnaryCall", "StreamingOutputCall", "StreamingInputCall", "FullDuplexCall"} {
						got += registry.Cluster("recipes").Counter(fmt.Sprintf("grpc.grpc.testing.TestService.%s.%d", method, code)).Value()
					}
					if code == codes.OK || got != 1 {
						t.Errorf("got %v, counted %d times, want once", err, got)
					}
				})
			}
		}
	}
}
