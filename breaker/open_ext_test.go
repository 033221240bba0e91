package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/internal/raceflag"
)

func TestOpenError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUpstream(t, breaker.Config{NonBreakCount: 6, Sleep: time.Minute})
		for _, base := range []roundTrip{
			broken(errors.New("forgotten")), text(http.StatusOK), text(http.StatusBadGateway), broken(errBoom), answer(http.StatusNotFound),
		} {
			time.Sleep(time.Second)
			_ = get(t, u, base)
		}
		_, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 0, context.DeadlineExceeded })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got error %v, want %v", err, context.DeadlineExceeded)
		}
		opened := time.Now()

		client := &http.Client{Transport: u.Transport(answer(http.StatusOK))} // wraps the error again
		resp, err := client.Do(newRequest(t.Context(), t))
		if err == nil {
			_ = resp.Body.Close()
			t.Fatal("got no error, want a refusal")
		}
		if !errors.Is(err, breaker.ErrOpen) {
			t.Errorf("got error %v, want one that is ErrOpen", err)
		}
		var got *breaker.OpenError
		if !errors.As(err, &got) {
			t.Fatalf("got error %v, want an OpenError", err)
		}
		if got.Name != "recipes" {
			t.Errorf("got name %q, want that of the upstream", got.Name)
		}
		if want := opened.Add(time.Minute); !got.Until.Equal(want) {
			t.Errorf("got until %v, want %v", got.Until, want)
		}
		if want := (breaker.Status{Success: 2, Failure: 3, Timeout: 1}); got.Status != want {
			t.Errorf("got status %+v, want %+v", got.Status, want)
		}
		wantLast := []breaker.Failed{
			{At: opened, Result: breaker.Timeout, Err: context.DeadlineExceeded},
			{At: opened.Add(-time.Second), Result: breaker.Failure, Err: errBoom},
			{At: opened.Add(-2 * time.Second), Result: breaker.Failure, Code: http.StatusBadGateway},
		}
		if !slices.EqualFunc(got.Last, wantLast, sameFailure) {
			t.Errorf("got last failures %v, want %v", got.Last, wantLast)
		}
		want := "breaker: recipes: circuit open until " + got.Until.Format("15:04:05.000") +
			": 3 failures and 1 timeouts beside 2 successes; last: context deadline exceeded; " + got.Last[1].Err.Error() + "; status 502"
		if got.Error() != want {
			t.Errorf("got text  %s\nwant text %s", got, want)
		}
	})
}

func sameFailure(got, want breaker.Failed) bool {
	return got.At.Equal(want.At) && got.Result == want.Result && got.Code == want.Code && errors.Is(got.Err, want.Err)
}

func TestOpenError_texts(t *testing.T) {
	until := time.Date(2024, time.May, 6, 7, 8, 9, 10e6, time.UTC)
	tests := map[string]struct {
		err  breaker.OpenError
		want string
	}{
		"nothing counted":   {breaker.OpenError{Name: "a", Until: until}, "breaker: a: circuit open until 07:08:09.010: 0 failures and 0 timeouts beside 0 successes"},
		"of no name":        {breaker.OpenError{Until: until}, "breaker: circuit open until 07:08:09.010: 0 failures and 0 timeouts beside 0 successes"},
		"of another engine": {breaker.OpenError{Name: "a", Err: errBoom}, "breaker: a: circuit open: boom"},
		"only counted": {
			breaker.OpenError{Name: "a", Until: until, Status: breaker.Status{Timeout: 1}, Last: []breaker.Failed{{Result: breaker.Timeout}}},
			"breaker: a: circuit open until 07:08:09.010: 0 failures and 1 timeouts beside 0 successes; last: timeout",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := tt.err.Error(); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// TestOpenError_oncePerOpening checks that all calls get the same error until the next trial is
// admitted.
func TestOpenError_oncePerOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{NonBreakCount: 2, Sleep: time.Second})
		u := newUpstream(t, b)
		refused := func() *breaker.OpenError {
			t.Helper()
			first := refusalOf(t, b)
			for range 3 {
				time.Sleep(10 * time.Millisecond)
				err := get(t, u, answer(http.StatusOK))
				if got, ok := errors.AsType[*breaker.OpenError](err); !ok || got != first {
					t.Errorf("got error %v (%p), want the one of this opening, %v (%p)", err, got, first, first)
				}
			}
			return first
		}
		open(t, b, 2)
		first := refused()
		time.Sleep(time.Second)
		trial := time.Now()
		_ = get(t, u, answer(http.StatusInternalServerError))
		second := refused()
		if second == first {
			t.Error("got the error of the opening after a trial, want another one")
		}
		if want := trial.Add(time.Second); !second.Until.Equal(want) {
			t.Errorf("got until %v after a trial, want %v", second.Until, want)
		}
		if want := (breaker.Status{Failure: 3, Break: 4}); first.Status.Failure != 2 || second.Status.Failure != want.Failure {
			t.Errorf("got status %+v and then %+v, want 2 and then %d failures", first.Status, second.Status, want.Failure)
		}
		b.ResetStatus()
		open(t, b, 2)
		if third := refused(); third == second || third == first {
			t.Error("got the error of an earlier opening, want another one")
		}
	})
}

// TestOpenError_afterTheWindow checks a circuit that is still open when the failures that opened
// it have left the window: the counters are current, and Last still has the failures.
func TestOpenError_afterTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{NonBreakCount: 2})
		open(t, b, 2)
		time.Sleep(time.Minute)
		ticket, err := b.Admit()
		if err != nil || !ticket.Trial() {
			t.Fatalf("got trial %t, error %v, want a trial", ticket.Trial(), err)
		}
		ticket.Done(breaker.Ignored, context.Canceled)
		if got := refusalOf(t, b); got.Status != (breaker.Status{}) || len(got.Last) != 2 {
			t.Errorf("got status %+v and last failures %v, want nothing counted and the two that opened it", got.Status, got.Last)
		}
	})
}

// TestOpenError_lastOfThisOpening checks that Last has no failures from before a closing.
func TestOpenError_lastOfThisOpening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{NonBreakCount: 1})
		open(t, b, 1)
		time.Sleep(time.Hour)
		ticket, err := b.Admit()
		if err != nil || !ticket.Trial() {
			t.Fatalf("got trial %t, error %v, want a trial", ticket.Trial(), err)
		}
		ticket.Done(breaker.Success, nil)
		again := errors.New("again")
		late, err := b.Admit()
		if err != nil {
			t.Fatal(err)
		}
		b.Record(breaker.Failure)
		late.Done(breaker.Failure, again)
		if got := refusalOf(t, b).Last; len(got) != 2 || !errors.Is(got[0].Err, again) || got[1].Err != nil {
			t.Errorf("got last failures %v, want only %v and the recorded one", got, again)
		}
	})
}

// TestOpenError_forEver uses a sleep so long that adding any Duration overflows.
func TestOpenError_forEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{NonBreakCount: 1, Sleep: math.MaxInt64})
		time.Sleep(time.Minute)
		refusal := open(t, b, 1)
		if got, want := refusal.Until, time.Now().Add(math.MaxInt64).Round(0); !got.Equal(want) {
			t.Errorf("got until %v, want %v", got, want)
		}
		time.Sleep(1000 * time.Hour)
		if again := refusalOf(t, b); again != refusal {
			t.Errorf("got error %v later, want the same", again)
		}
	})
}

// TestAllocations checks that calls through a breaker do not allocate.
func TestAllocations(t *testing.T) {
	clean, failing, closed := newBreaker(t, breaker.Config{}), newBreaker(t, breaker.Config{}), newBreaker(t, breaker.Config{NonBreakCount: 1})
	for range 11 { // no longer harmless: calls read the clock
		failing.Record(breaker.Failure)
	}
	open(t, closed, 1)
	shut := newBreaker(t, breaker.Config{NonBreakCount: 1, Sleep: math.MaxInt64})
	open(t, shut, 1)

	resp := &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}
	base := roundTrip(func(*http.Request) (*http.Response, error) { return resp, nil })
	req := newRequest(t.Context(), t)
	through := func(policies ...pillion.Policy) func() {
		transport := newUpstream(t, policies...).Transport(base)
		return func() { _, _ = transport.RoundTrip(req) }
	}
	byHand := func(b *breaker.Breaker, r breaker.Result, err error) func() {
		return func() {
			if ticket, refusal := b.Admit(); refusal == nil {
				ticket.Done(r, err)
			}
		}
	}
	group, err := breaker.NewGroup(breaker.GroupConfig{})
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		call     func()
		upstream bool
	}{
		"by hand":                {call: byHand(clean, breaker.Success, nil)},
		"by hand, some failures": {call: byHand(failing, breaker.Success, nil)},
		"by hand, failing":       {call: byHand(newBreaker(t, breaker.Config{Threshold: breaker.Never}), breaker.Failure, errBoom)},
		"by hand, refused":       {call: byHand(shut, breaker.Success, nil)},
		"upstream":               {call: through(clean), upstream: true},
		"upstream, failures":     {call: through(failing), upstream: true},
		"upstream, refused":      {call: through(shut), upstream: true},
		"group":                  {call: through(group), upstream: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if tt.upstream && raceflag.Enabled {
				t.Skip("the race detector makes pools drop their contents")
			}
			if got := testing.AllocsPerRun(200, tt.call); got != 0 {
				t.Errorf("got %v allocations, want none", got)
			}
		})
	}
}

// TestTicket uses Admit and Done.
func TestTicket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{Name: "hand", NonBreakCount: 2})
		for i := range 2 {
			ticket, err := b.Admit()
			if err != nil || ticket.Trial() {
				t.Fatalf("call %d: got trial %t, error %v, want an admitted call that is no trial", i, ticket.Trial(), err)
			}
			ticket.Done(breaker.Failure, fmt.Errorf("call %d: %w", i, errBoom))
		}
		wantState(t, b, breaker.Closed) // it is checked only before a call
		refusal := refusalOf(t, b)
		wantState(t, b, breaker.Open)
		if !errors.Is(refusal.Last[0].Err, errBoom) || errors.Is(refusal, errBoom) {
			t.Errorf("got refusal %v, want one that mentions %v and does not unwrap to it", refusal, errBoom)
		}
		wantStatus(t, b, breaker.Status{Failure: 2}) // the caller counts refusals
		b.Record(breaker.Break)
		b.Record(breaker.Ignored)
		wantStatus(t, b, breaker.Status{Failure: 2, Break: 1})

		time.Sleep(breaker.DefaultSleep + 1)
		ticket, err := b.Admit()
		if err != nil || !ticket.Trial() {
			t.Fatalf("got trial %t, error %v, want a trial", ticket.Trial(), err)
		}
		ticket.Done(breaker.Success, nil)
		wantState(t, b, breaker.Closed)
		wantStatus(t, b, breaker.Status{Success: 1})
		b.ResetStatus()
		wantStatus(t, b, breaker.Status{})
	})
}

// TestOpenError_repeated describes a failure that is repeated once.
func TestOpenError_repeated(t *testing.T) {
	reset, timedOut, status := breaker.Failed{Err: errBoom}, breaker.Failed{Result: breaker.Timeout}, breaker.Failed{Code: 502}
	for want, last := range map[string][]breaker.Failed{
		"boom":                      {reset},
		"3 times boom":              {reset, reset, reset},
		"2 times boom; timeout":     {reset, reset, timedOut},
		"timeout; 2 times boom":     {timedOut, reset, reset},
		"boom; status 502; boom":    {reset, status, reset},
		"status 502; boom; timeout": {status, reset, timedOut},
	} {
		err := breaker.OpenError{Name: "a", Last: last}
		if _, got, _ := strings.Cut(err.Error(), "; last: "); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
