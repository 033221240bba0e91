package limits

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// ErrMaintenance matches every [*MaintenanceError].
var ErrMaintenance = errors.New("limits: maintenance")

// MaintenanceMode is the detail of a call that a [Maintenance] refused. Mirrors Envoy's
// maintenance_mode.
//
//nolint:gochecknoglobals // a constant, which Go has none of this type
var MaintenanceMode = envoy.NewDetail(envoy.DetailSpec{
	Text: "maintenance_mode", Flags: envoy.UO, Status: http.StatusServiceUnavailable,
	Body: "maintenance mode", Overloaded: true, Counter: "upstream_rq_maintenance_mode",
})

// MaintenanceError says that the upstream of a call is out of service.
type MaintenanceError struct{ Upstream string }

func (e *MaintenanceError) Error() string { return fmt.Sprintf("limits: %s: maintenance", e.Upstream) }

// Is reports whether target is [ErrMaintenance].
func (e *MaintenanceError) Is(target error) bool { return target == ErrMaintenance }

// Maintenance takes upstreams out of service while the program runs, or a share of their calls. It
// is a policy, to stand outside retry: a call that it refuses is not retried. The zero value lets
// all calls through. It is safe for concurrent use, and several upstreams may share it. It must not
// be copied. Mirrors Envoy's runtime key upstream.maintenance_mode.<cluster>.
type Maintenance struct {
	share atomic.Pointer[envoy.Percent] // nil for none
}

// Set has that share of the calls refused from now on. The zero Percent is all calls, a Numerator
// of [envoy.Never] is none. It returns an error, and changes nothing, if share is no valid one.
func (m *Maintenance) Set(share envoy.Percent) error {
	if err := share.Check(); err != nil {
		return fmt.Errorf("limits: Maintenance.Set: %w", err)
	}
	m.share.Store(&share)
	return nil
}

// Place is outside of what retries or hedges.
func (*Maintenance) Place() policy.Place {
	return policy.Place{Rank: policy.PerCall, Name: "maintenance", Why: "would refuse attempts, not calls"}
}

// Wrap has calls of one more upstream refused.
func (m *Maintenance) Wrap(b *policy.Builder, next policy.Func) (policy.Func, error) {
	if m == nil {
		return nil, errors.New("limits: Maintenance is nil; write &limits.Maintenance{}")
	}
	refusal := &MaintenanceError{Upstream: b.Upstream()} // made once: refusing must be cheap
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		if share := m.share.Load(); share != nil && share.Applies(nil) {
			return c.Refuse(refusal, MaintenanceMode)
		}
		return next(ctx, c)
	}, nil
}
