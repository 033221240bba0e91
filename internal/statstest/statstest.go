// Package statstest reads the statistics of upstreams, for tests.
package statstest

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/policy"
)

// New returns an upstream named recipes whose policies are inside metrics, and its registry.
func New(t *testing.T, policies ...policy.Policy) (*pillion.Upstream, *metrics.Registry) {
	t.Helper()
	registry, err := metrics.NewRegistry(metrics.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	u, err := pillion.New("recipes", append([]policy.Policy{metrics.Config{Registry: registry}}, policies...)...)
	if err != nil {
		t.Fatal(err)
	}
	return u, registry
}

// Used returns the statistics of the upstream recipes that begin with prefix and are not 0. The keys
// are the names without prefix.
func Used(t *testing.T, registry *metrics.Registry, prefix string) map[string]int {
	t.Helper()
	w := httptest.NewRecorder()
	metrics.Handler(registry).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/stats", nil))
	used := map[string]int{}
	for line := range strings.Lines(w.Body.String()) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		name, ok := strings.CutPrefix(name, "cluster.recipes."+prefix)
		if n, err := strconv.Atoi(value); err == nil && n != 0 && ok {
			used[name] = n
		}
	}
	return used
}
