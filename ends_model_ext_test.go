package pillion_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/timeout"
)

// story is one call whose response begins immediately, and everything that may end it. No two ends
// are at the same instant: each kind has its own offset within a tenth of a second.
type story struct {
	arrivals []time.Duration // of the body's pieces, in tenths
	pauses   []time.Duration // of the reader before each piece and before the end, in tenths
	broken   bool            // the body ends with an error
	total    time.Duration   // …37 ms; 0 for no such limit, here and below
	leaves   time.Duration   // …53 ms: the caller cancels
	closes   time.Duration   // …71 ms: another goroutine closes the body
	deadline time.Duration   // …83 ms: the caller's own
	idle     time.Duration   // …11 ms
	hooks    int
	cancel   bool // a policy needs a context for each attempt
}

func newStory(r *rand.Rand) story {
	tenths := func(n int) time.Duration { return time.Duration(r.IntN(n)) * 100 * time.Millisecond }
	maybe := func(ms time.Duration) time.Duration {
		if r.IntN(3) != 0 {
			return 0
		}
		return tenths(30) + ms
	}
	s := story{
		broken: r.IntN(2) == 0, total: maybe(37 * time.Millisecond), leaves: maybe(53 * time.Millisecond), closes: maybe(71 * time.Millisecond), deadline: maybe(83 * time.Millisecond),
		hooks: 1 + r.IntN(6), cancel: r.IntN(2) == 0,
	}
	if r.IntN(2) == 0 {
		s.idle = tenths(8) + 11*time.Millisecond
	}
	for at := time.Duration(0); r.IntN(6) != 0; {
		at += tenths(8)
		s.arrivals = append(s.arrivals, at)
		s.pauses = append(s.pauses, tenths(5))
	}
	s.pauses = append(s.pauses, tenths(5))
	return s
}

// ending is how and when a call ends.
type ending struct {
	at     time.Duration
	is     policy.Condition
	detail *envoy.Detail
	scope  policy.Scope
}

// model returns how and when the call must end: by the earliest of all ends. The end of the context
// of a caller that does not read is noticed by the next read, by Close, when the total timeout
// fires, or at the next tick, which comes 25 ms after each twentieth of a second; after twenty ticks
// it is noticed immediately.
func (s story) model() ending {
	first := s.firstEnd()
	if first.at != s.leaves && first.at != s.deadline || first.at > 975*time.Millisecond {
		return first
	}
	left := first.at
	for first.at = 25 * time.Millisecond; first.at <= left; {
		first.at += 50 * time.Millisecond
	}
	for _, at := range []time.Duration{s.nextRead(left), s.closes, s.total} {
		if at >= left {
			first.at = min(first.at, at)
		}
	}
	return first
}

// nextRead returns when the reader notices that the caller was canceled: immediately if it reads.
func (s story) nextRead(left time.Duration) time.Duration {
	var now time.Duration
	for i, pause := range s.pauses {
		now += pause
		if now >= left {
			return now
		}
		if i < len(s.arrivals) {
			if now = max(now, s.arrivals[i]); now > left {
				return left
			}
		}
	}
	return never
}

func (s story) firstEnd() ending {
	var now time.Duration
	first := ending{at: never}
	earlier := func(e ending) {
		if e.at != 0 && e.at < first.at {
			first = e
		}
	}
	silent := false
	for i, at := range s.arrivals {
		now += s.pauses[i]
		if silent = s.idle != 0 && now+s.idle < at; silent {
			earlier(ending{now + s.idle, policy.Timeout | policy.PerTryTimeout, envoy.PerTryIdleTimeout, policy.ScopeIdle})
			break
		}
		now = max(now, at)
	}
	switch now = max(now+s.pauses[len(s.arrivals)], 1); {
	case silent:
	case s.broken:
		earlier(ending{now, policy.ProtocolError | policy.Reset, envoy.MalformedResponseAfter, 0})
	default:
		earlier(ending{at: now, detail: envoy.ViaUpstream})
	}
	earlier(ending{s.total, policy.Timeout, envoy.ResponseTimeout, policy.ScopeTotal})
	earlier(ending{s.deadline, policy.Timeout, envoy.ResponseTimeout, policy.ScopeCaller})
	earlier(ending{s.leaves, policy.Cancelled, envoy.CallerGone, 0})
	earlier(ending{s.closes, 0, envoy.ViaUpstream, 0})
	return first
}

func (s story) upstream(t *testing.T, order *journal, end chan<- policy.Outcome) *pillion.Upstream {
	t.Helper()
	policies := []pillion.Policy{timeout.Config{Total: timeout.Unlimited, Idle: s.idle}}
	if s.total != 0 {
		policies = append(policies, timeout.Config{Total: s.total})
	}
	if s.cancel {
		policies = append(policies, needCancel)
	}
	policies = append(policies, numbered(order, s.hooks)...)
	return newUpstream(t, append(policies, atEnd(func(_ *policy.Call, o *policy.Outcome) { end <- *o }))...)
}

// play plays the story, and returns its end and the reader's error.
func (s story) play(t *testing.T, u *pillion.Upstream, made time.Time, end <-chan policy.Outcome) (got ending, told error) {
	t.Helper()
	const tick = 50 * time.Millisecond
	time.Sleep(tick + tick/2 - time.Since(made)%tick) // ticks are apart from all ends
	began := time.Now()
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	if s.deadline != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.deadline)
		defer cancel()
	}
	var sent *http.Request
	resp, err := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
		sent = req
		body := newTape(req.Context(), io.EOF)
		if s.broken {
			body.err = io.ErrUnexpectedEOF
		}
		for _, at := range s.arrivals {
			body.pieces = append(body.pieces, piece{began.Add(at), "x"})
		}
		return streams(body)(req)
	})).RoundTrip(get(ctx, t))
	if err != nil {
		t.Fatal(err)
	}
	if s.leaves != 0 {
		defer time.AfterFunc(s.leaves, leave).Stop()
	}
	if s.closes != 0 {
		defer time.AfterFunc(s.closes, func() { _ = resp.Body.Close() }).Stop()
	}
	readerEnds := make(chan error, 1)
	go func() {
		for i := 0; ; i = min(i+1, len(s.pauses)-1) {
			time.Sleep(s.pauses[i])
			if _, err := resp.Body.Read(make([]byte, 1)); err != nil {
				readerEnds <- err
				return
			}
		}
	}()
	o := <-end
	got = ending{at: time.Since(began), is: o.Conditions, detail: o.Detail, scope: scopeOf(o.Err)}
	synctest.Wait()
	if sent.Context() != ctx && sent.Context().Err() == nil {
		t.Error("the attempt's context has not ended with the attempt")
	}
	told = <-readerEnds
	_ = resp.Body.Close()
	return got, told
}

// TestEnds_model combines bodies, readers, callers and limits at random, and compares the end that
// policies and readers receive with a model that only looks for the earliest end. Each story is
// played three times over the same upstream, whose timers and calls are reused.
func TestEnds_model(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for seed := range uint64(500) {
			s := newStory(rand.New(rand.NewPCG(seed, 1)))
			want := s.model()
			var order journal
			end := make(chan policy.Outcome, 8)
			made := time.Now()
			u := s.upstream(t, &order, end)
			for range 3 {
				got, told := s.play(t, u, made, end)
				got.at = max(got.at, 1)
				if got != want {
					t.Errorf("seed %d: got %+v, want %+v\n%+v", seed, got, want, s)
				}
				s.checkReader(t, want, told)
			}
			time.Sleep(time.Hour) // long after all limits
			synctest.Wait()
			var thrice []string
			for range 3 {
				thrice = append(thrice, oneTo(s.hooks)...)
			}
			if diff := cmp.Diff(thrice, order.all()); diff != "" || len(end) != 0 {
				t.Errorf("seed %d: hooks (-want +got), %d more ends:\n%s", seed, len(end), diff)
			}
			if t.Failed() {
				return
			}
		}
	})
}

func (s story) checkReader(t *testing.T, want ending, told error) {
	t.Helper()
	ok := true
	switch {
	case want.scope != 0:
		ok = scopeOf(told) == want.scope && errors.Is(told, context.DeadlineExceeded)
	case want.is.Any(policy.Cancelled):
		ok = errors.Is(told, context.Canceled)
	case want.is.Any(policy.Reset):
		_, wrapped := errors.AsType[*pillion.UpstreamError](told)
		ok = wrapped && errors.Is(told, io.ErrUnexpectedEOF)
	case want.at == s.closes: // reading a closed body returns some error
	default:
		ok = told == io.EOF //nolint:errorlint // readers return it bare
	}
	if !ok {
		t.Errorf("the reader got %v, want the error of %s\n%+v", told, fmt.Sprintf("%+v", want), s)
	}
}
