package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/orca"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/cluster"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/pilliongrpc"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
	"github.com/pillion-go/pillion/tracing"
)

// sideOf returns the policies of one side, with those of inside inside all others.
func sideOf(t *testing.T, name string, tracer *tracing.Tracer, log *eventLog, client bool, inside ...pillion.Policy) (*pillion.Upstream, *metrics.Registry) {
	t.Helper()
	registry, err := metrics.NewRegistry(metrics.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	policies := []pillion.Policy{
		metrics.Config{Registry: registry},
		metrics.GRPC{Registry: registry},
		timeout.Config{Total: time.Minute, PerTry: 30 * time.Second, Idle: 30 * time.Second, ExpectedHeader: true},
	}
	if client {
		policies = append(policies, tracing.Client{Tracer: tracer},
			retry.Config{On: "unavailable,reset,connect-failure", NumRetries: 3, Rand: func() float64 { return 0 }})
	} else {
		policies = append(policies, tracing.Server{Tracer: tracer})
	}
	policies = append(policies, limits.Config{}, breaker.Config{Threshold: breaker.Never}, pillion.Options{ReplayBuffer: 1 << 20})
	if log != nil {
		policies = append(policies, pillion.Listener(log.hear))
	}
	policies = append(policies, inside...)
	u, err := pillion.New(name, policies...)
	if err != nil {
		t.Fatal(err)
	}
	return u, registry
}

// thirds fails every third attempt of each method before it responds, except for methods
// that sleep.
type thirds struct {
	mu     sync.Mutex
	seen   map[string]int // guarded by mu
	n      atomic.Int64   // number of failed attempts
	paused atomic.Bool
}

func (f *thirds) fail(method string) error {
	if f.paused.Load() {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen[method]++
	if f.seen[method]%3 != 0 {
		return nil
	}
	f.n.Add(1)
	return status.Error(codes.Unavailable, "failed on purpose")
}

func (f *thirds) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := f.fail(info.FullMethod); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func (f *thirds) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := f.fail(info.FullMethod); err != nil {
		return err
	}
	return handler(srv, s)
}

// suite runs gRPC's interoperability suite, except for the parts that need a cloud. Its
// functions end the process when they fail. It returns the number of functions. undisturbed
// runs the functions into which no failure may be injected.
func suite(ctx context.Context, conn *grpc.ClientConn, undisturbed func(func())) int {
	n := suiteOfHosts(ctx, conn, undisturbed)
	interop.DoORCAPerRPCTest(ctx, testgrpc.NewTestServiceClient(conn))
	return n + 1
}

// suiteOfHosts is the suite without the function for which the connection must have a balancer of
// the suite.
func suiteOfHosts(ctx context.Context, conn *grpc.ClientConn, undisturbed func(func())) int {
	c := testgrpc.NewTestServiceClient(conn)
	calls := []func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption){
		interop.DoEmptyUnaryCall, interop.DoLargeUnaryCall, interop.DoClientStreaming, interop.DoServerStreaming,
		interop.DoPingPong, interop.DoEmptyStream, interop.DoCancelAfterBegin, interop.DoCancelAfterFirstResponse,
		interop.DoCustomMetadata, interop.DoStatusCodeAndMessage, interop.DoSpecialStatusMessage,
	}
	for _, do := range calls {
		do(ctx, c)
	}
	undisturbed(func() { interop.DoTimeoutOnSleepingServer(ctx, c) })
	interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(conn))
	interop.DoUnimplementedMethod(ctx, conn)
	interop.DoSoakTest(ctx, interop.SoakTestConfig{
		RequestSize: 271828, ResponseSize: 314159, PerIterationMaxAcceptableLatency: waitLimit, OverallTimeout: waitLimit,
		ServerAddr: conn.Target(), NumWorkers: 2, Iterations: 10,
		ChannelForTest: func() (*grpc.ClientConn, func()) { return conn, func() {} },
	})
	return len(calls) + 4
}

// TestInterop runs gRPC's interoperability suite through all policies on both sides, in
// plain text and over TLS; and again while every third attempt of a method fails, which
// must not change the results of the suite.
func TestInterop(t *testing.T) {
	for _, secure := range []bool{false, true} {
		for _, failing := range []bool{false, true} {
			name := map[bool]string{false: "plain text", true: "TLS"}[secure] + map[bool]string{true: ", every third attempt failed"}[failing]
			t.Run(name, func(t *testing.T) {
				wantNoLeaks(t)
				testInterop(t, secure, failing)
			})
		}
	}
}

func testInterop(t *testing.T, secure, failing bool) {
	t.Helper()
	tracer, err := tracing.New(tracing.Config{Name: "interop", Daemon: tracing.NoDaemon})
	if err != nil {
		t.Fatal(err)
	}
	defer tracer.Close(context.Background())
	log := &eventLog{ends: make(chan policy.Outcome, 1000)}
	client, registry := sideOf(t, "client", tracer, log, true)
	server, served := sideOf(t, "server", tracer, nil, false)
	third := &thirds{seen: map[string]int{}}
	options, err := pilliongrpc.ServerOptions(server)
	if err != nil {
		t.Fatal(err)
	}
	options = append(options, orca.CallMetricsServerOption(nil))
	if failing {
		options = append(options, grpc.ChainUnaryInterceptor(third.unary), grpc.ChainStreamInterceptor(third.stream))
	}
	dial := append(pilliongrpc.DialOptions(client), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}`))
	if secure {
		cert, pool := certificate(t)
		options = append(options, grpc.Creds(credentials.NewServerTLSFromCert(&cert)))
		dial = append(dial, grpc.WithTransportCredentials(credentials.NewClientTLSFromCert(pool, "localhost")))
	}
	conn := interopConn(t, options, dial)
	ctx, seg := tracer.Trace(t.Context(), "")
	n := suite(ctx, conn, func(do func()) {
		third.paused.Store(true)
		defer third.paused.Store(false)
		do()
	})
	seg.End(nil)
	counted := registry.Cluster("client")
	retries := counted.Counter("upstream_rq_retry").Value()
	t.Logf("%d functions, %d calls, %d attempts, %d retries, %d injected failures", n,
		log.count(policy.EventEnd), log.count(policy.EventAttempt), retries, third.n.Load())
	if n != 16 || retries != uint64(third.n.Load()) || (retries != 0) != failing {
		t.Errorf("got %d functions and %d retries, want 16, and as many retries as injected failures: %d", n, retries, third.n.Load())
	}
	wantInactive(t, map[string]*metrics.ClusterStats{"client": counted, "server": served.Cluster("server")})
}

// wantInactive waits until no call is active.
func wantInactive(t *testing.T, all map[string]*metrics.ClusterStats) {
	t.Helper()
	for name, c := range all {
		for deadline := time.Now().Add(waitLimit); c.Gauge("upstream_rq_active").Value() != 0; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %d calls are active, want none", name, c.Gauge("upstream_rq_active").Value())
			}
		}
	}
}

// TestInterop_cluster runs the suite over the three hosts of a cluster, in plain text and over TLS. One
// of them fails every third attempt of a method, which must not change the results of the suite.
func TestInterop_cluster(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(map[bool]string{false: "plain text", true: "TLS"}[secure], func(t *testing.T) {
			wantNoLeaks(t)
			testInteropCluster(t, secure)
		})
	}
}

func testInteropCluster(t *testing.T, secure bool) {
	t.Helper()
	tracer, err := tracing.New(tracing.Config{Name: "interop", Daemon: tracing.NoDaemon})
	if err != nil {
		t.Fatal(err)
	}
	defer tracer.Close(context.Background())
	third := &thirds{seen: map[string]int{}}
	var options []grpc.ServerOption
	credential := grpc.WithTransportCredentials(insecure.NewCredentials())
	if secure {
		cert, pool := certificate(t)
		options = append(options, grpc.Creds(credentials.NewServerTLSFromCert(&cert)))
		credential = grpc.WithTransportCredentials(credentials.NewClientTLSFromCert(pool, "localhost"))
	}
	failing := append(slices.Clip(options), grpc.ChainUnaryInterceptor(third.unary), grpc.ChainStreamInterceptor(third.stream))
	hosts := cluster.Addresses(interopServer(t, failing), interopServer(t, options), interopServer(t, options))
	c, err := cluster.New(cluster.Config{Endpoints: hosts, Rand: func() uint64 { return 0 }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	client, registry := sideOf(t, "client", tracer, nil, true, c)
	conn := interopDial(t, "hosts.internal", append(pilliongrpc.DialOptions(client), credential))
	ctx, seg := tracer.Trace(t.Context(), "")
	const runs = 3 // so that the host fails an attempt of most methods
	n := 0
	for range runs {
		n += suiteOfHosts(ctx, conn, func(do func()) {
			third.paused.Store(true)
			defer third.paused.Store(false)
			do()
		})
	}
	seg.End(nil)
	stats := registry.Cluster("client")
	retries := stats.Counter("upstream_rq_retry").Value()
	t.Logf("%d functions, %d retries, %d injected failures", n, retries, third.n.Load())
	if n != 15*runs || retries != uint64(third.n.Load()) || retries == 0 {
		t.Errorf("got %d functions and %d retries, want %d, and as many retries as injected failures: %d", n, retries, 15*runs, third.n.Load())
	}
	wantInactive(t, map[string]*metrics.ClusterStats{"client": stats})
	for _, h := range c.Hosts() {
		if h.Active != 0 {
			t.Errorf("%s serves %d calls, want none", h.Endpoint.Address, h.Active)
		}
	}
}

// interopConn serves the interop service on a socket, and returns a connection to it.
func interopConn(t *testing.T, options []grpc.ServerOption, dial []grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	return interopDial(t, interopServer(t, options), dial)
}

// interopServer serves the interop service on a socket until the test ends, and returns the address.
func interopServer(t *testing.T, options []grpc.ServerOption) string {
	t.Helper()
	l := listen(t)
	server := grpc.NewServer(options...)
	testgrpc.RegisterTestServiceServer(server, interop.NewTestServer())
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
	})
	return l.Addr().String()
}

// interopDial returns a connection that is closed when the test ends.
func interopDial(t *testing.T, target string, dial []grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+target, dial...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// certificate returns a certificate for localhost, and a pool that trusts it.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// TestSharedBreaker uses one breaker for an upstream over HTTP and over gRPC: it opens for
// both, whichever fails, and one set of statistics counts both.
func TestSharedBreaker(t *testing.T) {
	for _, failing := range []string{"http", "grpc"} {
		t.Run(failing+" fails", func(t *testing.T) {
			wantNoLeaks(t)
			b, err := breaker.New(breaker.Config{NonBreakCount: 3, Sleep: time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			registry, err := metrics.NewRegistry(metrics.Settings{})
			if err != nil {
				t.Fatal(err)
			}
			u, err := pillion.New("both", metrics.Config{Registry: registry}, b)
			if err != nil {
				t.Fatal(err)
			}
			web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
			defer web.Close()
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: u.Transport(transport)}
			failed := func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) {
				return nil, errUnavailable
			}
			conn := interopConn(t, []grpc.ServerOption{grpc.ChainUnaryInterceptor(failed)},
				append(pilliongrpc.DialOptions(u), grpc.WithTransportCredentials(insecure.NewCredentials())))
			overHTTP := func() error {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, web.URL, nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := client.Do(req)
				if err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
				return err
			}
			overGRPC := func() error {
				_, err := testgrpc.NewTestServiceClient(conn).EmptyCall(t.Context(), &testgrpc.Empty{})
				return err
			}
			call := map[string]func() error{"http": overHTTP, "grpc": overGRPC}[failing]
			for range 3 {
				if err := call(); errors.Is(err, breaker.ErrOpen) {
					t.Fatalf("got %v before three failures", err)
				}
			}
			if err := overHTTP(); !errors.Is(err, breaker.ErrOpen) {
				t.Errorf("HTTP: got %v, want ErrOpen", err)
			}
			if err := overGRPC(); !errors.Is(err, breaker.ErrOpen) || status.Code(err) != codes.Unavailable {
				t.Errorf("gRPC: got %v, want ErrOpen and Unavailable", err)
			}
			if got := b.Status(); got.Failure != 3 || got.Break != 2 {
				t.Errorf("breaker: got %+v, want 3 failures and 2 breaks", got)
			}
			if got := registry.Cluster("both").Counter("upstream_rq_breaker_open").Value(); got != 2 {
				t.Errorf("upstream_rq_breaker_open: got %d, want 2", got)
			}
		})
	}
}
