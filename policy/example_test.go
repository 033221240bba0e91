package policy_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
)

// errOff is the error of a call that a switch refused.
var errOff = errors.New("switch: off")

// switchedOff is the detail of such a call: its response flag, the response that takes its place
// where there is one, and the statistic that counts it. It is made once.
var switchedOff = envoy.NewDetail(envoy.DetailSpec{
	Text: "switched_off", Flags: envoy.UH, Status: http.StatusServiceUnavailable,
	Body: "switched off", Counter: "upstream_rq_switched_off",
})

// Switch is a policy that refuses all calls while an operator has turned it off.
type Switch struct{ off atomic.Bool }

func (s *Switch) Set(on bool) { s.off.Store(!on) }

// Place is inside of retry, whose attempts it sees. With retry inside, the error of New would be
// "switch outside retry would not stop the attempts of a call under way".
func (s *Switch) Place() policy.Place {
	return policy.Place{
		Rank: policy.PerAttempt, Name: "switch", Why: "would not stop the attempts of a call under way",
		Once: "would refuse each call twice",
	}
}

// Wrap is called once for each upstream, and what it returns once for each attempt.
func (s *Switch) Wrap(b *policy.Builder, next policy.Func) (policy.Func, error) {
	b.Stat(policy.Stat{Kind: policy.Gauge, Name: "switched_off", Read: func() uint64 {
		if s.off.Load() {
			return 1
		}
		return 0
	}})
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		if s.off.Load() {
			return c.Refuse(errOff, switchedOff) // listeners, metrics and outer policies see a refusal
		}
		return next(ctx, c)
	}, nil
}

// A policy that refuses calls uses [policy.Call.Refuse] and a detail of its own. A refused call is
// not retried, and is no failure for a breaker around the policy.
func Example_refusal() {
	registry := &metrics.Registry{}
	circuit, err := breaker.New(breaker.Config{Name: "recipes"})
	if err != nil {
		fmt.Println(err)
		return
	}
	stop := &Switch{}
	recipes, err := pillion.New("recipes", metrics.Config{Registry: registry}, retry.Config{On: "5xx"}, circuit, stop)
	if err != nil {
		fmt.Println(err)
		return
	}
	cook := func(context.Context) (string, error) { return "soup", nil }

	fmt.Println(pillion.Do(context.Background(), recipes, cook))
	stop.Set(false)
	ctx, info := pillion.WithInfo(context.Background())
	_, err = pillion.Do(ctx, recipes, cook)
	fmt.Println(err, errors.Is(err, errOff), info.Attempts(), info.Flags(), info.Detail())
	fmt.Printf("%+v\n", circuit.Status())
	page := httptest.NewRecorder()
	metrics.Handler(registry).ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/stats?filter=switched_off", http.NoBody))
	fmt.Print(page.Body)
	// Output:
	// soup <nil>
	// switch: off true 1 UH switched_off
	// {Success:1 Failure:0 Rejection:1 Timeout:0 Break:0 Dependency:0}
	// cluster.recipes.switched_off: 1
	// cluster.recipes.upstream_rq_switched_off: 1
}
