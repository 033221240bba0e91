package cluster_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/pillion-go/pillion/cluster"
	"github.com/pillion-go/pillion/internal/testtime"
)

// quick returns a configuration with short intervals.
func quick(check cluster.HealthCheck) *cluster.HealthCheck {
	check.Interval, check.NoTrafficInterval, check.UnhealthyThreshold = 2*time.Millisecond, 2*time.Millisecond, 1
	check.Timeout = 5 * time.Second
	return &check
}

// TestHealthCheck follows a host that fails and recovers, with each kind of check.
func TestHealthCheck(t *testing.T) {
	var ill atomic.Bool
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" || r.Host != "recipes.internal" || ill.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		io.WriteString(w, "all is well")
	}))
	t.Cleanup(web.Close)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	servers, server := health.NewServer(), grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, servers)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	set := func(s bool) {
		ill.Store(s)
		status := grpc_health_v1.HealthCheckResponse_SERVING
		if s {
			status = grpc_health_v1.HealthCheckResponse_NOT_SERVING
		}
		servers.SetServingStatus("recipes", status)
	}
	tests := []struct {
		name, address string
		check         cluster.HealthCheck
	}{
		{"HTTP", strings.TrimPrefix(web.URL, "http://"), cluster.HealthCheck{HTTP: &cluster.HTTPHealthCheck{Path: "/healthz", Receive: []string{"well"}}}},
		{"gRPC", listener.Addr().String(), cluster.HealthCheck{GRPC: &cluster.GRPCHealthCheck{ServiceName: "recipes"}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			set(false)
			c := made(t, cluster.Config{
				Endpoints:   []cluster.Endpoint{{Address: test.address, Hostname: "recipes.internal"}},
				HealthCheck: quick(test.check), MergeWindow: cluster.Never, PanicThreshold: cluster.Zero,
			})
			if err := c.WaitReady(t.Context()); err != nil {
				t.Fatal(err)
			}
			set(true)
			testtime.Eventually(t, func() bool { return c.Hosts()[0].Flags == "/failed_active_hc" })
			if _, err := get(t, upstream(t, c)); err == nil || !strings.Contains(err.Error(), "no healthy upstream") {
				t.Errorf("got %v, want no healthy upstream", err)
			}
			set(false)
			testtime.Eventually(t, func() bool { return c.Hosts()[0].Health == cluster.Healthy })
		})
	}
}

// TestHealthCheck_tcp fails a host that does not listen.
func TestHealthCheck_tcp(t *testing.T) {
	a, _ := server(t, "a")
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	c := made(t, cluster.Config{
		Endpoints:   cluster.Addresses(a, strings.TrimPrefix(gone.URL, "http://")),
		HealthCheck: quick(cluster.HealthCheck{TCP: &cluster.TCPHealthCheck{}}),
	})
	stat := stats{}
	u := upstream(t, stat, c)
	if err := c.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := []cluster.Health{c.Hosts()[0].Health, c.Hosts()[1].Health}; got[0] != cluster.Healthy || got[1] != cluster.Unhealthy {
		t.Errorf("got %v, want one of two", got)
	}
	for range 4 {
		if _, err := get(t, u); err != nil {
			t.Error(err)
		}
	}
	if stat["health_check.healthy"]() != 1 || stat["health_check.success"]() == 0 || stat["health_check.network_failure"]() == 0 {
		t.Error("got no statistics of health checks, want them")
	}
}

// TestHealthCheck_immediate fails a host whose response has x-envoy-immediate-health-check-fail.
func TestHealthCheck_immediate(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			w.Header().Set("X-Envoy-Immediate-Health-Check-Fail", "true")
		}
	}))
	t.Cleanup(s.Close)
	check := quick(cluster.HealthCheck{HTTP: &cluster.HTTPHealthCheck{Path: "/healthz"}})
	check.Interval, check.NoTrafficInterval = time.Hour, time.Hour
	c := made(t, cluster.Config{Endpoints: cluster.Addresses(strings.TrimPrefix(s.URL, "http://")), HealthCheck: check})
	if err := c.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := get(t, upstream(t, c)); err != nil {
		t.Fatal(err)
	}
	if got := c.Hosts()[0].Flags; got != "/failed_active_hc/excluded_via_immediate_hc_fail" {
		t.Errorf("got %q, want a failed and excluded host", got)
	}
}

// TestWaitReady_canceled pins that the error wraps the cause of the context's end.
func TestWaitReady_canceled(t *testing.T) {
	block := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-block }))
	t.Cleanup(func() { close(block); s.Close() })
	c := made(t, cluster.Config{
		Endpoints:   cluster.Addresses(strings.TrimPrefix(s.URL, "http://")),
		HealthCheck: quick(cluster.HealthCheck{HTTP: &cluster.HTTPHealthCheck{Path: "/"}}),
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.WaitReady(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
	c.Close()
	if err := c.WaitReady(t.Context()); !errors.Is(err, cluster.ErrClosed) {
		t.Errorf("got %v, want closed", err)
	}
}
