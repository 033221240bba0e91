package pillion_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// paced is a request body whose bytes come one after each pause.
type paced struct {
	pauses []time.Duration
	closed chan struct{}
}

func newPaced(pauses ...time.Duration) *paced { return &paced{pauses, make(chan struct{})} }

func (b *paced) Read(p []byte) (int, error) {
	if len(b.pauses) == 0 {
		return 0, io.EOF
	}
	select {
	case <-b.closed:
		return 0, io.ErrClosedPipe
	case <-time.After(b.pauses[0]):
	}
	b.pauses = b.pauses[1:]
	p[0] = 'x'
	return 1, nil
}

func (b *paced) Close() error {
	close(b.closed)
	return nil
}

// seconds returns n pauses of a second.
func seconds(n int) []time.Duration {
	pauses := make([]time.Duration, n)
	for i := range pauses {
		pauses[i] = time.Second
	}
	return pauses
}

// takes is a server with these delays: to connect, to read each byte of the request, and to
// respond. A negative time is forever.
type takes struct{ connect, each, respond time.Duration }

func (s takes) RoundTrip(req *http.Request) (*http.Response, error) {
	defer req.Body.Close()
	if err := wait(req.Context(), s.connect); err != nil {
		return nil, err
	}
	for {
		n, err := req.Body.Read(make([]byte, 1))
		if n == 1 && err == nil {
			err = wait(req.Context(), s.each)
		}
		if err == io.EOF { //nolint:errorlint // as net/http compares
			break
		}
		if err != nil {
			return nil, err
		}
	}
	if err := wait(req.Context(), s.respond); err != nil {
		return nil, err
	}
	return answer(http.StatusOK, "soup"), nil
}

// wait waits for d, forever if it is negative, or until ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	if d < 0 {
		d = never
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// TestUpload_limits pins when limits run while a request is sent, and who causes a timeout.
func TestUpload_limits(t *testing.T) {
	const s = time.Second
	tests := []struct {
		name   string
		limits timeout.Config
		caller time.Duration // the caller's deadline, 0 for none
		pauses []time.Duration
		server takes
		scope  policy.Scope  // the scope of the timeout, 0 for none
		after  time.Duration // when the call ends
		counts breaker.Status
	}{
		{"slow, but on its way", timeout.Config{Total: 3 * s, PerTry: 2 * s}, 0, seconds(20), takes{}, 0, 20 * s, oneSuccess},
		{"slow, under an idle limit", timeout.Config{Total: 3 * s, Idle: 2 * s}, 0, seconds(20), takes{}, 0, 20 * s, oneSuccess},
		{"slow to respond", timeout.Config{Total: 3 * s}, 0, seconds(20), takes{respond: 2 * s}, 0, 22 * s, oneSuccess},
		{"a response too late for the attempt", timeout.Config{Total: 9 * s, PerTry: 2 * s}, 0, seconds(20), takes{respond: -1}, policy.ScopePerTry, 22 * s, oneTimeout},
		{"a response too late for silence", timeout.Config{Total: 9 * s, Idle: 2 * s}, 0, seconds(20), takes{respond: -1}, policy.ScopeIdle, 22 * s, oneTimeout},
		{"a response too late for the call", timeout.Config{Total: 3 * s}, 0, seconds(20), takes{respond: -1}, policy.ScopeTotal, 23 * s, oneTimeout},
		{"the caller pauses", timeout.Config{Total: 3 * s}, 0, append(seconds(5), 4*s), takes{}, policy.ScopeTotal, 8 * s, nothing},
		{"the caller pauses for longer than an attempt", timeout.Config{Total: 9 * s, PerTry: 2 * s}, 0, append(seconds(5), 4*s), takes{}, 0, 9 * s, oneSuccess},
		{"the caller sends nothing", timeout.Config{Total: 3 * s}, 0, []time.Duration{9 * s}, takes{}, policy.ScopeTotal, 3 * s, nothing},
		{"the upstream reads slowly", timeout.Config{Total: 3 * s, PerTry: s}, 0, seconds(5), takes{each: 3 * s / 2}, 0, 25 * s / 2, oneSuccess},
		{"the upstream does not read on", timeout.Config{Total: 3 * s}, 0, seconds(5), takes{each: -1}, policy.ScopeTotal, 4 * s, oneTimeout},
		{"no connection in time for the attempt", timeout.Config{Total: 9 * s, PerTry: 2 * s}, 0, seconds(5), takes{connect: -1}, policy.ScopePerTry, 2 * s, oneTimeout},
		{"no connection in time for silence", timeout.Config{Total: 9 * s, Idle: 2 * s}, 0, seconds(5), takes{connect: -1}, policy.ScopeIdle, 2 * s, oneTimeout},
		{"no connection in time for the call", timeout.Config{Total: 3 * s}, 0, seconds(5), takes{connect: -1}, policy.ScopeTotal, 3 * s, oneTimeout},
		{"the caller's deadline, while it pauses", timeout.Config{Total: 9 * s}, 7 * s, append(seconds(5), 4*s), takes{}, policy.ScopeCaller, 7 * s, nothing},
		{"the caller's deadline, while the upstream does not read", timeout.Config{Total: 9 * s}, 7 * s, seconds(5), takes{each: -1}, policy.ScopeCaller, 7 * s, oneTimeout},
		{"the caller's deadline alone", timeout.Config{Total: timeout.Unlimited}, 13 * s / 2, seconds(9), takes{}, policy.ScopeCaller, 13 * s / 2, nothing},
	}
	for _, test := range tests {
		for how, policies := range map[string][]pillion.Policy{"": nil, ", retries": {retry.Config{NumRetries: retry.Never}}, ", buffer": {pillion.Options{ReplayBuffer: 100}, retry.Config{NumRetries: retry.Never}}} {
			t.Run(test.name+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := newLedger(t)
					ctx := t.Context()
					if test.caller != 0 {
						var cancel context.CancelFunc
						ctx, cancel = context.WithTimeout(ctx, test.caller)
						defer cancel()
					}
					body := newPaced(test.pauses...)
					began := time.Now()
					resp, err := l.upstream(t, append([]pillion.Policy{test.limits}, policies...)...).Transport(test.server).
						RoundTrip(newRequest(t, http.MethodPut, "http://recipes.test/", body).WithContext(ctx))
					if took := time.Since(began); took != test.after {
						t.Errorf("took %v, want %v", took, test.after)
					}
					if err == nil {
						_ = resp.Body.Close()
					}
					if scopeOf(err) != test.scope || (err == nil) != (test.scope == 0) {
						t.Errorf("got %v, want the %v limit", err, test.scope)
					}
					l.wantBalanced(t, 1, 1)
					counts := test.counts
					if test.scope == policy.ScopePerTry || test.scope == policy.ScopeIdle {
						if end := l.last(t); !end.Has(policy.PerTryTimeout) {
							t.Errorf("got %v, want per-try-timeout", end.Conditions)
						}
					}
					l.wantCounted(t, counts)
					synctest.Wait()
					select {
					case <-body.closed:
					default:
						t.Error("the body is open")
					}
				})
			})
		}
	}
}

// TestUpload_totalMoves pins what moves the total limit: what the caller sends, also in later
// attempts that continue from a buffer, but no copies.
func TestUpload_totalMoves(t *testing.T) {
	const s = time.Second
	for _, kept := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			n := 0
			u := newUpstream(t, pillion.Options{ReplayBuffer: 100}, timeout.Config{Total: 3 * s}, retry.Config{On: "reset", BaseInterval: time.Millisecond})
			req := newRequest(t, http.MethodPut, "http://recipes.test/", newPaced(seconds(9)...))
			if !kept {
				req.GetBody = func() (io.ReadCloser, error) { return newPaced(seconds(9)...), nil }
			}
			began := time.Now()
			resp, err := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
				if n++; n == 1 {
					_, _ = io.ReadFull(req.Body, make([]byte, 5))
					_ = req.Body.Close()
					return nil, errBroken
				}
				return takes{}.RoundTrip(req)
			})).RoundTrip(req)
			took := time.Since(began).Truncate(s)
			switch {
			case kept && (err != nil || took != 9*s):
				t.Errorf("a buffer: got %v after %v, want 200 after 9s", err, took)
			case !kept && (scopeOf(err) != policy.ScopeTotal || took != 8*s):
				t.Errorf("a copy: got %v after %v, want the total limit after 8s", err, took)
			}
			if err == nil {
				_ = resp.Body.Close()
			}
		})
	}
}

// TestUpload_deadline pins the deadline that the wire receives while the limit may still move: the
// caller's, if any.
func TestUpload_deadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, caller := range []time.Duration{0, time.Hour} {
			ctx := t.Context()
			if caller != 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, caller)
				defer cancel()
			}
			want, _ := ctx.Deadline()
			_, err := newUpstream(t, timeout.Config{Total: time.Minute}).Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
				if got, _ := req.Context().Deadline(); got != want {
					t.Errorf("deadline: got %v, want %v", got, want)
				}
				return nil, errBroken
			})).RoundTrip(newRequest(t, http.MethodPut, "http://recipes.test/", newPaced(1)).WithContext(ctx))
			if !errors.Is(err, errBroken) {
				t.Error(err)
			}
		}
	})
}

// TestUpload_discardedTooSlowly discards an early response whose body does not end, before a retry:
// the attempt's end does not close the body that the next attempt needs.
func TestUpload_discardedTooSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		u := newUpstream(t, pillion.Options{ReplayBuffer: 100, DrainTime: time.Second}, timeout.Config{Total: time.Minute}, quick(1))
		resp, err := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
			if n++; n == 2 {
				return takes{}.RoundTrip(req)
			}
			go func() {
				_, _ = io.Copy(io.Discard, req.Body)
				_ = req.Body.Close()
			}()
			resp := answer(http.StatusServiceUnavailable, "")
			resp.Body, resp.ContentLength = newTape(req.Context(), io.EOF, piece{time.Now().Add(time.Hour), "no"}), -1
			return resp, nil
		})).RoundTrip(newRequest(t, http.MethodPut, "http://recipes.test/", newPaced(seconds(5)...)))
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != http.StatusOK {
			t.Errorf("got status %d, want the second attempt's 200", resp.StatusCode)
		}
		_ = resp.Body.Close()
	})
}

// uploadServers are real servers over both versions of HTTP, with a fresh transport to each.
func uploadServers(t *testing.T, handler http.HandlerFunc) map[string]func() (url string, base *http.Transport) {
	t.Helper()
	one, _ := serve(t, handler)
	two := httptest.NewUnstartedServer(handler)
	two.EnableHTTP2 = true
	two.StartTLS()
	t.Cleanup(two.Close)
	return map[string]func() (string, *http.Transport){
		"HTTP/1": func() (string, *http.Transport) { return one.URL, &http.Transport{} },
		"HTTP/2": func() (string, *http.Transport) { return two.URL, two.Client().Transport.(*http.Transport).Clone() },
	}
}

// stuckBody is a body that returns some bytes and then blocks until it is closed.
type stuckBody struct {
	given   atomic.Bool
	reached chan struct{} // closed when it blocks
	closed  chan struct{}
	onClose func()
}

func newStuckBody(onClose func()) *stuckBody {
	return &stuckBody{reached: make(chan struct{}), closed: make(chan struct{}), onClose: onClose}
}

func (b *stuckBody) Read(p []byte) (int, error) {
	if !b.given.Swap(true) {
		return copy(p, "or"), nil
	}
	close(b.reached)
	<-b.closed
	return 0, io.ErrClosedPipe
}

func (b *stuckBody) Close() error {
	close(b.closed)
	if b.onClose != nil {
		b.onClose()
	}
	return nil
}

// TestUpload_woken blocks in a request body, and ends the call by a timeout, the caller's deadline
// or its cancellation: the body is closed, and the call returns, whatever Close does.
func TestUpload_woken(t *testing.T) {
	silenceLog(t)
	silenceDefaultLogger(t)
	release := make(chan struct{})
	closes := map[string]func(){
		"":              nil,
		", Close waits": func() { <-release },
		", Close panics": func() {
			panic("the body's Close")
		},
	}
	defer close(release)
	for version, world := range uploadServers(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }) {
		for _, by := range []string{"the total limit", "the caller's deadline", "the caller"} {
			for _, buffer := range []int64{0, 100} {
				for name, onClose := range closes {
					t.Run(strings.Join([]string{by, version, map[bool]string{true: "buffer", false: "no buffer"}[buffer != 0]}, ", ")+name, func(t *testing.T) {
						url, base := world()
						defer base.CloseIdleConnections()
						l := newLedger(t)
						ctx, cancel := context.WithCancelCause(t.Context())
						defer cancel(nil)
						body := newStuckBody(onClose)
						limit := timeout.Config{Total: 3 * patience}
						switch by {
						case "the total limit":
							limit.Total = short
						case "the caller's deadline":
							var stop context.CancelFunc
							ctx, stop = context.WithTimeout(ctx, short)
							defer stop()
						default:
							go func() {
								<-body.reached
								cancel(errTabClosed)
							}()
						}
						ended := make(chan error, 1)
						rt := l.upstream(t, limit, pillion.Options{ReplayBuffer: buffer}, retry.Config{On: "reset"}).Transport(base)
						go func() {
							_, err := rt.RoundTrip(newRequest(t, http.MethodPut, url, body).WithContext(ctx))
							ended <- err
						}()
						err := wantSoon(t, ended, "the end of the call")
						want := map[string]error{"the total limit": context.DeadlineExceeded, "the caller's deadline": context.DeadlineExceeded, "the caller": errTabClosed}[by]
						if !errors.Is(err, want) {
							t.Errorf("got %v, want %v", err, want)
						}
						wantSoon(t, body.closed, "the close of the body")
						l.wantBalanced(t, 1, 1)
						select {
						case <-body.reached:
							l.wantCounted(t, nothing)
						default: // on a slow machine the connection may take all the time
						}
					})
				}
			}
		}
	}
}

// TestUpload_brokenMidway resets the connection while the request is being sent: an attempt that
// continues from the buffer sends all of it.
func TestUpload_brokenMidway(t *testing.T) {
	wantNoLeaks(t)
	got := make(chan string, 1)
	part1 := func(p *peer) {
		if r, err := http.ReadRequest(p.read); err == nil {
			_, _ = io.ReadFull(r.Body, make([]byte, 5))
		}
	}
	part2 := func(p *peer) {
		r, err := http.ReadRequest(p.read)
		if err != nil {
			return
		}
		body, _ := io.ReadAll(r.Body)
		got <- string(body)
	}
	server := serveScript(t, part{part1, reset}, part{part2, say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")})
	l := newLedger(t)
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	pr, pw := io.Pipe()
	go func() {
		for range 20 {
			time.Sleep(5 * time.Millisecond) // so that the reset is noticed before the end
			if _, err := io.WriteString(pw, "order"); err != nil {
				return
			}
		}
		_ = pw.Close()
	}()
	resp, err := l.upstream(t, pillion.Options{ReplayBuffer: 1 << 10}, timeout.Config{Total: patience}, retry.Config{On: "reset"}).Transport(base).
		RoundTrip(newRequest(t, http.MethodPut, "http://"+server.addr()+"/", pr))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if body := wantSoon(t, got, "the second attempt's body"); body != strings.Repeat("order", 20) {
		t.Errorf("the second attempt sent %d bytes, want %d", len(body), 100)
	}
	l.wantBalanced(t, 1, 2)
}

// TestUpload_earlyResponse responds, and ends the response, before the server has the complete
// request: that is the result, and the body is closed.
func TestUpload_earlyResponse(t *testing.T) {
	silenceLog(t)
	for version, world := range uploadServers(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 1 {
			w.Header().Set("Connection", "close") // otherwise the server reads the rest first
		}
		_, _ = r.Body.Read(make([]byte, 1))
		w.WriteHeader(http.StatusTeapot)
	}) {
		for how, policies := range map[string][]pillion.Policy{
			"without policies": nil, "limits": {timeout.Config{Total: patience, PerTry: patience / 2}}, "buffer": {pillion.Options{ReplayBuffer: 1 << 10}, quick(1)},
		} {
			t.Run(version+", "+how, func(t *testing.T) {
				url, base := world()
				defer base.CloseIdleConnections()
				l := newLedger(t)
				body := newStuckBody(nil)
				resp, err := l.upstream(t, policies...).Transport(base).RoundTrip(newRequest(t, http.MethodPut, url, body))
				if err != nil {
					t.Fatal(err)
				}
				if _, err = io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusTeapot {
					t.Errorf("got status %d, %v, want 418", resp.StatusCode, err)
				}
				_ = resp.Body.Close()
				l.wantBalanced(t, 1, 1)
				l.wantCounted(t, oneSuccess)
				if how != "without policies" || version == "HTTP/2" { // net/http leaves the other body open
					wantSoon(t, body.closed, "the close of the body")
				} else {
					_ = body.Close()
				}
			})
		}
	}
}

// TestUpload_resent makes net/http resend a request on a new connection because the old one was
// closed: the new body is watched like the first.
func TestUpload_resent(t *testing.T) {
	tests := []struct {
		name string
		body func() io.ReadCloser
		is   policy.Condition
		word string
	}{
		{"whole", func() io.ReadCloser { return &callersBody{Reader: strings.NewReader("order")} }, 0, ""},
		{"it fails", func() io.ReadCloser { return &callersBody{Reader: errorReader(errBody)} }, policy.Invalid, errBody.Error()},
		{"it panics", func() io.ReadCloser { return &callersBody{Reader: &panicReader{}} }, policy.Invalid, "the body's Read"},
		{"it is too short", func() io.ReadCloser { return &callersBody{Reader: strings.NewReader("or")} }, policy.Invalid, "ContentLength=5 with Body length 2"},
		{"it blocks", func() io.ReadCloser { return newStuckBody(nil) }, policy.Timeout | policy.Cancelled, "total limit"},
	}
	silenceDefaultLogger(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			wantNoLeaks(t)
			const empty = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
			server := serveScript(t,
				part{request, say(empty), request, fin}, // the second request has no response
				part{request, say(empty)})
			l := newLedger(t)
			base := &http.Transport{}
			defer base.CloseIdleConnections()
			rt := l.upstream(t, timeout.Config{Total: 5 * short}).Transport(base)
			warm(t, rt, "http://"+server.addr()+"/")
			req := newRequest(t, http.MethodPut, "http://"+server.addr()+"/", &callersBody{Reader: strings.NewReader("order")})
			req.ContentLength = 5
			req.Header.Set("Idempotency-Key", "1") // otherwise net/http does not resend it
			reopened := false
			req.GetBody = func() (io.ReadCloser, error) { reopened = true; return test.body(), nil }
			resp, err := rt.RoundTrip(req)
			if err == nil {
				_ = resp.Body.Close()
			}
			if end := l.last(t); !reopened || end.Conditions != test.is || test.word != "" && !strings.Contains(err.Error(), test.word) {
				t.Errorf("got %v, %v, resent %v, want %v and %q", end.Conditions, err, reopened, test.is, test.word)
			}
			l.wantBalanced(t, 2, 2)
		})
	}
}

// TestUpload_expectContinue uses a server that never asks for the body: the per-try limit runs.
func TestUpload_expectContinue(t *testing.T) {
	wantNoLeaks(t)
	server := serveScript(t, part{requestHead, untilClosed})
	base := &http.Transport{ExpectContinueTimeout: patience}
	defer base.CloseIdleConnections()
	l := newLedger(t)
	body := newStuckBody(nil)
	req := newRequest(t, http.MethodPut, "http://"+server.addr()+"/", body)
	req.Header.Set("Expect", "100-continue")
	_, err := l.upstream(t, timeout.Config{Total: patience, PerTry: short}).Transport(base).RoundTrip(req)
	if scopeOf(err) != policy.ScopePerTry || body.given.Load() {
		t.Errorf("got %v, body read %v, want the limit of the attempt, and a body that is not read", err, body.given.Load())
	}
	wantSoon(t, body.closed, "the close of the body")
	l.wantCounted(t, oneTimeout)
}
