package pillion_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// TestAbandon pins what a panic of a policy outside limits leaves behind while the policy holds an
// open response: the slot is free, the body closed, the context ended, and listeners have received
// the end.
func TestAbandon(t *testing.T) {
	boom := true
	var events journal
	var sent context.Context
	var body *tape
	u := newUpstream(t,
		around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
			o := next(ctx, c)
			if boom {
				panic("boom")
			}
			return o
		}),
		timeout.Config{Total: time.Hour},
		limits.Config{MaxRequests: 1},
		pillion.Listener(func(_ context.Context, e policy.Event) { events.add(e.Kind.String()) }),
	)
	rt := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
		sent = req.Context() //nolint:fatcontext // to look at, once
		body = newTape(sent, io.EOF, piece{time.Now().Add(time.Hour), "soup"})
		return streams(body)(req)
	}))
	if got := recovered(func() { _, _ = rt.RoundTrip(get(t.Context(), t)) }); got != "boom" {
		t.Fatalf("got panic %v, want boom", got)
	}
	select {
	case <-body.shut:
	default:
		t.Error("the response's body is open")
	}
	if sent.Err() == nil {
		t.Error("the attempt's context has not ended")
	}
	if got := strings.Join(events.all(), ", "); got != "attempt, attempt end, end" {
		t.Errorf("got events %s, want the attempt's and the call's end", got)
	}
	boom = false
	resp, err := u.Transport(answers(http.StatusOK, "soup")).RoundTrip(get(t.Context(), t))
	if err != nil {
		t.Fatalf("the slot is not free: %v", err)
	}
	_ = resp.Body.Close()
}

// TestAbandon_do pins that a panic of work ends its context and the call.
func TestAbandon_do(t *testing.T) {
	ctx, info := pillion.WithInfo(t.Context())
	u := newUpstream(t, timeout.Config{Total: time.Hour}, limits.Config{MaxRequests: 1})
	var sent context.Context
	got := recovered(func() {
		_, _ = pillion.Do(ctx, u, func(ctx context.Context) (int, error) {
			sent = ctx //nolint:fatcontext // to look at, once
			panic("boom")
		})
	})
	if got != "boom" || sent.Err() == nil || !info.Done() {
		t.Errorf("got panic %v, context error %v, done %v, want boom, an ended context, true", got, sent.Err(), info.Done())
	}
}

// narrow sets a deadline for each attempt.
func narrow(d time.Duration) pillion.Policy {
	return around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
		ctx, cancel := context.WithTimeout(ctx, d)
		o := next(ctx, c)
		o.OnEnd(c, func(*policy.Call, *policy.Outcome) { cancel() })
		return o
	})
}

// TestNarrowed pins deadlines that a policy inside retry sets for attempts: the total limit still
// applies, and the deadline is not reported as the caller's.
func TestNarrowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		u := newUpstream(t, timeout.Config{Total: 100 * time.Millisecond},
			retry.Config{On: "5xx", NumRetries: 9, Rand: func() float64 { return 0 }}, narrow(80*time.Millisecond))
		_, err := u.Transport(roundTripper(func(*http.Request) (*http.Response, error) {
			time.Sleep(49 * time.Millisecond)
			return answer(http.StatusServiceUnavailable, ""), nil
		})).RoundTrip(get(t.Context(), t))
		if took := time.Since(began); took > 150*time.Millisecond {
			t.Errorf("took %v, %v, want no attempt to begin after the total limit", took, err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, info := pillion.WithInfo(t.Context())
		_, err := newUpstream(t, narrow(time.Second)).Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()
			return nil, req.Context().Err()
		})).RoundTrip(get(ctx, t))
		if !errors.Is(err, context.DeadlineExceeded) || scopeOf(err) == policy.ScopeCaller || info.Flags() != envoy.UT {
			t.Errorf("got %v, flags %v, want a deadline that is not the caller's, UT", err, info.Flags())
		}
	})
}

// halfCloser is an upgraded connection.
type halfCloser struct {
	io.Reader
	halves int
}

func (c *halfCloser) Close() error { return nil }

func (c *halfCloser) Write(p []byte) (int, error) { return len(p), nil }

func (c *halfCloser) CloseWrite() error {
	c.halves++
	return nil
}

// TestUpgraded pins that an upgraded connection outlives the context of its request, and can be
// half-closed if net/http's can.
func TestUpgraded(t *testing.T) {
	b, err := breaker.New(breaker.Config{Name: "recipes"})
	if err != nil {
		t.Fatal(err)
	}
	conn := &halfCloser{Reader: strings.NewReader("")}
	var ends []policy.Outcome
	u := newUpstream(t, timeout.Config{Total: time.Hour}, b, atEnd(func(_ *policy.Call, end *policy.Outcome) { ends = append(ends, *end) }))
	ctx, cancel := context.WithCancel(t.Context())
	resp, err := u.Transport(roundTripper(func(*http.Request) (*http.Response, error) {
		resp := answer(http.StatusSwitchingProtocols, "")
		resp.Body, resp.ContentLength = conn, 0
		return resp, nil
	})).RoundTrip(get(ctx, t))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	half, ok := resp.Body.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || conn.halves != 1 {
		t.Errorf("got %d half-closes by a %T, want 1", conn.halves, resp.Body)
	}
	if len(ends) != 0 {
		t.Errorf("got %d ends while the connection lives, want none", len(ends))
	}
	_ = resp.Body.Close()
	if len(ends) != 1 || ends[0].Err != nil {
		t.Errorf("got ends %+v, want one without an error", ends)
	}
	if got, want := b.Status(), (breaker.Status{Success: 1}); got != want {
		t.Errorf("breaker: got %+v, want %+v", got, want)
	}
}

// TestTransport_reopenedBodyFails pins that a failing body of the caller's GetBody does not count
// against the upstream.
func TestTransport_reopenedBodyFails(t *testing.T) {
	b, err := breaker.New(breaker.Config{Name: "recipes"})
	if err != nil {
		t.Fatal(err)
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(iotest.ErrReader(errBroken)), nil }
	req := get(t.Context(), t)
	req.Method, req.GetBody = http.MethodPut, open
	req.Body, _ = open()
	_, err = newUpstream(t, retry.Config{}, b).Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
		defer req.Body.Close()
		_, failed := io.ReadAll(req.Body)
		return nil, failed
	})).RoundTrip(req)
	if !errors.Is(err, errBroken) || b.Status() != (breaker.Status{}) {
		t.Errorf("got %v, breaker %+v, want %v and nothing counted", err, b.Status(), errBroken)
	}
}

// TestTransport_bufferIsFrozen pins that bytes that net/http reads for an attempt whose response
// was discarded are not missing from the next attempt.
func TestTransport_bufferIsFrozen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		u := newUpstream(t, pillion.Options{ReplayBuffer: 4}, retry.Config{BaseInterval: time.Second, Rand: func() float64 { return 0.99 }})
		req := get(t.Context(), t)
		req.Method, req.Body = http.MethodPut, io.NopCloser(io.MultiReader(strings.NewReader("he"), strings.NewReader("llo world")))
		resp, err := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
			if n++; n == 1 {
				_, _ = io.ReadFull(req.Body, make([]byte, 2))
				go func() {
					time.Sleep(10 * time.Millisecond)
					_, _ = io.ReadFull(req.Body, make([]byte, 8))
					_ = req.Body.Close()
				}()
				return answer(http.StatusServiceUnavailable, ""), nil
			}
			defer req.Body.Close()
			body, err := io.ReadAll(req.Body)
			return answer(http.StatusOK, string(body)), err
		})).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if got, _ := io.ReadAll(resp.Body); string(got) != "hello world" {
			t.Errorf("the second attempt sent %q, want all", got)
		}
	})
}

// TestTransport_headerOfTheCall pins that a header that a policy outside retry sets is in each
// attempt.
func TestTransport_headerOfTheCall(t *testing.T) {
	var got []string
	u := newUpstream(t, before(func(c *policy.Call) { c.Header().Set("Authorization", "x") }), retry.Config{BaseInterval: time.Millisecond})
	_, err := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
		got = append(got, req.Header.Get("Authorization"))
		return nil, errBroken
	})).RoundTrip(get(t.Context(), t))
	if !errors.Is(err, errBroken) || strings.Join(got, " ") != "x x" {
		t.Errorf("got %v and headers %q, want x in each of two attempts", err, got)
	}
}

// TestTransport_localReplyOfTheCallersDeadline pins that the caller's own deadline is an error, and
// no local reply.
func TestTransport_localReplyOfTheCallersDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		resp, err := newUpstream(t, pillion.Options{LocalReplies: true}).Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()
			return nil, req.Context().Err()
		})).RoundTrip(get(ctx, t))
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, %v, want an error", resp, err)
		}
	})
}
