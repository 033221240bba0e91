package retry

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/timeout"
)

// TestDeadline uses waits that do not fit in the remaining time.
func TestDeadline(t *testing.T) {
	const limit = 100 * time.Millisecond
	byCaller := func(ctx context.Context) (context.Context, context.CancelFunc) {
		return context.WithTimeout(ctx, limit)
	}
	total := timeout.Config{Total: limit}
	unlimited := timeout.Config{Total: timeout.Unlimited}
	for _, tc := range []struct {
		name    string
		limit   timeout.Config
		caller  func(context.Context) (context.Context, context.CancelFunc)
		wait    time.Duration
		answers []answer
		sent    []time.Duration
		code    int
		elapsed time.Duration
		scope   policy.Scope // of the error; 0 for another error
		is      error
		fits    bool // every wait fits
	}{
		{name: "total, response", limit: total, wait: limit, answers: []answer{status(503)}, sent: []time.Duration{0}, code: 503},
		{
			name: "caller, response", limit: unlimited, caller: byCaller, wait: limit,
			answers: []answer{status(503)}, sent: []time.Duration{0}, code: 503,
		},
		{
			name: "total, wait fits exactly", limit: total, wait: limit - 1,
			answers: []answer{status(503), status(200)}, sent: []time.Duration{0, limit - 1}, code: 200, elapsed: limit - 1, fits: true,
		},
		{
			name: "total, second wait does not fit", limit: total, wait: 40 * time.Millisecond,
			answers: []answer{status(503), later(30*time.Millisecond, status(502))},
			sent:    []time.Duration{0, 40 * time.Millisecond}, code: 502, elapsed: 70 * time.Millisecond,
		},
		{
			name: "total, failure with time left", limit: total, wait: limit,
			answers: []answer{failure(errRefusedDial)}, sent: []time.Duration{0}, is: syscall.ECONNREFUSED,
		},
		{
			name: "total, failure and no time left", limit: total, wait: 0,
			answers: []answer{func(*http.Request) (*http.Response, error) {
				time.Sleep(limit - 1)
				return nil, errRefusedDial
			}, func(*http.Request) (*http.Response, error) {
				time.Sleep(time.Nanosecond)
				return nil, errRefusedDial
			}},
			sent: []time.Duration{0, limit - 1}, elapsed: limit, scope: timeout.Total, is: syscall.ECONNREFUSED, fits: true,
		},
		{
			name: "caller, failure and no time left", limit: unlimited, caller: byCaller, wait: 0,
			answers: []answer{func(req *http.Request) (*http.Response, error) {
				<-req.Context().Done()
				return nil, errRefusedDial
			}},
			sent: []time.Duration{0}, elapsed: limit, scope: timeout.Caller, is: syscall.ECONNREFUSED, fits: true,
		},
		{
			name: "caller's is tighter", limit: timeout.Config{Total: time.Hour}, caller: byCaller, wait: limit,
			answers: []answer{status(503)}, sent: []time.Duration{0}, code: 503,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if tc.caller != nil {
					var cancel context.CancelFunc
					ctx, cancel = tc.caller(ctx)
					defer cancel()
				}
				w := answers(tc.answers...)
				cfg := Config{NumRetries: 5, BaseInterval: 2 * tc.wait, MaxInterval: 2 * tc.wait, Rand: always(0.5)}
				if tc.wait == 0 {
					cfg.Rand = always(0)
				}
				var d diary
				r := call(t, upstream(t, tc.limit, cfg, policy.Listener(d.listen)), w, get(ctx))
				if got := d.has(policy.EventRetryTooLate); got == tc.fits {
					t.Errorf("got events %q, want one %q: %v", d.lines(), policy.EventRetryTooLate, !tc.fits)
				}
				if diff := cmp.Diff(tc.sent, w.times()); diff != "" {
					t.Errorf("attempts sent (-want +got):\n%s", diff)
				}
				if r.code != tc.code || r.elapsed != tc.elapsed {
					t.Errorf("got status %d, error %v after %v, want %d after %v", r.code, r.err, r.elapsed, tc.code, tc.elapsed)
				}
				if tc.code != 0 && !strings.HasPrefix(r.body, "response ") {
					t.Errorf("got body %q, want that of the response", r.body)
				}
				if tc.is != nil && !errors.Is(r.err, tc.is) {
					t.Errorf("got error %v, want it to wrap %v", r.err, tc.is)
				}
				var limit *timeout.Error
				if got := errors.As(r.err, &limit); got != (tc.scope != 0) || (got && limit.Scope != tc.scope) {
					t.Errorf("got error %v, want scope %v", r.err, tc.scope)
				}
				if tc.scope != 0 && (!errors.Is(r.err, context.DeadlineExceeded) || !r.flags.Has(envoy.UT)) {
					t.Errorf("got error %v, flags %v, want DeadlineExceeded and UT", r.err, r.flags)
				}
			})
		})
	}
}

// TestTooLateDiscards uses a policy inside that turns a response into an error, and a call that
// runs out of time before the retry. The caller does not receive the response, so it must be
// closed and its slot freed.
func TestTooLateDiscards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := answers(status(503))
		u := upstream(t, timeout.Config{Total: time.Second},
			Retryable{SleepFunc: func(int) time.Duration { time.Sleep(2 * time.Second); return 0 }},
			limits.Config{MaxRequests: 1}, erring{})
		for i := range 3 {
			r := call(t, u, w, get(t.Context()))
			if !errors.Is(r.err, context.DeadlineExceeded) || !errors.Is(r.err, errBroken) || w.open != 0 {
				t.Errorf("call %d: got %v with %d bodies open, want a timeout that wraps errBroken, with 0", i, r.err, w.open)
			}
		}
		if w.attempts() != 3 {
			t.Errorf("got %d attempts sent, want 3", w.attempts())
		}
	})
}

// erring is a policy that turns each response into an error.
type erring struct{}

func (erring) Wrap(_ *policy.Builder, next policy.Func) (policy.Func, error) {
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		o := next(ctx, c)
		o.Err, o.Conditions = errBroken, o.Conditions|policy.Failed
		return o
	}, nil
}

// TestCallerLeaves cancels the call during the back-off.
func TestCallerLeaves(t *testing.T) {
	const stay = 100 * time.Millisecond
	for _, tc := range []struct {
		name   string
		answer answer
		last   error
	}{
		{"after a response", status(503), nil},
		{"after a failure", failure(errRefusedDial), syscall.ECONNREFUSED},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				time.AfterFunc(stay, cancel)
				w := answers(tc.answer)
				var d diary
				u := upstream(t, Config{NumRetries: 9, BaseInterval: time.Minute, Rand: always(0.5)}, limits.Config{MaxRetries: 1},
					policy.Listener(d.listen))
				r := call(t, u, w, get(ctx))
				if !errors.Is(r.err, context.Canceled) || (tc.last != nil && !errors.Is(r.err, tc.last)) {
					t.Errorf("got %v, want it to wrap context.Canceled and %v", r.err, tc.last)
				}
				if r.elapsed != stay || w.attempts() != 1 || r.flags != envoy.DC || w.open != 0 {
					t.Errorf("got %v, %d attempts, flags %v, %d bodies open, want %v, 1, DC, 0",
						r.elapsed, w.attempts(), r.flags, w.open, stay)
				}
				for _, kind := range []policy.EventKind{
					policy.EventRetry, policy.EventRetryLimitExceeded, policy.EventRetrySuccess,
				} {
					if d.has(kind) {
						t.Errorf("got events %q, want no %v", d.lines(), kind)
					}
				}
				if r := call(t, u, answers(status(503), status(200)), get(t.Context())); r.code != 200 {
					t.Errorf("got %d with flags %v from the next call, want the retry slot to be free", r.code, r.flags)
				}
			})
		})
	}
}
