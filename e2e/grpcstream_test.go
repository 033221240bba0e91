package e2e

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/pilliongrpc"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// bidi is a service whose bidirectional streams are served by a function.
type bidi struct {
	testgrpc.UnimplementedTestServiceServer
	serve func(n int64, s testgrpc.TestService_FullDuplexCallServer) error // n is the number of the stream, from 1
	n     atomic.Int64
}

func (b *bidi) FullDuplexCall(s testgrpc.TestService_FullDuplexCallServer) error {
	return b.serve(b.n.Add(1), s)
}

// streamClient serves service in memory, and returns a client whose streams go through u's
// policies.
func streamClient(t *testing.T, service testgrpc.TestServiceServer, u *pillion.Upstream) testgrpc.TestServiceClient {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	conn := serveGRPC(t, l, service, pilliongrpc.StreamClientInterceptor(u), nil,
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	return testgrpc.NewTestServiceClient(conn)
}

// serveGRPC serves service on l, and returns a connection to it.
func serveGRPC(t *testing.T, l net.Listener, service testgrpc.TestServiceServer, intercept grpc.StreamClientInterceptor,
	fail grpc.StreamServerInterceptor, dial ...grpc.DialOption,
) *grpc.ClientConn {
	t.Helper()
	var options []grpc.ServerOption
	if fail != nil {
		options = append(options, grpc.StreamInterceptor(fail))
	}
	server := grpc.NewServer(options...)
	testgrpc.RegisterTestServiceServer(server, service)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Serve(l); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), append(dial,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithStreamInterceptor(intercept), grpc.WithDisableRetry())...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		serving.Wait()
	})
	return conn
}

// streamUpstream returns an upstream with all policies, and the events of its calls.
func streamUpstream(t *testing.T, policies ...pillion.Policy) (u *pillion.Upstream, b *breaker.Breaker, events *eventLog) {
	t.Helper()
	b, err := breaker.New(breaker.Config{Threshold: breaker.Never})
	if err != nil {
		t.Fatal(err)
	}
	events = &eventLog{ends: make(chan policy.Outcome, 1000)}
	policies = append(policies, b, pillion.Listener(events.hear))
	if !slices.ContainsFunc(policies, func(p pillion.Policy) bool { _, ok := p.(pillion.Options); return ok }) {
		policies = append(policies, pillion.Options{ReplayBuffer: 1 << 20})
	}
	u, err = pillion.New("upstream", policies...)
	if err != nil {
		t.Fatal(err)
	}
	return u, b, events
}

// eventLog counts events.
type eventLog struct {
	ends chan policy.Outcome // outcomes of calls
	mu   sync.Mutex
	seen [policy.EventEnd + 1]int // guarded by mu
}

func (l *eventLog) hear(_ context.Context, e policy.Event) {
	l.mu.Lock()
	l.seen[e.Kind]++
	l.mu.Unlock()
	if e.Kind == policy.EventEnd {
		l.ends <- *e.Outcome
	}
}

func (l *eventLog) count(kind policy.EventKind) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen[kind]
}

// again is a retry policy for streams, without waits.
func again(retries int) retry.Config {
	return retry.Config{On: "unavailable", NumRetries: retries, Rand: func() float64 { return 0 }}
}

// message returns a message with the given text.
func message(text string) *testgrpc.StreamingOutputCallRequest {
	return &testgrpc.StreamingOutputCallRequest{Payload: &testgrpc.Payload{Body: []byte(text)}}
}

// reply sends text to the client.
func reply(s testgrpc.TestService_FullDuplexCallServer, text string) error {
	return s.Send(&testgrpc.StreamingOutputCallResponse{Payload: &testgrpc.Payload{Body: []byte(text)}})
}

var errUnavailable = status.Error(codes.Unavailable, "not now")

// startStream opens a stream.
func startStream(ctx context.Context, t *testing.T, c testgrpc.TestServiceClient) testgrpc.TestService_FullDuplexCallClient {
	t.Helper()
	s, err := c.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sendText sends a message.
func sendText(t *testing.T, s testgrpc.TestService_FullDuplexCallClient, text string) {
	t.Helper()
	if err := s.Send(message(text)); err != nil {
		t.Errorf("send %.20q: %v", text, err)
	}
}

// wantText receives a message.
func wantText(t *testing.T, s testgrpc.TestService_FullDuplexCallClient, text string) {
	t.Helper()
	got, err := s.Recv()
	if err != nil {
		t.Fatalf("receive: got %v, want %.20q", err, text)
	}
	if body := string(got.GetPayload().GetBody()); body != text {
		t.Errorf("receive: got %.20q, want %.20q", body, text)
	}
}

// wantEnd receives the end of a stream.
func wantEnd(t *testing.T, s testgrpc.TestService_FullDuplexCallClient, code codes.Code) error {
	t.Helper()
	got, err := s.Recv()
	switch {
	case err == nil:
		t.Errorf("receive: got %v, want the end with %v", got, code)
	case code == codes.OK && !errors.Is(err, io.EOF), code != codes.OK && status.Code(err) != code:
		t.Errorf("receive: got %v, want the end with %v", err, code)
	}
	return err
}

// shout responds to each message with its text in capitals, until the client closes the
// stream.
func shout(s testgrpc.TestService_FullDuplexCallServer) error {
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := reply(s, strings.ToUpper(string(m.GetPayload().GetBody()))); err != nil {
			return err
		}
	}
}

// TestGRPCStream_interop runs gRPC's interop tests of streams through a retry policy, while
// the server fails every third stream before it responds. It verifies that the interceptor
// supports client, server and bidirectional streams that are retried: order of messages,
// metadata in both directions, status codes, cancellation and deadlines, with a chain that
// runs in a separate goroutine, hooks at the end of the stream, and no leaks. The interop
// functions end the process when they fail.
func TestGRPCStream_interop(t *testing.T) {
	wantNoLeaks(t)
	u, b, events := streamUpstream(t, timeout.Config{Total: timeout.Unlimited, PerTry: waitLimit}, again(3), limits.Config{MaxRequests: 1})
	var streams atomic.Int64
	fail := func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if streams.Add(1)%3 == 0 {
			return errUnavailable
		}
		return handler(srv, s)
	}
	c := testgrpc.NewTestServiceClient(serveGRPC(t, listen(t), interop.NewTestServer(), pilliongrpc.StreamClientInterceptor(u), fail))
	const rounds = 30
	calls := 0
	for range rounds {
		for _, do := range []func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption){
			interop.DoClientStreaming, interop.DoServerStreaming, interop.DoPingPong, interop.DoEmptyStream,
			interop.DoCancelAfterFirstResponse, interop.DoCancelAfterBegin, interop.DoTimeoutOnSleepingServer,
			interop.DoCustomMetadata, interop.DoStatusCodeAndMessage,
		} {
			do(t.Context(), c)
			calls++
			wantSoon(t, events.ends, "the end of the call")
		}
	}
	if got := events.count(policy.EventEnd); got != calls {
		t.Errorf("calls that ended: got %d, want %d", got, calls)
	}
	attempts, ended, retried := events.count(policy.EventAttempt), events.count(policy.EventAttemptEnd), events.count(policy.EventRetry)
	if attempts != ended || attempts != calls+retried || retried < calls/4 {
		t.Errorf("attempts: got %d begun, %d ended, %d of them retries of %d calls; want as many ends, and a third failed",
			attempts, ended, retried, calls)
	}
	t.Logf("%d calls, %d attempts, %d retries, breaker %+v", calls, attempts, retried, b.Status())
}

// TestGRPCStream_replay has a server fail after it has read some messages: the next attempt
// receives them again, unchanged.
func TestGRPCStream_replay(t *testing.T) {
	wantNoLeaks(t)
	u, b, events := streamUpstream(t, again(2), limits.Config{MaxRequests: 1})
	service := &bidi{serve: func(n int64, s testgrpc.TestService_FullDuplexCallServer) error {
		if n < 3 {
			for range n {
				if _, err := s.Recv(); err != nil {
					return err
				}
			}
			return errUnavailable
		}
		return shout(s)
	}}
	c := streamClient(t, service, u)
	ctx, info := pillion.WithInfo(t.Context())
	s := startStream(ctx, t, c)
	m := message("one")
	for _, text := range []string{"one", "two", "three"} {
		m.Payload.Body = append(m.Payload.Body[:0], text...) // gRPC forbids this until the call has returned
		if err := s.Send(m); err != nil {
			t.Errorf("send: %v", err)
		}
	}
	for _, text := range []string{"ONE", "TWO", "THREE"} {
		wantText(t, s, text)
	}
	sendText(t, s, "four") // from here on the stream is not buffered
	wantText(t, s, "FOUR")
	if err := s.CloseSend(); err != nil {
		t.Errorf("CloseSend: %v", err)
	}
	_ = wantEnd(t, s, codes.OK)
	end := wantSoon(t, events.ends, "the end of the call")
	if end.Err != nil || info.Attempts() != 3 || info.Flags() != 0 || !info.Done() {
		t.Errorf("got %v, %d attempts, %v, done %v, want no error, 3, no flags and true", end.Err, info.Attempts(), info.Flags(), info.Done())
	}
	if got, want := b.Status(), (breaker.Status{Success: 1, Failure: 2}); got != want {
		t.Errorf("breaker: got %+v, want %+v", got, want)
	}
}

// TestGRPCStream_retriesUsedUp checks that the caller receives the last status after all
// attempts.
func TestGRPCStream_retriesUsedUp(t *testing.T) {
	wantNoLeaks(t)
	u, b, _ := streamUpstream(t, again(2), limits.Config{})
	c := streamClient(t, &bidi{serve: func(_ int64, s testgrpc.TestService_FullDuplexCallServer) error {
		s.SetTrailer(metadata.Pairs("why", "busy"))
		return errUnavailable
	}}, u)
	ctx, info := pillion.WithInfo(t.Context())
	s := startStream(ctx, t, c)
	_ = wantEnd(t, s, codes.Unavailable)
	if got := s.Trailer().Get("why"); !slices.Equal(got, []string{"busy"}) {
		t.Errorf("trailer: got %v, want the last attempt's", s.Trailer())
	}
	if info.Attempts() != 3 || info.Flags() != envoy.URX || info.Code() != int(codes.Unavailable) {
		t.Errorf("got %d attempts, %v, code %d, want 3, URX, 14", info.Attempts(), info.Flags(), info.Code())
	}
	if got, want := b.Status(), (breaker.Status{Failure: 3}); got != want {
		t.Errorf("breaker: got %+v, want %+v", got, want)
	}
}

// TestGRPCStream_overTheBuffer has a client send more than the buffer can hold: the call
// has one attempt, whose failure is the result.
func TestGRPCStream_overTheBuffer(t *testing.T) {
	wantNoLeaks(t)
	u, _, events := streamUpstream(t, again(3), limits.Config{}, pillion.Options{ReplayBuffer: 20})
	service := &bidi{serve: func(_ int64, s testgrpc.TestService_FullDuplexCallServer) error {
		for range 2 {
			if _, err := s.Recv(); err != nil {
				return err
			}
		}
		return errUnavailable
	}}
	s := startStream(t.Context(), t, streamClient(t, service, u))
	sendText(t, s, "this fits in")
	sendText(t, s, "this is too much for it")
	_ = wantEnd(t, s, codes.Unavailable)
	if got := service.n.Load(); got != 1 {
		t.Errorf("streams that the server received: got %d, want 1", got)
	}
	if got := events.count(policy.EventRetryAbandoned); got != 1 {
		t.Errorf("retries abandoned: got %d, want 1", got)
	}
}

// TestGRPCStream_responded has a stream fail after the first response message: it cannot be
// retried, and the breaker counts a failure.
func TestGRPCStream_responded(t *testing.T) {
	wantNoLeaks(t)
	u, b, events := streamUpstream(t, again(3), limits.Config{})
	service := &bidi{serve: func(_ int64, s testgrpc.TestService_FullDuplexCallServer) error {
		if err := reply(s, "hello"); err != nil {
			return err
		}
		return errUnavailable
	}}
	s := startStream(t.Context(), t, streamClient(t, service, u))
	wantText(t, s, "hello")
	_ = wantEnd(t, s, codes.Unavailable)
	end := wantSoon(t, events.ends, "the end of the call")
	if status.Code(end.Err) != codes.Unavailable || !end.Has(policy.GRPCUnavailable) {
		t.Errorf("end: got %v, condition %b, want Unavailable", end.Err, end.Conditions)
	}
	if got, want := b.Status(), (breaker.Status{Failure: 1}); got != want || service.n.Load() != 1 {
		t.Errorf("breaker: got %+v after %d streams, want %+v after 1", got, service.n.Load(), want)
	}
}

// TestGRPCStream_slot checks that a stream holds its slot in the limits until its end, and
// releases it: when it is read to its end, and when its context ends although it is not
// read.
func TestGRPCStream_slot(t *testing.T) {
	wantNoLeaks(t)
	u, b, events := streamUpstream(t, again(1), limits.Config{MaxRequests: 1})
	c := streamClient(t, &bidi{serve: func(_ int64, s testgrpc.TestService_FullDuplexCallServer) error { return shout(s) }}, u)
	refused := func() {
		t.Helper()
		if err := wantEnd(t, startStream(t.Context(), t, c), codes.Unavailable); !errors.Is(err, limits.ErrFull) {
			t.Errorf("a second stream: got %v, want it to be ErrFull", err)
		}
		wantSoon(t, events.ends, "the end of the refused call")
	}

	s := startStream(t.Context(), t, c)
	sendText(t, s, "one")
	wantText(t, s, "ONE")
	refused()
	if err := s.CloseSend(); err != nil {
		t.Errorf("CloseSend: %v", err)
	}
	_ = wantEnd(t, s, codes.OK)
	wantSoon(t, events.ends, "the end of the first stream")

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s = startStream(ctx, t, c)
	sendText(t, s, "two")
	wantText(t, s, "TWO")
	refused()
	cancel()
	if end := wantSoon(t, events.ends, "the end of the stream that is not read"); end.Conditions != policy.Cancelled || end.Flags != envoy.DC {
		t.Errorf("end: got %b %v, want %b DC", end.Conditions, end.Flags, policy.Cancelled)
	}
	_ = wantEnd(t, s, codes.Canceled)

	s = startStream(t.Context(), t, c)
	sendText(t, s, "three")
	wantText(t, s, "THREE")
	if err := s.CloseSend(); err != nil {
		t.Errorf("CloseSend: %v", err)
	}
	_ = wantEnd(t, s, codes.OK)
	wantSoon(t, events.ends, "the end of the last stream")
	if got, want := b.Status(), (breaker.Status{Success: 2}); got != want {
		t.Errorf("breaker: got %+v, want %+v", got, want)
	}
}

// TestGRPCStream_limits applies timeouts to streams, in a synctest bubble: the timeout of
// an attempt ends with the header, that of the call does not, and only the latter is sent
// to the server.
func TestGRPCStream_limits(t *testing.T) {
	silent := func(s testgrpc.TestService_FullDuplexCallServer) error {
		<-s.Context().Done()
		return s.Context().Err()
	}
	tests := []struct {
		name    string
		limits  timeout.Config
		serve   func(n int64, s testgrpc.TestService_FullDuplexCallServer) error
		first   string // the first message, if any
		code    codes.Code
		took    time.Duration
		streams int64
	}{
		{
			name: "a long stream with a timeout per attempt", limits: timeout.Config{Total: timeout.Unlimited, PerTry: time.Second},
			serve: func(_ int64, s testgrpc.TestService_FullDuplexCallServer) error {
				if _, ok := s.Context().Deadline(); ok {
					t.Error("the server received a deadline, want none")
				}
				if err := s.SendHeader(nil); err != nil {
					return err
				}
				time.Sleep(time.Hour)
				return reply(s, "late")
			},
			first: "late", code: codes.OK, took: time.Hour, streams: 1,
		},
		{
			name: "a header later than the timeout per attempt", limits: timeout.Config{Total: timeout.Unlimited, PerTry: time.Second},
			serve: func(n int64, s testgrpc.TestService_FullDuplexCallServer) error {
				if n == 1 {
					return silent(s)
				}
				return reply(s, "second")
			},
			first: "second", code: codes.OK, took: time.Second, streams: 2,
		},
		{
			name: "no header", limits: timeout.Config{Total: 1500 * time.Millisecond, PerTry: time.Second},
			serve: func(_ int64, s testgrpc.TestService_FullDuplexCallServer) error { return silent(s) },
			code:  codes.DeadlineExceeded, took: 1500 * time.Millisecond, streams: 2,
		},
		{
			name: "a stream longer than the limit of the call", limits: timeout.Config{Total: time.Minute},
			serve: func(_ int64, s testgrpc.TestService_FullDuplexCallServer) error {
				if until, ok := s.Context().Deadline(); !ok || time.Until(until) > time.Minute {
					t.Errorf("the server's deadline: got %v, want it within a minute", until)
				}
				if err := reply(s, "first"); err != nil {
					return err
				}
				return silent(s)
			},
			first: "first", code: codes.DeadlineExceeded, took: time.Minute, streams: 1,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				retries := again(3)
				retries.On = "reset,unavailable"
				u, _, events := streamUpstream(t, test.limits, retries, limits.Config{MaxRequests: 1})
				service := &bidi{serve: test.serve}
				began := time.Now()
				s := startStream(t.Context(), t, streamClient(t, service, u))
				if err := s.CloseSend(); err != nil { // the timeouts of an attempt begin here
					t.Error(err)
				}
				if test.first != "" {
					wantText(t, s, test.first)
				}
				_ = wantEnd(t, s, test.code)
				if got := time.Since(began); got != test.took {
					t.Errorf("took %v, want %v", got, test.took)
				}
				<-events.ends
				if got := service.n.Load(); got != test.streams {
					t.Errorf("streams that the server received: got %d, want %d", got, test.streams)
				}
			})
		})
	}
}

// TestGRPCStream_bothWays has client and server send large amounts of data concurrently,
// more than flow control allows to be unread, while attempts fail.
func TestGRPCStream_bothWays(t *testing.T) {
	wantNoLeaks(t)
	const messages = 200
	u, _, events := streamUpstream(t, again(2), limits.Config{MaxRequests: 1}, pillion.Options{ReplayBuffer: 15 << 10})
	text := strings.Repeat("x", 10<<10)
	service := &bidi{serve: func(n int64, s testgrpc.TestService_FullDuplexCallServer) error {
		if n == 1 {
			if _, err := s.Recv(); err != nil {
				return err
			}
			return errUnavailable
		}
		return shout(s)
	}}
	s := startStream(t.Context(), t, streamClient(t, service, u))
	var sending sync.WaitGroup
	sending.Go(func() {
		for i := range messages {
			sendText(t, s, text)
			if i == 0 {
				// The next message exceeds the buffer: if it were sent earlier, there would
				// be no second attempt.
				_, _ = s.Header()
			}
		}
		_ = s.CloseSend()
	})
	for range messages {
		wantText(t, s, strings.ToUpper(text))
	}
	_ = wantEnd(t, s, codes.OK)
	sending.Wait()
	wantSoon(t, events.ends, "the end of the call")
	if got := service.n.Load(); got != 2 {
		t.Errorf("streams that the server received: got %d, want 2", got)
	}
}

// TestGRPCStream_discard discards an open stream because of its header: the server must see
// it end.
func TestGRPCStream_discard(t *testing.T) {
	wantNoLeaks(t)
	retries := retry.Config{On: "retriable-headers", RetriableHeaders: []retry.HeaderMatcher{{Name: "x-again"}}, Rand: func() float64 { return 0 }}
	u, b, events := streamUpstream(t, retries, limits.Config{MaxRequests: 1})
	left := make(chan struct{})
	service := &bidi{serve: func(n int64, s testgrpc.TestService_FullDuplexCallServer) error {
		if n == 1 {
			if err := s.SendHeader(metadata.Pairs("x-again", "1")); err != nil {
				return err
			}
			<-s.Context().Done()
			close(left)
			return nil
		}
		return shout(s)
	}}
	s := startStream(t.Context(), t, streamClient(t, service, u))
	sendText(t, s, "hello")
	wantText(t, s, "HELLO")
	_ = s.CloseSend()
	_ = wantEnd(t, s, codes.OK)
	wantSoon(t, left, "the end of the first stream at the server")
	wantSoon(t, events.ends, "the end of the call")
	if got := events.count(policy.EventAttemptEnd); got != 2 {
		t.Errorf("attempts that ended: got %d, want 2", got)
	}
	if got := b.Status(); got.Failure != 0 || got.Timeout != 0 {
		t.Errorf("breaker: got %+v, want no failures", got)
	}
}

// TestGRPCStream_bare uses no policies: the call has no goroutine that waits for the end,
// and the stream's own result is passed on.
func TestGRPCStream_bare(t *testing.T) {
	wantNoLeaks(t)
	u, err := pillion.New("upstream")
	if err != nil {
		t.Fatal(err)
	}
	service := &bidi{serve: func(n int64, s testgrpc.TestService_FullDuplexCallServer) error {
		if n == 1 {
			return shout(s)
		}
		return errUnavailable
	}}
	c := streamClient(t, service, u)
	s := startStream(t.Context(), t, c)
	sendText(t, s, "hello")
	wantText(t, s, "HELLO")
	_ = s.CloseSend()
	_ = wantEnd(t, s, codes.OK)
	_ = wantEnd(t, startStream(t.Context(), t, c), codes.Unavailable)
}

// TestGRPCStream_idle has a stream stop sending until the idle timeout fires.
func TestGRPCStream_idle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, _, events := streamUpstream(t, timeout.Config{Total: time.Hour, Idle: time.Second})
		service := &bidi{serve: func(_ int64, s testgrpc.TestService_FullDuplexCallServer) error {
			if err := reply(s, "first"); err != nil {
				return err
			}
			<-s.Context().Done()
			return s.Context().Err()
		}}
		began := time.Now()
		s := startStream(t.Context(), t, streamClient(t, service, u))
		wantText(t, s, "first")
		_ = wantEnd(t, s, codes.DeadlineExceeded)
		if got := time.Since(began); got != time.Second {
			t.Errorf("took %v, want the idle timeout of 1s", got)
		}
		<-events.ends
	})
}
