package timeout

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/policy"
)

// TestErrorThroughAClient checks the error of a timeout that http.Client returns.
func TestErrorThroughAClient(t *testing.T) {
	for _, tc := range []struct {
		name   string
		cfg    Config
		caller time.Duration
		text   string
		want   Error
	}{
		{
			"total",
			Config{Total: 2 * time.Second},
			never, "timeout: recipes: total limit of 2s reached",
			Error{Upstream: "recipes", Scope: Total, Limit: 2 * time.Second},
		},
		{
			"per try",
			Config{PerTry: 300 * ms},
			never, "timeout: recipes: per-try limit of 300ms reached",
			Error{Upstream: "recipes", Scope: PerTry, Limit: 300 * ms},
		},
		{
			"idle",
			Config{Idle: 100 * ms},
			never, "timeout: recipes: idle limit of 100ms reached",
			Error{Upstream: "recipes", Scope: Idle, Limit: 100 * ms},
		},
		{
			"caller",
			Config{},
			time.Second, "timeout: recipes: caller deadline passed",
			Error{Upstream: "recipes", Scope: Caller},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), tc.caller)
				defer cancel()
				_, err := (&http.Client{Transport: upstream(t, tc.cfg).Transport(server{head: never})}).Do(get(ctx))
				var wrapped *url.Error
				var limit *Error
				var network net.Error
				switch {
				case !errors.As(err, &wrapped) || !wrapped.Timeout():
					t.Errorf("got %#v, want an url.Error that is a timeout", err)
				case !errors.As(err, &limit) || *limit != tc.want:
					t.Errorf("got %+v, want %+v", limit, tc.want)
				case limit.Error() != tc.text:
					t.Errorf("got text %q, want %q", limit, tc.text)
				case !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled):
					t.Errorf("got %v, want it to be DeadlineExceeded and not Canceled", err)
				case !errors.As(err, &network) || !network.Timeout():
					t.Errorf("got %v, want a net.Error that is a timeout", err)
				}
				if got, want := err.Error(), `Get "http://recipes/1": `+tc.text; got != want {
					t.Errorf("got text %q, want %q", got, want)
				}
			})
		})
	}
}

// TestClientTimeout uses the Timeout of an http.Client as the caller's deadline.
func TestClientTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := &http.Client{Transport: upstream(t, Config{}).Transport(server{head: never}), Timeout: time.Second}
		_, err := client.Do(get(t.Context()))
		var network net.Error
		if !errors.As(err, &network) || !network.Timeout() || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want a timeout", err)
		}
	})
}

// TestFunctions uses functions that reach a timeout.
func TestFunctions(t *testing.T) {
	const limit = 100 * ms
	for _, tc := range []struct {
		name    string
		work    func(ctx context.Context) (string, error)
		elapsed time.Duration
		cause   error
		text    string
	}{
		{
			"honors its context", func(ctx context.Context) (string, error) { return "", wait(ctx, never) }, limit,
			nil, "timeout: recipes: per-try limit of 100ms reached",
		},
		{
			"wraps the context's error",
			func(ctx context.Context) (string, error) { return "", fmt.Errorf("query: %w", wait(ctx, never)) }, limit,
			context.DeadlineExceeded, "timeout: recipes: per-try limit of 100ms reached: query: context deadline exceeded",
		},
		{
			"returns the cause", func(ctx context.Context) (string, error) {
				<-ctx.Done()
				return "", context.Cause(ctx)
			}, limit, nil, "timeout: recipes: per-try limit of 100ms reached",
		},
		{
			"returns another error", func(ctx context.Context) (string, error) {
				<-ctx.Done()
				return "", errBroken
			}, limit, errBroken, "timeout: recipes: per-try limit of 100ms reached: broken",
		},
		{
			"ignores its context, and succeeds late", func(context.Context) (string, error) {
				time.Sleep(10 * limit)
				return "late", nil
			}, 10 * limit, nil, "timeout: recipes: per-try limit of 100ms reached",
		},
		{
			"ignores its context, and fails late", func(context.Context) (string, error) {
				time.Sleep(10 * limit)
				return "late", errBroken
			}, 10 * limit, errBroken, "timeout: recipes: per-try limit of 100ms reached: broken",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				got, err := pillion.Do(t.Context(), upstream(t, Config{PerTry: limit}), tc.work)
				if got != "" || time.Since(began) != tc.elapsed {
					t.Errorf("got %q after %v, want nothing after %v", got, time.Since(began), tc.elapsed)
				}
				var fired *Error
				if !errors.As(err, &fired) || fired.Scope != PerTry || err.Error() != tc.text {
					t.Errorf("got %v, want %s", err, tc.text)
				}
				if !errors.Is(err, context.DeadlineExceeded) || (tc.cause != nil && !errors.Is(err, tc.cause)) {
					t.Errorf("got %v, want it to be DeadlineExceeded and %v", err, tc.cause)
				}
			})
		})
	}
}

// TestFunctionInTime uses functions that succeed or fail before the timeout.
func TestFunctionInTime(t *testing.T) {
	for _, want := range []error{nil, errBroken} {
		t.Run(fmt.Sprint(want), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				got, err := pillion.Do(t.Context(), upstream(t, Config{PerTry: 100 * ms}), func(ctx context.Context) (string, error) {
					return "value", errors.Join(wait(ctx, 99*ms), want)
				})
				if got != "value" || !errors.Is(err, want) {
					t.Errorf("got %q and %v, want value and %v", got, err, want)
				}
				if scope, _ := scopeOf(err); scope != 0 {
					t.Errorf("got %v, want no timeout", err)
				}
			})
		})
	}
}

// TestContextOfTheWork checks the deadline of a function's context.
func TestContextOfTheWork(t *testing.T) {
	for _, tc := range []struct {
		name   string
		cfg    Config
		caller time.Duration
		want   time.Duration // 0 for no deadline
		scope  policy.Scope
	}{
		{"total", Config{Total: 100 * ms, PerTry: 200 * ms}, 300 * ms, 100 * ms, Total},
		{"per try", Config{Total: 200 * ms, PerTry: 100 * ms}, 300 * ms, 100 * ms, PerTry},
		{"idle", Config{Total: 200 * ms, Idle: 100 * ms}, 300 * ms, 100 * ms, Idle},
		{"caller", Config{Total: 200 * ms, PerTry: 150 * ms}, 100 * ms, 100 * ms, Caller},
		{"none", Config{Total: Unlimited}, 0, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if tc.caller != 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tc.caller)
					defer cancel()
				}
				_, err := pillion.Do(ctx, upstream(t, apart(tc.cfg)...), func(ctx context.Context) (int, error) {
					deadline, limited := ctx.Deadline()
					if got := time.Until(deadline); limited != (tc.want != 0) || (limited && got != tc.want) {
						t.Errorf("got deadline in %v (%v), want %v", got, limited, tc.want)
					}
					if !limited {
						return 0, nil
					}
					<-ctx.Done()
					if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
						t.Errorf("got %v from the context, want DeadlineExceeded", ctx.Err())
					}
					return 0, ctx.Err()
				})
				if scope, _ := scopeOf(err); scope != tc.scope {
					t.Errorf("got %v, want scope %v", err, tc.scope)
				}
			})
		})
	}
}
