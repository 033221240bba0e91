package limits

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/policy"
)

// gauges is a policy that collects the gauges of the policies inside it.
type gauges map[string]func() uint64

func (g gauges) Wrap(s *policy.Builder, next policy.Func) (policy.Func, error) {
	s.Stats(func(s policy.Stat) error {
		g[s.Name] = s.Read
		return nil
	})
	return next, nil
}

func (g gauges) read() map[string]uint64 {
	values := map[string]uint64{}
	for name, read := range g {
		values[name] = read()
	}
	return values
}

// retrying is a policy that treats each call as a retry.
type retrying struct{}

func (retrying) Wrap(_ *policy.Builder, next policy.Func) (policy.Func, error) {
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		if release, ok := c.AcquireRetry(); ok {
			defer release()
		}
		return next(ctx, c)
	}, nil
}

// TestGauges checks the gauges while requests and retries start and end.
func TestGauges(t *testing.T) {
	const open, retryOpen = "circuit_breakers.default.rq_open", "circuit_breakers.default.rq_retry_open"
	const left, retriesLeft = "circuit_breakers.default.remaining_rq", "circuit_breakers.default.remaining_retries"
	tests := []struct {
		name              string
		cfg               Config
		idle, busy, after map[string]uint64
	}{
		{
			"not tracked",
			Config{MaxRequests: 1},
			map[string]uint64{open: 0, retryOpen: 0},
			map[string]uint64{open: 1, retryOpen: 0},
			map[string]uint64{open: 0, retryOpen: 0},
		},
		{
			"tracked, but no limit on retries",
			Config{MaxRequests: 1, TrackRemaining: true},
			map[string]uint64{open: 0, retryOpen: 0, left: 1},
			map[string]uint64{open: 1, retryOpen: 0, left: 0},
			map[string]uint64{open: 0, retryOpen: 0, left: 1},
		},
		{
			"all taken",
			Config{MaxRequests: 1, MaxRetries: 1, TrackRemaining: true},
			map[string]uint64{open: 0, retryOpen: 0, left: 1, retriesLeft: 1},
			map[string]uint64{open: 1, retryOpen: 1, left: 0, retriesLeft: 0},
			map[string]uint64{open: 0, retryOpen: 0, left: 1, retriesLeft: 1},
		},
		{
			"nothing allowed",
			Config{MaxRequests: Zero, MaxRetries: Zero, TrackRemaining: true},
			map[string]uint64{open: 0, retryOpen: 0, left: 0, retriesLeft: 0},
			map[string]uint64{open: 0, retryOpen: 0, left: 0, retriesLeft: 0},
			map[string]uint64{open: 0, retryOpen: 0, left: 0, retriesLeft: 0},
		},
		{
			"a budget with no MaxRetries",
			Config{MaxRequests: 2, MaxRetries: Zero, RetryBudget: &RetryBudget{}, TrackRemaining: true},
			map[string]uint64{open: 0, retryOpen: 0, left: 2, retriesLeft: 0},
			map[string]uint64{open: 0, retryOpen: 1, left: 1, retriesLeft: 0},
			map[string]uint64{open: 0, retryOpen: 1, left: 2, retriesLeft: 0},
		},
		{
			"a budget that decided a retry",
			Config{MaxRequests: 2, MaxRetries: 5, RetryBudget: &RetryBudget{}, TrackRemaining: true},
			map[string]uint64{open: 0, retryOpen: 0, left: 2, retriesLeft: 5},
			map[string]uint64{open: 0, retryOpen: 0, left: 1, retriesLeft: 0},
			map[string]uint64{open: 0, retryOpen: 0, left: 2, retriesLeft: 0},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			g := gauges{}
			want := func(when string, want map[string]uint64) {
				t.Helper()
				if diff := cmp.Diff(want, g.read()); diff != "" {
					t.Errorf("%s (-want +got):\n%s", when, diff)
				}
			}
			u := upstream(t, g, retrying{}, test.cfg)
			want("idle", test.idle)
			_, _ = pillion.Do(t.Context(), u, func(context.Context) (int, error) {
				want("busy", test.busy)
				return 0, nil
			})
			want("after", test.after)
		})
	}
}
