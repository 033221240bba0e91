package racing

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/policy"
)

// runs is a policy that starts two attempts and calls itself to choose.
type runs func(r *Race, first, second *policy.Call) *policy.Outcome

func (runs) Place() policy.Place { return policy.Place{Rank: policy.Hedges} }

func (f runs) Wrap(b *policy.Builder, next policy.Func) (policy.Func, error) {
	b.Require(policy.Needs{Cancel: true})
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		r := Start(ctx, next)
		defer r.End()
		second := c.Next()
		r.Run(c)
		r.Run(second)
		return f(r, c, second)
	}, nil
}

// call runs work under the policy.
func call(t *testing.T, f runs, work func(ctx context.Context) (string, error)) (string, error) {
	t.Helper()
	u, err := pillion.New("recipes", f)
	if err != nil {
		t.Fatal(err)
	}
	return pillion.Do(t.Context(), u, work)
}

func receive(r *Race) Result {
	result := <-r.Results()
	r.Received(result)
	return result
}

// TestChoose pins that the other attempt is canceled with a cause, and what Running and Runs report.
func TestChoose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		n, causes := 0, []error{}
		got, err := call(t, func(r *Race, first, second *policy.Call) *policy.Outcome {
			if r.Running() != 2 || !r.Runs(first) || !r.Runs(second) {
				t.Errorf("got %d attempts, want both", r.Running())
			}
			result := receive(r)
			if r.Running() != 1 || r.Runs(result.Call) {
				t.Errorf("got %d attempts after one was received", r.Running())
			}
			o := r.Choose(result)
			select {
			case <-r.over:
			default:
				t.Error("the race is not over")
			}
			return o
		}, func(ctx context.Context) (string, error) {
			mu.Lock()
			n++
			quick := n == 1
			mu.Unlock()
			if quick {
				return "soup", nil
			}
			<-ctx.Done()
			mu.Lock()
			defer mu.Unlock()
			causes = append(causes, context.Cause(ctx))
			return "", ctx.Err()
		})
		synctest.Wait()
		if got != "soup" || err != nil || len(causes) != 1 || !errors.Is(causes[0], errLost) {
			t.Errorf("got %q, %v and causes %v", got, err, causes)
		}
	})
}

// TestDrop pins that another attempt can be chosen after a result was dropped.
func TestDrop(t *testing.T) {
	var mu sync.Mutex
	n := 0
	var want any
	got, err := call(t, func(r *Race, _, _ *policy.Call) *policy.Outcome {
		r.Drop(receive(r), 0)
		chosen := receive(r)
		want = chosen.Outcome.Value
		return r.Choose(chosen)
	}, func(context.Context) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		n++
		return strconv.Itoa(n), nil
	})
	if got != want || err != nil {
		t.Errorf("got %q and %v, want %v", got, err, want)
	}
}

// TestReceived_goexit pins that an attempt that ends its goroutine also ends the caller's goroutine,
// and that the other attempt is canceled.
func TestReceived_goexit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			var mu sync.Mutex
			n := 0
			_, _ = call(t, func(r *Race, _, _ *policy.Call) *policy.Outcome { return r.Choose(receive(r)) }, func(ctx context.Context) (string, error) {
				mu.Lock()
				n++
				first := n == 1
				mu.Unlock()
				if first {
					runtime.Goexit()
				}
				<-ctx.Done()
				return "", ctx.Err()
			})
			t.Error("the call returned")
		}()
		select {
		case <-ended:
		case <-time.After(time.Second):
			t.Error("the caller waits")
		}
	})
}

// TestReceived_nil pins that Received panics if a policy returned a nil Outcome.
func TestReceived_nil(t *testing.T) {
	u, err := pillion.New("recipes", runs(func(r *Race, _, _ *policy.Call) *policy.Outcome { return r.Choose(receive(r)) }), nothing{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if p := recover(); p != "pillion: recipes: a policy returned a nil Outcome" {
			t.Errorf("got %v", p)
		}
	}()
	_, _ = pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 0, nil })
}

// nothing is a policy that returns nil.
type nothing struct{}

func (nothing) Wrap(*policy.Builder, policy.Func) (policy.Func, error) {
	return func(context.Context, *policy.Call) *policy.Outcome { return nil }, nil
}

// TestReportOverdue pins that a report is received, and that ReportOverdue returns when the race ends.
func TestReportOverdue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, err := call(t, func(r *Race, first, second *policy.Call) *policy.Outcome {
			go r.ReportOverdue(second)
			if c := <-r.Overdue(); c != second {
				t.Errorf("got attempt %d, want the second", c.Attempt())
			}
			go r.ReportOverdue(first)
			synctest.Wait()
			return r.Choose(receive(r))
		}, func(context.Context) (string, error) { return "soup", nil })
		if err != nil {
			t.Error(err)
		}
	}) // which fails if the second report still blocks
}
