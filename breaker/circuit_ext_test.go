package breaker_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
)

// recorder records the changes that it receives.
type recorder struct {
	mu      sync.Mutex
	changes []breaker.Change // guarded by mu
}

func (r *recorder) tell(c breaker.Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changes = append(r.changes, c)
}

// all checks that each change starts from the state of the previous one, and returns the changes.
func (r *recorder) all(t *testing.T) []breaker.Change {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	state := breaker.Closed
	for i, c := range r.changes {
		if c.From != state || c.To == c.From {
			t.Fatalf("change %d: got %v to %v, want one from %v", i, c.From, c.To, state)
		}
		state = c.To
	}
	return r.changes
}

func TestOnStateChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told recorder
		b := newBreaker(t, breaker.Config{Name: "recipes", NonBreakCount: 2, OnStateChange: told.tell})
		u := newUpstream(t, b)
		failed := time.Now()
		_ = get(t, u, answer(http.StatusBadGateway))
		_ = get(t, u, broken(errBoom))
		if got := told.all(t); len(got) != 0 {
			t.Fatalf("got changes %v after the last failure, want none before the next call", got)
		}
		time.Sleep(time.Second)
		opened := time.Now()
		_ = get(t, u, answer(http.StatusOK))
		_ = get(t, u, answer(http.StatusOK))
		time.Sleep(time.Second + 1)
		_ = get(t, u, text(http.StatusBadGateway)) // a trial that fails changes nothing
		time.Sleep(time.Second + 1)
		closed := time.Now()
		_ = get(t, u, text(http.StatusOK))
		b.ResetStatus() // does nothing on a closed circuit
		open(t, b, 2)
		b.ResetStatus()

		got := told.all(t)
		want := []breaker.Change{
			{From: breaker.Closed, To: breaker.Open, At: opened, Status: breaker.Status{Failure: 2, Break: 1}},
			{From: breaker.Open, To: breaker.Closed, At: closed, Status: breaker.Status{Success: 1}},
			{From: breaker.Closed, To: breaker.Open, At: closed, Status: breaker.Status{Failure: 2}},
			{From: breaker.Open, To: breaker.Closed, At: closed},
		}
		if len(got) != len(want) {
			t.Fatalf("got %d changes, %v, want %d", len(got), got, len(want))
		}
		for i, c := range got {
			w := want[i]
			if c.Name != "recipes" || c.From != w.From || c.To != w.To || !c.At.Equal(w.At) || c.Status != w.Status {
				t.Errorf("change %d: got %+v, want %+v", i, c, w)
			}
			if opening := c.To == breaker.Open; opening != (len(c.Last) == 2) {
				t.Errorf("change %d: got last failures %v, want two at an opening, else none", i, c.Last)
			}
		}
		if last := got[0].Last; !errors.Is(last[0].Err, errBoom) || last[1].Code != http.StatusBadGateway || !last[1].At.Equal(failed) {
			t.Errorf("got last failures %v, want %v and then status 502 at %v", last, errBoom, failed)
		}
	})
}

// TestOnStateChange_mayUseTheBreaker closes the circuit in the callback of its opening: the
// callback of the closing comes after that one, not within it.
func TestOnStateChange_mayUseTheBreaker(t *testing.T) {
	var told recorder
	var b *breaker.Breaker
	within := false
	b = newBreaker(t, breaker.Config{NonBreakCount: 1, OnStateChange: func(c breaker.Change) {
		if within {
			t.Errorf("got the change %v to %v within another change", c.From, c.To)
		}
		within = true
		defer func() { within = false }()
		told.tell(c)
		if c.To == breaker.Open {
			wantState(t, b, breaker.Open)
			wantStatus(t, b, c.Status)
			b.ResetStatus()
		}
		wantState(t, b, breaker.Closed)
	}})
	open(t, b, 1)
	open(t, b, 1)
	if got := len(told.all(t)); got != 4 {
		t.Errorf("got %d changes, want 4", got)
	}
}

// TestOnStateChange_panics checks that a panic propagates to the call that changed the state,
// and that later changes are still reported.
func TestOnStateChange_panics(t *testing.T) {
	var told recorder
	var b *breaker.Breaker
	b = newBreaker(t, breaker.Config{NonBreakCount: 1, OnStateChange: func(c breaker.Change) {
		told.tell(c)
		if len(told.changes) == 1 {
			b.ResetStatus() // must be reported although this callback panics
			panic(errBoom)
		}
	}})
	func() {
		defer func() {
			if got := recover(); got != any(errBoom) {
				t.Errorf("got panic %v, want %v", got, errBoom)
			}
		}()
		open(t, b, 1)
	}()
	if got := len(told.all(t)); got != 2 {
		t.Errorf("got %d changes, want the opening and the closing", got)
	}
	wantState(t, b, breaker.Closed)
	open(t, b, 1)
	b.ResetStatus()
	if got := len(told.all(t)); got != 4 {
		t.Errorf("got %d changes, want 4", got)
	}
}

// TestOnStateChange_panicInAnUpstream checks that the panic reaches the refused call, and later
// the trial that closes the circuit.
func TestOnStateChange_panicInAnUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{NonBreakCount: 1, OnStateChange: func(breaker.Change) { panic(errBoom) }})
		u := newUpstream(t, b)
		panicking := func(base roundTrip) {
			t.Helper()
			defer func() {
				if got := recover(); got != any(errBoom) {
					t.Errorf("got panic %v, want %v", got, errBoom)
				}
			}()
			_ = get(t, u, base)
		}
		_ = get(t, u, broken(errBoom))
		panicking(answer(http.StatusOK))
		wantState(t, b, breaker.Open)
		wantStatus(t, b, breaker.Status{Failure: 1, Break: 1})
		time.Sleep(time.Second + 1)
		panicking(answer(http.StatusOK))
		wantState(t, b, breaker.Closed)
		wantStatus(t, b, breaker.Status{Success: 1})
		if err := get(t, u, text(http.StatusOK)); err != nil {
			t.Errorf("got error %v, want none", err)
		}
	})
}

// TestConcurrent uses one breaker from many goroutines. Time does not pass in the bubble, so
// that no result leaves the window.
func TestConcurrent(t *testing.T) {
	const workers, each = 64, 200
	hammer := func(call func(worker, i int)) {
		var wg sync.WaitGroup
		for worker := range workers {
			wg.Go(func() {
				for i := range each {
					call(worker, i)
				}
			})
		}
		wg.Wait()
	}

	t.Run("totals", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBreaker(t, breaker.Config{Threshold: breaker.Never})
			u := newUpstream(t, b)
			hammer(func(_, i int) {
				switch i % 5 {
				case 0:
					_ = get(t, u, answer(http.StatusOK))
				case 1:
					_ = get(t, u, text(http.StatusBadGateway))
				case 2:
					_ = get(t, u, stream(http.StatusOK, brokenReader(io.ErrUnexpectedEOF)))
				case 3:
					ticket, err := b.Admit()
					if err == nil {
						ticket.Done(breaker.Timeout, errBoom)
					}
					_, _ = b.Status(), b.State()
				case 4:
					b.Record(breaker.Result(i % 10 / 5 * int(breaker.Dependency)))
				}
			})
			wantStatus(t, b, breaker.Status{
				Success: workers * each * 3 / 10, Failure: workers * each * 2 / 5, Timeout: workers * each / 5, Dependency: workers * each / 10,
			})
		})
	})

	t.Run("opening", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var told recorder
			var ran, refused atomic.Int64
			b := newBreaker(t, breaker.Config{NonBreakCount: 1000, OnStateChange: told.tell})
			u := newUpstream(t, b)
			var first atomic.Pointer[breaker.OpenError]
			hammer(func(int, int) {
				_, err := pillion.Do(t.Context(), u, func(context.Context) (any, error) {
					ran.Add(1)
					return nil, errBoom
				})
				if refusal, ok := errors.AsType[*breaker.OpenError](err); ok {
					refused.Add(1)
					if !first.CompareAndSwap(nil, refusal) && first.Load() != refusal {
						t.Errorf("got refusal %v, want the same for all, %v", refusal, first.Load())
					}
				}
			})
			if got := ran.Load() + refused.Load(); got != workers*each {
				t.Errorf("got %d calls, want %d", got, workers*each)
			}
			if got := ran.Load(); got < 1000 || got > 1000+workers {
				t.Errorf("got %d calls that ran, want at least 1000 and at most the concurrent ones more", got)
			}
			wantStatus(t, b, breaker.Status{Failure: ran.Load(), Break: refused.Load()})
			if got := len(told.all(t)); got != 1 {
				t.Errorf("got %d changes, want 1", got)
			}
		})
	})

	t.Run("changes", func(t *testing.T) {
		var told recorder
		var within atomic.Int32
		var b *breaker.Breaker
		b = newBreaker(t, breaker.Config{NonBreakCount: 1, Sleep: breaker.Zero, OnStateChange: func(c breaker.Change) {
			if within.Add(1) != 1 {
				t.Error("got two concurrent changes")
			}
			defer within.Add(-1)
			_ = b.State()
			told.tell(c)
		}})
		hammer(func(worker, i int) {
			switch (worker + i) % 4 {
			case 0:
				b.ResetStatus()
			case 1:
				b.Record(breaker.Failure)
			default:
				if ticket, err := b.Admit(); err == nil {
					ticket.Done([]breaker.Result{breaker.Success, breaker.Failure}[i%2], errBoom)
				}
			}
		})
		changes := told.all(t)
		if len(changes) == 0 || changes[len(changes)-1].To != b.State() {
			t.Errorf("got %d changes and state %v, want some that end in it", len(changes), b.State())
		}
	})

	t.Run("one trial", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBreaker(t, breaker.Config{NonBreakCount: 1})
			open(t, b, 1)
			for range 3 {
				time.Sleep(time.Second + 1)
				var ran atomic.Int64
				hammer(func(int, int) {
					if ticket, err := b.Admit(); err == nil {
						ran.Add(1)
						ticket.Done(breaker.Ignored, nil)
					}
				})
				if got := ran.Load(); got != 1 {
					t.Errorf("got %d trials, want 1", got)
				}
			}
		})
	})
}
