package pilliongrpc_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/pilliongrpc"
	"github.com/pillion-go/pillion/policy"
)

// conns records the connections that a listener accepted, to cut them.
type conns struct {
	net.Listener
	mu   sync.Mutex
	list []net.Conn // guarded by mu
	heads
}

// heads signals that the client has received response headers.
type heads chan struct{}

func (heads) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (heads) HandleConn(context.Context, stats.ConnStats)                       {}
func (heads) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }

func (h heads) HandleRPC(_ context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.InHeader); ok {
		h <- struct{}{}
	}
}

func (l *conns) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.mu.Lock()
		l.list = append(l.list, c)
		l.mu.Unlock()
	}
	return c, err
}

// cut closes all connections, with a reset if possible.
func (l *conns) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.list {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
}

// plainHTTP serves HTTP/2 without TLS and without gRPC, and returns a gRPC client of it.
func plainHTTP(t *testing.T, u *pillion.Upstream,
	serve func(l *conns, w http.ResponseWriter, r *http.Request), inside ...grpc.DialOption,
) testgrpc.TestServiceClient {
	t.Helper()
	options := append(append(pilliongrpc.DialOptions(u), grpc.WithTransportCredentials(insecure.NewCredentials())), inside...)
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &conns{Listener: inner, heads: make(heads, 10)}
	options = append(options, grpc.WithStatsHandler(l.heads))
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Protocols: protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serve(l, w, r) })}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	conn, err := grpc.NewClient("passthrough:///"+inner.Addr().String(), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		_ = server.Close()
		serving.Wait()
	})
	return testgrpc.NewTestServiceClient(conn)
}

// grpcHead sends the headers of a gRPC response.
func grpcHead(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/grpc")
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
}

// TestWire checks each kind of failure of the upstream and the network: the status is that of
// Envoy's local reply, its details have the response flag, the statistics are those of HTTP, and the
// conditions of HTTP retry it.
func TestWire(t *testing.T) {
	tests := []struct {
		name   string
		serve  func(l *conns, w http.ResponseWriter, r *http.Request)
		code   codes.Code
		flags  envoy.Flags
		detail *envoy.Detail
		answer int    // in the statistics
		word   string // the condition that retries it; "" for none
		memory bool   // not over a socket
	}{
		{
			name:  "a stream reset before the headers",
			serve: func(*conns, http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
			code:  codes.Unavailable, flags: envoy.UR, detail: envoy.RemoteReset, answer: 503, word: "reset",
		},
		{
			name: "a stream reset in the response",
			serve: func(_ *conns, w http.ResponseWriter, _ *http.Request) {
				grpcHead(w)
				panic(http.ErrAbortHandler)
			},
			code: codes.Internal, flags: envoy.UR, detail: envoy.RemoteResetAfter, answer: 200,
		},
		{
			name:  "a connection reset before the headers",
			serve: func(l *conns, _ http.ResponseWriter, _ *http.Request) { l.cut() },
			code:  codes.Unavailable, flags: envoy.UC, detail: envoy.ConnectionTermination, answer: 503, word: "reset",
		},
		{
			name: "a connection closed in the response",
			serve: func(l *conns, w http.ResponseWriter, _ *http.Request) {
				grpcHead(w)
				<-l.heads // a reset drops data not yet read
				l.cut()
			},
			code: codes.Unavailable, flags: envoy.UC, detail: envoy.ConnectionTerminationAfter, answer: 200,
		},
		{
			name:  "a plain HTTP response",
			serve: func(_ *conns, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
			code:  codes.Unavailable, detail: envoy.ViaUpstream, answer: 503, word: "5xx",
		},
		{
			name:  "a plain HTTP 404",
			serve: func(_ *conns, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
			code:  codes.Unimplemented, detail: envoy.ViaUpstream, answer: 404,
		},
		{
			name:  "a response without trailers",
			serve: func(_ *conns, w http.ResponseWriter, _ *http.Request) { grpcHead(w) },
			code:  codes.Internal, flags: envoy.UPE, detail: envoy.MalformedResponseAfter, answer: 200,
		},
	}
	for _, test := range tests {
		for _, kind := range kinds {
			t.Run(test.name+"/"+kind.name, func(t *testing.T) {
				b, err := breaker.New(breaker.Config{Threshold: breaker.Never})
				if err != nil {
					t.Fatal(err)
				}
				registry, _ := metrics.NewRegistry(metrics.Settings{})
				on := "reset,5xx,unavailable,internal"
				u, log := upstream(t, metrics.Config{Registry: registry}, again(on, 1), limits.Config{MaxRequests: 1}, b)
				c := plainHTTP(t, u, test.serve)
				ctx, info := pillion.WithInfo(t.Context())
				got := kind.call(ctx, c)
				end := <-log.ends
				want := 1
				if test.word != "" {
					want = 2
				}
				flags := test.flags
				if want == 2 {
					flags |= envoy.URX
				}
				if status.Code(got) != test.code || info.Attempts() != want || end.Detail != test.detail || end.Flags != flags {
					t.Errorf("got %v\nafter %d attempts, %v %v, want %v after %d, %v %v",
						got, info.Attempts(), end.Flags, end.Detail, test.code, want, flags, test.detail)
				}
				if test.flags != 0 {
					wantFlags(t, got, test.flags)
				}
				if got := counted(registry, test.answer); got != 1 {
					t.Errorf("upstream_rq_%d: got %d, want 1", test.answer, got)
				}
				if got := b.Status(); got.Failure != int64(want) && test.answer != 404 {
					t.Errorf("breaker: got %+v, want %d failures", got, want)
				}
			})
		}
	}
}

// counted returns how often a code was counted.
func counted(r *metrics.Registry, code int) uint64 {
	var b strings.Builder
	h := metrics.Handler(r)
	req, _ := http.NewRequestWithContext(context.Background(), http.MethodGet, "/stats", nil)
	h.ServeHTTP(page{&b}, req)
	for line := range strings.Lines(b.String()) {
		if rest, ok := strings.CutPrefix(line, "cluster.recipes.upstream_rq_"+strconv.Itoa(code)+": "); ok && strings.TrimSpace(rest) != "" {
			return uint64(rest[0] - '0')
		}
	}
	return 0
}

// page is a ResponseWriter.
type page struct{ io.Writer }

func (page) Header() http.Header { return http.Header{} }
func (page) WriteHeader(int)     {}

// wantFlags checks the flags in the status's details and in the error itself.
func wantFlags(t *testing.T, err error, flags envoy.Flags) {
	t.Helper()
	var own *pilliongrpc.Error
	if !errors.As(err, &own) || !own.Flags.Has(flags) {
		t.Fatalf("got %#v, want an Error with flags %v", err, flags)
	}
	s, ok := status.FromError(err)
	if !ok {
		t.Fatalf("got %v, want a status", err)
	}
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			if info.GetDomain() != pilliongrpc.Domain || !strings.Contains(info.GetMetadata()["response_flags"], flags.String()) ||
				info.GetMetadata()["upstream_cluster"] != "recipes" || info.GetReason() == "" {
				t.Errorf("got %v, want flags %v of recipes", info, flags)
			}
			return
		}
	}
	t.Errorf("got details %v, want an ErrorInfo", s.Details())
}

// TestConnect dials servers that are unreachable or do not speak HTTP/2: the conditions of HTTP
// retry the call, and nothing was sent.
func TestConnect(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	tests := []struct {
		name, target string
		dial         func(context.Context, string) (net.Conn, error)
		flags        envoy.Flags
		detail       *envoy.Detail
	}{
		{"no listener", "passthrough:///" + closed.Addr().String(), nil, envoy.UF, envoy.ConnectionRefused},
		{"an unknown name", "dns:///no-such-host.invalid:1", nil, envoy.DF, envoy.DNSFailure},
		{"no route", "passthrough:///x", func(context.Context, string) (net.Conn, error) {
			return nil, errors.New("no route to host")
		}, envoy.UF, envoy.ConnectionFailure},
	}
	for _, test := range tests {
		for _, kind := range kinds {
			t.Run(test.name+"/"+kind.name, func(t *testing.T) {
				registry, _ := metrics.NewRegistry(metrics.Settings{})
				u, log := upstream(t, metrics.Config{Registry: registry}, again("connect-failure", 1), limits.Config{MaxRequests: 1})
				options := append(pilliongrpc.DialOptions(u), grpc.WithTransportCredentials(insecure.NewCredentials()))
				if test.dial != nil {
					options = append(options, grpc.WithContextDialer(test.dial))
				}
				conn, err := grpc.NewClient(test.target, options...)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				ctx, info := pillion.WithInfo(t.Context())
				got := kind.call(ctx, testgrpc.NewTestServiceClient(conn))
				end := <-log.ends
				if status.Code(got) != codes.Unavailable || end.Flags != test.flags|envoy.URX || end.Detail != test.detail || info.Attempts() != 2 {
					t.Errorf("got %v, %v %v after %d attempts, want Unavailable, %v %v after 2", got, end.Flags, end.Detail, info.Attempts(), test.flags, test.detail)
				}
				wantFlags(t, got, test.flags)
				if got := registry.Cluster("recipes").Counter("upstream_rq_total").Value(); got != 0 {
					t.Errorf("upstream_rq_total: got %d, want 0, because nothing was sent", got)
				}
			})
		}
	}
}

// TestBadRequests makes requests that gRPC does not send, and receives responses that it does not
// accept: they are no failure of the upstream and not retried, and the status describes the error.
func TestBadRequests(t *testing.T) {
	big := &testgrpc.SimpleRequest{Payload: &testgrpc.Payload{Body: make([]byte, 1000)}}
	bigPart := &testgrpc.StreamingOutputCallRequest{Payload: big.GetPayload()}
	send := func(ctx context.Context, c testgrpc.TestServiceClient, options ...grpc.CallOption) error {
		s, err := c.FullDuplexCall(ctx, options...)
		if err != nil {
			return err
		}
		if err = s.Send(bigPart); err != nil && !errors.Is(err, io.EOF) {
			_, _ = s.Recv()
			return err
		}
		_, err = s.Recv()
		return err
	}
	tests := []struct {
		name string
		call func(ctx context.Context, c testgrpc.TestServiceClient) error
		code codes.Code
		sent int64
	}{
		{"metadata that is not ASCII, unary", func(ctx context.Context, c testgrpc.TestServiceClient) error {
			return kinds[0].call(metadata.AppendToOutgoingContext(ctx, "name", "日本"), c)
		}, codes.Internal, 0},
		{"metadata that is not ASCII, stream", func(ctx context.Context, c testgrpc.TestServiceClient) error {
			return kinds[3].call(metadata.AppendToOutgoingContext(ctx, "name", "日本"), c)
		}, codes.Internal, 0},
		{"a request over the limit, unary", func(ctx context.Context, c testgrpc.TestServiceClient) error {
			_, err := c.UnaryCall(ctx, big, grpc.MaxCallSendMsgSize(100))
			return err
		}, codes.ResourceExhausted, 0},
		{"a request over the limit, stream", func(ctx context.Context, c testgrpc.TestServiceClient) error {
			return send(ctx, c, grpc.MaxCallSendMsgSize(100))
		}, codes.ResourceExhausted, 0},
		{"a response over the limit, unary", func(ctx context.Context, c testgrpc.TestServiceClient) error {
			return kinds[0].call(ctx, c, grpc.MaxCallRecvMsgSize(1))
		}, codes.ResourceExhausted, 1},
		{"an unknown method", func(ctx context.Context, c testgrpc.TestServiceClient) error {
			_, err := c.UnimplementedCall(ctx, &testgrpc.Empty{})
			return err
		}, codes.Unimplemented, 0},
		{"a context that has ended, unary", func(ctx context.Context, c testgrpc.TestServiceClient) error {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return kinds[0].call(ctx, c)
		}, codes.Canceled, 0},
		{"a context that has ended, stream", func(ctx context.Context, c testgrpc.TestServiceClient) error {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return kinds[3].call(ctx, c)
		}, codes.Canceled, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b, err := breaker.New(breaker.Config{Threshold: breaker.Never})
			if err != nil {
				t.Fatal(err)
			}
			u, log := upstream(t, again("unavailable,internal,cancelled,resource-exhausted,reset,5xx", 3), limits.Config{MaxRequests: 1}, b)
			s := &service{serve: func(context.Context, int64, stream) error { return nil }}
			c := client(t, s, u)
			got := test.call(t.Context(), c)
			if status.Code(got) != test.code {
				t.Errorf("got %v, want %v", got, test.code)
			}
			<-log.ends
			if got := log.count(policy.EventRetry); got != 0 {
				t.Errorf("got %d retries, want none", got)
			}
			if got := b.Status(); test.code != codes.Unimplemented && got.Failure+got.Timeout != 0 {
				t.Errorf("breaker: got %+v, want no failure", got)
			}
			if err := kinds[0].call(t.Context(), c); err != nil {
				t.Errorf("the next call: %v, want its slot freed", err)
			}
		})
	}
}
