package pillion_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/internal/memhttp"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// countedBody is a body that counts as open until it is closed.
type countedBody struct {
	io.Reader
	bodies *tally
	once   sync.Once
}

func newCountedBody(bodies *tally) *countedBody {
	bodies.opened()
	return &countedBody{Reader: strings.NewReader("order"), bodies: bodies}
}

func (b *countedBody) Close() error {
	b.once.Do(b.bodies.closed)
	return nil
}

// TestIntegration_requestBodyIsClosed pins that the request's body is always closed, as a RoundTripper
// must, even after a failure, and each copy from GetBody too.
func TestIntegration_requestBodyIsClosed(t *testing.T) {
	open, err := breaker.New(breaker.Config{NonBreakCount: 1})
	if err != nil {
		t.Fatal(err)
	}
	open.Record(breaker.Failure)
	answers := func(handler http.HandlerFunc) func(*testing.T) string {
		return func(t *testing.T) string {
			t.Helper()
			server, _ := serve(t, handler)
			return server.URL
		}
	}
	gone, leave := context.WithCancel(bounded(t))
	leave()
	tests := []struct {
		name     string
		url      func(*testing.T) string
		policies []pillion.Policy
		ctx      context.Context // nil means the test's
		again    bool            // the body can be read again
		bodies   int
		word     string // a part of the error
	}{
		{name: "answered", url: answers(failFirst(0, 0, "ok")), bodies: 1},
		{name: "a response before it was read", url: answers(func(http.ResponseWriter, *http.Request) {}), bodies: 1},
		{name: "sent again", url: answers(failFirst(2, 503, "no")), policies: []pillion.Policy{quick(2)}, again: true, bodies: 3},
		{
			name: "sent again from the buffer", url: answers(failFirst(2, 503, "no")),
			policies: []pillion.Policy{quick(2), pillion.Options{ReplayBuffer: 100}}, bodies: 1,
		},
		{name: "refused by a breaker", url: refusingURL, policies: []pillion.Policy{open}, bodies: 1, word: "circuit open"},
		{name: "refused by a limit", url: refusingURL, policies: []pillion.Policy{limits.Config{MaxRequests: limits.Zero}}, bodies: 1, word: "max_requests"},
		{name: "a response of a policy", url: refusingURL, policies: []pillion.Policy{answering{}}, bodies: 1},
		{name: "no connection", url: refusingURL, policies: []pillion.Policy{quick(2)}, again: true, bodies: 3, word: "connection refused"},
		{name: "a canceled caller", url: refusingURL, ctx: gone, bodies: 1, word: "canceled"},
		{
			name: "too late", policies: []pillion.Policy{timeout.Config{Total: short}}, bodies: 1, word: "total limit",
			url: answers(func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
			}),
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			wantNoLeaks(t)
			bodies := newTally()
			req := newRequest(t, http.MethodPut, test.url(t), newCountedBody(bodies))
			if test.again {
				req.GetBody = func() (io.ReadCloser, error) { return newCountedBody(bodies), nil }
			}
			if test.ctx != nil {
				req = req.WithContext(test.ctx)
			}
			resp, err := newClient(t, test.policies...).Do(req)
			if err == nil {
				_ = resp.Body.Close()
			}
			if (err == nil) != (test.word == "") || (err != nil && !strings.Contains(err.Error(), test.word)) {
				t.Errorf("got error %v, want %q", err, test.word)
			}
			bodies.wantNone(t)
			bodies.wantEver(t, test.bodies, test.bodies)
		})
	}
}

func refusingURL(t *testing.T) string {
	t.Helper()
	return "http://" + refusing(t) + "/"
}

// answering is a policy that makes a response in the upstream's place.
type answering struct{}

func (answering) Wrap(_ *policy.Builder, _ policy.Func) (policy.Func, error) {
	return func(context.Context, *policy.Call) *policy.Outcome {
		return &policy.Outcome{Value: &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, Code: http.StatusOK}
	}, nil
}

// TestIntegration_requestIsUnchanged pins that headers and bodies of attempts do not appear in the
// caller's own request, where the next or a concurrent call would send them too.
func TestIntegration_requestIsUnchanged(t *testing.T) {
	wantNoLeaks(t)
	var requests atomic.Int64
	server, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Envoy-Expected-Rq-Timeout-Ms") == "" {
			t.Errorf("request header: got %v, want the expected timeout in it", r.Header)
		}
		if requests.Add(1)%3 != 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	u, err := pillion.New("upstream", timeout.Config{ExpectedHeader: true}, quick(2), limits.Config{}, breaker.Config{Threshold: breaker.Never})
	if err != nil {
		t.Fatal(err)
	}
	base := &http.Transport{}
	defer base.CloseIdleConnections()

	body := func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("order")), nil }
	first, _ := body()
	req := newRequest(t, http.MethodPut, server.URL+"/a?b=c", first)
	req.ContentLength, req.GetBody = int64(len("order")), body
	req.Header.Set("X-Mine", "1")
	req.Host = "upstream.test"
	before := *req
	before.URL, before.Header = new(*req.URL), req.Header.Clone()

	// The race detector reports a write during this read.
	done := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				_ = req.Header.Get("X-Mine") + req.URL.String() + req.Host
				_, _ = req.Body, req.ContentLength
			}
		}
	})
	resp, err := u.Transport(base).RoundTrip(req)
	close(done)
	reading.Wait()
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if got := requests.Load(); got != 3 {
		t.Errorf("requests: got %d, want 3", got)
	}
	if resp.Request != req {
		t.Error("resp.Request: got a request of the library's own, want the caller's")
	}
	after := *req
	if reflect.ValueOf(after.GetBody).Pointer() != reflect.ValueOf(before.GetBody).Pointer() {
		t.Error("got another GetBody, want the caller's")
	}
	after.GetBody, before.GetBody = nil, nil // functions are never equal
	if !reflect.DeepEqual(after, before) {
		t.Errorf("request: got %+v, want %+v", after, before)
	}
}

// TestIntegration_retryAfter pins that Retry-After is honored, in seconds and as an HTTP date, with a
// short random time added as in Envoy.
func TestIntegration_retryAfter(t *testing.T) {
	tests := []struct {
		name  string
		value func(now time.Time) string
		rand  float64
		want  time.Duration
	}{
		{"seconds", func(time.Time) string { return "2" }, 0, 2 * time.Second},
		{"seconds and a random part", func(time.Time) string { return "2" }, 0.5, 2500 * time.Millisecond},
		{"a date", func(now time.Time) string { return now.Add(3 * time.Second).UTC().Format(http.TimeFormat) }, 0, 3 * time.Second},
		{
			"a date in the form of RFC 850", func(now time.Time) string { return now.Add(3 * time.Second).UTC().Format(time.RFC850) },
			0, 3 * time.Second,
		},
		{
			"a date that has passed", func(now time.Time) string { return now.Add(-time.Minute).UTC().Format(http.TimeFormat) },
			0.4, 10 * time.Millisecond, // the ordinary back-off
		},
		{"junk", func(time.Time) string { return "soon" }, 0.4, 10 * time.Millisecond},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var arrived []time.Time
				server := memhttp.Serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					arrived = append(arrived, time.Now())
					if len(arrived) == 1 {
						w.Header().Set("Retry-After", test.value(time.Now()))
						w.WriteHeader(http.StatusServiceUnavailable)
					}
				}))
				defer server.Close()
				client := newClientOver(t, server, retry.Config{Rand: func() float64 { return test.rand }})
				send(t, client, newRequest(t, http.MethodGet, "http://upstream.test/", nil))
				if len(arrived) != 2 {
					t.Fatalf("requests: got %d, want 2", len(arrived))
				}
				if got := arrived[1].Sub(arrived[0]); got != test.want {
					t.Errorf("wait: got %v, want %v", got, test.want)
				}
			})
		})
	}
}

// TestIntegration_retryAfterInRealTime is TestIntegration_retryAfter on a real clock and a real socket.
func TestIntegration_retryAfterInRealTime(t *testing.T) {
	wantNoLeaks(t)
	var arrived []time.Time
	server, conns := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		arrived = append(arrived, time.Now())
		if len(arrived) == 1 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	send(t, newClient(t, quick(1)), newRequest(t, http.MethodGet, server.URL, nil))
	if got := arrived[1].Sub(arrived[0]); got < time.Second {
		t.Errorf("wait: got %v, want at least 1s", got)
	}
	conns.wantEver(t, 1, 1)
}

// TestIntegration_retryAfterTooLong pins that a wait longer than the caller's deadline does not begin: the
// call returns the response that it has.
func TestIntegration_retryAfterTooLong(t *testing.T) {
	const deadline = 300 * time.Millisecond
	tests := []struct {
		name   string
		policy pillion.Policy
		caller time.Duration
	}{
		{"the caller's deadline", nil, deadline},
		{"the total limit", timeout.Config{Total: deadline}, time.Hour},
	}
	handler := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "30")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, "come back later")
	}
	for _, test := range tests {
		check := func(t *testing.T, client *http.Client, url string) {
			t.Helper()
			ctx, cancel := context.WithTimeout(bounded(t), test.caller)
			defer cancel()
			resp, body := send(t, client, newRequest(t, http.MethodGet, url, nil).WithContext(ctx))
			if resp.StatusCode != http.StatusServiceUnavailable || body != "come back later" {
				t.Errorf("got %d %q, want 503 and its body", resp.StatusCode, body)
			}
		}
		t.Run(test.name, func(t *testing.T) {
			wantNoLeaks(t)
			server, _ := serve(t, handler)
			check(t, newClient(t, test.policy, quick(2)), server.URL)
		})
		t.Run(test.name+", immediately", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := memhttp.Serve(http.HandlerFunc(handler))
				defer server.Close()
				began := time.Now()
				check(t, newClientOver(t, server, test.policy, quick(2)), "http://upstream.test/")
				if got := time.Since(began); got != 0 {
					t.Errorf("took %v, want no time at all", got)
				}
			})
		})
	}
}

// TestIntegration_exhausted pins that the last response is not lost when retries are used up: it is the
// result, with its body, as without retries.
func TestIntegration_exhausted(t *testing.T) {
	wantNoLeaks(t)
	var requests atomic.Int64
	server, conns := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, strings.Repeat("!", int(requests.Add(1))))
	})
	client := newClient(t, quick(2), limits.Config{MaxRequests: 1}, breaker.Config{})
	ctx, info := pillion.WithInfo(bounded(t))
	resp, body := send(t, client, newRequest(t, http.MethodGet, server.URL, nil).WithContext(ctx))
	if resp.StatusCode != http.StatusServiceUnavailable || body != "!!!" {
		t.Errorf("got %d %q, want the third attempt's 503 and %q", resp.StatusCode, body, "!!!")
	}
	if info.Attempts() != 3 || info.Flags() != envoy.URX || info.Err() != nil {
		t.Errorf("got %d attempts, %v, %v, want 3, URX and no error", info.Attempts(), info.Flags(), info.Err())
	}
	client.CloseIdleConnections()
	conns.wantNone(t)
}

// TestIntegration_callerCancels pins that the call of a canceled caller ends: no further attempt is made,
// and the error contains the reason.
func TestIntegration_callerCancels(t *testing.T) {
	tests := []struct {
		name   string
		answer bool // cancel during the back-off after this response
		policy retry.Config
	}{
		{"during an attempt", false, quick(2)},
		{"during a back-off", true, retry.Config{On: "5xx", BaseInterval: time.Hour, Rand: func() float64 { return 0.5 }}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			wantNoLeaks(t)
			ctx, cancel := context.WithCancel(bounded(t))
			defer cancel()
			var requests atomic.Int64
			server, conns := serve(t, func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				if test.answer {
					w.WriteHeader(http.StatusServiceUnavailable)
					return
				}
				cancel()
				<-r.Context().Done() // the client closes the connection
			})
			b, err := breaker.New(breaker.Config{})
			if err != nil {
				t.Fatal(err)
			}
			leave := pillion.Listener(func(_ context.Context, e policy.Event) {
				if e.Kind == policy.EventRetryScheduled {
					cancel()
				}
			})
			client := newClient(t, test.policy, limits.Config{}, b, leave)
			ctx, info := pillion.WithInfo(ctx)
			resp, err := client.Do(newRequest(t, http.MethodGet, server.URL, nil).WithContext(ctx))
			if err == nil {
				_ = resp.Body.Close()
			}
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want context.Canceled", err)
			}
			if got := requests.Load(); got != 1 {
				t.Errorf("requests: got %d, want 1", got)
			}
			if info.Attempts() != 1 || !info.Flags().Has(envoy.DC) || !info.Done() {
				t.Errorf("got %d attempts, %v, done %v, want 1, DC, true", info.Attempts(), info.Flags(), info.Done())
			}
			if s := b.Status(); s.Failure != int64(map[bool]int{true: 1}[test.answer]) || s.Timeout != 0 || s.Success != 0 {
				t.Errorf("breaker: got %+v, want nothing for the caller's leaving", s)
			}
			client.CloseIdleConnections()
			conns.wantNone(t)
		})
	}
}

// TestIntegration_walkingAway pins that canceled callers do not open the breaker: after 200 of them the
// next hundred calls succeed.
func TestIntegration_walkingAway(t *testing.T) {
	wantNoLeaks(t)
	const leavers, others = 200, 100
	var well atomic.Bool
	arrived := make(chan struct{}, leavers)
	server, _ := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		if !well.Load() {
			arrived <- struct{}{}
			<-r.Context().Done()
		}
	})
	b, err := breaker.New(breaker.Config{NonBreakCount: 1, Threshold: 0.1})
	if err != nil {
		t.Fatal(err)
	}
	client := newClient(t, quick(1), limits.Config{MaxRequests: leavers}, b)
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	var calls sync.WaitGroup
	for range leavers {
		req := newRequest(t, http.MethodGet, server.URL, nil).WithContext(ctx)
		calls.Go(func() {
			resp, err := client.Do(req)
			if err == nil {
				_ = resp.Body.Close()
			}
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want context.Canceled", err)
			}
		})
	}
	for range leavers {
		wantSoon(t, arrived, "a request")
	}
	cancel()
	calls.Wait()
	well.Store(true)
	for range others {
		send(t, client, newRequest(t, http.MethodGet, server.URL, nil))
	}
	if got, want := b.Status(), (breaker.Status{Success: others}); got != want {
		t.Errorf("breaker: got %+v, want %+v", got, want)
	}
}

// TestIntegration_slowBody pins that neither the per-try limit nor the end of RoundTrip cuts a body that
// is still being read: the limit ends with the response headers.
func TestIntegration_slowBody(t *testing.T) {
	wantNoLeaks(t)
	server, conns := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "slow ")
		_ = http.NewResponseController(w).Flush()
		time.Sleep(400 * time.Millisecond) // longer than the limit: that is the test
		_, _ = io.WriteString(w, "but whole")
	})
	client := newClient(t, timeout.Config{PerTry: 200 * time.Millisecond}, quick(1), limits.Config{}, breaker.Config{})
	ctx, info := pillion.WithInfo(bounded(t))
	if _, body := send(t, client, newRequest(t, http.MethodGet, server.URL, nil).WithContext(ctx)); body != "slow but whole" {
		t.Errorf("body: got %q, want %q", body, "slow but whole")
	}
	if info.Flags() != 0 || info.Attempts() != 1 || info.Err() != nil {
		t.Errorf("got %v, %d attempts, %v, want no flags, 1 and no error", info.Flags(), info.Attempts(), info.Err())
	}
	conns.wantEver(t, 1, 1)
}

// TestIntegration_serialCaller pins that a slot is freed in time: sequential calls never exceed a limit of
// one.
func TestIntegration_serialCaller(t *testing.T) {
	wantNoLeaks(t)
	server, conns := serve(t, failFirst(0, 0, "ok"))
	client := newClient(t, quick(1), limits.Config{MaxRequests: 1})
	for i := range 1000 {
		if resp, _ := send(t, client, newRequest(t, http.MethodGet, server.URL, nil)); resp.StatusCode != http.StatusOK {
			t.Fatalf("call %d: got %d, want 200", i+1, resp.StatusCode)
		}
	}
	conns.wantEver(t, 1, 1)
}
