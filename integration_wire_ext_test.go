package pillion_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/timeout"
)

// upgrade is a handler that turns connections into ones that return each line in capitals. It
// closes ended when the client has closed one.
func upgrade(t *testing.T, ended chan<- struct{}) http.HandlerFunc {
	t.Helper()
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "shout" {
			w.WriteHeader(http.StatusUpgradeRequired)
			return
		}
		conn, both, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Errorf("hijack: %v", err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n")
		for {
			line, err := both.ReadString('\n')
			if err != nil {
				ended <- struct{}{}
				return
			}
			_, _ = io.WriteString(conn, strings.ToUpper(line))
		}
	}
}

// TestIntegration_upgrade pins that a 101 response stays a connection that can be read and written, for as
// long as the caller likes: no limit of a response cuts it.
func TestIntegration_upgrade(t *testing.T) {
	const total = 3 * short
	tests := []struct {
		name     string
		policies []pillion.Policy
	}{
		{"no policies", nil},
		{"limits on time", []pillion.Policy{timeout.Config{Total: total, PerTry: 2 * short, Idle: short}}},
		{"all policies", []pillion.Policy{
			timeout.Config{Total: total, PerTry: 2 * short, Idle: short, ExpectedHeader: true},
			quick(1),
			limits.Config{MaxRequests: 1},
			breaker.Config{},
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			wantNoLeaks(t)
			ended := make(chan struct{}, 2)
			server, _ := serve(t, upgrade(t, ended))
			client := newClient(t, test.policies...)
			for range 2 { // the second needs the slot of the first
				shout(t, client, server.URL, total)
				wantSoon(t, ended, "the end of the upgraded connection")
			}
		})
	}
}

// shout makes an upgraded connection and uses it, once more after a while.
func shout(t *testing.T, client *http.Client, url string, while time.Duration) {
	t.Helper()
	req := newRequest(t, http.MethodGet, url, nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "shout")
	ctx, info := pillion.WithInfo(bounded(t))
	resp, err := client.Do(req.WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	conn, ok := resp.Body.(io.ReadWriteCloser)
	if resp.StatusCode != http.StatusSwitchingProtocols || !ok {
		t.Fatalf("got %d and a %T, want 101 and an io.ReadWriteCloser", resp.StatusCode, resp.Body)
	}
	lines := bufio.NewReader(conn)
	for i := range 2 {
		if i == 1 {
			time.Sleep(2 * while) // all limits must have passed: that is the test
		}
		if _, err := io.WriteString(conn, "hello\n"); err != nil {
			t.Fatalf("write %d: %v", i+1, err)
		}
		if line, err := lines.ReadString('\n'); line != "HELLO\n" || err != nil {
			t.Fatalf("read %d: got %q, %v, want %q", i+1, line, err, "HELLO\n")
		}
	}
	if err := conn.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if !info.Done() || info.Flags() != 0 {
		t.Errorf("got done %v, %v, want true and no flags", info.Done(), info.Flags())
	}
}

// all returns every policy, with settings under which none of them acts.
func all() []pillion.Policy {
	return []pillion.Policy{
		timeout.Config{Total: 2 * patience, PerTry: patience, Idle: patience},
		quick(1),
		limits.Config{},
		breaker.Config{},
	}
}

// TestIntegration_trailers pins that a wrapper around the body does not lose trailers, of responses and of
// requests.
func TestIntegration_trailers(t *testing.T) {
	wantNoLeaks(t)
	server, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if sum := r.Trailer.Get("X-Sum"); string(body) != "order" || sum != "5" || err != nil {
			t.Errorf("request: got %q, trailer %q, %v, want %q and %q", body, sum, err, "order", "5")
		}
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.WriteString(w, "done")
		w.Header().Set("X-Sum", "4")
		w.Header().Set(http.TrailerPrefix+"X-Late", "yes")
	})
	req := newRequest(t, http.MethodPost, server.URL, nil)
	req.Trailer = http.Header{"X-Sum": nil}
	req.Body = io.NopCloser(io.MultiReader(strings.NewReader("order"), atEOF(func() { req.Trailer.Set("X-Sum", "5") })))
	resp, body := send(t, newClient(t, all()...), req)
	if body != "done" || resp.Trailer.Get("X-Sum") != "4" || resp.Trailer.Get("X-Late") != "yes" {
		t.Errorf("response: got %q, trailer %v, want %q and both trailers", body, resp.Trailer, "done")
	}
}

// atEOF is an empty reader that calls a function first.
type atEOF func()

func (f atEOF) Read([]byte) (int, error) {
	f()
	return 0, io.EOF
}

// TestIntegration_interimResponse pins that 103 Early Hints reach the caller's trace and are no response.
func TestIntegration_interimResponse(t *testing.T) {
	wantNoLeaks(t)
	server, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.WriteString(w, "page")
	})
	var hints atomic.Int64
	ctx := httptrace.WithClientTrace(bounded(t), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			if code == http.StatusEarlyHints && header.Get("Link") != "" {
				hints.Add(1)
			}
			return nil
		},
	})
	ctx, info := pillion.WithInfo(ctx)
	resp, body := send(t, newClient(t, all()...), newRequest(t, http.MethodGet, server.URL, nil).WithContext(ctx))
	if resp.StatusCode != http.StatusOK || body != "page" || hints.Load() != 1 {
		t.Errorf("got %d %q after %d hints, want 200 %q after 1", resp.StatusCode, body, hints.Load(), "page")
	}
	if info.Code() != http.StatusOK || info.Attempts() != 1 {
		t.Errorf("got code %d of %d attempts, want 200 of 1", info.Code(), info.Attempts())
	}
}

// TestIntegration_expectContinue pins that the body is not read before the server has asked for it.
func TestIntegration_expectContinue(t *testing.T) {
	tests := []struct {
		name      string
		handler   http.HandlerFunc
		status    int
		wants     bool // the server wants the body
		continues int64
	}{
		{"wanted", func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }, http.StatusOK, true, 1},
		{
			"refused", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusExpectationFailed) },
			http.StatusExpectationFailed, false, 0,
		},
	}
	for _, test := range tests {
		for name, buffer := range map[string]int64{"": 0, ", with a buffer": 1 << 10} {
			t.Run(test.name+name, func(t *testing.T) {
				wantNoLeaks(t)
				server, _ := serve(t, test.handler)
				may := make(chan struct{})
				close(may)
				body := newUpload(100, 0, may)
				var continues atomic.Int64
				ctx := httptrace.WithClientTrace(bounded(t), &httptrace.ClientTrace{
					Got100Continue: func() { continues.Add(1) },
				})
				req := newRequest(t, http.MethodPut, server.URL, body).WithContext(ctx)
				req.Header.Set("Expect", "100-continue")
				client := newClientOver(t, &http.Transport{ExpectContinueTimeout: patience},
					append(all(), pillion.Options{ReplayBuffer: buffer})...)
				resp, _ := send(t, client, req)
				wantSoon(t, body.closed, "the close of the request's body")
				if read := body.asked.Load() != 0; resp.StatusCode != test.status || read != test.wants {
					t.Errorf("got %d and body read: %v, want %d and %v", resp.StatusCode, read, test.status, test.wants)
				}
				if got := continues.Load(); got != test.continues {
					t.Errorf("100 Continue: got %d, want %d", got, test.continues)
				}
			})
		}
	}
}

// TestIntegration_http2 pins all of this over HTTP/2 with TLS: retries with a body, trailers, one
// connection for all.
func TestIntegration_http2(t *testing.T) {
	wantNoLeaks(t)
	var requests atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); string(body) != "order" || err != nil {
			t.Errorf("request body: got %q, %v, want %q", body, err, "order")
		}
		if requests.Add(1)%2 == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.WriteString(w, strings.Repeat("x", 8<<10))
		w.Header().Set("X-Sum", "8192")
	}))
	server.EnableHTTP2 = true
	conns := countConnections(server)
	server.StartTLS()
	defer server.Close()
	b, err := breaker.New(breaker.Config{NonBreakCount: 1000})
	if err != nil {
		t.Fatal(err)
	}
	base := server.Client().Transport.(*http.Transport).Clone()
	client := newClientOver(t, base, timeout.Config{PerTry: patience}, quick(1), limits.Config{MaxRequests: 1}, b)
	for range 10 {
		ctx, info := pillion.WithInfo(bounded(t))
		resp, body := send(t, client, newRequest(t, http.MethodPut, server.URL, strings.NewReader("order")).WithContext(ctx))
		if resp.ProtoMajor != 2 || resp.StatusCode != http.StatusOK || len(body) != 8<<10 || resp.Trailer.Get("X-Sum") != "8192" {
			t.Errorf("got HTTP/%d %d, %d bytes, trailer %v, want HTTP/2 200, 8192 bytes and the trailer",
				resp.ProtoMajor, resp.StatusCode, len(body), resp.Trailer)
		}
		if info.Attempts() != 2 || info.Flags() != 0 {
			t.Errorf("got %d attempts, %v, want 2 and no flags", info.Attempts(), info.Flags())
		}
	}
	if got, want := b.Status(), (breaker.Status{Success: 10, Failure: 10}); got != want {
		t.Errorf("breaker: got %+v, want %+v", got, want)
	}
	conns.wantEver(t, 1, 1)
	// net/http ends a stream a moment after its body, and keeps a connection that is
	// not idle at the call of CloseIdleConnections.
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				client.CloseIdleConnections()
			}
		}
	}()
	conns.wantNone(t)
}

// TestIntegration_http2Cancel pins that the stream ends when its caller is canceled.
func TestIntegration_http2Cancel(t *testing.T) {
	wantNoLeaks(t)
	arrived, left := make(chan struct{}), make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		close(arrived)
		<-r.Context().Done()
		close(left)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	base := server.Client().Transport.(*http.Transport).Clone()
	client := newClientOver(t, base, all()...)
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	resp, err := client.Do(newRequest(t, http.MethodGet, server.URL, nil).WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	wantSoon(t, arrived, "the request")
	cancel() // the body is neither read nor closed
	wantSoon(t, left, "the end of the stream at the server")
	_ = resp.Body.Close()
}

// TestIntegration_trace pins that the trace hooks of the caller's context run for each attempt.
func TestIntegration_trace(t *testing.T) {
	wantNoLeaks(t)
	server, _ := serve(t, failFirst(1, http.StatusServiceUnavailable, "body"))
	var got, reused, wrote, first atomic.Int64
	ctx := httptrace.WithClientTrace(bounded(t), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			got.Add(1)
			if info.Reused {
				reused.Add(1)
			}
		},
		WroteRequest:         func(httptrace.WroteRequestInfo) { wrote.Add(1) },
		GotFirstResponseByte: func() { first.Add(1) },
	})
	send(t, newClient(t, all()...), newRequest(t, http.MethodGet, server.URL, nil).WithContext(ctx))
	if got.Load() != 2 || reused.Load() != 1 || wrote.Load() != 2 || first.Load() != 2 {
		t.Errorf("got %d connections, %d of them reused, %d requests written, %d responses begun, want 2, 1, 2, 2",
			got.Load(), reused.Load(), wrote.Load(), first.Load())
	}
}

// TestIntegration_closeIdleConnections pins that a program can close the idle connections through the
// wrapper, and that a base without such a method is fine.
func TestIntegration_closeIdleConnections(t *testing.T) {
	wantNoLeaks(t)
	server, conns := serve(t, failFirst(0, 0, "ok"))
	client := newClient(t, all()...)
	send(t, client, newRequest(t, http.MethodGet, server.URL, nil))
	client.CloseIdleConnections()
	conns.wantNone(t)

	over := newClientOver(t, bare{}, all()...)
	over.CloseIdleConnections() // it does nothing
}

// bare is a round tripper without other methods.
type bare struct{}

func (bare) RoundTrip(*http.Request) (*http.Response, error) { return nil, http.ErrNotSupported }
