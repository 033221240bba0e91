package limits

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
)

// acquiring acquires as many retry slots as it can, at most ten.
type acquiring struct{ got *int }

func (a acquiring) Wrap(_ *policy.Builder, next policy.Func) (policy.Func, error) {
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		for range 10 {
			if release, ok := c.AcquireRetry(); ok {
				*a.got++
				defer release()
			}
		}
		return next(ctx, c)
	}, nil
}

// TestRetriesAreLimitedIfConfigured counts concurrent retries. Without a limit only the budget of
// the retry policy applies.
func TestRetriesAreLimitedIfConfigured(t *testing.T) {
	for _, tc := range []struct {
		name string
		cfg  Config
		want int
	}{
		{"nothing", Config{}, 10},
		{"MaxRequests alone", Config{MaxRequests: 200}, 10},
		{"Envoy's default", Config{MaxRequests: 200, MaxRetries: DefaultMaxRetries}, 3},
		{"MaxRetries", Config{MaxRetries: 5}, 5},
		{"no retries", Config{MaxRetries: Zero}, 0},
		{"RetryBudget", Config{RetryBudget: &RetryBudget{MinRetryConcurrency: 4}}, 4},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := 0
			u := upstream(t, acquiring{&got}, tc.cfg)
			if _, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 0, nil }); err != nil {
				t.Fatal(err)
			}
			if got != tc.want {
				t.Errorf("got %d slots, want %d", got, tc.want)
			}
		})
	}
}

// TestBudgetOfStreams makes one call under a budget that allows one retry for one request. As
// observed with Envoy 1.40 the failed attempt counts as that request, unless it was an HTTP/2
// stream that has ended.
func TestBudgetOfStreams(t *testing.T) {
	dial := &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	response := func(major int, method string, length int64, body io.ReadCloser) roundTripper {
		return func(req *http.Request) (*http.Response, error) {
			if req.Method != method {
				t.Errorf("got method %s, want %s", req.Method, method)
			}
			return &http.Response{StatusCode: http.StatusServiceUnavailable, ProtoMajor: major, Header: http.Header{}, Request: req, Body: body, ContentLength: length}, nil
		}
	}
	failure := func(err error) roundTripper {
		return func(*http.Request) (*http.Response, error) { return nil, err }
	}
	text := func() io.ReadCloser { return io.NopCloser(strings.NewReader("soup")) }
	for _, tc := range []struct {
		name   string
		method string
		base   roundTripper
		want   int // attempts
	}{
		{"HTTP/1, no body", "GET", response(1, "GET", 0, http.NoBody), 2},
		{"HTTP/1, open body", "GET", response(1, "GET", 4, text()), 2},
		{"HTTP/2, no body", "GET", response(2, "GET", 0, http.NoBody), 1},
		{"HTTP/2, an empty body of net/http", "GET", response(2, "GET", 0, io.NopCloser(strings.NewReader(""))), 1},
		{"HTTP/2, open body", "GET", response(2, "GET", 4, text()), 2},
		{"HTTP/2, open body of unknown length", "GET", response(2, "GET", -1, text()), 2},
		{"HTTP/2, HEAD", "HEAD", response(2, "HEAD", 4, io.NopCloser(strings.NewReader(""))), 1},
		{"HTTP/3, no body", "GET", response(3, "GET", 0, http.NoBody), 1},
		{"no connection", "GET", failure(dial), 2},
		{"HTTP/1, connection reset", "GET", failure(syscall.ECONNRESET), 2},
		{"HTTP/2, stream reset", "GET", failure(errors.New("stream error: stream ID 1; INTERNAL_ERROR; received from peer")), 1},
		{"HTTP/2, stream reset for a protocol error", "GET", failure(errors.New("stream error: stream ID 1; PROTOCOL_ERROR; received from peer")), 1},
		{"HTTP/2, stream refused", "GET", failure(errors.New("stream error: stream ID 1; REFUSED_STREAM; received from peer")), 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := upstream(t, retry.Config{On: "5xx,reset,connect-failure"},
					Config{RetryBudget: &RetryBudget{BudgetPercent: 100, MinRetryConcurrency: Zero}})
				ctx, info := pillion.WithInfo(t.Context())
				req, err := http.NewRequestWithContext(ctx, tc.method, "http://recipes/1", nil)
				if err != nil {
					t.Fatal(err)
				}
				if resp, err := u.Transport(tc.base).RoundTrip(req); err == nil {
					_ = resp.Body.Close()
				}
				if got := info.Attempts(); got != tc.want || info.RetryOverflow() != (tc.want == 1) {
					t.Errorf("got %d attempts, retry overflow: %v, want %d", got, info.RetryOverflow(), tc.want)
				}
			})
		})
	}
}

// TestBudgetOfStreams_known fails attempts without a response: the previous response determines
// the protocol.
func TestBudgetOfStreams_known(t *testing.T) {
	for _, tc := range []struct {
		name  string
		major int
		err   error
		want  int // attempts
	}{
		{"HTTP/1, reset", 1, syscall.ECONNRESET, 2},
		{"HTTP/2, reset", 2, syscall.ECONNRESET, 1},
		{"HTTP/2, timeout", 2, os.ErrDeadlineExceeded, 1},
		{"HTTP/2, no connection", 2, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := upstream(t, retry.Config{On: "5xx,connect-failure"}, Config{RetryBudget: &RetryBudget{BudgetPercent: 100, MinRetryConcurrency: Zero}})
				resp, err := send(t.Context(), u, roundTripper(func(req *http.Request) (*http.Response, error) {
					return &http.Response{StatusCode: http.StatusOK, ProtoMajor: tc.major, Header: http.Header{}, Request: req, Body: http.NoBody}, nil
				}))
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				ctx, info := pillion.WithInfo(t.Context())
				_, err = send(ctx, u, roundTripper(func(*http.Request) (*http.Response, error) { return nil, tc.err }))
				if got := info.Attempts(); got != tc.want || !errors.Is(err, tc.err) {
					t.Errorf("got %d attempts and %v, want %d", got, err, tc.want)
				}
			})
		})
	}
}

// TestFullErrorAsks checks that the error asks about the usual cause, unless the limit is zero.
func TestFullErrorAsks(t *testing.T) {
	for most, want := range map[int]string{
		200: "limits: recipes: max_requests of 200 reached; is the body of every response closed?",
		0:   "limits: recipes: max_requests of 0 reached",
	} {
		if got := (&FullError{Upstream: "recipes", Limit: "max_requests", Max: most}).Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
