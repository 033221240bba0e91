package policy

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
)

// TestCancellation_model compares a context that is made late with one that is made immediately, in
// random scripts. Whether and when something waits must not change what the context reports.
func TestCancellation_model(t *testing.T) {
	errLimit := &TimeoutError{Scope: ScopeTotal}
	for seed := range uint64(2000) {
		errParent := []error{errors.New("parent"), &TimeoutError{Scope: ScopeCaller}}[seed%2]
		rng := rand.New(rand.NewPCG(seed, 0))
		parent, leave := context.WithCancelCause(t.Context())
		eager, cancel := context.WithCancelCause(parent)
		late := &attemptContext{own: &StreamLimits{cancellation: cancellation{parent: parent}}}
		model := &attemptContext{own: &StreamLimits{cancellation: cancellation{parent: parent}}}
		model.own.made.Store(&cancelable{eager, cancel})
		for range 8 {
			step := rng.IntN(6)
			switch step {
			case 0:
				leave(errParent)
			case 1:
				late.own.cancel(errLimit)
				cancel(errLimit)
			case 2:
				late.own.end()
				cancel(errEnded)
			case 3:
				if got, want := isClosed(late.Done()), isClosed(model.Done()); got != want {
					t.Fatalf("seed %d: done is %v, want %v", seed, got, want)
				}
			default:
			}
			if got, want := context.Cause(late), context.Cause(model); got != want { //nolint:errorlint // the same one
				t.Fatalf("seed %d: after step %d the cause is %v, want %v", seed, step, got, want)
			}
			if got, want := late.Err(), model.Err(); !errors.Is(got, want) || got == nil && want != nil {
				t.Fatalf("seed %d: after step %d the error is %v, want %v", seed, step, got, want)
			}
		}
		leave(nil)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// TestCancellation_isMadeLate pins that only a wait, or an end with a cause, makes the context.
func TestCancellation_isMadeLate(t *testing.T) {
	type key struct{}
	parent := context.WithValue(t.Context(), key{}, "mine")
	tests := []struct {
		name string
		use  func(*attemptContext)
		made bool
	}{
		{"its error", func(g *attemptContext) { _ = g.Err() }, false},
		{"a value", func(g *attemptContext) { _ = g.Value(key{}) }, false},
		{"a value added", func(g *attemptContext) { _ = context.WithValue(g, key{}, 2) }, false},
		{"its end", func(g *attemptContext) { g.own.end(); _ = g.Err() }, false},
		{"a wait", func(g *attemptContext) { _ = g.Done() }, true},
		{"a child", func(g *attemptContext) { _, cancel := context.WithCancel(g); cancel() }, true},
		{"a cause", func(g *attemptContext) { g.own.cancel(errEnded) }, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			g := &attemptContext{own: &StreamLimits{cancellation: cancellation{parent: parent}}}
			test.use(g)
			made := g.own.made.Load()
			if made := made != nil && made != over; made != test.made {
				t.Errorf("it has been made: %v, want %v", made, test.made)
			}
			if got := g.Value(key{}); got != "mine" {
				t.Errorf("its value is %v, want that of its parent", got)
			}
			g.own.end()
		})
	}
}

// TestCancellation_race makes and ends contexts concurrently: each that was waited for must end.
func TestCancellation_race(t *testing.T) {
	for range 2000 {
		g := &attemptContext{own: &StreamLimits{cancellation: cancellation{parent: context.Background()}}}
		waits := make(chan (<-chan struct{}), 2)
		for range 2 {
			go func() { waits <- g.Done() }()
		}
		g.own.end()
		first, second := <-waits, <-waits
		if <-first; first != second {
			t.Fatal("two waits have different channels")
		}
	}
}
