package pilliongrpc_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/cluster"
	"github.com/pillion-go/pillion/internal/testtime"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/pilliongrpc"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/timeout"
)

// host starts a server, and counts its calls.
func host(t *testing.T, serve func(ctx context.Context, n int64, s stream) error) (address string, calls *atomic.Int64) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	of := &service{serve: serve}
	server := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(server, of)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() { server.Stop(); serving.Wait() })
	return listener.Addr().String(), &of.n
}

// hosted dials the hosts of an upstream.
func hosted(t *testing.T, r pillion.Resolver, target string) testgrpc.TestServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(target, append(pilliongrpc.DialOptions(r), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return testgrpc.NewTestServiceClient(conn)
}

// hostStats is a policy that finds the statistics of those inside it.
type hostStats map[string]func() uint64

func (s hostStats) Wrap(b *policy.Builder, next policy.Func) (policy.Func, error) {
	b.Stats(func(of policy.Stat) error {
		s[of.Name] = of.Read
		return nil
	})
	return next, nil
}

func madeCluster(t *testing.T, cfg cluster.Config) *cluster.Cluster {
	t.Helper()
	c, err := cluster.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// TestHosts sends calls of each kind to the hosts in turn, whatever the target, and leaves nothing
// behind.
func TestHosts(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			a, ofA := host(t, answering)
			b, ofB := host(t, answering)
			stat := hostStats{}
			u, _ := upstream(t, stat, limits.Config{MaxConnections: 1}, madeCluster(t, cluster.Config{Endpoints: cluster.Addresses(a, b)}))
			c := hosted(t, u, "recipes.internal")
			for range 6 {
				ctx, info := pillion.WithInfo(t.Context())
				if err := kind.call(ctx, c); err != nil {
					t.Fatal(err)
				}
				if got := info.Endpoint(); got != a && got != b {
					t.Errorf("got endpoint %q, want that of a host", got)
				}
			}
			if ofA.Load() != 3 || ofB.Load() != 3 {
				t.Errorf("got %d and %d calls, want 3 each", ofA.Load(), ofB.Load())
			}
			for name, want := range map[string]uint64{
				"upstream_rq_total": 6, "upstream_rq_active": 0, "upstream_rq_pending_total": 2, "upstream_rq_pending_active": 0,
				"upstream_cx_total": 2, "upstream_cx_http2_total": 2, "upstream_cx_active": 2, "upstream_cx_overflow": 1,
				"circuit_breakers.default.cx_open": 1,
			} {
				testtime.Eventually(t, func() bool { return stat[name]() == want })
			}
		})
	}
}

// TestHosts_retry retries on another host: after a failed connect, and after a status.
func TestHosts_retry(t *testing.T) {
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	ill, _ := host(t, func(context.Context, int64, stream) error { return status.Error(codes.Unavailable, "ill") })
	good, _ := host(t, answering)
	stat := hostStats{}
	u, _ := upstream(t, stat, again("connect-failure,unavailable", 2), madeCluster(t, cluster.Config{
		Endpoints: cluster.Addresses(gone.Addr().String(), ill, good), Rand: func() uint64 { return 0 },
	}))
	c := hosted(t, u, "passthrough:///recipes")
	ctx, info := pillion.WithInfo(t.Context())
	if _, err := c.UnaryCall(ctx, &testgrpc.SimpleRequest{}); err != nil {
		t.Fatal(err)
	}
	if info.Attempts() != 3 || info.Endpoint() != good {
		t.Errorf("got %d attempts and %s, want 3 and %s", info.Attempts(), info.Endpoint(), good)
	}
	for name, want := range map[string]uint64{
		"upstream_cx_connect_fail": 1, "upstream_cx_destroy_remote": 1, "upstream_rq_pending_failure_eject": 1, "upstream_rq_total": 2,
	} {
		if got := stat[name](); got != want {
			t.Errorf("%s: got %d, want %d", name, got, want)
		}
	}
}

// TestHosts_connectFailure describes a failed connect as HTTP has it.
func TestHosts_connectFailure(t *testing.T) {
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	u, _ := upstream(t, madeCluster(t, cluster.Config{Endpoints: cluster.Addresses(gone.Addr().String())}))
	_, err = hosted(t, u, "recipes").UnaryCall(t.Context(), &testgrpc.SimpleRequest{})
	var failed *pillion.UpstreamError
	if status.Code(err) != codes.Unavailable || !errors.As(err, &failed) || failed.Flags.String() != "UF" || !strings.Contains(failed.Detail.String(), "Connection_refused") {
		t.Errorf("got %v, want Unavailable with UF and a refused connection", err)
	}
}

// TestHosts_none refuses a call without a host.
func TestHosts_none(t *testing.T) {
	u, _ := upstream(t, madeCluster(t, cluster.Config{}))
	_, err := hosted(t, u, "recipes").UnaryCall(t.Context(), &testgrpc.SimpleRequest{})
	var refused *pilliongrpc.Error
	if status.Code(err) != codes.Unavailable || !errors.As(err, &refused) || refused.Flags.String() != "UH" {
		t.Errorf("got %v, want Unavailable with UH", err)
	}
}

// TestHosts_limits refuses calls beyond max_requests and max_pending_requests.
func TestHosts_limits(t *testing.T) {
	block, arrived := make(chan struct{}), make(chan struct{}, 1)
	a, _ := host(t, func(ctx context.Context, n int64, s stream) error {
		arrived <- struct{}{}
		<-block
		return answering(ctx, n, s)
	})
	u, _ := upstream(t, limits.Config{MaxRequests: 1}, madeCluster(t, cluster.Config{Endpoints: cluster.Addresses(a)}))
	c := hosted(t, u, "recipes")
	done := make(chan error, 1)
	go func() { _, err := c.UnaryCall(t.Context(), &testgrpc.SimpleRequest{}); done <- err }()
	<-arrived
	var full *limits.FullError
	if _, err := c.UnaryCall(t.Context(), &testgrpc.SimpleRequest{}); !errors.As(err, &full) || full.Limit != "max_requests" {
		t.Errorf("got %v, want max_requests", err)
	}
	close(block)
	if err := <-done; err != nil {
		t.Error(err)
	}
	u, _ = upstream(t, limits.Config{MaxPendingRequests: limits.Zero}, madeCluster(t, cluster.Config{Endpoints: cluster.Addresses(a)}))
	if _, err := hosted(t, u, "recipes").UnaryCall(t.Context(), &testgrpc.SimpleRequest{}); !errors.As(err, &full) || full.Limit != "max_pending_requests" {
		t.Errorf("got %v, want max_pending_requests", err)
	}
}

// TestHosts_outlier ejects a host by its statuses, and drains its connection.
func TestHosts_outlier(t *testing.T) {
	ill, _ := host(t, func(context.Context, int64, stream) error { return status.Error(codes.Internal, "ill") })
	good, _ := host(t, answering)
	stat := hostStats{}
	hosts := madeCluster(t, cluster.Config{
		Endpoints: cluster.Addresses(ill, good), Outlier: &cluster.Outlier{Consecutive5xx: 2, MaxEjectionPercent: 50}, Rand: func() uint64 { return 0 },
	})
	u, _ := upstream(t, stat, hosts)
	c := hosted(t, u, "recipes")
	for range 3 {
		_, _ = c.UnaryCall(t.Context(), &testgrpc.SimpleRequest{})
	}
	if got := hosts.Hosts()[0].Flags; got != "/failed_outlier_check" {
		t.Errorf("got %q, want an ejected host", got)
	}
	for range 4 {
		if _, err := c.UnaryCall(t.Context(), &testgrpc.SimpleRequest{}); err != nil {
			t.Error(err)
		}
	}
	testtime.Eventually(t, func() bool { return stat["upstream_cx_active"]() == 1 })
}

// TestHosts_update serves all calls while the hosts change all the time.
func TestHosts_update(t *testing.T) {
	a, _ := host(t, answering)
	b, _ := host(t, answering)
	stat := hostStats{}
	hosts := madeCluster(t, cluster.Config{Endpoints: cluster.Addresses(a)})
	u, _ := upstream(t, stat, limits.Config{}, hosts)
	c := hosted(t, u, "recipes")
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			if err := hosts.Update(cluster.Addresses([]string{a, b}[i%2])); err != nil {
				t.Error(err)
			}
		}
	}()
	var calls sync.WaitGroup
	for range 4 {
		calls.Go(func() {
			for range 50 {
				if _, err := c.UnaryCall(t.Context(), &testgrpc.SimpleRequest{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	calls.Wait()
	close(stop)
	<-done
	hosts.Close()
	for _, name := range []string{"upstream_cx_active", "upstream_rq_active", "upstream_rq_pending_active"} {
		testtime.Eventually(t, func() bool { return stat[name]() == 0 })
	}
}

// TestHosts_canceled gives back what an attempt held that was canceled while it waited.
func TestHosts_canceled(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // which nothing accepts
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	stat := hostStats{}
	u, _ := upstream(t, stat, limits.Config{}, madeCluster(t, cluster.Config{Endpoints: cluster.Addresses(listener.Addr().String())}))
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := hosted(t, u, "recipes").UnaryCall(ctx, &testgrpc.SimpleRequest{}); status.Code(err) != codes.Canceled {
		t.Errorf("got %v, want Canceled", err)
	}
	if stat["upstream_rq_pending_active"]() != 0 || stat["upstream_rq_cancelled"]() != 1 {
		t.Error("got an attempt that still waits, want one that was canceled")
	}
}

// TestHosts_otherConnection refuses calls over a connection that does not lead to the hosts.
func TestHosts_otherConnection(t *testing.T) {
	a, calls := host(t, answering)
	u, _ := upstream(t, madeCluster(t, cluster.Config{Endpoints: cluster.Addresses(a)}))
	conn, err := grpc.NewClient("passthrough:///"+a, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(pilliongrpc.UnaryClientInterceptor(u)), grpc.WithStreamInterceptor(pilliongrpc.StreamClientInterceptor(u)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	for _, kind := range kinds {
		if err := kind.call(t.Context(), testgrpc.NewTestServiceClient(conn)); err == nil || !strings.Contains(err.Error(), "dial with DialOptions") {
			t.Errorf("%s: got %v, want an error that says how to dial", kind.name, err)
		}
	}
	if calls.Load() != 0 {
		t.Error("got a call, want none")
	}
}

// TestHosts_streamTimeouts counts the stream that a timeout resets, whichever it is.
func TestHosts_streamTimeouts(t *testing.T) {
	const short = 30 * time.Millisecond
	for _, test := range []struct {
		name    string
		outside pillion.Policy
		cluster cluster.Config
	}{
		{"per try", timeout.Config{PerTry: short}, cluster.Config{}},
		{"stream", timeout.Stream{MaxDuration: short}, cluster.Config{}},
		{"stream idle", timeout.Stream{Idle: short}, cluster.Config{}},
		{"stream of the cluster", timeout.Stream{}, cluster.Config{MaxStreamDuration: short}},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, _ := host(t, func(ctx context.Context, _ int64, _ stream) error {
				<-ctx.Done()
				return ctx.Err()
			})
			stat := hostStats{}
			test.cluster.Endpoints = cluster.Addresses(a)
			u, _ := upstream(t, stat, test.outside, madeCluster(t, test.cluster))
			if err := kinds[0].call(t.Context(), hosted(t, u, "recipes")); err == nil {
				t.Error("got no error, want a timeout")
			}
			testtime.Eventually(t, func() bool { return stat["upstream_rq_tx_reset"]() == 1 && stat["upstream_rq_active"]() == 0 })
		})
	}
}

// TestHosts_age pins that a connection takes no more calls from its age, and that none is lost.
func TestHosts_age(t *testing.T) {
	release := make(chan struct{})
	address, served := host(t, func(_ context.Context, n int64, _ stream) error {
		if n == 1 {
			<-release
		}
		return nil
	})
	stat := hostStats{}
	u, _ := upstream(t, stat, madeCluster(t, cluster.Config{
		Endpoints: cluster.Addresses(address), MaxConnectionDuration: 20 * time.Millisecond, MaxConnectionDurationJitter: 50,
	}))
	c := hosted(t, u, "recipes.internal")
	call := func() error { _, err := c.UnaryCall(t.Context(), &testgrpc.SimpleRequest{}); return err }
	first := make(chan error, 1)
	go func() { first <- call() }()
	testtime.Eventually(t, func() bool { return served.Load() == 1 && stat["upstream_cx_max_duration_reached"]() == 1 })
	for range 3 {
		if err := call(); err != nil {
			t.Fatal(err)
		}
	}
	if got := stat["upstream_cx_total"](); got < 2 {
		t.Errorf("got %d connections, want another one after the age of the first", got)
	}
	close(release)
	if err := <-first; err != nil {
		t.Errorf("a call on the old connection: got %v, want it served", err)
	}
	testtime.Eventually(t, func() bool {
		return stat["upstream_cx_active"]() == 0 && stat["upstream_cx_max_duration_reached"]() == stat["upstream_cx_total"]()
	})
}

// TestHosts_endpointStats counts successes and failures of a host by their gRPC status, as Envoy
// does: by the HTTP status to which it corresponds.
func TestHosts_endpointStats(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			code := codes.OK
			address, _ := host(t, func(ctx context.Context, n int64, s stream) error {
				if code != codes.OK {
					return status.Error(code, "soup")
				}
				return answering(ctx, n, s)
			})
			var offered policy.Stat
			find := statsFunc(func(of policy.Stat) {
				if of.Kind == policy.Endpoints {
					offered = of
				}
			})
			u, _ := upstream(t, find, madeCluster(t, cluster.Config{Endpoints: cluster.Addresses(address), PerEndpointStats: true}))
			c := hosted(t, u, "recipes.internal")
			for _, code = range []codes.Code{codes.OK, codes.NotFound, codes.Unavailable, codes.Internal, codes.InvalidArgument} {
				_ = kind.call(t.Context(), c)
			}
			got := map[string]uint64{}
			read := func() map[string]uint64 {
				for _, s := range offered.Endpoints().List[0].Stats {
					got[s.Name] = s.Read()
				}
				return got
			}
			testtime.Eventually(t, func() bool { return read()["rq_active"] == 0 && got["rq_success"]+got["rq_error"] == 5 })
			if got["rq_success"] != 3 || got["rq_error"] != 2 || got["rq_total"] != 5 || got["rq_timeout"] != 0 {
				t.Errorf("got %v, want 3 successes and 2 failures of 5", got)
			}
		})
	}
}

// statsFunc is a policy that finds the statistics of those inside it.
type statsFunc func(policy.Stat)

func (f statsFunc) Wrap(b *policy.Builder, next policy.Func) (policy.Func, error) {
	b.Stats(func(s policy.Stat) error { f(s); return nil })
	return next, nil
}
