package command

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/retry"
)

const ms = time.Millisecond

// TestLimitOfStubbornWork has work that ignores its context. The command ends when the
// timeout fires; the work continues and keeps its worker, and its value is dropped.
func TestLimitOfStubbornWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := boundedService(t, 1, 1, Abort)
		epoch := time.Now()
		stubborn := New(Config{Service: s, Timeout: 30 * ms}, func(context.Context) (int, error) {
			time.Sleep(time.Second)
			return 1, nil
		})
		must(t, stubborn.SetFallback(func(_ context.Context, err error) (int, error) {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the fallback got %v, want a timeout", err)
			}
			return -1, nil
		}))
		hooks := 0
		must(t, stubborn.OnComplete(func(v int, _ error) { hooks += v }))
		must(t, stubborn.Start(t.Context()))
		next := Start(t.Context(), Config{Service: s}, value(2))

		v, err := stubborn.Get(t.Context())
		if took := time.Since(epoch); v != -1 || err != nil || took != 30*ms {
			t.Errorf("got %d and %v after %v, want -1 after 30ms", v, err, took)
		}
		wantStatus(t, s, breaker.Status{Timeout: 1})
		if v, err := next.Get(t.Context()); v != 2 || err != nil || time.Since(epoch) != time.Second {
			t.Errorf("got %d and %v after %v, want 2 when the worker is free", v, err, time.Since(epoch))
		}
		must(t, s.Shutdown(t.Context()))
		if v, err := stubborn.Get(t.Context()); v != -1 || err != nil || hooks != -1 {
			t.Errorf("got %d and %v, and the hooks %d, want the late value to be dropped", v, err, hooks)
		}
		wantStatus(t, s, breaker.Status{Success: 1, Timeout: 1})
	})
}

// TestLimitHere has the timeout act through the context, in work of different kinds.
func TestLimitHere(t *testing.T) {
	for name, work := range map[string]func(context.Context) (int, error){
		"work that honors its context": func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() },
		"work that returns late":       func(context.Context) (int, error) { time.Sleep(50 * ms); return 1, nil },
		"work that fails late":         func(context.Context) (int, error) { time.Sleep(50 * ms); return 0, errBoom },
		"work that panics late":        func(context.Context) (int, error) { time.Sleep(50 * ms); panic(errBoom) },
	} {
		for where, start := range starts {
			t.Run(name+", "+where, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := service(t, ServiceConfig{Name: "recipes"})
					c := New(Config{Service: s, Timeout: 30 * ms}, work)
					must(t, start(c, t.Context()))
					_, err := c.Get(t.Context())
					var limit *TimeoutError
					if !errors.As(err, &limit) || limit.Limit != 30*ms || limit.Service != "recipes" || !limit.Timeout() ||
						!errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("got %v, want the limit of 30ms", err)
					}
					synctest.Wait()
					wantStatus(t, s, breaker.Status{Timeout: 1})
					time.Sleep(time.Second) // late work
				})
			})
		}
	}
}

// TestWorkContext checks the context of the work: it shows the timeout as a context of the
// standard library does.
func TestWorkContext(t *testing.T) {
	type key struct{}
	for where, start := range starts {
		t.Run(where, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), key{}, "mine"), time.Hour)
				defer cancel()
				c := New(Config{Timeout: time.Second}, func(ctx context.Context) (int, error) {
					if d, ok := ctx.Deadline(); !ok || time.Until(d) != time.Second {
						t.Errorf("got a deadline in %v, want 1s", time.Until(d))
					}
					if ctx.Value(key{}) != "mine" || ctx.Err() != nil {
						t.Errorf("got %v and %v, want the value of the caller's context", ctx.Value(key{}), ctx.Err())
					}
					inner, stop := context.WithCancel(ctx)
					defer stop()
					<-inner.Done()
					var limit *TimeoutError
					if ctx.Err() != context.DeadlineExceeded || !errors.As(context.Cause(inner), &limit) {
						t.Errorf("got %v because of %v, want the deadline because of the limit", ctx.Err(), context.Cause(inner))
					}
					return 0, nil
				})
				must(t, start(c, ctx))
				must(t, c.Wait(t.Context()))

				short, stop := context.WithTimeout(t.Context(), 10*ms)
				defer stop()
				c = New(Config{Timeout: time.Second}, func(ctx context.Context) (int, error) {
					if d, _ := ctx.Deadline(); time.Until(d) != 10*ms {
						t.Errorf("got a deadline in %v, want the caller's 10ms", time.Until(d))
					}
					<-ctx.Done()
					return 0, ctx.Err()
				})
				must(t, start(c, short))
				var limit *TimeoutError
				if _, err := c.Get(t.Context()); !errors.Is(err, context.DeadlineExceeded) || errors.As(err, &limit) {
					t.Errorf("got %v, want the caller's deadline", err)
				}
			})
		})
	}
}

// TestCancel cancels a command in each phase. On the pool it ends immediately; its fallback
// does not run, and it is not counted.
func TestCancel(t *testing.T) {
	hang := func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }
	deaf := func(context.Context) (int, error) { time.Sleep(time.Hour); return 1, nil }
	for name, tt := range map[string]struct {
		work   func(context.Context) (int, error)
		within bool // a dependency has to be waited for first
		retry  *retry.Retryable
		want   breaker.Status
	}{
		"in the work":                   {work: hang},
		"in work without a context":     {work: deaf},
		"waiting for a dependency":      {work: value(1), within: true},
		"waiting for another attempt":   {work: failing(errBoom), retry: &retry.Retryable{Tries: 3, Sleep: time.Hour}, want: breaker.Status{Failure: 1}},
		"in the work, with retries":     {work: hang, retry: &retry.Retryable{Tries: retry.Unlimited}},
		"between many quick attempts":   {work: retryingUntil(t), retry: &retry.Retryable{Tries: retry.Unlimited, Sleep: ms}, want: breaker.Status{Failure: 11}},
		"with an error of the work's":   {work: func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, errBoom }},
		"with the error of the context": {work: func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := service(t, ServiceConfig{Threshold: breaker.Never})
				ctx, cancel := context.WithCancel(t.Context())
				epoch := time.Now()
				time.AfterFunc(10*ms+1, cancel)
				c := New(Config{Service: s, Timeout: 2 * time.Hour}, tt.work)
				if tt.within {
					dep := Start(t.Context(), Config{}, deaf)
					must(t, c.After(dep))
				}
				must(t, c.SetFallback(func(context.Context, error) (int, error) {
					t.Error("the fallback of a canceled command ran")
					return 0, nil
				}))
				var told error
				must(t, c.OnFailure(func(err error) { told = err }))
				if tt.retry != nil {
					must(t, c.StartWithRetry(ctx, *tt.retry))
				} else {
					must(t, c.Start(ctx))
				}
				_, err := c.Get(t.Context())
				if took := time.Since(epoch); !errors.Is(err, context.Canceled) || took != 10*ms+1 {
					t.Errorf("got %v after %v, want the cancellation after 10ms", err, took)
				}
				synctest.Wait()
				if told == nil || !errors.Is(told, context.Canceled) {
					t.Errorf("the hook got %v, want the cancellation", told)
				}
				wantStatus(t, s, tt.want)
				time.Sleep(3 * time.Hour) // of the deaf
			})
		})
	}
}

func retryingUntil(t *testing.T) func(context.Context) (int, error) {
	t.Helper()
	return func(context.Context) (int, error) { return 0, errBoom }
}

// TestCancelHere cancels commands in the calling goroutine: the context ends, and the work's
// error is kept.
func TestCancelHere(t *testing.T) {
	s := service(t, ServiceConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	c := New(Config{Service: s}, func(context.Context) (int, error) { cancel(); return 0, errBoom })
	must(t, c.Run(ctx))
	if _, err := c.Get(t.Context()); !errors.Is(err, context.Canceled) || !errors.Is(err, errBoom) {
		t.Errorf("got %v, want the cancellation and the error of the work", err)
	}
	done := New(Config{Service: s}, func(context.Context) (int, error) { return 4, nil })
	if err := done.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := done.Get(t.Context()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want work not to run after a cancellation", err)
	}
	wantStatus(t, s, breaker.Status{})

	ctx, stop := context.WithCancelCause(t.Context())
	late := New(Config{Service: s}, func(context.Context) (int, error) { stop(errBoom); return 4, nil })
	must(t, late.Run(ctx))
	if v, err := late.Get(t.Context()); v != 4 || err != nil {
		t.Errorf("got %d and %v, want the value", v, err)
	}
	wantStatus(t, s, breaker.Status{Success: 1})
	gone := Start(ctx, Config{Service: s}, value(1))
	if _, err := gone.Get(t.Context()); !errors.Is(err, context.Canceled) || !errors.Is(err, errBoom) {
		t.Errorf("got %v, want the cancellation and its cause", err)
	}
}

// TestCancelReachesDependencies cancels a command: the dependencies that its start started are
// canceled too, and release their slots.
func TestCancelReachesDependencies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := boundedService(t, 1, 2, Abort)
		ctx, cancel := context.WithCancel(t.Context())
		hang := func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }
		a, b := New(Config{Service: s}, hang), New(Config{Service: s}, hang)
		c := New2(Config{Service: s}, a, b, func(context.Context, int, int) (int, error) { return 1, nil })
		must(t, c.Start(ctx))
		synctest.Wait()
		if running, waiting := s.Executor().Load(); running != 1 || waiting != 2 {
			t.Errorf("got %d running and %d waiting, want 1 and 2", running, waiting)
		}
		if _, err := Start(t.Context(), Config{Service: s}, value(1)).Get(t.Context()); !errors.Is(err, ErrRejected) {
			t.Errorf("got %v, want the pool to be full", err)
		}
		cancel()
		for name, d := range map[string]*Command[int]{"a": a, "b": b, "c": c} {
			if _, err := d.Get(t.Context()); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: got %v, want the cancellation", name, err)
			}
		}
		synctest.Wait()
		if running, waiting := s.Executor().Load(); running != 0 || waiting != 0 {
			t.Errorf("got %d running and %d waiting, want none", running, waiting)
		}
		wantStatus(t, s, breaker.Status{Rejection: 1})
		must(t, s.Shutdown(t.Context()))
	})
}

// TestCallersDeadline has the deadline of the caller's context pass: that is a timeout too.
func TestCallersDeadline(t *testing.T) {
	for where, start := range starts {
		t.Run(where, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := service(t, ServiceConfig{})
				ctx, cancel := context.WithTimeout(t.Context(), 5*ms)
				defer cancel()
				c := New(Config{Service: s}, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
				must(t, c.SetFallback(func(context.Context, error) (int, error) { return 3, nil }))
				must(t, start(c, ctx))
				if v, err := c.Get(t.Context()); v != 3 || err != nil {
					t.Errorf("got %d and %v, want the fallback", v, err)
				}
				synctest.Wait()
				wantStatus(t, s, breaker.Status{Timeout: 1})
			})
		})
	}
}

// TestGetGivesUp cancels a Get: the command continues.
func TestGetGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Start(t.Context(), Config{}, func(context.Context) (int, error) { time.Sleep(time.Second); return 1, nil })
		ctx, cancel := context.WithTimeoutCause(t.Context(), ms, errBoom)
		defer cancel()
		if _, err := c.Get(ctx); !errors.Is(err, errBoom) {
			t.Errorf("got %v, want the cause of the cancellation", err)
		}
		if err := c.Wait(ctx); !errors.Is(err, errBoom) {
			t.Errorf("got %v from Wait, want the cause of the cancellation", err)
		}
		if v, err := c.Get(context.Background()); v != 1 || err != nil {
			t.Errorf("got %d and %v, want the value", v, err)
		}
		if v, err := c.Get(ctx); v != 1 || err != nil {
			t.Errorf("got %d and %v, want the result, whatever the context", v, err)
		}
	})
}

// TestShutdownWaits checks that Shutdown waits for all that was started before, but not after
// its context has ended.
func TestShutdownWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, epoch := boundedService(t, 1, 0, Abort), time.Now()
		sleep := func(context.Context) (int, error) { time.Sleep(time.Second); return 1, nil }
		ended := 0
		var last *Command[int]
		for range 3 {
			last = New(Config{Service: s}, sleep)
			must(t, last.OnComplete(func(int, error) { time.Sleep(time.Second); ended++ }))
			must(t, last.Start(t.Context()))
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), ms, errBoom)
		defer cancel()
		if err := s.Shutdown(ctx); !errors.Is(err, errBoom) {
			t.Errorf("got %v, want the shutdown to return", err)
		}
		must(t, s.Shutdown(t.Context()))
		if took := time.Since(epoch); ended != 3 || took != 6*time.Second {
			t.Errorf("got %d ended after %v, want all three with their hooks, after 6s", ended, took)
		}
		must(t, s.Shutdown(ctx)) // it is over, so the context does not matter
		if v, err := last.Get(t.Context()); v != 1 || err != nil {
			t.Errorf("got %d and %v, want queued work to run", v, err)
		}
	})
}

// TestNoDeadlockInASmallPool has commands on a pool of one thread that depend on each other,
// with fallbacks that the gem would queue behind them.
func TestNoDeadlockInASmallPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := boundedService(t, 1, 0, Abort)
		cfg := Config{Service: s}
		bottom := New(cfg, failing(errBoom))
		must(t, bottom.SetFallback(func(context.Context, error) (int, error) { return 1, nil }))
		chain := bottom
		for range 10 {
			chain = New2(cfg, chain, chain, func(_ context.Context, a, b int) (int, error) { return a + b, nil })
		}
		must(t, chain.Start(t.Context()))
		if v, err := chain.Get(t.Context()); v != 1024 || err != nil {
			t.Errorf("got %d and %v, want 1024", v, err)
		}
	})
}

// TestCallerRuns checks that Start runs the command when the pool is full, with its timeout,
// and so slows its caller down.
func TestCallerRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, epoch := boundedService(t, 2, Zero, CallerRuns), time.Now()
		sleep := func(context.Context) (int, error) { time.Sleep(time.Second); return 1, nil }
		var all []*Command[int]
		for range 9 {
			synctest.Wait() // those that end now shall have left
			all = append(all, Start(t.Context(), Config{Service: s}, sleep))
		}
		if took := time.Since(epoch); took != 3*time.Second {
			t.Errorf("got all started after %v, want 3s: every third here", took)
		}
		for _, c := range all {
			if v, err := c.Get(t.Context()); v != 1 || err != nil {
				t.Errorf("got %d and %v, want 1", v, err)
			}
		}
		wantStatus(t, s, breaker.Status{Success: 9})

		blocker := func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }
		ctx, cancel := context.WithCancel(t.Context())
		Start(ctx, Config{Service: s}, blocker)
		Start(ctx, Config{Service: s}, blocker)
		slow := New(Config{Service: s, Timeout: ms}, sleep)
		must(t, slow.After(Const(0)))
		var at time.Duration
		epoch = time.Now()
		must(t, slow.OnFailure(func(error) { at = time.Since(epoch) }))
		must(t, slow.Start(t.Context()))
		if at != ms || time.Since(epoch) != time.Second {
			t.Errorf("got the end after %v and the start's after %v, want 1ms and 1s", at, time.Since(epoch))
		}
		cancel()
		must(t, s.Shutdown(t.Context()))
	})
}

// TestCancelReleasesTheSlot cancels a command in the queue: the next one gets its slot, while
// the worker is still busy.
func TestCancelReleasesTheSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := boundedService(t, 1, 2, Abort)
		sleep := func(context.Context) (int, error) { time.Sleep(time.Second); return 1, nil }
		busy := Start(t.Context(), Config{Service: s}, sleep)
		ctx, cancel := context.WithCancel(t.Context())
		queued := Start(ctx, Config{Service: s}, sleep)
		parked := Chain(Config{Service: s}, busy, func(_ context.Context, v int) (int, error) { return v, nil })
		must(t, parked.Start(ctx))
		if _, err := Start(t.Context(), Config{Service: s}, value(2)).Get(t.Context()); !errors.Is(err, ErrRejected) {
			t.Errorf("got %v, want the pool to be full", err)
		}
		cancel()
		synctest.Wait()
		if running, waiting := s.Executor().Load(); running != 1 || waiting != 0 {
			t.Errorf("got %d running and %d waiting, want the busy one alone", running, waiting)
		}
		next := Start(t.Context(), Config{Service: s}, value(2))
		if v, err := next.Get(t.Context()); v != 2 || err != nil {
			t.Errorf("got %d and %v, want a slot for the next", v, err)
		}
		for name, c := range map[string]*Command[int]{"queued": queued, "parked": parked} {
			if _, err := c.Get(t.Context()); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: got %v, want the cancellation", name, err)
			}
		}
	})
}

// watchedContext counts the functions that wait for its end.
type watchedContext struct {
	context.Context
	waiting atomic.Int64
}

// Value hides the context of the standard library, which would bypass AfterFunc.
func (c *watchedContext) Value(any) any { return nil }

func (c *watchedContext) AfterFunc(f func()) func() bool {
	c.waiting.Add(1)
	stop := context.AfterFunc(c.Context, f)
	return func() bool {
		c.waiting.Add(-1)
		return stop()
	}
}

// TestCallersContextIsLeft checks that a command that has ended leaves nothing in the caller's
// context, which may exist for long.
func TestCallersContextIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full := boundedService(t, 1, Zero, Abort)
		busy, cancel := context.WithCancel(t.Context())
		defer cancel()
		Start(busy, Config{Service: full}, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, nil })
		deaf := func(context.Context) (int, error) { time.Sleep(time.Second); return 1, nil }
		for name, c := range map[string]*Command[int]{
			"a value":      New(Config{}, value(1)),
			"a failure":    New(Config{Timeout: time.Hour}, failing(errBoom)),
			"its limit":    New(Config{Timeout: ms}, deaf),
			"a rejection":  New(Config{Service: full}, deaf),
			"a dependency": Chain(Config{}, Start(t.Context(), Config{}, failing(errBoom)), func(context.Context, int) (int, error) { return 0, nil }),
		} {
			inner, stop := context.WithCancel(context.WithoutCancel(t.Context()))
			ctx := &watchedContext{Context: inner}
			must(t, c.Start(ctx))
			must(t, c.Wait(t.Context()))
			time.Sleep(2 * time.Second)
			if n := ctx.waiting.Load(); n != 0 {
				t.Errorf("ended by %s: got %d functions that wait for the caller's context, want none", name, n)
			}
			stop()
		}
	})
}

// TestFirstFailureCounts has two dependencies fail while the command waits for a worker: the
// first failure is the result.
func TestFirstFailureCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := boundedService(t, 1, 0, Abort)
		Start(t.Context(), Config{Service: s}, func(context.Context) (int, error) { time.Sleep(time.Second); return 1, nil })
		after := func(d time.Duration, err error) *Command[int] {
			return New(Config{}, func(context.Context) (int, error) { time.Sleep(d); return 0, err })
		}
		errLate := errors.New("late")
		c := NewAll(Config{Service: s}, []*Command[int]{after(3*ms, errLate), after(ms, errBoom), after(2*ms, errLate)}, sum)
		must(t, c.Start(t.Context()))
		if _, err := c.Get(t.Context()); !errors.Is(err, errBoom) {
			t.Errorf("got %v, want the first failure", err)
		}
	})
}
