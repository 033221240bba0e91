package pillion_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// hookedBody is a response body that calls functions first; nil ones do nothing.
type hookedBody struct {
	io.Reader
	onRead, onClose func()
}

func (b hookedBody) Read(p []byte) (int, error) {
	if b.onRead != nil {
		b.onRead()
	}
	return b.Reader.Read(p)
}

func (b hookedBody) Close() error {
	if b.onClose != nil {
		b.onClose()
	}
	return nil
}

// with returns a response with this status and body.
func (b hookedBody) with(status int) roundTripper {
	return func(*http.Request) (*http.Response, error) {
		resp := answer(status, "")
		resp.Body, resp.ContentLength = b, -1
		return resp, nil
	}
}

// at returns a policy that calls f before or after attempt n.
func at(n int, before, after func()) pillion.Policy {
	return around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
		if c.Attempt() == n && before != nil {
			before()
		}
		o := next(ctx, c)
		if c.Attempt() == n && after != nil {
			after()
		}
		return o
	})
}

// TestPanic_unwinds panics, or ends the goroutine, in each function that a caller supplies, in the
// goroutine of a call. The panic goes on to the caller, and at that moment nothing of the call is
// left: slots, gauges, events.
func TestPanic_unwinds(t *testing.T) {
	over := func(base roundTripper) func(func()) roundTripper { return func(func()) roundTripper { return base } }
	ok, down := over(answers(http.StatusOK, "soup")), over(answers(http.StatusServiceUnavailable, "no"))
	soup := strings.NewReader("soup")
	hook := func(end func()) pillion.Policy { return atEnd(func(*policy.Call, *policy.Outcome) { end() }) }
	tests := []struct {
		name            string
		outside, inside func(end func()) pillion.Policy // outside and inside retry and limits; nil for none
		base            func(end func()) roundTripper   // nil for Do
		unread          bool                            // the caller closes the body without reading it
		attempts        int
	}{
		{name: "work", attempts: 1},
		{name: "the round tripper", attempts: 1, base: func(end func()) roundTripper {
			return func(*http.Request) (*http.Response, error) { end(); return nil, errBroken }
		}},
		{name: "the round tripper, on the second attempt", attempts: 2, base: func(end func()) roundTripper {
			n := 0
			return func(*http.Request) (*http.Response, error) {
				if n++; n == 2 {
					end()
				}
				return answer(http.StatusServiceUnavailable, "no"), nil
			}
		}},
		{name: "a policy outside, before", outside: func(end func()) pillion.Policy { return at(1, end, nil) }, base: ok},
		{name: "a policy outside, after", outside: func(end func()) pillion.Policy { return at(1, nil, end) }, base: ok, attempts: 1},
		{name: "a policy outside, after a retry", outside: func(end func()) pillion.Policy { return at(1, nil, end) }, base: down, attempts: 2},
		{name: "a policy inside, before", inside: func(end func()) pillion.Policy { return at(1, end, nil) }, base: ok},
		{name: "a policy inside, before attempt 2", inside: func(end func()) pillion.Policy { return at(2, end, nil) }, base: down, attempts: 1},
		{name: "a policy inside, after", inside: func(end func()) pillion.Policy { return at(1, nil, end) }, base: ok, attempts: 1},
		{name: "a policy inside, after attempt 2", inside: func(end func()) pillion.Policy { return at(2, nil, end) }, base: down, attempts: 2},
		{name: "a hook", inside: hook, base: ok, attempts: 1},
		{name: "a hook of a response without a body", inside: hook, base: over(func(*http.Request) (*http.Response, error) {
			resp := answer(http.StatusOK, "")
			resp.Body = http.NoBody
			return resp, nil
		}), attempts: 1},
		{name: "a hook of a discarded response", inside: hook, base: down, attempts: 1},
		{name: "Read", base: func(end func()) roundTripper { return hookedBody{soup, end, nil}.with(http.StatusOK) }, attempts: 1},
		{name: "Close, at the end", base: func(end func()) roundTripper { return hookedBody{soup, nil, end}.with(http.StatusOK) }, attempts: 1},
		{name: "Close, early", unread: true, base: func(end func()) roundTripper { return hookedBody{soup, nil, end}.with(http.StatusOK) }, attempts: 1},
		{name: "Read, discarded", base: func(end func()) roundTripper { return hookedBody{soup, end, nil}.with(http.StatusServiceUnavailable) }, attempts: 1},
		{name: "Close, discarded", base: func(end func()) roundTripper { return hookedBody{soup, nil, end}.with(http.StatusServiceUnavailable) }, attempts: 1},
	}
	for _, test := range tests {
		for _, by := range []string{"panic", "Goexit"} {
			t.Run(test.name+", "+by, func(t *testing.T) {
				end := func() { panic(errBroken) }
				if by == "Goexit" {
					end = leave
				}
				policies := []pillion.Policy{timeout.Config{Total: 3 * time.Hour, PerTry: 2 * time.Hour, Idle: time.Hour}}
				if test.outside != nil {
					policies = append(policies, test.outside(end))
				}
				policies = append(policies, quick(1), limits.Config{MaxRequests: 1})
				if test.inside != nil {
					policies = append(policies, test.inside(end))
				}
				l := newLedger(t)
				u := l.upstream(t, policies...)
				call := func() { _, _ = pillion.Do(t.Context(), u, func(context.Context) (int, error) { end(); return 0, nil }) }
				if test.base != nil {
					rt := u.Transport(test.base(end))
					call = func() { read(t, rt, test.unread) }
				}
				if by == "Goexit" {
					goexit(t, call)
				} else if got := recovered(call); got != errBroken { //nolint:errorlint // the very value
					t.Errorf("got panic %v, want %v", got, errBroken)
				}
				l.wantBalanced(t, 1, test.attempts)
				free := make(chan error, 1)
				go func() { // the same functions may end this one, too
					defer func() { _ = recover() }()
					defer close(free)
					_, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 1, nil })
					free <- err
				}()
				if err := wantSoon(t, free, "the next call"); errors.Is(err, limits.ErrFull) {
					t.Errorf("the next call: got %v, want a free slot", err)
				}
			})
		}
	}
}

// read makes a call, and reads its response, or closes it without reading.
func read(t *testing.T, rt http.RoundTripper, unread bool) {
	t.Helper()
	resp, err := rt.RoundTrip(get(t.Context(), t))
	if err != nil {
		t.Fatal(err)
	}
	if !unread {
		_, _ = io.ReadAll(resp.Body)
	}
	_ = resp.Body.Close()
}

// TestPanic_concurrentRead panics in the Close of a body while, and before, another goroutine reads
// it: the reader returns.
func TestPanic_concurrentRead(t *testing.T) {
	pr, pw := io.Pipe()
	defer pw.Close()
	u := newUpstream(t, timeout.Config{Total: time.Hour}, limits.Config{})
	resp, err := u.Transport(hookedBody{pr, nil, func() { _ = pr.Close(); panic("close") }}.with(http.StatusOK)).RoundTrip(get(t.Context(), t))
	if err != nil {
		t.Fatal(err)
	}
	reads := make(chan error, 2)
	go func() {
		_, err := io.ReadAll(resp.Body)
		reads <- err
	}()
	if got := recovered(func() { _ = resp.Body.Close() }); got != "close" {
		t.Errorf("got panic %v, want close", got)
	}
	if err := wantSoon(t, reads, "the end of the Read"); err == nil {
		t.Error("got a whole body, want an error")
	}
}

// TestPanic_hedge panics, or returns another outcome, in a policy outside a hedge: the winner's
// response is discarded.
func TestPanic_hedge(t *testing.T) {
	for _, panics := range []bool{true, false} {
		l := newLedger(t)
		bodies := newTally()
		var running sync.WaitGroup
		u := l.upstream(t, around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
			o := next(ctx, c)
			if panics {
				panic(errBroken)
			}
			return &policy.Outcome{Err: errBroken, Conditions: o.Conditions | policy.Failed}
		}), hedge{time.Millisecond, &running})
		n := make(chan int, 2)
		n <- 1
		n <- 2
		got := recovered(func() {
			_, err := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
				if <-n == 1 {
					<-req.Context().Done() // the loser
					return nil, req.Context().Err()
				}
				return streams(newCountedBody(bodies))(req)
			})).RoundTrip(get(t.Context(), t))
			if !errors.Is(err, errBroken) {
				t.Errorf("got %v, want %v", err, errBroken)
			}
		})
		if (got != nil) != panics {
			t.Errorf("got panic %v, want one: %v", got, panics)
		}
		bodies.wantEver(t, 1, 1)
		bodies.wantNone(t)
		running.Wait()
		l.wantBalanced(t, 1, 2)
	}
}

// TestPanic_inTheBackground panics in hooks and listeners where no caller waits for them, after a
// timeout and at the end of the caller's context: the panic is reported, and the process goes on.
// The test runs itself as that process.
func TestPanic_inTheBackground(t *testing.T) {
	if os.Getenv("PILLION_TEST_PANIC") == "" {
		ctx, cancel := context.WithTimeout(t.Context(), 6*patience)
		defer cancel()
		process := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		process.Env = append(os.Environ(), "PILLION_TEST_PANIC=1")
		out, err := process.CombinedOutput()
		if err != nil {
			t.Fatalf("the process ended with %v:\n%s", err, out)
		}
		for _, want := range []string{"recovered from a panic in", "panic=hook", "panic=listener", "panic_ext_test.go"} {
			if !strings.Contains(string(out), want) {
				t.Errorf("got\n%s\nwant it to contain %q", out, want)
			}
		}
		return
	}
	for _, by := range []string{"limit", "cancellation"} {
		for _, in := range []string{"hook", "listener"} {
			l := newLedger(t)
			policies := []pillion.Policy{limits.Config{MaxRequests: 1}}
			if in == "hook" {
				policies = append(policies, atEnd(func(*policy.Call, *policy.Outcome) { panic("hook") }))
			} else {
				policies = append(policies, pillion.Listener(func(_ context.Context, e policy.Event) {
					if e.Kind == policy.EventAttemptEnd {
						panic("listener")
					}
				}))
			}
			ctx, cancel := context.WithCancel(t.Context())
			if by == "limit" {
				policies = append([]pillion.Policy{timeout.Config{Total: short}}, policies...)
			}
			pr, pw := io.Pipe()
			u := l.upstream(t, policies...)
			resp, err := u.Transport(streams(pr)).RoundTrip(get(ctx, t))
			if err != nil {
				t.Fatal(err)
			}
			if by == "cancellation" {
				cancel()
			}
			l.await(t, 1)
			_ = pw.Close()
			if _, err = resp.Body.Read(make([]byte, 1)); err == nil {
				t.Error("got a part of the body, want an error")
			}
			l.wantBalanced(t, 1, 1)
			if _, err = u.Transport(answers(http.StatusOK, "")).RoundTrip(get(t.Context(), t)); errors.Is(err, limits.ErrFull) {
				t.Errorf("the next call: got %v, want a free slot", err)
			}
			cancel()
		}
	}
}

// TestPanic_classify panics in the Classify of a custom protocol.
func TestPanic_classify(t *testing.T) {
	l := newLedger(t)
	u := l.upstream(t, timeout.Config{Total: time.Hour}, retry.Config{}, limits.Config{MaxRequests: 1})
	x := &letter{
		try:     func(_ context.Context, o *policy.Outcome) { o.Err = errBroken },
		explain: func(*policy.Outcome, error) bool { panic("explain") },
	}
	if got := recovered(func() { u.Chain().Invoke(t.Context(), x) }); got != "explain" {
		t.Errorf("got panic %v, want explain", got)
	}
	l.wantBalanced(t, 1, 1)
}
