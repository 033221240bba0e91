package pillion_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
)

// hedge is a policy that makes a second attempt if the first has no good result after a delay. The
// first good response wins; the other attempt is canceled and its response discarded. It shows that
// the engine supports concurrent attempts.
type hedge struct {
	delay   time.Duration
	running *sync.WaitGroup // its goroutines
}

// raced is the result of one of the attempts.
type raced struct {
	call *policy.Call
	o    *policy.Outcome
}

func (hedge) Place() policy.Place { return policy.Place{Rank: policy.Hedges} }

func (h hedge) Wrap(s *policy.Builder, next policy.Func) (policy.Func, error) {
	s.Require(policy.Needs{Cancel: true})
	slot := s.Slot()
	cancel := func(c *policy.Call, _ *policy.Outcome) { c.State(slot).V.(context.CancelFunc)() }
	return func(ctx context.Context, first *policy.Call) *policy.Outcome {
		second := first.Next() // derived before the first one runs
		came := make(chan raced, 2)
		start := func(c *policy.Call) {
			own, cancel := context.WithCancel(ctx)
			c.State(slot).V = cancel
			h.running.Go(func() { came <- raced{c, next(own, c)} })
		}
		start(first)
		timer := time.NewTimer(h.delay)
		defer timer.Stop()
		for pending, hedged := 1, false; ; {
			var r raced
			select {
			case <-timer.C:
			case r = <-came:
				pending--
				if r.o.Failure() == nil || ctx.Err() != nil || (hedged && pending == 0) {
					if pending != 0 {
						loser := map[bool]*policy.Call{true: first, false: second}[r.call == second]
						cancel(loser, nil)
						h.running.Go(func() { (<-came).o.Discard() })
					}
					r.o.OnEnd(r.call, cancel)
					return r.o
				}
				r.o.Discard()
				cancel(r.call, nil)
			}
			if !hedged {
				hedged = true
				pending++
				start(second)
			}
		}
	}, nil
}

// TestHedge_lateFirst ends a call by its second attempt before the first has begun, as a hedging
// policy may on a busy machine. The listener of the call's end reads the number of the first
// attempt meanwhile, which the race detector checks.
func TestHedge_lateFirst(t *testing.T) {
	var running sync.WaitGroup
	defer running.Wait()
	late := policyFunc(func(_ *policy.Builder, next policy.Func) (policy.Func, error) {
		return func(ctx context.Context, first *policy.Call) *policy.Outcome {
			second := first.Next()
			running.Go(func() {
				time.Sleep(short) // without synchronization with the end of the call
				next(ctx, first).Discard()
			})
			return next(ctx, second)
		}, nil
	})
	var ends []int
	u := newUpstream(t, pillion.Listener(func(_ context.Context, e policy.Event) {
		if e.Kind == policy.EventEnd {
			ends = append(ends, e.Call.Attempt())
		}
	}), ranked{late, policy.Hedges})
	var attempts atomic.Int32
	if _, err := pillion.Do(t.Context(), u, func(context.Context) (int32, error) { return attempts.Add(1), nil }); err != nil {
		t.Error(err)
	}
	running.Wait()
	if len(ends) != 1 || ends[0] != 1 || attempts.Load() != 2 {
		t.Errorf("got ends %v and %d attempts, want one end and 2 attempts", ends, attempts.Load())
	}
}

// ranked is a policy with a rank.
type ranked struct {
	pillion.Policy
	rank policy.Rank
}

func (r ranked) Place() policy.Place { return policy.Place{Rank: r.rank} }

// contest is a server that numbers its requests, and a client that hedges.
type contest struct {
	client  *http.Client
	url     string
	conns   *tally
	running sync.WaitGroup
	breaker *breaker.Breaker
}

func newContest(t *testing.T, delay time.Duration, handler func(n int64, w http.ResponseWriter, r *http.Request)) *contest {
	t.Helper()
	wantNoLeaks(t)
	var requests atomic.Int64
	server, conns := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err == nil && string(body) != "order" {
			t.Errorf("request body: got %q, want each attempt to have its own", body)
		}
		handler(requests.Add(1), w, r)
	})
	b, err := breaker.New(breaker.Config{Threshold: breaker.Never})
	if err != nil {
		t.Fatal(err)
	}
	r := &contest{url: server.URL, conns: conns, breaker: b}
	r.client = newClient(t, hedge{delay, &r.running}, limits.Config{}, b)
	return r
}

// call makes one call and reads its response.
func (r *contest) call(ctx context.Context, t *testing.T) (status int, body string, info *pillion.Info, err error) {
	t.Helper()
	ctx, info = pillion.WithInfo(ctx)
	req := newRequest(t, http.MethodPut, r.url, strings.NewReader("order")).WithContext(ctx)
	resp, err := r.client.Do(req)
	if err != nil {
		return 0, "", info, err
	}
	text, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode, string(text), info, err
}

// end waits until nothing is left of all calls.
func (r *contest) end(t *testing.T) {
	t.Helper()
	r.running.Wait()
	r.client.CloseIdleConnections()
	r.conns.wantNone(t)
}

// untilGone is a server that does not respond until its client has disconnected.
func untilGone(r *http.Request) { <-r.Context().Done() }

func TestHedge(t *testing.T) {
	large := strings.Repeat("x", 1<<20)
	tests := []struct {
		name     string
		delay    time.Duration
		handler  func(n int64, w http.ResponseWriter, r *http.Request)
		status   int
		body     string
		attempts int
		breaker  breaker.Status
	}{
		{
			"the first is quick", time.Hour, func(_ int64, w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "soup") },
			200, "soup", 1,
			breaker.Status{Success: 1},
		},
		{"the first hangs", time.Millisecond, func(n int64, w http.ResponseWriter, r *http.Request) {
			if n == 1 {
				untilGone(r)
				return
			}
			_, _ = io.WriteString(w, large)
		}, 200, large, 2, breaker.Status{Success: 1}},
		{"the first fails", time.Hour, func(n int64, w http.ResponseWriter, _ *http.Request) {
			if n == 1 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			_, _ = io.WriteString(w, "soup")
		}, 200, "soup", 2, breaker.Status{Success: 1, Failure: 1}},
		{"both fail", time.Hour, func(n int64, w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = fmt.Fprint(w, n)
		}, 503, "2", 2, breaker.Status{Failure: 2}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := newContest(t, test.delay, test.handler)
			status, body, info, err := r.call(bounded(t), t)
			if err != nil || status != test.status || body != test.body {
				t.Errorf("got %d, %d bytes, %v, want %d, %d bytes", status, len(body), err, test.status, len(test.body))
			}
			if info.Attempts() != test.attempts || !info.Done() || info.Code() != test.status {
				t.Errorf("got %d attempts, %d, done %v, want %d, %d, true", info.Attempts(), info.Code(), info.Done(), test.attempts, test.status)
			}
			r.end(t)
			if got := r.breaker.Status(); got != test.breaker {
				t.Errorf("breaker: got %+v, want %+v: the loser is no failure", got, test.breaker)
			}
		})
	}
}

// TestHedge_loserResponds pins that the loser's response is discarded if it arrives together with
// the winner's.
func TestHedge_loserResponds(t *testing.T) {
	both := make(chan struct{})
	r := newContest(t, time.Millisecond, func(n int64, w http.ResponseWriter, r *http.Request) {
		if n == 2 {
			close(both)
		}
		select {
		case <-both:
		case <-r.Context().Done():
		}
		_, _ = io.WriteString(w, strings.Repeat("x", 100<<10))
	})
	if status, body, info, err := r.call(bounded(t), t); err != nil || status != 200 || len(body) != 100<<10 || info.Attempts() != 2 {
		t.Errorf("got %d, %d bytes, %v after %d attempts, want one complete response after 2", status, len(body), err, info.Attempts())
	}
	r.end(t)
}

// TestHedge_callerLeaves cancels the caller while both attempts are running.
func TestHedge_callerLeaves(t *testing.T) {
	ctx, leave := context.WithCancel(bounded(t))
	r := newContest(t, time.Millisecond, func(n int64, _ http.ResponseWriter, r *http.Request) {
		if n == 2 {
			leave()
		}
		untilGone(r)
	})
	_, _, info, err := r.call(ctx, t)
	if !errors.Is(err, context.Canceled) || !info.Done() || info.Attempts() != 2 {
		t.Errorf("got %v, done %v after %d attempts, want the caller's leaving after 2", err, info.Done(), info.Attempts())
	}
	r.end(t)
	if got := r.breaker.Status(); got != (breaker.Status{}) {
		t.Errorf("breaker: got %+v, want nothing for the caller's leaving", got)
	}
}

// TestHedge_crowd makes many hedged calls concurrently; half of the first attempts hang.
func TestHedge_crowd(t *testing.T) {
	r := newContest(t, time.Millisecond, func(n int64, w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Hang") != "" && n%2 == 0 {
			untilGone(r)
			return
		}
		_, _ = io.WriteString(w, "soup")
	})
	var callers sync.WaitGroup
	for range 10 {
		callers.Go(func() {
			for range 10 {
				status, body, info, err := r.call(bounded(t), t)
				if err != nil || status != 200 || body != "soup" || !info.Done() {
					t.Errorf("got %d %q, %v, done %v, want soup", status, body, err, info.Done())
				}
			}
		})
	}
	callers.Wait()
	r.end(t)
}

// TestHedge_order pins that a hedge has a Place like a retry policy.
func TestHedge_order(t *testing.T) {
	if _, err := pillion.New("recipes", limits.Config{}, hedge{}); err == nil {
		t.Error("got no error for limits outside a hedge")
	}
}

// TestHedge_endpoint reads the endpoint of the first attempt in a policy outside a hedge, when the
// second attempt has won and the first has not been sent yet. It is for the race detector.
func TestHedge_endpoint(t *testing.T) {
	var running sync.WaitGroup
	u := newUpstream(t,
		atEnd(func(c *policy.Call, _ *policy.Outcome) { _ = c.Endpoint() }),
		hedge{time.Microsecond, &running},
		before(func(c *policy.Call) {
			if c.Attempt() == 1 {
				time.Sleep(time.Millisecond)
			}
		}),
		pillion.Listener(func(context.Context, policy.Event) {}),
	)
	for range 20 {
		resp, err := u.Transport(answers(http.StatusOK, "soup")).RoundTrip(get(t.Context(), t))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	running.Wait()
}
