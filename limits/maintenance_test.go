package limits

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/policytest"
	"github.com/pillion-go/pillion/retry"
)

// TestMaintenance pins the outcome of calls before, during and after maintenance, and the statistics.
func TestMaintenance(t *testing.T) {
	registry, err := metrics.NewRegistry(metrics.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	var down Maintenance
	u := upstream(t, pillion.Options{LocalReplies: true}, metrics.Config{Registry: registry}, &down, retry.Config{On: "5xx"})
	status := func() (int, *pillion.Info) {
		ctx, info := pillion.WithInfo(t.Context())
		resp, err := send(ctx, u, answer(200, strings.NewReader("soup")))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusServiceUnavailable && (string(body) != "maintenance mode" || resp.Header.Get("X-Envoy-Overloaded") != "true") {
			t.Errorf("got %q and %v, want Envoy's local reply", body, resp.Header)
		}
		return resp.StatusCode, info
	}
	for _, step := range []struct {
		set  *envoy.Percent
		want int
	}{{nil, 200}, {&envoy.Percent{}, 503}, {&envoy.Percent{Numerator: envoy.Never}, 200}} {
		if step.set != nil {
			if err := down.Set(*step.set); err != nil {
				t.Fatal(err)
			}
		}
		got, info := status()
		if got != step.want {
			t.Errorf("%v: got %d, want %d", step.set, got, step.want)
		}
		if got == http.StatusServiceUnavailable && (info.Attempts() != 0 || info.Flags() != envoy.UO || info.Detail() != MaintenanceMode || !errors.Is(info.Err(), ErrMaintenance)) {
			t.Errorf("got %d attempts, %v, %v and %v", info.Attempts(), info.Flags(), info.Detail(), info.Err())
		}
	}
	w := httptest.NewRecorder()
	metrics.Handler(registry).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/stats", nil))
	for _, want := range []string{"recipes.upstream_rq_maintenance_mode: 1", "recipes.upstream_rq_503: 1", "recipes.upstream_rq_200: 2", "recipes.upstream_rq_total: 2"} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("got no %q in the statistics", want)
		}
	}
}

// TestMaintenance_invalid pins the errors of an invalid share, a nil Maintenance and a wrong place.
func TestMaintenance_invalid(t *testing.T) {
	var down Maintenance
	if err := down.Set(envoy.Percent{Numerator: -5}); err == nil || !strings.HasPrefix(err.Error(), "limits: Maintenance.Set: Numerator: -5") {
		t.Errorf("got %v", err)
	}
	u := upstream(t, &down)
	if _, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 0, nil }); err != nil {
		t.Errorf("after an error: got %v, want no change", err)
	}
	if _, err := pillion.New("recipes", (*Maintenance)(nil)); err == nil || !strings.Contains(err.Error(), "Maintenance is nil") {
		t.Errorf("got %v", err)
	}
	if _, err := pillion.New("recipes", retry.Config{}, &down); err == nil || !strings.Contains(err.Error(), "retry outside maintenance would refuse attempts") {
		t.Errorf("got %v", err)
	}
}

func TestMaintenance_contract(t *testing.T) {
	policytest.Policy(t, func() policy.Policy {
		m := &Maintenance{}
		if err := m.Set(envoy.Percent{Numerator: 50}); err != nil {
			t.Error(err)
		}
		return m
	})
}
