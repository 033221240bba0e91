package retry

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/timeout"
)

// service returns the usual policies of a program.
func service() []policy.Policy {
	return []policy.Policy{
		timeout.Config{Total: 2 * time.Second, PerTry: 300 * time.Millisecond},
		Config{NumRetries: 2},
		limits.Config{MaxRequests: 200},
		breaker.Config{Threshold: 0.5, Sleep: time.Second},
	}
}

// load is 50 callers of one upstream. If posts is set, every fifth call is a POST.
type load struct {
	posts bool
	pause time.Duration // of each caller, after each call

	calls, good, sent atomic.Int64

	mu    sync.Mutex
	times map[string]int // how often the server saw each POST; guarded by mu
}

// run makes calls until more returns false.
func (l *load) run(ctx context.Context, rt http.RoundTripper, url string, more func(n int64) bool) {
	var callers sync.WaitGroup
	var started atomic.Int64
	for range 50 {
		callers.Go(func() {
			for n := started.Add(1); more(n); n = started.Add(1) {
				l.calls.Add(1)
				if l.call(ctx, rt, url, n) {
					l.good.Add(1)
				}
				time.Sleep(l.pause)
			}
		})
	}
	callers.Wait()
}

func (l *load) call(ctx context.Context, rt http.RoundTripper, url string, n int64) (good bool) {
	method := http.MethodGet
	if l.posts && n%5 == 0 {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader("order"))
	if err != nil {
		panic(err)
	}
	req.Header.Set("X-Request-Id", strconv.FormatInt(n, 10))
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return false
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// count counts a request that reached the server.
func (l *load) count(req *http.Request) (n int64) {
	if req.Method == http.MethodPost {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.times == nil {
			l.times = map[string]int{}
		}
		l.times[req.Header.Get("X-Request-Id")]++
	}
	return l.sent.Add(1)
}

// wire responds after 100ms, and to every nth request with 503.
func (l *load) wire(nth int64) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		code := http.StatusOK
		if l.count(req)%nth == 0 {
			code = http.StatusServiceUnavailable
		}
		return later(100*time.Millisecond, status(code))(req)
	})
}

// check fails a test in which the server received more than most requests per call, or a POST
// twice.
func (l *load) check(t *testing.T, most float64) {
	t.Helper()
	if sent, calls := l.sent.Load(), l.calls.Load(); float64(sent) > most*float64(calls) {
		t.Errorf("the server received %d requests for %d calls, want at most %v per call", sent, calls, most)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, n := range l.times {
		if n > 1 {
			t.Fatalf("the server received the POST %s %d times, want once", id, n)
		}
	}
	if l.posts && len(l.times) == 0 {
		t.Error("the server received no POST, want some")
	}
}

// TestFailuresHereAndThere fails some responses: each is retried.
func TestFailuresHereAndThere(t *testing.T) {
	for _, tc := range []struct {
		name     string
		policies []policy.Policy
		nth      int64
		good     int64 // of 1000 calls, at least
	}{
		{"every tenth", service(), 10, 990},
		{"every tenth, without limits", service()[:2], 10, 990},
		{"every fifth", service()[:3], 5, 980}, // a breaker may open, depending on the order
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var l load
				l.run(t.Context(), upstream(t, tc.policies...).Transport(l.wire(tc.nth)), "http://recipes/", func(n int64) bool { return n <= 1000 })
				l.check(t, 1.3)
				if good := l.good.Load(); good < tc.good || l.calls.Load() != 1000 {
					t.Errorf("got %d of %d calls good, want at least %d of 1000", good, l.calls.Load(), tc.good)
				}
			})
		})
	}
}

// TestFailuresHereAndThere_server is the same over real sockets.
func TestFailuresHereAndThere_server(t *testing.T) {
	l := load{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if l.count(r)%10 == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = io.WriteString(w, "soup")
	}))
	defer server.Close()
	base := &http.Transport{MaxIdleConnsPerHost: 50}
	defer base.CloseIdleConnections()
	policies := append([]policy.Policy{timeout.Config{Total: time.Minute}}, service()[1:]...) // for slow machines
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l.run(ctx, upstream(t, policies...).Transport(base), server.URL, func(n int64) bool { return n <= 1000 })
	l.check(t, 1.3)
	if good := l.good.Load(); good < 990 {
		t.Errorf("got %d of 1000 calls good, want at least 990", good)
	}
}

// TestOutage fails every response for a minute: the server receives few more requests than there
// are calls.
func TestOutage(t *testing.T) {
	for _, tc := range []struct {
		name     string
		policies []policy.Policy
		pause    time.Duration
	}{
		{"all policies", service(), 100 * time.Millisecond}, // a refusal by the breaker takes no time
		{"without a breaker", service()[:3], 0},
		{"without a breaker, fewer calls", service()[:3], 50 * time.Millisecond},
		{"many retries of each call", []policy.Policy{Config{On: "idempotent,5xx", NumRetries: 9}}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := load{posts: true, pause: tc.pause}
				end := time.Now().Add(time.Minute)
				l.run(t.Context(), upstream(t, tc.policies...).Transport(l.wire(1)), "http://recipes/", func(int64) bool { return time.Now().Before(end) })
				l.check(t, 1.25)
				if good := l.good.Load(); good != 0 {
					t.Errorf("got %d good calls, want none", good)
				}
			})
		})
	}
}

// TestOutage_retryable is the same for a Retryable, which retries POSTs too.
func TestOutage_retryable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := load{}
		end := time.Now().Add(time.Minute)
		u := upstream(t, Retryable{Tries: 5, Sleep: Zero})
		l.run(t.Context(), u.Transport(l.wire(1)), "http://recipes/", func(int64) bool { return time.Now().Before(end) })
		l.check(t, 1.25)
	})
}
