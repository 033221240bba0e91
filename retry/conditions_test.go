package retry

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/timeout"
)

// TestOwnWords has the words default and idempotent stand beside Envoy's.
func TestOwnWords(t *testing.T) {
	codes := []int{429}
	post := func(ctx context.Context) *http.Request {
		req := get(ctx)
		req.Method = http.MethodPost
		return req
	}
	vouched := func(ctx context.Context) *http.Request { return post(pillion.WithIdempotent(ctx)) }
	keyed := func(ctx context.Context) *http.Request {
		req := post(ctx)
		req.Header["Idempotency-Key"] = nil // not sent, but a mark
		return req
	}
	for _, tc := range []struct {
		name    string
		cfg     Config
		request func(context.Context) *http.Request
		answer  answer
		want    int // attempts
	}{
		{"default, GET", Config{On: "default"}, get, status(503), 2},
		{"default, connection refused", Config{On: "default"}, get, failure(errRefusedDial), 2},
		{"default, not a 500", Config{On: "default"}, get, status(500), 1},
		{"default alone has no guard", Config{On: "default"}, post, status(503), 2},
		{"default and idempotent", Config{On: "default,idempotent"}, get, status(503), 2},
		{"default and idempotent, POST", Config{On: "default,idempotent"}, post, status(503), 1},
		{"default and idempotent, POST that its caller vouches for", Config{On: "default,idempotent"}, vouched, status(503), 2},
		{"default and idempotent, POST with a key", Config{On: "default,idempotent"}, keyed, status(503), 2},
		{"the same by default", Config{}, keyed, status(503), 2},
		{"the same by default, vouched for", Config{}, vouched, status(503), 2},
		{"order does not matter", Config{On: " idempotent , default "}, post, status(503), 1},
		{"Envoy's word under the guard", Config{On: "5xx,idempotent"}, get, status(500), 2},
		{"Envoy's word under the guard, POST", Config{On: "5xx,idempotent"}, post, status(500), 1},
		{"a status beside the default", Config{On: "default,idempotent,retriable-status-codes", RetriableStatusCodes: codes}, get, status(429), 2},
		{"a status beside the default, 503", Config{On: "default,idempotent,retriable-status-codes", RetriableStatusCodes: codes}, get, status(503), 2},
		{"a status beside the default, POST", Config{On: "default,idempotent,retriable-status-codes", RetriableStatusCodes: codes}, post, status(429), 1},
		{"a status beside the default, unguarded", Config{On: "default,retriable-status-codes", RetriableStatusCodes: codes}, post, status(429), 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if r := call(t, upstream(t, tc.cfg), answers(tc.answer), tc.request(t.Context())); r.attempts != tc.want {
					t.Errorf("got %d attempts, want %d", r.attempts, tc.want)
				}
			})
		})
	}
}

// TestIdempotentFunctions has the callers of functions vouch for them.
func TestIdempotentFunctions(t *testing.T) {
	for _, tc := range []struct {
		name string
		cfg  Config
		err  error
		want int // runs
	}{
		{"default, connection refused", Config{}, errRefusedDial, 2},
		{"default, any other failure", Config{}, errBroken, 1},
		{"default and 5xx, any failure", Config{On: "default,idempotent,5xx"}, errBroken, 2},
		{"When", Config{When: func(o *policy.Outcome) bool { return errors.Is(o.Err, errBroken) }}, errBroken, 2},
		{"success", Config{}, nil, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for _, ctx := range []context.Context{t.Context(), pillion.WithIdempotent(t.Context())} {
					want := 1
					if ctx != t.Context() {
						want = tc.want
					}
					runs := 0
					_, _ = pillion.Do(ctx, upstream(t, tc.cfg), func(context.Context) (int, error) {
						runs++
						return 0, tc.err
					})
					if runs != want {
						t.Errorf("vouched for: %v: got %d runs, want %d", ctx != t.Context(), runs, want)
					}
				}
			})
		})
	}
}

// TestWhen has the program decide beside the words.
func TestWhen(t *testing.T) {
	teapot := func(o *policy.Outcome) bool { return o.Code == http.StatusTeapot }
	stale := func(o *policy.Outcome) bool {
		resp, ok := o.Value.(*http.Response)
		return ok && resp.Header.Get("X-Cache") == "stale"
	}
	broken := func(o *policy.Outcome) bool { return errors.Is(o.Err, syscall.EPROTO) }
	always := func(*policy.Outcome) bool { return true }
	for _, tc := range []struct {
		name   string
		cfg    Config
		method string
		answer answer
		want   int // attempts
	}{
		{"status", Config{When: teapot}, "GET", status(418), 2},
		{"other status", Config{When: teapot}, "GET", status(404), 1},
		{"beside the default conditions", Config{When: teapot}, "GET", status(503), 2},
		{"under the default guard", Config{When: teapot}, "POST", status(418), 1},
		{"beside words", Config{On: "connect-failure", When: teapot}, "POST", status(418), 2},
		{"beside words, which hold", Config{On: "5xx", When: teapot}, "POST", status(500), 2},
		{"under a guard that is named", Config{On: "5xx,idempotent", When: teapot}, "POST", status(418), 1},
		{"guard alone", Config{On: "idempotent", When: teapot}, "GET", status(418), 2},
		{"guard alone, nothing else", Config{On: "idempotent", When: teapot}, "GET", status(503), 1},
		{"response header", Config{When: stale}, "GET", status(200, "X-Cache", "stale"), 2},
		{"response header of another value", Config{When: stale}, "GET", status(200, "X-Cache", "fresh"), 1},
		{"error", Config{On: "retriable-4xx", When: broken}, "GET", failure(syscall.EPROTO), 2},
		{"success too, if it says so", Config{When: always}, "GET", status(200), 2},
		{"a rate limit, if it says so", Config{When: always}, "GET", status(503, "X-Envoy-Ratelimited", "1"), 2},
		{
			"under a request header",
			Config{When: always, RetriableRequestHeaders: []HeaderMatcher{{Name: "X-May"}}},
			"GET", status(200), 1,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				req := get(t.Context())
				req.Method = tc.method
				w := answers(tc.answer)
				if r := call(t, upstream(t, tc.cfg), w, req); r.attempts != tc.want || w.open != 0 {
					t.Errorf("got %d attempts and %d bodies open, want %d and 0", r.attempts, w.open, tc.want)
				}
			})
		})
	}
}

// TestWhen_isNotAsked has outcomes that no program decides about.
func TestWhen_isNotAsked(t *testing.T) {
	for _, o := range outcomes {
		if !slices.Contains([]string{
			"total time-out", "deadline of the caller", "caller left", "caller left, connection reset", "refused by a breaker",
			"refused by a limit", "invalid request",
		}, o.name) {
			continue
		}
		t.Run(o.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				cfg := Config{On: "idempotent", When: func(*policy.Outcome) bool { asked++; return true }}
				policies := []policy.Policy{o.outside, cfg}
				if o.inside != nil {
					policies = append(policies, o.inside(t))
				}
				ctx, cancel := t.Context(), func() {}
				if o.caller != nil {
					ctx, cancel = o.caller(ctx)
				}
				defer cancel()
				req := get(ctx)
				if o.method != "" {
					req.Method = o.method
				}
				if r := call(t, upstream(t, policies...), answers(o.answer), req); asked != 0 || r.attempts != 1 {
					t.Errorf("got %d questions and %d attempts, want 0 and 1", asked, r.attempts)
				}
			})
		})
	}
}

// TestWhen_ofAnyProtocol decides about an exchange of another protocol, once for each attempt.
func TestWhen_ofAnyProtocol(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		ctx, info := pillion.WithInfo(t.Context())
		upstream(t, Config{NumRetries: 3, When: func(o *policy.Outcome) bool {
			asked++
			return o.Code == 7 && asked < 3
		}}).Chain().Invoke(ctx, &answered{code: 7})
		if info.Attempts() != 3 || asked != 3 {
			t.Errorf("got %d attempts and %d questions, want 3 of each", info.Attempts(), asked)
		}
	})
}

// TestPanics has each function that the program supplies panic: the panic goes on to the
// caller, and no slot is held, nor any body left open.
func TestPanics(t *testing.T) {
	boom := func() { panic("boom") }
	for _, tc := range []struct {
		name   string
		policy policy.Policy
	}{
		{"When", Config{On: "idempotent", When: func(*policy.Outcome) bool { boom(); return true }}},
		{"Rand", Config{Rand: func() float64 { boom(); return 0 }}},
		{"BackOff", Config{BackOff: func() backoff.BackOff { boom(); return nil }}},
		{"Reset", Config{BackOff: func() backoff.BackOff { return panicking{reset: true} }}},
		{"NextBackOff", Config{BackOff: func() backoff.BackOff { return panicking{} }}},
		{"On", Retryable{On: []Match{func(error) bool { boom(); return true }}}},
		{"Not", Retryable{Not: []Match{func(error) bool { boom(); return true }}}},
		{"Matching", Retryable{Matching: []Pattern{panicking{}}}},
		{"SleepFunc", Retryable{SleepFunc: func(int) time.Duration { boom(); return 0 }}},
		{"ExceptionCB", Retryable{Sleep: Zero, ExceptionCB: func(error) { boom() }}},
		{"LogMethod", Retryable{Sleep: Zero, LogMethod: func(int, error) { boom() }}},
		{"Ensure", Retryable{Tries: 1, Ensure: func(int) { boom() }}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := answers(status(503))
				// A minute is more than the calls take, unless they wait for a slot that nobody holds.
				u := upstream(t, timeout.Config{Total: time.Minute}, tc.policy, limits.Config{MaxRequests: 1, MaxRetries: 1})
				for i := range 3 {
					func() {
						defer func() {
							if got := recover(); got != "boom" {
								t.Errorf("call %d: got panic %v, want boom", i, got)
							}
						}()
						resp, err := u.Transport(w).RoundTrip(get(t.Context()))
						t.Errorf("call %d: got %v and %v, want a panic", i, resp, err)
					}()
				}
				if w.attempts() < 3 || w.open != 0 {
					t.Errorf("got %d attempts sent and %d bodies open, want one for each call at least, and 0", w.attempts(), w.open)
				}
			})
		})
	}
}

// panicking is a source of waits, and a pattern.
type panicking struct{ reset bool }

func (p panicking) Reset() {
	if p.reset {
		panic("boom")
	}
}
func (panicking) NextBackOff() time.Duration { panic("boom") }
func (panicking) MatchString(string) bool    { panic("boom") }
