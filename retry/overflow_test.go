package retry

import (
	"context"
	"errors"
	"io"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
)

// TestRefused uses policies inside that refuse attempts.
func TestRefused(t *testing.T) {
	full := func(*testing.T) policy.Policy { return limits.Config{MaxRequests: limits.Zero} }
	for _, tc := range []struct {
		name   string
		cfg    Config
		method string
		inside func(*testing.T) policy.Policy
		is     error
		want   int
	}{
		{"breaker", Config{On: "5xx"}, "GET", openBreaker, breaker.ErrOpen, 1},
		{"breaker, retried", Config{On: "reset", RetryRefused: true}, "GET", openBreaker, breaker.ErrOpen, 2},
		{"limits", Config{On: "5xx"}, "GET", full, limits.ErrFull, 1},
		{"limits, retried", Config{On: "reset", RetryRefused: true}, "GET", full, limits.ErrFull, 2},
		{"POST, retried by default conditions", Config{RetryRefused: true}, "POST", full, limits.ErrFull, 1},
		{
			"without the request header",
			Config{RetryRefused: true, RetriableRequestHeaders: []HeaderMatcher{{Name: "X-May"}}},
			"GET", full, limits.ErrFull, 1,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := answers(status(200))
				req := get(t.Context())
				req.Method = tc.method
				r := call(t, upstream(t, tc.cfg, tc.inside(t)), w, req)
				if r.attempts != tc.want || w.attempts() != 0 || !errors.Is(r.err, tc.is) {
					t.Errorf("got %d attempts, %d of them sent, and %v, want %d, 0 and %v",
						r.attempts, w.attempts(), r.err, tc.want, tc.is)
				}
				if !r.flags.Has(envoy.UO) {
					t.Errorf("got flags %v, want UO", r.flags)
				}
			})
		})
	}
}

// TestRetryRefusedFindsASlot retries a refusal until a slot is free.
func TestRetryRefusedFindsASlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := upstream(t, Config{On: "reset", NumRetries: 5, RetryRefused: true, Rand: always(0.5)}, limits.Config{MaxRequests: 1})
		transport := u.Transport(answers(status(200)))
		first, err := transport.RoundTrip(get(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(50*time.Millisecond, func() { _ = first.Body.Close() })
		r := call(t, u, answers(status(201)), get(t.Context()))
		// Waits of 12.5, 25 and 50ms.
		if r.code != 201 || r.attempts != 4 || r.elapsed != 87500*time.Microsecond {
			t.Errorf("got %d and %v after %d attempts and %v, want 201 after 4 and 87.5ms", r.code, r.err, r.attempts, r.elapsed)
		}
	})
}

// TestOverflow uses limits that refuse retries: the call returns the upstream's response.
func TestOverflow(t *testing.T) {
	for _, tc := range []struct {
		name   string
		limits limits.Config
	}{
		{"no retries", limits.Config{MaxRetries: limits.Zero}},
		{"no budget", limits.Config{RetryBudget: &limits.RetryBudget{MinRetryConcurrency: limits.Zero}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var d diary
				w := answers(status(503))
				u := upstream(t, Config{NumRetries: 2}, tc.limits, policy.Listener(d.listen))
				r := call(t, u, w, get(t.Context()))
				if r.code != 503 || r.body != "response 503" || r.flags != envoy.UO || r.detail != envoy.ViaUpstream || r.err != nil {
					t.Errorf("got %d %q, flags %v, detail %v, error %v, want the upstream's 503 with UO",
						r.code, r.body, r.flags, r.detail, r.err)
				}
				want := []string{"1 attempt", "1 retry overflow", "1 attempt end", "1 end"}
				if diff := cmp.Diff(want, d.lines()); diff != "" {
					t.Errorf("events (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestOverflowKeepsTheError uses limits that refuse the retry of a call without a response.
func TestOverflowKeepsTheError(t *testing.T) {
	u := upstream(t, Config{}, limits.Config{MaxRetries: limits.Zero})
	r := call(t, u, answers(failure(errRefusedDial)), get(t.Context()))
	if !errors.Is(r.err, syscall.ECONNREFUSED) || r.flags != envoy.UF|envoy.UO || r.attempts != 1 {
		t.Errorf("got %v with %v after %d attempts, want ECONNREFUSED with UF,UO after 1", r.err, r.flags, r.attempts)
	}
}

// TestRetrySlot follows the retry slot of one call: taken with the decision, held during the
// back-off, freed when the response headers arrive, before the body is read.
func TestRetrySlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := upstream(t, Config{BaseInterval: time.Second, Rand: always(0.5)}, limits.Config{MaxRetries: 1})
		probe := func(when string, want envoy.Flags) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), 600*time.Millisecond)
			defer cancel()
			if r := call(t, u, answers(status(503), status(200)), get(ctx)); r.flags != want {
				t.Errorf("%s: got flags %v for another call, want %v", when, r.flags, want)
			}
		}
		head, done := make(chan struct{}), make(chan struct{})
		var body io.Closer
		go func() {
			defer close(done)
			resp, err := u.Transport(answers(status(503), later(time.Second, status(200)))).RoundTrip(get(t.Context()))
			if err != nil {
				t.Error(err)
				return
			}
			body = resp.Body
			close(head)
		}()
		time.Sleep(100 * time.Millisecond)
		probe("in the back-off", envoy.UO)
		time.Sleep(500 * time.Millisecond)
		probe("in the attempt", envoy.UO)
		<-head
		probe("after the headers", 0)
		<-done
		body.Close()
	})
}

// TestRetrySlotAfterPanic panics in the retry: its slot must be freed.
func TestRetrySlotAfterPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := upstream(t, Config{On: "5xx"}, limits.Config{MaxRetries: 1, MaxRequests: 1})
		for range 3 {
			runs := 0
			func() {
				defer func() {
					if got := recover(); got != "boom" {
						t.Errorf("got panic %v, want boom", got)
					}
				}()
				_, _ = pillion.Do(t.Context(), u, func(context.Context) (int, error) {
					if runs++; runs == 2 {
						panic("boom")
					}
					return 0, errBroken
				})
			}()
			if runs != 2 {
				t.Errorf("got %d runs, want 2", runs)
			}
		}
	})
}
