package pillion_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// TestDo_errors pins how a function's errors are classified. The caller always receives the error
// itself.
func TestDo_errors(t *testing.T) {
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }
	read := func(err error) error { return &net.OpError{Op: "read", Net: "tcp", Err: err} }
	tests := []struct {
		name   string
		err    error
		is     policy.Condition
		detail *envoy.Detail
	}{
		{"none", nil, 0, envoy.ViaUpstream},
		{"any", errBroken, policy.Failed | policy.Status5xx, nil},
		{"EOF", io.EOF, policy.Failed | policy.Status5xx, nil},
		{"canceled, wrapped", fmt.Errorf("query: %w", context.Canceled), policy.Cancelled, envoy.CallerGone},
		{"timeout, wrapped", fmt.Errorf("query: %w", context.DeadlineExceeded), policy.Timeout | policy.PerTryTimeout, envoy.PerTryTimeout},
		{"timeout of a read", read(os.ErrDeadlineExceeded), policy.Timeout | policy.PerTryTimeout, envoy.PerTryTimeout},
		{"refused", dial(syscall.ECONNREFUSED), policy.ConnectFailure, envoy.ConnectionRefused},
		{"unreachable", dial(syscall.EHOSTUNREACH), policy.ConnectFailure, envoy.ConnectionFailure},
		{"no connection in time", dial(os.ErrDeadlineExceeded), policy.ConnectFailure | policy.Timeout, envoy.ConnectionTimeout},
		{"no such host", &net.DNSError{Err: "no such host", IsNotFound: true}, policy.ConnectFailure, envoy.DNSFailure},
		{"no name server in time", &net.DNSError{Err: "slow", IsTimeout: true}, policy.ConnectFailure | policy.Timeout, envoy.DNSFailure},
		{"reset", read(syscall.ECONNRESET), policy.Reset, envoy.ConnectionTermination},
		{"broken pipe", read(syscall.EPIPE), policy.Reset, envoy.ConnectionTermination},
		{"HTTP/2 reset", errors.New("stream error: stream ID 1; INTERNAL_ERROR; received from peer"), policy.Reset, envoy.RemoteReset},
		{
			"HTTP/2 refused", errors.New("stream error: stream ID 1; REFUSED_STREAM; received from peer"),
			policy.Reset | policy.RefusedStream, envoy.RemoteRefusedStream,
		},
		{"HTTP/2 malformed", errors.New("stream error: stream ID 1; PROTOCOL_ERROR"), policy.ProtocolError, envoy.MalformedResponse},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var end policy.Outcome
			u := newUpstream(t, atEnd(func(_ *policy.Call, o *policy.Outcome) { end = *o }))
			got, err := pillion.Do(t.Context(), u, func(context.Context) (string, error) { return "rest", test.err })
			if got != "rest" || err != test.err { //nolint:errorlint // the same value
				t.Errorf("got %q, %v, want what the function returned: %v", got, err, test.err)
			}
			if end.Conditions != test.is || end.Detail != test.detail || end.Flags != test.detail.Flags() {
				t.Errorf("end: got %b, %v, %v, want %b, %v", end.Conditions, end.Flags, end.Detail, test.is, test.detail)
			}
		})
	}
}

// TestDo_values pins that Do returns values of all kinds, nil ones too.
func TestDo_values(t *testing.T) {
	u := newUpstream(t)
	if got, err := pillion.Do(t.Context(), u, func(context.Context) (any, error) { return nil, nil }); got != nil || err != nil {
		t.Errorf("got %v, %v, want nil", got, err)
	}
	if got, err := pillion.Do(t.Context(), u, func(context.Context) (error, error) { return errBroken, nil }); !errors.Is(got, errBroken) || err != nil {
		t.Errorf("got %v, %v, want an error as a value", got, err)
	}
	if got, err := pillion.Do(t.Context(), u, func(context.Context) (struct{ A [9]int }, error) {
		return struct{ A [9]int }{[9]int{8: 1}}, nil
	}); got.A[8] != 1 || err != nil {
		t.Errorf("got %v, %v, want a large value", got, err)
	}
}

// TestDo_refused pins that Do does not call work if a policy refuses the call.
func TestDo_refused(t *testing.T) {
	u := newUpstream(t, limits.Config{MaxRequests: limits.Zero})
	got, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) {
		t.Error("called")
		return 42, nil
	})
	if got != 0 || !errors.Is(err, limits.ErrFull) {
		t.Errorf("got %d, %v, want ErrFull", got, err)
	}
}

// TestDo_panic pins that a panic goes on to the caller, and that it does not affect the next call.
func TestDo_panic(t *testing.T) {
	u := newUpstream(t, timeout.Config{}, quick(1), limits.Config{MaxRequests: 1})
	for range 2 {
		got := recovered(func() {
			_, _ = pillion.Do(t.Context(), u, func(context.Context) (int, error) { panic(errBroken) })
		})
		if got != errBroken { //nolint:errorlint // the same value
			t.Errorf("got panic %v, want errBroken", got)
		}
	}
	if got, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 42, nil }); got != 42 || err != nil {
		t.Errorf("got %d, %v, want 42", got, err)
	}
}

// TestDo_retry pins that Do does not retry by default, since work may not be safe to run twice, and
// retries if the conditions say so.
func TestDo_retry(t *testing.T) {
	for on, want := range map[string]int{"": 1, "5xx": 3, "connect-failure": 1} {
		attempts := 0
		u := newUpstream(t, retry.Config{On: on, NumRetries: 2, Rand: func() float64 { return 0 }}, before(func(c *policy.Call) {
			h := c.Header()
			h.Set("X-Mine", "1")
			h.Del("X-Mine")
			if value, ok := c.ResponseHeader(&policy.Outcome{}, "X-Mine"); ok || value+h.Get("X-Mine")+c.RequestHeader("X-Mine") != "" {
				t.Error("a function has a header")
			}
			if c.Idempotent() || !c.Replayable() {
				t.Errorf("got idempotent %v, replayable %v, want false and true", c.Idempotent(), c.Replayable())
			}
			if diff := cmp.Diff(policy.Request{Protocol: "func"}, c.Request()); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
		}))
		ctx, info := pillion.WithInfo(t.Context())
		_, err := pillion.Do(ctx, u, func(context.Context) (int, error) {
			attempts++
			return 0, errBroken
		})
		if attempts != want || info.Attempts() != want || !errors.Is(err, errBroken) {
			t.Errorf("on %q: got %d attempts, %v, want %d", on, attempts, err, want)
		}
	}
}

// TestDo_discard pins that a policy may discard an outcome that is never open.
func TestDo_discard(t *testing.T) {
	u := newUpstream(t, around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
		o := next(ctx, c)
		o.Discard()
		return o
	}))
	if got, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 42, nil }); got != 42 || err != nil {
		t.Errorf("got %d, %v, want 42", got, err)
	}
}

// TestDo_late pins that Do waits for work that does not honor its context, and drops its result.
func TestDo_late(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		u := newUpstream(t, timeout.Config{Total: time.Second})
		got, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) {
			time.Sleep(time.Minute)
			return 42, nil
		})
		if got != 0 || scopeOf(err) != policy.ScopeTotal || time.Since(began) != time.Minute {
			t.Errorf("got %d, %v after %v, want the total timeout, after work has returned", got, err, time.Since(began))
		}
	})
}

// TestDo_caller pins the error after the end of the caller's context.
func TestDo_caller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, leave := context.WithCancel(t.Context())
		work := func(ctx context.Context) (int, error) {
			<-ctx.Done()
			return 0, fmt.Errorf("query: %w", ctx.Err())
		}
		time.AfterFunc(time.Second, leave)
		u := newUpstream(t, timeout.Config{})
		if _, err := pillion.Do(ctx, u, work); !errors.Is(err, context.Canceled) || !strings.HasPrefix(err.Error(), "query:") {
			t.Errorf("got %v, want work's own error for the cancellation", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := pillion.Do(ctx, u, work); scopeOf(err) != policy.ScopeCaller || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the caller's deadline", err)
		}
	})
}
