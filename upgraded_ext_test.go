package pillion_test

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// connection is the body of a 101 response: a Read blocks until it is closed, whatever the context
// of the request.
type connection struct {
	io.Writer
	closed atomic.Bool
	end    chan struct{}
}

func (c *connection) Read([]byte) (int, error) {
	<-c.end
	return 0, io.ErrClosedPipe
}

func (c *connection) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		close(c.end)
	}
	return nil
}

// connections returns a server that sends a 101 response to each request, and the connections that
// it makes.
func connections() (roundTripper, *[]*connection) {
	made := &[]*connection{}
	return func(*http.Request) (*http.Response, error) {
		c := &connection{Writer: io.Discard, end: make(chan struct{})}
		*made = append(*made, c)
		resp := answer(http.StatusSwitchingProtocols, "")
		resp.Body, resp.ContentLength = c, -1
		return resp, nil
	}, made
}

// TestDiscard_upgraded pins that discarding a 101 response closes it. Its body is a connection,
// which may never return anything to read.
func TestDiscard_upgraded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, connections := connections()
		u := newUpstream(t, retry.Config{On: "retriable-status-codes", RetriableStatusCodes: []int{http.StatusSwitchingProtocols}})
		resp, err := u.Transport(base).RoundTrip(get(t.Context(), t))
		if err != nil {
			t.Fatal(err)
		}
		if made := *connections; len(made) != 2 || !made[0].closed.Load() || made[1].closed.Load() {
			t.Errorf("got %d connections, want 2, and only the first one closed", len(made))
		}
		_ = resp.Body.Close()
	})
}

// TestDiscard_upgradedReplaced pins that a 101 response that a policy replaces is closed and not
// read, whatever the policy does to the outcome: a Read could block forever.
func TestDiscard_upgradedReplaced(t *testing.T) {
	for name, replace := range replacements() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base, connections := connections()
				l := newLedger(t)
				u := l.upstream(t, pillion.AnyOrder{}, timeout.Config{Total: time.Second}, replacing(replace))
				resp, err := u.Transport(base).RoundTrip(get(t.Context(), t))
				if !(*connections)[0].closed.Load() {
					t.Error("the connection is open, want it closed")
				}
				attempts := 1
				if name == "a second attempt" {
					attempts = 2
				}
				if len(*connections) != attempts {
					t.Errorf("got %d connections, want %d", len(*connections), attempts)
				}
				if err == nil {
					_ = resp.Body.Close()
				}
				l.wantBalanced(t, 1, attempts)
			})
		})
	}
}

// TestUpgraded_changed pins that an upgraded connection outlives all limits and the context of its
// request even if a policy changes the outcome, as long as the caller receives the response.
func TestUpgraded_changed(t *testing.T) {
	for name, change := range map[string]func(o *policy.Outcome) *policy.Outcome{
		"a success": func(o *policy.Outcome) *policy.Outcome {
			o.Conditions = 0
			return o
		},
		"a failure": func(o *policy.Outcome) *policy.Outcome {
			o.Conditions = policy.Failed | policy.Status5xx
			return o
		},
		"a new outcome": func(o *policy.Outcome) *policy.Outcome {
			return &policy.Outcome{Value: o.Value, Code: o.Code, Detail: o.Detail}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base, connections := connections()
				l := newLedger(t)
				u := l.upstream(t, append(apart(timeout.Config{Total: time.Second, PerTry: time.Second, Idle: time.Second}),
					around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
						return change(next(ctx, c))
					}))...)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				resp, err := u.Transport(base).RoundTrip(get(ctx, t))
				if err != nil {
					t.Fatal(err)
				}
				read := make(chan error, 1)
				go func() {
					_, err := resp.Body.Read(make([]byte, 1))
					read <- err
				}()
				time.Sleep(time.Hour)
				if ends := l.count(policy.EventEnd); ends != 0 || (*connections)[0].closed.Load() {
					t.Errorf("while the connection lives: got %d ends, closed %v", ends, (*connections)[0].closed.Load())
				}
				_ = resp.Body.Close()
				<-read
				l.wantBalanced(t, 1, 1)
				if end := l.last(t); end.Err != nil {
					t.Errorf("end: got %v, want no error", end.Err)
				}
			})
		})
	}
}

// TestUpgraded_unchanged pins that a policy cannot exempt a response from its limits: only the
// adapter knows whether it is a connection.
func TestUpgraded_unchanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t)
		u := l.upstream(t, timeout.Config{Total: time.Second}, around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
			o := next(ctx, c)
			o.Conditions |= policy.Upgraded
			return o
		}))
		resp, err := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
			return streams(newTape(req.Context(), io.EOF, piece{at: time.Now().Add(never)}))(req)
		})).RoundTrip(get(t.Context(), t))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err = io.ReadAll(resp.Body); scopeOf(err) != policy.ScopeTotal {
			t.Errorf("got %v, want the total timeout", err)
		}
	})
}

// switching is a response whose connection belongs to the caller.
const switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: soup\r\nConnection: Upgrade\r\n\r\n"

// uses are what becomes of an upgraded connection. Each ends it.
func uses() map[string]func(t *testing.T, l *ledger, base http.RoundTripper, req *http.Request) {
	type use = func(t *testing.T, l *ledger, base http.RoundTripper, req *http.Request)
	call := func(t *testing.T, l *ledger, base http.RoundTripper, req *http.Request) io.ReadWriteCloser {
		t.Helper()
		resp, err := l.upstream(t, timeout.Config{Total: time.Hour}, retry.Config{On: "5xx"}).Transport(base).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		body, ok := resp.Body.(io.ReadWriteCloser)
		if !ok {
			t.Fatalf("got a %T, want a connection", resp.Body)
		}
		return body
	}
	return map[string]use{
		"closed": func(t *testing.T, l *ledger, base http.RoundTripper, req *http.Request) {
			t.Helper()
			_ = call(t, l, base, req).Close()
		},
		"closed while it is read": func(t *testing.T, l *ledger, base http.RoundTripper, req *http.Request) {
			t.Helper()
			body := call(t, l, base, req)
			defer time.AfterFunc(short, func() { _ = body.Close() }).Stop()
			_, _ = io.Copy(io.Discard, body)
			_ = body.Close()
		},
		"written to, and closed": func(t *testing.T, l *ledger, base http.RoundTripper, req *http.Request) {
			t.Helper()
			body := call(t, l, base, req)
			_, _ = io.WriteString(body, "soup")
			_ = body.(interface{ CloseWrite() error }).CloseWrite()
			_ = body.Close()
		},
		"canceled, and closed": func(t *testing.T, l *ledger, base http.RoundTripper, req *http.Request) {
			t.Helper()
			ctx, cancel := context.WithCancel(req.Context())
			body := call(t, l, base, req.WithContext(ctx))
			cancel()
			_ = body.Close()
		},
		"discarded for a retry": func(t *testing.T, l *ledger, base http.RoundTripper, req *http.Request) {
			t.Helper()
			resp, err := l.upstream(t, retry.Config{
				On: "retriable-status-codes", RetriableStatusCodes: []int{http.StatusSwitchingProtocols}, BaseInterval: time.Millisecond,
			}).Transport(base).RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
		},
		"replaced": func(t *testing.T, l *ledger, base http.RoundTripper, req *http.Request) {
			t.Helper()
			_, err := l.upstream(t, timeout.Config{Total: time.Hour}, replacing(replacements()["an error of the outcome"])).Transport(base).RoundTrip(req)
			if err == nil {
				t.Error("got a response, want the policy's error")
			}
		},
	}
}

// TestUpgraded_wire upgrades connections to servers that do anything with them. All uses of a
// connection end by themselves, and leave no connection open: the server would complain.
func TestUpgraded_wire(t *testing.T) {
	t.Parallel()
	secure := &tls.Config{Certificates: []tls.Certificate{testCertificate(t)}}
	for server, then := range map[string]part{
		"silent": nil, "a few bytes": {say("soup")}, "many bytes": {sayOn(strings.Repeat("soup", 1000))}, "closed": {fin}, "reset": {reset},
	} {
		for scheme, config := range map[string]*tls.Config{"http": nil, "https": secure} {
			for _, method := range []string{http.MethodHead, http.MethodGet, http.MethodPost} {
				for name, use := range uses() {
					t.Run(strings.Join([]string{server, scheme, method, name}, ", "), func(t *testing.T) {
						t.Parallel()
						url := scheme + "://" + serveScriptTLS(t, config, append(part{request, say(switching)}, then...)).addr() + "/"
						base := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
						defer base.CloseIdleConnections()
						req := newRequest(t, method, url, nil)
						if method == http.MethodPost {
							req = newRequest(t, method, url, strings.NewReader("pay 10"))
						}
						l := newLedger(t)
						use(t, l, base, req)
						l.wantBalanced(t, 1, l.count(policy.EventAttempt))
					})
				}
			}
		}
	}
}
