package retry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/internal/memhttp"
	"github.com/pillion-go/pillion/timeout"
)

// TestDiscardedAnswersKeepTheirConnection makes 20 calls over real sockets. The server responds to
// each with 503 and then with 200.
func TestDiscardedAnswersKeepTheirConnection(t *testing.T) {
	var opened, asked atomic.Int32
	page := strings.Repeat("x", 8<<10)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1)%2 == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprint(w, page)
	}))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			opened.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	u := upstream(t, Config{Rand: always(0)}, pillion.Options{DrainTime: time.Minute}) // however busy the machine
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	for range 20 {
		req := get(t.Context())
		req.URL.Host = server.Listener.Addr().String()
		if r := call(t, u, base, req); r.code != 200 || r.attempts != 2 || r.body != page {
			t.Fatalf("got %d after %d attempts with a body of %d bytes (%v), want 200 after 2 with %d",
				r.code, r.attempts, len(r.body), r.err, len(page))
		}
	}
	if got := opened.Load(); got > 2 {
		t.Errorf("got %d connections opened for 40 requests, want at most 2", got)
	}
}

// TestDiscardIsBounded discards responses that are too long or too slow.
func TestDiscardIsBounded(t *testing.T) {
	fail := func(w http.ResponseWriter, n int) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = w.Write([]byte(strings.Repeat("x", n)))
		_ = http.NewResponseController(w).Flush()
	}
	stalled := func(w http.ResponseWriter, r *http.Request) {
		fail(w, 10)
		<-r.Context().Done()
	}
	for _, tc := range []struct {
		name    string
		http    pillion.Options
		wait    time.Duration
		body    func(http.ResponseWriter, *http.Request)
		elapsed time.Duration
		read    int // maximum number of bytes read of the discarded body
		dials   int32
	}{
		{name: "empty", body: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }, dials: 1},
		{name: "small", body: func(w http.ResponseWriter, _ *http.Request) { fail(w, 100) }, read: 100, dials: 1},
		{name: "64 KiB", body: func(w http.ResponseWriter, _ *http.Request) { fail(w, 64<<10) }, read: 64 << 10, dials: 2},
		{
			name: "endless", read: 64 << 10, dials: 2,
			body: func(w http.ResponseWriter, r *http.Request) {
				for fail(w, 1<<10); r.Context().Err() == nil; {
					_, _ = w.Write(make([]byte, 1<<10))
				}
			},
		},
		{
			name: "long, with a Content-Length", read: 0, dials: 2,
			body: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "65537")
				fail(w, 65537)
			},
		},
		{
			name: "longer than DrainBytes", http: pillion.Options{DrainBytes: 50}, read: 50, dials: 2,
			body: func(w http.ResponseWriter, _ *http.Request) { fail(w, 100) },
		},
		{name: "stalled", body: stalled, elapsed: time.Millisecond, read: 10, dials: 2},
		{name: "stalled in a short back-off", wait: 20 * time.Millisecond, body: stalled, elapsed: 20 * time.Millisecond, read: 10, dials: 2},
		{
			name: "stalled, with a DrainTime", http: pillion.Options{DrainTime: 200 * time.Millisecond}, body: stalled,
			elapsed: 200 * time.Millisecond, read: 10, dials: 2,
		},
		{name: "stalled in a long back-off", wait: time.Second, body: stalled, elapsed: time.Second, read: 10, dials: 2},
		{
			name: "stalled longer than DrainTime", http: pillion.Options{DrainTime: 3 * time.Millisecond}, body: stalled,
			elapsed: 3 * time.Millisecond, read: 10, dials: 2,
		},
		{
			name: "slow, but within DrainTime", http: pillion.Options{DrainTime: 100 * time.Millisecond},
			elapsed: 90 * time.Millisecond, read: 9, dials: 1,
			body: func(w http.ResponseWriter, _ *http.Request) {
				fail(w, 8)
				time.Sleep(90 * time.Millisecond)
				_, _ = w.Write([]byte("x"))
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked, dials atomic.Int32
				server := memhttp.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if asked.Add(1) == 1 {
						tc.body(w, r)
					}
				}))
				defer server.Close()
				dial := server.DialContext
				server.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
					dials.Add(1)
					return dial(ctx, network, address)
				}
				w := answers(server.RoundTrip)
				cfg := Config{Rand: always(0)}
				if tc.wait != 0 {
					cfg = Config{BaseInterval: 2 * tc.wait, Rand: always(0.5)}
				}
				r := call(t, upstream(t, cfg, tc.http), w, get(t.Context()))
				if r.code != 200 || r.attempts != 2 || r.elapsed != tc.elapsed {
					t.Errorf("got %d (%v) after %d attempts and %v, want 200 after 2 and %v", r.code, r.err, r.attempts, r.elapsed, tc.elapsed)
				}
				if w.open != 0 || w.served != 2 {
					t.Errorf("got %d of %d bodies left open, want 0 of 2", w.open, w.served)
				}
				if w.read > tc.read {
					t.Errorf("got %d bytes of the discarded body read, want at most %d", w.read, tc.read)
				}
				if got := dials.Load(); got != tc.dials {
					t.Errorf("got %d connections opened, want %d", got, tc.dials)
				}
			})
		})
	}
}

// TestDiscardHonorsTheDeadline discards a stalled response when less time remains than DrainTime.
func TestDiscardHonorsTheDeadline(t *testing.T) {
	const limit = 50 * time.Millisecond
	for _, tc := range []struct {
		name   string
		total  time.Duration
		caller func(context.Context) (context.Context, context.CancelFunc)
		is     error
	}{
		{
			name: "total", total: limit, is: context.DeadlineExceeded,
			caller: func(ctx context.Context) (context.Context, context.CancelFunc) { return context.WithCancel(ctx) },
		},
		{
			name: "deadline of the caller", total: timeout.Unlimited, is: context.DeadlineExceeded,
			caller: func(ctx context.Context) (context.Context, context.CancelFunc) {
				return context.WithTimeout(ctx, limit)
			},
		},
		{
			name: "canceled", total: timeout.Unlimited, is: context.Canceled,
			caller: func(ctx context.Context) (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancel(ctx)
				time.AfterFunc(limit, cancel)
				return ctx, cancel
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := memhttp.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.WriteHeader(http.StatusServiceUnavailable)
					_ = http.NewResponseController(w).Flush()
					<-r.Context().Done()
				}))
				defer server.Close()
				ctx, cancel := tc.caller(t.Context())
				defer cancel()
				w := answers(server.RoundTrip)
				r := call(t, upstream(t, timeout.Config{Total: tc.total}, Config{Rand: always(0)}, pillion.Options{DrainTime: time.Minute}), w, get(ctx))
				if !errors.Is(r.err, tc.is) || r.elapsed != limit {
					t.Errorf("got %v after %v, want %v after %v", r.err, r.elapsed, tc.is, limit)
				}
				if w.attempts() != 1 || w.open != 0 {
					t.Errorf("got %d attempts sent and %d bodies open, want 1 and 0", w.attempts(), w.open)
				}
			})
		})
	}
}
