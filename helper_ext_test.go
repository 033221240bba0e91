package pillion_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/timeout"
)

var errBroken = errors.New("broken")

// newUpstream makes an upstream with the name recipes.
func newUpstream(t *testing.T, policies ...pillion.Policy) *pillion.Upstream {
	t.Helper()
	u, err := pillion.New("recipes", policies...)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// get returns a request for soup.
func get(ctx context.Context, t *testing.T) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://recipes.test/soup", nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// roundTripper is a function as a RoundTripper.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// answer returns a complete response with a text.
func answer(status int, text string) *http.Response {
	return &http.Response{
		StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: io.NopCloser(strings.NewReader(text)), ContentLength: int64(len(text)),
	}
}

// answers returns a server that sends the same response to each request.
func answers(status int, text string) roundTripper {
	return func(*http.Request) (*http.Response, error) { return answer(status, text), nil }
}

// streams returns a server whose response has this body.
func streams(body io.ReadCloser) roundTripper {
	return func(*http.Request) (*http.Response, error) {
		resp := answer(http.StatusOK, "")
		resp.Body, resp.ContentLength = body, -1
		return resp, nil
	}
}

// policyFunc is a function as a Policy.
type policyFunc func(s *policy.Builder, next policy.Func) (policy.Func, error)

func (p policyFunc) Wrap(s *policy.Builder, next policy.Func) (policy.Func, error) { return p(s, next) }

// around returns a policy with only this function, wrapped anew for each upstream.
func around(f func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome) pillion.Policy {
	return policyFunc(func(_ *policy.Builder, next policy.Func) (policy.Func, error) {
		return func(ctx context.Context, c *policy.Call) *policy.Outcome { return f(ctx, c, next) }, nil
	})
}

// atEnd returns a policy with an end hook.
func atEnd(hook policy.Hook) pillion.Policy {
	return around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
		o := next(ctx, c)
		o.OnEnd(c, hook)
		return o
	})
}

// before returns a policy that calls a function before next.
func before(f func(c *policy.Call)) pillion.Policy {
	return around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
		f(c)
		return next(ctx, c)
	})
}

// apart returns c as two policies. All limits of one Config must be able to fire.
func apart(c timeout.Config) []pillion.Policy {
	attempt := c
	attempt.Total, c.PerTry, c.Idle = timeout.Unlimited, 0, 0
	return []pillion.Policy{c, attempt}
}

// needCancel is a policy that asks for a context for each attempt.
var needCancel = policyFunc(func(s *policy.Builder, next policy.Func) (policy.Func, error) {
	s.Require(policy.Needs{Cancel: true})
	return next, nil
})

// journal records lines, from any goroutine.
type journal struct {
	mu    sync.Mutex
	lines []string // guarded by mu
}

func (j *journal) add(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]string(nil), j.lines...)
}

// tape is a body whose pieces arrive at fixed times, even if they are not read, and whose end is
// err. It honors ctx and Close.
type tape struct {
	ctx    context.Context
	pieces []piece
	err    error
	once   sync.Once
	shut   chan struct{}
}

type piece struct {
	at   time.Time
	text string
}

func newTape(ctx context.Context, err error, pieces ...piece) *tape {
	return &tape{ctx: ctx, pieces: pieces, err: err, shut: make(chan struct{})}
}

func (b *tape) Read(p []byte) (int, error) {
	select {
	case <-b.shut:
		return 0, http.ErrBodyReadAfterClose
	default:
	}
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	if len(b.pieces) == 0 {
		return 0, b.err
	}
	timer := time.NewTimer(time.Until(b.pieces[0].at))
	defer timer.Stop()
	select {
	case <-b.shut:
		return 0, http.ErrBodyReadAfterClose
	case <-b.ctx.Done():
		return 0, b.ctx.Err()
	case <-timer.C:
	}
	n := copy(p, b.pieces[0].text)
	if b.pieces[0].text = b.pieces[0].text[n:]; b.pieces[0].text == "" {
		b.pieces = b.pieces[1:]
	}
	return n, nil
}

func (b *tape) Close() error {
	b.once.Do(func() { close(b.shut) })
	return nil
}

// scopeOf returns the scope of a timeout error, 0 for another error.
func scopeOf(err error) policy.Scope {
	if limit, ok := errors.AsType[*pillion.TimeoutError](err); ok {
		return limit.Scope
	}
	return 0
}

// never is longer than any limit of a test.
const never = 1000 * time.Hour
