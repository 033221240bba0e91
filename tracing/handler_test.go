package tracing

import (
	"bufio"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion/internal/memhttp"
)

// serve serves one request through the tracer's handler, and returns the documents.
func serve(t *testing.T, tracer *Tracer, sent *recorder, header http.Header, h http.HandlerFunc) []sentDocument {
	t.Helper()
	req := httptest.NewRequest(http.MethodGet, "http://front/menu?q=1", nil)
	maps.Copy(req.Header, header)
	tracer.Handler(h).ServeHTTP(httptest.NewRecorder(), req)
	return sent.documents(t, tracer)
}

// TestPanic checks that a panic of a handler is recorded, with its stack, and passed on.
func TestPanic(t *testing.T) {
	for _, tc := range []struct {
		name    string
		value   any
		kind    string
		message string
	}{
		{"a text", "soup is off", "panic", "soup is off"},
		{"an error", errBroken, "errors.errorString", "broken"},
		{"abort", http.ErrAbortHandler, "errors.errorString", "net/http: abort Handler"},
		{"a nil map", nil, "runtime.plainError", "assignment to entry in nil map"},
		{"an error whose text panics", badError{}, "tracing.badError", "tracing.badError: its Error method panicked: no text"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tracer, sent := newTestTracer(t, Config{})
			func() {
				defer func() {
					if p := recover(); tc.value != nil && p != tc.value {
						t.Errorf("got panic %v, want %v", p, tc.value)
					}
				}()
				serve(t, tracer, sent, nil, func(_ http.ResponseWriter, r *http.Request) {
					_, seg := StartSubsegment(r.Context(), "sub")
					defer seg.End(nil)
					cook(tc.value)
				})
			}()
			docs := sent.documents(t, tracer)
			for _, d := range docs {
				if d.at("fault") != true || d.str("cause", "exceptions", "type") != tc.kind || d.str("cause", "exceptions", "message") != tc.message {
					t.Errorf("got %v, want a fault of %s: %s", d, tc.kind, tc.message)
				}
				if got := d.str("cause", "exceptions", "stack", "label"); !strings.HasSuffix(got, "tracing.cook") {
					t.Errorf("got %s on top of the stack, want the function that panicked", got)
				}
			}
			if diff := cmp.Diff([]string{"sub", "test-app"}, names(docs)); diff != "" {
				t.Errorf("documents (-want +got):\n%s", diff)
			}
		})
	}
}

type badError struct{}

func (badError) Error() string { panic("no text") }

func cook(v any) {
	if v == nil {
		var m map[any]int
		m[v] = 1 //nolint:govet,staticcheck // on purpose
	}
	panic(v)
}

// TestResponseWriter checks that the handler's ResponseWriter has exactly the abilities of
// the server's, and that the size is recorded whichever way the body is written.
func TestResponseWriter(t *testing.T) {
	for _, tc := range []struct {
		name  string
		write func(w http.ResponseWriter)
		size  float64
	}{
		{"Write", func(w http.ResponseWriter) { _, _ = w.Write([]byte("soup")) }, 4},
		{"WriteString", func(w http.ResponseWriter) { _, _ = io.WriteString(w, "soup") }, 4},
		{"ReadFrom", func(w http.ResponseWriter) {
			_, _ = w.(io.ReaderFrom).ReadFrom(strings.NewReader("soup"))
		}, 4},
		{"Flush", func(w http.ResponseWriter) { w.(http.Flusher).Flush(); _, _ = w.Write([]byte("soup")) }, 4},
		{"ResponseController", func(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }, 0},
		{"Content-Length", func(w http.ResponseWriter) { w.Header().Set("Content-Length", "3"); w.WriteHeader(http.StatusOK) }, 3},
		{"informational first", func(w http.ResponseWriter) { w.WriteHeader(http.StatusEarlyHints); _, _ = w.Write([]byte("so")) }, 2},
		{"nothing", func(http.ResponseWriter) {}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tracer, sent := newTestTracer(t, Config{})
			s := memhttp.Serve(tracer.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { tc.write(w) })))
			resp, err := s.RoundTrip(get(t.Context(), "http://front/"))
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			s.Close()
			d := sent.documents(t, tracer)[0]
			if d.at("http", "response", "status") != 200.0 || d.at("http", "response", "content_length") != tc.size {
				t.Errorf("got %v, want 200 and %v bytes", d["http"], tc.size)
			}
			if got := ParseHeader(resp.Header.Get(HeaderName)).Root; got != d.str("trace_id") {
				t.Errorf("got %q in the response, want %s", got, d.str("trace_id"))
			}
		})
	}
}

// The writers with some of the abilities of a server's writer.
type (
	bare    struct{ http.ResponseWriter }
	canF    struct{ bare }
	canH    struct{ bare }
	canFH   struct{ canF }
	canFR   struct{ canF }
	canFHR  struct{ canFH }
	canFP   struct{ canF }
	ability struct{ flush, hijack, read, push bool }
)

func (canF) Flush()                                        {}
func (canH) Hijack() (net.Conn, *bufio.ReadWriter, error)  { return nil, nil, errBroken }
func (canFH) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, nil }
func (canFR) ReadFrom(io.Reader) (int64, error)            { return 0, nil }
func (canFHR) ReadFrom(io.Reader) (int64, error)           { return 0, nil }
func (canFP) Push(string, *http.PushOptions) error         { return errBroken }
func abilities(w http.ResponseWriter) (a ability) {
	_, a.flush = w.(http.Flusher)
	_, a.hijack = w.(http.Hijacker)
	_, a.read = w.(io.ReaderFrom)
	_, a.push = w.(http.Pusher)
	return a
}

func TestAbilities(t *testing.T) {
	tracer, _ := newTestTracer(t, Config{})
	b := bare{httptest.NewRecorder()}
	for _, w := range []http.ResponseWriter{b, canF{b}, canH{b}, canFH{canF{b}}, canFR{canF{b}}, canFHR{canFH{canF{b}}}, canFP{canF{b}}} {
		var got ability
		tracer.Handler(http.HandlerFunc(func(inner http.ResponseWriter, _ *http.Request) {
			got = abilities(inner)
			if p, ok := inner.(http.Pusher); ok && !errors.Is(p.Push("/", nil), errBroken) {
				t.Errorf("%T: Push did not arrive", w)
			}
			if h, ok := inner.(http.Hijacker); ok {
				_, _, _ = h.Hijack()
			}
		})).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		if want := abilities(w); got != want {
			t.Errorf("%T: got %+v, want %+v", w, got, want)
		}
	}
}

// hides is middleware that hides everything except Unwrap of the server's writer.
func hides(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(hiding{w}, r) })
}

type hiding struct{ http.ResponseWriter }

func (h hiding) Unwrap() http.ResponseWriter { return h.ResponseWriter }

// TestStatusIsTheClients has handlers reach the server's writer in unusual ways. The trace
// has the status that the client received.
func TestStatusIsTheClients(t *testing.T) {
	for _, tc := range []struct {
		name  string
		outer func(http.Handler) http.Handler
		write func(w http.ResponseWriter)
		want  any // the status in the trace; nil for none
	}{
		// This was recorded as 200.
		{"a copy that fails", nil, func(w http.ResponseWriter) {
			if _, err := io.Copy(w, struct{ io.Reader }{brokenBody{}}); err != nil {
				http.Error(w, "bad gateway", http.StatusBadGateway)
			}
		}, 502.0},
		// The ResponseController bypasses the writer.
		{"a hidden flush", hides, func(w http.ResponseWriter) {
			_ = http.NewResponseController(w).Flush()
			w.WriteHeader(http.StatusInternalServerError)
		}, 200.0},
		{"a hidden hijack", hides, func(w http.ResponseWriter) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nX-Amzn-Trace-Id: own\r\nContent-Length: 0\r\n\r\n")
			conn.Close()
		}, nil},
		{"an invalid status", nil, func(w http.ResponseWriter) {
			func() {
				defer func() { _ = recover() }()
				w.WriteHeader(0)
			}()
			w.WriteHeader(http.StatusTeapot)
		}, 418.0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tracer, sent := newTestTracer(t, Config{})
			h := tracer.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { tc.write(w) }))
			if tc.outer != nil {
				h = tc.outer(h)
			}
			served := make(chan struct{})
			s := memhttp.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer close(served)
				h.ServeHTTP(w, r)
			}))
			defer s.Close()
			resp, err := s.RoundTrip(get(t.Context(), "http://front/"))
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			<-served
			if got := sent.documents(t, tracer)[0].at("http", "response", "status"); got != tc.want {
				t.Errorf("traced: got %v, want %v; the client got %d", got, tc.want, resp.StatusCode)
			}
			if resp.Header.Get(HeaderName) == "" {
				t.Error("the response has no trace header")
			}
		})
	}
}

type brokenBody struct{}

func (brokenBody) Read([]byte) (int, error) { return 0, errBroken }

// TestCloseNotifier checks that the writer implements http.CloseNotifier, which frameworks
// still use.
func TestCloseNotifier(t *testing.T) {
	tracer, _ := newTestTracer(t, Config{})
	has := make(chan bool, 1)
	s := memhttp.Serve(tracer.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n, ok := w.(http.CloseNotifier) //nolint:staticcheck // frameworks still use it
		has <- ok && n.CloseNotify() != nil
	})))
	defer s.Close()
	resp, err := s.RoundTrip(get(t.Context(), "http://front/"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if !<-has {
		t.Error("the writer is not an http.CloseNotifier, but the server's is")
	}
}

// TestGoexit calls runtime.Goexit in a handler. The client receives no response, and the
// segment is a fault.
func TestGoexit(t *testing.T) {
	for name, status := range map[string]any{"before the response": nil, "within it": 202.0} {
		t.Run(name, func(t *testing.T) {
			tracer, sent := newTestTracer(t, Config{})
			done := make(chan struct{})
			go func() {
				defer close(done)
				tracer.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					if status != nil {
						w.WriteHeader(http.StatusAccepted)
					}
					runtime.Goexit()
				})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
			}()
			<-done
			d := sent.documents(t, tracer)[0]
			if d.at("fault") != true || d.at("http", "response", "status") != status {
				t.Errorf("got fault %v, status %v, want a fault, %v", d.at("fault"), d.at("http", "response", "status"), status)
			}
		})
	}
}

// TestNilParts serves requests that no server makes, and makes handlers that cannot serve.
func TestNilParts(t *testing.T) {
	tracer, sent := newTestTracer(t, Config{})
	off, _ := newTestTracer(t, Config{Disabled: true})
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "soup") })
	noHandler := "tracing: Tracer.Handler: next is nil"
	for _, tc := range []struct {
		name string
		do   func()
		want any // the panic
	}{
		{"nil handler", func() { tracer.Handler(nil) }, noHandler},
		{"nil function", func() { tracer.Handler(http.HandlerFunc(nil)) }, noHandler},
		{"nil handler, disabled", func() { off.Handler(nil) }, noHandler},
		{"nil request", func() { tracer.Handler(ok).ServeHTTP(httptest.NewRecorder(), nil) }, "tracing: Tracer.Handler: the request is nil"},
		{"nil writer", func() { tracer.Handler(ok).ServeHTTP(nil, httptest.NewRequest(http.MethodGet, "/", nil)) }, "tracing: Tracer.Handler: the ResponseWriter is nil"},
		{"an empty request", func() { tracer.Handler(ok).ServeHTTP(httptest.NewRecorder(), &http.Request{}) }, nil},
		{"a writer without a header", func() {
			tracer.Handler(ok).ServeHTTP(headless{httptest.NewRecorder()}, httptest.NewRequest(http.MethodGet, "/", nil))
		}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			defer func() {
				if got := recover(); got != tc.want {
					t.Errorf("got panic %v, want %v", got, tc.want)
				}
			}()
			tc.do()
		})
	}
	if got := len(sent.documents(t, tracer)); got != 2 {
		t.Errorf("got %d segments, want those of the two requests that were served", got)
	}
}

// headless is a writer without a header.
type headless struct{ http.ResponseWriter }

func (headless) Header() http.Header { return nil }

// TestHandBack checks that middleware around the tracer sees the values that the handler
// set in the request, and that the server removes the files of a form.
func TestHandBack(t *testing.T) {
	tracer, _ := newTestTracer(t, Config{})
	mux := http.NewServeMux()
	mux.HandleFunc("POST /menu/{dish}", func(_ http.ResponseWriter, r *http.Request) { _ = r.FormValue("size") })
	r := httptest.NewRequest(http.MethodPost, "/menu/soup", strings.NewReader("size=2"))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	tracer.Handler(mux).ServeHTTP(httptest.NewRecorder(), r)
	if r.Pattern != "POST /menu/{dish}" || r.Form.Get("size") != "2" {
		t.Errorf("got pattern %q, form %v", r.Pattern, r.Form)
	}
}

// TestHijacked hijacks the connection. No response is recorded.
func TestHijacked(t *testing.T) {
	tracer, sent := newTestTracer(t, Config{})
	h := tracer.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		conn.Close()
	}))
	served := make(chan struct{})
	s := memhttp.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(served)
		h.ServeHTTP(w, r)
	}))
	resp, err := s.RoundTrip(get(t.Context(), "http://front/"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	s.Close()
	select { // the server does not wait for a hijacked connection
	case <-served:
	case <-time.After(time.Minute):
		t.Fatal("the handler did not return")
	}
	if d := sent.documents(t, tracer)[0]; d.at("http", "response") != nil {
		t.Errorf("got %v, want no response", d["http"])
	}
}

func TestClientAddress(t *testing.T) {
	for _, tc := range []struct {
		name    string
		trusted []string
		remote  string
		xff     []string
		want    string
	}{
		{"direct", nil, "203.0.113.9:1", nil, "203.0.113.9"},
		{"direct, forged", nil, "203.0.113.9:1", []string{"1.1.1.1"}, "203.0.113.9"},
		{"one proxy", nil, "10.0.0.1:1", []string{"203.0.113.9"}, "203.0.113.9"},
		{"forged in front of a proxy", nil, "10.0.0.1:1", []string{"1.1.1.1, 203.0.113.9"}, "203.0.113.9"},
		{"several headers", nil, "10.0.0.1:1", []string{"203.0.113.9", "10.0.0.2, 10.0.0.3"}, "203.0.113.9"},
		{"all trusted", nil, "10.0.0.1:1", []string{"192.168.1.1, 10.0.0.2"}, "192.168.1.1"},
		{"empty", nil, "10.0.0.1:1", []string{""}, "10.0.0.1"},
		{"commas", nil, "10.0.0.1:1", []string{",, ,"}, "10.0.0.1"},
		{"with port", nil, "10.0.0.1:1", []string{"203.0.113.9:55, [2001:db8::1]:55"}, "2001:db8::1"},
		{"IPv6", nil, "[::1]:1", []string{"2001:db8::1"}, "2001:db8::1"},
		{"mapped", nil, "[::ffff:10.0.0.1]:1", []string{"203.0.113.9"}, "203.0.113.9"},
		{"Unix socket", nil, "@", []string{"203.0.113.9"}, "203.0.113.9"},
		{"none trusted", []string{}, "10.0.0.1:1", []string{"203.0.113.9"}, "10.0.0.1"},
		{"custom list", []string{"203.0.113.0/24"}, "203.0.113.1:1", []string{"10.0.0.1"}, "10.0.0.1"},
		{"one address", []string{"203.0.113.1"}, "203.0.113.2:1", []string{"10.0.0.1"}, "203.0.113.2"},
		{"nonsense", nil, "10.0.0.1:1", []string{"unknown"}, "unknown"},
		{"64 KiB", nil, "10.0.0.1:1", []string{strings.Repeat("10.0.0.1,", 7000)}, "10.0.0.1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tracer, _ := newTestTracer(t, Config{TrustedProxies: tc.trusted})
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.RemoteAddr = tc.remote
			if tc.xff != nil {
				r.Header["X-Forwarded-For"] = tc.xff
			}
			if got := tracer.forwardedBy(r); got.client != tc.want || got.header != (tc.xff != nil) {
				t.Errorf("got %+v, want %s", got, tc.want)
			}
		})
	}
}

// TestRequestSeen covers names, schemes and excluded paths.
func TestRequestSeen(t *testing.T) {
	tracer, sent := newTestTracer(t, Config{
		NameFor:          func(r *http.Request) string { return strings.TrimPrefix(r.URL.Path, "/") },
		ExcludedPaths:    []string{"/health"},
		ExcludedPatterns: []string{`^/assets/.*\.js$`},
	})
	seen := 0
	h := tracer.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if Current(r.Context()) == nil {
			seen++
		}
	}))
	for _, path := range []string{"/health", "/assets/a.js", "/menu", "/"} {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.RemoteAddr = "10.0.0.1:1"
		r.Header.Set("X-Forwarded-Proto", "https")
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	docs := sent.documents(t, tracer)
	if diff := cmp.Diff([]string{"menu", "test-app"}, names(docs)); diff != "" || seen != 2 {
		t.Errorf("%d were passed on untraced; documents (-want +got):\n%s", seen, diff)
	}
	if got := docs[0].str("http", "request", "url"); got != "https://example.com/menu" {
		t.Errorf("got %s, want the scheme of the request to the proxy", got)
	}
}

// TestRequestHeaderIsACopy checks that the server's own request does not change.
func TestRequestHeaderIsACopy(t *testing.T) {
	tracer, sent := newTestTracer(t, Config{})
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	var inner string
	tracer.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { inner = r.Header.Get(HeaderName) })).
		ServeHTTP(httptest.NewRecorder(), r)
	if len(r.Header) != 0 || ParseHeader(inner).Root != sent.documents(t, tracer)[0].str("trace_id") {
		t.Errorf("got %v outside, %q inside", r.Header, inner)
	}
}
