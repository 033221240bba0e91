package pillion_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
	"github.com/pillion-go/pillion/tracing"
)

// The places of the policies.
var (
	anyPlace     = policy.Place{}
	metricsPlace = metrics.Config{}.Place()
	tracingPlace = tracing.Client{}.Place()
	totalPlace   = timeout.Config{}.Place()
	retryPlace   = retry.Config{}.Place()
	hedgePlace   = policy.Place{Rank: policy.Hedges}
	limitsPlace  = limits.Config{}.Place()
	breakerPlace = breaker.Config{}.Place()
)

// placed is a policy that only has a place.
type placed struct{ place policy.Place }

func (p placed) Place() policy.Place { return p.place }

func (placed) Wrap(_ *policy.Builder, next policy.Func) (policy.Func, error) { return next, nil }

// bad is a policy with a wrong configuration.
func bad(what string) pillion.Policy {
	return policyFunc(func(*policy.Builder, policy.Func) (policy.Func, error) { return nil, errors.New(what) })
}

// lines returns the lines of an error that joins others.
func lines(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

func TestNew_reportsAll(t *testing.T) {
	order := "pillion: order: breaker outside retry would hide failed attempts from the breaker; write them in the order retry, breaker, or put AnyOrder among the policies if you mean it"
	tests := []struct {
		name     string
		upstream string
		policies []pillion.Policy
		want     []string
	}{
		{"no policies", "recipes", nil, nil},
		{"no name", "", nil, []string{`upstream "": pillion: New: the upstream's name is empty`}},
		{
			"in the order in which they were given", "recipes",
			[]pillion.Policy{bad("one"), bad("two"), bad("three")},
			[]string{`upstream "recipes": one`, "two", "three"},
		},
		{
			"order, name and fields", "",
			[]pillion.Policy{placed{breakerPlace}, bad("one"), placed{retryPlace}, bad("two")},
			[]string{`upstream "": ` + order, "pillion: New: the upstream's name is empty", "one", "two"},
		},
		{
			"each field of each configuration", "recipes",
			[]pillion.Policy{
				timeout.Config{Total: -2, PerTry: -3},
				limits.Config{MaxRequests: -2},
				pillion.Options{ReplayBuffer: -1, DrainBytes: -2, DrainTime: -3},
			},
			[]string{
				`upstream "recipes": timeout: Config.Total: -2ns is negative; write a duration such as 5*time.Second, 0 for 15s, or timeout.Unlimited`,
				"timeout: Config.PerTry: -3ns is negative; write a duration such as 5*time.Second, or 0 for no timeout",
				"limits: Config.MaxRequests: -2 is negative; write 1 or more, 0 for the default, or limits.Zero for none",
				"pillion: Options.ReplayBuffer: -1 is negative; write 1 or more, or 0 to keep nothing",
				"pillion: Options.DrainBytes: -2 is negative; write 1 or more, or 0 for 64 KiB",
				"pillion: Options.DrainTime: -3ns is negative; write a duration such as 5*time.Second, or 0 for 100ms",
			},
		},
		{
			"a policy that wraps nothing", "recipes",
			[]pillion.Policy{policyFunc(func(*policy.Builder, policy.Func) (policy.Func, error) { return nil, nil })},
			[]string{`upstream "recipes": pillion: pillion_test.policyFunc.Wrap returned neither a Func nor an error`},
		},
		{
			"a breaker without New", "recipes",
			[]pillion.Policy{(*breaker.Breaker)(nil)},
			[]string{`upstream "recipes": breaker: a *Breaker was not made by New or FromGobreaker`},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			u, err := pillion.New(test.upstream, test.policies...)
			if diff := cmp.Diff(test.want, lines(err)); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if (u == nil) == (test.want == nil) {
				t.Errorf("got upstream %v with error %v, want one or the other", u, err)
			}
		})
	}
}

func TestNew_errorsCanBeMatched(t *testing.T) {
	broken := policyFunc(func(*policy.Builder, policy.Func) (policy.Func, error) { return nil, errBroken })
	if _, err := pillion.New("recipes", bad("one"), broken); !errors.Is(err, errBroken) {
		t.Errorf("got %v, want it to be errBroken too", err)
	}
}

// TestNew_order pins the result for each pair of places, without using the rules.
func TestNew_order(t *testing.T) {
	places := []policy.Place{
		anyPlace, metricsPlace, tracingPlace, totalPlace,
		retryPlace, hedgePlace, limitsPlace, breakerPlace,
	}
	const (
		multiply = "would multiply the attempts"
		hides    = "would hide failed attempts from the breaker"
		holds    = "would hold its slot during back-offs, and need a second one without use"
		mistakes = "would see attempts and take them for calls"
		records  = "would record attempts as calls"
		each     = "would limit each attempt, not the call"
	)
	refused := map[[2]policy.Place]string{
		{totalPlace, totalPlace}:   "would set the limits twice",
		{limitsPlace, limitsPlace}: "would hold two slots for each attempt",
		{retryPlace, retryPlace}:   multiply,
		{hedgePlace, hedgePlace}:   multiply,
		{hedgePlace, retryPlace}:   multiply,
		{limitsPlace, retryPlace}:  holds,
		{limitsPlace, hedgePlace}:  holds,
		{breakerPlace, retryPlace}: hides,
		{breakerPlace, hedgePlace}: hides,
		{retryPlace, totalPlace}:   each,
		{hedgePlace, totalPlace}:   each,
		{retryPlace, metricsPlace}: mistakes,
		{retryPlace, tracingPlace}: records,
		{hedgePlace, metricsPlace}: mistakes,
		{hedgePlace, tracingPlace}: records,
	}
	for _, outer := range places {
		for _, inner := range places {
			t.Run(nameOf(outer)+" outside "+nameOf(inner), func(t *testing.T) {
				var want []string
				if why := refused[[2]policy.Place{outer, inner}]; why != "" {
					instead := "write them in the order " + nameOf(inner) + ", " + nameOf(outer)
					if inner == outer {
						instead = "leave one of them out"
					}
					want = []string{fmt.Sprintf("upstream \"recipes\": pillion: order: %v outside %v %s; %s, or put AnyOrder among the policies if you mean it",
						nameOf(outer), nameOf(inner), why, instead)}
				}
				between := placed{anyPlace} // a policy between them changes nothing
				_, err := pillion.New("recipes", placed{outer}, between, placed{inner})
				if diff := cmp.Diff(want, lines(err)); diff != "" {
					t.Errorf("error (-want +got):\n%s", diff)
				}
				for _, allow := range []pillion.Policy{pillion.AnyOrder{}, &pillion.AnyOrder{}, (*pillion.AnyOrder)(nil)} {
					if _, err := pillion.New("recipes", placed{outer}, placed{inner}, allow); err != nil {
						t.Errorf("with a %T last: got %v, want no error", allow, err)
					}
					if _, err := pillion.New("recipes", allow, placed{outer}, placed{inner}); err != nil {
						t.Errorf("with a %T first: got %v, want no error", allow, err)
					}
				}
			})
		}
	}
}

// nameOf returns the name of a place in errors.
func nameOf(p policy.Place) string {
	if p.Name == "" {
		return p.Rank.String()
	}
	return p.Name
}

func TestNew_eachSenselessPair(t *testing.T) {
	_, err := pillion.New("recipes",
		placed{limitsPlace}, placed{breakerPlace}, placed{retryPlace}, placed{totalPlace})
	if got := lines(err); len(got) != 3 {
		t.Errorf("got %q, want the three pairs that make no sense", got)
	}
}

// TestNew_anyOrderAllowsNoBadField pins that AnyOrder allows only an order.
func TestNew_anyOrderAllowsNoBadField(t *testing.T) {
	if _, err := pillion.New("recipes", pillion.AnyOrder{}, bad("one")); err == nil {
		t.Error("got no error, want that of the bad policy")
	}
}

func TestNew_name(t *testing.T) {
	var seen string
	u, err := pillion.New("recipes", policyFunc(func(s *policy.Builder, next policy.Func) (policy.Func, error) {
		seen = s.Upstream()
		return next, nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	if u.Name() != "recipes" || seen != "recipes" {
		t.Errorf("got %q, and %q for the policy, want recipes for both", u.Name(), seen)
	}
}

// TestNew_nil pins that a nil policy does nothing, and that a nil configuration stands for its
// defaults.
func TestNew_nil(t *testing.T) {
	var (
		none     pillion.Policy
		listener pillion.Listener
		seconds  *timeout.Config
		tries    *retry.Config
		places   *limits.Config
		guard    *breaker.Config
		http1    *pillion.Options
	)
	u := newUpstream(t, none, listener, seconds, tries, places, guard, http1, pillion.Log(nil),
		around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
			if left, limited := c.Remaining(); !limited || left > timeout.DefaultTotal || left < timeout.DefaultTotal-patience {
				t.Errorf("time left: got %v, %v, want about the default of %v", left, limited, timeout.DefaultTotal)
			}
			return next(ctx, c)
		}))
	if got, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 42, nil }); got != 42 || err != nil {
		t.Errorf("got %d, %v, want 42", got, err)
	}
}

// TestNew_pointers pins that a pointer to a configuration is equivalent to the configuration.
func TestNew_pointers(t *testing.T) {
	u := newUpstream(t, &timeout.Config{Total: time.Hour}, &retry.Config{}, &limits.Config{MaxRequests: limits.Zero})
	if _, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 42, nil }); !errors.Is(err, limits.ErrFull) {
		t.Errorf("got %v, want ErrFull", err)
	}
}

// TestUpstream_wrapsOnce pins that New wraps the policies, inner ones before outer ones, and that
// calls do not.
func TestUpstream_wrapsOnce(t *testing.T) {
	var wrapped, called journal
	named := func(name string) pillion.Policy {
		return policyFunc(func(_ *policy.Builder, next policy.Func) (policy.Func, error) {
			wrapped.add(name)
			return func(ctx context.Context, c *policy.Call) *policy.Outcome {
				called.add(name)
				return next(ctx, c)
			}, nil
		})
	}
	u := newUpstream(t, named("outer"), named("middle"), named("inner"))
	for range 2 {
		if _, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 0, nil }); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"inner", "middle", "outer"}, wrapped.all()); diff != "" {
		t.Errorf("wrapped (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"outer", "middle", "inner", "outer", "middle", "inner"}, called.all()); diff != "" {
		t.Errorf("called (-want +got):\n%s", diff)
	}
}

// TestUpstream_oneForAllProtocols shares one limit and one breaker between HTTP, a function and a
// custom protocol, one after the other and concurrently.
func TestUpstream_oneForAllProtocols(t *testing.T) {
	b, err := breaker.New(breaker.Config{NonBreakCount: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	u := newUpstream(t, timeout.Config{Total: patience}, retry.Config{NumRetries: retry.Never}, limits.Config{MaxRequests: 1}, b)
	client := &http.Client{Transport: u.Transport(answers(http.StatusOK, "soup"))}
	resp, err := client.Do(get(t.Context(), t))
	if err != nil {
		t.Fatal(err)
	}
	nothing := func(context.Context) (int, error) { return 0, nil }
	if _, err := pillion.Do(t.Context(), u, nothing); !errors.Is(err, limits.ErrFull) {
		t.Errorf("a function beside an open response: got %v, want ErrFull", err)
	}
	if o := u.Chain().Invoke(t.Context(), &letter{}); !errors.Is(o.Err, limits.ErrFull) {
		t.Errorf("a letter beside an open response: got %v, want ErrFull", o.Err)
	}
	_ = resp.Body.Close()
	if _, err := pillion.Do(t.Context(), u, nothing); err != nil {
		t.Errorf("a function after it: got %v, want no error", err)
	}
	stream := &letter{open: true}
	o := u.Chain().Invoke(t.Context(), stream)
	if o.Err != nil || !o.Open() {
		t.Fatalf("a letter after it: got %v, open %v, want it open", o.Err, o.Open())
	}
	if _, err := client.Do(get(t.Context(), t)); !errors.Is(err, limits.ErrFull) {
		t.Errorf("HTTP beside an open letter: got %v, want ErrFull", err)
	}
	_ = stream.call.Stream().End(nil)
	if got := b.Status(); got.Success != 3 || got.Failure != 0 {
		t.Errorf("breaker: got %+v, want three successes", got)
	}

	crowd := newUpstream(t, timeout.Config{Total: patience}, retry.Config{}, limits.Config{}, b)
	client = &http.Client{Transport: crowd.Transport(answers(http.StatusOK, "soup"))}
	var calls sync.WaitGroup
	const each = 50
	for range each {
		req := get(t.Context(), t)
		calls.Go(func() { send(t, client, req) })
		calls.Go(func() {
			if _, err := pillion.Do(t.Context(), crowd, nothing); err != nil {
				t.Errorf("function: %v", err)
			}
		})
		calls.Go(func() {
			x := &letter{open: true}
			if o := crowd.Chain().Invoke(t.Context(), x); o.Err != nil {
				t.Errorf("letter: %v", o.Err)
			}
			if err := x.call.Stream().End(nil); err != nil {
				t.Errorf("end of a letter: %v", err)
			}
		})
	}
	calls.Wait()
	if got := b.Status(); got.Success != 3+3*each || got.Failure != 0 {
		t.Errorf("breaker after all: got %+v, want %d successes", got, 3+3*each)
	}
}
