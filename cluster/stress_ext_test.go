package cluster_test

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"weak"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/cluster"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// moody responds, responds slowly or incompletely, or closes the connection, at random.
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

// TestStress makes concurrent calls, some of which are canceled, to hosts that fail in every way, while
// the endpoints change. At the end all slots are free.
func TestStress(t *testing.T) {
	for _, protocol := range []cluster.Protocol{cluster.HTTP1, cluster.HTTP2} {
		t.Run(string(protocol), func(t *testing.T) { stress(t, protocol, false) })
		t.Run(string(protocol)+", hedged", func(t *testing.T) { stress(t, protocol, true) })
	}
}

func stress(t *testing.T, protocol cluster.Protocol, hedge bool) {
	t.Helper()
	var addresses []string
	for range 4 {
		s := httptest.NewUnstartedServer(http.HandlerFunc(moody))
		s.Config.Protocols = new(http.Protocols)
		s.Config.Protocols.SetHTTP1(protocol == cluster.HTTP1)
		s.Config.Protocols.SetUnencryptedHTTP2(protocol == cluster.HTTP2)
		s.Start()
		defer s.Close()
		addresses = append(addresses, strings.TrimPrefix(s.URL, "http://"))
	}
	c := made(t, cluster.Config{
		Endpoints: cluster.Addresses(addresses...), Protocol: protocol, LBPolicy: cluster.LeastRequest, MaxRequestsPerConnection: 50,
		Outlier: &cluster.Outlier{Consecutive5xx: 3, MaxEjectionPercent: 50, BaseEjectionTime: 20 * time.Millisecond, Interval: 5 * time.Millisecond},
	})
	stat := stats{}
	u := upstream(t, metrics.Config{Registry: new(metrics.Registry)}, stat, timeout.Config{Total: time.Second, PerTry: 30 * time.Millisecond},
		retry.Config{NumRetries: 2, BaseInterval: time.Millisecond, HedgeOnPerTryTimeout: hedge}, limits.Config{MaxConnections: 8, MaxPendingRequests: 20, MaxRequests: 30}, c)
	length := time.Second
	if s := os.Getenv("PILLION_STRESS"); s != "" {
		length, _ = time.ParseDuration(s)
	}
	ctx, stop := context.WithTimeout(t.Context(), length)
	defer stop()
	var callers sync.WaitGroup
	for range 40 {
		callers.Go(func() {
			for ctx.Err() == nil {
				oneCall(u)
			}
		})
	}
	callers.Go(func() { change(ctx, t, c, addresses) })
	callers.Wait()
	c.Close()
	for name, want := range map[string]uint64{
		"upstream_cx_active": 0, "upstream_rq_active": 0, "upstream_rq_pending_active": 0, "circuit_breakers.default.cx_open": 0,
		"circuit_breakers.default.rq_open": 0, "circuit_breakers.default.rq_pending_open": 0,
	} {
		waitFor(t, func() bool { return stat[name]() == want })
	}
	if stat["upstream_cx_total"]() != stat["upstream_cx_destroy"]() || stat["upstream_rq_total"]() == 0 {
		t.Errorf("got %d connections of which %d have ended, and %d requests", stat["upstream_cx_total"](), stat["upstream_cx_destroy"](), stat["upstream_rq_total"]())
	}
}

// oneCall makes a call that may be canceled at any time, and may read only a part of the response.
func oneCall(u *pillion.Upstream) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if rand.IntN(4) == 0 {
		defer time.AfterFunc(rand.N(20*time.Millisecond), cancel).Stop()
	}
	req, _ := http.NewRequestWithContext(ctx, http.MethodPut, "http://recipes/", strings.NewReader(strings.Repeat("y", rand.IntN(5_000))))
	resp, err := u.Transport(nil).RoundTrip(req)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	if rand.IntN(4) > 0 {
		_, _ = io.Copy(io.Discard, resp.Body)
	}
}

// change changes the endpoints a hundred times a second.
func change(ctx context.Context, t *testing.T, c *cluster.Cluster, addresses []string) {
	t.Helper()
	for ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
		some := addresses[:1+rand.IntN(len(addresses))]
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
	waitFor(t, func() bool { runtime.GC(); return ref.Value() == nil })
}
