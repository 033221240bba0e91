package breaker_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
)

var errBoom = errors.New("boom")

// roundTrip adapts a function to http.RoundTripper.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// answer is an upstream that responds with a status and no body.
func answer(code int) roundTrip {
	return func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: code, Body: http.NoBody}, nil
	}
}

// stream is an upstream that responds with a status and a body read from body.
func stream(code int, body io.Reader) roundTrip {
	return func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: code, Body: io.NopCloser(body), ProtoMajor: 1, ContentLength: -1}, nil
	}
}

// text is an upstream whose responses have a body.
func text(code int) roundTrip {
	return func(req *http.Request) (*http.Response, error) { return stream(code, strings.NewReader("text"))(req) }
}

// broken is an upstream that cannot be reached.
func broken(err error) roundTrip {
	return func(*http.Request) (*http.Response, error) { return nil, err }
}

// hang is an upstream that never responds.
func hang(req *http.Request) (*http.Response, error) {
	<-req.Context().Done()
	return nil, req.Context().Err()
}

// brokenReader returns a few bytes and then err.
func brokenReader(err error) io.Reader {
	return io.MultiReader(strings.NewReader("some"), errReader{err})
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func newBreaker(t *testing.T, cfg breaker.Config) *breaker.Breaker {
	t.Helper()
	b, err := breaker.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func newUpstream(t *testing.T, policies ...pillion.Policy) *pillion.Upstream {
	t.Helper()
	u, err := pillion.New("recipes", policies...)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func newRequest(ctx context.Context, t *testing.T) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://recipes/1", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// get makes a call and reads the response to its end.
func get(t *testing.T, u *pillion.Upstream, base http.RoundTripper) error {
	t.Helper()
	return getContext(t.Context(), t, u, base)
}

func getContext(ctx context.Context, t *testing.T, u *pillion.Upstream, base http.RoundTripper) error {
	t.Helper()
	resp, err := u.Transport(base).RoundTrip(newRequest(ctx, t))
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return errors.Join(err, resp.Body.Close())
}

// walkAway makes a call that is canceled before the response headers.
func walkAway(t *testing.T, u *pillion.Upstream) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	_ = getContext(ctx, t, u, roundTrip(func(req *http.Request) (*http.Response, error) {
		cancel()
		return hang(req)
	}))
}

// begin makes a call and leaves the response body to its caller.
func begin(ctx context.Context, t *testing.T, u *pillion.Upstream, base http.RoundTripper) *http.Response {
	t.Helper()
	resp, err := u.Transport(base).RoundTrip(newRequest(ctx, t))
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// wantStatus compares b's counters with want.
func wantStatus(t *testing.T, b *breaker.Breaker, want breaker.Status) {
	t.Helper()
	if got := b.Status(); got != want {
		t.Errorf("got status %+v, want %+v", got, want)
	}
}

func wantState(t *testing.T, b *breaker.Breaker, want breaker.State) {
	t.Helper()
	if got := b.State(); got != want {
		t.Errorf("got state %v, want %v", got, want)
	}
}

// open opens b: it records at least count failures, and the next call is refused.
func open(t *testing.T, b *breaker.Breaker, count int) *breaker.OpenError {
	t.Helper()
	for range count {
		ticket, err := b.Admit()
		if err != nil {
			t.Fatal(err)
		}
		ticket.Done(breaker.Failure, errBoom)
	}
	return refusalOf(t, b)
}

// refusalOf asks b to admit a call and returns the refusal.
func refusalOf(t *testing.T, b *breaker.Breaker) *breaker.OpenError {
	t.Helper()
	_, err := b.Admit()
	refusal, ok := errors.AsType[*breaker.OpenError](err)
	if !ok {
		t.Fatalf("got error %v, want an OpenError", err)
	}
	return refusal
}
