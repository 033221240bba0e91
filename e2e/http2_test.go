package e2e

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// h2c is a transport that uses HTTP/2 without TLS.
func h2c() *http.Transport {
	base := &http.Transport{}
	unencryptedHTTP2(base)
	return base
}

func unencryptedHTTP2(base *http.Transport) {
	base.Protocols = &http.Protocols{}
	base.Protocols.SetUnencryptedHTTP2(true)
}

// guarded is an upstream with all policies.
type guarded struct {
	client  *http.Client
	breaker *breaker.Breaker
	ends    chan policy.Outcome // outcomes of all calls
}

func newGuarded(t *testing.T, base http.RoundTripper, retries retry.Config, more ...pillion.Policy) *guarded {
	t.Helper()
	b, err := breaker.New(breaker.Config{Name: "upstream", Threshold: breaker.Never})
	if err != nil {
		t.Fatal(err)
	}
	g := &guarded{breaker: b, ends: make(chan policy.Outcome, 8)}
	retries.Rand = func() float64 { return 0 }
	policies := []pillion.Policy{
		timeout.Config{Total: 2 * time.Hour, PerTry: time.Hour},
		retries,
		limits.Config{MaxRequests: 1},
		b,
		pillion.Listener(func(_ context.Context, e policy.Event) {
			if e.Kind == policy.EventEnd {
				g.ends <- *e.Outcome
			}
		}),
	}
	u, err := pillion.New("upstream", append(policies, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	g.client = &http.Client{Transport: u.Transport(base)}
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
func (g *guarded) call(t *testing.T, method, url string, body io.Reader) (s seen) {
	t.Helper()
	ctx, info := pillion.WithInfo(t.Context())
	s.info = info
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := g.client.Do(req)
	if err == nil {
		s.status = resp.StatusCode
		var read []byte
		read, err = io.ReadAll(resp.Body)
		s.body = string(read)
		_ = resp.Body.Close()
	}
	s.err = err
	select { // no timeout in a synctest bubble, where it would fire
	case s.end = <-g.ends:
	case <-t.Context().Done():
	}
	return s
}

// unrepeatable returns a body that can be read only once.
func unrepeatable(text string) io.Reader { return io.MultiReader(strings.NewReader(text)) }

// h2failure is a failure of a stream or of its connection.
type h2failure struct {
	name    string
	act     func(s *stream)
	base    func(*http.Transport) // configures the transport, if not nil
	head    int
	flags   string
	detail  *envoy.Detail
	is      policy.Condition
	words   string
	timeout bool   // counts as a timeout and not as a failure
	unlike  string // why Envoy's result differs, if that cannot be avoided
}

func h2Failures() []h2failure {
	return []h2failure{
		{
			name: "RST_STREAM(INTERNAL_ERROR)", act: func(s *stream) { s.rst(http2.ErrCodeInternal) },
			flags: "URX,UR", detail: envoy.RemoteReset, is: policy.Reset, words: "INTERNAL_ERROR",
		},
		{
			name: "RST_STREAM(NO_ERROR)", act: func(s *stream) { s.rst(http2.ErrCodeNo) },
			flags: "URX,UR", detail: envoy.RemoteReset, is: policy.Reset, words: "NO_ERROR",
		},
		{
			name: "RST_STREAM(CANCEL)", act: func(s *stream) { s.rst(http2.ErrCodeCancel) },
			flags: "URX,UR", detail: envoy.RemoteReset, is: policy.Reset, words: "CANCEL",
		},
		{
			name: "RST_STREAM(ENHANCE_YOUR_CALM)", act: func(s *stream) { s.rst(http2.ErrCodeEnhanceYourCalm) },
			flags: "URX,UR", detail: envoy.RemoteReset, is: policy.Reset, words: "ENHANCE_YOUR_CALM",
		},
		{
			name: "RST_STREAM in the middle of the body",
			act: func(s *stream) {
				s.respond(false, ":status", "200")
				_ = s.framer.WriteData(s.id, false, []byte("part"))
				s.rst(http2.ErrCodeInternal)
			},
			head:  http.StatusOK,
			flags: "UR", detail: envoy.RemoteResetAfter, is: policy.Reset, words: "INTERNAL_ERROR",
		},
		{
			name: "the connection is closed before the response", act: func(s *stream) { fin(s.Conn) },
			flags: "URX,UC", detail: envoy.ConnectionTermination, is: policy.Reset, words: "EOF",
		},
		{
			name: "the connection is reset before the response", act: func(s *stream) { reset(s.Conn) },
			flags: "URX,UC", detail: envoy.ConnectionTermination, is: policy.Reset,
		},
		{
			name: "the connection is closed in the middle of the body",
			act: func(s *stream) {
				s.respond(false, ":status", "200")
				_ = s.framer.WriteData(s.id, false, []byte("part"))
				fin(s.Conn)
			},
			head:  http.StatusOK,
			flags: "UC", detail: envoy.ConnectionTerminationAfter, is: policy.Reset, words: "EOF",
		},
		{
			name: "GOAWAY for this stream, which is closed with its connection",
			act: func(s *stream) {
				_ = s.framer.WriteGoAway(s.id, http2.ErrCodeInternal, []byte("out of order"))
				fin(s.Conn)
			},
			flags: "URX,UC", detail: envoy.ConnectionTermination, is: policy.Reset, words: "GOAWAY",
		},
		{
			name: "a lost connection that a ping detects",
			act:  func(s *stream) { <-s.gone },
			base: func(b *http.Transport) {
				b.HTTP2 = &http.HTTP2Config{SendPingTimeout: short, PingTimeout: short}
			},
			flags: "URX,UC", detail: envoy.ConnectionTermination, is: policy.Reset, words: "connection lost",
		},
		{
			name: "the transport's timeout for response headers", act: func(*stream) {},
			base:  func(b *http.Transport) { b.ResponseHeaderTimeout = short },
			flags: "URX,UT", detail: envoy.PerTryTimeout, is: policy.Timeout | policy.PerTryTimeout, words: "timeout awaiting", timeout: true,
		},
		{
			name: "DATA on stream 0", act: func(s *stream) { _ = s.framer.WriteRawFrame(http2.FrameData, 0, 0, []byte("data")) },
			flags: "URX,UPE", detail: envoy.MalformedResponse, is: policy.ProtocolError, words: "PROTOCOL_ERROR",
		},
		{
			name: "headers that cannot be decompressed",
			act: func(s *stream) {
				_ = s.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: s.id, BlockFragment: []byte{0xff, 0xff, 0xff}, EndHeaders: true})
			},
			flags: "URX,UPE", detail: envoy.MalformedResponse, is: policy.ProtocolError, words: "COMPRESSION_ERROR",
		},
		{
			name: "headers larger than the client accepts",
			act: func(s *stream) {
				s.respond(true, ":status", "200", "x-filler", strings.Repeat("x", 8<<10))
			},
			base:  func(b *http.Transport) { b.MaxResponseHeaderBytes = 4 << 10 },
			flags: "URX,UPE", detail: envoy.MalformedResponse, is: policy.ProtocolError,
		},
		{
			name: "headers without a status", act: func(s *stream) { s.respond(true, "server", "test") },
			flags: "URX,UPE", detail: envoy.MalformedResponse, is: policy.ProtocolError, words: "missing status",
		},
		{
			name: "DATA before the headers", act: func(s *stream) { _ = s.framer.WriteData(s.id, true, []byte("data")) },
			flags: "URX,UPE", detail: envoy.MalformedResponse, is: policy.ProtocolError, words: "PROTOCOL_ERROR",
		},
		{
			name: "a body longer than its length",
			act: func(s *stream) {
				s.respond(false, ":status", "200", "content-length", "4")
				_ = s.framer.WriteData(s.id, true, []byte("too long"))
			},
			head:  http.StatusOK,
			flags: "UPE", detail: envoy.MalformedResponseAfter, is: policy.ProtocolError | policy.Reset, words: "more than declared Content-Length",
		},
		{
			name: "a body shorter than its length",
			act: func(s *stream) {
				s.respond(false, ":status", "200", "content-length", "100")
				_ = s.framer.WriteData(s.id, true, []byte("short"))
			},
			head:  http.StatusOK,
			flags: "UC", detail: envoy.ConnectionTerminationAfter, is: policy.Reset, words: "EOF",
			unlike: "Envoy reports UPE; net/http returns the same error as for a closed connection",
		},
		{
			name: "HTTP/1 to an HTTP/2 client", act: func(s *stream) { _, _ = io.WriteString(s.Conn, "HTTP/1.1 400 Bad Request\r\n\r\n") },
			flags: "URX,UPE", detail: envoy.MalformedResponse, is: policy.ProtocolError, words: "HTTP/1.1",
		},
	}
}

// TestHTTP2_failures checks that flags, details and conditions are those of Envoy.
func TestHTTP2_failures(t *testing.T) {
	for _, test := range h2Failures() {
		t.Run(test.name, func(t *testing.T) {
			wantNoLeaks(t)
			var script h2script
			server := serveScript(t, func(_ *scripted, conn net.Conn) { script.play(conn, test.act) })
			base := h2c()
			if test.base != nil {
				test.base(base)
			}
			g := newGuarded(t, base, retry.Config{NumRetries: retry.Never})
			s := g.call(t, http.MethodGet, "http://"+server.addr()+"/", nil)
			if s.status != test.head || s.err == nil || !strings.Contains(s.err.Error(), test.words) {
				t.Errorf("got status %d, %v, want %d and an error with %q", s.status, s.err, test.head, test.words)
			}
			if got := s.end.Flags.String(); got != test.flags || s.end.Detail != test.detail || s.end.Conditions != test.is {
				t.Errorf("got %b %s %q, want %b %s %q", s.end.Conditions, got, s.end.Detail, test.is, test.flags, test.detail)
			}
			want := breaker.Status{Failure: 1}
			if test.timeout {
				want = breaker.Status{Timeout: 1}
			}
			if got := g.breaker.Status(); got != want {
				t.Errorf("breaker: got %+v, want %+v", got, want)
			}
			if got := script.requests.Load(); got != 1 {
				t.Errorf("requests that the server received: got %d, want 1", got)
			}
		})
	}
}

// TestHTTP2_reset resets a stream once. "reset" retries it; "refused-stream" does so only
// if the server refused it. By itself net/http would resend a refused request without a
// body: a retry policy prevents that, because only the policy decides.
func TestHTTP2_reset(t *testing.T) {
	tests := []struct {
		name     string
		on       string
		code     http2.ErrCode
		status   int
		attempts int
		requests int64
	}{
		{"INTERNAL_ERROR, reset", "reset", http2.ErrCodeInternal, http.StatusOK, 2, 2},
		{"INTERNAL_ERROR, refused-stream", "refused-stream", http2.ErrCodeInternal, 0, 1, 1},
		{"INTERNAL_ERROR, connect-failure", "connect-failure", http2.ErrCodeInternal, 0, 1, 1},
		{"PROTOCOL_ERROR, connect-failure", "connect-failure", http2.ErrCodeProtocol, 0, 1, 1},
		{"REFUSED_STREAM, connect-failure", "connect-failure", http2.ErrCodeRefusedStream, 0, 1, 1},
		{"REFUSED_STREAM, refused-stream", "refused-stream", http2.ErrCodeRefusedStream, http.StatusOK, 2, 2},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			wantNoLeaks(t)
			var script h2script
			server := serveScript(t, func(_ *scripted, conn net.Conn) {
				script.play(conn, func(s *stream) {
					if s.n == 1 {
						s.rst(test.code)
						return
					}
					s.ok("ok")
				})
			})
			g := newGuarded(t, h2c(), retry.Config{On: test.on})
			s := g.call(t, http.MethodGet, "http://"+server.addr()+"/", nil)
			if s.status != test.status || s.info.Attempts() != test.attempts || script.requests.Load() != test.requests {
				t.Errorf("got %d, %v in %d attempts with %d requests, want %d in %d with %d",
					s.status, s.err, s.info.Attempts(), script.requests.Load(), test.status, test.attempts, test.requests)
			}
		})
	}
}

// TestHTTP2_refusedStream has a server refuse streams: each is one attempt, and net/http
// does not pause.
func TestHTTP2_refusedStream(t *testing.T) {
	tests := []struct {
		name     string
		on       string // empty disables retries
		refused  int64  // how often
		status   int
		attempts int
		flags    string
		detail   *envoy.Detail
		is       policy.Condition
	}{
		{
			"not retried", "", 1000, 0, 1,
			"URX,UR", envoy.RemoteRefusedStream, policy.Reset | policy.RefusedStream,
		},
		{
			"used up", "refused-stream", 1000, 0, 2,
			"URX,UR", envoy.RemoteRefusedStream, policy.Reset | policy.RefusedStream,
		},
		{"retried by refused-stream", "refused-stream", 1, http.StatusOK, 2, "-", envoy.ViaUpstream, 0},
		{"retried by reset", "reset", 1, http.StatusOK, 2, "-", envoy.ViaUpstream, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var script h2script
				base := h2c()
				base.DialContext = func(context.Context, string, string) (net.Conn, error) {
					client, server := net.Pipe()
					go func() {
						defer server.Close()
						script.play(server, func(s *stream) {
							if s.n <= test.refused {
								s.rst(http2.ErrCodeRefusedStream)
								return
							}
							s.ok("ok")
						})
					}()
					return client, nil
				}
				retries := retry.Config{On: test.on, BaseInterval: time.Millisecond}
				if test.on == "" {
					retries.NumRetries = retry.Never
				}
				g := newGuarded(t, base, retries)
				s := g.call(t, http.MethodGet, "http://upstream.test/", nil)
				synctest.Wait() // wait until the connection is idle, because net/http closes only idle ones
				if s.status != test.status || s.info.Attempts() != test.attempts {
					t.Errorf("got %d, %v after %d attempts, want %d after %d", s.status, s.err, s.info.Attempts(), test.status, test.attempts)
				}
				if got := s.end.Flags.String(); got != test.flags || s.end.Detail != test.detail || s.end.Conditions != test.is {
					t.Errorf("got %b %s %q, want %b %s %q", s.end.Conditions, got, s.end.Detail, test.is, test.flags, test.detail)
				}
			})
		})
	}
}

// TestHTTP2_refusedUpload refuses a stream whose body net/http cannot read again: net/http
// returns immediately, with an error that has lost its type. With a replay buffer the
// library can retry it.
func TestHTTP2_refusedUpload(t *testing.T) {
	tests := []struct {
		name   string
		buffer int64
		status int
	}{
		{"without a buffer", 0, 0},
		{"with a buffer", 1 << 10, http.StatusOK},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			wantNoLeaks(t)
			var script h2script
			server := serveScript(t, func(_ *scripted, conn net.Conn) {
				script.play(conn, func(s *stream) {
					if s.n == 1 {
						s.rst(http2.ErrCodeRefusedStream)
						return
					}
					s.ok("ok")
				})
			})
			g := newGuarded(t, h2c(), retry.Config{On: "refused-stream"}, pillion.Options{ReplayBuffer: test.buffer})
			s := g.call(t, http.MethodPut, "http://"+server.addr()+"/", unrepeatable("order"))
			if s.status != test.status {
				t.Errorf("got %d, %v, want %d", s.status, s.err, test.status)
			}
			if want := policy.Reset | policy.RefusedStream; test.status == 0 && (s.end.Conditions != want || s.end.Flags != envoy.UR) {
				t.Errorf("got %b %v %q, want %b UR %q", s.end.Conditions, s.end.Flags, s.end.Detail, want, envoy.RemoteRefusedStream)
			}
		})
	}
}

// TestHTTP2_goAway has a server send GOAWAY before it processed the request. The retry
// policy decides whether the request is sent on another connection.
func TestHTTP2_goAway(t *testing.T) {
	tests := []struct {
		name     string
		retries  retry.Config
		status   int
		body     string
		requests int64
	}{
		{"retried", retry.Config{On: "refused-stream"}, http.StatusOK, "ok", 2},
		{"never retried", retry.Config{NumRetries: retry.Never}, 0, "", 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			wantNoLeaks(t)
			var script h2script
			server := serveScript(t, func(_ *scripted, conn net.Conn) {
				script.play(conn, func(s *stream) {
					if s.n == 1 {
						_ = s.framer.WriteGoAway(0, http2.ErrCodeNo, nil)
						return
					}
					s.ok("ok")
				})
			})
			g := newGuarded(t, h2c(), test.retries)
			s := g.call(t, http.MethodGet, "http://"+server.addr()+"/", nil)
			if s.status != test.status || s.body != test.body || script.requests.Load() != test.requests {
				t.Errorf("got %d %q, %v with %d requests, want %d %q with %d",
					s.status, s.body, s.err, script.requests.Load(), test.status, test.body, test.requests)
			}
			if got := s.info.Attempts(); int64(got) != test.requests {
				t.Errorf("attempts: got %d, want %d", got, test.requests)
			}
		})
	}
}

// TestHTTP2_earlyResponse has a server respond before it has received the whole request,
// and end the stream with RST_STREAM(NO_ERROR). This is a complete response (RFC 9113,
// section 8.1).
func TestHTTP2_earlyResponse(t *testing.T) {
	wantNoLeaks(t)
	var script h2script
	server := serveScript(t, func(_ *scripted, conn net.Conn) {
		script.play(conn, func(s *stream) {
			s.respond(false, ":status", "413")
			_ = s.framer.WriteData(s.id, true, []byte("too much"))
			s.rst(http2.ErrCodeNo)
		})
	})
	g := newGuarded(t, h2c(), retry.Config{NumRetries: retry.Never})
	body := &endlessBody{}
	s := g.call(t, http.MethodPut, "http://"+server.addr()+"/", body)
	if s.err != nil || s.status != http.StatusRequestEntityTooLarge || s.body != "too much" || s.end.Conditions != 0 {
		t.Errorf("got %d %q, %v, condition %b, want 413 %q", s.status, s.body, s.err, s.end.Conditions, "too much")
	}
	if got, want := g.breaker.Status(), (breaker.Status{Success: 1}); got != want {
		t.Errorf("breaker: got %+v, want %+v", got, want)
	}
}

// endlessBody is a body that returns data until it is closed.
type endlessBody struct{ closed atomic.Bool }

func (b *endlessBody) Read(p []byte) (int, error) {
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	return copy(p, "and on and on "), nil
}

func (b *endlessBody) Close() error {
	b.closed.Store(true)
	return nil
}

// TestHTTP2_resetAfterTheEnd counts RST_STREAM frames for responses that were read to their
// end before the attempt's context is canceled. Servers treat many of them as an attack
// (CVE-2023-44487).
func TestHTTP2_resetAfterTheEnd(t *testing.T) {
	wantNoLeaks(t)
	var script h2script
	server := serveScript(t, func(_ *scripted, conn net.Conn) {
		script.play(conn, func(s *stream) { s.ok("ok") })
	})
	g := newGuarded(t, h2c(), retry.Config{})
	for range 500 {
		if s := g.call(t, http.MethodGet, "http://"+server.addr()+"/", nil); s.body != "ok" {
			t.Fatalf("got %q, %v, want %q", s.body, s.err, "ok")
		}
	}
	if got := script.resets.Load(); got != 0 {
		t.Errorf("RST_STREAM frames after 500 complete responses: got %d, want none", got)
	}
}

// TestHTTP2_invalid sends requests that HTTP/2 does not allow: they do not count against
// the upstream.
func TestHTTP2_invalid(t *testing.T) {
	tests := []struct{ name, header, value, words string }{
		{"Upgrade", "Upgrade", "shout", "invalid Upgrade request header"},
		{"Transfer-Encoding", "Transfer-Encoding", "morse", "invalid Transfer-Encoding request header"},
		{"Connection", "Connection", "shout", "invalid Connection request header"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			wantNoLeaks(t)
			var script h2script
			server := serveScript(t, func(_ *scripted, conn net.Conn) {
				script.play(conn, func(s *stream) { s.ok("ok") })
			})
			g := newGuarded(t, withHeader{h2c(), test.header, test.value}, retry.Config{NumRetries: retry.Never})
			s := g.call(t, http.MethodGet, "http://"+server.addr()+"/", nil)
			if s.err == nil || !strings.Contains(s.err.Error(), test.words) {
				t.Errorf("got %d, %v, want an error with %q", s.status, s.err, test.words)
			}
			if s.end.Conditions != policy.Invalid || s.end.Flags != 0 {
				t.Errorf("got %b %v, want %b and no flags", s.end.Conditions, s.end.Flags, policy.Invalid)
			}
			if got := g.breaker.Status(); got != (breaker.Status{}) {
				t.Errorf("breaker: got %+v, want nothing counted", got)
			}
		})
	}
}

// withHeader adds a header to each request.
type withHeader struct {
	*http.Transport
	name, value string
}

func (h withHeader) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set(h.name, h.value)
	return h.Transport.RoundTrip(req)
}

// TestHTTP2_otherTransport uses the transport of x/net as base: its stream errors have an
// exported type, which must be recognized too.
func TestHTTP2_otherTransport(t *testing.T) {
	wantNoLeaks(t)
	var script h2script
	server := serveScript(t, func(_ *scripted, conn net.Conn) {
		script.play(conn, func(s *stream) { s.rst(http2.ErrCodeInternal) })
	})
	base := &http2.Transport{ //nolint:staticcheck // deprecated, but widely used
		AllowHTTP: true, //nolint:staticcheck // as above
		//nolint:staticcheck // as above
		DialTLSContext: func(ctx context.Context, network, address string, _ *tls.Config) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, address)
		},
	}
	g := newGuarded(t, base, retry.Config{NumRetries: retry.Never})
	s := g.call(t, http.MethodGet, "http://"+server.addr()+"/", nil)
	if s.end.Flags.String() != "URX,UR" || s.end.Detail != envoy.RemoteReset {
		t.Errorf("got %v %q, %v, want URX,UR %q", s.end.Flags, s.end.Detail, s.err, envoy.RemoteReset)
	}
}
