package retry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// stream is a request body without GetBody.
type stream struct {
	io.Reader
	closed bool
}

func (s *stream) Close() error {
	s.closed = true
	return nil
}

// TestRequestBodies retries requests with bodies.
func TestRequestBodies(t *testing.T) {
	const text = "a body"
	for _, tc := range []struct {
		name      string
		http      pillion.Options
		body      func() io.Reader
		length    int64 // 0 for unknown
		first     answer
		sent      []string
		abandoned bool
	}{
		{
			name: "with GetBody", body: func() io.Reader { return strings.NewReader(text) }, first: status(503),
			sent: []string{text, text, text},
		},
		{name: "none", body: func() io.Reader { return http.NoBody }, first: status(503), sent: []string{"", "", ""}},
		{
			name: "stream", body: func() io.Reader { return &stream{Reader: strings.NewReader(text)} }, first: status(503),
			sent: []string{text}, abandoned: true,
		},
		{
			name: "stream, no connection", body: func() io.Reader { return &stream{Reader: strings.NewReader(text)} },
			first: failure(errRefusedDial), sent: []string{text}, abandoned: true,
		},
		{
			name: "stream, good response", body: func() io.Reader { return &stream{Reader: strings.NewReader(text)} },
			first: status(200), sent: []string{text},
		},
		{
			name: "stream within the buffer", http: pillion.Options{ReplayBuffer: int64(len(text))},
			body: func() io.Reader { return &stream{Reader: strings.NewReader(text)} }, first: status(503),
			sent: []string{text, text, text},
		},
		{
			name: "stream over the buffer", http: pillion.Options{ReplayBuffer: int64(len(text)) - 1},
			body: func() io.Reader { return &stream{Reader: strings.NewReader(text)} }, first: status(503),
			sent: []string{text}, abandoned: true,
		},
		{
			name: "stream with a length over the buffer", http: pillion.Options{ReplayBuffer: int64(len(text)) - 1},
			body: func() io.Reader { return &stream{Reader: strings.NewReader(text)} }, length: int64(len(text)), first: status(503),
			sent: []string{text}, abandoned: true,
		},
		{
			name: "stream within the buffer, good response", http: pillion.Options{ReplayBuffer: int64(len(text))},
			body: func() io.Reader { return &stream{Reader: strings.NewReader(text)} }, first: status(200), sent: []string{text},
		},
		// As in Envoy it counts whatever the response: no retry was possible from then on.
		{
			name: "stream over the buffer, good response", http: pillion.Options{ReplayBuffer: int64(len(text)) - 1},
			body: func() io.Reader { return &stream{Reader: strings.NewReader(text)} }, first: status(200),
			sent: []string{text}, abandoned: true,
		},
		{
			name: "stream with a length over the buffer, good response", http: pillion.Options{ReplayBuffer: int64(len(text)) - 1},
			body: func() io.Reader { return &stream{Reader: strings.NewReader(text)} }, length: int64(len(text)), first: status(200),
			sent: []string{text}, abandoned: true,
		},
		{
			name: "stream over the buffer, failure that is not retried", http: pillion.Options{ReplayBuffer: int64(len(text)) - 1},
			body: func() io.Reader { return &stream{Reader: strings.NewReader(text)} }, first: status(404),
			sent: []string{text}, abandoned: true,
		},
		{
			name: "with GetBody, over the buffer, good response", http: pillion.Options{ReplayBuffer: 1},
			body: func() io.Reader { return strings.NewReader(text) }, first: status(200), sent: []string{text},
		},
		{
			name: "with GetBody, over the buffer", http: pillion.Options{ReplayBuffer: 1},
			body: func() io.Reader { return strings.NewReader(text) }, first: status(503),
			sent: []string{text, text, text},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var d diary
				body := tc.body()
				req := post(t.Context(), body)
				if tc.length != 0 {
					req.ContentLength = tc.length
				}
				w := answers(tc.first)
				u := upstream(t, Config{On: "5xx,connect-failure", NumRetries: 2}, tc.http, policy.Listener(d.listen))
				r := call(t, u, w, req)
				if diff := cmp.Diff(tc.sent, w.bodies()); diff != "" {
					t.Errorf("bodies sent (-want +got):\n%s", diff)
				}
				if got := d.has(policy.EventRetryAbandoned); got != tc.abandoned {
					t.Errorf("got events %q, want abandoned: %v", d.lines(), tc.abandoned)
				}
				if got, want := r.flags.Has(envoy.URX), len(tc.sent) == 3; got != want {
					t.Errorf("got flags %v, want URX: %v", r.flags, want)
				}
				if r.code == 503 && r.body != "response 503" {
					t.Errorf("got body %q, want that of the last response", r.body)
				}
				if s, ok := body.(*stream); ok && !s.closed {
					t.Error("the caller's body is not closed")
				}
			})
		})
	}
}

// TestAbandonedOnce counts the EventRetryAbandoned events of a call.
func TestAbandonedOnce(t *testing.T) {
	const text = "a body"
	small := pillion.Options{ReplayBuffer: 3}
	// half reads at most as much as the buffer holds in the first attempt.
	half := func(read int64) answer {
		return func(req *http.Request) (*http.Response, error) {
			_, _ = io.CopyN(io.Discard, req.Body, read)
			return status(503)(req)
		}
	}
	whole := func(req *http.Request) (*http.Response, error) {
		_, _ = io.Copy(io.Discard, req.Body)
		return status(200)(req)
	}
	for _, tc := range []struct {
		name    string
		policy  policy.Policy
		answers []answer
		want    int
	}{
		{"no retry needed", Config{On: "5xx"}, []answer{whole}, 1},
		{"retry needed", Config{On: "5xx"}, []answer{half(6)}, 1},
		{"in the retry", Config{On: "5xx", NumRetries: 5}, []answer{half(3), whole}, 1},
		{"in a retry that needs another one", Config{On: "5xx", NumRetries: 5}, []answer{half(3), half(6)}, 1},
		{"a call that is never retried", Config{}, []answer{whole}, 0},
		{"no condition", Config{EnvoyHeaders: true}, []answer{whole}, 0},
		{"Retryable", Retryable{}, []answer{whole}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var d diary
				sent := 0
				base := roundTripper(func(req *http.Request) (*http.Response, error) {
					sent++
					defer req.Body.Close()
					return tc.answers[min(sent, len(tc.answers))-1](req)
				})
				call(t, upstream(t, tc.policy, small, policy.Listener(d.listen)), base, post(t.Context(), &stream{Reader: strings.NewReader(text)}))
				got := 0
				for _, kind := range d.kinds {
					if kind == policy.EventRetryAbandoned {
						got++
					}
				}
				if got != tc.want {
					t.Errorf("got events %q, want %d abandoned", d.lines(), tc.want)
				}
			})
		})
	}
}

// TestReplayOfAHalfReadBody sends the first response before the body was read.
func TestReplayOfAHalfReadBody(t *testing.T) {
	var got []string
	base := roundTripper(func(req *http.Request) (*http.Response, error) {
		limit := int64(100)
		if len(got) == 0 {
			limit = 3
		}
		text, err := io.ReadAll(io.LimitReader(req.Body, limit))
		if err != nil {
			return nil, err
		}
		_ = req.Body.Close()
		got = append(got, string(text))
		return status(500 + len(got))(req)
	})
	u := upstream(t, Config{On: "5xx", NumRetries: 2, Rand: always(0)}, pillion.Options{ReplayBuffer: 100})
	call(t, u, base, post(t.Context(), &stream{Reader: strings.NewReader("a body")}))
	if diff := cmp.Diff([]string{"a b", "a body", "a body"}, got); diff != "" {
		t.Errorf("bodies read (-want +got):\n%s", diff)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// refuseFirst refuses the first attempt of each call.
type refuseFirst struct{}

func (refuseFirst) Wrap(_ *policy.Builder, next policy.Func) (policy.Func, error) {
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		if c.Attempt() == 1 {
			return c.Refuse(errBroken, breaker.CircuitOpen)
		}
		return next(ctx, c)
	}, nil
}

// TestRefusalKeepsTheBody refuses an attempt before its body was read: the next attempt can send
// the body, although it can be read only once.
func TestRefusalKeepsTheBody(t *testing.T) {
	for _, tc := range []struct {
		name string
		cfg  Config
		sent []string
	}{
		{"retried", Config{On: "5xx", NumRetries: 3, RetryRefused: true, Rand: always(0)}, []string{"a body"}},
		{"not retried", Config{On: "5xx"}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			body := &stream{Reader: strings.NewReader("a body")}
			w := answers(status(200))
			call(t, upstream(t, tc.cfg, refuseFirst{}), w, post(t.Context(), body))
			if diff := cmp.Diff(tc.sent, w.bodies()); diff != "" {
				t.Errorf("bodies sent (-want +got):\n%s", diff)
			}
			if !body.closed {
				t.Error("the caller's body is not closed")
			}
		})
	}
}

// TestGetBodyFails uses a GetBody that fails.
func TestGetBodyFails(t *testing.T) {
	req := post(t.Context(), strings.NewReader("a body"))
	req.GetBody = func() (io.ReadCloser, error) { return nil, errBroken }
	w := answers(status(503))
	r := call(t, upstream(t, Config{On: "5xx", NumRetries: 3, Rand: always(0)}), w, req)
	if !errors.Is(r.err, errBroken) || w.attempts() != 1 || w.open != 0 {
		t.Errorf("got %v after %d requests sent, with %d responses open, want GetBody's error after 1, with 0",
			r.err, w.attempts(), w.open)
	}
}
