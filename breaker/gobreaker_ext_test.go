package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/limits"
)

type (
	plain   = gobreaker.CircuitBreaker[*http.Response]
	twoStep = gobreaker.TwoStepCircuitBreaker[*http.Response]
)

// engines makes a Breaker of each kind of gobreaker.
var engines = map[string]func(*testing.T, gobreaker.Settings) *breaker.Breaker{
	"plain": func(t *testing.T, s gobreaker.Settings) *breaker.Breaker {
		t.Helper()
		return fromGobreaker(t)(breaker.FromGobreaker[*http.Response](gobreaker.NewCircuitBreaker[*http.Response](s)))
	},
	"two-step": func(t *testing.T, s gobreaker.Settings) *breaker.Breaker {
		t.Helper()
		return fromGobreaker(t)(breaker.FromGobreaker[*http.Response](gobreaker.NewTwoStepCircuitBreaker[*http.Response](s)))
	},
}

func fromGobreaker(t *testing.T) func(*breaker.Breaker, error) *breaker.Breaker {
	t.Helper()
	return func(b *breaker.Breaker, err error) *breaker.Breaker {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

// engineCase is a test with one kind of gobreaker.
type engineCase struct {
	*testing.T
	kind string
}

func (c engineCase) engine(s gobreaker.Settings) *breaker.Breaker {
	c.Helper()
	return engines[c.kind](c.T, s)
}

// eachEngine runs a test in a bubble for each kind of gobreaker.
func eachEngine(t *testing.T, test func(engineCase)) {
	t.Helper()
	for kind := range engines {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(engineCase{t, kind}) })
		})
	}
}

// settings returns the gobreaker settings for cfg.
func settings(t *testing.T, cfg breaker.Config) gobreaker.Settings {
	t.Helper()
	s, err := breaker.GobreakerSettings(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFromGobreaker_nil(t *testing.T) {
	_, one := breaker.FromGobreaker[*http.Response]((*plain)(nil))
	_, two := breaker.FromGobreaker[*http.Response]((*twoStep)(nil))
	for _, err := range []error{one, two} {
		if err == nil || err.Error() != "breaker: FromGobreaker: the gobreaker is nil" {
			t.Errorf("got error %v, want one that says so", err)
		}
	}
}

func TestFromGobreaker(t *testing.T) {
	eachEngine(t, func(c engineCase) {
		t, engine := c.T, c.engine
		// The default of a gobreaker: it opens at the sixth failure in a row, for 60s.
		b := engine(gobreaker.Settings{Name: "own"})
		u := newUpstream(t, b)
		for range 6 {
			wantState(t, b, breaker.Closed)
			if err := get(t, u, text(http.StatusBadGateway)); err != nil {
				t.Fatal(err)
			}
		}
		wantState(t, b, breaker.Open)
		err := get(t, u, answer(http.StatusOK))
		refusal, ok := errors.AsType[*breaker.OpenError](err)
		if !ok || !errors.Is(err, breaker.ErrOpen) || !errors.Is(err, gobreaker.ErrOpenState) {
			t.Fatalf("got error %v, want an OpenError that is ErrOpen and %v", err, gobreaker.ErrOpenState)
		}
		if refusal.Name != "own" || !refusal.Until.IsZero() || refusal.Status != (breaker.Status{Failure: 6, Break: 1}) {
			t.Errorf("got refusal %+v, want the gobreaker's name, no Until, and the counters", refusal)
		}
		if want := "breaker: own: circuit open: circuit breaker is open"; err.Error() != want {
			t.Errorf("got text %s, want %s", err, want)
		}

		time.Sleep(time.Minute + 1)
		wantState(t, b, breaker.HalfOpen)
		if err := get(t, u, text(http.StatusOK)); err != nil {
			t.Errorf("got error %v for a trial, want none", err)
		}
		wantState(t, b, breaker.Closed)
		wantStatus(t, b, breaker.Status{Success: 1}) // earlier results have left the window

		b.Record(breaker.Dependency)
		b.Record(breaker.Ignored)
		wantStatus(t, b, breaker.Status{Success: 1, Dependency: 1})
		b.ResetStatus()
		wantStatus(t, b, breaker.Status{})
	})
}

// TestFromGobreaker_whenJudged checks that a plain gobreaker counts at the response headers, and
// a two-step one at the end.
func TestFromGobreaker_whenJudged(t *testing.T) {
	eachEngine(t, func(c engineCase) {
		t, engine := c.T, c.engine
		b := engine(settings(t, breaker.Config{NonBreakCount: 1}))
		resp := begin(t.Context(), t, newUpstream(t, b), stream(http.StatusOK, brokenReader(errBoom)))
		atHead, atEnd := breaker.Status{}, breaker.Status{Failure: 1}
		state := breaker.Open
		if c.kind == "plain" {
			atHead, atEnd = breaker.Status{Success: 1}, breaker.Status{Success: 1}
			state = breaker.Closed
		}
		wantStatus(t, b, atHead)
		readAll(resp, nil)
		wantStatus(t, b, atEnd)
		wantState(t, b, state)
	})
}

func TestFromGobreaker_panicPassesThrough(t *testing.T) {
	eachEngine(t, func(c engineCase) {
		t, engine := c.T, c.engine
		b := engine(settings(t, breaker.Config{NonBreakCount: 1}))
		func() {
			defer func() {
				if got := recover(); got != any(errBoom) {
					t.Errorf("got panic %v, want %v", got, errBoom)
				}
			}()
			_ = get(t, newUpstream(t, b), roundTrip(func(*http.Request) (*http.Response, error) { panic(errBoom) }))
		}()
		wantStatus(t, b, breaker.Status{Failure: 1})
		wantState(t, b, breaker.Open)
	})
}

// TestFromGobreaker_excluded cancels 200 calls. With Excluded neither they nor refusals inside
// the breaker are counted; without it they open the gobreaker.
func TestFromGobreaker_excluded(t *testing.T) {
	cancelled := func(t *testing.T, u *pillion.Upstream) {
		t.Helper()
		for range 200 {
			walkAway(t, u)
		}
	}
	refused := func(t *testing.T, u *pillion.Upstream) {
		t.Helper()
		for range 200 {
			_ = get(t, u, answer(http.StatusOK))
		}
	}
	full := limits.Config{MaxRequests: limits.Zero}
	eachEngine(t, func(c engineCase) {
		t, engine := c.T, c.engine
		with := settings(t, breaker.Config{NonBreakCount: 1})
		without := with
		without.IsExcluded = nil

		b := engine(with)
		cancelled(t, newUpstream(t, b))
		wantState(t, b, breaker.Closed)
		wantStatus(t, b, breaker.Status{})

		refused(t, newUpstream(t, b, full))
		wantState(t, b, breaker.Closed)
		wantStatus(t, b, breaker.Status{Rejection: 200})

		b = engine(without)
		cancelled(t, newUpstream(t, b))
		wantState(t, b, breaker.Open)
		wantStatus(t, b, breaker.Status{Break: 199})

		b = engine(without)
		refused(t, newUpstream(t, b, full))
		wantState(t, b, breaker.Open)
		wantStatus(t, b, breaker.Status{Rejection: 1, Break: 199})
	})
}

// TestFromGobreaker_canceledInTheBody checks calls that are canceled long after the response
// headers, which a two-step gobreaker counts only then.
func TestFromGobreaker_canceledInTheBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := engines["two-step"](t, settings(t, breaker.Config{NonBreakCount: 1}))
		u := newUpstream(t, b)
		for range 200 {
			ctx, cancel := context.WithCancel(t.Context())
			_ = begin(ctx, t, u, text(http.StatusOK))
			cancel()
			synctest.Wait()
		}
		wantState(t, b, breaker.Closed)
		wantStatus(t, b, breaker.Status{})
	})
}

// TestFromGobreaker_isSuccessful checks that a custom IsSuccessful receives the original error.
func TestFromGobreaker_isSuccessful(t *testing.T) {
	eachEngine(t, func(c engineCase) {
		t, engine := c.T, c.engine
		var seen []error
		s := settings(t, breaker.Config{NonBreakCount: 3, Threshold: 1})
		s.IsSuccessful = func(err error) bool {
			seen = append(seen, err)
			status, ok := errors.AsType[*pillion.StatusError](err)
			return err == nil || ok && status.Code == http.StatusNotImplemented
		}
		b := engine(s)
		u := newUpstream(t, b)
		for range 10 {
			_ = get(t, u, text(http.StatusNotImplemented))
		}
		wantState(t, b, breaker.Closed)
		_ = get(t, u, answer(http.StatusOK))
		_ = get(t, u, broken(errBoom))
		_, _ = pillion.Do(t.Context(), u, func(context.Context) (any, error) { return nil, context.DeadlineExceeded })
		if len(seen) != 13 {
			t.Fatalf("got %d errors, want one for each of 13 calls", len(seen))
		}
		if got, want := seen[0].Error(), "upstream responded with status 501"; got != want {
			t.Errorf("got text %q, want %q", got, want)
		}
		if seen[10] != nil {
			t.Errorf("got error %v for a good call, want none", seen[10])
		}
		if _, ok := errors.AsType[*pillion.UpstreamError](seen[11]); !ok || !errors.Is(seen[11], errBoom) {
			t.Errorf("got error %v, want an UpstreamError around %v", seen[11], errBoom)
		}
		if !errors.Is(seen[12], context.DeadlineExceeded) {
			t.Errorf("got error %v, want %v", seen[12], context.DeadlineExceeded)
		}
	})
}

// TestFromGobreaker_halfOpen checks that one trial runs at a time.
func TestFromGobreaker_halfOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := engines["two-step"](t, settings(t, breaker.Config{NonBreakCount: 1, Sleep: time.Second}))
		u := newUpstream(t, b)
		_ = get(t, u, broken(errBoom))
		time.Sleep(time.Second + 1)
		resp := begin(t.Context(), t, u, text(http.StatusOK))
		time.Sleep(time.Hour)
		if err := get(t, u, answer(http.StatusOK)); !errors.Is(err, gobreaker.ErrTooManyRequests) || !errors.Is(err, breaker.ErrOpen) {
			t.Errorf("got error %v beside a trial, want one that is ErrOpen and %v", err, gobreaker.ErrTooManyRequests)
		}
		readAll(resp, nil)
		wantState(t, b, breaker.Closed)
	})
}

func TestFromGobreaker_byHand(t *testing.T) {
	t.Run("two-step", func(t *testing.T) {
		b := engines["two-step"](t, gobreaker.Settings{})
		for range 6 {
			ticket, err := b.Admit()
			if err != nil || ticket.Trial() {
				t.Fatalf("got trial %t, error %v, want an admitted call that is no trial", ticket.Trial(), err)
			}
			ticket.Done(breaker.Timeout, errBoom)
		}
		if refusal := refusalOf(t, b); !errors.Is(refusal, gobreaker.ErrOpenState) {
			t.Errorf("got refusal %v, want one that is %v", refusal, gobreaker.ErrOpenState)
		}
		wantStatus(t, b, breaker.Status{Timeout: 6})
	})
	t.Run("plain", func(t *testing.T) {
		b := engines["plain"](t, gobreaker.Settings{})
		_, err := b.Admit()
		if want := "breaker: a plain gobreaker has no Admit; use a two-step gobreaker"; err == nil || !errors.Is(err, breaker.ErrOpen) ||
			errors.Unwrap(err) == nil || errors.Unwrap(err).Error() != want {
			t.Errorf("got error %v, want one that is ErrOpen around %s", err, want)
		}
	})
}

// TestFromGobreaker_shared makes concurrent calls to two upstreams guarded by one gobreaker.
func TestFromGobreaker_shared(t *testing.T) {
	eachEngine(t, func(c engineCase) {
		t, engine := c.T, c.engine
		b := engine(gobreaker.Settings{ReadyToTrip: func(gobreaker.Counts) bool { return false }})
		one, two := newUpstream(t, b), newUpstream(t, b)
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for range 50 {
					_ = get(t, one, text(http.StatusOK))
					_ = get(t, two, text(http.StatusBadGateway))
				}
			})
		}
		wg.Wait()
		wantStatus(t, b, breaker.Status{Success: 800, Failure: 800})
	})
}

func TestExcluded(t *testing.T) {
	tests := map[string]struct {
		err  error
		want bool
	}{
		"none":                 {nil, false},
		"failure":              {errBoom, false},
		"timeout":              {context.DeadlineExceeded, false},
		"cancelled":            {context.Canceled, true},
		"canceled, wrapped":    {fmt.Errorf("call: %w", context.Canceled), true},
		"refused by a breaker": {&breaker.OpenError{}, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := breaker.Excluded(tt.err); got != tt.want {
				t.Errorf("got %t for %v, want %t", got, tt.err, tt.want)
			}
		})
	}
}

// TestGobreakerSettings checks that a gobreaker follows a Config as closely as it can.
func TestGobreakerSettings(t *testing.T) {
	eachEngine(t, func(c engineCase) {
		t, engine := c.T, c.engine
		b := engine(settings(t, breaker.Config{Threshold: 0.25, NonBreakCount: 8, Sleep: 3 * time.Second, Period: 20 * time.Second}))
		u := newUpstream(t, b)
		good, bad := text(http.StatusOK), text(http.StatusBadGateway)
		_ = get(t, u, bad)
		_ = get(t, u, bad)
		time.Sleep(20 * time.Second) // these leave the window
		for range 6 {
			_ = get(t, u, good)
		}
		_ = get(t, u, bad)
		for range 5 { // not part of the volume
			walkAway(t, u)
		}
		wantState(t, b, breaker.Closed)
		_ = get(t, u, bad) // the volume and the ratio are reached
		wantState(t, b, breaker.Open)
		time.Sleep(3 * time.Second)
		wantState(t, b, breaker.Open)
		time.Sleep(time.Nanosecond)
		wantState(t, b, breaker.HalfOpen)
		_ = get(t, u, bad)
		wantState(t, b, breaker.Open)
		time.Sleep(3*time.Second + 1)
		_ = get(t, u, good)
		wantState(t, b, breaker.Closed)
	})
}

func TestGobreakerSettings_fields(t *testing.T) {
	tests := map[string]struct {
		cfg                       breaker.Config
		interval, bucket, timeout time.Duration
	}{
		"defaults":          {breaker.Config{}, 10 * time.Second, time.Second, time.Second},
		"no sleep":          {breaker.Config{Sleep: breaker.Zero}, 10 * time.Second, time.Second, 1},
		"period rounded up": {breaker.Config{Period: time.Second + 1}, time.Second + 10, time.Second/10 + 1, time.Second},
		"longest":           {breaker.Config{Period: math.MaxInt64}, math.MaxInt64/2 + 7, math.MaxInt64/20 + 1, time.Second},
		"smallest":          {breaker.Config{Period: time.Millisecond + 9}, time.Millisecond + 10, time.Millisecond/10 + 1, time.Second},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.cfg.Name = name
			got := settings(t, tt.cfg)
			if got.Name != name || got.MaxRequests != 1 {
				t.Errorf("got name %q and %d trials, want %q and 1", got.Name, got.MaxRequests, name)
			}
			gobreaker.NewCircuitBreaker[any](got) // panics on impossible lengths
			if got.Interval != tt.interval || got.BucketPeriod != tt.bucket || got.Timeout != tt.timeout {
				t.Errorf("got interval %v in %v, timeout %v, want %v in %v, %v",
					got.Interval, got.BucketPeriod, got.Timeout, tt.interval, tt.bucket, tt.timeout)
			}
		})
	}
}
