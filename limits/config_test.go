package limits

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
)

func TestConfigErrors(t *testing.T) {
	const noPool = "has no effect without a connection pool; put a cluster.Config inside"
	for _, tc := range []struct {
		name string
		cfg  Config
		want []string
	}{
		{"zero", Config{}, nil},
		{"nothing allowed", Config{MaxRequests: Zero, MaxRetries: Zero, RetryBudget: &RetryBudget{MinRetryConcurrency: Zero}}, nil},
		{"whole budget", Config{RetryBudget: &RetryBudget{BudgetPercent: 100}}, nil},
		{"MaxRequests", Config{MaxRequests: -2}, []string{"limits: Config.MaxRequests: -2 is negative; write 1 or more, 0 for the default, or limits.Zero for none"}},
		{"MaxRetries", Config{MaxRetries: -3}, []string{"limits: Config.MaxRetries: -3 is negative; write 1 or more, 0 for the default, or limits.Zero for none"}},
		{
			"MinRetryConcurrency",
			Config{RetryBudget: &RetryBudget{MinRetryConcurrency: -2}},
			[]string{"limits: Config.RetryBudget.MinRetryConcurrency: -2 is negative; write 1 or more, 0 for the default, or limits.Zero for none"},
		},
		{
			"BudgetPercent below",
			Config{RetryBudget: &RetryBudget{BudgetPercent: -0.1}},
			[]string{"limits: Config.RetryBudget.BudgetPercent: -0.1 is not within 1 and 100; write a percentage, 0 for 20, or limits.Zero for no share"},
		},
		{
			"BudgetPercent above",
			Config{RetryBudget: &RetryBudget{BudgetPercent: 100.1}},
			[]string{"limits: Config.RetryBudget.BudgetPercent: 100.1 is not within 1 and 100; write a percentage, 0 for 20, or limits.Zero for no share"},
		},
		{
			"BudgetPercent that is a ratio",
			Config{RetryBudget: &RetryBudget{BudgetPercent: 0.2}},
			[]string{"limits: Config.RetryBudget.BudgetPercent: 0.2 is below 1; write 20 for 20 percent"},
		},
		{"BudgetPercent of one", Config{RetryBudget: &RetryBudget{BudgetPercent: 1}}, nil},
		{
			"BudgetPercent NaN",
			Config{RetryBudget: &RetryBudget{BudgetPercent: math.NaN()}},
			[]string{"limits: Config.RetryBudget.BudgetPercent: NaN is not within 1 and 100; write a percentage, 0 for 20, or limits.Zero for no share"},
		},
		{"MaxConnections", Config{MaxConnections: 1}, []string{"limits: Config.MaxConnections: 1 " + noPool}},
		{"no MaxConnections", Config{MaxConnections: Zero}, []string{"limits: Config.MaxConnections: -1 " + noPool}},
		{"MaxPendingRequests", Config{MaxPendingRequests: 1024}, []string{"limits: Config.MaxPendingRequests: 1024 " + noPool}},
		{
			"all together",
			Config{
				MaxRequests: -2, MaxRetries: -2, MaxConnections: 5, MaxPendingRequests: 6,
				RetryBudget: &RetryBudget{BudgetPercent: -2, MinRetryConcurrency: -2},
			},
			[]string{
				"limits: Config.MaxRequests: -2 is negative; write 1 or more, 0 for the default, or limits.Zero for none",
				"limits: Config.MaxRetries: -2 is negative; write 1 or more, 0 for the default, or limits.Zero for none",
				"limits: Config.RetryBudget.MinRetryConcurrency: -2 is negative; write 1 or more, 0 for the default, or limits.Zero for none",
				"limits: Config.RetryBudget.BudgetPercent: -2 is not within 1 and 100; write a percentage, 0 for 20, or limits.Zero for no share",
				"limits: Config.MaxConnections: 5 " + noPool,
				"limits: Config.MaxPendingRequests: 6 " + noPool,
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			if _, err := pillion.New("recipes", tc.cfg); err != nil {
				got = strings.Split(strings.TrimPrefix(err.Error(), `upstream "recipes": `), "\n")
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("errors of %+v (-want +got):\n%s", tc.cfg, diff)
			}
		})
	}
}

// TestMaxRequests opens calls until one is refused.
func TestMaxRequests(t *testing.T) {
	for _, tc := range []struct {
		name string
		cfg  Config
		want int
	}{
		{"default", Config{}, 1024},
		{"five", Config{MaxRequests: 5}, 5},
		{"none", Config{MaxRequests: Zero}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			u := upstream(t, tc.cfg)
			for range tc.want {
				defer open(t.Context(), t, u).Body.Close()
			}
			if !full(t, u) {
				t.Errorf("got a call admitted with %d others, want it refused", tc.want)
			}
		})
	}
}

// TestMaxRetries counts the concurrent retries allowed with a number of requests.
func TestMaxRetries(t *testing.T) {
	budget := func(percent float64, least int) Config {
		return Config{MaxRetries: 77, RetryBudget: &RetryBudget{BudgetPercent: percent, MinRetryConcurrency: least}}
	}
	for _, tc := range []struct {
		name   string
		cfg    Config
		active int64
		want   int
	}{
		{"Envoy's default", Config{MaxRetries: DefaultMaxRetries}, 1000, 3},
		{"five", Config{MaxRetries: 5}, 0, 5},
		{"none", Config{MaxRetries: Zero}, 1000, 0},
		{"default budget, idle", budget(0, 0), 0, 3},
		{"default budget, 15", budget(0, 0), 15, 3},
		{"default budget, 19", budget(0, 0), 19, 3},
		{"default budget, 20", budget(0, 0), 20, 4},
		{"default budget, 1000", budget(0, 0), 1000, 200},
		{"quarter", budget(25, 0), 100, 25},
		{"everything", budget(100, 0), 50, 50},
		{"no share", budget(Zero, 2), 1000, 2},
		{"no minimum, idle", budget(50, Zero), 0, 0},
		{"no minimum, one", budget(50, Zero), 1, 0},
		{"no minimum, two", budget(50, Zero), 2, 1},
		{"minimum applies", budget(10, 7), 79, 7},
		{"share is above the minimum", budget(10, 7), 80, 8},
		{"less than a percent", budget(0.5, Zero), 199, 0},
		{"less than a percent of many", budget(0.5, Zero), 200, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := tc.cfg.limiter()
			l.requests.Store(tc.active)
			got := 0
			for got < 10000 && l.acquireRetry(0) {
				got++
			}
			if got != tc.want {
				t.Fatalf("got %d retries with %d requests, want %d", got, tc.active, tc.want)
			}
			if got == 0 {
				return
			}
			l.releaseRetry()
			if !l.acquireRetry(0) || l.acquireRetry(0) {
				t.Error("want exactly one slot after one was released")
			}
		})
	}
}

// TestConfigIsSeparateInEachUpstream uses one Config in two upstreams: each counts separately.
func TestConfigIsSeparateInEachUpstream(t *testing.T) {
	cfg := Config{MaxRequests: 1}
	first, second := upstream(t, cfg), upstream(t, cfg)
	defer open(t.Context(), t, first).Body.Close()
	if !full(t, first) || full(t, second) {
		t.Errorf("got full: %v and %v, want only the first upstream to be", full(t, first), full(t, second))
	}
}

// TestConfigIsCopied changes a budget after the upstream was made.
func TestConfigIsCopied(t *testing.T) {
	b := &RetryBudget{MinRetryConcurrency: 1}
	l := Config{RetryBudget: b}.limiter()
	b.MinRetryConcurrency, b.BudgetPercent = 5, 100
	l.requests.Store(4)
	if !l.acquireRetry(0) || l.acquireRetry(0) {
		t.Error("want one retry, from the budget when the upstream was made")
	}
}
