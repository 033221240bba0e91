package pillion_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// callersBody is a request body that counts its Closes.
type callersBody struct {
	io.Reader
	closed  atomic.Int64
	onClose func() error // nil for a Close that succeeds
}

func (b *callersBody) Close() error {
	b.closed.Add(1)
	if b.onClose != nil {
		return b.onClose()
	}
	return nil
}

// unsendable is a request that cannot be sent.
type unsendable struct {
	name   string
	change func(req *http.Request, body *callersBody)
	word   string // in the error's text
	http1  bool   // over HTTP/1 only
	http2  bool   // over HTTP/2 only
	proxy  bool   // through a forward proxy only
	unkept bool   // without a replay buffer only
}

// errorReader returns some text, and then an error.
func errorReader(err error) io.Reader {
	return io.MultiReader(strings.NewReader("or"), iotest.ErrReader(err))
}

// panicReader returns some text, and then panics.
type panicReader struct{ given bool }

func (r *panicReader) Read(p []byte) (int, error) {
	if r.given {
		panic("the body's Read")
	}
	r.given = true
	return copy(p, "or"), nil
}

func unsendables() []unsendable {
	header := func(name, value string) func(*http.Request, *callersBody) {
		return func(req *http.Request, _ *callersBody) { req.Header[name] = []string{value} }
	}
	trailer := func(name string) func(*http.Request, *callersBody) {
		return func(req *http.Request, _ *callersBody) { req.Trailer = http.Header{name: nil} }
	}
	inMemory := func(length int64) func(*http.Request, *callersBody) {
		return func(req *http.Request, body *callersBody) {
			open := func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("order")), nil }
			_ = body.Close()
			req.Body, _ = open()
			req.GetBody, req.ContentLength = open, length
		}
	}
	length := func(length int64) func(*http.Request, *callersBody) {
		return func(req *http.Request, _ *callersBody) { req.ContentLength = length }
	}
	reader := func(r io.Reader) func(*http.Request, *callersBody) {
		return func(_ *http.Request, body *callersBody) { body.Reader = r }
	}
	return []unsendable{
		{name: "a header name with a space", change: header("A B", "c"), word: "invalid header field name"},
		{name: "a header value with a line break", change: header("A", "b\nc"), word: "invalid header field value"},
		{name: "a method with a space", change: func(req *http.Request, _ *callersBody) { req.Method = "PU T" }, word: "invalid method", http1: true},
		{name: "no host", change: func(req *http.Request, _ *callersBody) { req.URL.Host = "" }, word: "no Host"},
		{name: "a scheme that is not registered", change: func(req *http.Request, _ *callersBody) { req.URL.Scheme = "gopher" }, word: "unsupported protocol scheme"},
		{name: "a control character in the path", change: func(req *http.Request, _ *callersBody) { req.URL.Opaque = "/a\nb" }, word: "control character"},
		{name: "a control character in the query", change: func(req *http.Request, _ *callersBody) { req.URL.RawQuery = "a\x7fb" }, word: "control character"},
		{name: "a trailer Content-Length", change: trailer("Content-Length"), word: "invalid Trailer key"},
		{name: "a trailer Transfer-Encoding", change: trailer("Transfer-Encoding"), word: "invalid Trailer key"},
		{name: "a trailer Trailer", change: trailer("Trailer"), word: "invalid Trailer key"},
		{name: "a trailer name with a space", change: trailer("A B"), word: "invalid trailer field name"},
		{name: "a Host with a path, through a proxy", change: func(req *http.Request, _ *callersBody) { req.Host = "/var/run/docker.sock" }, word: "invalid Host header", proxy: true},
		{name: "a Host with a quote, through a proxy", change: func(req *http.Request, _ *callersBody) { req.Host = `a"b` }, word: "invalid Host header", proxy: true},
		{name: "a Host with a path", change: func(req *http.Request, _ *callersBody) { req.Host = "/var/run/docker.sock" }, word: "invalid Host header", http2: true},
		{name: "a Connection header", change: header("Connection", "x"), word: "invalid Connection request header", http2: true},
		{name: "a path without a slash", change: func(req *http.Request, _ *callersBody) { req.URL.Opaque = "soup" }, word: "invalid request :path", http2: true},
		{name: "headers over the peer's limit", change: header("X-Long", strings.Repeat("x", 64<<10)), word: "request header list larger than peer's", http2: true},
		{name: "in memory, shorter", change: inMemory(100), word: "ContentLength=100 with Body length 5"},
		{name: "in memory, longer", change: inMemory(3), word: "ContentLength=3 with Body length 5"},
		{name: "streamed, shorter", change: length(100), word: "ContentLength=100 with Body length 5", http1: true},
		{name: "streamed, longer", change: length(3), word: "ontent"}, // HTTP/2 says "specified content length"
		{name: "a body that fails", change: reader(errorReader(errBody)), word: errBody.Error()},
		{name: "a body that panics", change: reader(&panicReader{}), word: "the body's Read"},
		{name: "a body whose Close fails", http1: true, unkept: true, word: errBody.Error(), change: func(_ *http.Request, body *callersBody) {
			body.onClose = func() error { return errBody }
		}},
		{name: "a body whose Close panics", http1: true, unkept: true, word: "the body's Close", change: func(_ *http.Request, body *callersBody) {
			body.onClose = func() error { panic("the body's Close") }
		}},
		{name: "Request.RequestURI", change: func(req *http.Request, _ *callersBody) { req.URL = nil }, word: "nil Request.URL"},
	}
}

// TestUnsendable makes requests that cannot be sent: the result is invalid, one attempt, nothing
// counted, and the caller's body closed once, whatever net/http reports.
func TestUnsendable(t *testing.T) {
	silenceLog(t)
	silenceDefaultLogger(t)
	swallow := func(_ http.ResponseWriter, r *http.Request) {
		if _, _ = io.Copy(io.Discard, r.Body); r.Method != http.MethodGet {
			<-r.Context().Done() // a response could arrive before net/http finds the fault
		}
	}
	one, _ := serve(t, swallow)
	two := httptest.NewUnstartedServer(http.HandlerFunc(swallow))
	two.EnableHTTP2, two.Config.MaxHeaderBytes = true, 32<<10
	two.Config.ErrorLog = one.Config.ErrorLog
	two.StartTLS()
	t.Cleanup(two.Close)
	worlds := map[string]struct {
		url  string
		base func() *http.Transport
	}{
		"HTTP/1": {one.URL, func() *http.Transport { return &http.Transport{} }},
		"proxy":  {"http://recipes.test", func() *http.Transport { return &http.Transport{Proxy: http.ProxyURL(mustURL(t, one.URL))} }},
		"HTTP/2": {two.URL, func() *http.Transport { return two.Client().Transport.(*http.Transport).Clone() }},
	}
	for _, test := range unsendables() {
		for world, w := range worlds {
			if test.http1 && world == "HTTP/2" || test.http2 && world != "HTTP/2" || test.proxy && world != "proxy" {
				continue
			}
			for how, policies := range map[string][]pillion.Policy{
				"retries":          {retry.Config{On: "5xx,reset,connect-failure,refused-stream", NumRetries: 2, BaseInterval: time.Millisecond}},
				"retries, limits":  {timeout.Config{Total: patience}, retry.Config{On: "5xx", NumRetries: 2, BaseInterval: time.Millisecond}},
				"retries, buffer":  {pillion.Options{ReplayBuffer: 1 << 10}, retry.Config{On: "5xx", NumRetries: 2, BaseInterval: time.Millisecond}},
				"without policies": nil,
			} {
				if test.unkept && how == "retries, buffer" {
					continue
				}
				t.Run(strings.Join([]string{test.name, world, how}, ", "), func(t *testing.T) {
					wantNoLeaks(t)
					base := w.base()
					defer base.CloseIdleConnections()
					l := newLedger(t)
					rt := l.upstream(t, policies...).Transport(base)
					warm(t, rt, w.url) // so that the client knows the server's settings
					body := &callersBody{Reader: strings.NewReader("order")}
					req := newRequest(t, http.MethodPut, w.url, body)
					test.change(req, body)
					resp, err := rt.RoundTrip(req)
					if err == nil {
						_ = resp.Body.Close()
						t.Fatalf("got status %d, want an error", resp.StatusCode)
					}
					if end := l.last(t); end.Conditions != policy.Invalid || end.Flags != 0 || end.Detail != nil || !strings.Contains(err.Error(), test.word) {
						t.Errorf("got %v %v %v, want invalid and no flags: %v, want %q", end.Conditions, end.Flags, end.Detail, err, test.word)
					}
					l.wantBalanced(t, 2, 2)
					l.wantCounted(t, breaker.Status{Success: 1})
					if got := body.closed.Load(); got != 1 {
						t.Errorf("the body was closed %d times, want once", got)
					}
				})
			}
		}
	}
}

// warm makes a good call.
func warm(t *testing.T, rt http.RoundTripper, url string) {
	t.Helper()
	resp, err := rt.RoundTrip(newRequest(t, http.MethodGet, url, nil))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
}

// TestUnsendable_hostOfASocket uses a Host that net/http does not send, but accepts without a
// proxy: a failure of the upstream counts.
func TestUnsendable_hostOfASocket(t *testing.T) {
	wantNoLeaks(t)
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	l := newLedger(t)
	req := newRequest(t, http.MethodGet, "http://"+serveScript(t, part{request, fin}).addr(), nil)
	req.Host = "/var/run/docker.sock"
	_, err := l.upstream(t, retry.Config{NumRetries: retry.Never}).Transport(base).RoundTrip(req)
	if end := l.last(t); err == nil || end.Conditions != policy.Reset {
		t.Errorf("got %v, %v, want reset", end.Conditions, err)
	}
	l.wantCounted(t, breaker.Status{Failure: 1})
}

// TestUnsendable_secondBody fails the body of a retry in each way: the first attempt counts, the
// second does not.
func TestUnsendable_secondBody(t *testing.T) {
	silenceLog(t)
	silenceDefaultLogger(t)
	tests := map[string]func() (io.ReadCloser, error){
		"GetBody fails":             func() (io.ReadCloser, error) { return nil, errBody },
		"GetBody returns nothing":   func() (io.ReadCloser, error) { return nil, nil }, //nolint:nilnil // that is the test
		"GetBody returns too much":  func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("two orders")), nil },
		"GetBody returns too few":   func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("o")), nil },
		"the second body fails":     func() (io.ReadCloser, error) { return io.NopCloser(errorReader(errBody)), nil },
		"the second body panics":    func() (io.ReadCloser, error) { return io.NopCloser(&panicReader{}), nil },
		"the second body is longer": func() (io.ReadCloser, error) { return &callersBody{Reader: strings.NewReader("two orders")}, nil },
	}
	for name, getBody := range tests {
		t.Run(name, func(t *testing.T) {
			wantNoLeaks(t)
			var requests atomic.Int64
			server, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if _, err := io.Copy(io.Discard, r.Body); err != nil {
					return
				}
				if requests.Add(1) > 1 {
					<-r.Context().Done() // a response could arrive before net/http finds the fault
				}
				w.WriteHeader(http.StatusServiceUnavailable)
			})
			base := &http.Transport{}
			defer base.CloseIdleConnections()
			l := newLedger(t)
			req := newRequest(t, http.MethodPut, server.URL, &callersBody{Reader: strings.NewReader("order")})
			req.ContentLength, req.GetBody = int64(len("order")), getBody
			_, err := l.upstream(t, timeout.Config{Total: patience}, quick(3)).Transport(base).RoundTrip(req)
			if end := l.last(t); err == nil || end.Conditions != policy.Invalid {
				t.Errorf("got %v, %v, want invalid", end.Conditions, err)
			}
			l.wantBalanced(t, 1, 2)
			l.wantCounted(t, breaker.Status{Failure: 1})
		})
	}
	t.Run("GetBody panics", func(t *testing.T) {
		l := newLedger(t)
		req := newRequest(t, http.MethodPut, "http://recipes.test/", &callersBody{Reader: strings.NewReader("order")})
		req.GetBody = func() (io.ReadCloser, error) { panic(errBody) }
		rt := l.upstream(t, timeout.Config{Total: patience}, quick(3)).Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
			_, _ = io.Copy(io.Discard, req.Body)
			_ = req.Body.Close()
			return answer(http.StatusServiceUnavailable, "no"), nil
		}))
		if got, ok := recovered(func() { _, _ = rt.RoundTrip(req) }).(error); !ok || !errors.Is(got, errBody) {
			t.Errorf("got panic %v, want %v", got, errBody)
		}
		l.wantBalanced(t, 1, 2)
	})
}

// TestUnsendable_keptBody fails and panics in the Close of a kept body: that has no effect.
func TestUnsendable_keptBody(t *testing.T) {
	silenceDefaultLogger(t)
	for name, onClose := range map[string]func() error{"fails": func() error { return errBody }, "panics": func() error { panic(errBody) }} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			rt := l.upstream(t, pillion.Options{ReplayBuffer: 100}, timeout.Config{Total: patience}, quick(1)).Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
				_, _ = io.Copy(io.Discard, req.Body)
				_ = req.Body.Close()
				return answer(http.StatusOK, "soup"), nil
			}))
			resp, err := rt.RoundTrip(newRequest(t, http.MethodPut, "http://recipes.test/", &callersBody{Reader: strings.NewReader("order"), onClose: onClose}))
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			l.wantBalanced(t, 1, 1)
		})
	}
}

// TestUnsendable_misreported covers what net/http does once in some hundred times: it only reports
// that it closed the connection.
func TestUnsendable_misreported(t *testing.T) {
	closed := roundTripper(func(req *http.Request) (*http.Response, error) {
		_, _ = io.Copy(io.Discard, req.Body)
		_ = req.Body.Close()
		return nil, errClosedHere
	})
	tests := map[string]func(body *callersBody, req *http.Request){
		"shorter":      func(_ *callersBody, req *http.Request) { req.ContentLength = 100 },
		"longer":       func(_ *callersBody, req *http.Request) { req.ContentLength = 3 },
		"a bad Read":   func(body *callersBody, _ *http.Request) { body.Reader = errorReader(errBody) },
		"a bad Close":  func(body *callersBody, _ *http.Request) { body.onClose = func() error { return errBody } },
		"its own sins": nil,
	}
	for name, change := range tests {
		for how, policies := range map[string][]pillion.Policy{"": nil, ", retries": {quick(2)}, ", buffer": {pillion.Options{ReplayBuffer: 100}, quick(2)}} {
			if name == "a bad Close" && how == ", buffer" {
				continue // this closes the body at the end of the call
			}
			t.Run(name+how, func(t *testing.T) {
				l := newLedger(t)
				body := &callersBody{Reader: strings.NewReader("order")}
				req := newRequest(t, http.MethodPost, "http://recipes.test/", body)
				want := policy.Invalid
				if change != nil {
					change(body, req)
				} else {
					want = policy.Reset
				}
				_, err := l.upstream(t, policies...).Transport(closed).RoundTrip(req)
				if end := l.last(t); end.Conditions != want || !errors.Is(err, errClosedHere) {
					t.Errorf("got %v, %v, want %v and what was reported", end.Conditions, err, want)
				}
			})
		}
	}
}

// TestUnsendable_closedBody fails in the upstream, and then in the caller's body after it was
// closed: that is no fault of the request.
func TestUnsendable_closedBody(t *testing.T) {
	for name, afterClose := range map[string]error{"EOF": io.EOF, "an error": errBody, "the same error": errClosedHere} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			closed := make(chan struct{})
			body := &callersBody{Reader: readerFunc(func([]byte) (int, error) { <-closed; return 0, afterClose })}
			body.onClose = func() error { close(closed); return nil }
			req := newRequest(t, http.MethodPost, "http://recipes.test/", body)
			req.ContentLength = 5
			_, err := l.upstream(t).Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
				read := make(chan struct{})
				go func() {
					defer close(read)
					_, _ = req.Body.Read(make([]byte, 1))
				}()
				_ = req.Body.Close()
				<-read
				return nil, errClosedHere
			})).RoundTrip(req)
			if end := l.last(t); end.Conditions != policy.Reset {
				t.Errorf("got %v, %v, want reset", end.Conditions, err)
			}
			l.wantCounted(t, breaker.Status{Failure: 1})
		})
	}
}

var errClosedHere = &net.OpError{Op: "read", Net: "tcp", Err: net.ErrClosed}

// TestUnsendable_beforeAConnection stops net/http before it asks for a connection, for an unknown
// reason: the request or the configuration is at fault. A registered protocol fails for its own
// reasons.
func TestUnsendable_beforeAConnection(t *testing.T) {
	registered := &http.Transport{}
	registered.RegisterProtocol("memo", roundTripper(func(*http.Request) (*http.Response, error) { return nil, errBroken }))
	tests := map[string]struct {
		base *http.Transport
		url  string
		want policy.Condition
	}{
		"a proxy function that fails": {&http.Transport{Proxy: func(*http.Request) (*url.URL, error) { return nil, errBroken }}, "http://recipes.test/", policy.Invalid},
		"a registered protocol":       {registered, "memo://recipes.test/", policy.Reset},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			l := newLedger(t)
			_, err := l.upstream(t, timeout.Config{Total: patience}, retry.Config{NumRetries: retry.Never}).Transport(test.base).RoundTrip(newRequest(t, http.MethodGet, test.url, nil))
			if end := l.last(t); end.Conditions != test.want || !errors.Is(err, errBroken) {
				t.Errorf("got %v, %v, want %v", end.Conditions, err, test.want)
			}
		})
	}
}
