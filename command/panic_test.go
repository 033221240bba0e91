package command

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion/breaker"
)

// logged keeps what the default logger receives during a test.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// take returns the lines that were logged since the last time.
func (l *logged) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(strings.TrimSuffix(l.text.String(), "\n"), "\n")
	l.text.Reset()
	if len(lines) == 1 && lines[0] == "" {
		return nil
	}
	return lines
}

func captureLog(t *testing.T) *logged {
	t.Helper()
	l, before := &logged{}, slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(l, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	return l
}

// wantReport checks that one panic of what was reported: at level Error, with the stack.
func wantReport(t *testing.T, l *logged, what string) {
	t.Helper()
	lines := l.take()
	if len(lines) != 1 || !strings.Contains(lines[0], "level=ERROR") || !strings.Contains(lines[0], what) ||
		!strings.Contains(lines[0], "panic=boom") || !strings.Contains(lines[0], "panic_test.go") {
		t.Errorf("got log %q, want one report of %s with the stack", lines, what)
	}
}

// TestReport_hooks has a hook panic without a HookPanic: the panic is reported, whichever
// goroutine runs the hook: a worker, a timer, that of a cancellation, or the caller's.
func TestReport_hooks(t *testing.T) {
	hang := func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() }
	adders := map[string]func(c *Command[int]) error{
		"OnComplete": func(c *Command[int]) error { return c.OnComplete(func(int, error) { panic(errBoom) }) },
		"OnFailure":  func(c *Command[int]) error { return c.OnFailure(func(error) { panic(errBoom) }) },
		"OnSuccess": func(c *Command[int]) error {
			if err := c.SetFallback(func(context.Context, error) (int, error) { return 1, nil }); err != nil {
				return err
			}
			return c.OnSuccess(func(int) { panic(errBoom) })
		},
	}
	ends := map[string]struct {
		timeout time.Duration
		work    func(context.Context) (int, error)
		here    bool
		cancel  bool
		shut    bool
	}{
		"a worker":       {work: failing(errBoom)},
		"a timer":        {work: hang, timeout: ms},
		"a cancellation": {work: hang, cancel: true},
		"the caller":     {work: failing(errBoom), here: true},
		"a rejection":    {work: failing(errBoom), shut: true},
	}
	l := captureLog(t)
	for kind, add := range adders {
		for where, tt := range ends {
			if tt.cancel && kind == "OnSuccess" {
				continue // no fallback runs
			}
			synctest.Test(t, func(t *testing.T) {
				s := boundedService(t, 1, Zero, Abort)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if tt.shut {
					must(t, s.Shutdown(ctx))
				}
				c := New(Config{Service: s, Timeout: tt.timeout}, tt.work)
				must(t, add(c))
				if tt.here {
					must(t, c.Run(ctx))
				} else {
					must(t, c.Start(ctx))
				}
				if tt.cancel {
					synctest.Wait()
					cancel()
				}
				must(t, c.Wait(t.Context()))
				synctest.Wait()
				wantReport(t, l, "a hook")
				if running, waiting := s.Executor().Load(); running+waiting != 0 {
					t.Errorf("%s in %s: got %d running and %d waiting, want none", kind, where, running, waiting)
				}
				must(t, s.Shutdown(t.Context()))
			})
		}
	}
}

// TestReport_late has work panic after its command has ended: the panic is reported, since it
// reaches no caller. Other panics are not reported.
func TestReport_late(t *testing.T) {
	l := captureLog(t)
	synctest.Test(t, func(t *testing.T) {
		c := Start(t.Context(), Config{Timeout: ms}, func(context.Context) (int, error) { time.Sleep(time.Second); panic(errBoom) })
		_, err := c.Get(t.Context())
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the limit", err)
		}
		time.Sleep(time.Hour)
		wantReport(t, l, "work whose command had ended")
	})
	_, err := Start(t.Context(), Config{}, func(context.Context) (int, error) { panic(errBoom) }).Get(t.Context())
	wantPanic(t, "work", err, "panic")
	if lines := l.take(); lines != nil {
		t.Errorf("got log %q of a panic that reached the caller, want none", lines)
	}
}

// TestReport_stateChange has OnStateChange panic, with a breaker that the service made and
// with a given one: the panic is reported, and the refusal and the trial's result stay.
func TestReport_stateChange(t *testing.T) {
	l := captureLog(t)
	boom := func(breaker.Change) { panic(errBoom) }
	for where, start := range starts {
		for name, cfg := range map[string]ServiceConfig{
			"its own": {NonBreakCount: 1, OnStateChange: boom},
			"given":   {Breaker: mustBreaker(t, breaker.Config{NonBreakCount: 1, OnStateChange: boom})},
		} {
			t.Run(where+", "+name, func(t *testing.T) {
				s := service(t, cfg)
				s.Record(breaker.Failure)
				refused := New(Config{Service: s}, value(1))
				must(t, start(refused, t.Context()))
				var open *CircuitBreakError
				if _, err := refused.Get(t.Context()); !errors.As(err, &open) || open.Until.IsZero() {
					t.Errorf("got %v, want the refusal", err)
				}
				wantReport(t, l, "OnStateChange")
				wantStatus(t, s, breaker.Status{Failure: 1, Break: 1})
				func() {
					defer func() {
						if got := recover(); got != any(errBoom) {
							t.Errorf("got panic %v, want %v to go on to the caller of ResetStatus", got, errBoom)
						}
					}()
					s.ResetStatus()
				}()
				if s.Breaking() || s.Status() != (breaker.Status{}) {
					t.Errorf("got %+v, open %t, want a reset", s.Status(), s.Breaking())
				}
			})
		}
	}
}

// TestReport_hookPanic has HookPanic panic: that panic is reported.
func TestReport_hookPanic(t *testing.T) {
	l := captureLog(t)
	c := New(Config{HookPanic: func(*PanicError) { panic(errBoom) }}, value(1))
	must(t, c.OnSuccess(func(int) { panic("of the hook") }))
	must(t, c.Run(t.Context()))
	wantReport(t, l, "HookPanic")
}

// TestClassifyPanics has Classify panic: the command fails, wherever it runs.
func TestClassifyPanics(t *testing.T) {
	for where, start := range starts {
		t.Run(where, func(t *testing.T) {
			s := service(t, ServiceConfig{Classify: func(error) breaker.Result { panic(errBoom) }})
			c := New(Config{Service: s}, value(1))
			must(t, start(c, t.Context()))
			_, err := c.Get(t.Context())
			wantPanic(t, "Classify", err, "panic")
			wantStatus(t, s, breaker.Status{Failure: 1})
			must(t, s.Shutdown(t.Context()))
		})
	}
}
