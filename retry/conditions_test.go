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

// TestOwnWords uses default and idempotent together with Envoy's conditions.
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
		req.Header["Idempotency-Key"] = nil // not sent, but marks the request
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
		{"default alone, POST", Config{On: "default"}, post, status(503), 2},
		{"default and idempotent", Config{On: "default,idempotent"}, get, status(503), 2},
		{"default and idempotent, POST", Config{On: "default,idempotent"}, post, status(503), 1},
		{"default and idempotent, POST with WithIdempotent", Config{On: "default,idempotent"}, vouched, status(503), 2},
		{"default and idempotent, POST with a key", Config{On: "default,idempotent"}, keyed, status(503), 2},
		{"the same by default", Config{}, keyed, status(503), 2},
		{"the same by default, WithIdempotent", Config{}, vouched, status(503), 2},
		{"order does not matter", Config{On: " idempotent , default "}, post, status(503), 1},
		{"Envoy's condition with idempotent", Config{On: "5xx,idempotent"}, get, status(500), 2},
		{"Envoy's condition with idempotent, POST", Config{On: "5xx,idempotent"}, post, status(500), 1},
		{"default and a status", Config{On: "default,idempotent,retriable-status-codes", RetriableStatusCodes: codes}, get, status(429), 2},
		{"default and a status, 503", Config{On: "default,idempotent,retriable-status-codes", RetriableStatusCodes: codes}, get, status(503), 2},
		{"default and a status, POST", Config{On: "default,idempotent,retriable-status-codes", RetriableStatusCodes: codes}, post, status(429), 1},
		{"default and a status, without idempotent", Config{On: "default,retriable-status-codes", RetriableStatusCodes: codes}, post, status(429), 2},
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

// TestIdempotentFunctions uses WithIdempotent for functions.
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
						t.Errorf("WithIdempotent: %v: got %d runs, want %d", ctx != t.Context(), runs, want)
					}
				}
			})
		})
	}
}

// TestWhen checks When together with conditions.
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
		{"with the default conditions", Config{When: teapot}, "GET", status(503), 2},
		{"with the default idempotent", Config{When: teapot}, "POST", status(418), 1},
		{"with other conditions", Config{On: "connect-failure", When: teapot}, "POST", status(418), 2},
		{"with other conditions, which apply", Config{On: "5xx", When: teapot}, "POST", status(500), 2},
		{"with idempotent", Config{On: "5xx,idempotent", When: teapot}, "POST", status(418), 1},
		{"idempotent alone", Config{On: "idempotent", When: teapot}, "GET", status(418), 2},
		{"idempotent alone, When is false", Config{On: "idempotent", When: teapot}, "GET", status(503), 1},
		{"response header", Config{When: stale}, "GET", status(200, "X-Cache", "stale"), 2},
		{"response header of another value", Config{When: stale}, "GET", status(200, "X-Cache", "fresh"), 1},
		{"error", Config{On: "retriable-4xx", When: broken}, "GET", failure(syscall.EPROTO), 2},
		{"success, if When is true", Config{When: always}, "GET", status(200), 2},
		{"rate limit, if When is true", Config{When: always}, "GET", status(503, "X-Envoy-Ratelimited", "1"), 2},
		{
			"with a request header",
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

// TestWhen_isNotAsked checks the outcomes for which When is not called.
func TestWhen_isNotAsked(t *testing.T) {
	for _, o := range outcomes {
		if !slices.Contains([]string{
			"total timeout", "deadline of the caller", "canceled", "canceled, connection reset", "refused by a breaker",
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
					t.Errorf("got %d calls of When and %d attempts, want 0 and 1", asked, r.attempts)
				}
			})
		})
	}
}

// TestWhen_ofAnyProtocol calls When for an exchange of another protocol, once per attempt.
func TestWhen_ofAnyProtocol(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		ctx, info := pillion.WithInfo(t.Context())
		upstream(t, Config{NumRetries: 3, When: func(o *policy.Outcome) bool {
			asked++
			return o.Code == 7 && asked < 3
		}}).Chain().Invoke(ctx, &answered{code: 7})
		if info.Attempts() != 3 || asked != 3 {
			t.Errorf("got %d attempts and %d calls of When, want 3 of each", info.Attempts(), asked)
		}
	})
}

// TestPanics panics in each function that the program supplies: the panic reaches the caller, no
// slot is held and no body is left open.
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
				// The calls take less than a minute, unless they wait for a slot that was never
				// freed.
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
					t.Errorf("got %d attempts sent and %d bodies open, want at least one per call, and 0", w.attempts(), w.open)
				}
			})
		})
	}
}

// panicking is a source of waits and a pattern that panics.
type panicking struct{ reset bool }

func (p panicking) Reset() {
	if p.reset {
		panic("boom")
	}
}
func (panicking) NextBackOff() time.Duration { panic("boom") }
func (panicking) MatchString(string) bool    { panic("boom") }
