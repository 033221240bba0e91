package metrics

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
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

// TestConfig_hedgeHTTP hedges each call, with sizes and virtual clusters: each attempt counts, and the
// call once.
func TestConfig_hedgeHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := registry(t, Settings{})
		u, err := pillion.New("recipes", Config{
			Registry: r, RequestResponseSizes: true,
			VirtualHost: "svc", VirtualClusters: []VirtualCluster{{Name: "orders", Headers: []envoy.HeaderMatcher{onPath("/")}}},
		}, timeout.Config{Total: time.Second, PerTry: 100 * time.Millisecond}, retry.Config{On: "5xx", HedgeOnPerTryTimeout: true})
		if err != nil {
			t.Fatal(err)
		}
		var n atomic.Int64
		rt := u.Transport(responding(func(req *http.Request) (*http.Response, error) {
			if n.Add(1)%2 == 1 {
				<-req.Context().Done()
				return nil, req.Context().Err()
			}
			return response(http.StatusOK, 1, io.EOF), nil
		}))
		const calls = 50
		for range calls {
			send(t, rt)
		}
		synctest.Wait()
		got := nonzero(r.virtualCluster("svc", "orders"))
		want := map[string]uint64{
			"upstream_rq_total": 2 * calls, "upstream_rq_retry": calls, "upstream_rq_retry_success": calls,
			"upstream_rq_200": calls, "upstream_rq_2xx": calls, "upstream_rq_completed": calls, "upstream_rq_time": calls,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("virtual cluster (-want +got):\n%s", diff)
		}
		sizes := recorded(r.Cluster("recipes"))
		if len(sizes[0]) != 2*calls || len(sizes[5]) != calls || sizes[5][0] != 4 {
			t.Errorf("got %d requests and responses of %v, want %d and %d of 4 bytes", len(sizes[0]), sizes[5], 2*calls, calls)
		}
	})
}
