package retry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/internal/memhttp"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/policytest"
	"github.com/pillion-go/pillion/timeout"
)

const ms = time.Millisecond

// text returns a response 200 with a body.
func text(body string) answer {
	return func(req *http.Request) (*http.Response, error) {
		resp, err := status(200)(req)
		resp.Body, resp.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
		return resp, err
	}
}

// TestHedge pins which attempt's result is returned, and what is reported about the others. The
// per-try timeout is 100ms, and back-offs take 5ms.
func TestHedge(t *testing.T) {
	reset := failure(syscall.ECONNRESET)
	tests := []struct {
		name     string
		cfg      Config
		answers  []answer
		body     string
		attempts int
		flags    envoy.Flags
		elapsed  time.Duration
		events   string // the events of retries
	}{
		{"the first is quick", Config{}, []answer{text("first")}, "first", 1, 0, 0, ""},
		{
			"the first hangs",
			Config{},
			[]answer{silence, text("second")},
			"second", 2, 0, 105 * ms, "1 overdue, 1 retry scheduled 5ms, 1 retry 5ms, 2 retry success",
		},
		{
			"the first wins after the second was sent",
			Config{},
			[]answer{later(250*ms, text("first")), later(900*ms, text("second"))},
			"first", 2, envoy.URX, 250 * ms, "1 overdue, 1 retry scheduled 5ms, 1 retry 5ms, 2 overdue, 2 retry limit exceeded",
		},
		{
			"the first wins during the back-off",
			Config{},
			[]answer{later(103*ms, text("first"))},
			"first", 1, 0, 103 * ms, "1 overdue, 1 retry scheduled 5ms",
		},
		{
			"the second fails, the first wins later",
			Config{},
			[]answer{later(400*ms, text("first")), later(50*ms, status(503))},
			"first", 2, envoy.URX, 400 * ms, "1 overdue, 1 retry scheduled 5ms, 1 retry 5ms, 2 retry limit exceeded",
		},
		{
			"the second is reset, the first wins later",
			Config{On: "connect-failure"},
			[]answer{later(400*ms, text("first")), reset},
			"first", 2, 0, 400 * ms, "1 overdue, 1 retry scheduled 5ms, 1 retry 5ms",
		},
		{
			"the second fails, and then the first",
			Config{},
			[]answer{later(400*ms, status(502)), later(50*ms, status(503))},
			"response 502", 2, envoy.URX, 400 * ms, "1 overdue, 1 retry scheduled 5ms, 1 retry 5ms, 2 retry limit exceeded",
		},
		{
			"the third wins, after the second failed",
			Config{NumRetries: 2},
			[]answer{silence, later(50*ms, status(503)), text("third")},
			"third", 3, 0, 165 * ms,
			"1 overdue, 1 retry scheduled 5ms, 1 retry 5ms, 2 retry scheduled 10ms, 2 retry 10ms, 3 retry success",
		},
		{
			"the first fails in the back-off for it",
			Config{},
			[]answer{later(103*ms, status(503)), text("second")},
			"second", 2, 0, 105 * ms, "1 overdue, 1 retry scheduled 5ms, 1 retry 5ms, 2 retry success",
		},
		{
			"the first fails in time",
			Config{},
			[]answer{status(503), text("second")},
			"second", 2, 0, 5 * ms, "1 retry scheduled 5ms, 1 retry 5ms, 2 retry success",
		},
		{
			"retries on another condition",
			Config{On: "connect-failure"},
			[]answer{silence, text("second")},
			"second", 2, 0, 105 * ms, "1 overdue, 1 retry scheduled 5ms, 1 retry 5ms, 2 retry success",
		},
		{
			"no retries",
			Config{NumRetries: Never},
			[]answer{later(250*ms, text("first"))},
			"first", 1, envoy.URX, 250 * ms, "1 overdue, 1 retry limit exceeded",
		},
		{
			"a 404 is a response",
			Config{},
			[]answer{later(250*ms, text("first")), status(404)},
			"response 404", 2, 0, 105 * ms, "1 overdue, 1 retry scheduled 5ms, 1 retry 5ms, 2 retry success",
		},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tc.cfg.HedgeOnPerTryTimeout, tc.cfg.BaseInterval, tc.cfg.Rand = true, 10*ms, always(0.5)
				if tc.cfg.On == "" {
					tc.cfg.On = "5xx"
				}
				var d diary
				w := answers(tc.answers...)
				u := upstream(t, timeout.Config{Total: 3 * time.Second, PerTry: 100 * ms}, tc.cfg, policy.Listener(d.listen))
				r := call(t, u, w, get(t.Context()))
				if r.err != nil || r.body != tc.body || r.attempts != tc.attempts || r.flags != tc.flags || r.elapsed != tc.elapsed {
					t.Errorf("got %q, %v, %d attempts, %v after %v, want %q, %d, %v after %v",
						r.body, r.err, r.attempts, r.flags, r.elapsed, tc.body, tc.attempts, tc.flags, tc.elapsed)
				}
				synctest.Wait()
				if w.open != 0 {
					t.Errorf("%d bodies were not closed", w.open)
				}
				if got := strings.Join(ofRetries(d.lines()), ", "); got != tc.events {
					t.Errorf("events: got  %s\nwant %s", got, tc.events)
				}
				if got, want := d.lines()[len(d.lines())-1], "1 end"; tc.attempts == 1 && got != want {
					t.Errorf("the last event: got %q, want %q", got, want)
				}
			})
		})
	}
}

// ofRetries returns the events of retries.
func ofRetries(lines []string) []string {
	return slices.DeleteFunc(lines, func(line string) bool { return !strings.Contains(line, "retry") && !strings.Contains(line, "overdue") })
}

// TestHedge_total pins that each of three attempts counts that the total timeout ends.
func TestHedge_total(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		u := upstream(t, timeout.Config{Total: 600 * ms, PerTry: 100 * ms},
			Config{On: "5xx", HedgeOnPerTryTimeout: true, NumRetries: 2, BaseInterval: 10 * ms, Rand: always(0.5)}, policy.Listener(d.listen))
		r := call(t, u, answers(silence), get(t.Context()))
		limit, ok := errors.AsType[*timeout.Error](r.err)
		if !ok || limit.Scope != timeout.Total || r.attempts != 3 || r.flags != envoy.URX|envoy.UT || r.elapsed != 600*ms {
			t.Errorf("got %v, %d attempts, %v after %v", r.err, r.attempts, r.flags, r.elapsed)
		}
		ends := 0
		for _, line := range d.lines() {
			if strings.HasSuffix(line, "attempt end") {
				ends++
			}
		}
		if ends != 3 {
			t.Errorf("got %d ends of attempts before the call returned, want 3", ends)
		}
	})
}

// TestHedge_off pins which calls are not hedged: the per-try timeout ends their attempts.
func TestHedge_off(t *testing.T) {
	for name, tc := range map[string]struct {
		cfg    Config
		method string
		header string
	}{
		"not configured":  {Config{}, "GET", ""},
		"not idempotent":  {Config{HedgeOnPerTryTimeout: true}, "POST", ""},
		"by the caller":   {Config{HedgeOnPerTryTimeout: true, EnvoyHeaders: true, On: "5xx"}, "GET", "false"},
		"no retry policy": {Config{HedgeOnPerTryTimeout: true, EnvoyHeaders: true}, "GET", "true"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tc.cfg.NumRetries = Never
				req := get(t.Context())
				req.Method = tc.method
				if tc.header != "" {
					req.Header.Set("X-Envoy-Hedge-On-Per-Try-Timeout", tc.header)
				}
				r := call(t, upstream(t, timeout.Config{PerTry: 100 * ms}, tc.cfg), answers(later(250*ms, text("late"))), req)
				limit, ok := errors.AsType[*timeout.Error](r.err)
				if !ok || limit.Scope != timeout.PerTry || r.elapsed != 100*ms {
					t.Errorf("got %q and %v after %v, want the limit of one attempt", r.body, r.err, r.elapsed)
				}
			})
		})
	}
}

// TestHedge_requestHeaders pins that calls are hedged whatever RetriableRequestHeaders says, as in
// Envoy.
func TestHedge_requestHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{HedgeOnPerTryTimeout: true, RetriableRequestHeaders: []HeaderMatcher{{Name: "X-May"}}, NumRetries: Never}
		r := call(t, upstream(t, timeout.Config{PerTry: 100 * ms}, cfg), answers(later(250*ms, text("late"))), get(t.Context()))
		if r.err != nil || r.body != "late" || r.elapsed != 250*ms {
			t.Errorf("got %q and %v after %v, want the late response", r.body, r.err, r.elapsed)
		}
	})
}

// TestHedge_header pins that a request header turns hedging on or off, that invalid values are
// ignored, and that the header is not forwarded.
func TestHedge_header(t *testing.T) {
	for value, want := range map[string]int{"true": 2, "yes": 1, "": 1} {
		synctest.Test(t, func(t *testing.T) {
			sent := func(req *http.Request) (*http.Response, error) {
				if req.Header.Get("X-Envoy-Hedge-On-Per-Try-Timeout") != "" {
					t.Error("the header was sent on")
				}
				return later(250*ms, text("late"))(req)
			}
			req := get(t.Context())
			req.Header.Set("X-Envoy-Hedge-On-Per-Try-Timeout", value)
			r := call(t, upstream(t, timeout.Config{PerTry: 100 * ms}, Config{EnvoyHeaders: true, On: "connect-failure"}), answers(sent), req)
			if r.attempts != want || (r.err == nil) != (want == 2) {
				t.Errorf("%q: got %d attempts and %v, want %d", value, r.attempts, r.err, want)
			}
		})
	}
}

// TestHedge_bodies pins that each attempt sends the whole body, from GetBody or from the replay
// buffer, and that a body that exceeds the buffer is sent once.
func TestHedge_bodies(t *testing.T) {
	for name, tc := range map[string]struct {
		body func() io.Reader
		keep int64
		want int
	}{
		"in memory": {func() io.Reader { return strings.NewReader("soup") }, 0, 2},
		"kept":      {func() io.Reader { return io.MultiReader(strings.NewReader("soup")) }, 4, 2},
		"too large": {func() io.Reader { return io.MultiReader(strings.NewReader("soup")) }, 3, 1},
		"not kept":  {func() io.Reader { return io.MultiReader(strings.NewReader("soup")) }, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var d diary
				w := answers(later(250*ms, text("first")), later(900*ms, text("second")))
				u := upstream(t, pillion.Options{ReplayBuffer: tc.keep}, timeout.Config{PerTry: 100 * ms}, Config{On: "5xx", HedgeOnPerTryTimeout: true}, policy.Listener(d.listen))
				r := call(t, u, w, post(t.Context(), tc.body()))
				if r.body != "first" || r.err != nil {
					t.Errorf("got %q and %v", r.body, r.err)
				}
				if got := w.bodies(); !slices.Equal(got, slices.Repeat([]string{"soup"}, tc.want)) {
					t.Errorf("bodies: got %q, want %d times soup", got, tc.want)
				}
				if got := d.has(policy.EventRetryAbandoned); got != (tc.want == 1) {
					t.Errorf("abandoned: got %v", got)
				}
			})
		})
	}
}

// pauses is a body with a pause before its second half.
type pauses struct{ parts []string }

func (p *pauses) Read(b []byte) (int, error) {
	if len(p.parts) == 0 {
		return 0, io.EOF
	}
	if len(p.parts) == 1 {
		time.Sleep(300 * ms)
	}
	n := copy(b, p.parts[0])
	p.parts = p.parts[1:]
	return n, nil
}

// TestHedge_upload pins that the per-try timeout begins when the request has been sent: a slow upload
// is not sent twice.
func TestHedge_upload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var bodies []string
		server := memhttp.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			mu.Lock()
			bodies = append(bodies, string(body))
			first := len(bodies) == 1
			mu.Unlock()
			if first {
				<-r.Context().Done()
				return
			}
			_, _ = io.WriteString(w, "second")
		}))
		defer server.Close()
		u := upstream(t, pillion.Options{ReplayBuffer: 100}, timeout.Config{PerTry: 100 * ms}, Config{On: "5xx", HedgeOnPerTryTimeout: true, Rand: always(0)})
		r := call(t, u, server, post(t.Context(), &pauses{[]string{"so", "up"}}))
		if r.body != "second" || r.err != nil || r.elapsed != 400*ms {
			t.Errorf("got %q and %v after %v, want the second attempt 100ms after the upload of 300ms", r.body, r.err, r.elapsed)
		}
		server.Close()
		if !slices.Equal(bodies, []string{"soup", "soup"}) {
			t.Errorf("bodies: got %q", bodies)
		}
	})
}

// TestHedge_limits pins that a concurrent retry, too, needs a slot and takes from the budget.
func TestHedge_limits(t *testing.T) {
	for name, policies := range map[string][]policy.Policy{
		"limits": {Config{On: "5xx", HedgeOnPerTryTimeout: true}, limits.Config{MaxRetries: limits.Zero}},
		"budget": {Config{On: "5xx", HedgeOnPerTryTimeout: true, Budget: &Budget{Percent: Zero, MinPerSecond: Zero}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := upstream(t, append([]policy.Policy{timeout.Config{PerTry: 100 * ms}}, policies...)...)
				r := call(t, u, answers(later(250*ms, text("first"))), get(t.Context()))
				if r.body != "first" || r.attempts != 1 || r.flags != envoy.UO {
					t.Errorf("got %q, %v, %d attempts and %v, want the first with UO", r.body, r.err, r.attempts, r.flags)
				}
			})
		})
	}
}

// TestHedge_slots pins that each attempt holds a slot while it runs, and all are free afterwards.
func TestHedge_slots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := upstream(t, timeout.Config{PerTry: 100 * ms}, Config{On: "5xx", HedgeOnPerTryTimeout: true, Rand: always(0)}, limits.Config{MaxRequests: 1, MaxRetries: 1})
		r := call(t, u, answers(later(250*ms, text("first"))), get(t.Context()))
		if r.body != "first" || r.attempts != 2 {
			t.Errorf("got %q, %v and %d attempts, want the first, as the second is refused", r.body, r.err, r.attempts)
		}
		for range 3 { // all slots are free again
			if r = call(t, u, answers(silence, text("second")), get(t.Context())); r.attempts != 2 {
				t.Errorf("got %d attempts, want 2", r.attempts)
			}
			synctest.Wait()
		}
	})
}

// TestHedge_breaker pins that a canceled attempt counts neither as a success nor as a failure.
func TestHedge_breaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := breaker.New(breaker.Config{})
		if err != nil {
			t.Fatal(err)
		}
		u := upstream(t, timeout.Config{PerTry: 100 * ms}, Config{On: "5xx", HedgeOnPerTryTimeout: true}, b)
		call(t, u, answers(silence, text("second")), get(t.Context()))
		synctest.Wait()
		if diff := cmp.Diff(breaker.Status{Success: 1}, b.Status()); diff != "" {
			t.Errorf("breaker: %s", diff)
		}
	})
}

// TestHedge_canceled pins that the end of the caller's context ends all attempts and the back-off.
func TestHedge_canceled(t *testing.T) {
	for name, tc := range map[string]struct {
		answers []answer
		after   time.Duration
	}{
		"while both run":    {[]answer{silence, silence}, 200 * ms},
		"during a back-off": {[]answer{status(503)}, 2 * ms},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cause := errors.New("lunch is over")
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(tc.after, func() { cancel(cause) })
				u := upstream(t, timeout.Config{PerTry: 100 * ms}, Config{On: "5xx", HedgeOnPerTryTimeout: true, BaseInterval: 10 * ms, Rand: always(0.5)})
				r := call(t, u, answers(tc.answers...), get(ctx))
				if !errors.Is(r.err, context.Canceled) || !errors.Is(r.err, cause) || r.elapsed != tc.after || !r.flags.Has(envoy.DC) {
					t.Errorf("got %v and %v after %v", r.err, r.flags, r.elapsed)
				}
				synctest.Wait()
			})
		})
	}
}

// TestHedge_timeoutHeader pins that the second attempt has the header of a retry after a timeout, and
// that both announce the total limit to the server, because the per-try timeout ends neither.
func TestHedge_timeoutHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var got []string
		note := func(next answer) answer {
			return func(req *http.Request) (*http.Response, error) {
				mu.Lock()
				got = append(got, req.Header.Get("X-Envoy-Is-Timeout-Retry")+" "+req.Header.Get("X-Envoy-Expected-Rq-Timeout-Ms"))
				mu.Unlock()
				return next(req)
			}
		}
		u := upstream(t, pillion.Options{IncludeIsTimeoutRetryHeader: true}, timeout.Config{Total: time.Second, PerTry: 100 * ms, ExpectedHeader: true},
			Config{On: "5xx", HedgeOnPerTryTimeout: true, Rand: always(0), NumRetries: 2})
		call(t, u, answers(note(silence), note(status(503)), note(text("third"))), get(t.Context()))
		if want := []string{" 1000", "true 900", "false 900"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// TestHedge_idle pins that the idle timeout ends an attempt that continued after its per-try timeout.
func TestHedge_idle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := upstream(t, timeout.Config{PerTry: 100 * ms, Idle: 300 * ms}, Config{On: "5xx", HedgeOnPerTryTimeout: true, NumRetries: Never})
		r := call(t, u, answers(silence), get(t.Context()))
		limit, ok := errors.AsType[*timeout.Error](r.err)
		if !ok || limit.Scope != timeout.Idle || r.elapsed != 300*ms {
			t.Errorf("got %v after %v, want the limit on silence after 300ms", r.err, r.elapsed)
		}
	})
}

// TestHedge_function pins that a function runs twice concurrently.
func TestHedge_function(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := upstream(t, timeout.Config{PerTry: 100 * ms}, Config{On: "5xx", HedgeOnPerTryTimeout: true})
		var runs atomic.Int32
		got, err := pillion.Do(t.Context(), u, func(ctx context.Context) (int, error) {
			n := runs.Add(1)
			if n == 1 {
				<-ctx.Done()
				return 0, ctx.Err()
			}
			if until, ok := ctx.Deadline(); !ok || time.Until(until) < time.Second {
				t.Errorf("got a deadline in %v, want that of the whole call", time.Until(until))
			}
			return int(n), nil
		})
		if got != 2 || err != nil {
			t.Errorf("got %d and %v, want 2", got, err)
		}
		synctest.Wait()
	})
}

// TestHedge_panic pins that a panic propagates to the caller and ends the other attempt, and that a
// panic of an attempt that was not chosen is reported.
func TestHedge_panic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := upstream(t, timeout.Config{PerTry: 100 * ms}, Config{On: "5xx", HedgeOnPerTryTimeout: true}, limits.Config{MaxRequests: 2})
		broken := func(*http.Request) (*http.Response, error) { panic("broken") }
		func() {
			defer func() {
				if p := recover(); p != "broken" {
					t.Errorf("got %v, want the panic", p)
				}
			}()
			call(t, u, answers(silence, broken), get(t.Context()))
		}()
		synctest.Wait()
		var log bytes.Buffer
		before := slog.Default()
		slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
		defer slog.SetDefault(before)
		late := func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()
			panic("late")
		}
		if r := call(t, u, answers(late, text("second")), get(t.Context())); r.body != "second" {
			t.Errorf("got %q and %v", r.body, r.err)
		}
		synctest.Wait()
		if !strings.Contains(log.String(), "panic=late") {
			t.Errorf("got %q, want a report of the panic", log.String())
		}
		if r := call(t, u, answers(silence, text("second")), get(t.Context())); r.attempts != 2 || r.body != "second" {
			t.Errorf("a slot was lost: got %d attempts and %v", r.attempts, r.err)
		}
		synctest.Wait()
	})
}

// TestHedge_goexit pins that an attempt that ends its goroutine also ends the caller's goroutine.
func TestHedge_goexit(t *testing.T) {
	u := upstream(t, Config{On: "5xx", HedgeOnPerTryTimeout: true})
	ended := make(chan bool)
	go func() {
		returned := false
		defer func() { ended <- returned }()
		_, _ = pillion.Do(t.Context(), u, func(context.Context) (int, error) { runtime.Goexit(); return 0, nil })
		returned = true
	}()
	if <-ended {
		t.Error("the call returned")
	}
}

// TestHedge_contract checks the contract of policies.
func TestHedge_contract(t *testing.T) {
	policytest.Policy(t, func() policy.Policy { return Config{On: "5xx", HedgeOnPerTryTimeout: true, BaseInterval: ms} })
}

// TestHedge_crowd calls a server that is sometimes slow from several goroutines, for the race
// detector. Each caller receives its own response, and no goroutine is left.
func TestHedge_crowd(t *testing.T) {
	server := memhttp.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		switch rand.IntN(6) {
		case 0:
			<-r.Context().Done()
			return
		case 1:
			time.Sleep(3 * ms)
		case 2:
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write(body)
	}))
	defer server.Close()
	u := upstream(t, pillion.Options{ReplayBuffer: 100}, timeout.Config{Total: time.Second, PerTry: 2 * ms},
		Config{On: "5xx", HedgeOnPerTryTimeout: true, NumRetries: 4, BaseInterval: ms, Budget: &Budget{Disabled: true}}, limits.Config{}, pillion.Log(slog.New(slog.DiscardHandler)))
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			for n := range 40 {
				want := fmt.Sprintf("%d of %d", n, i)
				var body io.Reader = strings.NewReader(want)
				if n%2 == 0 {
					body = io.MultiReader(body)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+rand.IntN(20))*ms)
				resp, err := u.Transport(server).RoundTrip(post(ctx, body))
				if err == nil {
					got, err := io.ReadAll(resp.Body)
					_ = resp.Body.Close()
					if err == nil && resp.StatusCode == http.StatusOK && string(got) != want {
						t.Errorf("got %q, want %q", got, want)
					}
				}
				cancel()
			}
		})
	}
	callers.Wait()
}
