package metrics

import (
	"context"
	"testing"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/limits"
)

// TestLimitsGauges shows what the limits inside offer, while a place is taken and
// after.
func TestLimitsGauges(t *testing.T) {
	r := registry(t, Settings{})
	u := upstream(t, Config{Registry: r}, limits.Config{MaxRequests: 1})
	const url = "/stats?filter=default.rq_open"
	_, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) {
		if got := page(t, r, url); got != "cluster.recipes.circuit_breakers.default.rq_open: 1\n" {
			t.Errorf("while the place is taken: got %q", got)
		}
		return 0, nil
	})
	if got := page(t, r, url); err != nil || got != "cluster.recipes.circuit_breakers.default.rq_open: 0\n" {
		t.Errorf("afterwards: got %q and %v", got, err)
	}
}
