package cluster_test

import (
	"context"
	"errors"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"weak"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/cluster"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/internal/testtime"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/pilliongrpc"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// stormed is a kind of cluster under stress.
type stormed struct {
	name     string
	protocol cluster.Protocol // "" for gRPC
	hedge    bool
	tight    bool // the limits and timeouts are strict, so that calls are refused; else none may be lost
}

// TestStress has 40 callers, some of which leave, call hosts that fail in every way and lose their
// connections, while the endpoints change a hundred times a second. Everything is given back in the end,
// and where no limit refuses a call, none is lost. PILLION_SOAK is how long all kinds take together.
func TestStress(t *testing.T) {
	kinds := []stormed{
		{"HTTP/1", cluster.HTTP1, false, false},
		{"HTTP/1, tight", cluster.HTTP1, false, true},
		{"HTTP/1, tight, hedged", cluster.HTTP1, true, true},
		{"HTTP/2", cluster.HTTP2, false, false},
		{"HTTP/2, tight", cluster.HTTP2, false, true},
		{"HTTP/2, tight, hedged", cluster.HTTP2, true, true},
		{"gRPC", "", false, false},
		{"gRPC, tight", "", false, true},
	}
	each := testtime.Soak(t, 4*time.Second) / time.Duration(len(kinds))
	for _, s := range kinds {
		t.Run(s.name, func(t *testing.T) { s.run(t, each) })
	}
}

func (s *stormed) run(t *testing.T, length time.Duration) {
	t.Helper()
	hosts := make([]*cutListener, 4)
	addresses := make([]string, len(hosts))
	for i := range hosts {
		hosts[i] = s.serve(t)
		addresses[i] = hosts[i].Addr().String()
	}
	c := made(t, cluster.Config{
		Endpoints: cluster.Addresses(addresses...), Protocol: s.protocol, LBPolicy: cluster.LeastRequest, MaxRequestsPerConnection: 50,
		Outlier: &cluster.Outlier{Consecutive5xx: 3, MaxEjectionPercent: 50, BaseEjectionTime: 20 * time.Millisecond, Interval: 5 * time.Millisecond},
	})
	stat := stats{}
	u := upstream(t, append([]pillion.Policy{metrics.Config{Registry: new(metrics.Registry)}, stat}, append(s.policies(), c)...)...)
	call, end := s.caller(t, u)
	ctx, stop := context.WithTimeout(t.Context(), length)
	defer stop()
	var calls, lost atomic.Int64
	var callers sync.WaitGroup
	for i := range 40 {
		steady := !s.tight && i%2 == 0
		callers.Go(func() {
			for ctx.Err() == nil {
				calls.Add(1)
				err := oneCall(call, steady)
				switch {
				case err == nil:
				case !steady:
					time.Sleep(rand.N(2 * time.Millisecond)) // a refused caller does not call again immediately
				case lost.Add(1) < 4:
					t.Errorf("got %v, want a response: a host could have served the call", err)
				}
			}
		})
	}
	callers.Go(func() { change(ctx, t, c, addresses, s.tight) })
	callers.Go(func() { cutAll(ctx, hosts) })
	callers.Wait()
	end()
	t.Logf("%d calls, %d attempts, %d connections, %d calls lost", calls.Load(), stat["upstream_rq_total"](), stat["upstream_cx_total"](), lost.Load())
	allGivenBack(t, c, stat, hosts)
}

// policies are those around the cluster.
func (s *stormed) policies() []pillion.Policy {
	again := retry.Config{On: "5xx,reset,connect-failure,refused-stream,unavailable", BaseInterval: time.Millisecond, HedgeOnPerTryTimeout: s.hedge}
	if s.tight {
		again.NumRetries = 2
		return []pillion.Policy{
			timeout.Config{Total: time.Second, PerTry: 30 * time.Millisecond},
			again,
			limits.Config{MaxConnections: 8, MaxPendingRequests: 20, MaxRequests: 30},
		}
	}
	again.NumRetries, again.Budget = 30, &retry.Budget{Disabled: true}
	return []pillion.Policy{timeout.Config{Total: time.Minute}, again, limits.Config{MaxRetries: 1000}}
}

// allGivenBack waits until no call and no connection is left.
func allGivenBack(t *testing.T, c *cluster.Cluster, stat stats, hosts []*cutListener) {
	t.Helper()
	testtime.Eventually(t, func() bool {
		return !slices.ContainsFunc(c.Hosts(), func(h cluster.HostStatus) bool { return h.Active != 0 })
	})
	c.Close()
	for _, name := range []string{
		"upstream_cx_active", "upstream_rq_active", "upstream_rq_pending_active", "circuit_breakers.default.cx_open",
		"circuit_breakers.default.rq_open", "circuit_breakers.default.rq_pending_open", "circuit_breakers.default.rq_retry_open",
	} {
		testtime.Eventually(t, func() bool { return stat[name]() == 0 })
	}
	if stat["upstream_cx_total"]() != stat["upstream_cx_destroy"]() || stat["upstream_rq_total"]() == 0 {
		t.Errorf("got %d connections of which %d have ended, and %d requests", stat["upstream_cx_total"](), stat["upstream_cx_destroy"](), stat["upstream_rq_total"]())
	}
	for _, h := range hosts {
		testtime.Eventually(t, func() bool { return h.open() == 0 })
	}
}

// serve starts a host.
func (s *stormed) serve(t *testing.T) *cutListener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cut := &cutListener{Listener: l, conns: map[net.Conn]struct{}{}}
	var serving sync.WaitGroup
	if s.protocol == "" {
		server := grpc.NewServer()
		testgrpc.RegisterTestServiceServer(server, moodyService{})
		serving.Go(func() { _ = server.Serve(cut) })
		t.Cleanup(func() { server.Stop(); serving.Wait() })
		return cut
	}
	server := &http.Server{Handler: http.HandlerFunc(moody), Protocols: new(http.Protocols), ErrorLog: log.New(io.Discard, "", 0)}
	server.Protocols.SetHTTP1(s.protocol == cluster.HTTP1)
	server.Protocols.SetUnencryptedHTTP2(s.protocol == cluster.HTTP2)
	serving.Go(func() { _ = server.Serve(cut) })
	t.Cleanup(func() { server.Close(); serving.Wait() })
	return cut
}

// caller returns a function that makes a call, and one that ends what it uses.
func (s *stormed) caller(t *testing.T, u *pillion.Upstream) (call func(context.Context) error, end func()) {
	t.Helper()
	if s.protocol != "" {
		return func(ctx context.Context) error { return httpCall(ctx, u) }, func() {}
	}
	conn, err := grpc.NewClient("passthrough:///recipes", append(pilliongrpc.DialOptions(u), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	client := testgrpc.NewTestServiceClient(conn)
	return func(ctx context.Context) error { return grpcCall(ctx, client) }, func() { conn.Close() }
}

// oneCall makes a call. Its caller may leave at any time, unless it is steady.
func oneCall(call func(context.Context) error, steady bool) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if !steady && rand.IntN(4) == 0 {
		defer time.AfterFunc(rand.N(20*time.Millisecond), cancel).Stop()
	}
	return call(ctx)
}

// httpCall makes a call and reads all or a part of the response. The error says why there is none;
// a body that breaks off cannot be served again.
func httpCall(ctx context.Context, u *pillion.Upstream) error {
	req, _ := http.NewRequestWithContext(ctx, http.MethodPut, "http://recipes/", strings.NewReader(strings.Repeat("y", rand.IntN(5_000))))
	resp, err := u.Transport(nil).RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if rand.IntN(4) > 0 {
		_, _ = io.Copy(io.Discard, resp.Body)
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// grpcCall makes a unary call, or a stream of which it may leave a part. What breaks off after the
// response has begun cannot be served again.
func grpcCall(ctx context.Context, client testgrpc.TestServiceClient) error {
	if rand.IntN(4) > 0 {
		described, info := pillion.WithInfo(ctx)
		_, err := client.UnaryCall(described, &testgrpc.SimpleRequest{})
		if d := info.Detail(); d == envoy.ConnectionTerminationAfter || d == envoy.RemoteResetAfter {
			return nil
		}
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	for range 1 + rand.IntN(3) {
		if stream.Send(&testgrpc.StreamingOutputCallRequest{}) != nil {
			break
		}
		if _, err = stream.Recv(); err != nil {
			break
		}
	}
	if rand.IntN(2) > 0 && stream.CloseSend() == nil {
		for err == nil {
			_, err = stream.Recv()
		}
	}
	return nil
}

// moody responds, is slow, breaks off, or loses the connection.
func moody(w http.ResponseWriter, r *http.Request) {
	switch rand.IntN(20) {
	case 0:
		panic(http.ErrAbortHandler)
	case 1:
		io.WriteString(w, strings.Repeat("x", 10_000))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	case 2:
		select {
		case <-time.After(50 * time.Millisecond):
		case <-r.Context().Done():
		}
	case 3:
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	io.WriteString(w, strings.Repeat("x", rand.IntN(10_000)))
}

// moodyService is moody for gRPC.
type moodyService struct {
	testgrpc.UnimplementedTestServiceServer
}

var errMoody = status.Error(codes.Unavailable, "not now")

func (moodyService) UnaryCall(ctx context.Context, _ *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	switch rand.IntN(20) {
	case 0:
		return nil, errMoody
	case 1:
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return &testgrpc.SimpleResponse{Payload: &testgrpc.Payload{Body: make([]byte, rand.IntN(10_000))}}, nil
}

func (moodyService) FullDuplexCall(s testgrpc.TestService_FullDuplexCallServer) error {
	for {
		if _, err := s.Recv(); err != nil {
			return nil //nolint:nilerr // the client has sent all, or has left
		}
		if rand.IntN(20) == 0 {
			return errMoody
		}
		if err := s.Send(&testgrpc.StreamingOutputCallResponse{Payload: &testgrpc.Payload{Body: make([]byte, rand.IntN(10_000))}}); err != nil {
			return err
		}
	}
}

// cutListener can close the connections that it has accepted.
type cutListener struct {
	net.Listener

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

func (l *cutListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	of := &cutConn{Conn: c, l: l}
	l.conns[of] = struct{}{}
	return of, nil
}

// cut closes the connections; with a reset if hard.
func (l *cutListener) cut(hard bool) {
	l.mu.Lock()
	conns := slices.Collect(maps.Keys(l.conns))
	l.mu.Unlock()
	for _, c := range conns {
		if tcp, ok := c.(*cutConn).Conn.(*net.TCPConn); ok && hard {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
}

// open returns how many connections are open.
func (l *cutListener) open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns)
}

type cutConn struct {
	net.Conn
	l *cutListener
}

func (c *cutConn) Close() error {
	c.l.mu.Lock()
	delete(c.l.conns, c)
	c.l.mu.Unlock()
	return c.Conn.Close()
}

// cutAll closes the connections of a host at a time.
func cutAll(ctx context.Context, hosts []*cutListener) {
	for ctx.Err() == nil {
		time.Sleep(rand.N(60 * time.Millisecond))
		hosts[rand.IntN(len(hosts))].cut(rand.IntN(2) == 0)
	}
}

// change changes the endpoints a hundred times a second. If there may be none, there are none at times.
func change(ctx context.Context, t *testing.T, c *cluster.Cluster, addresses []string, none bool) {
	t.Helper()
	least := 1
	if none {
		least = 0
	}
	for ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
		some := addresses[:least+rand.IntN(len(addresses)+1-least)]
		if err := c.Update(cluster.Addresses(some...)); err != nil {
			t.Error(err)
		}
	}
}

// TestCluster_collected pins that a cluster that is no longer referenced is collected, and that its
// goroutines end.
func TestCluster_collected(t *testing.T) {
	a, _ := server(t, "a")
	_, port, _ := net.SplitHostPort(a)
	z := &zone{}
	z.set("127.0.0.1")
	registry := new(metrics.Registry)
	ref := func() weak.Pointer[cluster.Cluster] {
		cfg := named(z, cluster.StrictDNS, port)
		cfg.HealthCheck = quick(cluster.HealthCheck{HTTP: &cluster.HTTPHealthCheck{Path: "/"}})
		cfg.Outlier = &cluster.Outlier{Consecutive5xx: 1, Interval: time.Hour, AlwaysEjectOneHost: true}
		cfg.IdleTimeout = time.Millisecond
		c, err := cluster.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		u := upstream(t, metrics.Config{Registry: registry}, c)
		if _, err := get(t, u); err != nil {
			t.Fatal(err)
		}
		return weak.Make(c)
	}()
	testtime.Eventually(t, func() bool { runtime.GC(); return ref.Value() == nil })
}
