package retry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// TestEligible checks which calls can be retried.
func TestEligible(t *testing.T) {
	keyed := []string{"Idempotency-Key", "1"}
	for _, tc := range []struct {
		name   string
		cfg    Config
		method string
		header []string
		want   int // attempts
	}{
		{"default, no method", Config{}, "", nil, 2},
		{"default, GET", Config{}, "GET", nil, 2},
		{"default, HEAD", Config{}, "HEAD", nil, 2},
		{"default, OPTIONS", Config{}, "OPTIONS", nil, 2},
		{"default, TRACE", Config{}, "TRACE", nil, 2},
		{"default, PUT", Config{}, "PUT", nil, 2},
		{"default, DELETE", Config{}, "DELETE", nil, 2},
		{"default, POST", Config{}, "POST", nil, 1},
		{"default, PATCH", Config{}, "PATCH", nil, 1},
		{"default, CONNECT", Config{}, "CONNECT", nil, 1},
		{"default, lower case", Config{}, "get", nil, 1},
		{"default, POST with a key", Config{}, "POST", keyed, 2},
		{"default, POST with the older key", Config{}, "POST", []string{"X-Idempotency-Key", "1"}, 2},
		{"default, blank On", Config{On: " "}, "POST", nil, 1},
		{"conditions, POST", Config{On: "5xx"}, "POST", nil, 2},
		{"conditions, PATCH", Config{On: "gateway-error"}, "PATCH", nil, 2},
		{
			"request header missing",
			Config{On: "5xx", RetriableRequestHeaders: []HeaderMatcher{{Name: "X-May"}}},
			"GET", nil, 1,
		},
		{
			"request header present",
			Config{On: "5xx", RetriableRequestHeaders: []HeaderMatcher{{Name: "X-Or"}, {Name: "X-May"}}},
			"GET",
			[]string{"X-May", "yes"},
			2,
		},
		{
			"request header of another value",
			Config{On: "5xx", RetriableRequestHeaders: []HeaderMatcher{{Name: "X-May", Exact: "yes"}}},
			"GET",
			[]string{"X-May", "no"},
			1,
		},
		{
			"request header restricts the default conditions too",
			Config{RetriableRequestHeaders: []HeaderMatcher{{Name: "X-May"}}},
			"GET", nil, 1,
		},
		{
			"request header does not make a POST idempotent",
			Config{RetriableRequestHeaders: []HeaderMatcher{{Name: "X-May"}}},
			"POST",
			[]string{"X-May", "yes"},
			1,
		},
		{
			"inverted request header missing",
			Config{On: "5xx", RetriableRequestHeaders: []HeaderMatcher{{Name: "X-Once", Invert: true}}},
			"GET", nil, 2,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				req := get(t.Context())
				req.Method = tc.method
				for i := 0; i < len(tc.header); i += 2 {
					req.Header.Set(tc.header[i], tc.header[i+1])
				}
				w := answers(status(503))
				r := call(t, upstream(t, tc.cfg), w, req)
				if r.attempts != tc.want || w.attempts() != tc.want {
					t.Errorf("got %d attempts, %d of them sent, want %d", r.attempts, w.attempts(), tc.want)
				}
				// A call that the policy does not concern has not used up its retries.
				if got, want := r.flags.Has(envoy.URX), tc.want == 2; got != want {
					t.Errorf("got URX %v, want %v", got, want)
				}
			})
		})
	}
}

// TestNumRetries checks the number of attempts and the final event.
func TestNumRetries(t *testing.T) {
	for _, tc := range []struct {
		name    string
		retries int
		answers []answer
		want    int
		code    int
		flags   envoy.Flags
		heard   policy.EventKind
	}{
		{"default", 0, []answer{status(503)}, 2, 503, envoy.URX, policy.EventRetryLimitExceeded},
		{"none", Never, []answer{status(503)}, 1, 503, envoy.URX, policy.EventRetryLimitExceeded},
		{"three", 3, []answer{status(503)}, 4, 503, envoy.URX, policy.EventRetryLimitExceeded},
		{"good immediately", 3, []answer{status(200)}, 1, 200, 0, policy.EventEnd},
		{"good finally", 3, []answer{status(503), status(502), status(504), status(200)}, 4, 200, 0, policy.EventRetrySuccess},
		// As in Envoy, a result that needs no retry is a success of the retry, whatever it is.
		{"not found finally", 3, []answer{status(503), status(404)}, 2, 404, 0, policy.EventRetrySuccess},
		// A response after a 1xx response is no success of the retry.
		{"good finally, after a 1xx response", 3, []answer{status(503), informational(status(200))}, 2, 200, 0, policy.EventEnd},
		{"not implemented finally", 3, []answer{status(503), status(501)}, 2, 501, 0, policy.EventRetrySuccess},
		{
			"failure that is not retried finally", 3,
			[]answer{status(503), failure(backoff.Permanent(errBroken))},
			2, 0,
			envoy.UC, policy.EventRetrySuccess,
		},
		{
			"failure finally", 1,
			[]answer{status(503), failure(syscall.ECONNRESET)},
			2, 0,
			envoy.URX | envoy.UC, policy.EventRetryLimitExceeded,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var d diary
				w := answers(tc.answers...)
				u := upstream(t, Config{On: "gateway-error", NumRetries: tc.retries}, policy.Listener(d.listen))
				r := call(t, u, w, get(t.Context()))
				if r.attempts != tc.want || w.attempts() != tc.want || r.code != tc.code || r.flags != tc.flags {
					t.Errorf("got %d attempts (%d sent), status %d, flags %v, want %d, %d, %v",
						r.attempts, w.attempts(), r.code, r.flags, tc.want, tc.code, tc.flags)
				}
				if !d.has(tc.heard) {
					t.Errorf("got events %q, want one %q", d.lines(), tc.heard)
				}
				if tc.heard != policy.EventRetrySuccess && d.has(policy.EventRetrySuccess) {
					t.Errorf("got events %q, want no %q", d.lines(), policy.EventRetrySuccess)
				}
				if w.open != 0 {
					t.Errorf("got %d of %d response bodies open, want all closed", w.open, w.served)
				}
				if tc.code != 0 && !strings.HasPrefix(r.body, "response ") {
					t.Errorf("got body %q, want that of the last response", r.body)
				}
			})
		})
	}
}

// TestRespondedIsNotRetried breaks the body of a response that the caller has received.
func TestRespondedIsNotRetried(t *testing.T) {
	w := answers(func(req *http.Request) (*http.Response, error) {
		resp, err := status(200)(req)
		resp.Body = io.NopCloser(io.MultiReader(strings.NewReader("half"), brokenReader{}))
		return resp, err
	})
	resp, err := upstream(t, Config{On: "5xx,reset", NumRetries: 3}).Transport(w).RoundTrip(get(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if string(body) != "half" || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got body %q and error %v, want half of it and ECONNRESET", body, err)
	}
	if w.attempts() != 1 {
		t.Errorf("got %d attempts, want 1", w.attempts())
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, syscall.ECONNRESET }

// TestDo retries plain functions.
func TestDo(t *testing.T) {
	for _, tc := range []struct {
		name string
		cfg  Config
		err  error
		want int
	}{
		{"default: a function is not idempotent", Config{}, errBroken, 1},
		{"5xx matches any failure", Config{On: "5xx"}, errBroken, 2},
		{"gateway-error does not", Config{On: "gateway-error"}, errBroken, 1},
		{"connection refused", Config{On: "connect-failure"}, errRefusedDial, 2},
		{"success", Config{On: "5xx"}, nil, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				runs := 0
				got, err := pillion.Do(t.Context(), upstream(t, tc.cfg), func(context.Context) (int, error) {
					runs++
					return runs, tc.err
				})
				if runs != tc.want || got != tc.want || !errors.Is(err, tc.err) {
					t.Errorf("got %d runs, value %d and error %v, want %d runs and %v", runs, got, err, tc.want, tc.err)
				}
			})
		})
	}
}

// canned always returns the same outcome.
type canned struct{ outcome policy.Outcome }

func (p canned) Wrap(*policy.Builder, policy.Func) (policy.Func, error) {
	o := p.outcome
	return func(context.Context, *policy.Call) *policy.Outcome { return &o }, nil
}

// TestNeverRetried uses outcomes that are no failure of the upstream, whatever their other
// conditions.
func TestNeverRetried(t *testing.T) {
	const all = policy.Failure | policy.Retriable4xx
	for _, tc := range []struct {
		name   string
		is     policy.Condition
		policy policy.Policy
		want   int
	}{
		{"failure", all, Config{On: "5xx", Rand: always(0)}, 2},
		{"failure, Retryable", all, Retryable{Sleep: Zero}, 2},
		{"canceled", all | policy.Cancelled, Config{On: "5xx"}, 1},
		{"canceled, Retryable", all | policy.Cancelled, Retryable{}, 1},
		{"invalid", all | policy.Invalid, Config{On: "5xx"}, 1},
		{"invalid, Retryable", all | policy.Invalid, Retryable{}, 1},
		{"refused", all | policy.Refused, Config{On: "5xx"}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, info := pillion.WithInfo(t.Context())
			upstream(t, tc.policy, canned{policy.Outcome{Err: errBroken, Conditions: tc.is}}).Chain().Invoke(ctx, &answered{})
			if got := info.Attempts(); got != tc.want {
				t.Errorf("got %d attempts, want %d", got, tc.want)
			}
		})
	}
}

// measured counts the allocations of the policies inside it.
type measured struct{ allocs *float64 }

func (p measured) Wrap(_ *policy.Builder, next policy.Func) (policy.Func, error) {
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		*p.allocs = testing.AllocsPerRun(100, func() { next(ctx, c) })
		return next(ctx, c)
	}, nil
}

// TestNoRetryCostsNothing measures the allocations of calls that are not retried.
func TestNoRetryCostsNothing(t *testing.T) {
	for _, p := range []policy.Policy{
		Config{}, Config{On: "5xx,retriable-status-codes", RetriableStatusCodes: []int{429}}, Retryable{},
	} {
		for _, o := range []policy.Outcome{
			{Code: 200, Detail: envoy.ViaUpstream},
			{Err: errBroken, Conditions: policy.Cancelled, Detail: envoy.CallerGone},
		} {
			var allocs float64
			upstream(t, measured{&allocs}, p, canned{o}).Chain().Invoke(t.Context(), &answered{})
			if allocs != 0 {
				t.Errorf("%T, outcome %v: got %v allocations, want 0", p, o.Detail, allocs)
			}
		}
	}
}

// TestEvents checks the events of a call in each course it can take.
func TestEvents(t *testing.T) {
	for _, tc := range []struct {
		name    string
		answers []answer
		inside  func(*testing.T) policy.Policy
		want    []string
	}{
		{
			"good immediately",
			[]answer{status(200)},
			nil,
			[]string{"1 attempt", "1 attempt end", "1 end"},
		},
		{
			"retried responses",
			[]answer{status(503), status(502, "Retry-After", "2"), status(200)},
			nil,
			[]string{
				"1 attempt", "1 retry scheduled 5ms", "1 attempt end", "1 retry 5ms",
				"2 attempt", "2 retry scheduled 2.5s as asked for", "2 attempt end", "2 retry 2.5s as asked for",
				"3 attempt", "3 retry success", "3 attempt end", "1 end",
			},
		},
		{
			"retried failures, used up",
			[]answer{failure(errRefusedDial)},
			nil,
			[]string{
				"1 attempt", "1 attempt end", "1 retry scheduled 5ms", "1 retry 5ms",
				"2 attempt", "2 attempt end", "2 retry scheduled 10ms", "2 retry 10ms",
				"3 attempt", "3 attempt end", "3 retry limit exceeded", "1 end",
			},
		},
		{
			"refused",
			[]answer{status(200)},
			openBreaker,
			[]string{
				"1 refused", "1 retry scheduled 5ms", "1 retry 5ms",
				"2 refused", "2 retry scheduled 10ms", "2 retry 10ms",
				"3 refused", "3 retry limit exceeded", "1 end",
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var d diary
				policies := []policy.Policy{
					policy.Listener(d.listen),
					Config{NumRetries: 2, BaseInterval: 10 * time.Millisecond, Rand: always(0.5), RetryRefused: true},
				}
				if tc.inside != nil {
					policies = append(policies, tc.inside(t))
				}
				call(t, upstream(t, policies...), answers(tc.answers...), get(t.Context()))
				if diff := cmp.Diff(tc.want, d.lines()); diff != "" {
					t.Errorf("events (-want +got):\n%s", diff)
				}
			})
		})
	}
}
