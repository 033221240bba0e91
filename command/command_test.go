package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/internal/raceflag"
	"github.com/pillion-go/pillion/retry"
)

func TestClassify(t *testing.T) {
	open := &CircuitBreakError{Name: "recipes"}
	for name, tt := range map[string]struct {
		err  error
		want breaker.Result
	}{
		"nothing":                         {nil, breaker.Success},
		"any error":                       {errBoom, breaker.Failure},
		"a deadline":                      {context.DeadlineExceeded, breaker.Timeout},
		"a deadline, wrapped":             {fmt.Errorf("x: %w", context.DeadlineExceeded), breaker.Timeout},
		"a limit":                         {&TimeoutError{Limit: 1}, breaker.Timeout},
		"a net.Error":                     {&url.Error{Err: os.ErrDeadlineExceeded}, breaker.Timeout},
		"a net.Error of another kind":     {&url.Error{Err: errBoom}, breaker.Failure},
		"a cancellation":                  {fmt.Errorf("x: %w", context.Canceled), breaker.Ignored},
		"a rejection":                     {&RejectedError{}, breaker.Rejection},
		"a rejection, wrapped":            {fmt.Errorf("x: %w", ErrRejected), breaker.Rejection},
		"a refusal":                       {open, breaker.Break},
		"a refusal, through an http call": {&url.Error{Err: open}, breaker.Break},
		"any refusal":                     {breaker.ErrOpen, breaker.Break},
		"a dependency's timeout":          {&DependencyError{context.DeadlineExceeded}, breaker.Dependency},
		"a dependency's, wrapped":         {fmt.Errorf("x: %w", &DependencyError{open}), breaker.Dependency},
		"a panic with a deadline":         {&PanicError{Value: context.DeadlineExceeded}, breaker.Failure},
		"joined, the first decides":       {errors.Join(errBoom, open, context.Canceled), breaker.Break},
		"joined, none is known":           {errors.Join(errBoom, errBoom), breaker.Failure},
	} {
		if got := Classify(tt.err); got != tt.want {
			t.Errorf("%s: got %v, want %v", name, got, tt.want)
		}
	}
}

// TestOwnClassify has a service with its own Classify.
func TestOwnClassify(t *testing.T) {
	s := service(t, ServiceConfig{Classify: func(err error) breaker.Result {
		if errors.Is(err, errBoom) {
			return breaker.Success
		}
		return Classify(err)
	}})
	c := New(Config{Service: s}, failing(errBoom))
	must(t, c.Run(t.Context()))
	wantStatus(t, s, breaker.Status{Success: 1})
	if _, err := c.Get(t.Context()); !errors.Is(err, errBoom) {
		t.Errorf("got %v, want the error too", err)
	}
}

// TestHookPanics has a hook that panics: the hooks after it do not run, and the panic is
// reported to the command's HookPanic, or else to the service's.
func TestHookPanics(t *testing.T) {
	var reported []string
	report := func(who string) func(*PanicError) {
		return func(p *PanicError) { reported = append(reported, fmt.Sprint(who, ": ", p.Value)) }
	}
	s := service(t, ServiceConfig{HookPanic: report("service")})
	for _, cfg := range []Config{
		{Service: s},
		{Service: s, HookPanic: report("command")},
		{},
		{Service: s, HookPanic: func(*PanicError) { panic("of the report") }},
	} {
		c := New(cfg, value(1))
		must(t, c.OnSuccess(func(int) { panic(errBoom) }))
		must(t, c.OnComplete(func(int, error) { t.Error("a hook after one that panicked ran") }))
		must(t, c.Run(t.Context()))
		if v, err := c.Get(t.Context()); v != 1 || err != nil {
			t.Errorf("got %d and %v, want the value", v, err)
		}
		wantPanic(t, "late hook", c.OnComplete(func(int, error) { panic(errBoom) }), "panic")
		must(t, c.OnSuccess(func(v int) { reported = append(reported, strconv.Itoa(v)) }))
	}
	want := []string{"service: boom", "service: boom", "1", "command: boom", "command: boom", "1", "1", "1"}
	if !slices.Equal(reported, want) {
		t.Errorf("got %q, want %q", reported, want)
	}
	wantStatus(t, s, breaker.Status{Success: 3})
}

// TestDependencyTypes passes the values of dependencies of different types to the work.
func TestDependencyTypes(t *testing.T) {
	i, s, f := New(Config{}, value(1)), New(Config{}, value("two")), New(Config{}, value(3.5))
	three := New3(Config{}, i, s, f, func(_ context.Context, i int, s string, f float64) (string, error) {
		return fmt.Sprint(i, s, f), nil
	})
	two := New2(Config{}, s, three, func(_ context.Context, s, t string) ([]string, error) { return []string{s, t}, nil })
	one := Chain(Config{}, two, func(_ context.Context, l []string) (int, error) { return len(l), nil })
	must(t, one.Start(t.Context()))
	if v, err := one.Get(t.Context()); v != 2 || err != nil {
		t.Errorf("got %d and %v, want 2", v, err)
	}
	if v, err := three.Get(t.Context()); v != "1two3.5" || err != nil {
		t.Errorf("got %q and %v, want 1two3.5", v, err)
	}
	none := NewAll(Config{}, nil, sum)
	must(t, none.Run(t.Context()))
	if v, err := none.Get(t.Context()); v != 0 || err != nil {
		t.Errorf("got %d and %v, want the sum of nothing", v, err)
	}
}

// TestDependencyFails has one dependency fail, for each number and each position.
func TestDependencyFails(t *testing.T) {
	ok, bad := func() *Command[int] { return New(Config{}, value(1)) }, func() *Command[int] { return New(Config{}, failing(errBoom)) }
	slow := func() *Command[int] {
		return New(Config{}, func(context.Context) (int, error) { time.Sleep(time.Hour); return 1, nil })
	}
	not := func(context.Context, int, int) (int, error) { panic("the work ran") }
	not3 := func(context.Context, int, int, int) (int, error) { panic("the work ran") }
	for name, build := range map[string]func(cfg Config) *Command[int]{
		"of one": func(cfg Config) *Command[int] {
			return Chain(cfg, bad(), func(context.Context, int) (int, error) { return 1, nil })
		},
		"first of two":    func(cfg Config) *Command[int] { return New2(cfg, bad(), slow(), not) },
		"second of two":   func(cfg Config) *Command[int] { return New2(cfg, slow(), bad(), not) },
		"first of three":  func(cfg Config) *Command[int] { return New3(cfg, bad(), ok(), slow(), not3) },
		"second of three": func(cfg Config) *Command[int] { return New3(cfg, slow(), bad(), ok(), not3) },
		"third of three":  func(cfg Config) *Command[int] { return New3(cfg, ok(), slow(), bad(), not3) },
		"of many":         func(cfg Config) *Command[int] { return NewAll(cfg, []*Command[int]{slow(), ok(), ok(), bad()}, sum) },
		"of After": func(cfg Config) *Command[int] {
			c := New(cfg, value(1))
			must(t, c.After(slow(), bad()))
			return c
		},
		"two of them": func(cfg Config) *Command[int] { return NewAll(cfg, []*Command[int]{bad(), bad(), bad()}, sum) },
		"an old one": func(cfg Config) *Command[int] {
			d := bad()
			must(t, d.Run(t.Context()))
			return New2(cfg, slow(), d, not)
		},
	} {
		for where, start := range starts {
			t.Run(name+", "+where, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s, epoch := service(t, ServiceConfig{}), time.Now()
					c := build(Config{Service: s})
					must(t, start(c, t.Context()))
					var dependency *DependencyError
					_, err := c.Get(t.Context())
					if !errors.As(err, &dependency) || !errors.Is(err, errBoom) || err.Error() != "boom" || time.Since(epoch) != 0 {
						t.Errorf("got %v after %v, want the dependency's error immediately", err, time.Since(epoch))
					}
					synctest.Wait()
					wantStatus(t, s, breaker.Status{Dependency: 1})
					time.Sleep(2 * time.Hour) // of the slow
				})
			})
		}
	}
}

// TestDependencySwitchedOff has a dependency whose service has fallbacks disabled: its
// fallback is not used.
func TestDependencySwitchedOff(t *testing.T) {
	s := service(t, ServiceConfig{})
	d := New(Config{Service: s}, failing(errBoom))
	must(t, d.SetFallback(func(context.Context, error) (int, error) { return 1, nil }))
	s.SetFallbackEnabled(false)
	c := Chain(Config{}, d, func(_ context.Context, v int) (int, error) { return v, nil })
	must(t, c.Start(t.Context()))
	if _, err := c.Get(t.Context()); !errors.Is(err, errBoom) {
		t.Errorf("got %v, want the dependency's failure", err)
	}
}

// TestOneBreakerForAll has a breaker guard commands and an HTTP upstream, with the same
// counters.
func TestOneBreakerForAll(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer server.Close()
	s := service(t, ServiceConfig{Name: "recipes", NonBreakCount: 3, Sleep: time.Hour})
	recipes := upstream(t, s.Breaker())
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: recipes.Transport(transport)}
	get := func() error {
		resp, err := client.Get(server.URL)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	for range 2 {
		must(t, get())
	}
	c := New(Config{Service: s}, failing(errBoom))
	must(t, c.Run(t.Context()))
	wantStatus(t, s, breaker.Status{Failure: 3})
	if s.Breaking() {
		t.Error("the circuit is open before a call was refused")
	}
	if refusal := get(); !errors.Is(refusal, breaker.ErrOpen) {
		t.Errorf("got %v, want the command's failure to have opened the circuit", refusal)
	}
	_, err := Start(t.Context(), Config{Service: s}, value(1)).Get(t.Context())
	var refused *CircuitBreakError
	if !errors.As(err, &refused) || refused.Name != "recipes" || refused.Status.Failure != 3 || !s.Breaking() {
		t.Errorf("got %v, want the same circuit to refuse", err)
	}
	wantStatus(t, s, breaker.Status{Failure: 3, Break: 2})
	s.ResetStatus()
	if s.Breaking() || s.Status() != (breaker.Status{}) {
		t.Errorf("got %+v, open %t, want a reset", s.Status(), s.Breaking())
	}
	must(t, s.Shutdown(t.Context()))
}

// TestGivenBreakers has services that share a breaker, also one with gobreaker as engine.
func TestGivenBreakers(t *testing.T) {
	two, err := breaker.FromGobreaker[int](gobreaker.NewTwoStepCircuitBreaker[int](gobreaker.Settings{
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.TotalFailures >= 2 }, IsExcluded: breaker.Excluded,
	}))
	must(t, err)
	a, b := service(t, ServiceConfig{Breaker: two}), service(t, ServiceConfig{Breaker: two})
	for _, s := range []*Service{a, b} {
		c := New(Config{Service: s}, failing(errBoom))
		must(t, c.Run(t.Context()))
		gone := New(Config{Service: s}, failing(context.Canceled))
		must(t, gone.Run(t.Context()))
	}
	for _, s := range []*Service{a, b} {
		c := New(Config{Service: s}, value(1))
		must(t, c.Run(t.Context()))
		if _, err := c.Get(t.Context()); !errors.Is(err, gobreaker.ErrOpenState) || !s.Breaking() {
			t.Errorf("got %v, want gobreaker to refuse", err)
		}
	}
	wantStatus(t, a, breaker.Status{Failure: 2, Break: 3}) // the second one that is canceled is refused
}

func TestDefaultService(t *testing.T) {
	s := DefaultService()
	if s != DefaultService() || s.Breaker() != nil || s.Executor() == nil || !s.FallbackEnabled() {
		t.Error("got an unexpected default service")
	}
	s.Record(breaker.Failure)
	s.ResetStatus()
	for range 100 {
		c := New(Config{}, failing(errBoom))
		must(t, c.Run(t.Context()))
	}
	if v, err := Allow(s, func() (int, error) { return 3, nil }); v != 3 || err != nil {
		t.Errorf("got %d and %v, want all to be allowed", v, err)
	}
	if s.Breaking() || s.Status() != (breaker.Status{}) {
		t.Errorf("got %+v, open %t, want nothing to be counted", s.Status(), s.Breaking())
	}
	must(t, Start(t.Context(), Config{}, value(1)).Wait(t.Context()))
}

// TestAllowPanics has the function panic: the panic goes on, and the next call works.
func TestAllowPanics(t *testing.T) {
	s := service(t, ServiceConfig{})
	func() {
		defer func() {
			if p := recover(); p != any(errBoom) {
				t.Errorf("got %v, want the panic", p)
			}
		}()
		_, _ = Allow(s, func() (int, error) { panic(errBoom) })
	}()
	wantStatus(t, s, breaker.Status{})
}

func TestOverflowText(t *testing.T) {
	for text, want := range map[string]Overflow{"abort": Abort, "caller_runs": CallerRuns, "discard": Discard} {
		var cfg PoolConfig
		must(t, json.Unmarshal([]byte(`{"max_threads": 5, "max_queue": 100, "overflow": "`+text+`"}`), &cfg))
		back, err := json.Marshal(cfg)
		if err != nil || cfg != (PoolConfig{5, 100, want}) {
			t.Errorf("%s: got %+v, %s and %v", text, cfg, back, err)
		}
	}
	var cfg PoolConfig
	if err := json.Unmarshal([]byte(`{"overflow": "block"}`), &cfg); err == nil {
		t.Error("got no error for a policy that is unknown")
	}
	if _, err := json.Marshal(Overflow(7)); err == nil {
		t.Error("got no error for the text of an unknown policy")
	}
}

// TestSixtyFourGoroutines starts and reads commands that depend on each other, on bounded
// pools, with timeouts, retries and cancellations, while other goroutines read and reset the
// counters. All must end, and the counters must agree with the results.
func TestSixtyFourGoroutines(t *testing.T) {
	const goroutines, each = 64, 50
	s := boundedService(t, 8, 0, Abort)
	s.breaker = mustBreaker(t, breaker.Config{Threshold: breaker.Never, Period: time.Hour})
	small := boundedService(t, 2, 3, CallerRuns)
	shared := New(Config{Service: s}, value(1))
	var ended, attempts atomic.Int64
	var group sync.WaitGroup
	for g := range goroutines {
		group.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			for range each {
				ctx, cancel := context.WithCancel(context.Background())
				work := func(context.Context) (int, error) {
					attempts.Add(1)
					if g%2 == 0 {
						return 0, errBoom
					}
					return 2, nil
				}
				a := New(Config{Service: s, Timeout: time.Hour}, work)
				must(t, a.SetFallback(func(context.Context, error) (int, error) { return 2, nil }))
				b := New2(Config{Service: small}, a, shared, func(_ context.Context, x, y int) (int, error) { return x + y, nil })
				must(t, b.OnComplete(func(int, error) { ended.Add(1) }))
				if r.IntN(2) == 0 {
					must(t, a.StartWithRetry(ctx, retry.Retryable{Tries: 3, Sleep: retry.Zero}))
				}
				must(t, b.Start(ctx))
				if v, err := b.Get(ctx); v != 3 || err != nil {
					t.Errorf("got %d and %v, want 3", v, err)
				}
				cancel()
				small.Status()
				small.ResetStatus()
			}
		})
	}
	group.Wait()
	must(t, s.Shutdown(t.Context()))
	must(t, small.Shutdown(t.Context()))
	if ended.Load() != goroutines*each {
		t.Errorf("got %d hooks, want %d", ended.Load(), goroutines*each)
	}
	if st := s.Status(); st.Success+st.Failure != attempts.Load()+1 || st.Failure < goroutines/2*each {
		t.Errorf("got %+v, want %d attempts", st, attempts.Load()+1)
	}
}

func upstream(t *testing.T, policies ...pillion.Policy) *pillion.Upstream {
	t.Helper()
	u, err := pillion.New("recipes", policies...)
	must(t, err)
	return u
}

func mustBreaker(t *testing.T, cfg breaker.Config) *breaker.Breaker {
	t.Helper()
	b, err := breaker.New(cfg)
	must(t, err)
	return b
}

// TestCancelStorm cancels commands at random points: each must end and release its slot.
func TestCancelStorm(t *testing.T) {
	s := boundedService(t, 4, 16, Abort)
	var group sync.WaitGroup
	for g := range 64 {
		group.Go(func() {
			for i := range 100 {
				ctx, cancel := context.WithCancel(context.Background())
				var c *Command[int]
				switch (g + i) % 3 {
				case 0:
					c = Start(ctx, Config{Service: s, Timeout: ms}, failing(errBoom))
				case 1:
					c = New(Config{Service: s}, failing(errBoom))
					must(t, c.StartWithRetry(ctx, retry.Retryable{Tries: 3, Sleep: ms}))
				default:
					c = Chain(Config{Service: s}, New(Config{Service: s}, value(1)), func(_ context.Context, v int) (int, error) { return v, nil })
					must(t, c.Start(ctx))
				}
				if i%2 == 0 {
					cancel()
				}
				must(t, c.Wait(context.Background()))
				cancel()
			}
		})
	}
	group.Wait()
	must(t, s.Shutdown(t.Context()))
	if running, waiting := s.Executor().Load(); running+waiting != 0 {
		t.Errorf("got %d running and %d waiting, want none", running, waiting)
	}
}

// FuzzPool compares the pool's slots with a simple count.
func FuzzPool(f *testing.F) {
	f.Add(uint8(1), uint8(1), []byte{0, 0, 1, 2, 3, 0, 1})
	f.Add(uint8(2), uint8(0), []byte{0, 4, 0, 4, 5, 1, 0, 6})
	f.Add(uint8(0), uint8(2), []byte{0, 0, 0, 0, 6, 10, 0, 0, 1})
	f.Fuzz(func(t *testing.T, threads, queue uint8, ops []byte) {
		if len(ops) > 200 {
			return
		}
		synctest.Test(t, func(t *testing.T) { fuzzPool(t, 1+int(threads%4), int(queue%4), ops) })
	})
}

func fuzzPool(t *testing.T, threads, queue int, ops []byte) {
	t.Helper()
	s := boundedService(t, threads, cmpOr(queue, Zero), Abort)
	type flying struct {
		c      *Command[int]
		finish chan struct{}
		cancel context.CancelFunc
	}
	var all []flying
	for _, op := range ops {
		switch {
		case op%4 == 0 || len(all) == 0:
			running, waiting := s.Executor().Load()
			finish := make(chan struct{})
			ctx, cancel := context.WithCancel(context.Background())
			c := Start(ctx, Config{Service: s}, func(context.Context) (int, error) { <-finish; return 1, nil })
			synctest.Wait()
			full := running+waiting >= threads+queue
			if ended := c.phase.Load() == ended; ended != full {
				t.Fatalf("with %d running and %d waiting: rejected %t, want %t", running, waiting, ended, full)
			}
			if full {
				cancel()
				continue
			}
			all = append(all, flying{c, finish, cancel})
		default:
			i := int(op/4) % len(all)
			f := all[i]
			if op%4 == 1 {
				close(f.finish)
			} else {
				f.cancel()
			}
			synctest.Wait()
			if op%4 != 1 {
				if f.c.phase.Load() != ended {
					t.Fatal("a canceled command has not ended")
				}
				close(f.finish) // its worker may be in the work still
				synctest.Wait()
			}
			f.cancel()
			all = slices.Delete(all, i, i+1)
		}
		running, waiting := s.Executor().Load()
		if running > threads || waiting > queue || (waiting > 0 && running < threads) {
			t.Fatalf("got %d running and %d waiting in a pool of %d and %d", running, waiting, threads, queue)
		}
	}
	for _, f := range all {
		close(f.finish)
		f.cancel()
	}
	must(t, s.Shutdown(t.Context()))
}

func cmpOr(a, b int) int {
	if a != 0 {
		return a
	}
	return b
}

// TestAllocations bounds the allocations of a command. The race detector adds some.
func TestAllocations(t *testing.T) {
	if raceflag.Enabled {
		t.Skip("allocations are not those of a real program under the race detector")
	}
	s, ctx := service(t, ServiceConfig{}), context.Background()
	cfg := Config{Service: s, Timeout: time.Hour}
	work, rescue := value(1), func(context.Context, error) (int, error) { return 0, nil }
	for name, tt := range map[string]struct {
		most float64
		run  func()
	}{
		"here, with all": {7, func() {
			c := New(cfg, work)
			_ = c.SetFallback(rescue)
			_ = c.RunWithRetry(ctx, retry.Retryable{Tries: 3})
			_, _ = c.Get(ctx)
		}},
		"here, with nothing": {1, func() {
			c := New(Config{Service: s}, work)
			_ = c.Run(ctx)
			_, _ = c.Get(ctx)
		}},
		"on the pool":             {2, func() { _, _ = Start(ctx, Config{Service: s}, work).Get(ctx) }},
		"on the pool, with limit": {8, func() { _, _ = Start(ctx, cfg, work).Get(ctx) }},
	} {
		if got := testing.AllocsPerRun(200, tt.run); got > tt.most {
			t.Errorf("%s: got %v allocations, want at most %v", name, got, tt.most)
		}
	}
}

func TestErrorTexts(t *testing.T) {
	late := &TimeoutError{Service: "recipes", Limit: time.Second, Err: errBoom}
	for want, err := range map[string]error{
		"command: recipes: limit of 1s reached: boom":      late,
		"command: limit of 1ms reached":                    &TimeoutError{Limit: time.Millisecond},
		"command: rejected: the pool is full and discards": &RejectedError{Reason: Discarded},
		"boom":                                &DependencyError{errBoom},
		"command: panic: boom":                &PanicError{Value: errBoom},
		"command: a command waits for itself": &CycleError{1},
		"command: a cycle of 3 commands that wait for each other":                                          &CycleError{3},
		"command: invalid: Shutdown: the default service cannot be shut down: the whole process shares it": DefaultService().Shutdown(t.Context()),
	} {
		if err.Error() != want {
			t.Errorf("got %q, want %q", err, want)
		}
	}
	if !errors.Is(late, errBoom) || !errors.Is(late, context.DeadlineExceeded) {
		t.Errorf("got %v, want it to match the error of the work and the deadline", late)
	}
	if s := service(t, ServiceConfig{Name: "recipes"}); s.Name() != "recipes" {
		t.Errorf("got %q, want the name", s.Name())
	}
}
