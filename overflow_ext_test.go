package pillion_test

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// TestRetryOverflow distinguishes a call whose retry was not made from a refused one: both have the
// flag UO. Info, listeners and log agree.
func TestRetryOverflow(t *testing.T) {
	open, err := breaker.New(breaker.Config{NonBreakCount: 1, Sleep: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	open.Record(breaker.Failure)
	noRetries := limits.Config{MaxRetries: limits.Zero}
	noBudget := retry.Config{Budget: &retry.Budget{Percent: retry.Zero, MinPerSecond: retry.Zero}}
	tests := []struct {
		name     string
		policies []pillion.Policy
		status   int
		want     bool
	}{
		{"no concurrent retries", []pillion.Policy{quick(1), noRetries}, 503, true},
		{"no concurrent retries by budget", []pillion.Policy{
			quick(1), limits.Config{RetryBudget: &limits.RetryBudget{MinRetryConcurrency: limits.Zero}},
		}, 503, true},
		{"no budget", []pillion.Policy{noBudget}, 503, true},
		{"no retry needed", []pillion.Policy{noBudget}, 200, false},
		{"retries used up", []pillion.Policy{quick(1)}, 503, false},
		{"refused by a breaker", []pillion.Policy{quick(1), open}, 503, false},
		{"refused by a limit", []pillion.Policy{quick(1), limits.Config{MaxRequests: limits.Zero}}, 503, false},
		{"refused, and its retry overflowed", []pillion.Policy{
			retry.Config{RetryRefused: true}, limits.Config{MaxRequests: limits.Zero, MaxRetries: limits.Zero},
		}, 503, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var atEnd []bool
			listener := pillion.Listener(func(_ context.Context, e policy.Event) {
				if e.Kind == policy.EventEnd {
					atEnd = append(atEnd, e.Call.RetryOverflow())
				}
			})
			u := newUpstream(t, append(test.policies, listener)...)
			ctx, info := pillion.WithInfo(t.Context())
			resp, err := u.Transport(answers(test.status, "soup")).RoundTrip(get(ctx, t))
			if err == nil {
				_ = resp.Body.Close()
			}
			if info.RetryOverflow() != test.want || !slices.Equal(atEnd, []bool{test.want}) {
				t.Errorf("got %v from Info and %v from the listener, want %v (flags %v)",
					info.RetryOverflow(), atEnd, test.want, info.Flags())
			}
			lines := logged(t, slog.LevelInfo, test.policies, answers(test.status, "soup"), t.Context())
			if got := strings.Contains(strings.Join(lines, " "), "retry_overflow=true"); got != test.want {
				t.Errorf("log: got %q, want retry_overflow in it: %v", lines, test.want)
			}
		})
	}
}

// TestRetryOverflow_ofOneCall makes calls that use the same storage, one after the other.
func TestRetryOverflow_ofOneCall(t *testing.T) {
	status := http.StatusServiceUnavailable
	u := newUpstream(t, quick(1), limits.Config{MaxRetries: limits.Zero})
	transport := u.Transport(roundTripper(func(*http.Request) (*http.Response, error) { return answer(status, ""), nil }))
	for i := range 10 {
		status = []int{http.StatusServiceUnavailable, http.StatusOK}[i%2]
		ctx, info := pillion.WithInfo(t.Context())
		resp, err := transport.RoundTrip(get(ctx, t))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if got, want := info.RetryOverflow(), status != http.StatusOK; got != want {
			t.Errorf("call %d: got %v, want %v", i, got, want)
		}
	}
}

// TestNew_twice uses policies that an upstream may have only once.
func TestNew_twice(t *testing.T) {
	const twice = `upstream "recipes": pillion: Options: it is given more than once; write one with all the fields`
	const order = `upstream "recipes": pillion: order: `
	const anyOrder = "; leave one of them out, or put AnyOrder among the policies if you mean it"
	tests := []struct {
		name     string
		policies []pillion.Policy
		want     string
	}{
		{"HTTP", []pillion.Policy{pillion.Options{}, pillion.Options{}}, twice},
		{"pointers", []pillion.Policy{&pillion.Options{}, (*pillion.Options)(nil)}, twice},
		{"HTTP, whatever the order", []pillion.Policy{pillion.Options{}, pillion.AnyOrder{}, pillion.Options{}}, twice},
		{"one HTTP", []pillion.Policy{pillion.Options{}, nil}, ""},
		{"limits", []pillion.Policy{limits.Config{}, &limits.Config{}}, order + "limits outside limits would hold two slots for each attempt" + anyOrder},
		{"retry", []pillion.Policy{retry.Config{}, retry.Retryable{}}, order + "retry outside retry would multiply the attempts" + anyOrder},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := pillion.New("recipes", test.policies...)
			if got := strings.Join(lines(err), "\n"); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// yielding has its place by default.
type yielding struct {
	placed
	instead pillion.Policy
}

func (y yielding) Yield() (without pillion.Policy, ok bool) { return y.instead, true }

// TestNew_yields pins that New drops a place that a policy has by default if another policy has
// that place explicitly.
func TestNew_yields(t *testing.T) {
	var wrapped []string
	named := func(name string) pillion.Policy {
		return policyFunc(func(_ *policy.Builder, next policy.Func) (policy.Func, error) {
			wrapped = append(wrapped, name)
			return next, nil
		})
	}
	byDefault := func(name string, place policy.Place) pillion.Policy { return yielding{placed{place}, named(name)} }
	const refused = "error"
	tests := []struct {
		name     string
		policies []pillion.Policy
		want     []string
	}{
		{"alone", []pillion.Policy{byDefault("a", totalPlace)}, nil},
		{"beside another place", []pillion.Policy{byDefault("a", totalPlace), placed{metricsPlace}}, nil},
		{"inside", []pillion.Policy{placed{totalPlace}, placed{retryPlace}, byDefault("a", totalPlace)}, []string{"a"}},
		{"outside", []pillion.Policy{byDefault("a", totalPlace), placed{totalPlace}}, []string{"a"}},
		{
			"two",
			[]pillion.Policy{byDefault("a", totalPlace), placed{totalPlace}, byDefault("b", totalPlace)},
			[]string{"b", "a"},
		},
		{"two by default", []pillion.Policy{byDefault("a", totalPlace), byDefault("b", totalPlace)}, []string{refused}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			wrapped = nil
			if _, err := pillion.New("recipes", test.policies...); err != nil {
				wrapped = append(wrapped, refused)
			}
			if diff := cmp.Diff(test.want, wrapped); diff != "" {
				t.Errorf("policies that took a place (-want +got):\n%s", diff)
			}
		})
	}
}

// TestNew_totalLimitOfOne uses two timeout policies of which one sets Total: the default of the
// other does not shorten it.
func TestNew_totalLimitOfOne(t *testing.T) {
	for name, policies := range map[string][]pillion.Policy{
		"outer": {timeout.Config{Total: time.Hour}, timeout.Config{PerTry: time.Minute}},
		"inner": {timeout.Config{PerTry: time.Minute}, timeout.Config{Total: time.Hour}},
		"inside retry": {
			timeout.Config{Total: time.Hour}, retry.Config{}, &timeout.Config{PerTry: time.Minute},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var left time.Duration
			u := newUpstream(t, append(policies, before(func(c *policy.Call) { left, _ = c.Remaining() }))...)
			if _, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 0, nil }); err != nil {
				t.Fatal(err)
			}
			if left <= time.Hour-time.Minute || left > time.Hour {
				t.Errorf("got %v left, want an hour", left)
			}
		})
	}
}
