package retry

import (
	"context"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
)

func TestBudgetErrors(t *testing.T) {
	for _, tc := range []struct {
		name   string
		budget Budget
		want   []string
	}{
		{"zero", Budget{}, nil},
		{"nothing allowed", Budget{Percent: Zero, MinPerSecond: Zero}, nil},
		{"disabled", Budget{Disabled: true}, nil},
		{"more than all calls", Budget{Percent: 300, MinPerSecond: 1e6, Window: time.Hour}, nil},
		{"least", Budget{Percent: 1, MinPerSecond: 1, Window: time.Second}, nil},
		{"ratio", Budget{Percent: 0.2}, []string{"Percent: 0.2 is below 1; write 20 for 20 percent"}},
		{"negative", Budget{Percent: -20}, []string{"Percent: -20 is no percentage; write 1 or more, 0 for 20, or retry.Zero for no share"}},
		{"no number", Budget{Percent: math.NaN()}, []string{"Percent: NaN is no percentage; write 1 or more, 0 for 20, or retry.Zero for no share"}},
		{"no end", Budget{Percent: math.Inf(1)}, []string{"Percent: +Inf is no percentage; write 1 or more, 0 for 20, or retry.Zero for no share"}},
		{"MinPerSecond", Budget{MinPerSecond: -2}, []string{"MinPerSecond: -2 is negative; write 1 or more, 0 for 10, or retry.Zero for none"}},
		{"unit forgotten", Budget{Window: 10}, []string{"Window: 10ns is below 1s; did you forget the unit? W" + such[1:] + ", or 0 for 10s"}},
		{"negative window", Budget{Window: -time.Second}, []string{"Window: -1s is negative; " + such + ", or 0 for 10s"}},
		{
			"disabled, and more",
			Budget{Disabled: true, Percent: 20},
			[]string{"Disabled: true disables the other fields; leave them out"},
		},
		{
			"all",
			Budget{Percent: 0.5, MinPerSecond: -9, Window: 1},
			[]string{
				"Percent: 0.5 is below 1; write 50 for 50 percent",
				"MinPerSecond: -9 is negative; write 1 or more, 0 for 10, or retry.Zero for none",
				"Window: 1ns is below 1s; did you forget the unit? W" + such[1:] + ", or 0 for 10s",
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for field, p := range map[string]policy.Policy{
				"retry: Config.Budget.":    Config{Budget: &tc.budget},
				"retry: Retryable.Budget.": Retryable{Budget: &tc.budget},
			} {
				var want []string
				for _, text := range tc.want {
					want = append(want, field+text)
				}
				if diff := cmp.Diff(want, lines(t, p)); diff != "" {
					t.Errorf("errors of %+v (-want +got):\n%s", tc.budget, diff)
				}
			}
		})
	}
}

// TestBudgetBesideLimits checks that limits replace the default budget, and that setting both is
// an error.
func TestBudgetBesideLimits(t *testing.T) {
	for _, tc := range []struct {
		name   string
		budget *Budget
		limits limits.Config
		want   bool
	}{
		{"default", nil, limits.Config{MaxRetries: 5}, true},
		{"set, without a limit on retries", &Budget{}, limits.Config{MaxRequests: 5}, true},
		{"disabled", &Budget{Disabled: true}, limits.Config{MaxRetries: 5}, true},
		{"set, with MaxRetries", &Budget{}, limits.Config{MaxRetries: 5}, false},
		{"set, with RetryBudget", &Budget{Percent: 30}, limits.Config{RetryBudget: &limits.RetryBudget{}}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for name, p := range map[string]policy.Policy{"Config": Config{Budget: tc.budget}, "Retryable": Retryable{Budget: tc.budget}} {
				_, err := pillion.New("recipes", p, tc.limits)
				want := "retry: " + name + ".Budget: no effect beside MaxRetries or RetryBudget of limits; leave one of them out"
				if (err == nil) != tc.want || (err != nil && !strings.HasSuffix(err.Error(), want)) {
					t.Errorf("got %v, want an error: %v", err, !tc.want)
				}
			}
		})
	}
}

// retries makes n failing calls at the same instant and returns how many are retried.
func retries(t *testing.T, u *pillion.Upstream, n int) (retried int) {
	t.Helper()
	for range n {
		r := call(t, u, answers(status(503)), get(t.Context()))
		retried += r.attempts - 1
		if r.code != 503 || r.flags.Has(envoy.UO) != (r.attempts == 1) {
			t.Fatalf("got %d after %d attempts with flags %v, want 503, and UO if and only if there was no retry", r.code, r.attempts, r.flags)
		}
	}
	return retried
}

// TestBudget counts the retries of calls that all fail, at the same instant and later.
func TestBudget(t *testing.T) {
	for _, tc := range []struct {
		name        string
		budget      *Budget
		limits      limits.Config
		first, then int // of 1000 calls each
		later       int // of 1000 more, after the window
	}{
		{"default", nil, limits.Config{}, 300, 200, 300},
		{"zero", &Budget{}, limits.Config{}, 300, 200, 300},
		{"other values", &Budget{Percent: 50, MinPerSecond: 3, Window: 20 * time.Second}, limits.Config{}, 560, 500, 560},
		{"no share", &Budget{Percent: Zero}, limits.Config{}, 100, 0, 100},
		{"no minimum", &Budget{MinPerSecond: Zero}, limits.Config{}, 200, 200, 200},
		{"nothing", &Budget{Percent: Zero, MinPerSecond: Zero}, limits.Config{}, 0, 0, 0},
		{"disabled", &Budget{Disabled: true}, limits.Config{}, 1000, 1000, 1000},
		{"limits alone", nil, limits.Config{MaxRetries: 3}, 1000, 1000, 1000},
		{"a retry budget of limits alone", nil, limits.Config{RetryBudget: &limits.RetryBudget{}}, 1000, 1000, 1000},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := upstream(t, Config{Budget: tc.budget, Rand: always(0)}, tc.limits)
				got := []int{retries(t, u, 1000), retries(t, u, 1000)}
				time.Sleep(time.Minute)
				got = append(got, retries(t, u, 1000))
				if diff := cmp.Diff([]int{tc.first, tc.then, tc.later}, got); diff != "" {
					t.Errorf("retries (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestBudgetOfRetryable checks the budget of a Retryable.
func TestBudgetOfRetryable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if got := retries(t, upstream(t, Retryable{Sleep: Zero}), 1000); got != 300 {
			t.Errorf("got %d retries, want 300", got)
		}
		u := upstream(t, Retryable{Sleep: Zero, Budget: &Budget{Disabled: true}})
		if got := retries(t, u, 1000); got != 1000 {
			t.Errorf("disabled: got %d retries, want 1000", got)
		}
	})
}

// TestBudgetIsOneUpstreams uses one Config in two upstreams: each counts separately.
func TestBudgetIsOneUpstreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{Budget: &Budget{Percent: Zero, MinPerSecond: 1}, Rand: always(0)}
		first, second := upstream(t, cfg), upstream(t, cfg)
		cfg.Budget.MinPerSecond = 5 // the upstreams have been made
		for _, u := range []*pillion.Upstream{first, second} {
			if got := retries(t, u, 100); got != 10 {
				t.Errorf("got %d retries, want 10", got)
			}
		}
	})
}

// TestBudgetTakesNoBackOff has many calls in back-off concurrently: single failures are retried
// however long the back-off.
func TestBudgetTakesNoBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := upstream(t, Config{BaseInterval: time.Second, Rand: always(0.9)})
		var callers sync.WaitGroup
		var good atomic.Int32
		for range 100 {
			callers.Go(func() {
				if r := call(t, u, answers(status(503), status(200)), get(t.Context())); r.code == 200 {
					good.Add(1)
				}
			})
		}
		callers.Wait()
		if got := good.Load(); got != 100 {
			t.Errorf("got %d good calls of 100 whose first attempt failed, want all", got)
		}
	})
}

// TestBudgetOfRefusedAttempts refuses attempts inside. They sent nothing, so they do not add to
// the budget, and their retries do not use it.
func TestBudgetOfRefusedAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := upstream(t, Config{RetryRefused: true, NumRetries: 2, Rand: always(0), Budget: &Budget{Percent: 100, MinPerSecond: Zero}},
			refuseFirst{})
		for range 50 {
			// The first attempt is refused. The second one fails and is counted as the call. The
			// third one is its retry.
			if r := call(t, u, answers(status(503)), get(t.Context())); r.attempts != 3 || !r.flags.Has(envoy.URX) {
				t.Fatalf("got %d attempts with flags %v, want 3 and URX", r.attempts, r.flags)
			}
		}
		refused := upstream(t, Config{RetryRefused: true, NumRetries: 5, Rand: always(0), Budget: &Budget{Percent: 100, MinPerSecond: Zero}},
			closing{0})
		for range 50 {
			if r := call(t, refused, answers(status(200)), get(t.Context())); r.attempts != 6 {
				t.Fatalf("got %d attempts, want all 6 refused", r.attempts)
			}
		}
	})
}

// slowCore is a budgetCore that stores every call and retry.
type slowCore struct {
	percent, reserve float64
	part             time.Duration
	newest           int64
	calls, retries   []int64 // the part of each
}

func (s *slowCore) at(now time.Duration) int64 {
	s.newest = max(s.newest, int64(now/s.part))
	return s.newest
}

func (s *slowCore) recent(list []int64) (n int) {
	for _, part := range list {
		if part > s.newest-windowParts {
			n++
		}
	}
	return n
}

func (s *slowCore) call(now time.Duration, n int64) {
	for at := s.at(now); n > 0; n-- {
		s.calls = append(s.calls, at)
	}
}

func (s *slowCore) retry(now time.Duration) bool {
	at := s.at(now)
	ok := float64(s.recent(s.retries)+1) <= s.reserve+s.percent*float64(s.recent(s.calls))/100
	if ok {
		s.retries = append(s.retries, at)
	}
	return ok
}

// drive applies the events in data to a core and to its slow model. Each byte is calls, a retry,
// or time.
func drive(t *testing.T, percent, reserve float64, data []byte) {
	t.Helper()
	const part = 100 * time.Millisecond
	fast := &budgetCore{percent: percent, reserve: reserve, part: part}
	slow := &slowCore{percent: percent, reserve: reserve, part: part}
	now := time.Duration(0)
	for i, b := range data {
		switch n := int64(b >> 2); b & 3 {
		case 0:
			fast.call(now, n)
			slow.call(now, n)
		case 1, 2:
			if got, want := fast.retry(now), slow.retry(now); got != want {
				t.Fatalf("step %d at %v: retry %v, want %v", i, now, got, want)
			}
		case 3:
			now += time.Duration(n*n-n) * time.Millisecond // up to almost 4s, and sometimes back
			if n == 1 {
				now -= 3 * time.Millisecond
			}
		}
	}
}

// TestBudgetCore compares a budget with its slow model.
func TestBudgetCore(t *testing.T) {
	for seed := range uint64(100) {
		chance := rand.New(rand.NewPCG(seed, 5))
		data := make([]byte, 500)
		for i := range data {
			data[i] = byte(chance.Uint32())
		}
		drive(t, float64(chance.IntN(150)), float64(chance.IntN(20)), data)
	}
}

// FuzzBudgetCore does the same with arbitrary events. A budget must agree with its model and must
// not panic.
func FuzzBudgetCore(f *testing.F) {
	f.Add(20.0, 3.0, []byte{4, 1, 1, 1, 255, 1})
	f.Add(0.0, 0.0, []byte{1, 255, 0})
	f.Add(250.0, 0.5, []byte{252, 1, 2, 7, 1, 35, 1, 1})
	f.Fuzz(func(t *testing.T, percent, reserve float64, data []byte) { drive(t, percent, reserve, data) })
}

// TestBudgetCore_bound checks the bounds of the budget. When a retry is allowed, the retries in
// nine tenths of the window are at most the share of the calls in the whole window plus the
// reserve. A retry that is within the share of nine tenths of the window is allowed.
func TestBudgetCore_bound(t *testing.T) {
	const part, window = time.Second, windowParts * time.Second
	const percent, reserve = 20.0, 5.0
	within := func(list []time.Duration, now, span time.Duration) (n float64) {
		for _, at := range list {
			if at > now-span {
				n++
			}
		}
		return n
	}
	for seed := range uint64(50) {
		chance := rand.New(rand.NewPCG(seed, 9))
		core := &budgetCore{percent: percent, reserve: reserve, part: part}
		var calls, retried []time.Duration
		now := time.Duration(0)
		for range 1000 {
			now += time.Duration(chance.ExpFloat64() * float64(chance.IntN(500)) * float64(time.Millisecond))
			core.call(now, 1)
			calls = append(calls, now)
			if chance.IntN(2) == 0 {
				continue
			}
			before := within(retried, now, window)
			least := reserve + percent*within(calls, now, window-part)/100
			if !core.retry(now) {
				if before+1 <= least {
					t.Fatalf("seed %d at %v: no retry after %v in the window, want one up to %v", seed, now, before, least)
				}
				continue
			}
			retried = append(retried, now)
			most := reserve + percent*within(calls, now, window)/100
			if got := within(retried, now, window-part); got > most {
				t.Fatalf("seed %d at %v: got %v retries, want at most %v", seed, now, got, most)
			}
		}
	}
}

// TestBudget_concurrent makes calls and retries from many goroutines at the same instant. All are
// counted, and no retry is over the budget.
func TestBudget_concurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := (&Budget{}).start()
		var allowed atomic.Int64
		var callers sync.WaitGroup
		for range 16 {
			callers.Go(func() {
				for range 1000 {
					b.deposit()
					if b.withdraw() {
						allowed.Add(1)
					}
				}
			})
		}
		callers.Wait()
		if got := allowed.Load(); got != 3300 { // 20% of 16,000 calls, plus the reserve
			t.Errorf("got %d retries, want 3300", got)
		}
	})
}

// TestBudgetCostsNoAllocation checks that counting calls and retries does not allocate.
func TestBudgetCostsNoAllocation(t *testing.T) {
	b := (&Budget{}).start()
	if got := testing.AllocsPerRun(1000, func() { b.deposit(); b.withdraw() }); got != 0 {
		t.Errorf("got %v allocations, want 0", got)
	}
}

// BenchmarkBudget measures the cost of a call.
func BenchmarkBudget(b *testing.B) {
	budget := (&Budget{}).start()
	b.Run("deposit", func(b *testing.B) {
		for b.Loop() {
			budget.deposit()
		}
	})
	b.Run("deposit, concurrent", func(b *testing.B) {
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				budget.deposit()
			}
		})
	})
	b.Run("withdraw", func(b *testing.B) {
		for b.Loop() {
			budget.withdraw()
		}
	})
}

// TestBudgetOfFunctions uses a failing function under a budget.
func TestBudgetOfFunctions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := upstream(t, Config{On: "5xx", Budget: &Budget{Percent: Zero, MinPerSecond: 1}, Rand: always(0)})
		runs := 0
		for range 100 {
			_, _ = pillion.Do(t.Context(), u, func(context.Context) (int, error) {
				runs++
				return 0, errBroken
			})
		}
		if runs != 110 {
			t.Errorf("got %d runs of 100 calls, want 110", runs)
		}
	})
}
