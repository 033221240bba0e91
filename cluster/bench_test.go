package cluster_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/cluster"
	"github.com/pillion-go/pillion/internal/raceflag"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// stub is a connection that responds to each write.
type stub struct {
	mu      sync.Mutex
	written sync.Cond
	pending int
	left    []byte
	closed  bool
}

var stubResponse = []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

func newStub() *stub {
	s := &stub{}
	s.written.L = &s.mu
	return s
}

func (s *stub) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending += bytes.Count(p, []byte("\r\n\r\n"))
	s.written.Signal()
	return len(p), nil
}

func (s *stub) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.pending == 0 && len(s.left) == 0 && !s.closed {
		s.written.Wait()
	}
	if s.closed {
		return 0, io.EOF
	}
	if len(s.left) == 0 {
		s.pending--
		s.left = stubResponse
	}
	n := copy(p, s.left)
	s.left = s.left[n:]
	return n, nil
}

func (s *stub) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.written.Broadcast()
	return nil
}

func (*stub) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (*stub) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (*stub) SetDeadline(time.Time) error      { return nil }
func (*stub) SetReadDeadline(time.Time) error  { return nil }
func (*stub) SetWriteDeadline(time.Time) error { return nil }

func stubTransport() *http.Transport {
	return &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return newStub(), nil }}
}

func roundTrips(tb testing.TB, rt http.RoundTripper) func() {
	tb.Helper()
	req, _ := http.NewRequest(http.MethodGet, "http://recipes.internal/", nil)
	return func() {
		resp, err := rt.RoundTrip(req)
		if err != nil {
			tb.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}

// chain returns all policies.
func chain(tb testing.TB, inside ...pillion.Policy) *pillion.Upstream {
	tb.Helper()
	u, err := pillion.New("recipes", append([]pillion.Policy{
		metrics.Config{Registry: new(metrics.Registry)},
		timeout.Config{Total: time.Minute, PerTry: 30 * time.Second},
		retry.Config{},
		limits.Config{},
	}, inside...)...)
	if err != nil {
		tb.Fatal(err)
	}
	return u
}

func stubCluster(tb testing.TB) *cluster.Cluster {
	tb.Helper()
	c, err := cluster.New(cluster.Config{Endpoints: cluster.Addresses("10.0.0.1:80", "10.0.0.2:80"), Transport: stubTransport()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	return c
}

func BenchmarkCluster(b *testing.B) {
	bare := stubTransport()
	b.Cleanup(bare.CloseIdleConnections)
	plain := stubTransport()
	b.Cleanup(plain.CloseIdleConnections)
	for _, way := range []struct {
		name string
		rt   http.RoundTripper
	}{
		{"bare", bare},
		{"all policies", chain(b).Transport(plain)},
		{"all policies and a cluster", chain(b, stubCluster(b)).Transport(nil)},
	} {
		b.Run(way.name, func(b *testing.B) {
			call := roundTrips(b, way.rt)
			b.ReportAllocs()
			for b.Loop() {
				call()
			}
		})
	}
}

// TestAllocations pins the allocations of a call: with a cluster and all policies, at most one more
// than with a bare transport.
func TestAllocations(t *testing.T) {
	if raceflag.Enabled {
		t.Skip("the race detector allocates")
	}
	bare := stubTransport()
	t.Cleanup(bare.CloseIdleConnections)
	const calls = 500
	without := testing.AllocsPerRun(calls, roundTrips(t, bare))
	with := testing.AllocsPerRun(calls, roundTrips(t, chain(t, stubCluster(t)).Transport(nil)))
	if with > without+1 {
		t.Errorf("got %v allocations with all policies and a cluster, want at most %v and one", with, without)
	}
}
