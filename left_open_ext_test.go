package pillion_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/timeout"
)

// replacements are what a policy may return in place of a response that it leaves open.
func replacements() map[string]func(ctx context.Context, c *policy.Call, o *policy.Outcome) *policy.Outcome {
	type replace = func(ctx context.Context, c *policy.Call, o *policy.Outcome) *policy.Outcome
	return map[string]replace{
		"an error": func(context.Context, *policy.Call, *policy.Outcome) *policy.Outcome {
			return &policy.Outcome{Err: errBroken, Conditions: policy.Failed}
		},
		"an error with the value": func(_ context.Context, _ *policy.Call, o *policy.Outcome) *policy.Outcome {
			return &policy.Outcome{Value: o.Value, Err: errBroken, Conditions: policy.Failed}
		},
		"an error of the outcome": func(_ context.Context, _ *policy.Call, o *policy.Outcome) *policy.Outcome {
			o.Err, o.Conditions = errBroken, policy.Failed
			return o
		},
		"another response": func(context.Context, *policy.Call, *policy.Outcome) *policy.Outcome {
			return &policy.Outcome{Value: answer(http.StatusTeapot, "tea"), Code: http.StatusTeapot}
		},
		"nothing": func(context.Context, *policy.Call, *policy.Outcome) *policy.Outcome { return &policy.Outcome{} },
		"Refuse": func(_ context.Context, c *policy.Call, _ *policy.Outcome) *policy.Outcome {
			return c.Refuse(errBroken, limits.Overflow)
		},
		"Expired": func(_ context.Context, c *policy.Call, o *policy.Outcome) *policy.Outcome { return c.Expired(o) },
		"Gone": func(ctx context.Context, c *policy.Call, o *policy.Outcome) *policy.Outcome {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return c.Gone(ctx, o)
		},
		"a second attempt": func(context.Context, *policy.Call, *policy.Outcome) *policy.Outcome { return nil },
	}
}

// replacing is a policy that leaves responses open. If replace returns nil it makes a second
// attempt, and leaves the first response open, too.
type replacing func(ctx context.Context, c *policy.Call, o *policy.Outcome) *policy.Outcome

func (replacing) Place() policy.Place { return policy.Place{Rank: policy.Retries} }

func (r replacing) Wrap(_ *policy.Builder, next policy.Func) (policy.Func, error) {
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		o := next(ctx, c)
		if other := r(ctx, c, o); other != nil {
			return other
		}
		return next(ctx, c.Next())
	}, nil
}

// TestLeftOpen returns something other than the response from a policy. The response that is left
// open is discarded: slots, gauges, connections and the trial of a breaker are freed, and inner
// policies receive the response unchanged.
func TestLeftOpen(t *testing.T) {
	for name, replace := range replacements() {
		for _, nested := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", nested"}[nested], func(t *testing.T) {
				wantNoLeaks(t)
				server, conns := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "soup") })
				l := newLedger(t)
				var inner []policy.Outcome
				policies := []pillion.Policy{pillion.AnyOrder{}}
				if nested {
					policies = append(policies, around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
						return &policy.Outcome{Err: next(ctx, c).Err}
					}))
				}
				policies = append(policies, timeout.Config{Total: patience}, replacing(replace), limits.Config{MaxRequests: 2},
					atEnd(func(_ *policy.Call, o *policy.Outcome) { inner = append(inner, *o) }))
				u := l.upstream(t, policies...)
				base := &http.Transport{}
				defer base.CloseIdleConnections()
				attempts := map[bool]int{true: 2, false: 1}[name == "a second attempt"]
				for n := 1; n <= 3; n++ {
					resp, err := u.Transport(base).RoundTrip(newRequest(t, http.MethodGet, server.URL, nil))
					if err == nil {
						_, _ = io.Copy(io.Discard, resp.Body)
						_ = resp.Body.Close()
					}
					l.wantBalanced(t, n, n*attempts)
				}
				if name == "an error of the outcome" { // inner policies receive the change, too
					l.wantCounted(t, breaker.Status{Failure: 3})
				} else {
					l.wantCounted(t, breaker.Status{Success: int64(3 * attempts)})
				}
				for _, o := range inner {
					if o.Code != http.StatusOK || o.Err != nil && name != "an error of the outcome" {
						t.Errorf("inside: got %d, %v, want the response that came", o.Code, o.Err)
					}
				}
				conns.wantEver(t, 1, attempts)
				base.CloseIdleConnections()
				conns.wantNone(t)
			})
		}
	}
}

// TestLeftOpen_sameResponse makes a new Outcome around the response in a policy: the caller can
// read the response, and the call ends with it.
func TestLeftOpen_sameResponse(t *testing.T) {
	l := newLedger(t)
	u := l.upstream(t, around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
		o := next(ctx, c)
		return &policy.Outcome{Value: o.Value, Code: o.Code, Detail: o.Detail}
	}), limits.Config{MaxRequests: 1})
	for n := 1; n <= 2; n++ {
		resp, err := u.Transport(answers(http.StatusOK, "soup")).RoundTrip(get(t.Context(), t))
		if err != nil {
			t.Fatal(err)
		}
		if ended := l.count(policy.EventEnd); ended != n-1 {
			t.Errorf("while the body is read: got %d ended calls, want %d", ended, n-1)
		}
		if body, err := io.ReadAll(resp.Body); string(body) != "soup" || err != nil {
			t.Errorf("got %q, %v, want soup", body, err)
		}
		_ = resp.Body.Close()
		l.wantBalanced(t, n, n)
	}
}

// TestLeftOpen_incomparable uses a custom protocol whose values cannot be compared.
func TestLeftOpen_incomparable(t *testing.T) {
	u := newUpstream(t, around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
		return &policy.Outcome{Value: next(ctx, c).Value}
	}))
	x := &letter{open: true, try: func(_ context.Context, o *policy.Outcome) { o.Value = []byte("dear") }}
	if o := u.Chain().Invoke(t.Context(), x); o.Open() || len(x.dropped) != 1 {
		t.Errorf("got open %v, %d discarded, want a finished outcome and the attempt discarded", o.Open(), len(x.dropped))
	}
}

// TestLeftOpen_trial leaves the response of a breaker's trial open: the next trial is admitted.
func TestLeftOpen_trial(t *testing.T) {
	settings, err := breaker.GobreakerSettings(breaker.Config{NonBreakCount: 1, Sleep: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	twoStep, err := breaker.FromGobreaker[any](gobreaker.NewTwoStepCircuitBreaker[any](settings))
	if err != nil {
		t.Fatal(err)
	}
	own, err := breaker.New(breaker.Config{NonBreakCount: 1, Sleep: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]pillion.Policy{"breaker": own, "two-step gobreaker": twoStep} {
		t.Run(name, func(t *testing.T) {
			leave := true
			u := newUpstream(t, around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
				if o := next(ctx, c); !leave {
					return o
				}
				return &policy.Outcome{Err: errBroken}
			}), b)
			rt := u.Transport(streams(io.NopCloser(strings.NewReader("soup"))))
			down := func(context.Context) (int, error) { return 0, errBroken }
			for range 3 { // opens the breaker
				_, _ = pillion.Do(t.Context(), u, down)
			}
			wantLet(t, rt) // the trial
			leave = false
			wantLet(t, rt)
		})
	}
}

// wantLet waits until a breaker admits a call.
func wantLet(t *testing.T, rt http.RoundTripper) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		resp, err := rt.RoundTrip(get(t.Context(), t))
		if err == nil {
			_ = resp.Body.Close()
		}
		if !errors.Is(err, breaker.ErrOpen) {
			return
		}
	}
	t.Fatalf("got no call through within %v", patience)
}
