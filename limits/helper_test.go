package limits

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// roundTripper adapts a function to http.RoundTripper.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// answer responds with a status and a body.
func answer(code int, body io.Reader) roundTripper {
	return func(req *http.Request) (*http.Response, error) {
		return &http.Response{
			StatusCode: code, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Request: req,
			Body: io.NopCloser(body), ContentLength: -1,
		}, nil
	}
}

// upstream makes an upstream with the name recipes.
func upstream(t *testing.T, policies ...policy.Policy) *pillion.Upstream {
	t.Helper()
	u, err := pillion.New("recipes", policies...)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// send makes one call.
func send(ctx context.Context, u *pillion.Upstream, base http.RoundTripper) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://recipes/1", nil)
	if err != nil {
		return nil, err
	}
	return u.Transport(base).RoundTrip(req)
}

// open makes a call whose response is not read, so that it holds a slot.
func open(ctx context.Context, t *testing.T, u *pillion.Upstream) *http.Response {
	t.Helper()
	resp, err := send(ctx, u, answer(200, strings.NewReader("soup")))
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// full reports whether the upstream has no free slot.
func full(t *testing.T, u *pillion.Upstream) bool {
	t.Helper()
	_, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 0, nil })
	if err != nil && !errors.Is(err, ErrFull) {
		t.Fatalf("got %v, want none or ErrFull", err)
	}
	return err != nil
}

// errBroken is an error that the library does not recognize.
var errBroken = errors.New("broken")
