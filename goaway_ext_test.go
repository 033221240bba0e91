package pillion_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// framed is an HTTP/2 server's side of one stream, after the complete request.
type framed struct {
	*http2.Framer
	*peer
	stream uint32
	n      int64 // the number of the request, from 1
}

// respond sends a response without a body.
func (f *framed) respond(status string) {
	var block strings.Builder
	_ = hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: status})
	_ = f.WriteHeaders(http2.HeadersFrameParam{
		StreamID: f.stream, BlockFragment: []byte(block.String()), EndHeaders: true, EndStream: status[0] != '1',
	})
}

// frames uses HTTP/2, and calls serve for each request. It forgets streams that the client resets.
func frames(requests *atomic.Int64, serve func(f *framed)) step {
	return func(p *peer) {
		if _, err := io.ReadFull(p.read, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		f := http2.NewFramer(p.Conn, p.read)
		_ = f.WriteSettings()
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			ended := false
			switch frame := frame.(type) {
			case *http2.SettingsFrame:
				if !frame.IsAck() {
					_ = f.WriteSettingsAck()
				}
			case *http2.PingFrame:
				_ = f.WritePing(true, frame.Data)
			case *http2.HeadersFrame:
				ended = frame.StreamEnded()
			case *http2.DataFrame:
				ended = frame.StreamEnded()
			}
			if ended {
				serve(&framed{f, p, frame.Header().StreamID, requests.Add(1)})
			}
		}
	}
}

// unencryptedHTTP2 returns a transport that uses HTTP/2 without TLS.
func unencryptedHTTP2() *http.Transport {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	return &http.Transport{Protocols: &protocols}
}

// http2Base is a way to use HTTP/2.
type http2Base struct {
	secured bool
	build   func() http.RoundTripper
}

func http2Bases() map[string]http2Base {
	secured := func() http.RoundTripper {
		return &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	}
	return map[string]http2Base{
		"h2c":          {false, func() http.RoundTripper { return unencryptedHTTP2() }},
		"TLS":          {true, secured},
		"TLS, wrapped": {true, func() http.RoundTripper { return wrapped(secured()) }},
		"x/net": {false, func() http.RoundTripper {
			//nolint:staticcheck // programs use it
			return &http2.Transport{AllowHTTP: true, DialTLSContext: func(ctx context.Context, network, address string, _ *tls.Config) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, network, address)
			}}
		}},
	}
}

// serve starts a server, and returns a client's transport to it.
func (b http2Base) serve(t *testing.T, serve func(f *framed)) (url string, base http.RoundTripper, requests *atomic.Int64) {
	t.Helper()
	requests = new(atomic.Int64)
	over := make(chan struct{})
	steps := part{func(p *peer) { go func() { <-over; _ = p.raw.Close() }() }, frames(requests, serve)}
	if b.secured {
		config := &tls.Config{Certificates: []tls.Certificate{testCertificate(t)}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}
		url = "https://" + serveScriptTLS(t, config, steps).addr() + "/"
	} else {
		url = "http://" + serveScript(t, steps).addr() + "/"
	}
	t.Cleanup(func() { close(over) }) // net/http keeps a connection whose stream has only just ended
	return url, b.build(), requests
}

// orders are requests with all kinds of bodies.
func orders() map[string]func(t *testing.T, url string) *http.Request {
	return map[string]func(t *testing.T, url string) *http.Request{
		"GET": func(t *testing.T, url string) *http.Request {
			t.Helper()
			return newRequest(t, http.MethodGet, url, nil)
		},
		"POST in memory": func(t *testing.T, url string) *http.Request {
			t.Helper()
			return newRequest(t, http.MethodPost, url, strings.NewReader("order"))
		},
		"POST with GetBody": func(t *testing.T, url string) *http.Request {
			t.Helper()
			req := newRequest(t, http.MethodPost, url, &callersBody{Reader: strings.NewReader("order")})
			req.GetBody = func() (io.ReadCloser, error) { return &callersBody{Reader: strings.NewReader("order")}, nil }
			return req
		},
		"POST that is kept": func(t *testing.T, url string) *http.Request {
			t.Helper()
			return newRequest(t, http.MethodPost, url, &callersBody{Reader: strings.NewReader("order")})
		},
	}
}

// refusals are the ways in which a server reports that it has not processed a stream.
func refusals() map[string]func(f *framed) {
	all := map[string]func(f *framed){
		"REFUSED_STREAM": func(f *framed) { _ = f.WriteRSTStream(f.stream, http2.ErrCodeRefusedStream) },
		"GOAWAY and the end": func(f *framed) {
			_ = f.WriteGoAway(0, http2.ErrCodeNo, nil)
			fin(f.peer)
		},
	}
	for code := http2.ErrCodeNo; code <= http2.ErrCodeHTTP11Required; code++ {
		all["GOAWAY "+code.String()] = func(f *framed) { _ = f.WriteGoAway(0, code, []byte("debug data")) }
	}
	return all
}

// TestGoAway_refused refuses the first stream: the retry policy receives a refused stream and
// decides.
func TestGoAway_refused(t *testing.T) {
	silenceLog(t)
	for refusal, refuse := range refusals() {
		for name, order := range orders() {
			for kind, b := range http2Bases() {
				t.Run(strings.Join([]string{refusal, name, kind}, ", "), func(t *testing.T) {
					wantNoLeaks(t)
					url, base, requests := b.serve(t, func(f *framed) {
						if f.n == 1 {
							refuse(f)
						} else {
							f.respond("200")
						}
					})
					l := newLedger(t)
					rt := l.upstream(t, pillion.Options{ReplayBuffer: 100}, timeout.Config{Total: patience},
						retry.Config{On: "refused-stream", BaseInterval: time.Millisecond}).Transport(base)
					resp, err := rt.RoundTrip(order(t, url))
					if err != nil {
						t.Fatalf("got %v after %d requests, want 200 after 2: %+v", err, requests.Load(), l.last(t))
					}
					_ = resp.Body.Close()
					first := l.attempts[0]
					if !first.Has(policy.RefusedStream) || first.Detail != envoy.RemoteRefusedStream || first.Flags != envoy.UR || first.unconnected {
						t.Errorf("got %v %v %v, want refused-stream UR remote_refused_stream_reset", first.Conditions, first.Flags, first.Detail)
					}
					if requests.Load() != 2 {
						t.Errorf("got %d requests, want 2", requests.Load())
					}
					l.wantBalanced(t, 1, 2)
					l.wantCounted(t, breaker.Status{Success: 1, Failure: 1})
				})
			}
		}
	}
}

// TestGoAway_notRetried pins that the attempt ends with the first refusal if no policy retries
// refused streams, and that net/http does not resend the request.
func TestGoAway_notRetried(t *testing.T) {
	for name, order := range orders() {
		for kind, b := range http2Bases() {
			t.Run(name+", "+kind, func(t *testing.T) {
				wantNoLeaks(t)
				url, base, requests := b.serve(t, func(f *framed) { _ = f.WriteRSTStream(f.stream, http2.ErrCodeRefusedStream) })
				l := newLedger(t)
				_, err := l.upstream(t, pillion.Options{ReplayBuffer: 100}, retry.Config{On: "connect-failure"}).Transport(base).RoundTrip(order(t, url))
				if end := l.last(t); err == nil || !end.Has(policy.RefusedStream) || requests.Load() != 1 {
					t.Errorf("got %v, %v after %d requests, want a refused stream after 1", end.Conditions, err, requests.Load())
				}
				l.wantBalanced(t, 1, 1)
			})
		}
	}
}

// TestGoAway_withoutRetry pins that net/http resends what it can if no policy retries, and that
// this is one attempt.
func TestGoAway_withoutRetry(t *testing.T) {
	for name, order := range orders() {
		for kind, b := range http2Bases() {
			t.Run(name+", "+kind, func(t *testing.T) {
				wantNoLeaks(t)
				url, base, requests := b.serve(t, func(f *framed) {
					if f.n == 1 {
						_ = f.WriteRSTStream(f.stream, http2.ErrCodeRefusedStream)
					} else {
						f.respond("200")
					}
				})
				l := newLedger(t)
				resp, err := l.upstream(t, timeout.Config{Total: patience}).Transport(base).RoundTrip(order(t, url))
				if name == "POST that is kept" { // net/http cannot read its body again
					if end := l.last(t); err == nil || !end.Has(policy.RefusedStream) {
						t.Errorf("got %v, %v, want a refused stream", end.Conditions, err)
					}
				} else if err != nil || resp.StatusCode != http.StatusOK || requests.Load() != 2 {
					t.Errorf("got %v, %v after %d requests, want 200 after 2", resp, err, requests.Load())
				}
				if err == nil {
					_ = resp.Body.Close()
				}
				l.wantBalanced(t, 1, 1)
			})
		}
	}
}

// TestGoAway_processed ends a stream that the server may have processed: it is no refused stream,
// so a POST is not retried.
func TestGoAway_processed(t *testing.T) {
	silenceLog(t)
	tests := map[string]struct {
		serve  func(f *framed)
		is     policy.Condition
		detail *envoy.Detail
	}{
		"GOAWAY and the end": {func(f *framed) {
			_ = f.WriteGoAway(f.stream, http2.ErrCodeInternal, nil)
			fin(f.peer)
		}, policy.Reset, envoy.ConnectionTermination},
		"GOAWAY for a later one and the end": {func(f *framed) {
			_ = f.WriteGoAway(f.stream+100, http2.ErrCodeNo, nil)
			fin(f.peer)
		}, policy.Reset, envoy.ConnectionTermination},
		"the end":   {func(f *framed) { fin(f.peer) }, policy.Reset, envoy.ConnectionTermination},
		"a reset":   {func(f *framed) { reset(f.peer) }, policy.Reset, envoy.ConnectionTermination},
		"CANCEL":    {func(f *framed) { _ = f.WriteRSTStream(f.stream, http2.ErrCodeCancel) }, policy.Reset, envoy.RemoteReset},
		"INTERNAL":  {func(f *framed) { _ = f.WriteRSTStream(f.stream, http2.ErrCodeInternal) }, policy.Reset, envoy.RemoteReset},
		"ENHANCE":   {func(f *framed) { _ = f.WriteRSTStream(f.stream, http2.ErrCodeEnhanceYourCalm) }, policy.Reset, envoy.RemoteReset},
		"HTTP_1_1":  {func(f *framed) { _ = f.WriteRSTStream(f.stream, http2.ErrCodeHTTP11Required) }, policy.Reset, envoy.RemoteReset},
		"malformed": {func(f *framed) { f.respond("abc") }, policy.ProtocolError, envoy.MalformedResponse},
	}
	for what, test := range tests {
		for name, order := range orders() {
			for kind, b := range http2Bases() {
				t.Run(strings.Join([]string{what, name, kind}, ", "), func(t *testing.T) {
					wantNoLeaks(t)
					url, base, requests := b.serve(t, test.serve)
					l := newLedger(t)
					_, err := l.upstream(t, pillion.Options{ReplayBuffer: 100}, timeout.Config{Total: patience},
						retry.Config{On: "refused-stream,connect-failure"}).Transport(base).RoundTrip(order(t, url))
					end := l.last(t)
					if err == nil || end.Conditions != test.is || end.Detail != test.detail || requests.Load() != 1 {
						t.Errorf("got %v %v after %d requests, want %v %v after 1: %v", end.Conditions, end.Detail, requests.Load(), test.is, test.detail, err)
					}
					l.wantBalanced(t, 1, 1)
				})
			}
		}
	}
}

// TestGoAway_protocolError resets a stream with PROTOCOL_ERROR. If net/http would resend the
// request, it cannot be distinguished from a refused stream; otherwise it is a protocol error.
func TestGoAway_protocolError(t *testing.T) {
	for name, order := range orders() {
		t.Run(name, func(t *testing.T) {
			wantNoLeaks(t)
			url, base, requests := http2Bases()["h2c"].serve(t, func(f *framed) { _ = f.WriteRSTStream(f.stream, http2.ErrCodeProtocol) })
			l := newLedger(t)
			_, err := l.upstream(t, pillion.Options{ReplayBuffer: 100}, retry.Config{NumRetries: retry.Never}).Transport(base).RoundTrip(order(t, url))
			want := envoy.RemoteRefusedStream
			if name == "POST that is kept" {
				want = envoy.MalformedResponse
			}
			if end := l.last(t); err == nil || end.Detail != want || requests.Load() != 1 {
				t.Errorf("got %v after %d requests, want %v after 1: %v", end.Detail, requests.Load(), want, err)
			}
		})
	}
}

// TestGoAway_severalRequests sends two requests in one attempt, as for an authentication challenge:
// the second does not count as resent.
func TestGoAway_severalRequests(t *testing.T) {
	for kind, b := range http2Bases() {
		t.Run(kind, func(t *testing.T) {
			wantNoLeaks(t)
			url, base, requests := b.serve(t, func(f *framed) { f.respond(map[bool]string{true: "401", false: "200"}[f.n == 1]) })
			l := newLedger(t)
			resp, err := l.upstream(t, quick(2)).Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
				resp, err := base.RoundTrip(req)
				if err == nil && resp.StatusCode == http.StatusUnauthorized {
					_ = resp.Body.Close()
					return base.RoundTrip(req)
				}
				return resp, err
			})).RoundTrip(newRequest(t, http.MethodGet, url, nil))
			if err != nil || resp.StatusCode != http.StatusOK || requests.Load() != 2 {
				t.Fatalf("got %v, %v after %d requests, want 200 after 2", resp, err, requests.Load())
			}
			_ = resp.Body.Close()
			l.wantBalanced(t, 1, 1)
		})
	}
}

// TestGoAway_dialThatAsks makes another request in a transport's dial function, with the context
// that it receives, as service discovery does: the requests are not confused.
func TestGoAway_dialThatAsks(t *testing.T) {
	wantNoLeaks(t)
	url, _, requests := http2Bases()["h2c"].serve(t, func(f *framed) { f.respond("200") })
	registry, inner, asked := http2Bases()["h2c"].serve(t, func(f *framed) { f.respond("204") })
	base := unencryptedHTTP2()
	base.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, registry, nil)
		if err != nil {
			return nil, err
		}
		resp, err := inner.RoundTrip(req)
		if err != nil {
			return nil, err
		}
		_ = resp.Body.Close()
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}
	l := newLedger(t)
	resp, err := l.upstream(t, timeout.Config{Total: patience}, quick(2)).Transport(base).RoundTrip(newRequest(t, http.MethodPost, url, strings.NewReader("order")))
	if err != nil || requests.Load() != 1 || asked.Load() != 1 {
		t.Fatalf("got %v after %d requests and %d to the registry, want one each", err, requests.Load(), asked.Load())
	}
	_ = resp.Body.Close()
	l.wantBalanced(t, 1, 1)
}

// securedConn is a connection that uses HTTP/2.
type securedConn struct{ net.Conn }

func (securedConn) ConnectionState() tls.ConnectionState {
	return tls.ConnectionState{NegotiatedProtocol: "h2"}
}

// TestGoAway_lateUse calls the hooks of an attempt that has ended, in a round tripper that is not
// an http.Transport: that changes no later attempt.
func TestGoAway_lateUse(t *testing.T) {
	var traces []*httptrace.ClientTrace
	conn := httptrace.GotConnInfo{Conn: securedConn{}}
	l := newLedger(t)
	failing := false
	u := l.upstream(t, timeout.Config{Total: patience, PerTry: patience / 2}, retry.Config{On: "connect-failure,refused-stream"})
	rt := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
		for _, trace := range traces {
			trace.GotConn(conn)
			trace.WroteHeaders()
			trace.GetConn("recipes.test:80")
		}
		trace := httptrace.ContextClientTrace(req.Context())
		trace.GetConn("recipes.test:80")
		trace.GotConn(conn)
		trace.WroteHeaders()
		traces = append(traces, trace)
		if failing {
			return nil, errors.New("broken, somehow")
		}
		return answer(http.StatusOK, "soup"), nil
	}))
	for range 20 {
		warm(t, rt, "http://recipes.test/")
	}
	failing = true
	_, err := rt.RoundTrip(newRequest(t, http.MethodPost, "http://recipes.test/", strings.NewReader("order")))
	if end := l.last(t); err == nil || end.Conditions != policy.Reset || end.unconnected {
		t.Errorf("got %v, unconnected %v, %v, want a reset", end.Conditions, end.unconnected, err)
	}
	l.wantBalanced(t, 21, 21)
	for i, trace := range traces[:20] {
		if trace == traces[20] {
			t.Errorf("the last attempt has the trace of attempt %d", i+1)
		}
	}
}
