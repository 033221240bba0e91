package pilliongrpc_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/internal/raceflag"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/pilliongrpc"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
	"github.com/pillion-go/pillion/tracing"
)

// traced is the part of a segment document that tests read.
type traced struct {
	Name, ID, Namespace string
	TraceID             string `json:"trace_id"`
	ParentID            string `json:"parent_id"`
	Fault, Error        bool
	Throttle            bool
	Annotations         map[string]any
	HTTP                struct{ Request struct{ Method, URL string } }
	Cause               struct {
		Exceptions []struct{ Message, Type string }
	}
}

// daemon reads segments from a UDP socket.
func daemon(t *testing.T) *net.UDPConn {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadBuffer(1 << 20)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// documents reads n segment documents.
func documents(t *testing.T, conn *net.UDPConn, n int) map[string]traced {
	t.Helper()
	found := map[string]traced{}
	buf := make([]byte, 1<<16)
	for range n {
		size, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		_, body, _ := strings.Cut(string(buf[:size]), "\n")
		var d traced
		if err := json.Unmarshal([]byte(body), &d); err != nil {
			t.Fatal(err)
		}
		found[d.Name] = d
	}
	return found
}

// TestTracing records the client's call and the server's part of it, for every kind of call, with
// the error flags of the X-Ray SDK.
func TestTracing(t *testing.T) {
	tests := []struct {
		name                   string
		serve                  func() error
		fault, isErr, throttle bool
	}{
		{"good", func() error { return nil }, false, false, false},
		{"not found", func() error { return status.Error(codes.NotFound, "gone") }, false, true, false},
		{"too much", func() error { return status.Error(codes.ResourceExhausted, "slower") }, false, true, true},
		{"broken", func() error { return status.Error(codes.Internal, "oops") }, true, false, false},
		{"panic", func() error { panic("oops") }, true, false, false},
	}
	for _, test := range tests {
		for _, kind := range kinds {
			t.Run(test.name+"/"+kind.name, func(t *testing.T) {
				conn := daemon(t)
				tracer, err := tracing.New(tracing.Config{Name: "web", Daemon: conn.LocalAddr().String()})
				if err != nil {
					t.Fatal(err)
				}
				defer tracer.Close(context.Background())
				out, _ := upstream(t, tracing.Client{Tracer: tracer}, retry.Config{On: "unavailable"})
				in, err := pillion.New("front", tracing.Server{Tracer: tracer, Name: "front"}, limits.Config{})
				if err != nil {
					t.Fatal(err)
				}
				c := client(t, &service{serve: func(ctx context.Context, _ int64, _ stream) error {
					if tracing.Current(ctx) == nil {
						t.Error("got no segment in the handler, want one")
					}
					return test.serve()
				}}, out, serverOptions(t, in)...)
				ctx, seg := tracer.Trace(t.Context(), "")
				_ = kind.call(ctx, c)
				seg.End(nil)
				found := documents(t, conn, 3)
				web, call, front := found["web"], found["recipes"], found["front"]
				if call.ParentID != web.ID || front.ParentID != call.ID || front.TraceID != web.TraceID || call.Namespace != "remote" {
					t.Errorf("got %+v\nwant front below recipes below web", found)
				}
				for _, d := range []traced{call, front} {
					if d.Fault != test.fault || d.Error != test.isErr || d.Throttle != test.throttle {
						t.Errorf("%s: got fault %v, error %v, throttle %v, want %v, %v, %v", d.Name, d.Fault, d.Error, d.Throttle, test.fault, test.isErr, test.throttle)
					}
					if !strings.Contains(d.HTTP.Request.URL, "/grpc.testing.TestService/") {
						t.Errorf("%s: got URL %q", d.Name, d.HTTP.Request.URL)
					}
				}
			})
		}
	}
	for _, p := range []pillion.Policy{tracing.Server{}} {
		if _, err := pillion.New("front", p); err == nil {
			t.Error("got no error for a Server without a tracer, want one")
		}
	}
}

// TestAllocations checks the allocations of the unary interceptor under all policies.
func TestAllocations(t *testing.T) {
	registry, _ := metrics.NewRegistry(metrics.Settings{})
	u, err := pillion.New("recipes", metrics.Config{Registry: registry}, timeout.Config{PerTry: 1e9}, retry.Config{On: "unavailable"}, limits.Config{}, breaker.Config{})
	if err != nil {
		t.Fatal(err)
	}
	intercept := pilliongrpc.UnaryClientInterceptor(u)
	ctx, reply := context.Background(), &struct{ int }{}
	invoke := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil }
	runtime.GC()
	if got := testing.AllocsPerRun(1000, func() { _ = intercept(ctx, "/pkg.Svc/Method", reply, reply, nil, invoke) }); got > 6 && !raceflag.Enabled {
		t.Errorf("got %v allocations, want at most 6", got)
	}
}

// TestIdempotent checks that calls with an idempotency key are retried under the default conditions.
func TestIdempotent(t *testing.T) {
	for _, kind := range kinds {
		for key, want := range map[string]int{"": 1, "42": 2} {
			u, log := upstream(t, retry.Config{Rand: func() float64 { return 0 }})
			c := plainHTTP(t, u, func(*conns, http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
			ctx := t.Context()
			if key != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "idempotency-key", key)
			}
			_ = kind.call(ctx, c)
			<-log.ends
			if got := log.count(policy.EventAttempt); got != int64(want) {
				t.Errorf("%s with key %q: got %d attempts, want %d", kind.name, key, got, want)
			}
		}
	}
}
