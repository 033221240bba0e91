package limits

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
)

// TestNeverFullWithAFreeSlot refuses many callers while the only slot is released and taken. An
// implementation that increments the count before it compares counts refused callers for a moment,
// and refuses others while the slot is free: here about once in a thousand rounds.
func TestNeverFullWithAFreeSlot(t *testing.T) {
	for range 1000 {
		l := Config{MaxRequests: 1}.limiter()
		l.acquire()
		var crowd sync.WaitGroup
		var stop atomic.Bool
		var others atomic.Int64 // other callers that got the slot
		for range 8 {
			crowd.Go(func() {
				for !stop.Load() {
					if l.acquire() {
						others.Add(1)
						l.requests.Add(-1)
					}
				}
			})
		}
		refused := false
		var before int64
		for range 50 {
			before = others.Load()
			l.requests.Add(-1)
			if refused = !l.acquire(); refused {
				break
			}
		}
		stop.Store(true)
		crowd.Wait()
		if refused && others.Load() == before {
			t.Fatal("the call was refused although the slot was free")
		}
	}
}

// raise makes most at least n.
func raise(most *atomic.Int64, n int64) {
	for old := most.Load(); n > old; old = most.Load() {
		if most.CompareAndSwap(old, n) {
			return
		}
	}
}

// census counts concurrent attempts, from their start to their end.
type census struct {
	now, most *atomic.Int64
}

func (p census) Wrap(_ *policy.Builder, next policy.Func) (policy.Func, error) {
	leave := func(*policy.Call, *policy.Outcome) { p.now.Add(-1) }
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		raise(p.most, p.now.Add(1))
		returned := false
		defer func() {
			if !returned {
				p.now.Add(-1)
			}
		}()
		o := next(ctx, c)
		returned = true
		o.OnEnd(c, leave)
		return o
	}, nil
}

// TestCrowd makes calls from 64 goroutines, which end in all kinds of ways. There are never more
// concurrent attempts than the limits allow, and in the end all slots are free.
func TestCrowd(t *testing.T) { synctest.Test(t, crowd) }

func crowd(t *testing.T) {
	const slots = 8
	var now, most, passed, refused atomic.Int64
	u := upstream(t,
		retry.Config{On: "5xx", NumRetries: 2, BaseInterval: time.Millisecond},
		Config{MaxRequests: slots, MaxRetries: 4},
		census{&now, &most})
	one := func(i int) {
		defer func() { _ = recover() }()
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		resp, err := send(ctx, u, roundTripper(func(req *http.Request) (*http.Response, error) {
			switch i % 5 {
			case 0:
				return nil, errBroken
			case 1:
				panic("boom")
			case 2:
				return answer(503, strings.NewReader("not now"))(req)
			}
			return answer(200, strings.NewReader("soup"))(req)
		}))
		switch {
		case errors.Is(err, ErrFull):
			refused.Add(1)
			return
		case err != nil:
			return
		}
		passed.Add(1)
		switch i % 3 {
		case 0:
			_, _ = io.ReadAll(resp.Body)
		case 1:
			resp.Body.Close()
		} // else the body is left open and the call canceled
	}
	var callers sync.WaitGroup
	for i := range 64 {
		callers.Go(func() {
			for j := range 100 {
				one(i + j)
			}
		})
	}
	callers.Wait()
	time.Sleep(100 * time.Millisecond) // a canceled call frees its slot after a delay
	synctest.Wait()
	if got := most.Load(); got > slots {
		t.Errorf("got %d concurrent attempts, want at most %d", got, slots)
	}
	if passed.Load() == 0 {
		t.Errorf("got %d calls admitted and %d refused, want some admitted", passed.Load(), refused.Load())
	}
	for range slots {
		defer open(t.Context(), t, u).Body.Close()
	}
	if !full(t, u) {
		t.Error("got more slots in the end than the limit")
	}
}

// TestCrowdOfRetries takes retry slots from 64 goroutines.
func TestCrowdOfRetries(t *testing.T) {
	l := Config{MaxRetries: 3}.limiter()
	var now atomic.Int64
	var crowd sync.WaitGroup
	for range 64 {
		crowd.Go(func() {
			for range 1000 {
				if l.acquireRetry(0) {
					if got := now.Add(1); got > 3 {
						t.Errorf("got %d concurrent retries, want at most 3", got)
					}
					now.Add(-1)
					l.releaseRetry()
				}
			}
		})
	}
	crowd.Wait()
	if got := l.retries.Load(); got != 0 {
		t.Errorf("got %d retry slots taken in the end, want 0", got)
	}
}
