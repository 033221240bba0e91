package pillion_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/timeout"
)

// TestLocalReply_grpc pins Envoy's local reply to gRPC calls: a gRPC status in a 200 with only
// headers.
func TestLocalReply_grpc(t *testing.T) {
	const reset = "upstream connect error or disconnect/reset before headers. reset reason: "
	tests := map[*envoy.Detail]struct {
		status     int
		message    string
		overloaded bool
	}{
		envoy.ConnectionRefused:     {14, reset + "remote connection failure", false},
		envoy.ConnectionTermination: {14, reset + "connection termination", false},
		envoy.MalformedResponse:     {14, reset + "protocol error", false},
		envoy.ResponseTimeout:       {14, "upstream request timeout", false},
		envoy.PerTryTimeout:         {14, "upstream request timeout", false},
		envoy.NoHealthyUpstream:     {14, "no healthy upstream", false},
		limits.Overflow:             {14, reset + "overflow", true},
		breaker.CircuitOpen:         {14, reset + "overflow", true},
	}
	for detail, want := range tests {
		for contentType, grpc := range map[string]bool{
			"application/grpc": true, "application/grpc+proto": true, "application/grpc+json": true,
			"application/grpc-web": false, "application/grpc-web+proto": false, "application/json": false, "": false,
		} {
			t.Run(detail.String()+", "+contentType, func(t *testing.T) {
				req := newRequest(t, http.MethodPost, "http://recipes.test/kitchen.v1.Cook/Get", strings.NewReader("\x00\x00\x00\x00\x00"))
				req.Header.Set("Content-Type", contentType)
				resp, err := newUpstream(t, pillion.Options{LocalReplies: true}, around(func(_ context.Context, c *policy.Call, _ policy.Func) *policy.Outcome {
					return c.Refuse(errBroken, detail)
				})).Transport(nil).RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Error(err)
				}
				_ = resp.Body.Close()
				if !grpc {
					if resp.StatusCode == http.StatusOK || resp.Header.Get("Content-Type") != "text/plain" || len(body) == 0 {
						t.Errorf("got %s %v %q, want a plain local reply", resp.Status, resp.Header, body)
					}
					return
				}
				header := http.Header{"Content-Type": {"application/grpc"}, "Grpc-Status": {strconv.Itoa(want.status)}, "Grpc-Message": {want.message}}
				if want.overloaded {
					header.Set("X-Envoy-Overloaded", "true")
				}
				if diff := cmp.Diff(header, resp.Header); diff != "" {
					t.Errorf("header (-want +got):\n%s", diff)
				}
				if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 || len(body) != 0 || resp.ContentLength != 0 {
					t.Errorf("got %s %s %q, want an HTTP/2 200 without a body", resp.Proto, resp.Status, body)
				}
			})
		}
	}
}

// TestLocalReplies_head pins that the reply to HEAD has no grpc-message, as in Envoy.
func TestLocalReplies_head(t *testing.T) {
	req := newRequest(t, http.MethodHead, "http://recipes.test/kitchen.v1.Cook/Get", nil)
	req.Header.Set("Content-Type", "application/grpc")
	resp, err := newUpstream(t, pillion.Options{LocalReplies: true}, around(func(_ context.Context, c *policy.Call, _ policy.Func) *policy.Outcome {
		return c.Refuse(errBroken, limits.Overflow)
	})).Transport(nil).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if got, there := resp.Header["Grpc-Message"]; there || resp.Header.Get("Grpc-Status") != "14" {
		t.Errorf("got status %q, message %q, want 14 and none", resp.Header.Get("Grpc-Status"), got)
	}
}

// tunnel is a proxy that sends back what it receives.
func tunnel(p *peer) {
	if _, err := http.ReadRequest(p.read); err != nil {
		return
	}
	_, _ = io.WriteString(p.Conn, "HTTP/1.1 200 OK\r\n\r\n")
	_, _ = io.Copy(p.Conn, p.read)
}

// TestTunnel makes a successful CONNECT: then the connection belongs to the caller, and no limit
// applies.
func TestTunnel(t *testing.T) {
	for name, policies := range map[string][]pillion.Policy{
		"no policies": nil,
		"limits":      {timeout.Config{Total: 4 * short, PerTry: 3 * short, Idle: 2 * short}, limits.Config{MaxRequests: 1}},
		"all":         {timeout.Config{Total: 4 * short, PerTry: 3 * short, Idle: 2 * short}, quick(1), limits.Config{MaxRequests: 1}},
		"buffer":      {pillion.Options{ReplayBuffer: 2}, timeout.Config{Total: 4 * short}, quick(1), limits.Config{MaxRequests: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLedger(t)
				base := &http.Transport{DialContext: dialScript(t, part{tunnel})}
				defer base.CloseIdleConnections()
				rt := l.upstream(t, policies...).Transport(base)
				for n := 1; n <= 2; n++ {
					pr, pw := io.Pipe()
					resp, err := rt.RoundTrip(newRequest(t, http.MethodConnect, "http://recipes.test", pr))
					if err != nil {
						t.Fatal(err)
					}
					for i := range 2 {
						if i == 1 {
							time.Sleep(8 * short) // all limits must have passed: that is the test
						}
						if _, err := io.WriteString(pw, "hello"); err != nil {
							t.Fatal(err)
						}
						if _, err := io.ReadFull(resp.Body, make([]byte, 5)); err != nil {
							t.Fatalf("part %d: %v", i+1, err)
						}
					}
					_ = pw.Close()
					_ = resp.Body.Close()
					l.wantBalanced(t, n, n)
				}
				l.wantCounted(t, breaker.Status{Success: 2})
			})
		})
	}
}

// TestTunnel_refused makes a CONNECT that is refused or times out: the result is a response or a
// timeout, as for other methods.
func TestTunnel_refused(t *testing.T) {
	connect := func(t *testing.T, steps part) (*http.Response, error) {
		t.Helper()
		base := &http.Transport{DialContext: dialScript(t, steps)}
		t.Cleanup(base.CloseIdleConnections)
		l := newLedger(t)
		t.Cleanup(func() { l.wantBalanced(t, 1, 1) })
		return l.upstream(t, timeout.Config{Total: 2 * short}).Transport(base).RoundTrip(newRequest(t, http.MethodConnect, "http://recipes.test", nil))
	}
	synctest.Test(t, func(t *testing.T) {
		resp, err := connect(t, part{requestHead, say("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 100\r\n\r\npart")})
		if err != nil {
			t.Fatal(err)
		}
		if _, err = io.ReadAll(resp.Body); scopeOf(err) != policy.ScopeTotal || resp.StatusCode != http.StatusProxyAuthRequired {
			t.Errorf("got status %d, %v, want 407 and the total limit", resp.StatusCode, err)
		}
		_ = resp.Body.Close()
	})
	synctest.Test(t, func(t *testing.T) {
		if _, err := connect(t, part{requestHead}); scopeOf(err) != policy.ScopeTotal {
			t.Errorf("got %v, want the total limit", err)
		}
	})
}

// TestRequestCancel closes the request's deprecated Cancel in each phase of a call: the call ends,
// and no goroutine is left.
func TestRequestCancel(t *testing.T) {
	for _, test := range phases() {
		t.Run(test.name, func(t *testing.T) {
			wantNoLeaks(t)
			reached, scheduled := make(chan struct{}), make(chan struct{}, 1)
			w := test.world(t, reached)
			l := newLedger(t)
			hear := pillion.Listener(func(_ context.Context, e policy.Event) {
				if e.Kind == policy.EventRetryScheduled {
					scheduled <- struct{}{}
				}
			})
			rt := l.upstream(t, hear, timeout.Config{Total: 3 * patience}, test.http, test.retry).Transport(w.base)
			defer w.base.CloseIdleConnections()
			stop := make(chan struct{})
			go func() {
				<-reached
				if test.again {
					<-scheduled
				}
				if !test.head {
					close(stop)
				}
			}()
			req := newRequest(t, http.MethodGet, w.url, nil)
			req.Cancel = stop //nolint:staticcheck // callers still use it
			resp, err := rt.RoundTrip(req)
			if err == nil {
				if !test.head || resp.Request != req {
					t.Errorf("got status %d for %p, want no response, or one for the caller's request", resp.StatusCode, resp.Request)
				}
				close(stop)
				_, err = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
			if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "the request's Cancel was closed") {
				t.Errorf("got %v, want context.Canceled and why", err)
			}
			l.await(t, 1)
			l.wantBalanced(t, 1, 1)
		})
	}
}

// TestRequestCancel_unused makes requests with a Cancel that is never closed: nothing is left over
// however the call ends, and local replies are sent.
func TestRequestCancel_unused(t *testing.T) {
	with := func(t *testing.T, url string) *http.Request {
		t.Helper()
		req := newRequest(t, http.MethodGet, url, nil)
		req.Cancel = make(chan struct{}) //nolint:staticcheck // callers still use it
		return req
	}
	t.Run("a response", func(t *testing.T) {
		wantNoLeaks(t)
		rt := newUpstream(t, all()...).Transport(answers(http.StatusOK, "soup"))
		resp, err := rt.RoundTrip(with(t, "http://recipes.test/"))
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); string(body) != "soup" || err != nil {
			t.Errorf("got %q, %v, want soup", body, err)
		}
		_ = resp.Body.Close()
	})
	t.Run("a response without a body", func(t *testing.T) {
		wantNoLeaks(t)
		resp, err := newUpstream(t).Transport(roundTripper(func(*http.Request) (*http.Response, error) {
			resp := answer(http.StatusOK, "")
			resp.Body = http.NoBody
			return resp, nil
		})).RoundTrip(with(t, "http://recipes.test/"))
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("got %v, %v, want 200", resp, err)
		}
	})
	t.Run("a local reply", func(t *testing.T) {
		wantNoLeaks(t)
		resp, err := newUpstream(t, pillion.Options{LocalReplies: true}).Transport(&http.Transport{}).RoundTrip(with(t, nowhere(t).url))
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("got status %d, want 503", resp.StatusCode)
		}
		_ = resp.Body.Close()
	})
	t.Run("an error", func(t *testing.T) {
		wantNoLeaks(t)
		if _, err := newUpstream(t).Transport(&http.Transport{}).RoundTrip(with(t, nowhere(t).url)); err == nil {
			t.Error("got a response")
		}
	})
	t.Run("a panic", func(t *testing.T) {
		wantNoLeaks(t)
		req := with(t, "http://recipes.test/")
		if got := recovered(func() {
			_, _ = newUpstream(t).Transport(roundTripper(func(*http.Request) (*http.Response, error) { panic("trip") })).RoundTrip(req)
		}); got != "trip" {
			t.Errorf("got panic %v, want trip", got)
		}
	})
}

// TestDiscardWithin pins how long a response that does not end is drained: as long as the policy
// allows, or DrainTime if it is set, or what is left of the call.
func TestDiscardWithin(t *testing.T) {
	const ms = time.Millisecond
	tests := []struct {
		name   string
		within time.Duration
		drain  time.Duration // Options.DrainTime
		total  time.Duration
		want   time.Duration
	}{
		{"by default", 0, 0, time.Hour, 100 * ms},
		{"a short back-off", 7 * ms, 0, time.Hour, 7 * ms},
		{"a long back-off", time.Minute, 0, time.Hour, 100 * ms},
		{"negative", -1, 0, time.Hour, 100 * ms},
		{"configured", 7 * ms, 20 * ms, time.Hour, 20 * ms},
		{"configured, a long back-off", time.Minute, 20 * ms, time.Hour, 20 * ms},
		{"the call's end", 0, 0, 30 * ms, 30 * ms},
		{"configured, and the call's end", 0, time.Second, 30 * ms, 30 * ms},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var took time.Duration
				u := newUpstream(t, pillion.Options{DrainTime: test.drain}, timeout.Config{Total: test.total}, needCancel,
					around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
						o := next(ctx, c)
						began := time.Now()
						o.DiscardWithin(test.within)
						took = time.Since(began)
						return &policy.Outcome{Err: errBroken}
					}))
				_, err := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
					return streams(newTape(req.Context(), io.EOF, piece{time.Now().Add(never), "soup"}))(req)
				})).RoundTrip(get(t.Context(), t))
				if !errors.Is(err, errBroken) || took != test.want {
					t.Errorf("got %v, drained for %v, want %v", err, took, test.want)
				}
			})
		})
	}
}

// TestUnconnected pins what Unconnected reports at the end of an attempt, whatever ended it.
func TestUnconnected(t *testing.T) {
	stuck := with(dials(func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}), func(*world) {})
	tests := []struct {
		name  string
		world func(t *testing.T) *world
		limit timeout.Config
		leave bool // the caller is canceled after a while
		want  bool
	}{
		{"refused", nowhere, timeout.Config{Total: patience}, false, true},
		{"refused, no limits", nowhere, timeout.Config{Total: timeout.Unlimited}, false, true},
		{"the total limit, dialing", stuck, timeout.Config{Total: short}, false, true},
		{"the limit of the attempt, dialing", stuck, timeout.Config{Total: patience, PerTry: short}, false, true},
		{"the limit of silence, dialing", stuck, timeout.Config{Total: patience, Idle: short}, false, true},
		{"the caller leaves, dialing", stuck, timeout.Config{Total: patience}, true, true},
		{"the total limit, in the handshake", with(plays(firstByte, untilClosed), secure), timeout.Config{Total: short}, false, true},
		{"the caller leaves, in the handshake", with(plays(firstByte, untilClosed), secure), timeout.Config{Total: timeout.Unlimited}, true, true},
		{"the total limit, waiting", plays(request, untilClosed), timeout.Config{Total: 3 * short}, false, false},
		{"the caller leaves, waiting", plays(request, untilClosed), timeout.Config{Total: patience}, true, false},
		{"closed", plays(request, fin), timeout.Config{Total: patience}, false, false},
		{"a response", plays(request, say("HTTP/1.1 204 No Content\r\n\r\n")), timeout.Config{Total: patience}, false, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			wantNoLeaks(t)
			w := test.world(t)
			defer w.base.CloseIdleConnections()
			l := newLedger(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if test.leave {
				time.AfterFunc(3*short, cancel)
			}
			resp, err := l.upstream(t, test.limit).Transport(w.base).RoundTrip(newRequest(t, http.MethodGet, w.url, nil).WithContext(ctx))
			if err == nil {
				_ = resp.Body.Close()
			}
			if got := l.last(t).unconnected; got != test.want {
				t.Errorf("got %v, %v, want %v", got, err, test.want)
			}
		})
	}
}
