package retry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/timeout"
)

func TestRetryableErrors(t *testing.T) {
	for _, tc := range []struct {
		name string
		r    Retryable
		want []string
	}{
		{"zero", Retryable{}, nil},
		{"infinite, no sleep", Retryable{Tries: Unlimited, Sleep: Zero}, nil},
		{"Tries", Retryable{Tries: -2}, []string{"retry: Retryable.Tries: -2 is negative; write 1 or more, 0 for 2, or retry.Unlimited"}},
		{"Sleep", Retryable{Sleep: -2}, []string{"retry: Retryable.Sleep: -2ns is negative; " + such + ", 0 for 1s, or retry.Zero for none"}},
		{
			"all together",
			Retryable{Tries: -3, Sleep: -time.Second, Not: []Match{nil}, Matching: []Pattern{Substring("x"), nil}},
			[]string{
				"retry: Retryable.Tries: -3 is negative; write 1 or more, 0 for 2, or retry.Unlimited",
				"retry: Retryable.Sleep: -1s is negative; " + such + ", 0 for 1s, or retry.Zero for none",
				"retry: Retryable.On, Retryable.Not: a Match is nil; leave it out",
				"retry: Retryable.Matching: a Pattern is nil; leave it out",
			},
		},
		{
			"Sleep beside SleepFunc",
			Retryable{Sleep: time.Second, SleepFunc: func(int) time.Duration { return 0 }},
			[]string{"retry: Retryable.Sleep: 1s has no effect beside SleepFunc; leave one of them out"},
		},
		{"unit forgotten", Retryable{Sleep: 1}, []string{"retry: Retryable.Sleep: 1ns is below 1ms; did you forget the unit? W" + such[1:] + ", 0 for 1s, or retry.Zero for none"}},
		{"nil target", Retryable{Not: []Match{Is(nil)}}, []string{"retry: Retryable.On, Retryable.Not: a Match is nil; leave it out"}},
		{"nil expression", Retryable{Matching: []Pattern{(*regexp.Regexp)(nil)}}, []string{"retry: Retryable.Matching: a Pattern is nil; leave it out"}},
		{"nil in On", Retryable{On: []Match{Is(errBroken), nil}}, []string{"retry: Retryable.On, Retryable.Not: a Match is nil; leave it out"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, lines(t, tc.r)); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
		})
	}
}

// TestRetryableTries checks the number of attempts and their times.
func TestRetryableTries(t *testing.T) {
	at := func(times ...time.Duration) []time.Duration { return times }
	for _, tc := range []struct {
		name    string
		r       Retryable
		answers []answer
		want    []time.Duration
		code    int
		flags   envoy.Flags
	}{
		{"default", Retryable{}, []answer{status(500)}, at(0, time.Second), 500, envoy.URX},
		{"good immediately", Retryable{Tries: 9}, []answer{status(200)}, at(0), 200, 0},
		{"good finally", Retryable{Tries: 9}, []answer{status(500), status(404)}, at(0, time.Second), 404, 0},
		{"one", Retryable{Tries: 1}, []answer{status(500)}, at(0), 500, envoy.URX},
		{
			"four",
			Retryable{Tries: 4, Sleep: 100 * time.Millisecond},
			[]answer{status(500)},
			at(0, 100*time.Millisecond, 200*time.Millisecond, 300*time.Millisecond), 500, envoy.URX,
		},
		{"no sleep", Retryable{Tries: 3, Sleep: Zero}, []answer{status(500)}, at(0, 0, 0), 500, envoy.URX},
		{
			"infinite",
			Retryable{Tries: Unlimited, Sleep: time.Hour},
			[]answer{status(500), failure(errBroken), status(502), status(503), status(200)},
			at(0, time.Hour, 2*time.Hour, 3*time.Hour, 4*time.Hour), 200, 0,
		},
		{
			"sleep as a function",
			Retryable{
				Tries: 4, SleepFunc: func(retry int) time.Duration { return time.Duration(retry) * time.Second },
			},
			[]answer{status(500)},
			at(0, 0, time.Second, 3*time.Second), 500, envoy.URX,
		},
		{
			"sleep as a function, negative",
			Retryable{SleepFunc: func(int) time.Duration { return -time.Second }},
			[]answer{status(500)},
			at(0, 0), 500, envoy.URX,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := answers(tc.answers...)
				r := call(t, upstream(t, tc.r), w, get(t.Context()))
				if diff := cmp.Diff(tc.want, w.times()); diff != "" {
					t.Errorf("attempts (-want +got):\n%s", diff)
				}
				if r.code != tc.code || r.flags != tc.flags || w.open != 0 {
					t.Errorf("got %d with flags %v and %d bodies open, want %d with %v and 0", r.code, r.flags, w.open, tc.code, tc.flags)
				}
			})
		})
	}
}

// TestRetryableInfinite retries until no time remains.
func TestRetryableInfinite(t *testing.T) {
	for _, tc := range []struct {
		name   string
		answer answer
		want   int
		err    string
	}{
		{"responses", status(500), 6, "<nil>"},
		{"failures", failure(errBroken), 6, "pillion: recipes: UC upstream_reset_before_response_started{connection_termination}: broken"},
		// The total timeout fired, so that no time remains for a retry.
		{"silence", silence, 1, "timeout: recipes: total limit of 1.1s reached"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := upstream(t, timeout.Config{Total: 1100 * time.Millisecond}, Retryable{Tries: Unlimited, Sleep: 200 * time.Millisecond})
				r := call(t, u, answers(tc.answer), get(t.Context()))
				if r.attempts != tc.want || fmt.Sprint(r.err) != tc.err || r.flags.Has(envoy.URX) {
					t.Errorf("got %d attempts, flags %v and %v, want %d, no URX and %v", r.attempts, r.flags, r.err, tc.want, tc.err)
				}
			})
		})
	}
}

// TestRetryableDeadlineOfTheCaller checks that a call that ends at the caller's deadline has not
// used up its attempts.
func TestRetryableDeadlineOfTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		ensured := -1
		u := upstream(t, Retryable{Tries: 1, Ensure: func(retries int) { ensured = retries }})
		r := call(t, u, answers(silence), get(ctx))
		if want := "timeout: recipes: caller deadline passed"; fmt.Sprint(r.err) != want || r.flags != envoy.UT || ensured != 0 {
			t.Errorf("got %v with flags %v and %d retries ensured, want %s with UT and 0", r.err, r.flags, ensured, want)
		}
	})
}

// TestRetryableTimeIsOver uses a callback that takes the remaining time: a response is still
// returned, a failure becomes a timeout that wraps it.
func TestRetryableTimeIsOver(t *testing.T) {
	const limit = time.Second
	for _, tc := range []struct {
		name   string
		total  time.Duration
		caller time.Duration
		answer answer
		code   int
		want   string
	}{
		{"total, response", limit, time.Hour, status(500), 500, ""},
		{
			"total, failure", limit, time.Hour, failure(errBroken), 0, "timeout: recipes: total limit of 1s reached: " +
				"pillion: recipes: UC upstream_reset_before_response_started{connection_termination}: broken",
		},
		{
			"caller, failure", time.Hour, limit, failure(errBroken), 0, "timeout: recipes: caller deadline passed: " +
				"pillion: recipes: UC upstream_reset_before_response_started{connection_termination}: broken",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), tc.caller)
				defer cancel()
				u := upstream(t, timeout.Config{Total: tc.total}, Retryable{SleepFunc: func(int) time.Duration {
					time.Sleep(2 * limit)
					return 0
				}})
				r := call(t, u, answers(tc.answer), get(ctx))
				if r.code != tc.code || r.attempts != 1 || (tc.want != "" && fmt.Sprint(r.err) != tc.want) {
					t.Errorf("got %d and %v after %d attempts, want %d and %s after 1", r.code, r.err, r.attempts, tc.code, tc.want)
				}
			})
		})
	}
}

// TestRetryableWhat checks which failures are retried.
func TestRetryableWhat(t *testing.T) {
	full := func(*testing.T) policy.Policy { return limits.Config{MaxRequests: limits.Zero} }
	for _, tc := range []struct {
		name   string
		r      Retryable
		answer answer
		inside func(*testing.T) policy.Policy
		method string
		want   int
	}{
		{name: "200", answer: status(200), want: 1},
		{name: "404", answer: status(404), want: 1},
		{name: "409", answer: status(409), want: 1},
		{name: "429 of a rate limit", answer: status(429, "X-Envoy-Ratelimited", "true"), want: 1},
		{name: "500", answer: status(500), want: 2},
		{name: "503 of a rate limit", answer: status(503, "X-Envoy-Ratelimited", "true"), want: 2},
		{name: "POST", answer: status(500), method: "POST", want: 2},
		{name: "connection refused", answer: failure(errRefusedDial), want: 2},
		{name: "connection reset", answer: failure(syscall.ECONNRESET), want: 2},
		{name: "invalid request", answer: failure(textError("net/http: invalid method")), want: 1},
		{name: "refused by a breaker", answer: status(200), inside: openBreaker, want: 2},
		{name: "refused by a limit", answer: status(200), inside: full, want: 2},
		{name: "refused by a breaker, not", r: Retryable{Not: []Match{Is(breaker.ErrOpen)}}, answer: status(200), inside: openBreaker, want: 1},
		{name: "refused by a limit, not", r: Retryable{Not: []Match{As[*limits.FullError]()}}, answer: status(200), inside: full, want: 1},
		{name: "on, one of two", r: Retryable{On: []Match{Status(500), Is(errBroken)}}, answer: failure(errBroken), want: 2},
		{name: "on, none of two", r: Retryable{On: []Match{Status(500), Is(errBroken)}}, answer: status(503), want: 1},
		{name: "on, empty", r: Retryable{On: []Match{}}, answer: status(503), want: 1},
		{name: "on a status", r: Retryable{On: []Match{Status(500, 503)}}, answer: status(503), want: 2},
		{name: "on a status, failure", r: Retryable{On: []Match{Status(500, 503)}}, answer: failure(errBroken), want: 1},
		{name: "on a status that is no failure", r: Retryable{On: []Match{Status(404)}}, answer: status(404), want: 1},
		{name: "on a type", r: Retryable{On: []Match{As[*policy.UpstreamError]()}}, answer: failure(errBroken), want: 2},
		{name: "on another type", r: Retryable{On: []Match{As[*policy.UpstreamError]()}}, answer: status(500), want: 1},
		{name: "not wins", r: Retryable{On: []Match{Is(errBroken)}, Not: []Match{Is(errBroken)}}, answer: failure(errBroken), want: 1},
		{name: "not, another failure", r: Retryable{Not: []Match{Status(500)}}, answer: status(501), want: 2},
		{name: "matching a substring", r: Retryable{Matching: []Pattern{Substring("roke")}}, answer: failure(errBroken), want: 2},
		{name: "matching no substring", r: Retryable{Matching: []Pattern{Substring("Roke")}}, answer: failure(errBroken), want: 1},
		{
			name: "matching a regexp", answer: failure(errBroken), want: 2,
			r: Retryable{Matching: []Pattern{Substring("no"), regexp.MustCompile(`bro.en$`)}},
		},
		{name: "matching the text of a status", r: Retryable{Matching: []Pattern{Substring("503")}}, answer: status(503), want: 2},
		{name: "matching, empty", r: Retryable{Matching: []Pattern{}}, answer: status(503), want: 1},
		{
			name: "on and matching", answer: failure(errBroken), want: 1,
			r: Retryable{On: []Match{Is(errBroken)}, Matching: []Pattern{Substring("other")}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				policies := []policy.Policy{tc.r}
				if tc.inside != nil {
					policies = append(policies, tc.inside(t))
				}
				req := get(t.Context())
				req.Method = tc.method
				if r := call(t, upstream(t, policies...), answers(tc.answer), req); r.attempts != tc.want {
					t.Errorf("got %d attempts, want %d", r.attempts, tc.want)
				}
			})
		})
	}
}

// TestRetryableTimeouts checks that timeouts of attempts are retried, and no others.
func TestRetryableTimeouts(t *testing.T) {
	for _, tc := range []struct {
		name  string
		limit timeout.Config
		want  int
	}{
		{"per try", timeout.Config{PerTry: time.Second}, 2},
		{"idle", timeout.Config{Idle: time.Second}, 2},
		{"total", timeout.Config{Total: time.Second}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var limit *timeout.Error
				r := call(t, upstream(t, tc.limit, Retryable{}), answers(silence), get(t.Context()))
				if r.attempts != tc.want || !errors.As(r.err, &limit) {
					t.Errorf("got %d attempts and %v, want %d and a timeout", r.attempts, r.err, tc.want)
				}
			})
		})
	}
}

// TestRetryableCallbacks records the callbacks and their times.
func TestRetryableCallbacks(t *testing.T) {
	for _, tc := range []struct {
		name    string
		answers []answer
		leave   time.Duration
		want    []string
	}{
		{"good immediately", []answer{status(200)}, 0, []string{"0s attempt", "0s ensure 0"}},
		{
			"good after two",
			[]answer{status(500), failure(errRefusedDial), status(200)},
			0,
			[]string{
				"0s attempt",
				"1s exception_cb upstream responded with status 500", "1s log_method 1 upstream responded with status 500", "1s attempt",
				"2s exception_cb connection refused", "2s log_method 2 connection refused", "2s attempt",
				"2s ensure 2",
			},
		},
		{
			"used up",
			[]answer{status(500)},
			0,
			[]string{
				"0s attempt",
				"1s exception_cb upstream responded with status 500", "1s log_method 1 upstream responded with status 500", "1s attempt",
				"2s exception_cb upstream responded with status 500", "2s log_method 2 upstream responded with status 500", "2s attempt",
				"2s ensure 2",
			},
		},
		{"canceled in the wait", []answer{status(500)}, 500 * time.Millisecond, []string{"0s attempt", "500ms ensure 0"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if tc.leave != 0 {
					time.AfterFunc(tc.leave, cancel)
				}
				var notes []string
				began := time.Now()
				note := func(format string, args ...any) {
					notes = append(notes, time.Since(began).String()+" "+fmt.Sprintf(format, args...))
				}
				text := func(err error) string {
					if errors.Is(err, syscall.ECONNREFUSED) {
						return "connection refused"
					}
					return err.Error()
				}
				u := upstream(t, Retryable{
					Tries:       3,
					ExceptionCB: func(err error) { note("exception_cb %s", text(err)) },
					LogMethod:   func(retries int, err error) { note("log_method %d %s", retries, text(err)) },
					Ensure:      func(retries int) { note("ensure %d", retries) },
				})
				w := answers(tc.answers...)
				call(t, u, roundTripper(func(req *http.Request) (*http.Response, error) {
					note("attempt")
					return w.RoundTrip(req)
				}), get(ctx))
				if diff := cmp.Diff(tc.want, notes); diff != "" {
					t.Errorf("callbacks (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestRetryableEnsureAfterPanic panics in a retry.
func TestRetryableEnsureAfterPanic(t *testing.T) {
	var ensured []int
	u := upstream(t, Retryable{Tries: 5, Sleep: Zero, Ensure: func(retries int) { ensured = append(ensured, retries) }})
	for _, at := range []int{1, 3} {
		runs := 0
		func() {
			defer func() {
				if got := recover(); got != "boom" {
					t.Errorf("got panic %v, want boom", got)
				}
			}()
			_, _ = pillion.Do(t.Context(), u, func(context.Context) (int, error) {
				if runs++; runs == at {
					panic("boom")
				}
				return 0, errBroken
			})
		}()
	}
	if diff := cmp.Diff([]int{0, 2}, ensured); diff != "" {
		t.Errorf("retries passed to Ensure (-want +got):\n%s", diff)
	}
}

// TestRetryableDo retries a plain function after any error.
func TestRetryableDo(t *testing.T) {
	runs := 0
	got, err := pillion.Do(t.Context(), upstream(t, Retryable{Sleep: Zero}), func(context.Context) (string, error) {
		if runs++; runs == 1 {
			return "", errBroken
		}
		return "fine", nil
	})
	if got != "fine" || err != nil || runs != 2 {
		t.Errorf("got %q and %v after %d runs, want fine after 2", got, err, runs)
	}
}

// TestRetryableIsCopied changes the slices of a Retryable after the upstream was made.
func TestRetryableIsCopied(t *testing.T) {
	on, not, matching := []Match{Is(errBroken)}, []Match{Status(500)}, []Pattern{Substring("broken")}
	u := upstream(t, Retryable{On: on, Not: not, Matching: matching, Sleep: Zero})
	on[0], not[0], matching[0] = Status(500), Is(errBroken), Substring("responded")
	if r := call(t, u, answers(failure(errBroken)), get(t.Context())); r.attempts != 2 {
		t.Errorf("got %d attempts, want 2", r.attempts)
	}
}

// TestRetryableOpensTheBreaker opens the breaker inside with the attempts of one call. As in
// Expeditor the refusals are retried, too.
func TestRetryableOpensTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := answers(status(500))
		var seen []string
		u := upstream(t,
			Retryable{Tries: 5, Sleep: 100 * time.Millisecond, LogMethod: func(_ int, err error) {
				seen = append(seen, strings.SplitN(err.Error(), ":", 2)[0])
			}},
			breaker.Config{NonBreakCount: 2, Sleep: time.Hour})
		r := call(t, u, w, get(t.Context()))
		if !errors.Is(r.err, breaker.ErrOpen) || r.attempts != 5 || w.attempts() != 2 {
			t.Errorf("got %v after %d attempts, %d of them sent, want ErrOpen after 5, 2 of them sent", r.err, r.attempts, w.attempts())
		}
		if diff := cmp.Diff([]string{"upstream responded with status 500", "upstream responded with status 500", "breaker", "breaker"}, seen); diff != "" {
			t.Errorf("failures (-want +got):\n%s", diff)
		}
	})
}

// TestRetryable_Check pins that Check reports what New reports, and the budget.
func TestRetryable_Check(t *testing.T) {
	err := Retryable{Tries: -3, Matching: []Pattern{nil}, Budget: &Budget{Window: -1}}.Check()
	want := "retry: Retryable.Tries: -3 is negative; write 1 or more, 0 for 2, or retry.Unlimited\n" +
		"retry: Retryable.Matching: a Pattern is nil; leave it out\n" +
		"retry: Retryable.Budget.Window: -1ns is negative; " + such + ", or 0 for 10s"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if err := (Retryable{Sleep: Zero}).Check(); err != nil {
		t.Errorf("got %v for a valid one, want none", err)
	}
}
