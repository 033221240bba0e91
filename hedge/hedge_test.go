package hedge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/internal/memhttp"
	"github.com/pillion-go/pillion/internal/statstest"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/policytest"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ms = time.Millisecond

// step describes an attempt: after takes it returns returns and err.
type step struct {
	takes   time.Duration
	returns string
	err     error
}

var errBroken = errors.New("broken")

// work returns a function that does one step in each call, and repeats the last one.
func work(steps ...step) func(ctx context.Context) (string, error) {
	var n atomic.Int64
	return func(ctx context.Context) (string, error) {
		s := steps[min(int(n.Add(1)), len(steps))-1]
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(s.takes):
			return s.returns, s.err
		}
	}
}

// TestConfig pins which attempt's result is returned.
func TestConfig(t *testing.T) {
	hang := step{takes: time.Hour}
	tests := []struct {
		name     string
		config   Config
		steps    []step
		want     string
		err      error
		attempts int
		takes    time.Duration
		stats    map[string]int
	}{
		{"quick", Config{}, []step{{99 * ms, "first", nil}}, "first", nil, 1, 99 * ms, nil},
		{"the first hangs", Config{}, []step{hang, {10 * ms, "second", nil}}, "second", nil, 2, 110 * ms, map[string]int{"sent": 1, "won": 1}},
		{"the first wins", Config{}, []step{{150 * ms, "first", nil}, hang}, "first", nil, 2, 150 * ms, map[string]int{"sent": 1}},
		{"the first fails quickly", Config{}, []step{{10 * ms, "", errBroken}}, "", errBroken, 1, 10 * ms, nil},
		{"the second fails, the first wins", Config{}, []step{{150 * ms, "first", nil}, {10 * ms, "", errBroken}}, "first", nil, 2, 150 * ms, map[string]int{"sent": 1}},
		{"the first fails, the second wins", Config{}, []step{{150 * ms, "", errBroken}, {100 * ms, "second", nil}}, "second", nil, 2, 200 * ms, map[string]int{"sent": 1, "won": 1}},
		{"both fail", Config{}, []step{{150 * ms, "", errBroken}, {10 * ms, "", io.EOF}}, "", errBroken, 2, 150 * ms, map[string]int{"sent": 1}},
		{"three attempts", Config{MaxHedges: 2}, []step{hang, hang, {10 * ms, "third", nil}}, "third", nil, 3, 210 * ms, map[string]int{"sent": 2, "won": 1}},
		{"no budget", Config{Budget: &Budget{Percent: Zero, Burst: 1}, MaxHedges: 2}, []step{{250 * ms, "first", nil}, hang}, "first", nil, 2, 250 * ms, map[string]int{"sent": 1, "overflow": 1}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tc.config.Delay = 100 * ms
				u, registry := statstest.New(t, timeout.Config{}, tc.config)
				ctx, info := pillion.WithInfo(pillion.WithIdempotent(t.Context()))
				began := time.Now()
				got, err := pillion.Do(ctx, u, work(tc.steps...))
				if took := time.Since(began); got != tc.want || !errors.Is(err, tc.err) || info.Attempts() != tc.attempts || took != tc.takes {
					t.Errorf("got %q, %v, %d attempts after %v, want %q, %v, %d after %v", got, err, info.Attempts(), took, tc.want, tc.err, tc.attempts, tc.takes)
				}
				synctest.Wait()
				counted := statstest.Used(t, registry, "hedge.")
				delete(counted, "delay_ms")
				if len(counted) != 0 || len(tc.stats) != 0 {
					if diff := cmp.Diff(tc.stats, counted); diff != "" {
						t.Errorf("statistics: %s", diff)
					}
				}
			})
		})
	}
}

// TestPercentile pins that calls are hedged only when enough latencies are known, and then after the
// percentile.
func TestPercentile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, registry := statstest.New(t, Config{Percentile: 90, Budget: &Budget{Disabled: true}})
		call := func(steps ...step) (string, time.Duration) {
			t.Helper()
			began := time.Now()
			got, err := pillion.Do(pillion.WithIdempotent(t.Context()), u, work(steps...))
			if err != nil {
				t.Error(err)
			}
			return got, time.Since(began)
		}
		for range 20 {
			if got, took := call(step{50 * ms, "soup", nil}); got != "soup" || took != 50*ms {
				t.Errorf("got %q after %v", got, took)
			}
		}
		got, took := call(step{takes: time.Minute, returns: "first"}, step{10 * ms, "second", nil})
		if got != "second" || took < 60*ms || took > 65*ms {
			t.Errorf("got %q after %v, want the second attempt after about 50ms", got, took)
		}
		if n := statstest.Used(t, registry, "hedge.")["delay_ms"]; n < 50 || n > 54 {
			t.Errorf("delay: got %d ms, want about 50", n)
		}
		synctest.Wait()
	})
}

// TestPercentile_slow pins that the delay rises when the whole upstream becomes slow, although the
// slow attempts are canceled, and that the budget bounds the hedges until then.
func TestPercentile_slow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, registry := statstest.New(t, Config{Percentile: 90})
		call := func(takes time.Duration) {
			_, _ = pillion.Do(pillion.WithIdempotent(t.Context()), u, work(step{takes: takes}))
		}
		for range 1000 {
			call(10 * ms)
		}
		for range 500 {
			call(200 * ms)
		}
		got := statstest.Used(t, registry, "hedge.")
		if got["delay_ms"] < 200 || got["sent"] > 60 || got["sent"] < 10 {
			t.Errorf("got %v, want a delay of 200 ms or more, and at most 10 hedges plus 10 %%", got)
		}
		synctest.Wait()
	})
}

// TestIdempotent pins which calls are hedged.
func TestIdempotent(t *testing.T) {
	for _, tc := range []struct {
		method, key string
		any         bool
		body        io.Reader
		want        int
	}{
		{"GET", "", false, nil, 2},
		{"POST", "", false, nil, 1},
		{"POST", "1", false, nil, 2},
		{"POST", "", true, nil, 2},
		{"PUT", "", false, strings.NewReader("soup"), 2},
		{"PUT", "", false, io.MultiReader(strings.NewReader("soup")), 1}, // the body cannot be read again
	} {
		synctest.Test(t, func(t *testing.T) {
			u, _ := statstest.New(t, Config{Delay: 100 * ms, AnyCall: tc.any})
			req, err := http.NewRequestWithContext(t.Context(), tc.method, "http://recipes/", tc.body)
			if err != nil {
				t.Fatal(err)
			}
			if tc.key != "" {
				req.Header.Set("Idempotency-Key", tc.key)
			}
			var mu sync.Mutex
			var bodies []string
			resp, err := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
				text := ""
				if req.Body != nil {
					b, _ := io.ReadAll(req.Body)
					_ = req.Body.Close()
					text = string(b)
				}
				mu.Lock()
				bodies = append(bodies, text)
				mu.Unlock()
				select {
				case <-time.After(250 * ms):
				case <-req.Context().Done():
					return nil, req.Context().Err()
				}
				return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader("soup")), Request: req}, nil
			})).RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			synctest.Wait()
			want := ""
			if tc.body != nil {
				want = "soup"
			}
			if string(got) != "soup" || err != nil || !slices.Equal(bodies, slices.Repeat([]string{want}, tc.want)) {
				t.Errorf("%s, key %q, any %v: got %q, %v and the bodies %q, want %d attempts", tc.method, tc.key, tc.any, got, err, bodies, tc.want)
			}
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// TestBody pins that the chosen response's body stays open after the other attempts were canceled,
// and that a slow body is not hedged.
func TestBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		server := memhttp.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1) == 1 {
				<-r.Context().Done()
				return
			}
			_, _ = io.WriteString(w, "so")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(time.Minute)
			_, _ = io.WriteString(w, "up")
		}))
		defer server.Close()
		u, _ := statstest.New(t, timeout.Config{Total: time.Hour}, Config{Delay: 100 * ms, MaxHedges: 5}, limits.Config{})
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://recipes/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := u.Transport(server).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if string(body) != "soup" || err != nil || n.Load() != 2 {
			t.Errorf("got %q, %v and %d requests, want soup and 2", body, err, n.Load())
		}
	})
}

// TestLimits pins that timeouts still apply to attempts that are hedged.
func TestLimits(t *testing.T) {
	for name, tc := range map[string]struct {
		timeout timeout.Config
		scope   policy.Scope
		takes   time.Duration
	}{
		"per try after the delay":  {timeout.Config{PerTry: 150 * ms}, timeout.PerTry, 250 * ms},
		"per try before the delay": {timeout.Config{PerTry: 50 * ms}, timeout.PerTry, 50 * ms},
		"idle":                     {timeout.Config{Idle: 170 * ms}, timeout.Idle, 270 * ms},
		"total":                    {timeout.Config{Total: 180 * ms}, timeout.Total, 180 * ms},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u, _ := statstest.New(t, tc.timeout, Config{Delay: 100 * ms})
				began := time.Now()
				_, err := pillion.Do(pillion.WithIdempotent(t.Context()), u, work(step{takes: time.Hour}))
				limit, ok := errors.AsType[*timeout.Error](err)
				if took := time.Since(began); !ok || limit.Scope != tc.scope || took != tc.takes {
					t.Errorf("got %v after %v, want %v after %v", err, took, tc.scope, tc.takes)
				}
				synctest.Wait()
			})
		})
	}
}

// TestBreaker pins that a canceled attempt counts neither as a success nor as a failure, and that
// its slot is free.
func TestBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := breaker.New(breaker.Config{})
		if err != nil {
			t.Fatal(err)
		}
		u, _ := statstest.New(t, Config{Delay: 100 * ms, Budget: &Budget{Disabled: true}}, limits.Config{MaxRequests: 2}, b)
		for range 3 {
			got, err := pillion.Do(pillion.WithIdempotent(t.Context()), u, work(step{takes: time.Hour}, step{10 * ms, "second", nil}))
			if got != "second" || err != nil {
				t.Errorf("got %q and %v", got, err)
			}
			synctest.Wait()
		}
		if diff := cmp.Diff(breaker.Status{Success: 3}, b.Status()); diff != "" {
			t.Errorf("breaker: %s", diff)
		}
	})
}

// TestRefused pins that the first attempt continues if the limits refuse the hedge.
func TestRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, _ := statstest.New(t, Config{Delay: 100 * ms}, limits.Config{MaxRequests: 1})
		got, err := pillion.Do(pillion.WithIdempotent(t.Context()), u, work(step{250 * ms, "first", nil}))
		if got != "first" || err != nil {
			t.Errorf("got %q and %v", got, err)
		}
	})
}

// TestRetry pins that retries are hedged, too, and that attempts are numbered in the order in which
// they begin.
func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var numbers []int
		listen := policy.Listener(func(_ context.Context, e policy.Event) {
			if e.Kind == policy.EventAttempt {
				mu.Lock()
				defer mu.Unlock()
				numbers = append(numbers, e.Call.Attempt())
			}
		})
		u, _ := statstest.New(t, retry.Config{On: "5xx", NumRetries: 1}, Config{Delay: 100 * ms}, listen)
		ctx, info := pillion.WithInfo(pillion.WithIdempotent(t.Context()))
		hang := step{takes: time.Hour}
		got, err := pillion.Do(ctx, u, work(step{150 * ms, "", errBroken}, step{100 * ms, "", errBroken}, hang, step{10 * ms, "fourth", nil}))
		if got != "fourth" || err != nil || info.Attempts() != 4 || !slices.Equal(numbers, []int{1, 2, 3, 4}) {
			t.Errorf("got %q, %v and the attempts %v, want the fourth", got, err, numbers)
		}
		synctest.Wait()
	})
}

// TestCanceled pins that the end of the caller's context ends all attempts.
func TestCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, _ := statstest.New(t, Config{Delay: 100 * ms})
		cause := errors.New("lunch is over")
		ctx, cancel := context.WithCancelCause(pillion.WithIdempotent(t.Context()))
		time.AfterFunc(200*ms, func() { cancel(cause) })
		ctx, info := pillion.WithInfo(ctx)
		began := time.Now()
		_, err := pillion.Do(ctx, u, work(step{takes: time.Hour}))
		if took := time.Since(began); !errors.Is(err, cause) || took != 200*ms || info.Flags() != envoy.DC {
			t.Errorf("got %v and %v after %v", err, info.Flags(), took)
		}
		synctest.Wait()
	})
}

// TestPanic pins that a panic propagates to the caller.
func TestPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, _ := statstest.New(t, Config{Delay: 100 * ms})
		defer func() {
			if p := recover(); p != "broken" {
				t.Errorf("got %v", p)
			}
			synctest.Wait()
		}()
		_, _ = pillion.Do(pillion.WithIdempotent(t.Context()), u, func(context.Context) (int, error) { panic("broken") })
	})
}

func TestContract(t *testing.T) {
	policytest.Policy(t, func() policy.Policy { return Config{Delay: ms, AnyCall: true} })
	policytest.Policy(t, func() policy.Policy { return Config{} })
}

// TestCrowd calls a server that is sometimes slow from several goroutines, for the race detector.
func TestCrowd(t *testing.T) {
	server := memhttp.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		switch rand.IntN(5) {
		case 0:
			<-r.Context().Done()
			return
		case 1:
			time.Sleep(3 * ms)
		}
		_, _ = w.Write(body)
	}))
	defer server.Close()
	u, _ := statstest.New(t, timeout.Config{Total: time.Second}, retry.Config{}, Config{Delay: ms, Percentile: 50, MaxHedges: 3, Budget: &Budget{Disabled: true}}, limits.Config{})
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			for n := range 50 {
				want := fmt.Sprintf("%d of %d", n, i)
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+rand.IntN(20))*ms)
				req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://recipes/", strings.NewReader(want))
				if err != nil {
					t.Error(err)
				}
				if resp, err := u.Transport(server).RoundTrip(req); err == nil {
					got, err := io.ReadAll(resp.Body)
					_ = resp.Body.Close()
					if err == nil && string(got) != want {
						t.Errorf("got %q, want %q", got, want)
					}
				}
				cancel()
			}
		})
	}
	callers.Wait()
}

func TestConfig_check(t *testing.T) {
	tests := map[string]Config{
		"":                            {},
		"Config.Delay: 50ns is below": {Delay: 50},
		"Config.Delay: -1ns is negative; write a duration such as 5*time.Second, or 0 for Percentile": {Delay: -1},
		"Config.Delay: 1s is fixed":           {Delay: time.Second, Window: time.Minute},
		"Config.Percentile: 0.95 is below 1;": {Percentile: 0.95},
		"Config.Percentile: 100 is not within 1 and 99.9; write a percentage, or 0 for 95":                                 {Percentile: 100},
		"Config.MinDelay: 1ns is below 1ms; did you forget the unit? Write a duration such as 5*time.Second, or 0 for 1ms": {MinDelay: 1},
		"Config.Window: 500ms is below 1s; did you forget the unit? Write a duration such as 5*time.Second, or 0 for 30s":  {Window: 500 * ms},
		"Config.MinSamples: -1 is negative; write 1 or more, or 0 for 20":                                                  {MinSamples: -1},
		"Config.MaxHedges: -1 is negative; write 1 or more, or 0 for 1":                                                    {MaxHedges: -1},
		"Config.Budget.Percent: 0.1 is below":                                                                              {Budget: &Budget{Percent: 0.1}},
		"Config.Budget.Percent: 101 is not within 1 and 100; write a percentage, 0 for 10, or hedge.Zero for no share":     {Budget: &Budget{Percent: 101}},
		"Config.Budget.Burst: -2 is negative; write 1 or more, or 0 for 10":                                                {Budget: &Budget{Burst: -2}},
		"Config.Budget.Disabled: true": {Budget: &Budget{Disabled: true, Burst: 1}},
	}
	for want, c := range tests {
		_, err := pillion.New("recipes", c)
		if want == "" != (err == nil) || err != nil && !strings.Contains(err.Error(), "hedge: "+want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// TestPlace pins which places are allowed.
func TestPlace(t *testing.T) {
	for want, policies := range map[string][]policy.Policy{
		"":                                    {timeout.Config{}, retry.Config{}, Config{}, limits.Config{}},
		"hedge outside retry would multiply":  {Config{}, retry.Config{}},
		"limits outside hedge":                {limits.Config{}, Config{}},
		"hedge outside hedge would multiply":  {Config{}, Config{}},
		"retry outside hedge would multiply":  {retry.Config{HedgeOnPerTryTimeout: true}, Config{}},
		"hedge outside metrics would see att": {Config{}, metrics.Config{}},
	} {
		_, err := pillion.New("recipes", policies...)
		if want == "" != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// TestBudget pins that the budget allows the burst and then the percentage of the calls.
func TestBudget(t *testing.T) {
	b := (&Budget{Percent: 25, Burst: 2}).start()
	taken := 0
	for range 100 {
		b.deposit()
		if b.withdraw() {
			taken++
		}
	}
	if taken != 26 && taken != 27 {
		t.Errorf("got %d of 100, want the burst of 2, and 25 percent", taken)
	}
	var none *budget
	if none.deposit(); !none.withdraw() {
		t.Error("without a budget: got a refusal")
	}
}
