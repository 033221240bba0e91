package pillion_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// secured is a server whose TLS connections fail.
type secured struct {
	name   string
	tls    func(config *tls.Config) // nil changes nothing
	client func(base *http.Transport)
	raw    bool // the steps are played below TLS, without a handshake
	steps  func(posts *atomic.Int64) []step
	posts  int64         // how many requests the server processes
	detail *envoy.Detail // the detail of a failure to connect, if it is not the usual one
}

// always returns the same steps each time.
func always(steps ...step) func(*atomic.Int64) []step {
	return func(*atomic.Int64) []step { return steps }
}

// posted reads a complete request, and counts it.
func posted(posts *atomic.Int64) step {
	return func(p *peer) {
		r, err := http.ReadRequest(p.read)
		if err != nil {
			return
		}
		if _, err = io.Copy(io.Discard, r.Body); err == nil {
			posts.Add(1)
		}
	}
}

// below writes to the connection below TLS.
func below(text string) step {
	return func(p *peer) { _, _ = io.WriteString(p.raw, text) }
}

const (
	damagedRecord = "\x17\x03\x03\x00\x20................................"
	plainAlert    = "\x15\x03\x03\x00\x02\x02\x50"
	badRequest    = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
)

func onlyTLS(version uint16, auth tls.ClientAuthType) func(*tls.Config) {
	return func(config *tls.Config) {
		config.MinVersion, config.MaxVersion, config.ClientAuth = version, version, auth
	}
}

// handshakes are servers that fail before there is a connection.
func handshakes(t *testing.T) []secured {
	t.Helper()
	roots := x509.NewCertPool()
	certificate, err := x509.ParseCertificate(testCertificate(t).Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(certificate)
	return []secured{
		{name: "closed", raw: true, steps: always(fin)},
		{name: "closed after the hello", raw: true, steps: always(firstByte, fin)},
		{name: "reset after the hello", raw: true, steps: always(firstByte, reset)},
		{name: "cut short", raw: true, steps: always(firstByte, say("\x16\x03\x03\x00\x7a\x02\x00"), fin)},
		{name: "damaged", raw: true, steps: always(firstByte, say(damagedRecord))},
		{name: "an alert", raw: true, steps: always(firstByte, say(plainAlert))},
		{name: "plain HTTP", raw: true, steps: always(firstByte, say(badRequest))},
		{name: "another protocol", raw: true, steps: always(say("220 mail ESMTP\r\n"))},
		{
			name: "silence", raw: true, steps: always(), detail: envoy.ConnectionTimeout,
			client: func(base *http.Transport) { base.TLSHandshakeTimeout = short },
		},
		{name: "the server's refusal", steps: always(request), tls: func(config *tls.Config) {
			config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, errBroken }
		}},
		{name: "an old version", steps: always(request), tls: onlyTLS(tls.VersionTLS11, 0)},
		{
			name: "no common protocol", steps: always(request), tls: func(config *tls.Config) { config.NextProtos = []string{"mail"} },
			client: func(base *http.Transport) { base.TLSClientConfig.NextProtos = []string{"http/1.1"} },
		},
		{name: "an untrusted certificate", steps: always(request), client: func(base *http.Transport) {
			base.TLSClientConfig = &tls.Config{RootCAs: x509.NewCertPool()}
		}},
		{name: "a certificate for another name", steps: always(request), client: func(base *http.Transport) {
			base.TLSClientConfig = &tls.Config{RootCAs: roots, ServerName: "other.test"}
		}},
		{name: "a certificate is wanted, TLS 1.2", steps: always(request), tls: onlyTLS(tls.VersionTLS12, tls.RequireAnyClientCert)},
	}
}

// brokenLater are servers whose connections fail after they were made.
func brokenLater() []secured {
	var tests []secured
	for name, version := range map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13} {
		for what, do := range map[string]step{
			"damaged": below(damagedRecord), "an alert": below(plainAlert), "plain HTTP": below(badRequest),
			"closed": fin, "closed with notice": func(p *peer) { _ = p.Conn.(*tls.Conn).CloseWrite() }, "reset": reset,
		} {
			tests = append(tests,
				secured{
					name: what + " after the request, TLS " + name, tls: onlyTLS(version, 0), posts: 1,
					steps: func(posts *atomic.Int64) []step { return []step{posted(posts), do} },
				},
				secured{name: what + " after the headers, TLS " + name, tls: onlyTLS(version, 0), steps: always(requestHead, do)})
		}
	}
	return append(tests, secured{name: "a certificate is wanted, TLS 1.3", steps: always(request), tls: onlyTLS(tls.VersionTLS13, tls.RequireAnyClientCert)})
}

// start starts the server, and returns a transport to it.
func (s secured) start(t *testing.T) (url string, base *http.Transport, posts *atomic.Int64) {
	t.Helper()
	posts = new(atomic.Int64)
	config := &tls.Config{Certificates: []tls.Certificate{testCertificate(t)}}
	if s.tls != nil {
		s.tls(config)
	}
	if s.raw {
		config = nil
	}
	base = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	if s.client != nil {
		s.client(base)
	}
	t.Cleanup(base.CloseIdleConnections)
	return "https://" + serveScriptTLS(t, config, s.steps(posts)).addr() + "/", base, posts
}

// wrapped puts a round tripper that traces, as tracing libraries do, around a base.
func wrapped(base http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) {}})
		return base.RoundTrip(req.WithContext(ctx))
	})
}

func plain(base http.RoundTripper) http.RoundTripper { return base }

// tlsUpstreams are upstreams with and without a retry policy. With limits, each attempt has its own
// context.
func tlsUpstreams() map[string][]pillion.Policy {
	connect := retry.Config{On: "connect-failure", NumRetries: 2, BaseInterval: time.Millisecond}
	return map[string][]pillion.Policy{
		"retries":            {connect},
		"retries and limits": {timeout.Config{Total: 3 * patience, PerTry: patience}, connect},
		"limits":             {timeout.Config{Total: patience}},
		"nothing":            nil,
	}
}

// TestTLS_handshake fails connections before they are made: the flag is UF, and a POST is retried,
// since it was never sent.
func TestTLS_handshake(t *testing.T) {
	silenceLog(t)
	for _, test := range handshakes(t) {
		for how, wrap := range map[string]func(http.RoundTripper) http.RoundTripper{"": plain, ", wrapped": wrapped} {
			for name, policies := range tlsUpstreams() {
				t.Run(test.name+how+", "+name, func(t *testing.T) {
					wantNoLeaks(t)
					url, base, _ := test.start(t)
					l := newLedger(t)
					attempts := map[bool]int{true: 3, false: 1}[strings.HasPrefix(name, "retries")]
					ctx, info := pillion.WithInfo(bounded(t))
					_, err := l.upstream(t, policies...).Transport(wrap(base)).RoundTrip(newRequest(t, http.MethodPost, url, strings.NewReader("pay 10")).WithContext(ctx))
					if err == nil {
						t.Fatal("got a response")
					}
					detail := envoy.ConnectionFailure
					if test.detail != nil {
						detail = test.detail
					}
					if end := l.last(t); !end.Has(policy.ConnectFailure) || end.Detail != detail || end.Flags != envoy.UF || !end.unconnected {
						t.Errorf("got %v %v %v, unconnected %v, want connect-failure UF %v, true: %v", end.Conditions, end.Flags, end.Detail, end.unconnected, detail, err)
					}
					if info.Attempts() != attempts {
						t.Errorf("got %d attempts, want %d", info.Attempts(), attempts)
					}
					l.wantBalanced(t, 1, attempts)
				})
			}
		}
	}
}

// TestTLS_brokenLater fails connections after they were made: the flag is UC, and a POST is not
// retried.
func TestTLS_brokenLater(t *testing.T) {
	silenceLog(t)
	for _, test := range brokenLater() {
		for how, wrap := range map[string]func(http.RoundTripper) http.RoundTripper{"": plain, ", wrapped": wrapped} {
			for name, policies := range tlsUpstreams() {
				t.Run(test.name+how+", "+name, func(t *testing.T) {
					wantNoLeaks(t)
					url, base, posts := test.start(t)
					l := newLedger(t)
					_, err := l.upstream(t, policies...).Transport(wrap(base)).RoundTrip(newRequest(t, http.MethodPost, url, strings.NewReader("pay 10")))
					if err == nil {
						t.Fatal("got a response")
					}
					if end := l.last(t); end.Conditions != policy.Reset || end.Detail != envoy.ConnectionTermination || end.Flags != envoy.UC || end.unconnected {
						t.Errorf("got %v %v %v, unconnected %v, want reset UC connection_termination, false: %v", end.Conditions, end.Flags, end.Detail, end.unconnected, err)
					}
					if got := posts.Load(); got != test.posts {
						t.Errorf("the server worked on the POST %d times, want %d", got, test.posts)
					}
					l.wantBalanced(t, 1, 1)
					l.wantCounted(t, breaker.Status{Failure: 1})
				})
			}
		}
	}
}

// TestTLS_http2 is TestTLS_brokenLater over HTTP/2.
func TestTLS_http2(t *testing.T) {
	silenceLog(t)
	framesRead := func(n int) step { // the client's preface and some frames, including the request
		return func(p *peer) {
			_, _ = io.ReadFull(p.read, make([]byte, len(http2.ClientPreface)))
			f := http2.NewFramer(p.Conn, p.read)
			_ = f.WriteSettings()
			for range n {
				_, _ = f.ReadFrame()
			}
		}
	}
	const all = 5 // SETTINGS, WINDOW_UPDATE, HEADERS, DATA, DATA or an acknowledgement
	for name, do := range map[string]step{"damaged": below(damagedRecord), "an alert": below(plainAlert), "closed": fin, "reset": reset} {
		for how, wrap := range map[string]func(http.RoundTripper) http.RoundTripper{"": plain, ", wrapped": wrapped} {
			for upstream, policies := range tlsUpstreams() {
				t.Run(name+how+", "+upstream, func(t *testing.T) {
					wantNoLeaks(t)
					s := secured{tls: func(config *tls.Config) { config.NextProtos = []string{"h2"} }, steps: always(framesRead(all), do)}
					url, base, _ := s.start(t)
					base.ForceAttemptHTTP2 = true
					l := newLedger(t)
					_, err := l.upstream(t, policies...).Transport(wrap(base)).RoundTrip(newRequest(t, http.MethodPost, url, strings.NewReader("pay 10")))
					if end := l.last(t); err == nil || end.Conditions != policy.Reset || end.Detail != envoy.ConnectionTermination || end.unconnected {
						t.Errorf("got %v %v, unconnected %v, want reset connection_termination, false: %v", end.Conditions, end.Detail, end.unconnected, err)
					}
					l.wantBalanced(t, 1, 1)
				})
			}
		}
	}
}

// TestTLS_proxy uses a forward proxy before an https upstream: what the proxy refuses was never
// sent.
func TestTLS_proxy(t *testing.T) {
	tests := map[string][]step{
		"407":          {request, say("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")},
		"502":          {request, say("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")},
		"503, no text": {request, say("HTTP/1.1 503\r\nContent-Length: 0\r\n\r\n")},
		"closed":       {request, fin},
		"reset":        {request, reset},
		"garbage":      {request, say("220 mail ESMTP\r\n")},
		"200, closed":  {request, say("HTTP/1.1 200 OK\r\n\r\n"), fin},
		"200, garbage": {request, say("HTTP/1.1 200 OK\r\n\r\n"), firstByte, say("220 mail ESMTP\r\n")},
		"unreachable":  nil,
	}
	for name, steps := range tests {
		for upstream, policies := range tlsUpstreams() {
			t.Run(name+", "+upstream, func(t *testing.T) {
				wantNoLeaks(t)
				proxy := refusing(t)
				if steps != nil {
					proxy = serveScript(t, steps).addr()
				}
				base := &http.Transport{Proxy: http.ProxyURL(mustURL(t, "http://"+proxy))}
				defer base.CloseIdleConnections()
				l := newLedger(t)
				attempts := map[bool]int{true: 3, false: 1}[strings.HasPrefix(upstream, "retries")]
				_, err := l.upstream(t, policies...).Transport(base).RoundTrip(newRequest(t, http.MethodPost, "https://recipes.test/", strings.NewReader("pay 10")))
				if end := l.last(t); err == nil || !end.Has(policy.ConnectFailure) || end.Flags != envoy.UF || !end.unconnected {
					t.Errorf("got %v %v, unconnected %v, want connect-failure UF, true: %v", end.Conditions, end.Flags, end.unconnected, err)
				}
				l.wantBalanced(t, 1, attempts)
			})
		}
	}
}

// TestTLS_proxyPlain uses a forward proxy that reads a plain request and then fails: the request
// was sent.
func TestTLS_proxyPlain(t *testing.T) {
	for name, steps := range map[string][]step{"closed": {request, fin}, "reset": {request, reset}} {
		for upstream, policies := range tlsUpstreams() {
			t.Run(name+", "+upstream, func(t *testing.T) {
				wantNoLeaks(t)
				base := &http.Transport{Proxy: http.ProxyURL(mustURL(t, "http://"+serveScript(t, steps).addr()))}
				defer base.CloseIdleConnections()
				l := newLedger(t)
				_, err := l.upstream(t, policies...).Transport(base).RoundTrip(newRequest(t, http.MethodPost, "http://recipes.test/", strings.NewReader("pay 10")))
				if end := l.last(t); err == nil || end.Conditions != policy.Reset || end.Flags != envoy.UC || end.unconnected {
					t.Errorf("got %v %v, unconnected %v, want reset UC, false: %v", end.Conditions, end.Flags, end.unconnected, err)
				}
				l.wantBalanced(t, 1, 1)
			})
		}
	}
}

// TestTLS_callersTrace uses the caller's own trace: its hooks run in each attempt, and the failure
// is classified as without it.
func TestTLS_callersTrace(t *testing.T) {
	silenceLog(t)
	s := secured{tls: onlyTLS(tls.VersionTLS13, 0), steps: func(posts *atomic.Int64) []step { return []step{posted(posts), below(damagedRecord)} }}
	for upstream, policies := range tlsUpstreams() {
		t.Run(upstream, func(t *testing.T) {
			wantNoLeaks(t)
			url, base, posts := s.start(t)
			var mu sync.Mutex
			var hooks []string
			hook := func(name string) {
				mu.Lock()
				defer mu.Unlock()
				hooks = append(hooks, name)
			}
			ctx := httptrace.WithClientTrace(bounded(t), &httptrace.ClientTrace{
				GetConn:           func(string) { hook("GetConn") },
				ConnectDone:       func(string, string, error) { hook("ConnectDone") },
				TLSHandshakeStart: func() { hook("TLSHandshakeStart") },
				TLSHandshakeDone:  func(tls.ConnectionState, error) { hook("TLSHandshakeDone") },
				GotConn:           func(httptrace.GotConnInfo) { hook("GotConn") },
				WroteHeaders:      func() { hook("WroteHeaders") },
				WroteRequest:      func(httptrace.WroteRequestInfo) { hook("WroteRequest") },
			})
			l := newLedger(t)
			_, err := l.upstream(t, policies...).Transport(base).RoundTrip(newRequest(t, http.MethodPost, url, strings.NewReader("pay 10")).WithContext(ctx))
			if end := l.last(t); err == nil || end.Conditions != policy.Reset || posts.Load() != 1 {
				t.Errorf("got %v after %d requests, want reset after 1: %v", end.Conditions, posts.Load(), err)
			}
			mu.Lock()
			defer mu.Unlock()
			const want = "GetConn ConnectDone TLSHandshakeStart TLSHandshakeDone GotConn WroteHeaders WroteRequest"
			if got := strings.Join(hooks, " "); got != want {
				t.Errorf("hooks: got %s, want %s", got, want)
			}
		})
	}
}

// TestTLS_resent makes net/http resend a request because a kept-alive connection was closed, and
// then find no other connection: the request was sent, so that is no failure to connect.
func TestTLS_resent(t *testing.T) {
	const empty = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	for name, second := range map[string]part{"closed in the handshake": {fin}, "reset in the handshake": {reset}, "no TLS": {func(p *peer) { _, _ = io.WriteString(p.raw, badRequest) }}} {
		for upstream, policies := range tlsUpstreams() {
			t.Run(name+", "+upstream, func(t *testing.T) {
				wantNoLeaks(t)
				config := &tls.Config{Certificates: []tls.Certificate{testCertificate(t)}, MinVersion: tls.VersionTLS12}
				url := "https://" + serveScriptTLS(t, config, part{request, say(empty), request, fin}, second).addr() + "/"
				base := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
				defer base.CloseIdleConnections()
				l := newLedger(t)
				rt := l.upstream(t, policies...).Transport(base)
				warm(t, rt, url)
				req := newRequest(t, http.MethodPost, url, strings.NewReader("pay 10"))
				req.Header.Set("Idempotency-Key", "1") // otherwise net/http does not resend it
				_, err := rt.RoundTrip(req)
				if end := l.last(t); err == nil || end.Has(policy.ConnectFailure) || !end.Has(policy.Reset) || end.unconnected {
					t.Errorf("got %v, unconnected %v, %v, want a reset", end.Conditions, end.unconnected, err)
				}
				l.wantBalanced(t, 2, 2)
			})
		}
	}
}
