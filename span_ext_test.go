package pillion_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// family is a caller's context that counts what depends on it: contexts made of it, and functions
// to be called at its end.
type family struct {
	context.Context
	done chan struct{}
	ever atomic.Int64
	live atomic.Int64
}

func newFamily(ctx context.Context) *family { return &family{Context: ctx, done: make(chan struct{})} }

func (f *family) Done() <-chan struct{} { return f.done }

// AfterFunc is the method that package context looks for in custom contexts.
func (f *family) AfterFunc(func()) (stop func() bool) {
	f.ever.Add(1)
	f.live.Add(1)
	var once sync.Once
	return func() bool {
		once.Do(func() { f.live.Add(-1) })
		return true
	}
}

// TestStream_contexts pins how many contexts a call derives from the caller's context: at most one
// for each attempt, and none for the body, without need, or for a base that does not wait for the
// end of its context. None of them outlives the call.
func TestStream_contexts(t *testing.T) {
	every := timeout.Config{Total: time.Hour, PerTry: time.Minute, Idle: time.Minute}
	tests := []struct {
		name     string
		policies []pillion.Policy
		deadline time.Duration // the caller's own, 0 for none
		head     int64         // how many depend on the caller's context while the base works
		ever     int64
	}{
		{"no policies", nil, 0, 0, 0},
		{"a hook", []pillion.Policy{limits.Config{}}, 0, 0, 0},
		{"a total limit", []pillion.Policy{timeout.Config{Total: time.Hour}}, 0, 1, 1},
		{"all limits", []pillion.Policy{every}, 0, 1, 1},
		{"two attempts", []pillion.Policy{quick(1)}, 0, 1, 2},
		{"two attempts under all limits", []pillion.Policy{every, quick(1)}, 0, 1, 2},
		{"all policies", []pillion.Policy{every, quick(1), limits.Config{}, breaker.Config{}}, 0, 1, 2},
		{"the caller's deadline is first", []pillion.Policy{timeout.Config{Total: time.Hour, PerTry: time.Minute}}, time.Second, 0, 0},
		{"the caller's deadline is before the total", []pillion.Policy{timeout.Config{Total: time.Hour, PerTry: time.Minute}}, 2 * time.Minute, 1, 1},
	}
	for i := range 2 * len(tests) {
		test, waits := tests[i/2], i%2 == 0
		if !waits {
			test.name, test.head, test.ever = test.name+", not waited for", 0, 0
		}
		t.Run(test.name, func(t *testing.T) {
			ctx := t.Context()
			if test.deadline != 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, test.deadline)
				defer cancel()
			}
			f := newFamily(ctx)
			attempts := 0
			base := roundTripper(func(req *http.Request) (*http.Response, error) {
				if waits {
					_ = req.Context().Done()
				}
				if got := f.live.Load(); got != test.head {
					t.Errorf("during an attempt: got %d that hang on the context, want %d", got, test.head)
				}
				if attempts++; attempts == 1 {
					return answer(http.StatusServiceUnavailable, "no"), nil
				}
				return answer(http.StatusOK, "soup"), nil
			})
			resp, err := newUpstream(t, test.policies...).Transport(base).RoundTrip(get(f, t))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadAll(resp.Body); err != nil {
				t.Error(err)
			}
			if ever, live := f.ever.Load(), f.live.Load(); ever != test.ever || live != 0 {
				t.Errorf("got %d ever, %d at the end, want %d and none", ever, live, test.ever)
			}
			_ = resp.Body.Close()
		})
	}
}

// TestStream_notCanceledWhileRead reads a body for longer than all limits on attempts, piece by
// piece: its context lives until its end, and not longer.
func TestStream_notCanceledWhileRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUpstream(t, timeout.Config{Total: time.Hour, PerTry: time.Second, Idle: 2 * time.Second}, quick(1), limits.Config{})
		var sent []context.Context
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			sent = append(sent, req.Context())
			if len(sent) == 1 {
				return answer(http.StatusServiceUnavailable, "no"), nil
			}
			body := newTape(req.Context(), io.EOF)
			for i := range 60 {
				body.pieces = append(body.pieces, piece{time.Now().Add(time.Duration(i) * time.Second), "x"})
			}
			return streams(body)(req)
		})
		resp, err := u.Transport(base).RoundTrip(get(t.Context(), t))
		if err != nil {
			t.Fatal(err)
		}
		if len(sent) != 2 || sent[0].Err() == nil {
			t.Fatalf("got %d attempts, want 2, the first one's context at its end", len(sent))
		}
		for n := 0; ; n++ {
			_, err := resp.Body.Read(make([]byte, 1))
			if err == io.EOF && n == 60 {
				break
			}
			if err != nil || sent[1].Err() != nil {
				t.Fatalf("after %d bytes: got %v, and %v of the context, want no error", n, err, sent[1].Err())
			}
		}
		synctest.Wait()
		if !errors.Is(sent[1].Err(), context.Canceled) {
			t.Errorf("context after the end: got %v, want it cancelled", sent[1].Err())
		}
	})
}

// TestStream_wire pins what the attempt's context reports to the wire, however the attempt ends.
func TestStream_wire(t *testing.T) {
	type key struct{}
	errLeft := errors.New("left")
	tests := []struct {
		name   string
		limits timeout.Config
		leave  bool
		after  time.Duration // when the base responds, if it is not canceled before
		err    error
		cause  func(error) bool
	}{
		{
			"a response",
			timeout.Config{Total: time.Hour},
			false, time.Second, context.Canceled,
			func(err error) bool { return err != nil && err.Error() == "pillion: the attempt has ended" },
		},
		{
			"total limit",
			timeout.Config{Total: time.Minute},
			false, time.Hour, context.DeadlineExceeded,
			func(err error) bool { return scopeOf(err) == policy.ScopeTotal },
		},
		{
			"per-try limit",
			timeout.Config{PerTry: time.Second},
			false, time.Hour, context.DeadlineExceeded,
			func(err error) bool { return scopeOf(err) == policy.ScopePerTry },
		},
		{
			"idle limit",
			timeout.Config{Idle: time.Second},
			false, time.Hour, context.DeadlineExceeded,
			func(err error) bool { return scopeOf(err) == policy.ScopeIdle },
		},
		{
			"a canceled caller",
			timeout.Config{Total: time.Hour},
			true, time.Hour, context.Canceled,
			func(err error) bool { return err == errLeft }, //nolint:errorlint // the very one
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, leave := context.WithCancelCause(context.WithValue(t.Context(), key{}, "mine"))
				defer leave(nil)
				if test.leave {
					time.AfterFunc(10*time.Second, func() { leave(errLeft) })
				}
				var sent, child context.Context
				u := newUpstream(t, test.limits)
				resp, err := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
					sent = req.Context() //nolint:fatcontext // it is looked at later, and nothing is made of it
					var cancel context.CancelFunc
					child, cancel = context.WithCancel(sent)
					t.Cleanup(cancel)
					if got := sent.Value(key{}); got != "mine" {
						t.Errorf("Value: got %v, want the caller's", got)
					}
					if err := context.Cause(sent); err != nil || sent.Err() != nil {
						t.Errorf("at first: got %v, cause %v, want none", sent.Err(), err)
					}
					select {
					case <-sent.Done():
						return nil, sent.Err()
					case <-time.After(test.after):
						return answer(http.StatusOK, "soup"), nil
					}
				})).RoundTrip(get(ctx, t))
				if err == nil {
					_, _ = io.ReadAll(resp.Body)
				}
				if got := sent.Err(); got != test.err { //nolint:errorlint // what a context says is bare
					t.Errorf("Err: got %v, want %v", got, test.err)
				}
				if got := context.Cause(sent); !test.cause(got) {
					t.Errorf("Cause: got %v", got)
				}
				<-child.Done()
				if got := context.Cause(child); !test.cause(got) {
					t.Errorf("Cause of a context made of it: got %v", got)
				}
				if test.leave != errors.Is(err, context.Canceled) {
					t.Errorf("got %v, want the caller's leaving: %v", err, test.leave)
				}
				before := sent.Err()
				leave(nil)
				if got := sent.Err(); got != before { //nolint:errorlint // the very one
					t.Errorf("Err later on: got %v, want %v for ever", got, before)
				}
			})
		})
	}
}

// TestStream_wireErrIsConstant pins that the error of a context never changes: here the caller is
// canceled, the wire does not honor that, and then a timeout fires too.
func TestStream_wireErrIsConstant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, leave := context.WithCancel(t.Context())
		u := newUpstream(t, timeout.Config{Total: time.Minute})
		resp, err := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
			leave()
			first := req.Context().Err()
			time.Sleep(time.Hour)
			if got := req.Context().Err(); got != first { //nolint:errorlint // the very one
				t.Errorf("got %v, and %v later on", first, got)
			}
			return answer(http.StatusOK, "soup"), nil
		})).RoundTrip(get(ctx, t))
		if err == nil {
			_ = resp.Body.Close()
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want the caller's leaving", err)
		}
	})
}

// TestStream_wireErrAfterDone pins that a context has no error before it is done.
func TestStream_wireErrAfterDone(t *testing.T) {
	u := newUpstream(t, before(func(c *policy.Call) { c.LimitPerTry(20 * time.Microsecond) }))
	base := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
		ctx := req.Context()
		for {
			if err := ctx.Err(); err != nil {
				select {
				case <-ctx.Done():
				default:
					t.Errorf("got %v of a context that is not done", err)
				}
				return nil, err
			}
		}
	}))
	for range 300 {
		if _, err := base.RoundTrip(get(t.Context(), t)); scopeOf(err) != policy.ScopePerTry {
			t.Errorf("got %v, want the per-try limit", err)
		}
	}
}

// moody is a context whose Err panics for a while.
type moody struct {
	context.Context
	panics atomic.Bool
}

func (m *moody) Err() error {
	if m.panics.Load() {
		panic("no error here")
	}
	return m.Context.Err()
}

// TestStream_contextPanics pins that a timeout of an open response fires although the caller's context
// panics then, and that the panic does not end the process.
func TestStream_contextPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logged := slog.Default()
		defer slog.SetDefault(logged)
		slog.SetDefault(slog.New(slog.DiscardHandler))
		u := newUpstream(t, timeout.Config{Total: time.Second}, limits.Config{})
		ctx := &moody{Context: t.Context()}
		resp, err := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
			body := newTape(req.Context(), io.EOF)
			body.pieces = append(body.pieces, piece{time.Now().Add(time.Hour), "x"})
			return streams(body)(req)
		})).RoundTrip(get(ctx, t))
		if err != nil {
			t.Fatal(err)
		}
		ctx.panics.Store(true)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		ctx.panics.Store(false)
		if _, err := resp.Body.Read(make([]byte, 1)); scopeOf(err) != policy.ScopeTotal {
			t.Errorf("got %v, want the total limit", err)
		}
		_ = resp.Body.Close()
	})
}

// TestStream_deadlineOnlyShrinks pins that the wire receives the earliest of all deadlines.
func TestStream_deadlineOnlyShrinks(t *testing.T) {
	for _, caller := range []time.Duration{0, time.Millisecond, time.Second, time.Minute, time.Hour} {
		for _, total := range []time.Duration{timeout.Unlimited, time.Millisecond, time.Second, time.Minute} {
			for _, try := range []time.Duration{0, time.Microsecond, time.Hour} {
				t.Run(fmt.Sprintf("caller %v, total %v, per try %v", caller, total, try), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						began, ctx := time.Now(), t.Context()
						if caller != 0 {
							var cancel context.CancelFunc
							ctx, cancel = context.WithTimeout(ctx, caller)
							defer cancel()
						}
						var want time.Duration
						for _, d := range []time.Duration{caller, total} { // the per-try limit does not end the body
							if d > 0 && (want == 0 || d < want) {
								want = d
							}
						}
						u := newUpstream(t, timeout.Config{Total: total}, before(func(c *policy.Call) {
							if try != 0 {
								c.LimitPerTry(try)
							}
						}))
						resp, err := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
							deadline, ok := req.Context().Deadline()
							if ok != (want != 0) || (ok && deadline.Sub(began) != want) {
								t.Errorf("deadline: got %v, %v, want %v", deadline.Sub(began), ok, want)
							}
							return answer(http.StatusOK, ""), nil
						})).RoundTrip(get(ctx, t))
						if err != nil {
							t.Fatal(err)
						}
						_ = resp.Body.Close()
					})
				})
			}
		}
	}
}

// TestStream_lateResponse pins a base that does not honor its context: its response after the timeout
// is dropped and closed, and the timeout's error is the result.
func TestStream_lateResponse(t *testing.T) {
	tests := []struct {
		name  string
		bring func(body io.ReadCloser) (*http.Response, error)
		wraps error
	}{
		{"a response", func(body io.ReadCloser) (*http.Response, error) { return streams(body)(nil) }, nil},
		{"an echo of its context", func(body io.ReadCloser) (*http.Response, error) {
			_ = body.Close()
			return nil, context.DeadlineExceeded
		}, nil},
		{"another error", func(body io.ReadCloser) (*http.Response, error) {
			_ = body.Close()
			return nil, errBroken
		}, errBroken},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bodies := newTally()
				ends := 0
				var sent *http.Request
				u := newUpstream(t, timeout.Config{Total: time.Second}, atEnd(func(*policy.Call, *policy.Outcome) { ends++ }))
				_, err := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
					sent = req
					time.Sleep(time.Minute)
					return test.bring(newCountedBody(bodies))
				})).RoundTrip(get(t.Context(), t))
				limit, ok := errors.AsType[*pillion.TimeoutError](err)
				if !ok || limit.Scope != policy.ScopeTotal || limit.Limit != time.Second || limit.Upstream != "recipes" ||
					limit.Err != test.wraps || !limit.Timeout() { //nolint:errorlint // the very one
					t.Errorf("got %#v, want the total limit around %v", err, test.wraps)
				}
				if !errors.Is(err, context.DeadlineExceeded) || (test.wraps != nil && !errors.Is(err, test.wraps)) {
					t.Errorf("got %v, want it to be DeadlineExceeded and what it wraps", err)
				}
				bodies.wantNone(t)
				if scopeOf(context.Cause(sent.Context())) != policy.ScopeTotal || ends != 1 {
					t.Errorf("got cause %v and %d ends, want the limit and one", context.Cause(sent.Context()), ends)
				}
			})
		})
	}
}

// TestStream_tooLateToBegin pins that no attempt is made after the time of the call has passed.
func TestStream_tooLateToBegin(t *testing.T) {
	for _, callerToo := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var events journal
			u := newUpstream(t, timeout.Config{Total: time.Second},
				before(func(*policy.Call) { time.Sleep(2 * time.Second) }),
				pillion.Listener(func(_ context.Context, e policy.Event) { events.add(e.Kind.String()) }))
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second/2)
			if !callerToo {
				ctx, cancel = context.WithCancel(t.Context())
			}
			defer cancel()
			_, err := u.Transport(roundTripper(func(*http.Request) (*http.Response, error) {
				t.Error("an attempt was made")
				return nil, errBroken
			})).RoundTrip(get(ctx, t))
			want := map[bool]policy.Scope{false: policy.ScopeTotal, true: policy.ScopeCaller}[callerToo]
			if scopeOf(err) != want {
				t.Errorf("got %v, want the limit of scope %v", err, want)
			}
			if diff := cmp.Diff([]string{"end"}, events.all()); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

// TestStream_timersAreNotShared reuses timers for calls with long limits and for calls whose timeout
// fires just when their response arrives. A timer must not fire for another call.
func TestStream_timersAreNotShared(t *testing.T) {
	const callers, each = 4, 400
	u := newUpstream(t, before(func(c *policy.Call) {
		if c.RequestHeader("X-Patient") == "" {
			c.LimitPerTry(30 * time.Microsecond)
		} else {
			c.LimitTotal(time.Hour)
			c.LimitIdle(time.Hour)
		}
	}))
	base := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
		for range rand.IntN(20) {
			runtime.Gosched()
		}
		if err := req.Context().Err(); err != nil {
			return nil, err
		}
		return answer(http.StatusOK, "soup"), nil
	}))
	var struck, answered atomic.Int64
	var running sync.WaitGroup
	for i := range callers {
		running.Go(func() {
			for n := range each {
				req := get(t.Context(), t)
				patient := (i+n)%2 == 0
				if patient {
					req.Header.Set("X-Patient", "yes")
				}
				resp, err := base.RoundTrip(req)
				if err == nil {
					answered.Add(1)
					_, err = io.ReadAll(resp.Body)
					_ = resp.Body.Close()
				} else if !patient && scopeOf(err) == policy.ScopePerTry {
					struck.Add(1)
					err = nil
				}
				if err != nil {
					t.Errorf("patient %v: got %v, want a response", patient, err)
				}
			}
		})
	}
	running.Wait()
	if struck.Load()+answered.Load() != callers*each {
		t.Errorf("got %d timeouts, %d responses, want %d in total", struck.Load(), answered.Load(), callers*each)
	}
}

// TestCall_limits pins that the shortest of several limits of a kind applies, and how much time is
// left for a policy.
func TestCall_limits(t *testing.T) {
	tests := []struct {
		name    string
		limit   func(c *policy.Call)
		caller  time.Duration
		left    time.Duration
		limited bool
		scope   policy.Scope
		limits  time.Duration
	}{
		{"none", func(*policy.Call) {}, 0, 0, false, 0, 0},
		{"caller", func(*policy.Call) {}, time.Second, time.Second, true, policy.ScopeCaller, 0},
		{"total", func(c *policy.Call) { c.LimitTotal(time.Minute) }, 0, time.Minute, true, policy.ScopeTotal, time.Minute},
		{"total within the caller's", func(c *policy.Call) { c.LimitTotal(time.Minute) }, time.Hour, time.Minute, true, policy.ScopeTotal, time.Minute},
		{"total beyond the caller's", func(c *policy.Call) { c.LimitTotal(time.Minute) }, time.Second, time.Second, true, policy.ScopeCaller, 0},
		{"totals", func(c *policy.Call) { c.LimitTotal(time.Hour); c.LimitTotal(time.Second); c.LimitTotal(time.Minute) }, 0, time.Second, true, policy.ScopeTotal, time.Second},
		{"per try", func(c *policy.Call) { c.LimitPerTry(time.Hour); c.LimitPerTry(time.Second); c.LimitPerTry(time.Minute) }, 0, 0, false, policy.ScopePerTry, time.Second},
		{"idles", func(c *policy.Call) { c.LimitIdle(time.Hour); c.LimitIdle(time.Second); c.LimitIdle(time.Minute) }, 0, 0, false, policy.ScopeIdle, time.Second},
		{"idle shorter than per try", func(c *policy.Call) { c.LimitPerTry(time.Minute); c.LimitIdle(time.Second) }, time.Hour, time.Hour, true, policy.ScopeIdle, time.Second},
		{"per try shorter than the total", func(c *policy.Call) { c.LimitTotal(time.Minute); c.LimitPerTry(time.Second) }, 0, time.Minute, true, policy.ScopePerTry, time.Second},
		{"lifted", func(c *policy.Call) {
			c.LimitTotal(time.Minute)
			c.LimitPerTry(time.Second)
			(*policy.Attempt)(c).LiftLimits()
		}, 0, 0, false, 0, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				if test.caller != 0 {
					ctx, cancel = context.WithTimeout(t.Context(), test.caller)
				}
				defer cancel()
				u := newUpstream(t, before(test.limit), before(func(c *policy.Call) {
					if left, limited := c.Remaining(); left != test.left || limited != test.limited {
						t.Errorf("Remaining: got %v, %v, want %v, %v", left, limited, test.left, test.limited)
					}
				}))
				_, err := pillion.Do(ctx, u, func(ctx context.Context) (int, error) {
					select {
					case <-ctx.Done():
						return 0, ctx.Err()
					case <-time.After(24 * time.Hour):
						return 42, nil
					}
				})
				limit, _ := errors.AsType[*pillion.TimeoutError](err)
				if limit == nil {
					limit = &pillion.TimeoutError{}
				}
				if limit.Scope != test.scope || limit.Limit != test.limits {
					t.Errorf("got %v, want scope %v and limit %v", err, test.scope, test.limits)
				}
			})
		})
	}
}

// TestCall_endsWithoutAttempt pins the outcomes for a call that ended while no attempt was running.
func TestCall_endsWithoutAttempt(t *testing.T) {
	broken := &policy.Outcome{Err: errBroken}
	total := func(c *policy.Call) { c.LimitTotal(time.Minute) }
	none := func(*policy.Call) {}
	tests := []struct {
		name  string
		limit func(c *policy.Call)
		leave time.Duration // 0 for no deadline of the caller, -1 for canceled immediately
		end   func(ctx context.Context, c *policy.Call) *policy.Outcome
		want  string
		is    policy.Condition
		flags envoy.Flags
	}{
		{
			"expired", total, 0, func(_ context.Context, c *policy.Call) *policy.Outcome { return c.Expired(&policy.Outcome{}) },
			"timeout: recipes: total limit of 1m0s reached", policy.Timeout, envoy.UT,
		},
		{
			"expired after a failure", total, 0, func(_ context.Context, c *policy.Call) *policy.Outcome { return c.Expired(broken) },
			"timeout: recipes: total limit of 1m0s reached: broken", policy.Timeout, envoy.UT,
		},
		{
			"expired by the caller", none, time.Second,
			func(_ context.Context, c *policy.Call) *policy.Outcome { return c.Expired(broken) },
			"timeout: recipes: caller deadline passed: broken", policy.Timeout, envoy.UT,
		},
		{
			"gone", total, -1, func(ctx context.Context, c *policy.Call) *policy.Outcome { return c.Gone(ctx, &policy.Outcome{}) },
			"context canceled", policy.Cancelled, envoy.DC,
		},
		{
			"gone after a failure", total, -1, func(ctx context.Context, c *policy.Call) *policy.Outcome { return c.Gone(ctx, broken) },
			"context canceled: broken", policy.Cancelled, envoy.DC,
		},
		{
			"gone after the context's error", total, -1, func(ctx context.Context, c *policy.Call) *policy.Outcome {
				return c.Gone(ctx, &policy.Outcome{Err: fmt.Errorf("dialing: %w", context.Canceled)})
			},
			"dialing: context canceled", policy.Cancelled, envoy.DC,
		},
		{
			"gone by a deadline", total, time.Second, func(ctx context.Context, c *policy.Call) *policy.Outcome {
				time.Sleep(2 * time.Second)
				return c.Gone(ctx, &policy.Outcome{Err: context.DeadlineExceeded})
			},
			"timeout: recipes: caller deadline passed", policy.Timeout, envoy.UT,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				if test.leave > 0 {
					ctx, cancel = context.WithTimeout(t.Context(), test.leave)
				}
				defer cancel()
				if test.leave < 0 {
					cancel()
				}
				u := newUpstream(t, before(test.limit), around(func(ctx context.Context, c *policy.Call, _ policy.Func) *policy.Outcome {
					return test.end(ctx, c)
				}))
				o := u.Chain().Invoke(ctx, &letter{})
				if o.Err == nil || o.Err.Error() != test.want || o.Conditions != test.is || o.Flags != test.flags {
					t.Errorf("got %v, %b, %v, want %s, %b, %v", o.Err, o.Conditions, o.Flags, test.want, test.is, test.flags)
				}
			})
		})
	}
}

// TestStream_retriesShareTheTotal pins that all attempts share the total limit, and that each has its
// own per-try limit.
func TestStream_retriesShareTheTotal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var starts []time.Duration
		u := newUpstream(t, timeout.Config{Total: 5 * time.Second, PerTry: 2 * time.Second},
			retry.Config{NumRetries: 9, Rand: func() float64 { return 0 }})
		_, err := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
			starts = append(starts, time.Since(began))
			<-req.Context().Done()
			return nil, req.Context().Err()
		})).RoundTrip(get(t.Context(), t))
		if scopeOf(err) != policy.ScopeTotal || time.Since(began) != 5*time.Second {
			t.Errorf("got %v after %v, want the total limit of 5s", err, time.Since(began))
		}
		if diff := cmp.Diff([]time.Duration{0, 2 * time.Second, 4 * time.Second}, starts); diff != "" {
			t.Errorf("attempts began (-want +got):\n%s", diff)
		}
	})
}
