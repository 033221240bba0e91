package pillion_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// These tests cover where retry, timeouts and breakers meet net/http: bodies, connections,
// contexts. Each test names the defect that it prevents; all of them have occurred in libraries of
// this kind.

// quick is a retry policy with back-offs of almost nothing.
func quick(retries int) retry.Config {
	return retry.Config{NumRetries: retries, Rand: func() float64 { return 0 }}
}

// tally counts what is opened and must be closed: connections, bodies.
type tally struct {
	mu      sync.Mutex
	ever    int           // guarded by mu
	open    int           // guarded by mu
	changed chan struct{} // closed and replaced at each change; guarded by mu
}

func newTally() *tally { return &tally{changed: make(chan struct{})} }

func (c *tally) opened() { c.add(1, 1) }

func (c *tally) closed() { c.add(0, -1) }

func (c *tally) add(ever, open int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ever += ever
	c.open += open
	close(c.changed)
	c.changed = make(chan struct{})
}

// wantEver fails the test if fewer or more than that were ever opened.
func (c *tally) wantEver(t *testing.T, least, most int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ever < least || c.ever > most {
		t.Errorf("ever opened: got %d, want %d to %d", c.ever, least, most)
	}
}

// wantNone waits until none is open.
func (c *tally) wantNone(t *testing.T) {
	t.Helper()
	for deadline := time.After(patience); ; {
		c.mu.Lock()
		open, changed := c.open, c.changed
		c.mu.Unlock()
		if open == 0 {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Errorf("left open: got %d, want none", open)
			return
		}
	}
}

// serve starts a server whose connections are counted.
func serve(t *testing.T, handler http.HandlerFunc) (*httptest.Server, *tally) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	conns := countConnections(server)
	server.Start()
	t.Cleanup(server.Close)
	return server, conns
}

// countConnections is for a server that has not been started yet.
func countConnections(server *httptest.Server) *tally {
	conns := newTally()
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			conns.opened()
		case http.StateClosed, http.StateHijacked:
			conns.closed()
		case http.StateActive, http.StateIdle:
		}
	}
	return conns
}

// newClient returns a client whose transport is under policies, with its own connections.
func newClient(t *testing.T, policies ...pillion.Policy) *http.Client {
	t.Helper()
	return newClientOver(t, &http.Transport{}, policies...)
}

func newClientOver(t *testing.T, base http.RoundTripper, policies ...pillion.Policy) *http.Client {
	t.Helper()
	u, err := pillion.New("upstream", policies...)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: u.Transport(base)}
	t.Cleanup(client.CloseIdleConnections)
	return client
}

// send makes a call and reads its response to the end.
func send(t *testing.T, client *http.Client, req *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("body: %v", err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Errorf("closing the body: %v", err)
	}
	return resp, string(body)
}

// failFirst responds to the first n requests with status, and to all others with 200.
func failFirst(n int64, status int, body string) http.HandlerFunc {
	var requests atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if requests.Add(1) <= n {
			w.WriteHeader(status)
		}
		_, _ = io.WriteString(w, body)
	}
}

// spied is a round tripper that watches the bodies of its responses.
type spied struct {
	http.RoundTripper
	t      *testing.T
	mu     sync.Mutex
	bodies []*spiedBody // guarded by mu
}

type spiedBody struct {
	io.ReadCloser
	drained atomic.Bool
	closed  atomic.Bool
}

// RoundTrip fails the test if an earlier response is still open.
func (s *spied) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, b := range s.bodies {
		if !b.closed.Load() {
			s.t.Errorf("attempt %d: its body is still open when the next one begins", i+1)
		}
	}
	resp, err := s.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	b := &spiedBody{ReadCloser: resp.Body}
	resp.Body = b
	s.bodies = append(s.bodies, b)
	return resp, nil
}

func (b *spiedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.drained.Store(true)
	}
	return n, err
}

func (b *spiedBody) Close() error {
	b.closed.Store(true)
	return b.ReadCloser.Close()
}

// TestIntegration_discardedResponse pins that discarded responses do not leak: a body that is never closed
// holds its connection forever, one that is not drained costs its connection, and one that is
// drained without a bound delays the retry.
func TestIntegration_discardedResponse(t *testing.T) {
	tests := []struct {
		name    string
		size    int
		stalls  bool
		drained bool
	}{
		{name: "short", size: 8 << 10, drained: true},
		{name: "too long to be worth it", size: 1 << 20},
		{name: "stalling", size: 8 << 10, stalls: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			wantNoLeaks(t)
			var requests atomic.Int64
			server, conns := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if requests.Add(1) > 1 {
					return
				}
				w.WriteHeader(http.StatusServiceUnavailable)
				_, _ = w.Write(make([]byte, test.size))
				if test.stalls {
					_ = http.NewResponseController(w).Flush()
					<-r.Context().Done() // until the client cuts the connection
				}
			})
			base := &spied{RoundTripper: &http.Transport{}, t: t}
			client := newClientOver(t, base, quick(1), pillion.Options{DrainTime: short})
			resp, _ := send(t, client, newRequest(t, http.MethodGet, server.URL, nil))
			if resp.StatusCode != http.StatusOK {
				t.Errorf("status: got %d, want the second attempt's 200", resp.StatusCode)
			}
			first := base.bodies[0]
			if got := first.drained.Load(); got != test.drained {
				t.Errorf("drained: got %v, want %v", got, test.drained)
			}
			base.RoundTripper.(*http.Transport).CloseIdleConnections()
			conns.wantNone(t)
		})
	}
}

// TestIntegration_connectionsAreReused counts what leaks of bodies would cost: a connection for each
// retry.
func TestIntegration_connectionsAreReused(t *testing.T) {
	wantNoLeaks(t)
	var requests atomic.Int64
	body := strings.Repeat("x", 8<<10)
	server, conns := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if requests.Add(1)%2 == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = io.WriteString(w, body)
	})
	client := newClient(t, quick(1), pillion.Options{DrainTime: patience}) // otherwise a back-off of 0 leaves 1ms
	for range 20 {
		if resp, got := send(t, client, newRequest(t, http.MethodGet, server.URL, nil)); resp.StatusCode != http.StatusOK || got != body {
			t.Fatalf("got %d and %d bytes, want 200 and %d", resp.StatusCode, len(got), len(body))
		}
	}
	if got := requests.Load(); got != 40 {
		t.Errorf("requests: got %d, want 40", got)
	}
	conns.wantEver(t, 1, 2)
	client.CloseIdleConnections()
	conns.wantNone(t)
}

// TestIntegration_onlyIdempotent pins that no order is placed twice: by default a POST is retried only if
// its caller marks it as idempotent, or if it never reached the upstream.
func TestIntegration_onlyIdempotent(t *testing.T) {
	tests := []struct {
		name     string
		method   string
		key      string
		policy   retry.Config
		requests int64
	}{
		{"POST", http.MethodPost, "", quick(1), 1},
		{"PATCH", http.MethodPatch, "", quick(1), 1},
		{"PUT", http.MethodPut, "", quick(1), 2},
		{"DELETE", http.MethodDelete, "", quick(1), 2},
		{"POST with a key", http.MethodPost, "order-1", quick(1), 2},
		{"POST where conditions are named", http.MethodPost, "", retry.Config{On: "5xx", Rand: func() float64 { return 0 }}, 2},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var requests atomic.Int64
			server, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if string(body) != "order" || err != nil {
					t.Errorf("request body: got %q, %v, want %q", body, err, "order")
				}
				requests.Add(1)
				w.WriteHeader(http.StatusServiceUnavailable)
				_, _ = io.WriteString(w, "try later")
			})
			client := newClient(t, test.policy)
			req := newRequest(t, test.method, server.URL, strings.NewReader("order"))
			if test.key != "" {
				req.Header.Set("Idempotency-Key", test.key)
			}
			resp, body := send(t, client, req)
			if resp.StatusCode != http.StatusServiceUnavailable || body != "try later" {
				t.Errorf("got %d %q, want 503 and its body", resp.StatusCode, body)
			}
			if got := requests.Load(); got != test.requests {
				t.Errorf("requests: got %d, want %d", got, test.requests)
			}
		})
	}
}

// upload is a body that returns a first piece, and the rest only after a signal.
type upload struct {
	size   int64
	first  int64
	may    <-chan struct{}
	asked  atomic.Int64 // how much was read
	once   sync.Once
	closed chan struct{}
}

func newUpload(size, first int64, may <-chan struct{}) *upload {
	return &upload{size: size, first: first, may: may, closed: make(chan struct{})}
}

func (u *upload) Read(p []byte) (int, error) {
	asked := u.asked.Load()
	left := u.size - asked
	switch {
	case left == 0:
		return 0, io.EOF
	case asked < u.first:
		left = u.first - asked
	default:
		<-u.may
	}
	n := int(min(int64(len(p)), left))
	for i := range p[:n] {
		p[i] = byte(asked + int64(i))
	}
	u.asked.Add(int64(n))
	return n, nil
}

func (u *upload) Close() error {
	u.once.Do(func() { close(u.closed) })
	return nil
}

// TestIntegration_uploadIsStreamed pins that an upload is not held in memory before its first byte is
// sent: here its rest only comes after the server has the request.
func TestIntegration_uploadIsStreamed(t *testing.T) {
	const (
		size  = 8 << 20
		first = 64 << 10
	)
	tests := []struct {
		name     string
		policies []pillion.Policy
	}{
		{"no buffer", nil},
		{"a small buffer", []pillion.Policy{pillion.Options{ReplayBuffer: 1 << 10}}},
		{"a large buffer", []pillion.Policy{pillion.Options{ReplayBuffer: 2 * size}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			wantNoLeaks(t)
			may := make(chan struct{})
			body := newUpload(size, first, may)
			asked := make(chan int64, 1)
			server, _ := serve(t, func(_ http.ResponseWriter, r *http.Request) {
				asked <- body.asked.Load()
				close(may)
				if n, err := io.Copy(io.Discard, r.Body); n != size || err != nil {
					t.Errorf("server: got %d bytes, %v, want %d", n, err, size)
				}
			})
			client := newClient(t, append(test.policies, retry.Config{On: "5xx"}, limits.Config{}, breaker.Config{})...)
			ctx, cancel := context.WithTimeout(bounded(t), patience) // instead of a deadlock
			defer cancel()
			send(t, client, newRequest(t, http.MethodPut, server.URL, body).WithContext(ctx))
			if got := wantSoon(t, asked, "the request"); got > first {
				t.Errorf("read before the server had the request: got %d bytes, want at most %d of %d", got, first, size)
			}
			wantSoon(t, body.closed, "the close of the request's body")
		})
	}
}

// TestIntegration_uploadToASilentServer pins that a caller whose server does not read loses at most as
// many bytes as fit into the buffers of the sockets.
func TestIntegration_uploadToASilentServer(t *testing.T) {
	wantNoLeaks(t)
	const size = 8 << 20
	may := make(chan struct{})
	close(may)
	body := newUpload(size, 0, may)
	server := serveScript(t, part{
		func(p *peer) { _ = p.raw.SetReadBuffer(32 << 10) },
		requestHead,
		hold(t.Context().Done()),
	})
	base := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, address)
		if err == nil {
			err = conn.(*net.TCPConn).SetWriteBuffer(32 << 10)
		}
		return conn, err
	}}
	client := newClientOver(t, base, timeout.Config{Total: 3 * short}, quick(1), pillion.Options{ReplayBuffer: size})
	_, err := client.Do(newRequest(t, http.MethodPut, "http://"+server.addr()+"/", body))
	if limit := new(timeout.Error); !errors.As(err, &limit) || limit.Scope != timeout.Total {
		t.Errorf("got %v, want the total limit", err)
	}
	if got := body.asked.Load(); got == 0 || got > size/4 {
		t.Errorf("read for a server that does not: got %d bytes of %d, want some, but not much more than the sockets hold", got, size)
	}
	wantSoon(t, body.closed, "the close of the request's body")
}
