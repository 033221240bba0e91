package pilliongrpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/pilliongrpc"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/timeout"
)

// served is a server under policies, for misbehaving clients.
type served struct {
	testgrpc.TestServiceClient
	conn     *grpc.ClientConn
	listener *bufconn.Listener
	there    chan struct{} // a handler has begun
	log      *events
	breaker  *breaker.Breaker
}

// serveBadly serves s under a breaker, a limit and timeouts.
func serveBadly(t *testing.T, s testgrpc.TestServiceServer, limit timeout.Config) *served {
	t.Helper()
	b, err := breaker.New(breaker.Config{Threshold: 0.5, NonBreakCount: 2})
	if err != nil {
		t.Fatal(err)
	}
	u, log := upstream(t, limit, limits.Config{MaxRequests: 2}, b)
	x := &served{log: log, breaker: b, listener: bufconn.Listen(1 << 20), there: make(chan struct{}, 1)}
	server := grpc.NewServer(append(serverOptions(t, u), grpc.MaxRecvMsgSize(1000))...)
	testgrpc.RegisterTestServiceServer(server, s)
	serving := make(chan struct{})
	go func() { defer close(serving); _ = server.Serve(x.listener) }()
	x.conn, err = grpc.NewClient("passthrough:///front", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(x.dial))
	if err != nil {
		t.Fatal(err)
	}
	x.TestServiceClient = testgrpc.NewTestServiceClient(x.conn)
	t.Cleanup(func() {
		_ = x.conn.Close()
		server.Stop()
		<-serving
	})
	return x
}

func (x *served) dial(ctx context.Context, _ string) (net.Conn, error) {
	return x.listener.DialContext(ctx)
}

// raw sends an HTTP/2 body to a method, and returns the gRPC status of the response.
func (x *served) raw(t *testing.T, method string, body io.Reader, header ...string) string {
	t.Helper()
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return x.dial(ctx, "") }}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://front/grpc.testing.TestService/"+method, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.Header.Get("Grpc-Status") + resp.Trailer.Get("Grpc-Status")
}

// message returns a framed message.
func message(flag byte, length int, body string) io.Reader {
	return strings.NewReader(string([]byte{flag, 0, 0, byte(length >> 8), byte(length)}) + body)
}

// TestServerClientIsNoFailure checks that no error of a client counts as a failure of the service,
// and that each call frees its slot.
func TestServerClientIsNoFailure(t *testing.T) {
	waiting := func(ctx context.Context, _ int64, _ stream) error { <-ctx.Done(); return ctx.Err() }
	receiving := func(_ context.Context, _ int64, s stream) error { return drain(s.recv) }
	sending := func(_ context.Context, _ int64, s stream) error {
		for {
			if err := s.send(); err != nil {
				return err
			}
		}
	}
	first := func(_ context.Context, _ int64, s stream) error { return s.recv() }
	worded := func(serve func(context.Context, int64, stream) error) func(context.Context, int64, stream) error {
		return func(ctx context.Context, n int64, s stream) error {
			if err := serve(ctx, n, s); err != nil {
				return fmt.Errorf("the recipe could not be read: %w", err)
			}
			return nil
		}
	}
	hidden := func(serve func(context.Context, int64, stream) error) func(context.Context, int64, stream) error {
		return func(ctx context.Context, n int64, s stream) error {
			if err := serve(ctx, n, s); err != nil {
				return status.Errorf(codes.Internal, "reading: %v", err)
			}
			return nil
		}
	}
	type serve = func(context.Context, int64, stream) error
	empty := func() io.Reader { return message(0, 0, "") }
	short := timeout.Config{Total: 50 * time.Millisecond}
	long := timeout.Config{Total: time.Minute}
	named := func(kind int, ms string) func(t *testing.T, x *served) {
		return func(t *testing.T, x *served) {
			t.Helper()
			ctx := metadata.AppendToOutgoingContext(t.Context(), "x-envoy-expected-rq-timeout-ms", ms)
			_ = kinds[kind].call(ctx, x)
		}
	}
	canceling := func(kind int) func(t *testing.T, x *served) {
		return func(t *testing.T, x *served) {
			t.Helper()
			ctx, cancel := context.WithCancel(t.Context())
			go func() { <-x.there; cancel() }()
			_ = kinds[kind].call(ctx, x)
		}
	}
	silence := func(t *testing.T, x *served) { // opens a stream and neither sends nor reads
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if _, err := x.FullDuplexCall(ctx); err != nil {
			t.Error(err)
		}
		x.log.ends <- wantEnd(t, x.log) // not for its leaving
	}
	sends := func(method string, body func() io.Reader, header ...string) func(t *testing.T, x *served) {
		return func(t *testing.T, x *served) {
			t.Helper()
			if got := x.raw(t, method, body(), header...); got == "0" {
				t.Error("got status 0, want an error")
			}
		}
	}
	tests := []struct {
		name   string
		serve  serve
		limits timeout.Config
		do     func(t *testing.T, x *served)
		unseen bool // gRPC's server may end the call before any interceptor sees it
	}{
		{"a unary deadline in x-envoy-expected-rq-timeout-ms", waiting, long, named(0, "1"), false},
		{"a stream's deadline", waiting, long, named(3, "1"), false},
		{"a deadline of a stream whose handler receives", receiving, long, func(t *testing.T, x *served) {
			t.Helper()
			ctx := metadata.AppendToOutgoingContext(t.Context(), "x-envoy-expected-rq-timeout-ms", "1")
			if s, err := x.FullDuplexCall(ctx); err == nil {
				_, _ = s.Recv()
			}
		}, false},
		{"a unary grpc-timeout", waiting, long, sends("UnaryCall", empty, "Grpc-Timeout", "20m"), true},
		{"a grpc-timeout that has passed", waiting, long, sends("UnaryCall", empty, "Grpc-Timeout", "1n"), true},
		{"a stream's grpc-timeout", waiting, long, sends("FullDuplexCall", empty, "Grpc-Timeout", "20m"), true},
		{"a grpc-timeout that the handler wraps", worded(waiting), long, sends("UnaryCall", empty, "Grpc-Timeout", "20m"), true},
		{"a grpc-timeout that the handler reports as another error", hidden(waiting), long, sends("FullDuplexCall", empty, "Grpc-Timeout", "20m"), true},
		{"a canceled unary call", waiting, long, canceling(0), false},
		{"a canceled stream", hidden(receiving), long, canceling(2), false},
		{"a client that sends nothing", receiving, short, silence, false},
		{"the same, and the handler reports another error", hidden(receiving), short, silence, false},
		{"a client that reads nothing", sending, short, silence, false},
		{"a slow client, under a per-try timeout", receiving, timeout.Config{Total: timeout.Unlimited, PerTry: 20 * time.Millisecond}, silence, false},
		{"a slow client, under an idle timeout", receiving, timeout.Config{Total: timeout.Unlimited, Idle: 20 * time.Millisecond}, silence, false},
		{"a method that is not implemented", waiting, long, func(t *testing.T, x *served) {
			t.Helper()
			_, _ = x.UnimplementedCall(t.Context(), &testgrpc.Empty{})
		}, false},
		{"a method that does not exist", waiting, long, sends("Nothing", empty), true},
		{"a unary message that cannot be read", waiting, long, sends("UnaryCall", func() io.Reader { return message(0, 3, "\xff\xff\xff") }), true},
		{"a message that cannot be read", first, long, sends("FullDuplexCall", func() io.Reader { return message(0, 3, "\xff\xff\xff") }), false},
		{"the same, and the handler reports another error", hidden(first), long, sends("FullDuplexCall", func() io.Reader { return message(0, 3, "\xff\xff\xff") }), false},
		{"a message that is too large", first, long, sends("FullDuplexCall", func() io.Reader { return message(0, 2000, strings.Repeat("x", 2000)) }), false},
		{"a message that is cut", first, long, sends("FullDuplexCall", func() io.Reader { return message(0, 10, "x") }), false},
		{"a message of an unknown encoding", first, long, sends("FullDuplexCall", func() io.Reader { return message(1, 3, "xyz") }, "Grpc-Encoding", "identity"), false},
		{"no message at all", first, long, sends("FullDuplexCall", func() io.Reader { return bytes.NewReader(nil) }), false},
		{"no message of a server stream", waiting, long, sends("StreamingOutputCall", func() io.Reader { return bytes.NewReader(nil) }), false},
		{"two messages of a server stream", waiting, long, sends("StreamingOutputCall", func() io.Reader { return io.MultiReader(message(0, 0, ""), message(0, 0, "")) }), false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var x *served
			x = serveBadly(t, &service{serve: func(ctx context.Context, n int64, s stream) error {
				md, _ := metadata.FromIncomingContext(ctx)
				if len(md.Get("patient")) != 0 {
					return nil
				}
				select {
				case x.there <- struct{}{}:
				default:
				}
				return test.serve(ctx, n, s)
			}}, test.limits)
			for range 4 {
				test.do(t, x)
				if end, ok := x.end(t, test.unseen); ok && end.Has(policy.Failure) && !end.Has(policy.Cancelled) {
					t.Errorf("got %v, %v, want no failure", end.Conditions, end.Err)
				}
			}
			if got := x.breaker.Status(); got.Failure+got.Timeout != 0 {
				t.Errorf("breaker: got %+v, want no failure", got)
			}
			for _, kind := range kinds {
				if err := kind.call(metadata.AppendToOutgoingContext(t.Context(), "patient", "1"), x); err != nil {
					t.Errorf("another client's %s call: got %v", kind.name, err)
				}
			}
		})
	}
}

// end waits for the end of a call, unless the call may be unseen.
func (x *served) end(t *testing.T, unseen bool) (end policy.Outcome, ok bool) {
	t.Helper()
	if !unseen {
		return wantEnd(t, x.log), true
	}
	select {
	case end = <-x.log.ends:
		return end, true
	case <-time.After(100 * time.Millisecond):
		return end, false
	}
}

// TestServerFailures checks the failures of the service itself, so that the test above is
// meaningful.
func TestServerFailures(t *testing.T) {
	tests := map[string]func(ctx context.Context, n int64, s stream) error{
		"an error":                   func(context.Context, int64, stream) error { return errors.New("oops") },
		"unavailable":                func(context.Context, int64, stream) error { return errUnavailable },
		"slower than the service":    func(ctx context.Context, _ int64, _ stream) error { <-ctx.Done(); return ctx.Err() },
		"an io error of the handler": func(context.Context, int64, stream) error { return io.ErrUnexpectedEOF },
	}
	for name, serve := range tests {
		for _, kind := range kinds {
			t.Run(name+"/"+kind.name, func(t *testing.T) {
				x := serveBadly(t, &service{serve: serve}, timeout.Config{Total: 20 * time.Millisecond})
				_ = kind.call(t.Context(), x)
				if end := wantEnd(t, x.log); !end.Has(policy.Failure) || end.Has(policy.Cancelled) {
					t.Errorf("got %v, %v, want a failure", end.Conditions, end.Err)
				}
			})
		}
	}
}

// TestServerTellsNoSecrets fails a client's calls with errors whose texts no other client may
// receive, and in most cases not even that client.
func TestServerTellsNoSecrets(t *testing.T) {
	const secret = "hunter2"
	full, err := pillion.New("front", limits.Config{MaxRequests: limits.Zero})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name     string
		serve    func(ctx context.Context, n int64, s stream) error
		policies []pillion.Policy
		resolver resolver
		code     codes.Code
		text     string
	}{
		{
			"an open breaker, after a panic", func(context.Context, int64, stream) error { panic(secret) },
			[]pillion.Policy{breaker.Config{NonBreakCount: 1, Sleep: time.Hour}},
			nil,
			codes.Unavailable, "upstream connect error or disconnect/reset before headers. reset reason: overflow",
		},
		{
			"an open breaker, after an error", func(context.Context, int64, stream) error { return errors.New(secret) },
			[]pillion.Policy{breaker.Config{NonBreakCount: 1, Sleep: time.Hour}},
			nil,
			codes.Unavailable, "upstream connect error or disconnect/reset before headers. reset reason: overflow",
		},
		{"a panic", func(context.Context, int64, stream) error { panic(errors.New(secret)) }, nil, nil, codes.Internal, "the handler panicked"},
		{
			"a timeout, and the handler's reason", func(ctx context.Context, _ int64, _ stream) error {
				<-ctx.Done()
				return errors.New(secret)
			},
			[]pillion.Policy{timeout.Config{Total: 10 * time.Millisecond}},
			nil, codes.DeadlineExceeded, "upstream request timeout",
		},
		{
			"the same with Envoy's code", func(ctx context.Context, _ int64, _ stream) error {
				<-ctx.Done()
				return errors.New(secret)
			},
			[]pillion.Policy{timeout.Config{Total: 10 * time.Millisecond}, pillion.Options{LocalReplies: true}},
			nil, codes.Unavailable, "upstream request timeout",
		},
		{"a full service", nil, nil, func(pillion.Target) (*pillion.Upstream, error) { return full, nil }, codes.Unavailable, "upstream connect error or disconnect/reset before headers. reset reason: overflow"},
		{"no route", nil, nil, func(pillion.Target) (*pillion.Upstream, error) { return nil, errors.New(secret) }, codes.Unavailable, "no upstream"},
		{"a policy's error", nil, []pillion.Policy{refuser{errors.New(secret), 0}}, nil, codes.Unknown, "Internal Server Error"},
		{"a policy's refusal", nil, []pillion.Policy{refuser{errors.New(secret), policy.Refused}}, nil, codes.Unavailable, "Service Unavailable"},
		{"a policy's error around a status", nil, []pillion.Policy{refuser{fmt.Errorf("no: %w", status.Error(codes.NotFound, secret)), 0}}, nil, codes.Unknown, "Internal Server Error"},
		{"a policy's status", nil, []pillion.Policy{refuser{status.Error(codes.PermissionDenied, "not you"), policy.Refused}}, nil, codes.PermissionDenied, "not you"},
	}
	for _, test := range tests {
		for _, kind := range kinds {
			t.Run(test.name+"/"+kind.name, func(t *testing.T) {
				u, err := pillion.New("front", test.policies...)
				if err != nil {
					t.Fatal(err)
				}
				var r pillion.Resolver = u
				if test.resolver != nil {
					r = test.resolver
				}
				options, err := pilliongrpc.ServerOptions(r)
				if err != nil {
					t.Fatal(err)
				}
				c := testgrpc.NewTestServiceClient(connect(t, &service{serve: test.serve}, nil, options...))
				_ = kind.call(t.Context(), c)
				err = kind.call(t.Context(), c)
				if s, _ := status.FromError(err); s.Code() != test.code || s.Message() != test.text {
					t.Errorf("got %v, want %v %q", err, test.code, test.text)
				}
				if text := fmt.Sprintf("%+v %v", err, status.Convert(err).Details()); strings.Contains(text, secret) {
					t.Errorf("got %s, want a text without another client's error", text)
				}
			})
		}
	}
}

// refuser is a policy that returns its own error.
type refuser struct {
	err error
	is  policy.Condition
}

// Wrap returns the error for every call.
func (p refuser) Wrap(*policy.Builder, policy.Func) (policy.Func, error) {
	return func(_ context.Context, c *policy.Call) *policy.Outcome {
		if p.is != 0 {
			return c.Refuse(p.err, nil)
		}
		return &policy.Outcome{Err: p.err}
	}, nil
}

// TestServerCauses checks that an interceptor before the policies finds the cause that the client
// does not receive.
func TestServerCauses(t *testing.T) {
	u, err := pillion.New("front", limits.Config{MaxRequests: limits.Zero})
	if err != nil {
		t.Fatal(err)
	}
	causes := make(chan error, 10)
	before := []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			reply, err := handler(ctx, req)
			causes <- err
			return reply, err
		}),
		grpc.ChainStreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			err := handler(srv, s)
			causes <- err
			return err
		}),
	}
	c := testgrpc.NewTestServiceClient(connect(t, &service{}, nil, append(before, serverOptions(t, u)...)...))
	for _, kind := range kinds {
		_ = kind.call(t.Context(), c)
		if err := <-causes; !errors.Is(err, limits.ErrFull) {
			t.Errorf("%s: got %v, want ErrFull", kind.name, err)
		}
	}
}
