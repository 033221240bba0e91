package command

import (
	"context"
	"errors"
	"math"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/retry"
)

func value[T any](v T) func(context.Context) (T, error) {
	return func(context.Context) (T, error) { return v, nil }
}

func failing(err error) func(context.Context) (int, error) {
	return func(context.Context) (int, error) { return 0, err }
}

var errBoom = errors.New("boom")

// service makes a service for one test.
func service(t *testing.T, cfg ServiceConfig) *Service {
	t.Helper()
	s, err := NewService(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// boundedService makes a service with a bounded pool.
func boundedService(t *testing.T, threads, queue int, overflow Overflow) *Service {
	t.Helper()
	pool, err := NewPool(PoolConfig{MaxThreads: threads, MaxQueue: queue, Overflow: overflow})
	if err != nil {
		t.Fatal(err)
	}
	return service(t, ServiceConfig{Executor: pool})
}

// must fails the test if err is not nil.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantStatus compares the counters.
func wantStatus(t *testing.T, s *Service, want breaker.Status) {
	t.Helper()
	if got := s.Status(); got != want {
		t.Errorf("got status %+v, want %+v", got, want)
	}
}

// TestBadCommands starts commands with invalid arguments, on the pool and in the calling
// goroutine: they fail with an error that says why, and are counted as failures.
func TestBadCommands(t *testing.T) {
	one := func(context.Context, int) (int, error) { return 1, nil }
	var none *Command[int]
	tests := map[string]struct {
		make func(cfg Config) *Command[int]
		want string
	}{
		"nil work":          {func(cfg Config) *Command[int] { return New[int](cfg, nil) }, "the work is a nil function"},
		"nil work, chained": {func(cfg Config) *Command[int] { return Chain[int, int](cfg, Const(1), nil) }, "the work is a nil function"},
		"nil work of two":   {func(cfg Config) *Command[int] { return New2[int, int, int](cfg, Const(1), Const(2), nil) }, "nil function"},
		"nil work of three": {func(cfg Config) *Command[int] {
			return New3[int, int, int, int](cfg, Const(1), Const(2), Const(3), nil)
		}, "nil function"},
		"nil work of many":   {func(cfg Config) *Command[int] { return NewAll[int, int](cfg, nil, nil) }, "nil function"},
		"nil dependency":     {func(cfg Config) *Command[int] { return Chain(cfg, none, one) }, "dependency 1 is nil"},
		"nil among many":     {func(cfg Config) *Command[int] { return NewAll(cfg, []*Command[int]{Const(1), nil}, sum) }, "dependency 2 is nil"},
		"zero dependency":    {func(cfg Config) *Command[int] { return Chain(cfg, &Command[int]{}, one) }, "not made by New"},
		"negative limit":     {func(cfg Config) *Command[int] { cfg.Timeout = -time.Second; return New(cfg, value(1)) }, "Config.Timeout: -1s is negative"},
		"several errors":     {func(cfg Config) *Command[int] { cfg.Timeout = -1; return New[int](cfg, nil) }, "nil function; pass a function\ncommand: Config.Timeout"},
		"negative, chained":  {func(cfg Config) *Command[int] { cfg.Timeout = -1; return Chain(cfg, Const(1), one) }, "Config.Timeout: -1ns"},
		"the dependency bad": {func(cfg Config) *Command[int] { return Chain(Config{}, New[int](cfg, nil), one) }, "nil function"},
	}
	for name, tt := range tests {
		for where, start := range starts {
			t.Run(name+", "+where, func(t *testing.T) {
				s := service(t, ServiceConfig{})
				c := tt.make(Config{Service: s})
				must(t, start(c, t.Context()))
				_, err := c.Get(t.Context())
				if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want an invalid command: %q", err, tt.want)
				}
				wantStatus(t, s, breaker.Status{Failure: 1})
			})
		}
	}
}

func sum(_ context.Context, values []int) (int, error) {
	total := 0
	for _, v := range values {
		total += v
	}
	return total, nil
}

// starts are the ways to start a command.
var starts = map[string]func(c *Command[int], ctx context.Context) error{
	"on the pool": (*Command[int]).Start,
	"here":        (*Command[int]).Run,
	"on the pool, with retry": func(c *Command[int], ctx context.Context) error {
		return c.StartWithRetry(ctx, retry.Retryable{Tries: 1})
	},
	"here, with retry": func(c *Command[int], ctx context.Context) error {
		return c.RunWithRetry(ctx, retry.Retryable{Tries: 1})
	},
}

func TestZeroCommand(t *testing.T) {
	var c Command[int]
	for where, start := range starts {
		if err := start(&c, t.Context()); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v, want an invalid command", where, err)
		}
	}
	if _, err := c.Get(t.Context()); !errors.Is(err, ErrNotStarted) {
		t.Errorf("got %v, want %v", err, ErrNotStarted)
	}
	if err := New(Config{}, value(1)).After(&c); !errors.Is(err, ErrInvalid) {
		t.Errorf("After: got %v, want an invalid command", err)
	}
}

func TestNilFunctions(t *testing.T) {
	c := New(Config{}, value(1))
	for name, err := range map[string]error{
		"SetFallback": c.SetFallback(nil), "OnComplete": c.OnComplete(nil), "OnSuccess": c.OnSuccess(nil),
		"OnFailure": c.OnFailure(nil), "After": c.After(nil), "After, typed": c.After((*Command[string])(nil)),
	} {
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "nil") {
			t.Errorf("%s: got %v, want an error that says nil", name, err)
		}
	}
	must(t, c.Run(t.Context()))
	if v, err := c.Get(t.Context()); v != 1 || err != nil {
		t.Errorf("got %d and %v, want the command to work", v, err)
	}
}

// TestSecondStart starts a command twice, in all orders: the second start returns an error and
// does nothing.
func TestSecondStart(t *testing.T) {
	for first, start := range starts {
		t.Run(first, func(t *testing.T) {
			s, runs := service(t, ServiceConfig{}), 0
			c := New(Config{Service: s}, func(context.Context) (int, error) { runs++; return runs, nil })
			must(t, start(c, t.Context()))
			for second, again := range starts {
				if err := again(c, t.Context()); !errors.Is(err, ErrAlreadyStarted) {
					t.Errorf("%s: got %v, want %v", second, err, ErrAlreadyStarted)
				}
			}
			if v, err := c.Get(t.Context()); v != 1 || err != nil {
				t.Errorf("got %d and %v, want one run", v, err)
			}
			if err := c.SetFallback(func(context.Context, error) (int, error) { return 0, nil }); !errors.Is(err, ErrAlreadyStarted) {
				t.Errorf("SetFallback: got %v, want %v", err, ErrAlreadyStarted)
			}
			if err := c.After(Const(1)); !errors.Is(err, ErrAlreadyStarted) {
				t.Errorf("After: got %v, want %v", err, ErrAlreadyStarted)
			}
		})
	}
	if err := Const(1).Start(t.Context()); !errors.Is(err, ErrAlreadyStarted) {
		t.Errorf("a Const: got %v, want %v", err, ErrAlreadyStarted)
	}
}

// TestStartAfterShutdown starts commands after a shutdown: they are rejected on the pool, and
// run in the calling goroutine.
func TestStartAfterShutdown(t *testing.T) {
	s := service(t, ServiceConfig{Name: "recipes"})
	must(t, s.Shutdown(t.Context()))
	must(t, s.Shutdown(t.Context()))
	_, err := Start(t.Context(), Config{Service: s}, value(1)).Get(t.Context())
	var rejected *RejectedError
	if !errors.As(err, &rejected) || *rejected != (RejectedError{"recipes", Shutdown}) || !errors.Is(err, ErrRejected) {
		t.Errorf("got %v, want a rejection for the shutdown", err)
	}
	if want := "command: recipes: rejected: the pool is shut down"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	c := New(Config{Service: s}, value(2))
	must(t, c.Run(t.Context()))
	if v, err := c.Get(t.Context()); v != 2 || err != nil {
		t.Errorf("got %d and %v, want the value", v, err)
	}
	wantStatus(t, s, breaker.Status{Success: 1, Rejection: 1})
	if err := DefaultService().Shutdown(t.Context()); !errors.Is(err, ErrInvalid) {
		t.Errorf("the default service: got %v, want an error", err)
	}
}

func TestBadServices(t *testing.T) {
	b, err := breaker.New(breaker.Config{})
	must(t, err)
	for want, cfg := range map[string]ServiceConfig{
		"Config.Period: -1s is negative":       {Period: -time.Second},
		"Config.Sleep: -2ns is negative":       {Sleep: -2},
		"Config.NonBreakCount: -1 is negative": {NonBreakCount: -1},
		"Config.Threshold: NaN is no ratio":    {Threshold: math.NaN()},
		"Config.Threshold: -0.5 is negative":   {Threshold: -0.5},
		"a breaker is given, and settings":     {Breaker: b, Sleep: time.Second},
	} {
		_, err := NewService(cfg)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", cfg, err, want)
		}
	}
	for want, cfg := range map[string]PoolConfig{
		"PoolConfig.MaxThreads: -1 is negative": {MaxThreads: -1},
		"PoolConfig.MaxQueue: -2 is negative":   {MaxQueue: -2},
		"PoolConfig.Overflow: 3 is unknown":     {Overflow: 3},
	} {
		_, err := NewPool(cfg)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want %q", cfg, err, want)
		}
	}
}

// TestBadRetryOptions has invalid options: the command fails, as in the gem, not the start.
func TestBadRetryOptions(t *testing.T) {
	for want, r := range map[string]retry.Retryable{
		"Retryable.Tries: -2 is negative":  {Tries: -2},
		"Retryable.Sleep: -1s is negative": {Sleep: -time.Second},
		"a Match is nil":                   {Not: []retry.Match{nil}},
		"On, Retryable.Not: a Match":       {On: []retry.Match{nil}},
		"Retryable.Matching: a Pattern is": {Matching: []retry.Pattern{nil}},
	} {
		s := service(t, ServiceConfig{})
		c := New(Config{Service: s}, value(1))
		must(t, c.StartWithRetry(t.Context(), r))
		if _, err := c.Get(t.Context()); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		wantStatus(t, s, breaker.Status{Failure: 1})
	}
}

func TestParseRetry(t *testing.T) {
	never := retry.Match(func(error) bool { return false })
	r, err := ParseRetry(map[string]any{
		"tries": 3, "sleep": 0.25, "on": never, "not": []retry.Match{never, never}, "matching": []any{"a", regexp.MustCompile("b")},
		"exception_cb": func(error) {}, "log_method": func(int, error) {}, "ensure": func(int) {},
	})
	if err != nil || r.Tries != 3 || r.Sleep != 250*time.Millisecond || len(r.On) != 1 || len(r.Not) != 2 ||
		len(r.Matching) != 2 || r.ExceptionCB == nil || r.LogMethod == nil || r.Ensure == nil {
		t.Errorf("got %+v and %v, want all options", r, err)
	}
	for sleep, want := range map[any]time.Duration{
		0: retry.Zero, 2: 2 * time.Second, time.Minute: time.Minute, time.Duration(0): retry.Zero, int64(1): time.Second,
		uint64(3): 3 * time.Second,
	} {
		r, err = ParseRetry(map[string]any{"sleep": sleep})
		if err != nil || r.Sleep != want {
			t.Errorf("sleep %v: got %v and %v, want %v", sleep, r.Sleep, err, want)
		}
	}
	r, err = ParseRetry(map[string]any{"tries": "infinite", "sleep": func(int) time.Duration { return 7 }, "matching": "x"})
	if err != nil || r.Tries != retry.Unlimited || r.SleepFunc(0) != 7 || !r.Matching[0].MatchString("axb") {
		t.Errorf("got %+v and %v, want no bound, a function and a substring", r, err)
	}
	for _, bad := range []map[string]any{
		{"bogus": true},
		{"sleep_method": nil},
		{"contexts": nil},
		{"tries": 0},
		{"tries": -1},
		{"tries": 1.5},
		{"tries": "some"},
		{"tries": nil},
		{"sleep": -1},
		{"sleep": math.NaN()},
		{"sleep": 1e300},
		{"sleep": "1"},
		{"sleep": time.Duration(-5)},
		{"on": "StandardError"},
		{"not": []retry.Match{nil}},
		{"matching": 1},
		{"matching": (*regexp.Regexp)(nil)},
		{"exception_cb": func() {}},
		{"log_method": func(error) {}},
		{"ensure": (func(int))(nil)},
	} {
		if _, err = ParseRetry(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: got %v, want an error", bad, err)
		}
	}
	_, err = ParseRetry(map[string]any{"bogus": 1, "tires": 2, "tries": 0})
	if want := "command: invalid: retry option \"bogus\" is unknown\ncommand: invalid: retry option \"tires\" is unknown\n" +
		"command: invalid: retry option tries: 0 is not valid"; err == nil || err.Error() != want {
		t.Errorf("got %v, want all errors:\n%s", err, want)
	}
}

// FuzzParseRetry checks that ParseRetry never panics, and returns only options that
// StartWithRetry accepts.
func FuzzParseRetry(f *testing.F) {
	f.Add("tries", int64(3), 0.5, "x")
	f.Add("sleep", int64(-1), math.Inf(1), "infinite")
	f.Add("matching", int64(0), math.NaN(), "")
	f.Fuzz(func(t *testing.T, name string, n int64, x float64, text string) {
		for _, v := range []any{n, int(n), x, text, []string{text}, []any{text, n}, nil, time.Duration(n)} {
			r, err := ParseRetry(map[string]any{name: v, "tries": int(n)})
			if err == nil && checkRetry(&r) != nil {
				t.Errorf("%s: %v: got %+v, which StartWithRetry does not accept: %v", name, v, r, checkRetry(&r))
			}
			if err == nil && (waitOf(&r, 0) < 0 && r.Sleep != retry.Zero || r.Tries < 1 && r.Tries != retry.Unlimited) {
				t.Errorf("%s: %v: got %+v", name, v, r)
			}
		}
	})
}

// TestCycles makes commands that would wait for each other.
func TestCycles(t *testing.T) {
	a, b, c := New(Config{}, value(1)), New(Config{}, value("2")), New(Config{}, value(3.0))
	must(t, a.After(b))
	must(t, b.After(c, Const(1)))
	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"itself": {a.After(a), "command: a command waits for itself"},
		"two":    {b.After(a), "command: a cycle of 2 commands that wait for each other"},
		"three":  {c.After(Const(0), a), "command: a cycle of 3 commands that wait for each other"},
	} {
		var cycle *CycleError
		if !errors.As(tt.err, &cycle) || !errors.Is(tt.err, ErrInvalid) || tt.err.Error() != tt.want {
			t.Errorf("%s: got %v, want %s", name, tt.err, tt.want)
		}
	}
	must(t, a.Start(t.Context()))
	if v, err := a.Get(t.Context()); v != 1 || err != nil {
		t.Errorf("got %d and %v, want the value: nothing was added", v, err)
	}
}

// TestCyclesOfGets has work that waits for a command that waits for it.
func TestCyclesOfGets(t *testing.T) {
	for where, start := range starts {
		t.Run(where, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var cycle *CycleError
				var a, b *Command[int]
				a = New(Config{}, func(ctx context.Context) (int, error) { return a.Get(ctx) })
				must(t, start(a, t.Context()))
				if _, err := a.Get(t.Context()); !errors.As(err, &cycle) || cycle.Length != 1 {
					t.Errorf("itself: got %v, want a cycle of one", err)
				}
				a = New(Config{}, func(ctx context.Context) (int, error) { return b.Get(ctx) })
				b = Chain(Config{}, a, func(_ context.Context, v int) (int, error) { return v, nil })
				must(t, start(b, t.Context()))
				if _, err := b.Get(t.Context()); !errors.As(err, &cycle) || cycle.Length != 2 {
					t.Errorf("what depends on it: got %v, want a cycle of two", err)
				}
				a = New(Config{}, func(ctx context.Context) (int, error) {
					must(t, b.Run(ctx))
					return b.Get(ctx)
				})
				b = Chain(Config{}, a, func(_ context.Context, v int) (int, error) { return v, nil })
				must(t, start(a, t.Context()))
				if _, err := a.Get(t.Context()); !errors.As(err, &cycle) {
					t.Errorf("what depends on it, started within: got %v, want a cycle", err)
				}
			})
		})
	}
	t.Run("each other", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var a, b *Command[int]
			a = New(Config{}, func(ctx context.Context) (int, error) { time.Sleep(ms); return b.Get(ctx) })
			b = New(Config{}, func(ctx context.Context) (int, error) { time.Sleep(ms); return a.Get(ctx) })
			must(t, a.Start(t.Context()))
			must(t, b.Start(t.Context()))
			_, errA := a.Get(t.Context())
			_, errB := b.Get(t.Context())
			if !errors.Is(errA, ErrInvalid) || !errors.Is(errB, ErrInvalid) {
				t.Errorf("got %v and %v, want a cycle from one, as the result of the other too", errA, errB)
			}
		})
	})
	t.Run("no cycle", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			slow := New(Config{}, func(context.Context) (int, error) { time.Sleep(time.Second); return 3, nil })
			must(t, slow.Start(t.Context()))
			a := New(Config{}, func(ctx context.Context) (int, error) { return slow.Get(ctx) })
			b := New2(Config{}, a, slow, func(ctx context.Context, x, y int) (int, error) { return x + y, slow.Wait(ctx) })
			must(t, b.Start(t.Context()))
			if v, err := b.Get(t.Context()); v != 6 || err != nil {
				t.Errorf("got %d and %v, want 6", v, err)
			}
		})
	})
}

// TestPanics has each function of the caller panic: the command ends, and its counters and
// its pool stay correct.
func TestPanics(t *testing.T) {
	for name, boom := range map[string]func(){
		"panic":       func() { panic(errBoom) },
		"panic(nil)":  func() { panic(nil) }, //nolint:govet // that is the case
		"nil pointer": func() { crash(nil) },
		"Goexit":      runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			s := boundedService(t, 1, Zero, Abort)
			cfg := Config{Service: s}
			explode := func(context.Context) (int, error) { boom(); return 1, nil }
			calm := func(context.Context, error) (int, error) { return 7, nil }

			work := Start(t.Context(), cfg, explode)
			v, err := work.Get(t.Context())
			wantPanic(t, "work", err, name)
			if v != 0 {
				t.Errorf("got %d beside a panic, want nothing", v)
			}
			waitIdle(t, s)
			wantStatus(t, s, breaker.Status{Failure: 1})

			rescued := New(cfg, explode)
			must(t, rescued.SetFallback(calm))
			must(t, rescued.Start(t.Context()))
			v, err = rescued.Get(t.Context())
			if v != 7 || err != nil {
				t.Errorf("got %d and %v, want the fallback's value", v, err)
			}
			waitIdle(t, s)

			fallback := New(cfg, failing(errBoom))
			must(t, fallback.SetFallback(func(ctx context.Context, _ error) (int, error) { return explode(ctx) }))
			must(t, fallback.Start(t.Context()))
			_, err = fallback.Get(t.Context())
			wantPanic(t, "fallback", err, name)
			waitIdle(t, s)

			retried := New(cfg, explode)
			all := []retry.Match{func(error) bool { return true }}
			must(t, retried.StartWithRetry(t.Context(), retry.Retryable{Tries: 2, Sleep: retry.Zero, On: all}))
			_, err = retried.Get(t.Context())
			wantPanic(t, "retried work", err, name)
			waitIdle(t, s)

			for option, r := range map[string]retry.Retryable{
				"SleepFunc":   {SleepFunc: func(int) time.Duration { boom(); return 0 }},
				"ExceptionCB": {Sleep: retry.Zero, ExceptionCB: func(error) { boom() }},
				"LogMethod":   {Sleep: retry.Zero, LogMethod: func(int, error) { boom() }},
				"Ensure":      {Tries: 1, Ensure: func(int) { boom() }},
				"On":          {On: []retry.Match{func(error) bool { boom(); return true }}},
			} {
				s.ResetStatus()
				c := New(cfg, failing(errBoom))
				must(t, c.StartWithRetry(t.Context(), r))
				_, err = c.Get(t.Context())
				wantPanic(t, option, err, name)
				waitIdle(t, s)
				wantStatus(t, s, breaker.Status{Failure: 1})
			}
			if v, err := Start(t.Context(), cfg, value(5)).Get(t.Context()); v != 5 || err != nil {
				t.Errorf("got %d and %v, want a pool that works", v, err)
			}
			must(t, s.Shutdown(t.Context()))
		})
	}
}

func crash(p *int) { *p++ }

// waitIdle waits until the only worker is free: Get may return before.
func waitIdle(t *testing.T, s *Service) {
	t.Helper()
	for {
		if running, waiting := s.Executor().Load(); running+waiting == 0 {
			return
		}
		runtime.Gosched()
	}
}

func wantPanic(t *testing.T, what string, err error, name string) {
	t.Helper()
	var p *PanicError
	if !errors.As(err, &p) || len(p.Stack) == 0 {
		t.Errorf("%s: got %v, want a panic with its stack", what, err)
		return
	}
	if name == "panic" && !errors.Is(err, errBoom) {
		t.Errorf("%s: got %v, want it to wrap the value of the panic", what, err)
	}
	if name == "Goexit" && p.Value != Goexit {
		t.Errorf("%s: got %v, want Goexit", what, p.Value)
	}
}

// TestPanicHere panics in the calling goroutine: the panic becomes the command's error.
func TestPanicHere(t *testing.T) {
	s := service(t, ServiceConfig{})
	c := New(Config{Service: s}, func(context.Context) (int, error) { panic(errBoom) })
	must(t, c.Run(t.Context()))
	_, err := c.Get(t.Context())
	wantPanic(t, "work", err, "panic")
	if want := "command: panic: boom"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	wantStatus(t, s, breaker.Status{Failure: 1})
}

// TestPanicOfOnStateChange has OnStateChange panic: counting continues.
func TestPanicOfOnStateChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told *PanicError
		s := service(t, ServiceConfig{
			NonBreakCount: 1, Sleep: breaker.Zero,
			OnStateChange: func(c breaker.Change) {
				if c.To == breaker.Closed {
					panic(errBoom)
				}
			},
			HookPanic: func(p *PanicError) { told = p },
		})
		s.Record(breaker.Failure)
		for range 2 {
			time.Sleep(ms)
			c := New(Config{Service: s}, value(1))
			must(t, c.Run(t.Context()))
			if v, err := c.Get(t.Context()); err != nil && !errors.Is(err, breaker.ErrOpen) {
				t.Errorf("got %d and %v, want a refusal or the value", v, err)
			}
		}
		wantPanic(t, "OnStateChange", told, "panic")
		wantStatus(t, s, breaker.Status{Success: 1})
	})
}
