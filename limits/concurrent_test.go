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

// TestNeverFullBesideAFreePlace has many be refused while the one place changes
// hands. Counting first and looking then counted those who were being refused for a
// moment, and refused others, though the place was free: about once in a thousand rounds
// here.
func TestNeverFullBesideAFreePlace(t *testing.T) {
	for range 1000 {
		l := Config{MaxRequests: 1}.limiter()
		l.acquire()
		var crowd sync.WaitGroup
		var stop atomic.Bool
		var others atomic.Int64 // who of the crowd got the place
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
			t.Fatal("the place was refused, although nobody had it")
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

// census counts who is inside, from the start of an attempt to its end.
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

// TestCrowd has 64 goroutines call at once, with all kinds of ends. There are
// never more inside than the limits allow, and in the end there is nobody.
func TestCrowd(t *testing.T) { synctest.Test(t, crowd) }

func crowd(t *testing.T) {
	const places = 8
	var now, most, passed, refused atomic.Int64
	u := upstream(t,
		retry.Config{On: "5xx", NumRetries: 2, BaseInterval: time.Millisecond},
		Config{MaxRequests: places, MaxRetries: 4},
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
		} // else it is abandoned, and the caller leaves
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
	time.Sleep(100 * time.Millisecond) // for those whose caller left: that is noticed so late
	synctest.Wait()
	if got := most.Load(); got > places {
		t.Errorf("got %d attempts at once, want at most %d", got, places)
	}
	if passed.Load() == 0 {
		t.Errorf("got %d calls through and %d refused, want some through", passed.Load(), refused.Load())
	}
	for range places {
		defer open(t.Context(), t, u).Body.Close()
	}
	if !full(t, u) {
		t.Error("got more places in the end than there are")
	}
}

// TestCrowdOfRetries has 64 goroutines take places for retries at once.
func TestCrowdOfRetries(t *testing.T) {
	l := Config{MaxRetries: 3}.limiter()
	var now atomic.Int64
	var crowd sync.WaitGroup
	for range 64 {
		crowd.Go(func() {
			for range 1000 {
				if l.acquireRetry(0) {
					if got := now.Add(1); got > 3 {
						t.Errorf("got %d retries at once, want at most 3", got)
					}
					now.Add(-1)
					l.releaseRetry()
				}
			}
		})
	}
	crowd.Wait()
	if got := l.retries.Load(); got != 0 {
		t.Errorf("got %d retries under way in the end, want 0", got)
	}
}
