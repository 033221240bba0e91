package pilliongrpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
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
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/pilliongrpc"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/timeout"
)

// TestStreamPhases uses all methods of a stream in all of its phases, while its context or a timeout
// ends it, for the race detector. It reads the targets after OnFinish was called.
func TestStreamPhases(t *testing.T) {
	for name, policies := range openings() {
		t.Run(name, func(t *testing.T) {
			u, log := upstream(t, append([]pillion.Policy{timeout.Config{Total: 2 * time.Millisecond}}, policies...)...)
			c := client(t, &service{serve: func(ctx context.Context, n int64, s stream) error {
				s.tail(metadata.Pairs("x-tail", "1"))
				if n%3 == 0 {
					return errUnavailable
				}
				_ = s.head(metadata.Pairs("x-head", "1"))
				if n%3 == 1 {
					<-ctx.Done()
				}
				return drain(s.recv)
			}}, u)
			for i := range 300 {
				usePhases(t, c, i)
				wantEnd(t, log)
			}
		})
	}
}

// usePhases opens a stream and ends it at a different instant for each i.
func usePhases(t *testing.T, c testgrpc.TestServiceClient, i int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var head, tail metadata.MD
	var at peer.Peer
	finished := make(chan struct{})
	s, err := c.FullDuplexCall(ctx, grpc.Header(&head), grpc.Trailer(&tail), grpc.Peer(&at), grpc.OnFinish(func(error) { close(finished) }))
	if err == nil {
		var users sync.WaitGroup
		users.Go(func() {
			_, _ = s.Header()
			_ = s.Context().Err()
		})
		users.Go(func() {
			_ = s.Send(&testgrpc.StreamingOutputCallRequest{})
			_ = s.CloseSend()
			_ = s.Trailer()
		})
		users.Go(func() {
			_ = drain(func() error { _, err := s.Recv(); return err })
			_ = s.Trailer()
			_, _ = s.Header()
		})
		users.Go(func() {
			time.Sleep(time.Duration(i%30) * 50 * time.Microsecond)
			cancel()
		})
		users.Wait()
	}
	select {
	case <-finished:
	case <-time.After(10 * time.Second):
		t.Fatal("got no call of OnFinish, want one")
	}
	head.Delete("x-head") // they are no longer shared
	tail.Delete("x-tail")
	_ = at.String()
}

// TestStreamTrailer checks that Trailer returns nil while a stream is open, and the trailers after
// RecvMsg has returned its end.
func TestStreamTrailer(t *testing.T) {
	for name, policies := range openings() {
		for _, headers := range []bool{false, true} {
			for _, code := range []codes.Code{codes.OK, codes.NotFound} {
				t.Run(fmt.Sprint(name, "/", headers, "/", code), func(t *testing.T) {
					u, _ := upstream(t, policies...)
					c := client(t, &service{serve: func(_ context.Context, _ int64, s stream) error {
						s.tail(metadata.Pairs("x-tail", "1"))
						if headers {
							_ = s.head(metadata.Pairs("x-head", "1"))
						}
						_ = s.recv()
						return status.Error(code, "")
					}}, u)
					s, err := c.FullDuplexCall(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					if headers {
						if md, err := s.Header(); err != nil || len(md.Get("x-head")) != 1 {
							t.Errorf("Header: got %v, %v", md, err)
						}
						if got := s.Trailer(); got != nil {
							t.Errorf("Trailer of an open stream: got %v, want nil", got)
						}
					}
					_ = s.CloseSend()
					if _, err := s.Recv(); status.Code(err) != code && (code != codes.OK || !errors.Is(err, io.EOF)) {
						t.Errorf("got %v, want %v", err, code)
					}
					if got := s.Trailer().Get("x-tail"); len(got) != 1 {
						t.Errorf("Trailer: got %v", s.Trailer())
					}
					if md, err := s.Header(); headers && err != nil || headers != (len(md.Get("x-head")) == 1) {
						t.Errorf("Header at the end: got %v, %v", md, err)
					}
				})
			}
		}
	}
}

var errFired = errors.New("the kitchen is on fire")

// TestCause cancels calls with a cause, in every phase of a call: the error has the cause, also in
// OnFinish.
func TestCause(t *testing.T) {
	for name, policies := range openings() {
		for _, kind := range kinds {
			for _, headers := range []bool{false, true} {
				t.Run(fmt.Sprint(name, "/", kind.name, "/", headers), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						u, err := pillion.New("recipes", policies...)
						if err != nil {
							t.Fatal(err)
						}
						c := client(t, &service{serve: func(ctx context.Context, _ int64, s stream) error {
							if headers {
								_ = s.head(nil)
							}
							<-ctx.Done()
							return ctx.Err()
						}}, u)
						ctx, cancel := context.WithCancelCause(t.Context())
						time.AfterFunc(time.Second, func() { cancel(errFired) })
						f := newFinishes()
						wantCause(t, kind.call(ctx, c, f.option()))
						synctest.Wait()
						wantCause(t, <-f.errs)
						wantCause(t, kind.call(ctx, c, f.option())) // before the call
						wantCause(t, <-f.errs)
					})
				})
			}
		}
	}
}

// TestCause_abandoned cancels a stream that is not read, with a cause.
func TestCause_abandoned(t *testing.T) {
	for name, policies := range openings() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u, err := pillion.New("recipes", policies...)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancelCause(t.Context())
				f := newFinishes()
				s, err := client(t, &service{serve: silent}, u).FullDuplexCall(ctx, f.option())
				if err != nil {
					t.Fatal(err)
				}
				_, _ = s.Header()
				cancel(errFired)
				wantCause(t, <-f.errs)
				_, err = s.Recv()
				wantCause(t, err)
			})
		})
	}
}

// TestCause_backOff cancels a call in its back-off.
func TestCause_backOff(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u, _ := upstream(t, again("unavailable", 1))
				c := client(t, &service{serve: func(_ context.Context, _ int64, s stream) error {
					s.tail(metadata.Pairs("grpc-retry-pushback-ms", "5000"))
					return errUnavailable
				}}, u)
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(time.Second, func() { cancel(errFired) })
				wantCause(t, kind.call(ctx, c))
			})
		})
	}
}

func wantCause(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, errFired) || !errors.Is(err, context.Canceled) || status.Code(err) != codes.Canceled || strings.Count(err.Error(), errFired.Error()) > 1 {
		t.Errorf("got %v, want Canceled with its cause, once", err)
	}
}

// TestNil omits arguments that gRPC always passes: each omission is a clear error.
func TestNil(t *testing.T) {
	u := bare(t)
	unary, stream := pilliongrpc.UnaryClientInterceptor(u), pilliongrpc.StreamClientInterceptor(u)
	const method = "/pkg.Svc/Method"
	ctx, desc := t.Context(), &grpc.StreamDesc{}
	invoke := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil }
	streamer := func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
		return nil, nil
	}
	wantNil(t, []nilTest{
		{"unary: context", func() error { return unary(nil, method, nil, nil, nil, invoke) }, "nil context"},
		{"unary: method", func() error { return unary(ctx, "", nil, nil, nil, invoke) }, "no method"},
		{"unary: invoker", func() error { return unary(ctx, method, nil, nil, nil, nil) }, "nil invoker"},
		{"unary: messages and connection", func() error { return unary(ctx, method, nil, nil, nil, invoke) }, ""},
		{"stream: context", func() error { _, err := stream(nil, desc, nil, method, streamer); return err }, "nil context"},
		{"stream: description", func() error { _, err := stream(ctx, nil, nil, method, streamer); return err }, "nil stream description"},
		{"stream: method", func() error { _, err := stream(ctx, desc, nil, "", streamer); return err }, "no method"},
		{"stream: streamer", func() error { _, err := stream(ctx, desc, nil, method, nil); return err }, "nil stream description or streamer"},
		{"stream: no stream", func() error { _, err := stream(ctx, desc, nil, method, streamer); return err }, "neither a stream nor an error"},
	})
}

// nilTest is a call without an argument.
type nilTest struct {
	name string
	call func() error
	want string // part of the error; empty for none
}

// wantNil checks that each returns an error and does not panic.
func wantNil(t *testing.T, tests []nilTest) {
	t.Helper()
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := panicking(test.call)
			if test.want == "" {
				if err != nil {
					t.Errorf("got %v, want no error", err)
				}
				return
			}
			if err == nil || status.Code(err) != codes.Internal || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want Internal with %q", err, test.want)
			}
		})
	}
}

// TestNilReply runs concurrent attempts without a reply: gRPC's client returns an error.
func TestNilReply(t *testing.T) {
	var discarded sync.WaitGroup
	u, _ := upstream(t, hedge{&discarded})
	conn := connect(t, &service{serve: func(context.Context, int64, stream) error { return nil }}, pilliongrpc.DialOptions(u))
	err := panicking(func() error {
		return conn.Invoke(t.Context(), testgrpc.TestService_UnaryCall_FullMethodName, &testgrpc.SimpleRequest{}, nil)
	})
	if status.Code(err) != codes.Internal {
		t.Errorf("got %v, want Internal", err)
	}
	discarded.Wait()
}

// TestAttemptCountInResponse checks that the response has the number of attempts if the option is
// set, even if Envoy's other headers are suppressed.
func TestAttemptCountInResponse(t *testing.T) {
	for _, include := range []bool{false, true} {
		for _, kind := range kinds {
			for _, headers := range []bool{false, true} {
				t.Run(fmt.Sprint(include, "/", kind.name, "/", headers), func(t *testing.T) {
					u, err := pillion.New("recipes", again("unavailable", 2), pillion.Options{
						IncludeAttemptCountInResponse: include, SuppressEnvoyHeaders: headers, ReplayBuffer: 1 << 20,
					})
					if err != nil {
						t.Fatal(err)
					}
					c := client(t, &service{serve: func(_ context.Context, n int64, s stream) error {
						if n == 1 {
							return errUnavailable
						}
						if headers {
							_ = s.head(nil)
						}
						return status.Error(codes.NotFound, "")
					}}, u)
					var head, tail metadata.MD
					_ = kind.call(t.Context(), c, grpc.Header(&head), grpc.Trailer(&tail))
					first := head
					if !headers {
						first = tail
					}
					if got := strings.Join(first.Get("x-envoy-attempt-count"), ","); got != map[bool]string{true: "2"}[include] {
						t.Errorf("got x-envoy-attempt-count %q in header %v, trailer %v", got, head, tail)
					}
				})
			}
		}
	}
}

// TestInsideRetry uses an interceptor inside that opens a second stream for one attempt: the end of
// the first stream is not the end of the call.
func TestInsideRetry(t *testing.T) {
	for name, policies := range openings() {
		t.Run(name, func(t *testing.T) {
			u, log := upstream(t, policies...)
			twice := grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
				first, err := streamer(ctx, desc, cc, method, options...)
				if err != nil {
					return nil, err
				}
				_ = first.CloseSend()
				_, _ = first.Header()
				return streamer(ctx, desc, cc, method, options...)
			})
			c := testgrpc.NewTestServiceClient(connect(t, &service{serve: func(_ context.Context, n int64, s stream) error {
				if n == 1 {
					return errUnavailable
				}
				return drain(func() error {
					if err := s.recv(); err != nil {
						return err
					}
					return s.send()
				})
			}}, append(pilliongrpc.DialOptions(u), twice)))
			f := newFinishes()
			s, err := c.FullDuplexCall(t.Context(), f.option())
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if err := s.Send(&testgrpc.StreamingOutputCallRequest{}); err != nil {
					t.Fatal(err)
				}
				if _, err := s.Recv(); err != nil {
					t.Fatalf("got %v, want the second stream's message", err)
				}
			}
			if f.n.Load() != 0 {
				t.Error("got a call of OnFinish during the call, want none")
			}
			_ = s.CloseSend()
			if _, err := s.Recv(); !errors.Is(err, io.EOF) {
				t.Errorf("got %v, want the end", err)
			}
			wantEnd(t, log)
			if f.n.Load() != 1 {
				t.Errorf("got %d calls of OnFinish, want 1", f.n.Load())
			}
		})
	}
}

// TestSlotOfClosedConnection closes the connection of a stream that is not read: its slot is freed,
// although its context is still active.
func TestSlotOfClosedConnection(t *testing.T) {
	u, log := upstream(t, again("unavailable", 1), limits.Config{MaxRequests: 1})
	conn := connect(t, &service{serve: silent}, pilliongrpc.DialOptions(u))
	s, err := testgrpc.NewTestServiceClient(conn).FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Header(); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if end := wantEnd(t, log); end.Has(policy.Failure) {
		t.Errorf("got %v, want no failure of the upstream", end.Conditions)
	}
	c := client(t, &service{serve: func(context.Context, int64, stream) error { return nil }}, u)
	if err := kinds[0].call(t.Context(), c); err != nil {
		t.Errorf("over another connection: got %v, want the slot free", err)
	}
}

// TestEndpoint checks the endpoint of each kind of call, whether or not a policy waits for the
// response headers.
func TestEndpoint(t *testing.T) {
	for name, policies := range openings() {
		for _, kind := range kinds {
			u, err := pillion.New("recipes", policies...)
			if err != nil {
				t.Fatal(err)
			}
			c := client(t, &service{serve: func(context.Context, int64, stream) error { return nil }}, u)
			ctx, info := pillion.WithInfo(t.Context())
			if err := kind.call(ctx, c); err != nil || info.Endpoint() != "bufconn" {
				t.Errorf("%s, %s: got %v, endpoint %q, want bufconn", name, kind.name, err, info.Endpoint())
			}
		}
	}
}
