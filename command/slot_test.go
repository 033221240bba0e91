package command

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/retry"
)

// endings are commands that end in the different ways that free a worker.
var endings = map[string]func(t *testing.T, cfg Config) *Command[int]{
	"a value":   func(_ *testing.T, cfg Config) *Command[int] { return New(cfg, value(1)) },
	"a failure": func(_ *testing.T, cfg Config) *Command[int] { return New(cfg, failing(errBoom)) },
	"a panic": func(_ *testing.T, cfg Config) *Command[int] {
		return New(cfg, func(context.Context) (int, error) { panic(errBoom) })
	},
	"Goexit": func(_ *testing.T, cfg Config) *Command[int] {
		return New(cfg, func(context.Context) (int, error) { runtime.Goexit(); return 0, nil })
	},
	"a fallback": func(t *testing.T, cfg Config) *Command[int] {
		t.Helper()
		c := New(cfg, failing(errBoom))
		must(t, c.SetFallback(func(context.Context, error) (int, error) { return 1, nil }))
		return c
	},
	"Goexit of a fallback": func(t *testing.T, cfg Config) *Command[int] {
		t.Helper()
		c := New(cfg, failing(errBoom))
		must(t, c.SetFallback(func(context.Context, error) (int, error) { runtime.Goexit(); return 1, nil }))
		return c
	},
	"a dependency's failure": func(_ *testing.T, cfg Config) *Command[int] {
		return Chain(cfg, New(Config{}, failing(errBoom)), func(context.Context, int) (int, error) { return 1, nil })
	},
	"a dependency's value": func(_ *testing.T, cfg Config) *Command[int] {
		return Chain(cfg, New(Config{}, value(1)), func(_ context.Context, v int) (int, error) { return v, nil })
	},
	"a bad retry option": nil,
}

// startEnding starts the command that ends in the named way.
func startEnding(t *testing.T, name string, cfg Config) *Command[int] {
	t.Helper()
	if end := endings[name]; end != nil {
		c := end(t, cfg)
		must(t, c.Start(t.Context()))
		return c
	}
	c := New(cfg, value(1))
	must(t, c.StartWithRetry(t.Context(), retry.Retryable{Tries: -2}))
	return c
}

// TestSlot_serialCaller starts one command after the other on a pool with one slot, each when
// the result of the last is known: none is rejected, and none runs in the caller's
// goroutine.
func TestSlot_serialCaller(t *testing.T) {
	t.Parallel()
	waits := map[string]func(t *testing.T, c *Command[int]){
		"Get":                func(t *testing.T, c *Command[int]) { t.Helper(); _, _ = c.Get(t.Context()) },
		"Get, no end to ctx": func(_ *testing.T, c *Command[int]) { _, _ = c.Get(context.Background()) },
		"Wait":               func(t *testing.T, c *Command[int]) { t.Helper(); must(t, c.Wait(t.Context())) },
		"OnComplete": func(t *testing.T, c *Command[int]) {
			t.Helper()
			told := make(chan struct{})
			must(t, c.OnComplete(func(int, error) { close(told) }))
			<-told
		},
		"a dependent's end": func(t *testing.T, c *Command[int]) {
			t.Helper()
			_, _ = Start(t.Context(), Config{}, func(ctx context.Context) (int, error) { return c.Get(ctx) }).Get(t.Context())
		},
		"a dependent": func(t *testing.T, c *Command[int]) {
			t.Helper()
			d := Chain(Config{}, c, func(_ context.Context, v int) (int, error) { return v, nil })
			must(t, d.Start(t.Context()))
			_, _ = d.Get(t.Context())
		},
	}
	for ending := range endings {
		for wait, until := range waits {
			for _, overflow := range []Overflow{Abort, CallerRuns, Discard} {
				t.Run(fmt.Sprint(ending, ", ", wait, ", ", overflow), func(t *testing.T) {
					t.Parallel()
					s := boundedService(t, 1, Zero, overflow)
					s.breaker = mustBreaker(t, breaker.Config{Threshold: breaker.Never})
					cfg := Config{Service: s}
					for range 100 {
						c := startEnding(t, ending, cfg)
						until(t, c)
						if _, err := c.outcome(); errors.Is(err, ErrRejected) {
							t.Fatalf("got %v, want a free slot", err)
						}
						if running, waiting := s.Executor().Load(); running+waiting != 0 {
							t.Fatalf("got %d running and %d waiting when the result was known, want none", running, waiting)
						}
					}
				})
			}
		}
	}
}

// TestSlot_withinAHook has a hook that starts a command on its own pool of one thread, and
// waits for it.
func TestSlot_withinAHook(t *testing.T) {
	for _, overflow := range []Overflow{Abort, CallerRuns, Discard} {
		synctest.Test(t, func(t *testing.T) {
			cfg := Config{Service: boundedService(t, 1, Zero, overflow)}
			outer, got := New(cfg, value(1)), 0
			must(t, outer.OnSuccess(func(int) {
				inner := New(cfg, func(context.Context) (int, error) { time.Sleep(time.Second); return 2, nil })
				must(t, inner.Start(t.Context()))
				v, err := inner.Get(t.Context())
				must(t, err)
				got = v
			}))
			must(t, outer.Start(t.Context()))
			time.Sleep(2 * time.Second)
			must(t, cfg.Service.Shutdown(t.Context()))
			if got != 2 {
				t.Errorf("%v: got %d from the command in the hook, want 2", overflow, got)
			}
		})
	}
}

// TestSlot_slowHooks has slow hooks. Commands start while hooks run, but at most as many run
// at a time as the pool has threads.
func TestSlot_slowHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := boundedService(t, 2, Zero, Abort)
		var running, most atomic.Int64
		work := func(context.Context) (int, error) {
			most.Store(max(most.Load(), running.Add(1)))
			time.Sleep(ms)
			running.Add(-1)
			return 1, nil
		}
		epoch, hooks := time.Now(), atomic.Int64{}
		var callers sync.WaitGroup
		for range 2 {
			callers.Go(func() {
				for range 10 {
					c := New(Config{Service: s}, work)
					must(t, c.OnComplete(func(int, error) { time.Sleep(time.Second); hooks.Add(1) }))
					must(t, c.Start(t.Context()))
					if v, err := c.Get(t.Context()); v != 1 || err != nil {
						t.Errorf("got %d and %v, want 1", v, err)
					}
				}
			})
		}
		callers.Wait()
		if took := time.Since(epoch); took != 10*ms || most.Load() != 2 {
			t.Errorf("got the callers done after %v with %d at a time, want 10ms and 2", took, most.Load())
		}
		must(t, s.Shutdown(t.Context()))
		if hooks.Load() != 20 {
			t.Errorf("got %d hooks run by the end of the shutdown, want 20", hooks.Load())
		}
	})
}

// TestSlot_canceledBeforeItBegan cancels a command after a worker took it, but before its
// work began: its slot is free when its result is known.
func TestSlot_canceledBeforeItBegan(t *testing.T) {
	p := &Pool{max: 1, slots: 1}
	first, second := &stubJob{make(chan struct{})}, &stubJob{make(chan struct{})}
	a, b := &entry{job: first}, &entry{job: second}
	if v := p.enter(a, true); v != accepted {
		t.Fatalf("got verdict %d, want %d", v, accepted)
	}
	p.leave(a, false)
	p.leave(a, false)
	if running, waiting := p.Load(); running+waiting != 0 {
		t.Errorf("got %d running and %d waiting, want none", running, waiting)
	}
	if v := p.enter(b, true); v != accepted {
		t.Errorf("got verdict %d for the next, want %d", v, accepted)
	}
	p.leave(b, true) // its work goes on
	if running, waiting := p.Load(); running != 1 || waiting != 0 {
		t.Errorf("got %d running and %d waiting, want the one whose work continues", running, waiting)
	}
	close(first.done)
	close(second.done)
	must(t, p.Shutdown(t.Context()))
	if running, waiting := p.Load(); running+waiting+p.held != 0 {
		t.Errorf("got %d running, %d waiting and %d held, want nothing left", running, waiting, p.held)
	}
}

// stubJob is a job whose work lasts until done is closed.
type stubJob struct{ done chan struct{} }

func (j *stubJob) work()                                             { <-j.done }
func (*stubJob) bind() error                                         { return nil }
func (*stubJob) attempt(context.Context) error                       { return nil }
func (*stubJob) rescue(_ context.Context, cause error) (bool, error) { return false, cause }
func (*stubJob) verdict() error                                      { return nil }
func (*stubJob) runHooks()                                           {}

// TestSlot_cancelAndStart cancels commands at random points, and starts the next one when the
// first has ended. The work returns when it is canceled. The next command is accepted when the
// work has returned, and always if the work did not begin.
func TestSlot_cancelAndStart(t *testing.T) {
	s := boundedService(t, 1, Zero, Abort)
	s.breaker = mustBreaker(t, breaker.Config{Threshold: breaker.Never})
	for range 2000 {
		var began atomic.Bool
		ctx, cancel := context.WithCancel(t.Context())
		c := Start(ctx, Config{Service: s}, func(ctx context.Context) (int, error) {
			began.Store(true)
			<-ctx.Done()
			return 0, ctx.Err()
		})
		cancel()
		if _, err := c.Get(t.Context()); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v, want the cancellation", err)
		}
		if running, waiting := s.Executor().Load(); running+waiting != 0 && !began.Load() {
			c.mu.Lock()
			begun := c.begun
			c.mu.Unlock()
			if !begun {
				t.Fatalf("got %d running and %d waiting though the work never began, want none", running, waiting)
			}
		}
		waitIdle(t, s)
	}
}
