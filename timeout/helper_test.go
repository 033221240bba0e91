package timeout

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ms = time.Millisecond

// never is longer than any timeout in these tests.
const never = 1000 * time.Hour

// server is a round tripper that delays its response headers and each byte of its body. The bytes
// arrive at fixed times even if they are not read.
type server struct {
	status int // 0 for 200
	head   time.Duration
	gaps   []time.Duration
}

func (s server) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := wait(req.Context(), s.head); err != nil {
		return nil, err
	}
	body := &trickle{ctx: req.Context()}
	at := time.Now()
	for _, gap := range s.gaps {
		at = at.Add(gap)
		body.at = append(body.at, at)
	}
	return &http.Response{
		StatusCode: max(s.status, 200), ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Request: req, Body: body,
		ContentLength: -1,
	}, nil
}

// wait waits for d, or until ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// trickle is a body whose bytes arrive one by one.
type trickle struct {
	ctx context.Context
	at  []time.Time
}

func (b *trickle) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	if len(b.at) == 0 {
		return 0, io.EOF
	}
	if err := wait(b.ctx, time.Until(b.at[0])); err != nil {
		return 0, err
	}
	b.at = b.at[1:]
	p[0] = 'x'
	return 1, nil
}

func (b *trickle) Close() error { return nil }

// each passes each request to the next of its servers, and repeats the last.
func each(servers ...http.RoundTripper) http.RoundTripper {
	sent := 0
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		sent++
		return servers[min(sent, len(servers))-1].RoundTrip(req)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// upstream makes an upstream with the name recipes.
func upstream(t *testing.T, policies ...policy.Policy) *pillion.Upstream {
	t.Helper()
	u, err := pillion.New("recipes", policies...)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// apart splits cfg into two policies: in one Config each timeout must be able to fire.
func apart(cfg Config) []policy.Policy {
	attempt := cfg
	attempt.Total, cfg.PerTry, cfg.Idle = Unlimited, 0, 0
	return []policy.Policy{cfg, attempt}
}

// get returns a request.
func get(ctx context.Context) *http.Request {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://recipes/1", nil)
	if err != nil {
		panic(err)
	}
	return req
}

// result is the result of a call.
type result struct {
	code     int // 0 if there was no response
	read     int // bytes of the response body
	err      error
	attempts int
	flags    envoy.Flags
	detail   *envoy.Detail
	elapsed  time.Duration
}

// call makes one call and reads its body byte by byte, with a pause before each.
func call(t *testing.T, u *pillion.Upstream, base http.RoundTripper, req *http.Request, pause time.Duration) (r result) {
	t.Helper()
	ctx, info := pillion.WithInfo(req.Context())
	began := time.Now()
	resp, err := u.Transport(base).RoundTrip(req.WithContext(ctx))
	if r.err = err; err == nil {
		r.code = resp.StatusCode
		r.read, r.err = drain(resp.Body, pause)
		if err := resp.Body.Close(); err != nil {
			t.Errorf("closing the body: %v", err)
		}
	}
	r.attempts, r.flags, r.detail, r.elapsed = info.Attempts(), info.Flags(), info.Detail(), time.Since(began)
	if !info.Done() || fmt.Sprint(info.Err()) != fmt.Sprint(r.err) {
		t.Errorf("got done: %v with %v, want true with %v", info.Done(), info.Err(), r.err)
	}
	return r
}

// drain reads a body to its end.
func drain(body io.Reader, pause time.Duration) (read int, err error) {
	var p [1]byte
	for {
		time.Sleep(pause)
		n, err := body.Read(p[:])
		read += n
		switch {
		case errors.Is(err, io.EOF):
			return read, nil
		case err != nil:
			return read, err
		}
	}
}

// scopeOf returns the scope and the length of the timeout in err, 0 for another error.
func scopeOf(err error) (policy.Scope, time.Duration) {
	var limit *Error
	if !errors.As(err, &limit) {
		return 0, 0
	}
	return limit.Scope, limit.Limit
}

// errBroken is an error that the library does not recognize.
var errBroken = errors.New("broken")
