package fault

import (
	"context"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/internal/statstest"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// kitchen is an upstream and its statistics. It is also the base transport, and counts requests.
type kitchen struct {
	*pillion.Upstream
	registry *metrics.Registry
	requests atomic.Int64
	reply    func(*http.Request) (*http.Response, error) // nil for a 200
}

// newKitchen returns an upstream named recipes with policies. The first policy is outside metrics.
func newKitchen(t *testing.T, policies ...policy.Policy) *kitchen {
	t.Helper()
	registry, err := metrics.NewRegistry(metrics.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	u, err := pillion.New("recipes", slices.Insert(policies, 1, policy.Policy(metrics.Config{Registry: registry}))...)
	if err != nil {
		t.Fatal(err)
	}
	return &kitchen{Upstream: u, registry: registry}
}

// RoundTrip responds as the upstream's server.
func (k *kitchen) RoundTrip(req *http.Request) (*http.Response, error) {
	k.requests.Add(1)
	if k.reply != nil {
		return k.reply(req)
	}
	return response(req, 200, strings.NewReader("soup")), nil
}

func response(req *http.Request, code int, body io.Reader) *http.Response {
	return &http.Response{
		StatusCode: code, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Request: req,
		Body: io.NopCloser(body), ContentLength: -1,
	}
}

// get makes a call. headers are the names and values of the request's headers, in turn.
func (k *kitchen) get(ctx context.Context, headers ...string) (*http.Response, *pillion.Info, error) {
	ctx, info := pillion.WithInfo(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://recipes/1", nil)
	if err != nil {
		return nil, nil, err
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := k.Transport(k).RoundTrip(req)
	return resp, info, err
}

// status makes a call, reads its response to the end, and returns the status.
func (k *kitchen) status(t *testing.T, headers ...string) int {
	t.Helper()
	resp, _, err := k.get(t.Context(), headers...)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode
}

// stats returns the statistics that contain word in their names and are not 0. The keys are the names
// after "cluster.recipes.".
func (k *kitchen) stats(t *testing.T, word string) map[string]int {
	t.Helper()
	used := statstest.Used(t, k.registry, "")
	maps.DeleteFunc(used, func(name string, _ int) bool { return !strings.Contains(name, word) })
	return used
}
