package pillion_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

var errTabClosed = errors.New("the tab was closed")

// phase is a moment of a call at which its caller cancels.
type phase struct {
	name string
	// world plays a server, and closes reached when the call is in the phase.
	world func(t *testing.T, reached chan<- struct{}) *world
	retry retry.Config
	http  pillion.Options
	head  bool // the response headers have arrived by then
	again bool // and a retry is scheduled
}

// phases are the moments at which a call waits for something.
func phases() []phase {
	silentAfter := func(steps ...step) func(t *testing.T, reached chan<- struct{}) *world {
		return func(t *testing.T, reached chan<- struct{}) *world {
			t.Helper()
			return plays(append(steps, tell(reached), untilClosed)...)(t)
		}
	}
	const unavailable = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 9\r\n"
	after := retry.Config{On: "5xx", ResetHeaders: []retry.ResetHeader{{Name: "Retry-After", Format: retry.Seconds}}}
	none := retry.Config{NumRetries: retry.Never}
	return []phase{
		{name: "dialing", retry: none, world: func(_ *testing.T, reached chan<- struct{}) *world {
			w := newWorld("http://upstream.test/")
			w.base.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
				close(reached)
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return w
		}},
		{name: "the TLS handshake", retry: none, world: func(t *testing.T, reached chan<- struct{}) *world {
			t.Helper()
			return with(plays(firstByte, tell(reached), untilClosed), secure)(t)
		}},
		{name: "waiting for headers", retry: none, world: silentAfter(request)},
		{name: "within the headers", retry: none, world: silentAfter(request, say("HTTP/1.1 200 OK\r\nServer: te"))},
		{name: "within the body", retry: none, world: silentAfter(request, say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")), head: true},
		{name: "the back-off", retry: after, world: silentAfter(request, say(unavailable+"Content-Length: 2\r\n\r\nno")), again: true},
		{
			name: "discarding", retry: after, http: pillion.Options{DrainTime: time.Minute}, again: true,
			world: silentAfter(request, say(unavailable+"Content-Length: 100\r\n\r\npart")),
		},
	}
}

// TestCause cancels a call, with a cause, in each phase. The error is context.Canceled and the
// cause, and the call does not count.
func TestCause(t *testing.T) {
	for _, test := range phases() {
		for name, limits := range map[string]pillion.Policy{"limits": timeout.Config{Total: 3 * patience, Idle: patience}, "no limits": nil} {
			t.Run(test.name+", "+name, func(t *testing.T) {
				wantNoLeaks(t)
				reached := make(chan struct{})
				w := test.world(t, reached)
				l := newLedger(t)
				scheduled := make(chan struct{}, 1)
				hear := pillion.Listener(func(_ context.Context, e policy.Event) {
					if e.Kind == policy.EventRetryScheduled {
						scheduled <- struct{}{}
					}
				})
				client := &http.Client{Transport: l.upstream(t, hear, limits, test.http, test.retry).Transport(w.base)}
				defer client.CloseIdleConnections()
				ctx, cancel := context.WithCancelCause(bounded(t))
				defer cancel(nil)
				ctx, info := pillion.WithInfo(ctx)
				go func() {
					<-reached
					if test.again {
						<-scheduled
					}
					if !test.head {
						cancel(errTabClosed)
					}
				}()
				resp, err := client.Do(newRequest(t, http.MethodGet, w.url, nil).WithContext(ctx))
				if err == nil {
					if !test.head {
						t.Errorf("got status %d, want no response", resp.StatusCode)
					}
					cancel(errTabClosed)
					_, err = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
				if !errors.Is(err, errTabClosed) || !errors.Is(err, context.Canceled) {
					t.Errorf("got %v, want context.Canceled and its cause", err)
				}
				l.await(t, 1)
				if info.Flags() != envoy.DC && info.Flags() != envoy.DC|envoy.URX || info.Detail() != envoy.CallerGone {
					t.Errorf("got %v %v, want %v %v", info.Flags(), info.Detail(), envoy.DC, envoy.CallerGone)
				}
				l.wantBalanced(t, 1, 1)
				if s := l.breaker.Status(); s.Timeout != 0 || s.Failure > 1 || s.Failure == 1 && test.retry.On == "" {
					t.Errorf("breaker: got %+v, want no count for a canceled caller", s)
				}
			})
		}
	}
}

// TestCause_before makes calls whose context has been canceled, or whose deadline has passed.
func TestCause_before(t *testing.T) {
	canceled, cancel := context.WithCancelCause(bounded(t))
	cancel(errTabClosed)
	late, stop := context.WithDeadlineCause(bounded(t), time.Now().Add(-time.Second), errTabClosed)
	defer stop()
	for name, test := range map[string]struct {
		ctx    context.Context
		is     error
		detail *envoy.Detail
	}{
		"canceled": {canceled, context.Canceled, envoy.CallerGone},
		"late":     {late, context.DeadlineExceeded, envoy.ResponseTimeout},
	} {
		for policy, limit := range map[string]pillion.Policy{"limits": timeout.Config{Total: patience}, "retry": quick(2), "none": nil} {
			t.Run(name+", "+policy, func(t *testing.T) {
				l := newLedger(t)
				ctx, info := pillion.WithInfo(test.ctx)
				rt := l.upstream(t, limit, limits.Config{}).Transport(&http.Transport{})
				_, err := rt.RoundTrip(newRequest(t, http.MethodGet, nowhere(t).url, nil).WithContext(ctx))
				if !errors.Is(err, test.is) || info.Detail() != test.detail {
					t.Errorf("got %v, %v, want %v and %v", err, info.Detail(), test.is, test.detail)
				}
				if name == "canceled" && !errors.Is(err, errTabClosed) {
					t.Errorf("got %v, want the cause in it", err)
				}
				if s := l.breaker.Status(); s.Failure != 0 {
					t.Errorf("breaker: got %+v, want no failure", s)
				}
			})
		}
	}
}

// TestCause_do is TestCause for a function.
func TestCause_do(t *testing.T) {
	ctx, cancel := context.WithCancelCause(bounded(t))
	l := newLedger(t)
	_, err := pillion.Do(ctx, l.upstream(t, quick(2)), func(ctx context.Context) (int, error) {
		cancel(errTabClosed)
		<-ctx.Done()
		return 0, ctx.Err()
	})
	if !errors.Is(err, errTabClosed) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled and its cause", err)
	}
	l.wantBalanced(t, 1, 1)
	l.wantCounted(t, breaker.Status{})
}
