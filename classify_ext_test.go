package pillion_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// short is a limit that fires in a test.
const short = 40 * time.Millisecond

// world is the environment of a call in a failure test.
type world struct {
	url     string
	base    *http.Transport
	limits  timeout.Config
	caller  time.Duration                                // the caller's deadline, 0 for none
	request func(t *testing.T, url string) *http.Request // nil means a GET
}

// newWorld returns a world with limits that only fire if a test hangs.
func newWorld(url string) *world {
	return &world{
		url:    url,
		base:   &http.Transport{},
		limits: timeout.Config{Total: 3 * patience, PerTry: patience, Idle: patience},
	}
}

// nowhere is a world without a server.
func nowhere(t *testing.T) *world {
	t.Helper()
	return newWorld("http://" + refusing(t) + "/")
}

// plays returns a world whose server plays these steps on each connection.
func plays(steps ...step) func(*testing.T) *world {
	return func(t *testing.T) *world {
		t.Helper()
		return newWorld("http://" + serveScript(t, steps).addr() + "/")
	}
}

// with changes a world.
func with(build func(*testing.T) *world, change func(*world)) func(*testing.T) *world {
	return func(t *testing.T) *world {
		t.Helper()
		w := build(t)
		change(w)
		return w
	}
}

// dials returns a world in which dial makes the connections.
func dials(dial func(ctx context.Context, network, address string) (net.Conn, error)) func(*testing.T) *world {
	return func(*testing.T) *world {
		w := newWorld("http://upstream.test/")
		w.base.DialContext = dial
		return w
	}
}

// overTLS is plays with TLS.
func overTLS(certificate tls.Certificate, steps ...step) func(*testing.T) *world {
	return func(t *testing.T) *world {
		t.Helper()
		config := &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13}
		return newWorld("https://" + serveScriptTLS(t, config, steps).addr() + "/")
	}
}

// trusting makes the client of a world accept every certificate.
func trusting(w *world) {
	w.base.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
}

// secure makes the client of a world use TLS.
func secure(w *world) { w.url = strings.Replace(w.url, "http:", "https:", 1) }

// uploading makes the client of a world send a body without an end.
func uploading(w *world) {
	w.request = func(t *testing.T, url string) *http.Request {
		t.Helper()
		return newRequest(t, http.MethodPut, url, newEndlessBody())
	}
}

// testCertificate is the certificate of httptest's servers.
func testCertificate(t *testing.T) tls.Certificate {
	t.Helper()
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	return server.TLS.Certificates[0]
}

// endlessBody is a body that goes on until it is closed.
type endlessBody struct {
	once   sync.Once
	closed chan struct{}
}

func newEndlessBody() *endlessBody { return &endlessBody{closed: make(chan struct{})} }

func (b *endlessBody) Read(p []byte) (int, error) {
	select {
	case <-b.closed:
		return 0, http.ErrBodyReadAfterClose
	default:
		return len(p), nil // as much as fits, so that the sockets fill soon
	}
}

func (b *endlessBody) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}

// failure is a way in which a call can fail, and how it must be reported.
type failure struct {
	name   string
	world  func(*testing.T) *world
	head   int    // the status of the response headers, 0 for none
	flags  string // including URX if the response would be retried
	detail *envoy.Detail
	is     policy.Condition
	words  []string       // in the error's text
	counts breaker.Status // after one such call
}

// The counters of a breaker after one call.
var (
	oneFailure = breaker.Status{Failure: 1}
	oneTimeout = breaker.Status{Timeout: 1}
	oneSuccess = breaker.Status{Success: 1}
	nothing    = breaker.Status{}
)

// by returns the same failure for another reason, whose text is in the error too.
func (f failure) by(name string, world func(*testing.T) *world, words ...string) failure {
	f.name, f.world = name, world
	f.words = slices.Concat(f.words, words)
	return f
}

func (f failure) test(t *testing.T) {
	t.Helper()
	wantNoLeaks(t)
	w := f.world(t)
	g := newGuarded(t, w)
	for range 2 { // the second call uses what the first left behind: slots, connections
		s := g.call(t, w)
		f.check(t, s)
	}
	twice := f.counts
	twice.Success *= 2
	twice.Failure *= 2
	twice.Timeout *= 2
	if got := g.breaker.Status(); got != twice {
		t.Errorf("breaker after two calls: got %+v, want %+v", got, twice)
	}
}

func (f failure) check(t *testing.T, s seen) {
	t.Helper()
	if s.status != f.head {
		t.Errorf("status of the response: got %d, want %d", s.status, f.head)
	}
	if s.err == nil {
		t.Fatalf("got status %d and no error, want one with %q", s.status, f.words)
	}
	for _, word := range f.words {
		if !strings.Contains(s.err.Error(), word) {
			t.Errorf("error: got %q, want it to say %q", s.err, word)
		}
	}
	if errors.Is(s.err, limits.ErrFull) {
		t.Error("got ErrFull, want the slot of the first call to be free")
	}
	if got := s.info.Flags().String(); got != f.flags {
		t.Errorf("flags: got %q, want %q", got, f.flags)
	}
	if got := s.info.Detail(); got != f.detail {
		t.Errorf("detail: got %q, want %q", got, f.detail)
	}
	if s.end.Conditions != f.is {
		t.Errorf("condition: got %b, want %b", s.end.Conditions, f.is)
	}
	if !s.info.Done() || s.info.Attempts() != 1 {
		t.Errorf("got done %v after %d attempts, want true after 1", s.info.Done(), s.info.Attempts())
	}
	f.checkType(t, s.err)
}

// checkType checks that the error has the type of its flags, inside http.Client's own.
func (f failure) checkType(t *testing.T, err error) {
	t.Helper()
	var (
		limit *timeout.Error
		wire  *pillion.UpstreamError
	)
	switch isLimit := f.is.Any(policy.Timeout) && !f.is.Any(policy.ConnectFailure); {
	case f.detail == nil || f.detail == envoy.CallerGone:
	case isLimit && errors.As(err, &limit):
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want it to be a DeadlineExceeded", err)
		}
	case !errors.As(err, &wire):
		t.Errorf("got a %T, want a *pillion.UpstreamError in it: %v", err, err)
	case wire.Detail != f.detail || !strings.HasSuffix(f.flags, wire.Flags.String()):
		t.Errorf("UpstreamError: got %v %v, want %v %v", wire.Flags, wire.Detail, f.flags, f.detail)
	}
}

// guarded is an upstream with all policies but those that make further attempts.
type guarded struct {
	client  *http.Client
	breaker *breaker.Breaker
	ends    chan policy.Outcome // of all calls
}

func newGuarded(t *testing.T, w *world) *guarded {
	t.Helper()
	b, err := breaker.New(breaker.Config{Name: "upstream", Threshold: breaker.Never})
	if err != nil {
		t.Fatal(err)
	}
	g := &guarded{breaker: b, ends: make(chan policy.Outcome, 8)}
	u, err := pillion.New("upstream", append(apart(w.limits), retry.Config{NumRetries: retry.Never}, limits.Config{MaxRequests: 1}, b,
		pillion.Listener(func(_ context.Context, e policy.Event) {
			if e.Kind == policy.EventEnd {
				g.ends <- *e.Outcome
			}
		}))...)
	if err != nil {
		t.Fatal(err)
	}
	g.client = &http.Client{Transport: u.Transport(w.base)}
	t.Cleanup(g.client.CloseIdleConnections)
	return g
}

// seen is the result of a call.
type seen struct {
	status int
	body   string
	err    error // the error of the round trip or of the body
	info   *pillion.Info
	end    policy.Outcome
}

// call makes one call, and reads its response to the end.
func (g *guarded) call(t *testing.T, w *world) (s seen) {
	t.Helper()
	var req *http.Request
	if w.request == nil {
		req = newRequest(t, http.MethodGet, w.url, nil)
	} else {
		req = w.request(t, w.url)
	}
	ctx, info := pillion.WithInfo(req.Context())
	s.info = info
	if w.caller != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, w.caller)
		defer cancel()
	}
	resp, err := g.client.Do(req.WithContext(ctx))
	if err == nil {
		s.status = resp.StatusCode
		var body []byte
		body, err = io.ReadAll(resp.Body)
		s.body = string(body)
		_ = resp.Body.Close()
	}
	s.err = err
	s.end = wantSoon(t, g.ends, "the end of the call")
	return s
}

func mustURL(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func newRequest(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(bounded(t), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// TestClassify_noConnection pins failures before there is a connection.
func TestClassify_noConnection(t *testing.T) {
	certificate := testCertificate(t)
	tests := []failure{
		{
			name:  "no server",
			world: nowhere,
			flags: "URX,UF", detail: envoy.ConnectionRefused, is: policy.ConnectFailure,
			words: []string{"UF", "remote_connection_failure", "connection refused"}, counts: oneFailure,
		},
		{
			name: "unknown host",
			world: dials(func(context.Context, string, string) (net.Conn, error) {
				return nil, &net.DNSError{Err: "no such host", Name: "upstream.test", IsNotFound: true}
			}),
			flags: "URX,DF", detail: envoy.DNSFailure, is: policy.ConnectFailure,
			words: []string{"DF", "dns_resolution_failure", "upstream.test", "no such host"}, counts: oneFailure,
		},
		{
			name: "unknown host, as a dialer says it",
			world: dials(func(_ context.Context, network, _ string) (net.Conn, error) {
				return nil, &net.OpError{Op: "dial", Net: network, Err: &net.DNSError{
					Err: "server misbehaving", Name: "upstream.test", IsTemporary: true,
				}}
			}),
			flags: "URX,DF", detail: envoy.DNSFailure, is: policy.ConnectFailure,
			words: []string{"DF", "dns_resolution_failure", "server misbehaving"}, counts: oneFailure,
		},
		{
			name: "the name server is silent",
			world: dials(func(context.Context, string, string) (net.Conn, error) {
				return nil, &net.DNSError{Err: "i/o timeout", Name: "upstream.test", IsTimeout: true}
			}),
			flags: "URX,DF", detail: envoy.DNSFailure, is: policy.ConnectFailure | policy.Timeout,
			words: []string{"DF", "dns_resolution_failure", "i/o timeout"}, counts: oneTimeout,
		},
		{
			name: "connect timeout of the dialer",
			world: func(t *testing.T) *world {
				t.Helper()
				w := newWorld("http://" + serveScript(t, part{}).addr() + "/")
				w.base.DialContext = (&net.Dialer{Timeout: time.Nanosecond}).DialContext
				return w
			},
			flags: "URX,UF", detail: envoy.ConnectionTimeout, is: policy.ConnectFailure | policy.Timeout,
			words: []string{"UF", "connection_timeout", "i/o timeout"}, counts: oneTimeout,
		},
		{
			name: "per-try limit while connecting",
			world: with(dials(func(ctx context.Context, _, _ string) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}), func(w *world) { w.limits.PerTry = short }),
			flags: "URX,UT", detail: envoy.PerTryTimeout, is: policy.Timeout | policy.PerTryTimeout,
			words: []string{"timeout: upstream", "per-try limit of 40ms reached"}, counts: oneTimeout,
		},
		{
			name: "total limit while connecting",
			world: with(dials(func(ctx context.Context, _, _ string) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}), func(w *world) { w.limits.Total = short }),
			flags: "UT", detail: envoy.ResponseTimeout, is: policy.Timeout,
			words: []string{"timeout: upstream", "total limit of 40ms reached"}, counts: oneTimeout,
		},
		{
			name:  "TLS to a plain HTTP server",
			world: with(plays(say("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")), secure),
			flags: "URX,UF", detail: envoy.ConnectionFailure, is: policy.ConnectFailure,
			words: []string{"server gave HTTP response to HTTPS client"}, counts: oneFailure,
		},
		{
			name:  "TLS to a server that speaks something else",
			world: with(plays(say("220 mail.test ESMTP\r\n")), secure),
			flags: "URX,UF", detail: envoy.ConnectionFailure, is: policy.ConnectFailure,
			words: []string{"UF", "remote_connection_failure", "first record does not look like a TLS handshake"}, counts: oneFailure,
		},
		{
			name:  "an untrusted certificate",
			world: overTLS(certificate, request, fin),
			flags: "URX,UF", detail: envoy.ConnectionFailure, is: policy.ConnectFailure,
			words: []string{"UF", "remote_connection_failure", "certificate"}, counts: oneFailure,
		},
		{
			name: "TLS of a version that the server does not have",
			world: with(overTLS(certificate, request, fin), func(w *world) {
				w.base.TLSClientConfig = &tls.Config{MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true}
			}),
			flags: "URX,UF", detail: envoy.ConnectionFailure, is: policy.ConnectFailure,
			words: []string{"UF", "remote_connection_failure", "protocol version"}, counts: oneFailure,
		},
		{
			name: "no connection to the proxy",
			world: func(t *testing.T) *world {
				t.Helper()
				w := newWorld("https://upstream.test/")
				w.base.Proxy = http.ProxyURL(mustURL(t, "http://"+refusing(t)))
				return w
			},
			flags: "URX,UF", detail: envoy.ConnectionRefused, is: policy.ConnectFailure,
			words: []string{"UF", "remote_connection_failure", "proxyconnect", "connection refused"}, counts: oneFailure,
		},
	}
	for _, test := range tests {
		t.Run(test.name, test.test)
	}
}

// TestClassify_noResponse pins failures between the connection and the response headers.
func TestClassify_noResponse(t *testing.T) {
	certificate := testCertificate(t)
	terminated := failure{
		flags: "URX,UC", detail: envoy.ConnectionTermination, is: policy.Reset,
		words: []string{"UC", "connection_termination"}, counts: oneFailure,
	}
	abandoned := terminated // the request cannot be sent again, and Envoy sets no URX then
	abandoned.flags = "UC"
	malformed := failure{
		flags: "URX,UPE", detail: envoy.MalformedResponse, is: policy.ProtocolError,
		words: []string{"UPE", "protocol_error"}, counts: oneFailure,
	}
	informed := malformed // nothing is retried after a 1xx response
	informed.flags, informed.detail = "UPE", envoy.MalformedResponseAfter
	informed.is |= policy.Reset | policy.Informational
	tests := []failure{
		terminated.by("reset before the whole request", plays(firstByte, reset)),
		terminated.by("reset after the request", plays(request, reset), "connection reset"),
		terminated.by("closed immediately", plays(fin)),
		terminated.by("closed after the request", plays(request, fin), "EOF"),
		terminated.by("closed under TLS", with(overTLS(certificate, request, fin), trusting), "EOF"),
		abandoned.by("reset in the middle of an upload", with(plays(requestHead, reset), uploading)),
		malformed.by("bytes that are no HTTP", plays(request, say("\x00\x01\x02 what is this\r\n\r\n"), fin), "malformed HTTP"),
		malformed.by("a greeting of another protocol", plays(request, say("220 mail.test ESMTP\r\n"), fin), "malformed HTTP"),
		malformed.by("plain HTTP to a TLS port, which sends an alert", plays(requestHead, say("\x15\x03\x01\x00\x02\x02\x46"), fin),
			"malformed HTTP"),
		malformed.by("garbage after the status line", plays(request, say("HTTP/1.1 200 OK\r\n\x00\x01 no header\r\n\r\n"), fin),
			"malformed MIME header"),
		malformed.by("a status that is no number", plays(request, say("HTTP/1.1 OK 200\r\n\r\n"), fin), "malformed HTTP status"),
		malformed.by("a version that is none", plays(request, say("HTTP/one 200 OK\r\n\r\n"), fin), "malformed HTTP version"),
		malformed.by("cut off within the head", plays(request, say("HTTP/1.1 200 OK\r\nServer: te"), fin), "unexpected EOF"),
		malformed.by("two lengths", plays(request,
			say("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), fin), "Content-Length"),
		malformed.by("a length that is no number", plays(request,
			say("HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nab"), fin), "Content-Length"),
		malformed.by("an unknown transfer encoding", plays(request,
			say("HTTP/1.1 200 OK\r\nTransfer-Encoding: morse\r\n\r\nab"), fin), "transfer encoding"),
		malformed.by("a header without end", with(plays(request, say("HTTP/1.1 200 OK\r\n"), sayOn("X-Filler: 0123456789abcdef\r\n")),
			func(w *world) { w.base.MaxResponseHeaderBytes = 4 << 10 }), "response headers exceeded 4096 bytes"),
		informed.by("interim responses without end", with(
			plays(request, sayOn("HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n")),
			func(w *world) { w.base.MaxResponseHeaderBytes = 4 << 10 }), "response headers exceeded 4096 bytes"),
		{
			name: "response headers slower than the per-try limit",
			world: with(plays(request, say("HTTP/1.1 200 OK\r\nServer: te")), func(w *world) {
				w.limits.PerTry = short
			}),
			flags: "URX,UT", detail: envoy.PerTryTimeout, is: policy.Timeout | policy.PerTryTimeout,
			words: []string{"timeout: upstream", "per-try limit of 40ms reached"}, counts: oneTimeout,
		},
		{
			name:  "silence longer than the idle limit",
			world: with(plays(request), func(w *world) { w.limits.Idle = short }),
			flags: "URX,UT", detail: envoy.PerTryIdleTimeout, is: policy.Timeout | policy.PerTryTimeout,
			words: []string{"timeout: upstream", "idle limit of 40ms reached"}, counts: oneTimeout,
		},
		{
			name:  "silence longer than the total limit",
			world: with(plays(request), func(w *world) { w.limits.Total = short }),
			flags: "UT", detail: envoy.ResponseTimeout, is: policy.Timeout,
			words: []string{"timeout: upstream", "total limit of 40ms reached"}, counts: oneTimeout,
		},
		{
			name: "silence longer than the transport's own limit",
			world: with(plays(request), func(w *world) {
				w.base.ResponseHeaderTimeout = short
			}),
			flags: "URX,UT", detail: envoy.PerTryTimeout, is: policy.Timeout | policy.PerTryTimeout,
			words: []string{"UT", "upstream_per_try_timeout", "timeout awaiting response headers"}, counts: oneTimeout,
		},
		{
			name: "silence longer than the caller's deadline",
			world: with(plays(request), func(w *world) {
				w.caller = short
			}),
			flags: "UT", detail: envoy.ResponseTimeout, is: policy.Timeout,
			words: []string{"timeout: upstream", "caller deadline passed"}, counts: oneTimeout,
		},
		{
			name: "an upload that the upstream does not take within the total limit",
			world: with(plays(requestHead, neither), func(w *world) {
				uploading(w)
				w.limits.Total = short
			}),
			flags: "UT", detail: envoy.ResponseTimeout, is: policy.Timeout,
			words: []string{"timeout: upstream", "total limit of 40ms reached"}, counts: oneTimeout,
		},
	}
	for _, test := range tests {
		t.Run(test.name, test.test)
	}
}

// TestClassify_brokenResponse pins failures after the response headers. Envoy classifies an HTTP/1
// response that is cut short as malformed.
func TestClassify_brokenResponse(t *testing.T) {
	const (
		sized   = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
		chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	)
	cut := failure{
		head: http.StatusOK, flags: "UPE", detail: envoy.MalformedResponseAfter, is: policy.ProtocolError | policy.Reset,
		words: []string{"UPE", "upstream_reset_after_response_started{protocol_error}"}, counts: oneFailure,
	}
	tests := []failure{
		cut.by("a body closed before its length", plays(request, say(sized+"part"), fin), "unexpected EOF"),
		cut.by("a body reset before its length", plays(request, say(sized+"part"), reset), "connection reset"),
		cut.by("closed within a chunk", plays(request, say(chunked+"10\r\npart"), fin), "unexpected EOF"),
		cut.by("closed between chunks", plays(request, say(chunked+"4\r\npart\r\n"), fin), "unexpected EOF"),
		cut.by("a chunk whose length is no number", plays(request, say(chunked+"4\r\npart\r\nmany\r\n"), fin),
			"invalid byte in chunk length"),
		cut.by("a trailer without end", plays(request, say(chunked+"0\r\n"), sayOn("X-Filler: 0123456789abcdef\r\n")), "trailer"),
		cut.by("compressed badly", plays(request,
			say("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 20\r\n\r\nthis is no gzip text"), fin), "gzip"),
		{
			name:  "a body that stalls, under the idle limit",
			world: with(plays(request, say(sized+"part")), func(w *world) { w.limits.Idle = short }),
			head:  http.StatusOK, flags: "UT", detail: envoy.PerTryIdleTimeout, is: policy.Timeout | policy.PerTryTimeout,
			words: []string{"timeout: upstream", "idle limit of 40ms reached"}, counts: oneTimeout,
		},
		{
			name:  "a body that stalls, under the total limit",
			world: with(plays(request, say(sized+"part")), func(w *world) { w.limits.Total = 2 * short }),
			head:  http.StatusOK, flags: "UT", detail: envoy.ResponseTimeout, is: policy.Timeout,
			words: []string{"timeout: upstream", "total limit of 80ms reached"}, counts: oneTimeout,
		},
		{
			name:  "a body that stalls, under the caller's deadline",
			world: with(plays(request, say(sized+"part")), func(w *world) { w.caller = 2 * short }),
			head:  http.StatusOK, flags: "UT", detail: envoy.ResponseTimeout, is: policy.Timeout,
			words: []string{"timeout: upstream", "caller deadline passed"}, counts: oneTimeout,
		},
	}
	for _, test := range tests {
		t.Run(test.name, test.test)
	}
}

// TestClassify_handshake pins failures between the dial and the request. As in Envoy, they are a
// connection that was not made (UF).
func TestClassify_handshake(t *testing.T) {
	tests := []failure{
		{
			name: "the transport's own limit on the TLS handshake",
			world: with(plays(), func(w *world) {
				secure(w)
				w.base.TLSHandshakeTimeout = short
			}),
			flags: "URX,UF", detail: envoy.ConnectionTimeout, is: policy.ConnectFailure | policy.Timeout,
			words: []string{"UF", "connection_timeout", "TLS handshake timeout"}, counts: oneTimeout,
		},
		{
			name:  "closed in the TLS handshake",
			world: with(plays(fin), secure),
			flags: "URX,UF", detail: envoy.ConnectionFailure, is: policy.ConnectFailure,
			words: []string{"UF", "remote_connection_failure", "EOF"}, counts: oneFailure,
		},
		{
			name:  "reset in the TLS handshake",
			world: with(plays(firstByte, reset), secure),
			flags: "URX,UF", detail: envoy.ConnectionFailure, is: policy.ConnectFailure,
			words: []string{"UF", "remote_connection_failure", "reset"}, counts: oneFailure,
		},
		{
			name: "the proxy refuses to connect",
			world: func(t *testing.T) *world {
				t.Helper()
				w := newWorld("https://upstream.test/")
				server := serveScript(t, part{request, say("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")})
				w.base.Proxy = http.ProxyURL(mustURL(t, "http://"+server.addr()))
				return w
			},
			flags: "URX,UF", detail: envoy.ConnectionFailure, is: policy.ConnectFailure,
			words: []string{"UF", "remote_connection_failure", "Bad Gateway"}, counts: oneFailure,
		},
	}
	for _, test := range tests {
		t.Run(test.name, test.test)
	}
}

// TestClassify_invalid pins requests that cannot be sent: they do not count against the upstream.
func TestClassify_invalid(t *testing.T) {
	get := func(change func(*http.Request)) func(*testing.T, string) *http.Request {
		return func(t *testing.T, url string) *http.Request {
			t.Helper()
			req := newRequest(t, http.MethodGet, url, nil)
			change(req)
			return req
		}
	}
	put := func(body string, length int64) func(*testing.T, string) *http.Request {
		return func(t *testing.T, url string) *http.Request {
			t.Helper()
			req := newRequest(t, http.MethodPut, url, strings.NewReader(body))
			req.ContentLength, req.GetBody = length, nil
			return req
		}
	}
	tests := []struct {
		name    string
		request func(*testing.T, string) *http.Request
		word    string
	}{
		{"an unsupported scheme", get(func(r *http.Request) { r.URL.Scheme = "gopher" }), "unsupported protocol scheme"},
		{"no host", get(func(r *http.Request) { r.URL.Host, r.Host = "", "" }), "no Host"},
		{"a header name with a space", get(func(r *http.Request) { r.Header["A B"] = []string{"c"} }), "invalid header field name"},
		{"a header value with a line break", get(func(r *http.Request) { r.Header["A"] = []string{"b\nc"} }), "invalid header field value"},
		{"a trailer name with a space", get(func(r *http.Request) { r.Trailer = http.Header{"A B": {"c"}} }), "invalid trailer field name"},
		{"a method with a space", get(func(r *http.Request) { r.Method = "GE T" }), "invalid method"},
		{"a length without a body", get(func(r *http.Request) { r.ContentLength = 5 }), "ContentLength=5 with nil Body"},
		{"a body shorter than its length", put("short", 100), "ContentLength=100 with Body length 5"},
		{"a body longer than its length", put("too long", 3), "ContentLength=3 with Body length"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			failure{
				world: with(plays(request), func(w *world) { w.request = test.request }), // a response could arrive first
				flags: "-", detail: nil, is: policy.Invalid, words: []string{test.word}, counts: nothing,
			}.test(t)
		})
	}
}

// TestClassify_controlCharacter pins a request that net/http refuses to write after it has made a
// connection for it.
func TestClassify_controlCharacter(t *testing.T) {
	failure{
		world: with(plays(request), func(w *world) {
			w.request = func(t *testing.T, url string) *http.Request {
				t.Helper()
				req := newRequest(t, http.MethodGet, url, nil)
				req.URL.Opaque = "/a\nb"
				return req
			}
		}),
		flags: "-", detail: nil, is: policy.Invalid, words: []string{"control character"}, counts: nothing,
	}.test(t)
}

// TestClassify_requestBodyFails pins that a caller's body that cannot be read is not the upstream's
// fault, and does not open its breaker.
func TestClassify_requestBodyFails(t *testing.T) {
	failure{
		world: with(plays(request), func(w *world) {
			w.request = func(t *testing.T, url string) *http.Request {
				t.Helper()
				return newRequest(t, http.MethodPut, url, io.MultiReader(strings.NewReader("part"), iotest.ErrReader(errBody)))
			}
		}),
		flags: "-", detail: nil, is: policy.Invalid, words: []string{errBody.Error()}, counts: nothing,
	}.test(t)
}

var errBody = errors.New("the disk is gone")

// TestClassify_callerGone cancels the caller: that is no failure of the upstream.
func TestClassify_callerGone(t *testing.T) {
	tests := []struct {
		name string
		say  string
		head int
	}{
		{"before the head", "", 0},
		{"within the head", "HTTP/1.1 200 OK\r\nServer: te", 0},
		{"within the body", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart", http.StatusOK},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			wantNoLeaks(t)
			said := make(chan struct{})
			w := plays(request, say(test.say), tell(said))(t)
			g := newGuarded(t, w)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				<-said
				cancel()
			}()
			w.request = func(t *testing.T, url string) *http.Request {
				t.Helper()
				return newRequest(t, http.MethodGet, url, nil).WithContext(ctx)
			}
			s := g.call(t, w)
			// Response headers that arrived just before the cancellation may have been reported.
			if s.status != 0 && s.status != test.head {
				t.Errorf("status: got %d, want %d", s.status, test.head)
			}
			if !errors.Is(s.err, context.Canceled) {
				t.Errorf("got %v, want it to be context.Canceled", s.err)
			}
			if s.end.Conditions&^policy.Discarded != policy.Cancelled || s.end.Detail != envoy.CallerGone || s.end.Flags != envoy.DC {
				t.Errorf("end: got %b %v %q, want %b %v %q",
					s.end.Conditions, s.end.Flags, s.end.Detail, policy.Cancelled, envoy.DC, envoy.CallerGone)
			}
			if got := g.breaker.Status(); got != nothing {
				t.Errorf("breaker: got %+v, want nothing counted", got)
			}
		})
	}
}

// TestClassify_unsolicited sends a response without a request after a good one: it must not become
// the response of the next call.
func TestClassify_unsolicited(t *testing.T) {
	wantNoLeaks(t)
	silenceLog(t)
	dropped := make(chan struct{})
	const response = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"
	server := serveScript(t,
		part{request, say(response + "mine"), say(response + "evil"), untilClosed, tell(dropped)},
		part{request, say(response + "next")})
	w := newWorld("http://" + server.addr() + "/")
	g := newGuarded(t, w)
	for i, want := range []string{"mine", "next"} {
		s := g.call(t, w)
		if s.err != nil || s.body != want {
			t.Errorf("call %d: got %q, %v, want %q", i+1, s.body, s.err, want)
		}
		if flags := s.info.Flags(); flags != 0 {
			t.Errorf("call %d: got flags %v, want none", i+1, flags)
		}
		wantSoon(t, dropped, "the end of the first connection")
	}
	if got, want := g.breaker.Status(), (breaker.Status{Success: 2}); got != want {
		t.Errorf("breaker: got %+v, want %+v", got, want)
	}
}

// TestClassify_earlyResponse responds while the request is still being sent, and closes the
// connection: the response is the result, and the upload ends.
func TestClassify_earlyResponse(t *testing.T) {
	wantNoLeaks(t)
	read := make(chan struct{})
	const response = "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 8\r\n\r\ntoo much"
	w := plays(requestHead, say(response), hold(read), fin)(t)
	body := newEndlessBody()
	w.request = func(t *testing.T, url string) *http.Request {
		t.Helper()
		return newRequest(t, http.MethodPut, url, body)
	}
	g := newGuarded(t, w)
	s := g.call(t, w)
	close(read)
	if s.err != nil || s.status != http.StatusRequestEntityTooLarge || s.body != "too much" {
		t.Errorf("got %d %q, %v, want 413 and its body", s.status, s.body, s.err)
	}
	wantSoon(t, body.closed, "the close of the request's body")
	if got := g.breaker.Status(); got != oneSuccess {
		t.Errorf("breaker: got %+v, want %+v", got, oneSuccess)
	}
}

// TestClassify_earlyResponseAndReset responds while the request is still being sent, and resets the
// connection. net/http returns the response or the reset, whichever it sees first; either must be
// reported correctly.
func TestClassify_earlyResponseAndReset(t *testing.T) {
	wantNoLeaks(t)
	const response = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\n\r\ntoo much"
	w := plays(requestHead, say(response), reset)(t)
	uploading(w)
	g := newGuarded(t, w)
	s := g.call(t, w)
	var want breaker.Status
	switch {
	case s.err == nil:
		want = oneSuccess
	case s.status == 0:
		want = oneFailure
		if s.end.Detail != envoy.ConnectionTermination || s.end.Conditions != policy.Reset {
			t.Errorf("got %b %q, want %b %q", s.end.Conditions, s.end.Detail, policy.Reset, envoy.ConnectionTermination)
		}
	default:
		want = oneFailure
		if s.end.Detail != envoy.MalformedResponseAfter {
			t.Errorf("got %q, want %q", s.end.Detail, envoy.MalformedResponseAfter)
		}
	}
	if got := g.breaker.Status(); got != want {
		t.Errorf("breaker: got %+v, want %+v", got, want)
	}
}

// silenceLog hides net/http's messages about a misbehaving server from the test's output.
func silenceLog(t *testing.T) {
	t.Helper()
	out := log.Writer()
	log.SetOutput(io.Discard)
	t.Cleanup(func() { log.SetOutput(out) })
}
