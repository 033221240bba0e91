package pillion_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/timeout"
)

// kept is a service with a breaker and a limit of one request that a client may try to upset.
type kept struct {
	*service
	breaker *breaker.Breaker
}

// guard starts a service. Its handler serves /fine itself.
func guard(t *testing.T, h2 bool, outer func(http.Handler) http.Handler, handler http.HandlerFunc, policies ...pillion.Policy) kept {
	t.Helper()
	g := newGuard(t, outer, handler, policies...)
	g.start(t, h2)
	return g
}

// newGuard is guard for a service that has not been started yet.
func newGuard(t *testing.T, outer func(http.Handler) http.Handler, handler http.HandlerFunc, policies ...pillion.Policy) kept {
	t.Helper()
	g := kept{breaker: newBreaker(t)}
	policies = append(policies, limits.Config{MaxRequests: 1}, g.breaker)
	g.service = newService(t, outer, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/fine" {
			return
		}
		handler(w, r)
	}, policies...)
	return g
}

// startTight starts the service with small buffers between it and its client: a handler whose
// response is not read soon waits, also on a slow machine.
func (g kept) startTight(t *testing.T, h2 bool) {
	t.Helper()
	const size = 16 << 10
	g.Config.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		if secure, ok := conn.(*tls.Conn); ok {
			conn = secure.NetConn()
		}
		if err := conn.(*net.TCPConn).SetWriteBuffer(size); err != nil {
			t.Error(err)
		}
		return ctx
	}
	g.start(t, h2)
	base := g.client.Transport.(*http.Transport)
	base.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: size, MaxReceiveBufferPerConnection: 1 << 16}
	base.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return conn, conn.(*net.TCPConn).SetReadBuffer(size)
	}
}

// dial opens a connection for an HTTP/1 client that violates the protocol.
func (g kept) dial(t *testing.T) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", g.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// write writes to conn.
func write(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
}

// upload starts a request. Its body is what the test writes to body. It ends with leave, or with
// the test. response receives the status, 0 for none.
func (g kept) upload(t *testing.T, header ...string) (body *io.PipeWriter, leave context.CancelFunc, response <-chan int) {
	t.Helper()
	ctx, leave := context.WithCancel(t.Context())
	r, body := io.Pipe()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.URL+"/soup", r)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	status := make(chan int, 1)
	var sending sync.WaitGroup
	sending.Go(func() {
		resp, err := g.client.Do(req)
		if err != nil {
			status <- 0
			return
		}
		status <- resp.StatusCode
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	})
	t.Cleanup(func() {
		_ = body.CloseWithError(errBroken)
		leave()
		sending.Wait()
	})
	return body, leave, status
}

// wantNeutral fails the test unless the one call that was served counts neither for nor against the
// service, and has freed its slot.
func (g kept) wantNeutral(t *testing.T) end {
	t.Helper()
	told := g.ends.await(t)
	if !told.Is.Any(policy.Cancelled) {
		t.Errorf("end: got %d, %v, %v, %v, want it to be the client's doing", told.Code, told.Is, told.Flags, told.err)
	}
	g.wantCounts(t, breaker.Status{})
	return told
}

// wantCounts fails the test unless the breaker has these counts, and the slot is free.
func (g kept) wantCounts(t *testing.T, want breaker.Status) {
	t.Helper()
	if got := g.breaker.Status(); got != want {
		t.Errorf("breaker: got %+v, want %+v", got, want)
	}
	req := requestTo(t, g.URL+"/fine")
	resp, err := g.client.Do(req)
	if err != nil {
		t.Fatalf("the next request: %v", err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("the next request: got %d, want a free slot", resp.StatusCode)
	}
}

// fail responds like a handler that blames the service for each error.
func fail(w http.ResponseWriter) { http.Error(w, "cannot read", http.StatusInternalServerError) }

// readAll reads the body, and calls fail if that fails.
func readAll(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		fail(w)
	}
}

const soon = 50 * time.Millisecond

// TestHandler_slowUpload sends less than the announced body while a total limit runs. The timeout
// wakes the handler, whatever it waits in. The client receives a response although it still sends,
// and causes no failure.
func TestHandler_slowUpload(t *testing.T) {
	t.Parallel()
	origin := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	t.Cleanup(origin.Close)
	target, err := url.Parse(origin.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	proxy.Transport = &http.Transport{DisableKeepAlives: true}
	tests := []struct {
		name    string
		handler http.HandlerFunc
		status  int
	}{
		{"reads and fails", readAll, 500},
		{"reads and returns", func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }, 504},
		{"reads twice", func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			if n, err := r.Body.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
				panic("want the second Read to fail too")
			}
		}, 504},
		{"closes the body", func(_ http.ResponseWriter, r *http.Request) { _ = r.Body.Close(); <-r.Context().Done() }, 504},
		{"reads in another goroutine", func(_ http.ResponseWriter, r *http.Request) {
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = io.Copy(io.Discard, r.Body)
			}()
			<-done
		}, 504},
		{"sends it on", proxy.ServeHTTP, 502},
		{"panics", func(_ http.ResponseWriter, r *http.Request) {
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				panic(err)
			}
		}, 0},
		{"aborts", func(_ http.ResponseWriter, r *http.Request) {
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				panic(http.ErrAbortHandler)
			}
		}, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for version, h2 := range protocols {
				t.Run(version, func(t *testing.T) {
					t.Parallel()
					g := guard(t, h2, nil, test.handler, timeout.Config{Total: soon})
					body, _, response := g.upload(t)
					_, _ = io.WriteString(body, "so")
					if test.status == 0 { // net/http's client waits for the body before it returns an error
						g.ends.await(t)
						_ = body.CloseWithError(errBroken)
					}
					if got := wantSoon(t, response, "response"); got != test.status {
						t.Errorf("got status %d, want %d", got, test.status)
					}
					if test.name == "closes the body" && h2 {
						return // it does not wait in HTTP/2
					}
					told := g.wantNeutral(t)
					if !told.Is.Any(policy.Timeout) || told.Detail != envoy.ResponseTimeout {
						t.Errorf("end: got %v, %v, want the timeout", told.Is, told.Detail)
					}
				})
			}
		})
	}
}

// TestHandler_slowUploadBegun pins that a response that began in time stays.
func TestHandler_slowUploadBegun(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		handler http.HandlerFunc
	}{
		{"reads after the headers", func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).EnableFullDuplex()
			w.WriteHeader(http.StatusAccepted)
			_ = http.NewResponseController(w).Flush()
			_, _ = io.Copy(io.Discard, r.Body)
		}},
		// Here the server reads the rest of the body before it writes.
		{"flushes", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusAccepted)
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, "soup")
		}},
		{"writes", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusAccepted)
			_, _ = w.Write(make([]byte, 1<<16))
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for version, h2 := range protocols {
				t.Run(version, func(t *testing.T) {
					t.Parallel()
					g := guard(t, h2, nil, test.handler, timeout.Config{Total: soon})
					body, _, response := g.upload(t)
					_, _ = io.WriteString(body, "so")
					if got := wantSoon(t, response, "response"); got != http.StatusAccepted {
						t.Errorf("got status %d, want the handler's", got)
					}
					told := g.ends.await(t)
					if told.Code != http.StatusAccepted || told.Is.Any(policy.Timeout) != told.Is.Any(policy.Cancelled) {
						t.Errorf("end: got %d, %v, %v, want 202, neutral if timed out", told.Code, told.Is, told.err)
					}
					if got := g.breaker.Status(); got.Timeout != 0 || got.Failure != 0 {
						t.Errorf("breaker: got %+v, want no failure", got)
					}
				})
			}
		})
	}
}

// TestHandler_unreadUpload runs a handler that itself is slow while the client still sends: that
// counts, and the client has the response before it has sent everything.
func TestHandler_unreadUpload(t *testing.T) {
	t.Parallel()
	for version, h2 := range protocols {
		for name, send := range map[string]func(body io.Writer){
			"stalls": func(body io.Writer) { _, _ = io.WriteString(body, "so") },
			"sends on": func(body io.Writer) {
				go func() {
					for err := error(nil); err == nil; {
						_, err = body.Write(make([]byte, 1<<16))
					}
				}()
			},
		} {
			t.Run(version+", "+name, func(t *testing.T) {
				t.Parallel()
				g := guard(t, h2, nil, silent, timeout.Config{Total: soon})
				body, _, response := g.upload(t)
				send(body)
				if got := wantSoon(t, response, "response"); got != http.StatusGatewayTimeout {
					t.Errorf("got status %d, want 504", got)
				}
				g.ends.want(t, end{Is: policy.Timeout, Flags: envoy.UT, Detail: envoy.ResponseTimeout})
				g.wantCounts(t, breaker.Status{Timeout: 1})
			})
		}
	}
}

// TestHandler_ownSlowness runs a service that is slow, or fails, after it has read a request: that
// counts, even if there is a body, and even if the client disconnects afterwards.
func TestHandler_ownSlowness(t *testing.T) {
	t.Parallel()
	read := func(r *http.Request) {
		if got, err := io.ReadAll(r.Body); err != nil || string(got) != "soup" {
			panic("want the whole body")
		}
	}
	tests := []struct {
		name    string
		handler http.HandlerFunc
		status  int
		want    breaker.Status
	}{
		{"slow", func(w http.ResponseWriter, r *http.Request) { read(r); silent(w, r) }, 504, breaker.Status{Timeout: 1}},
		{"slow, and says so", func(w http.ResponseWriter, r *http.Request) { read(r); silent(w, r); fail(w) }, 500, breaker.Status{Timeout: 1}},
		{"fails", func(w http.ResponseWriter, r *http.Request) { read(r); fail(w) }, 500, breaker.Status{Failure: 1}},
		{"fails, and goes on", func(w http.ResponseWriter, r *http.Request) {
			read(r)
			w.Header().Set("Content-Length", "0")
			w.WriteHeader(http.StatusInternalServerError)
			_ = http.NewResponseController(w).Flush()
			if r.Header.Get("X-Leave") == "" {
				return
			}
			<-r.Context().Done() // the client disconnects
		}, 500, breaker.Status{Failure: 1}},
		// The wait for its source was counted as a wait for the client.
		{"slow in the middle of a copy", func(w http.ResponseWriter, r *http.Request) {
			read(r)
			_, _ = io.Copy(w, io.MultiReader(strings.NewReader(strings.Repeat("s", 1<<14)), until(r.Context())))
		}, 200, breaker.Status{Timeout: 1}},
		{"reads a closed body, and fails", func(w http.ResponseWriter, r *http.Request) {
			read(r)
			_ = r.Body.Close()
			_, _ = r.Body.Read(make([]byte, 1))
			fail(w)
		}, 500, breaker.Status{Failure: 1}},
		{"panics", func(_ http.ResponseWriter, r *http.Request) { read(r); panic("burnt") }, 0, breaker.Status{Failure: 1}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for version, h2 := range protocols {
				t.Run(version, func(t *testing.T) {
					t.Parallel()
					limit := timeout.Config{Total: time.Minute}
					if test.want.Timeout != 0 {
						limit.Total = 2 * time.Second
					}
					g := guard(t, h2, nil, test.handler, limit)
					body, leave, response := g.upload(t, "X-Leave", "yes")
					_, _ = io.WriteString(body, "soup")
					_ = body.Close()
					if got := wantSoon(t, response, "response"); got != test.status {
						t.Errorf("got status %d, want %d", got, test.status)
					}
					if test.want.Timeout == 0 {
						leave()
						g.client.CloseIdleConnections()
					}
					g.ends.await(t)
					g.wantCounts(t, test.want)
				})
			}
		})
	}
}

// until is a reader that blocks until ctx ends.
func until(ctx context.Context) io.Reader {
	return readerFunc(func([]byte) (int, error) {
		<-ctx.Done()
		return 0, ctx.Err()
	})
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestHandler_trickle sends a body so slowly that the timeout fires in the short work that follows.
func TestHandler_trickle(t *testing.T) {
	t.Parallel()
	for version, h2 := range protocols {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			g := guard(t, h2, nil, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				silent(w, r)
			}, timeout.Config{Total: 400 * time.Millisecond})
			body, _, response := g.upload(t)
			for range 15 {
				_, _ = io.WriteString(body, "s")
				time.Sleep(20 * time.Millisecond)
			}
			_ = body.Close()
			if got := wantSoon(t, response, "response"); got != http.StatusGatewayTimeout {
				t.Errorf("got status %d, want 504", got)
			}
			g.wantNeutral(t)
		})
	}
}

// TestHandler_slowReader runs clients that do not read the response: a timeout ends the Write or
// Flush that waits for them, and they cause no failure.
func TestHandler_slowReader(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "soup")
	if err := os.WriteFile(name, make([]byte, 1<<18), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]func(w http.ResponseWriter) error{
		"Write": func(w http.ResponseWriter) error { _, err := w.Write(make([]byte, 1<<16)); return err },
		"WriteString": func(w http.ResponseWriter) error {
			_, err := io.WriteString(w, strings.Repeat("s", 1<<16))
			return err
		},
		"Copy": func(w http.ResponseWriter) error {
			_, err := io.Copy(w, struct{ io.Reader }{bytes.NewReader(make([]byte, 1<<16))})
			return err
		},
		"Copy of a file": func(w http.ResponseWriter) error {
			f, err := os.Open(name)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.Copy(w, f)
			return err
		},
		"Flush": func(w http.ResponseWriter) error {
			_, _ = w.Write(make([]byte, 1000))
			return http.NewResponseController(w).Flush()
		},
		"deadlines of its own": func(w http.ResponseWriter) error {
			if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
				return err
			}
			_, err := w.Write(make([]byte, 1<<16))
			return err
		},
	}
	for how, part := range tests {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			for version, h2 := range protocols {
				t.Run(version, func(t *testing.T) {
					t.Parallel()
					failed := make(chan error, 1)
					g := newGuard(t, nil, func(w http.ResponseWriter, _ *http.Request) {
						for {
							if err := part(w); err != nil {
								failed <- err
								return
							}
						}
					}, timeout.Config{Total: 8 * soon}) // long enough to fill the buffers
					g.startTight(t, h2)
					resp, err := g.client.Do(requestTo(t, g.URL))
					if err != nil {
						t.Fatal(err)
					}
					defer resp.Body.Close()
					_ = wantSoon(t, failed, "the handler's write")
					told := g.wantNeutral(t)
					if told.Code != http.StatusOK {
						t.Errorf("end: got %d, want 200", told.Code)
					}
				})
			}
		})
	}
}

// TestHandler_connectionStays pins that a connection stays usable after a timeout if the client
// reads all of the response: it serves further requests with bodies, for longer than the last
// writes may take.
func TestHandler_connectionStays(t *testing.T) {
	t.Parallel()
	const size = 1 << 18
	tests := []struct {
		name   string
		status int
		body   string
		late   func(w http.ResponseWriter)
	}{
		{"a late response", http.StatusOK, "", func(w http.ResponseWriter) { _, _ = w.Write(make([]byte, size)) }},
		{"a late response to a body", http.StatusOK, "soup", func(w http.ResponseWriter) { _, _ = w.Write(make([]byte, size)) }},
		{"no response", http.StatusGatewayTimeout, "", func(http.ResponseWriter) {}},
		{"no response to a body", http.StatusGatewayTimeout, "soup", func(http.ResponseWriter) {}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for version, h2 := range protocols {
				t.Run(version, func(t *testing.T) {
					t.Parallel()
					g := guard(t, h2, withAddress, func(w http.ResponseWriter, r *http.Request) {
						if got, err := io.ReadAll(r.Body); err != nil || string(got) != test.body {
							t.Errorf("got body %q, %v, want %q", got, err, test.body)
						}
						if r.Header.Get("Grpc-Timeout") != "" {
							silent(w, r)
							test.late(w)
							return
						}
						wait := time.NewTimer(700 * time.Millisecond)
						defer wait.Stop()
						select {
						case <-wait.C:
						case <-r.Context().Done():
							t.Error("the context of the second request ended")
						}
						_, _ = w.Write(make([]byte, size))
					}, timeout.Config{Total: time.Minute})
					var addresses []string
					for _, limit := range []string{"500m", ""} {
						req := requestTo(t, g.URL)
						if test.body != "" {
							req.Method, req.Body, req.ContentLength = http.MethodPost, io.NopCloser(strings.NewReader(test.body)), int64(len(test.body))
						}
						want := http.StatusOK
						if limit != "" {
							req.Header.Set("Grpc-Timeout", limit)
							want = test.status
						}
						resp, err := g.client.Do(req)
						if err != nil {
							t.Fatal(err)
						}
						n, err := io.Copy(io.Discard, resp.Body)
						_ = resp.Body.Close()
						if err != nil || resp.StatusCode != want || want == http.StatusOK && n != size {
							t.Errorf("limit %q: got %d, %d bytes, %v, want %d and all of it", limit, resp.StatusCode, n, err, want)
						}
						addresses = append(addresses, resp.Header.Get("X-Address"))
					}
					if addresses[0] != addresses[1] {
						t.Errorf("got connections from %q, want one for both", addresses)
					}
				})
			}
		})
	}
}

// withAddress is middleware that sends the client the address of its connection.
func withAddress(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Address", r.RemoteAddr)
		next.ServeHTTP(w, r)
	})
}

// TestHandler_instants pins at which instants a handler that waits for its client is woken: by a
// total limit of one second, by deadlines that it sets itself, and by those of the server.
func TestHandler_instants(t *testing.T) {
	const sec, ms = time.Second, time.Millisecond
	in := func(d time.Duration) time.Time { return time.Now().Add(d) }
	write := func(w http.ResponseWriter) error {
		_, _ = w.Write(make([]byte, 1<<16))
		return http.NewResponseController(w).Flush()
	}
	read := func(r *http.Request) error {
		_, err := io.Copy(io.Discard, r.Body)
		return err
	}
	tests := []struct {
		name   string
		server *http.Server
		wait   func(w http.ResponseWriter, r *http.Request) error
		want   time.Duration
	}{
		{"a Read", &http.Server{}, func(_ http.ResponseWriter, r *http.Request) error { return read(r) }, sec},
		{"a later Read", &http.Server{}, func(_ http.ResponseWriter, r *http.Request) error {
			time.Sleep(3 * sec)
			return read(r)
		}, 3 * sec},
		{"a Read with an earlier deadline", &http.Server{}, func(w http.ResponseWriter, r *http.Request) error {
			_ = http.NewResponseController(w).SetReadDeadline(in(300 * ms))
			return read(r)
		}, 300 * ms},
		{"a Read with a later deadline", &http.Server{}, func(w http.ResponseWriter, r *http.Request) error {
			_ = http.NewResponseController(w).SetReadDeadline(in(5 * sec))
			return read(r)
		}, sec},
		{"a Read whose deadline is set too late", &http.Server{}, func(w http.ResponseWriter, r *http.Request) error {
			<-r.Context().Done()
			time.Sleep(sec)
			_ = http.NewResponseController(w).SetReadDeadline(in(5 * sec))
			return read(r)
		}, 2 * sec},
		{"a Read of a server with a timeout", &http.Server{ReadTimeout: 400 * ms}, func(_ http.ResponseWriter, r *http.Request) error { return read(r) }, 400 * ms},
		{"a Write", &http.Server{}, func(w http.ResponseWriter, _ *http.Request) error { return write(w) }, 1500 * ms},
		{"a later Write", &http.Server{}, func(w http.ResponseWriter, r *http.Request) error {
			<-r.Context().Done()
			time.Sleep(2 * sec)
			return write(w)
		}, 3500 * ms},
		{"a Write with an earlier deadline", &http.Server{}, func(w http.ResponseWriter, _ *http.Request) error {
			_ = http.NewResponseController(w).SetWriteDeadline(in(1200 * ms))
			return write(w)
		}, 1200 * ms},
		{"a Write with a later deadline", &http.Server{}, func(w http.ResponseWriter, _ *http.Request) error {
			_ = http.NewResponseController(w).SetWriteDeadline(in(5 * sec))
			return write(w)
		}, 1500 * ms},
		{"a Write whose deadline is set again", &http.Server{}, func(w http.ResponseWriter, r *http.Request) error {
			<-r.Context().Done()
			w.WriteHeader(http.StatusOK) // half a second starts here
			_ = http.NewResponseController(w).SetWriteDeadline(in(5 * sec))
			_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
			return write(w)
		}, 1500 * ms},
		{"a Write whose deadline is set earlier", &http.Server{}, func(w http.ResponseWriter, r *http.Request) error {
			<-r.Context().Done()
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).SetWriteDeadline(in(100 * ms))
			return write(w)
		}, 1100 * ms},
		{"a Write of a server with a timeout", &http.Server{WriteTimeout: 1300 * ms}, func(w http.ResponseWriter, _ *http.Request) error { return write(w) }, 1300 * ms},
		{"a Write of a server with a long timeout", &http.Server{WriteTimeout: 5 * sec}, func(w http.ResponseWriter, _ *http.Request) error { return write(w) }, 1500 * ms},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				took := make(chan time.Duration, 1)
				guarded, err := newUpstream(t, timeout.Config{Total: sec}).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if err := test.wait(w, r); !errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("got %v, want %v", err, os.ErrDeadlineExceeded)
					}
					took <- time.Since(began)
				}))
				if err != nil {
					t.Fatal(err)
				}
				client, server := net.Pipe()
				test.server.Handler = guarded
				listener := &onePipe{conn: server, closed: make(chan struct{})}
				var serving sync.WaitGroup
				serving.Go(func() { _ = test.server.Serve(listener) })
				if strings.Contains(test.name, "Read") {
					_, _ = io.WriteString(client, "POST /soup HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nso")
				} else {
					_, _ = io.WriteString(client, "GET /soup HTTP/1.1\r\nHost: x\r\n\r\n")
				}
				if got := <-took; got != test.want {
					t.Errorf("got %v, want %v", got, test.want)
				}
				_ = client.Close()
				_ = test.server.Close()
				serving.Wait()
				time.Sleep(sec) // the server keeps a connection for a while before it closes it
			})
		})
	}
}

// onePipe is a listener with one connection.
type onePipe struct {
	conn   net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *onePipe) Accept() (net.Conn, error) {
	if conn := l.conn; conn != nil {
		l.conn = nil
		return conn, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *onePipe) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *onePipe) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// TestHandler_oneRequestOnly sends a further request as the rest of a body, after the timeout has
// cut the body off.
func TestHandler_oneRequestOnly(t *testing.T) {
	t.Parallel()
	tests := map[string]http.HandlerFunc{
		"before the headers": func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) },
		"after the headers": func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).EnableFullDuplex()
			_, _ = io.WriteString(w, "part")
			_ = http.NewResponseController(w).Flush()
			_, _ = io.Copy(io.Discard, r.Body)
		},
		"not read": silent,
	}
	for name, handler := range tests {
		for _, outer := range []func(http.Handler) http.Handler{nil, unwrappable} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				var smuggled atomic.Bool
				g := guard(t, false, outer, func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/smuggled" {
						smuggled.Store(true)
						return
					}
					handler(w, r)
				}, timeout.Config{Total: soon})
				conn := g.dial(t)
				write(t, conn, "POST /soup HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nso")
				g.ends.await(t)
				_, _ = io.WriteString(conn, "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n") // the connection may be closed
				if _, err := io.Copy(io.Discard, conn); err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("the connection was not closed")
				}
				if smuggled.Load() {
					t.Error("a part of the body was served as a request")
				}
			})
		}
	}
}

// TestHandler_badUpload sends bodies that cannot be read, through the client's fault: whatever the
// handler does with the error, it is no failure of the service.
func TestHandler_badUpload(t *testing.T) {
	t.Parallel()
	clients := map[string]func(t *testing.T, conn *net.TCPConn){
		"disconnects": func(t *testing.T, conn *net.TCPConn) {
			t.Helper()
			write(t, conn, "POST /soup HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nso")
			_ = conn.Close()
		},
		"resets": func(t *testing.T, conn *net.TCPConn) {
			t.Helper()
			write(t, conn, "POST /soup HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nso")
			_ = conn.SetLinger(0)
			_ = conn.Close()
		},
		"half-closes": func(t *testing.T, conn *net.TCPConn) {
			t.Helper()
			write(t, conn, "POST /soup HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nso")
			_ = conn.CloseWrite()
		},
		"sends a bad chunk": func(t *testing.T, conn *net.TCPConn) {
			t.Helper()
			write(t, conn, "POST /soup HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno length\r\n")
		},
		"sends a bad trailer": func(t *testing.T, conn *net.TCPConn) {
			t.Helper()
			write(t, conn, "POST /soup HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n2\r\nso\r\n0\r\nno trailer\r\n\r\n")
		},
		"sends too much": func(t *testing.T, conn *net.TCPConn) {
			t.Helper()
			write(t, conn, "POST /soup HTTP/1.1\r\nHost: x\r\nContent-Length: 200\r\n\r\n"+strings.Repeat("s", 200))
		},
	}
	handlers := map[string]func(w http.ResponseWriter, err error){
		"500": func(w http.ResponseWriter, _ error) { fail(w) },
		"503, later": func(w http.ResponseWriter, _ error) {
			time.Sleep(5 * time.Millisecond)
			w.WriteHeader(http.StatusServiceUnavailable)
		},
		"abort": func(http.ResponseWriter, error) { panic(http.ErrAbortHandler) },
		"panic": func(_ http.ResponseWriter, err error) { panic(err) },
		"text":  func(http.ResponseWriter, error) { panic("cannot read") },
	}
	atMost := func(next http.Handler) http.Handler { return http.MaxBytesHandler(next, 100) }
	for client, act := range clients {
		for name, respond := range handlers {
			t.Run(client+", "+name, func(t *testing.T) {
				t.Parallel()
				g := guard(t, false, atMost, func(w http.ResponseWriter, r *http.Request) {
					_, err := io.Copy(io.Discard, r.Body)
					if err == nil {
						panic("want the body to be bad")
					}
					respond(w, err)
				})
				act(t, g.dial(t))
				g.wantNeutral(t)
			})
		}
	}
}

// TestHandler_tooLarge runs handlers that bound the body themselves, and panic with the error.
func TestHandler_tooLarge(t *testing.T) {
	g := guard(t, false, nil, func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 2)); err != nil {
			panic(err)
		}
	})
	body, _, _ := g.upload(t)
	_, _ = io.WriteString(body, "soup")
	g.wantNeutral(t)
}

// TestHandler_leaves disconnects clients, or resets their HTTP/2 stream, at different times. The
// handlers respond with a failure, or panic, because of that.
func TestHandler_leaves(t *testing.T) {
	t.Parallel()
	handlers := map[string]http.HandlerFunc{
		"500": func(w http.ResponseWriter, _ *http.Request) { fail(w) },
		"panic": func(_ http.ResponseWriter, r *http.Request) {
			panic(r.Context().Err())
		},
		"abort":   func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"nothing": func(http.ResponseWriter, *http.Request) {},
	}
	phases := map[string]func(w http.ResponseWriter, r *http.Request, began func()){
		"while the handler works": func(_ http.ResponseWriter, r *http.Request, began func()) {
			_, _ = io.Copy(io.Discard, r.Body)
			began()
			<-r.Context().Done()
		},
		"while it reads": func(_ http.ResponseWriter, r *http.Request, began func()) {
			_, _ = io.ReadFull(r.Body, make([]byte, 2))
			began()
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		},
		"while it writes": func(w http.ResponseWriter, r *http.Request, began func()) {
			_, _ = io.Copy(io.Discard, r.Body)
			began()
			for err := error(nil); err == nil; {
				_, err = w.Write(make([]byte, 1<<16))
			}
			<-r.Context().Done()
		},
	}
	for phase, wait := range phases {
		for name, respond := range handlers {
			t.Run(phase+", "+name, func(t *testing.T) {
				t.Parallel()
				for version, h2 := range protocols {
					t.Run(version, func(t *testing.T) {
						t.Parallel()
						began := make(chan struct{})
						g := guard(t, h2, nil, func(w http.ResponseWriter, r *http.Request) {
							wait(w, r, sync.OnceFunc(func() { close(began) }))
							respond(w, r)
						}, timeout.Config{Total: time.Minute})
						body, leave, _ := g.upload(t)
						_, _ = io.WriteString(body, "so")
						if phase != "while it reads" {
							_ = body.Close()
						}
						_ = wantSoon(t, began, "the handler's beginning")
						leave()
						told := g.wantNeutral(t)
						if told.Flags != envoy.DC || told.Detail != envoy.CallerGone {
							t.Errorf("end: got %v, %v, want that the client disconnected", told.Flags, told.Detail)
						}
					})
				}
			})
		}
	}
}

// TestHandler_expectContinue runs a client that asks whether it may send its body, receives 100,
// and never sends it.
func TestHandler_expectContinue(t *testing.T) {
	t.Parallel()
	for name, handler := range map[string]http.HandlerFunc{"read": readAll, "not read": silent} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := guard(t, false, nil, handler, timeout.Config{Total: soon})
			conn := g.dial(t)
			write(t, conn, "POST /soup HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
			r := bufio.NewReader(conn)
			resp, err := http.ReadResponse(r, nil)
			if err == nil && name == "read" {
				if resp.StatusCode != http.StatusContinue {
					t.Errorf("got %d, want 100 first", resp.StatusCode)
				}
				resp, err = http.ReadResponse(r, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if name == "not read" { // the service itself was slow
				if resp.StatusCode != http.StatusGatewayTimeout {
					t.Errorf("got %d, want 504", resp.StatusCode)
				}
				g.wantCounts(t, breaker.Status{Timeout: 1})
				return
			}
			if resp.StatusCode != http.StatusInternalServerError {
				t.Errorf("got %d, want the handler's 500", resp.StatusCode)
			}
			g.wantNeutral(t)
		})
	}
}

// TestHandler_namedDeadlines sends deadlines that no handler can keep.
func TestHandler_namedDeadlines(t *testing.T) {
	t.Parallel()
	for _, header := range [][]string{
		{"Grpc-Timeout", "1n"},
		{"Grpc-Timeout", "0S"},
		{"Grpc-Timeout", "20m"},
		{"X-Envoy-Expected-Rq-Timeout-Ms", "1"},
		{"X-Envoy-Expected-Rq-Timeout-Ms", "20"},
		{"X-Envoy-Expected-Rq-Timeout-Ms", "20", "Grpc-Timeout", "1S"},
	} {
		t.Run(strings.Join(header, " "), func(t *testing.T) {
			t.Parallel()
			for version, h2 := range protocols {
				t.Run(version, func(t *testing.T) {
					t.Parallel()
					g := guard(t, h2, nil, silent, timeout.Config{Total: time.Minute})
					_, _, response := g.upload(t, header...) // also while the body is missing
					if got := wantSoon(t, response, "response"); got != http.StatusGatewayTimeout {
						t.Errorf("got status %d, want 504", got)
					}
					told := g.wantNeutral(t)
					if !told.Is.Any(policy.Timeout) || scopeOf(told.err) != policy.ScopeCaller {
						t.Errorf("end: got %v, %v, want the client's deadline", told.Is, told.err)
					}
				})
			}
		})
	}
}

// TestHandler_outerDeadline ends the context of the request in middleware before any timeout fires:
// that wakes the handler as well.
func TestHandler_outerDeadline(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		handler http.HandlerFunc
		neutral bool
	}{
		{"reads", readAll, true},
		{"works", silent, false},
	}
	outer := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/soup" {
				ctx, cancel := context.WithTimeout(r.Context(), soon)
				defer cancel()
				r = r.WithContext(ctx)
			}
			next.ServeHTTP(w, r)
		})
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			for _, limit := range []time.Duration{timeout.Unlimited, time.Minute} {
				g := guard(t, false, outer, test.handler, timeout.Config{Total: limit})
				body, _, response := g.upload(t)
				_, _ = io.WriteString(body, "so")
				if got := wantSoon(t, response, "response"); got < 500 {
					t.Errorf("got status %d, want a failure", got)
				}
				if test.neutral {
					g.wantNeutral(t)
				} else {
					g.ends.await(t)
					g.wantCounts(t, breaker.Status{Timeout: 1})
				}
			}
		})
	}
}

// TestHandler_hijackAtTheLimit hijacks the connection after a timeout has fired, and while it
// fires: no deadline is left on it.
func TestHandler_hijackAtTheLimit(t *testing.T) {
	t.Parallel()
	for name, wait := range map[string]func(r *http.Request){
		"after":  func(r *http.Request) { <-r.Context().Done() },
		"before": func(*http.Request) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := guard(t, false, nil, func(w http.ResponseWriter, r *http.Request) {
				wait(r)
				conn, buffered, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				if name == "before" {
					time.Sleep(2 * soon)
				}
				buffer := make([]byte, 4)
				if _, err := io.ReadFull(buffered, buffer); err != nil {
					t.Errorf("read: %v", err)
				}
				time.Sleep(700 * time.Millisecond)
				if _, err := conn.Write(buffer); err != nil {
					t.Errorf("write: %v", err)
				}
			}, timeout.Config{Total: soon})
			conn := g.dial(t)
			write(t, conn, "POST /soup HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n")
			time.Sleep(2 * soon)
			write(t, conn, "soup")
			if got, err := io.ReadAll(conn); err != nil || string(got) != "soup" {
				t.Errorf("got %q, %v, want soup back", got, err)
			}
		})
	}
}

// brittle is a server's writer whose methods for deadlines panic.
type brittle struct{ http.ResponseWriter }

func (brittle) SetReadDeadline(time.Time) error  { panic("no deadlines here") }
func (brittle) SetWriteDeadline(time.Time) error { panic("no deadlines here") }

// TestHandler_brittleDeadlines panics in middleware where the panic reaches no caller: that does
// not end the process.
func TestHandler_brittleDeadlines(t *testing.T) {
	g := guard(t, false, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(brittle{w}, r) })
	}, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }, timeout.Config{Total: soon})
	body, _, _ := g.upload(t)
	_, _ = io.WriteString(body, "so")
	time.Sleep(2 * soon)
	_ = body.Close()
	if told := g.ends.await(t); !told.Is.Any(policy.Timeout) {
		t.Errorf("end: got %v, %v, want a timeout", told.Is, told.err)
	}
}

// TestHandler_form reads a form whose files are on disk: the server removes them, although the
// handler received a copy of the request.
func TestHandler_form(t *testing.T) {
	t.Parallel()
	for name, policies := range map[string][]pillion.Policy{"unlimited": nil, "limited": {timeout.Config{}}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var files []string
			var pattern string
			served := make(chan struct{})
			mux := http.NewServeMux()
			mux.HandleFunc("POST /soup", func(_ http.ResponseWriter, r *http.Request) {
				if err := r.ParseMultipartForm(1); err != nil {
					t.Error(err)
					return
				}
				for _, headers := range r.MultipartForm.File {
					f, err := headers[0].Open()
					if err != nil {
						t.Error(err)
						return
					}
					if f, ok := f.(*os.File); ok {
						files = append(files, f.Name())
					}
					_ = f.Close()
				}
			})
			s := serveUnder(t, false, func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					defer close(served)
					next.ServeHTTP(w, r)
					pattern = r.Pattern
				})
			}, mux.ServeHTTP, policies...)
			var form bytes.Buffer
			w := multipart.NewWriter(&form)
			part, err := w.CreateFormFile("recipe", "recipe.txt")
			if err != nil {
				t.Fatal(err)
			}
			_, _ = part.Write(make([]byte, 11<<20)) // too large for memory
			_ = w.Close()
			resp, err := s.client.Post(s.URL+"/soup", w.FormDataContentType(), &form)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			s.Close()
			_ = wantSoon(t, served, "the handler's return")
			if len(files) != 1 || pattern != "POST /soup" {
				t.Fatalf("got files %q, pattern %q, want one file", files, pattern)
			}
			if _, err := os.Stat(files[0]); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: got %v, want that the server has removed it", files[0], err)
			}
		})
	}
}

// TestHandler_rudeClients runs many clients concurrently that do everything wrong that clients can
// do. At the end the end of each call has been reported, and each slot is free.
func TestHandler_rudeClients(t *testing.T) {
	t.Parallel()
	for version, h2 := range protocols {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s := serveUnder(t, h2, nil, func(w http.ResponseWriter, r *http.Request) {
				_, err := io.Copy(io.Discard, r.Body)
				switch do := r.Header.Get("X-Do"); {
				case err != nil && do == "panic":
					panic(err)
				case err != nil:
					fail(w)
				case do == "wait":
					silent(w, r)
				default:
					_, _ = w.Write(make([]byte, 1<<20))
				}
			}, timeout.Config{Total: 20 * time.Millisecond}, limits.Config{MaxRequests: 8})
			var clients sync.WaitGroup
			for i := range 90 {
				clients.Go(func() {
					ctx, leave := context.WithCancel(t.Context())
					defer leave()
					body, in := io.Pipe()
					defer in.Close()
					req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+"/soup", body)
					if err != nil {
						t.Error(err)
						return
					}
					req.Header.Set("X-Do", []string{"panic", "wait", "write"}[i%3])
					patient := time.Duration(i%7) * 10 * time.Millisecond
					clients.Go(func() {
						for range i % 5 {
							_, _ = io.WriteString(in, "soup")
							time.Sleep(patient / 5)
						}
						if i%2 == 0 {
							_ = in.Close()
						}
						time.Sleep(patient)
						leave()
						_ = in.CloseWithError(errBroken)
					})
					if resp, err := s.client.Do(req); err == nil {
						_, _ = io.CopyN(io.Discard, resp.Body, int64(i)<<12)
						_ = resp.Body.Close()
					}
				})
			}
			clients.Wait()
			s.Close() // it does not wait for handlers of HTTP/2
			for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
				if _, underWay := s.ends.count(); allFree(t, s.Config.Handler, 8) && underWay == 0 {
					break
				} else if time.Now().After(deadline) {
					t.Fatalf("got %d attempts under way, want none, and all slots free", underWay)
				}
			}
		})
	}
}

// allFree reports whether n requests whose timeout fires are served concurrently.
func allFree(t *testing.T, h http.Handler, slots int) bool {
	t.Helper()
	var refused atomic.Bool
	var requests sync.WaitGroup
	for range slots {
		requests.Go(func() {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
			r.Header.Set("X-Do", "wait")
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != http.StatusGatewayTimeout {
				refused.Store(true)
			}
		})
	}
	requests.Wait()
	return !refused.Load()
}

// leavingWriter is the ResponseWriter of a client that disconnects when it has the response headers:
// each later write fails.
type leavingWriter struct {
	http.ResponseWriter
	leave context.CancelFunc
}

func (w leavingWriter) Write([]byte) (int, error) {
	w.leave()
	return 0, errBroken
}

// TestHandler_leavesAfterFailure pins that a failure of the handler stays one if its client disconnects
// while the response is written. A response that is no failure is canceled.
func TestHandler_leavesAfterFailure(t *testing.T) {
	for status, want := range map[int]breaker.Status{
		http.StatusInternalServerError: {Failure: 1},
		http.StatusOK:                  {},
	} {
		b, err := breaker.New(breaker.Config{})
		if err != nil {
			t.Fatal(err)
		}
		h, err := newUpstream(t, b).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "soup")
		}))
		if err != nil {
			t.Fatal(err)
		}
		ctx, leave := context.WithCancel(t.Context())
		r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/", http.NoBody)
		h.ServeHTTP(leavingWriter{httptest.NewRecorder(), leave}, r)
		if got := b.Status(); got != want {
			t.Errorf("status %d: got %+v, want %+v", status, got, want)
		}
	}
}
