package metrics

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/timeout"
)

// both is a policy that makes two attempts concurrently and returns the first result.
type both struct{}

func (both) Place() policy.Place { return policy.Place{Rank: policy.Hedges} }

func (both) Wrap(s *policy.Builder, next policy.Func) (policy.Func, error) {
	s.Require(policy.Needs{Cancel: true})
	return func(ctx context.Context, first *policy.Call) *policy.Outcome {
		second := first.Next()
		came := make(chan *policy.Outcome, 2)
		for _, c := range []*policy.Call{first, second} {
			go func() { came <- next(ctx, c) }()
		}
		return <-came
	}, nil
}

// TestConfig_hedge ends two attempts at the same time by the total timeout. The call's first attempt
// ends concurrently with the call, which the race detector checks.
func TestConfig_hedge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := registry(t, Settings{})
		u, err := pillion.New("recipes", Config{Registry: r}, timeout.Config{Total: time.Second}, both{})
		if err != nil {
			t.Fatal(err)
		}
		const calls = 50
		for range calls {
			_, _ = pillion.Do(t.Context(), u, func(ctx context.Context) (int, error) {
				<-ctx.Done()
				return 0, ctx.Err()
			})
		}
		synctest.Wait()
		active, timeouts := r.Cluster("recipes").Gauge("upstream_rq_active"), r.Cluster("recipes").Counter("upstream_rq_timeout")
		if active.Value() != 0 || timeouts.Value() != 2*calls {
			t.Errorf("got %d active and %d timeouts, want none and %d", active.Value(), timeouts.Value(), 2*calls)
		}
	})
}
