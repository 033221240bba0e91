package cluster_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/cluster"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// raw starts a host that calls a function with each connection, and then closes the connection.
func raw(t *testing.T, serve func(c *net.TCPConn)) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				serve(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() { listener.Close(); serving.Wait() })
	return listener.Addr().String()
}

// TestBadHosts calls hosts that misbehave, and a good host, which serves each call in the end. No
// connection or slot remains in use.
func TestBadHosts(t *testing.T) {
	request := func(c net.Conn) { _, _ = http.ReadRequest(bufio.NewReader(c)) }
	tests := map[string]func(c *net.TCPConn){
		"never responds":       func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) },
		"closes immediately":   func(*net.TCPConn) {},
		"resets":               func(c *net.TCPConn) { c.SetLinger(0) },
		"closes after request": func(c *net.TCPConn) { request(c) },
		"half-closes":          func(c *net.TCPConn) { request(c); c.CloseWrite(); _, _ = io.Copy(io.Discard, c) },
		"half a response":      func(c *net.TCPConn) { request(c); io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Le") },
		"garbage":              func(c *net.TCPConn) { request(c); io.WriteString(c, "220 mail\r\n") },
		"two responses": func(c *net.TCPConn) {
			request(c)
			io.WriteString(c, strings.Repeat("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", 2))
		},
	}
	for name, serve := range tests {
		t.Run(name, func(t *testing.T) {
			good, _ := server(t, "good")
			c := made(t, cluster.Config{Endpoints: cluster.Addresses(raw(t, serve), good)})
			stat := stats{}
			u := upstream(t, stat, timeout.Config{Total: 10 * time.Second, PerTry: 200 * time.Millisecond}, retry.Config{BaseInterval: time.Millisecond, Budget: &retry.Budget{Disabled: true}}, limits.Config{}, c)
			for range 6 {
				if body, err := get(t, u); err != nil || body != "good" {
					t.Errorf("got %q, %v, want the good host", body, err)
				}
			}
			c.Close()
			for _, name := range []string{"upstream_cx_active", "upstream_rq_active", "upstream_rq_pending_active"} {
				waitFor(t, func() bool { return stat[name]() == 0 })
			}
		})
	}
}

// TestHTTPS returns an error for the scheme https without TLS.
func TestHTTPS(t *testing.T) {
	a, requests := server(t, "a")
	u := upstream(t, made(t, cluster.Config{Endpoints: cluster.Addresses(a)}))
	for url, want := range map[string]string{
		"https://recipes/": "set Config.TLS", "ftp://recipes/": "unsupported protocol scheme", "http:///": "no Host in request URL",
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Transport(nil).RoundTrip(req); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", url, err, want)
		}
	}
	if requests.Load() != 0 {
		t.Error("got a request, want none")
	}
}

// TestPeakEWMA prefers a host that responds quickly to a slow one and to one that fails quickly.
func TestPeakEWMA(t *testing.T) {
	for name, slow := range map[string]http.HandlerFunc{
		"slow":  func(http.ResponseWriter, *http.Request) { time.Sleep(20 * time.Millisecond) },
		"fails": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
	} {
		s := httptest.NewServer(slow)
		good, requests := server(t, "good")
		c := made(t, cluster.Config{Endpoints: cluster.Addresses(s.Listener.Addr().String(), good), LBPolicy: cluster.PeakEWMA})
		u := upstream(t, c)
		for range 40 {
			if _, err := get(t, u); err != nil {
				t.Error(err)
			}
		}
		if got := requests.Load(); got < 30 {
			t.Errorf("%s: got %d of 40 calls at the good host, want most", name, got)
		}
		s.Close()
	}
}

// TestClosed refuses calls after Close. Current calls continue.
func TestClosed(t *testing.T) {
	arrived, respond := make(chan struct{}), make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-respond
		io.WriteString(w, "served")
	}))
	t.Cleanup(s.Close)
	c := made(t, cluster.Config{Endpoints: cluster.Addresses(s.Listener.Addr().String())})
	u := upstream(t, c)
	served := make(chan string, 1)
	go func() {
		body, _ := get(t, u)
		served <- body
	}()
	<-arrived
	c.Close()
	if _, err := get(t, u); !errors.Is(err, cluster.ErrClosed) {
		t.Errorf("got %v, want closed", err)
	}
	if err := c.Update(nil); !errors.Is(err, cluster.ErrClosed) {
		t.Errorf("got %v, want closed", err)
	}
	close(respond)
	if got := <-served; got != "served" {
		t.Errorf("got %q, want the call to be served", got)
	}
}

// TestFunctions pins that a cluster has no effect on functions.
func TestFunctions(t *testing.T) {
	u := upstream(t, limits.Config{MaxRequests: 1}, made(t, cluster.Config{}))
	if got, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 7, nil }); got != 7 || err != nil {
		t.Errorf("got %d, %v, want 7", got, err)
	}
}
