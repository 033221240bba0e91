package pillion_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/timeout"
)

// TestHandler_shapes uses servers' writers of all kinds, and pins what a handler can do with its
// writer.
func TestHandler_shapes(t *testing.T) {
	plain := shapeless{httptest.NewRecorder()}
	tests := []struct {
		name string
		w    http.ResponseWriter
		want string
	}{
		{"nothing", plain, ""},
		{"flush", struct {
			shapeless
			http.Flusher
		}{plain, nil}, "flush"},
		{"hijack", struct {
			shapeless
			http.Hijacker
		}{plain, nil}, "hijack"},
		{"push", struct {
			shapeless
			http.Pusher
		}{plain, nil}, "push"},
		{"HTTP/2", struct {
			shapeless
			http.Flusher
			http.Pusher
		}{plain, nil, nil}, "flush push"},
		{"flush, hijack", struct {
			shapeless
			http.Flusher
			http.Hijacker
		}{plain, nil, nil}, "flush hijack"},
		{"HTTP/1", struct {
			shapeless
			http.Flusher
			http.Hijacker
			io.ReaderFrom
		}{plain, nil, nil, nil}, "flush hijack send"},
		{"hijack, push", struct {
			shapeless
			http.Hijacker
			http.Pusher
		}{plain, nil, nil}, "hijack push"},
		{"flush, hijack, push", struct {
			shapeless
			http.Flusher
			http.Hijacker
			http.Pusher
		}{plain, nil, nil, nil}, "flush hijack push"},
		{"a recorder", httptest.NewRecorder(), "flush"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			guarded, err := newUpstream(t).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { got = abilitiesOf(w) }))
			if err != nil {
				t.Fatal(err)
			}
			guarded.ServeHTTP(test.w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
			if strings.Join(got, " ") != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// shapeless is a ResponseWriter without optional methods.
type shapeless struct{ http.ResponseWriter }

func abilitiesOf(w http.ResponseWriter) (can []string) {
	if _, ok := w.(http.Flusher); ok {
		can = append(can, "flush")
	}
	if _, ok := w.(http.Hijacker); ok {
		can = append(can, "hijack")
	}
	if _, ok := w.(http.Pusher); ok {
		can = append(can, "push")
	}
	if _, ok := w.(io.ReaderFrom); ok {
		can = append(can, "send")
	}
	if _, ok := w.(http.CloseNotifier); ok { //nolint:staticcheck // frameworks still use it
		can = append(can, "notify")
	}
	return can
}

// TestHandler_realShapes is TestHandler_shapes with net/http's own writers, wrapped ones too.
func TestHandler_realShapes(t *testing.T) {
	for version, h2 := range protocols {
		t.Run(version, func(t *testing.T) {
			want := "flush hijack send notify"
			if h2 {
				want = "flush push notify"
			}
			for name, outer := range map[string]func(http.Handler) http.Handler{want: nil, "": unwrappable} {
				var got []string
				s := serveUnder(t, h2, outer, func(w http.ResponseWriter, _ *http.Request) {
					got = abilitiesOf(w)
					control := http.NewResponseController(w)
					for what, err := range map[string]error{
						"SetReadDeadline":  control.SetReadDeadline(time.Now().Add(patience)),
						"SetWriteDeadline": control.SetWriteDeadline(time.Now().Add(patience)),
						"EnableFullDuplex": control.EnableFullDuplex(),
					} {
						if err != nil {
							t.Errorf("%s: %v", what, err)
						}
					}
				})
				if _, _, err := s.do(t, http.MethodGet); err != nil {
					t.Fatal(err)
				}
				if strings.Join(got, " ") != name {
					t.Errorf("got %q, want %q", got, name)
				}
			}
		})
	}
}

// TestHandler_unsupported calls every optional method of a writer that supports none.
func TestHandler_unsupported(t *testing.T) {
	var flushed, hijacked error
	guarded, err := newUpstream(t).Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		control := http.NewResponseController(w)
		flushed = control.Flush()
		_, _, hijacked = control.Hijack()
		w.WriteHeader(http.StatusAccepted)
	}))
	if err != nil {
		t.Fatal(err)
	}
	ctx, info := pillion.WithInfo(t.Context())
	guarded.ServeHTTP(shapeless{httptest.NewRecorder()}, httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
	if !errors.Is(flushed, http.ErrNotSupported) || !errors.Is(hijacked, http.ErrNotSupported) || info.Code() != http.StatusAccepted {
		t.Errorf("got %v, %v, status %d, want ErrNotSupported twice and 202", flushed, hijacked, info.Code())
	}
}

// TestHandler_flush pins that the client can read the first part of a response while the handler
// waits for it.
func TestHandler_flush(t *testing.T) {
	for version, h2 := range protocols {
		t.Run(version, func(t *testing.T) {
			read := make(chan struct{})
			s := serveUnder(t, h2, nil, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, "first")
				w.(http.Flusher).Flush()
				select {
				case <-read:
				case <-r.Context().Done():
				}
				_, _ = io.WriteString(w, "last.")
			})
			resp, err := s.client.Do(requestTo(t, s.URL))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			for _, want := range []string{"first", "last."} {
				got := make([]byte, 5)
				if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
					t.Errorf("got %q, %v, want %q", got, err, want)
				}
				if want == "first" {
					close(read)
				}
			}
		})
	}
}

func requestTo(t *testing.T, url string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// TestHandler_push pushes; Go's client does not accept pushes, and the server returns that error.
func TestHandler_push(t *testing.T) {
	var got error
	s := serveUnder(t, true, nil, func(w http.ResponseWriter, _ *http.Request) { got = w.(http.Pusher).Push("/bread", nil) })
	if _, _, err := s.do(t, http.MethodGet); err != nil {
		t.Fatal(err)
	}
	if got == nil || !strings.Contains(got.Error(), "not supported") {
		t.Errorf("got %v, want the server's own refusal", got)
	}
}

// TestHandler_closeNotify notifies a handler of a client that disconnects, as frameworks still do.
func TestHandler_closeNotify(t *testing.T) {
	for version, h2 := range protocols {
		t.Run(version, func(t *testing.T) {
			began, notified := make(chan struct{}), make(chan bool, 1)
			s := serveUnder(t, h2, nil, func(w http.ResponseWriter, r *http.Request) {
				gone := w.(http.CloseNotifier).CloseNotify() //nolint:staticcheck // frameworks still use it
				close(began)
				<-r.Context().Done()
				notified <- <-gone
			})
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			go func() {
				<-began
				leave()
			}()
			if resp, err := s.client.Do(requestTo(t, s.URL).WithContext(ctx)); err == nil {
				_ = resp.Body.Close()
			}
			if !wantSoon(t, notified, "the notification") {
				t.Error("got false, want true")
			}
		})
	}
}

// TestHandler_hijack hijacks a connection, by the type and by the controller, and uses it for
// longer than any limit.
func TestHandler_hijack(t *testing.T) {
	take := map[string]func(w http.ResponseWriter) (net.Conn, *bufio.ReadWriter, error){
		"Hijacker": func(w http.ResponseWriter) (net.Conn, *bufio.ReadWriter, error) { return w.(http.Hijacker).Hijack() },
		"ResponseController": func(w http.ResponseWriter) (net.Conn, *bufio.ReadWriter, error) {
			return http.NewResponseController(w).Hijack()
		},
	}
	for name, outer := range map[string]func(http.Handler) http.Handler{"": nil, " behind a wrapper": unwrappable} {
		for how, hijack := range take {
			if outer != nil && how == "Hijacker" {
				continue
			}
			t.Run(how+name, func(t *testing.T) {
				s := serveUnder(t, false, outer, func(w http.ResponseWriter, r *http.Request) {
					conn, _, err := hijack(w)
					if err != nil {
						t.Error(err)
						return
					}
					defer conn.Close()
					timer := time.NewTimer(60 * time.Millisecond)
					defer timer.Stop()
					select {
					case <-r.Context().Done():
						t.Error("the context ended with a limit that no longer holds")
					case <-timer.C:
					}
					_, _ = io.WriteString(conn, "HTTP/1.1 418 I'm a teapot\r\nConnection: close\r\nContent-Length: 3\r\n\r\ntea")
				}, timeout.Config{Total: 20 * time.Millisecond, PerTry: 10 * time.Millisecond})
				resp, body, err := s.do(t, http.MethodGet)
				if err != nil || resp.StatusCode != http.StatusTeapot || body != "tea" {
					t.Errorf("got %v %q, %v, want 418", resp, body, err)
				}
				s.ends.want(t, end{Code: http.StatusSwitchingProtocols, Is: policy.Upgraded, Detail: envoy.ViaUpstream})
			})
		}
	}
}

// TestHandler_sendfile pins that a file is sent from the disk to the socket without a copy.
func TestHandler_sendfile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "soup")
	text := strings.Repeat("soup ", 100_000)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	guarded, err := newUpstream(t).Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, name) }))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(guarded)
	sending := &sendingListener{Listener: server.Listener}
	server.Listener = sending
	server.Start()
	defer server.Close()
	resp, err := server.Client().Do(requestTo(t, server.URL))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != text {
		t.Errorf("got %d bytes, %v, want %d", len(body), err, len(text))
	}
	server.Close() // the handler has returned
	if got := sending.sent.Load(); got < int64(len(text))-1024 {
		t.Errorf("handed to the socket: got %d bytes, want all but the head of %d", got, len(text))
	}
}

// sendingListener counts what its connections read themselves.
type sendingListener struct {
	net.Listener
	sent atomic.Int64
}

func (l *sendingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return sendingConn{conn, l}, nil
}

type sendingConn struct {
	net.Conn
	listener *sendingListener
}

func (c sendingConn) ReadFrom(r io.Reader) (int64, error) {
	n, err := c.Conn.(io.ReaderFrom).ReadFrom(r)
	c.listener.sent.Add(n)
	return n, err
}

// unwrappable is middleware that hides all but the three methods of a ResponseWriter, and that
// http.ResponseController can unwrap.
func unwrappable(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(unwrappableWriter{w}, r) })
}

type unwrappableWriter struct{ http.ResponseWriter }

func (w unwrappableWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
