package soak

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/sony/gobreaker/v2"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
	"github.com/pillion-go/pillion/tracing"
)

// side is the side of a connection on which an upstream's policies are.
type side bool

const (
	client side = false
	server side = true
)

// guarded is an upstream with facts about its policies.
type guarded struct {
	*pillion.Upstream
	slots    int  // MaxRequests of limits.Config, 0 without limits
	shuffled bool // the policies are in an order that makes no sense
	hedges   bool
}

// upstream makes an upstream with random policies.
func (r *round) upstream(name string, of side) *guarded {
	r.Helper()
	g := &guarded{hedges: of == client && r.once(8)}
	inner := r.inner(g)
	policies := []pillion.Policy{metrics.Config{Registry: r.registry, TimeoutBudget: r.once(2), CallerStatNames: r.once(4)}, pillion.Listener(r.ledger.listen)}
	policies = append(policies, r.outer(g, of)...)
	policies = append(policies, inner...)
	if g.shuffled = !g.hedges && r.once(8); g.shuffled { // policies that see attempts as calls must not see concurrent ones
		policies = append(policies, pillion.AnyOrder{})
		r.Shuffle(len(policies), func(i, j int) { policies[i], policies[j] = policies[j], policies[i] })
	}
	u, err := pillion.New(name, policies...)
	if err != nil {
		r.Fatal(err)
	}
	g.Upstream = u
	r.setup = append(r.setup, name+": "+describe(policies))
	return g
}

// outer makes the policies that see calls, and those that make attempts.
func (r *round) outer(g *guarded, of side) (policies []pillion.Policy) {
	maybe := func(n int, p pillion.Policy) {
		if !r.once(n) {
			policies = append(policies, p)
		}
	}
	maybe(3, metrics.GRPC{Registry: r.registry})
	if of == server {
		maybe(2, tracing.Server{Tracer: r.tracer})
		maybe(4, r.timeouts())
		return append(policies, pillion.Options{SuppressEnvoyHeaders: r.once(2)})
	}
	maybe(3, tracing.Client{Tracer: r.tracer})
	maybe(4, r.timeouts())
	switch what := r.IntN(8); {
	case g.hedges:
		policies = append(policies, hedge{r.between(time.Millisecond, 50*time.Millisecond), &r.hedges})
	case what == 0:
	case what == 1:
		policies = append(policies, retry.Retryable{
			Tries: r.IntN(4), Sleep: pick(r.dice, retry.Zero, 5*time.Millisecond),
			ExceptionCB: func(error) {}, Ensure: func(int) {},
		})
	default:
		policies = append(policies, r.retries())
	}
	maybe(3, tracing.Attempts{Tracer: r.tracer})
	return append(policies, pillion.Options{
		LocalReplies:                r.once(3),
		Sidecar:                     r.once(6),
		IncludeRequestAttemptCount:  true, // the servers' behavior depends on it
		IncludeIsTimeoutRetryHeader: r.once(3),
		ReplayBuffer:                pick(r.dice, int64(0), 100, 64<<10, 1<<20),
		DrainBytes:                  pick(r.dice, int64(0), 1, 1<<20),
		DrainTime:                   pick(r.dice, 0, time.Millisecond, 50*time.Millisecond),
	})
}

// inner makes the policies that see attempts.
func (r *round) inner(g *guarded) (policies []pillion.Policy) {
	if !r.once(4) {
		l := limits.Config{
			MaxRequests: pick(r.dice, 1, 2, 8, 16, 1000), MaxRetries: pick(r.dice, 0, 1, 100, limits.Zero), TrackRemaining: r.once(2),
		}
		if r.once(3) {
			l.RetryBudget = &limits.RetryBudget{BudgetPercent: pick(r.dice, 0.0, 100, limits.Zero), MinRetryConcurrency: r.IntN(4)}
			l.MaxRetries = max(l.MaxRetries, 0) // beside a budget, rq_retry_open stays 1 when there are none
		}
		g.slots = l.MaxRequests
		policies = append(policies, l)
	}
	if p := r.breaker(g); p != nil {
		policies = append(policies, p)
	}
	if !g.hedges && r.once(3) { // hedge could not discard a response that a panic leaves open inside it
		policies = slices.Insert(policies, r.IntN(len(policies)+1), pillion.Policy(meddler{r.ledger}))
	}
	if !g.hedges && r.once(6) {
		policies = append(policies, pillion.Listener(r.ledger.rudeListener))
	}
	return policies
}

func (r *round) timeouts() timeout.Config {
	total := r.between(5*time.Millisecond, 300*time.Millisecond)
	shorter := func() time.Duration {
		return pick(r.dice, 0, timeout.Unlimited, r.between(time.Millisecond, total), r.between(time.Millisecond, min(total, 50*time.Millisecond)))
	}
	return timeout.Config{
		Total: pick(r.dice, 0, timeout.Unlimited, math.MaxInt64, total, total, total), PerTry: shorter(), Idle: shorter(),
		ExpectedHeader: r.once(2), EnvoyHeaders: r.once(2),
	}
}

func (r *round) retries() retry.Config {
	c := retry.Config{
		NumRetries: 1 + r.IntN(4), RetryRefused: r.once(4), EnvoyHeaders: r.once(2),
		On: pick(r.dice, "", "5xx", "gateway-error,reset", "connect-failure,refused-stream,retriable-4xx",
			"5xx,reset,unavailable,internal,cancelled,deadline-exceeded,resource-exhausted", "reset-before-request,envoy-ratelimited"),
	}
	if r.once(4) {
		c.On = strings.TrimPrefix(c.On+",retriable-status-codes,retriable-headers", ",")
		c.RetriableStatusCodes = []int{200, 404}
		c.RetriableHeaders = []retry.HeaderMatcher{{Name: "x-again"}}
	}
	if r.once(5) {
		c.ResetHeaders = []retry.ResetHeader{{Name: "retry-after"}}
		c.MaxResetInterval = 10 * time.Millisecond
	}
	if c.BaseInterval = r.between(time.Millisecond, 20*time.Millisecond); r.once(8) {
		c.BaseInterval, c.BackOff = 0, func() backoff.BackOff { return backoff.WithMaxRetries(backoff.NewConstantBackOff(time.Millisecond), 3) }
	}
	return c
}

// breaker makes a breaker of a random kind, or none.
func (r *round) breaker(g *guarded) pillion.Policy {
	c := breaker.Config{
		Threshold: pick(r.dice, 0, 0.3, 0.9), NonBreakCount: 1 + r.IntN(40),
		Sleep:  pick(r.dice, breaker.Zero, r.between(time.Millisecond, 50*time.Millisecond)),
		Period: pick(r.dice, 0, 100*time.Millisecond),
	}
	if r.once(3) {
		c.OnStateChange = func(breaker.Change) { panic("a state change") }
	}
	if !g.hedges && r.once(6) {
		c.Classify = rudeClassify
	}
	switch r.IntN(6) {
	case 0:
		return nil
	case 1:
		return breaker.GroupConfig{Breaker: c, MaxKeys: r.IntN(4)}
	case 2, 3:
		return r.gobreaker(c)
	}
	return c
}

// gobreaker makes a breaker whose engine is a gobreaker.
func (r *round) gobreaker(c breaker.Config) pillion.Policy {
	c.Sleep, c.Classify, c.OnStateChange = max(c.Sleep, time.Millisecond), nil, nil
	settings, err := breaker.GobreakerSettings(c)
	if err != nil {
		r.Fatal(err)
	}
	var b *breaker.Breaker
	if r.once(2) {
		b, err = breaker.FromGobreaker[any](gobreaker.NewCircuitBreaker[any](settings))
	} else {
		b, err = breaker.FromGobreaker[any](gobreaker.NewTwoStepCircuitBreaker[any](settings))
	}
	if err != nil {
		r.Fatal(err)
	}
	return b
}

// describe prints policies, and their settings if they can be printed.
func describe(policies []pillion.Policy) string {
	var text []string
	for _, p := range policies {
		settings, err := json.Marshal(p)
		if err != nil {
			settings = nil // a listener is a function
		}
		text = append(text, fmt.Sprintf("%T%s", p, settings))
	}
	return strings.Join(text, " ")
}

// classified counts the calls of rudeClassify.
var classified atomic.Uint64

// rudeClassify is a classifier that panics one time in a hundred.
func rudeClassify(o *policy.Outcome) breaker.Result {
	if classified.Add(1)%100 == 0 {
		panic("a classifier")
	}
	return breaker.Classify(o)
}

// rudeListener is a listener that panics at one event in a hundred.
func (l *ledger) rudeListener(ctx context.Context, e policy.Event) {
	if r := recordOf(ctx); r != nil && newDice(l.seed, r.n, uint64(e.Kind), uint64(e.Call.Attempt())).once(100) {
		r.note("a listener panics at %v", e.Kind)
		panic("a listener")
	}
}

// meddler is the policy of a careless program: it replaces outcomes, refuses calls, panics, and
// ends goroutines.
type meddler struct{ ledger *ledger }

var errMeddled = errors.New("soak: a policy replaced the response by an error")

func (m meddler) Wrap(_ *policy.Builder, next policy.Func) (policy.Func, error) {
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		r := recordOf(ctx)
		if r == nil {
			return next(ctx, c)
		}
		what := newDice(m.ledger.seed, r.n, uint64(c.Attempt())).IntN(80)
		if what < 8 {
			r.note("meddler: %d", what)
		}
		switch what {
		case 0:
			panic("a policy before the attempt")
		case 1:
			runtime.Goexit()
		case 2:
			return c.Refuse(errMeddled, envoy.NoHealthyUpstream)
		}
		o := next(ctx, c)
		switch what {
		case 3:
			panic("a policy after the attempt")
		case 4:
			runtime.Goexit()
		case 5:
			return &policy.Outcome{Err: errMeddled, Conditions: policy.Failed | policy.Status5xx}
		case 6:
			o.Err, o.Conditions = errMeddled, policy.Failed|policy.Status5xx
			time.Sleep(20 * time.Millisecond)
		case 7:
			o.OnEnd(c, func(*policy.Call, *policy.Outcome) { panic("a hook") })
		}
		return o
	}, nil
}

// hedge is a policy that makes a second attempt when the first has no result after delay.
// The first result wins.
type hedge struct {
	delay   time.Duration
	running *sync.WaitGroup
}

func (hedge) Place() policy.Place { return policy.Place{Rank: policy.Hedges} }

func (h hedge) Wrap(s *policy.Builder, next policy.Func) (policy.Func, error) {
	s.Require(policy.Needs{Cancel: true})
	slot := s.Slot()
	end := func(c *policy.Call, _ *policy.Outcome) { c.State(slot).V.(context.CancelFunc)() }
	return func(ctx context.Context, first *policy.Call) *policy.Outcome {
		race := &race{calls: []*policy.Call{first, first.Next()}, came: make(chan arrival, 2)}
		start := func(i int) {
			own, cancel := context.WithCancel(ctx)
			race.calls[i].State(slot).V = cancel
			h.running.Go(func() { race.run(own, i, next) })
		}
		start(0)
		timer := time.NewTimer(h.delay)
		defer timer.Stop()
		var winner arrival
		select {
		case winner = <-race.came:
		case <-timer.C:
			start(1)
			winner = <-race.came
			end(race.calls[1-winner.n], nil)
			h.running.Go(func() { race.discard(<-race.came) })
		}
		winner.o.OnEnd(race.calls[winner.n], end)
		return winner.o
	}, nil
}

// race is two attempts that run concurrently.
type race struct {
	calls []*policy.Call
	came  chan arrival
}

// arrival is the result of attempt n of a race.
type arrival struct {
	n int
	o *policy.Outcome
}

// run makes attempt n. An attempt that panics or ends its goroutine has failed.
func (r *race) run(ctx context.Context, n int, next policy.Func) {
	o := &policy.Outcome{Err: errMeddled, Conditions: policy.Failed}
	defer func() {
		_ = recover()
		r.came <- arrival{n, o}
	}()
	o = next(ctx, r.calls[n])
}

func (r *race) discard(a arrival) {
	defer func() { _ = recover() }() // a hook may panic
	a.o.Discard()
}
