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
//nolint:gochecknoglobals // a constant of a type that Go has no constants of
var MaintenanceMode = envoy.NewDetail(envoy.DetailSpec{
	Text: "maintenance_mode", Flags: envoy.UO, Status: http.StatusServiceUnavailable,
	Body: "maintenance mode", Overloaded: true, Counter: "upstream_rq_maintenance_mode",
})

// MaintenanceError is the error of a call that a [Maintenance] refused.
type MaintenanceError struct{ Upstream string }

func (e *MaintenanceError) Error() string { return fmt.Sprintf("limits: %s: maintenance", e.Upstream) }

// Is reports whether target is [ErrMaintenance].
func (e *MaintenanceError) Is(target error) bool { return target == ErrMaintenance }

// Maintenance refuses all calls of an upstream, or a share of them, while the program runs. It is a
// policy that must be outside retry, so that refused calls are not retried. Several upstreams can use
// the same Maintenance. The zero value refuses no calls. It is safe for concurrent use, and must not
// be copied. Mirrors Envoy's runtime key upstream.maintenance_mode.<cluster>.
//
// A refused call returns a [*MaintenanceError], or a local reply 503, and has the response flag UO.
type Maintenance struct {
	share atomic.Pointer[envoy.Percent] // nil for no calls
}

// Set sets the share of the calls that are refused from now on. The zero Percent means all calls; a
// Numerator of [envoy.Never] means none. If share is invalid, Set returns an error and changes
// nothing.
func (m *Maintenance) Set(share envoy.Percent) error {
	if err := share.Check(); err != nil {
		return fmt.Errorf("limits: Maintenance.Set: %w", err)
	}
	m.share.Store(&share)
	return nil
}

// Place returns a place outside retry and hedge policies.
func (*Maintenance) Place() policy.Place {
	return policy.Place{Rank: policy.PerCall, Name: "maintenance", Why: "would refuse attempts, not calls"}
}

// Wrap wraps next and refuses calls.
func (m *Maintenance) Wrap(b *policy.Builder, next policy.Func) (policy.Func, error) {
	if m == nil {
		return nil, errors.New("limits: Maintenance is nil; write &limits.Maintenance{}")
	}
	refusal := &MaintenanceError{Upstream: b.Upstream()} // made once, so that a refusal is cheap
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		if share := m.share.Load(); share != nil && share.Applies(nil) {
			return c.Refuse(refusal, MaintenanceMode)
		}
		return next(ctx, c)
	}, nil
}
