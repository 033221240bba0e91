package pillion_test

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// longest are limits that must never fire: they must not overflow.
func longest() map[string]timeout.Config {
	const most, decades = math.MaxInt64, 40 * 365 * 24 * time.Hour
	return map[string]timeout.Config{
		"total":              {Total: most},
		"total, a bit less":  {Total: most - 1},
		"per try":            {Total: timeout.Unlimited, PerTry: most},
		"idle":               {Total: timeout.Unlimited, Idle: most},
		"idle, a bit less":   {Total: timeout.Unlimited, Idle: most - 1},
		"all":                {Total: most, PerTry: most - 1, Idle: most - 2},
		"all, a bit less":    {Total: most - 1, PerTry: most - 2, Idle: most - 3},
		"all, decades":       {Total: decades, PerTry: decades - 1, Idle: decades - 2},
		"total, and decades": {Total: most, PerTry: decades, Idle: decades},
	}
}

// TestLongest_do runs and retries a function under limits that never fire, some time after the
// upstream was made.
func TestLongest_do(t *testing.T) {
	for name, limits := range longest() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				limits.ExpectedHeader = true
				u := newUpstream(t, limits, retry.Config{On: "5xx"})
				time.Sleep(time.Hour)
				n := 0
				got, err := pillion.Do(t.Context(), u, func(ctx context.Context) (int, error) {
					if d, ok := ctx.Deadline(); ok && d.Before(time.Now().Add(time.Hour)) {
						t.Errorf("got the deadline %v, want one far away, or none", d)
					}
					time.Sleep(time.Minute)
					if n++; n == 1 {
						return 0, errBroken
					}
					return n, ctx.Err()
				})
				if got != 2 || err != nil {
					t.Errorf("got %d, %v, want 2 after a retry", got, err)
				}
			})
		})
	}
}

// TestLongest_http is TestLongest_do over HTTP: no header announces a time that has passed or is
// very short, and the body is read to its end, however slowly.
func TestLongest_http(t *testing.T) {
	for name, limits := range longest() {
		for _, upload := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", upload"}[upload], func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					limits.ExpectedHeader = true
					u := newUpstream(t, limits, retry.Config{}, pillion.Options{Sidecar: true, ReplayBuffer: 100})
					time.Sleep(time.Hour)
					req := get(t.Context(), t)
					if upload {
						req.Method, req.Body = http.MethodPut, newTape(t.Context(), io.EOF, piece{time.Now().Add(time.Minute), "order"})
					}
					resp, err := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
						for _, name := range []string{"X-Envoy-Expected-Rq-Timeout-Ms", "X-Envoy-Upstream-Rq-Timeout-Ms"} {
							value := req.Header.Get(name)
							if ms, err := strconv.ParseInt(value, 10, 64); value != "" && (err != nil || ms < time.Hour.Milliseconds()) {
								t.Errorf("%s: got %q, want a long time, or none", name, value)
							}
						}
						if req.Body != nil {
							_, _ = io.Copy(io.Discard, req.Body)
							_ = req.Body.Close()
						}
						time.Sleep(time.Minute)
						return streams(newTape(req.Context(), io.EOF, piece{time.Now().Add(time.Hour), "soup"}))(req)
					})).RoundTrip(req)
					if err != nil {
						t.Fatal(err)
					}
					if body, err := io.ReadAll(resp.Body); string(body) != "soup" || err != nil {
						t.Errorf("got %q, %v, want soup", body, err)
					}
				})
			})
		}
	}
}

// TestLongest_unary pins the deadline that a unary protocol propagates.
func TestLongest_unary(t *testing.T) {
	for name, limits := range longest() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := newUpstream(t, limits)
				time.Sleep(time.Hour)
				o := u.Chain().Invoke(t.Context(), &letter{try: func(ctx context.Context, o *policy.Outcome) {
					if d, ok := ctx.Deadline(); ok && d.Before(time.Now().Add(time.Hour)) {
						t.Errorf("got the deadline %v, want one far away, or none", d)
					}
					time.Sleep(time.Minute)
					o.Err = ctx.Err()
				}})
				if o.Err != nil {
					t.Errorf("got %v, want a whole call", o.Err)
				}
			})
		})
	}
}

// TestLongest_caller makes calls whose deadline is the largest time, or later.
func TestLongest_caller(t *testing.T) {
	for name, deadline := range map[string]time.Time{
		"292 years":    time.Now().Add(math.MaxInt64),
		"year 9999":    time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC),
		"year 200,000": time.Date(200_000, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithDeadline(t.Context(), deadline)
				defer cancel()
				for _, limits := range []timeout.Config{{Total: math.MaxInt64}, {Total: time.Hour, PerTry: time.Minute}, {Total: timeout.Unlimited, Idle: math.MaxInt64}} {
					limits.ExpectedHeader = true
					resp, err := newUpstream(t, limits, retry.Config{}).Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
						time.Sleep(time.Second)
						if err := req.Context().Err(); err != nil {
							return nil, err
						}
						return answer(http.StatusOK, "soup"), nil
					})).RoundTrip(get(ctx, t))
					if err != nil {
						t.Errorf("%+v: %v", limits, err)
						continue
					}
					_ = resp.Body.Close()
				}
			})
		})
	}
}

// TestLongest_shorterFires sets a long limit and a short one: the short one fires.
func TestLongest_shorterFires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		long := before(func(c *policy.Call) {
			c.LimitTotal(math.MaxInt64)
			c.LimitPerTry(math.MaxInt64)
			c.LimitIdle(math.MaxInt64)
		})
		for want, limits := range map[policy.Scope]timeout.Config{
			policy.ScopeTotal:  {Total: time.Second},
			policy.ScopePerTry: {Total: timeout.Unlimited, PerTry: time.Second},
			policy.ScopeIdle:   {Total: timeout.Unlimited, Idle: time.Second},
		} {
			began := time.Now()
			_, err := pillion.Do(t.Context(), newUpstream(t, long, limits, long), func(ctx context.Context) (int, error) {
				<-ctx.Done()
				return 0, ctx.Err()
			})
			if took := time.Since(began); scopeOf(err) != want || took != time.Second || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v after %v, want the %v limit after 1s", err, took, want)
			}
		}
	})
}
