package balance

import "strings"

// Status is the health of a host according to its configuration. It mirrors Envoy's
// config.core.v3.HealthStatus.
type Status uint8

// The states that a configuration can assign to a host.
const (
	StatusUnknown   Status = iota // as StatusHealthy
	StatusHealthy                 // available, unless health checks or outlier detection exclude it
	StatusUnhealthy               // not available
	StatusDraining                // not available, and excluded when the health of its priority is computed
	StatusTimeout                 // as StatusUnhealthy
	StatusDegraded                // available if there are too few healthy hosts
)

// flags returns the flags of the status.
func (s Status) flags() Flags {
	switch s {
	case StatusUnhealthy, StatusTimeout:
		return FailedEDSHealth
	case StatusDraining:
		return EDSDraining
	case StatusDegraded:
		return DegradedEDSHealth
	default:
		return 0
	}
}

// Flags are the reasons why a host is not healthy. They mirror Envoy's
// Host::HealthFlag.
type Flags uint32

// The flags of a host, with Envoy's values.
const (
	FailedActiveHC           Flags = 1 << iota // failing active health checks
	FailedOutlierCheck                         // ejected by the outlier detector
	FailedEDSHealth                            // StatusUnhealthy or StatusTimeout
	DegradedActiveHC                           // degraded by active health checks
	DegradedEDSHealth                          // StatusDegraded
	PendingDynamicRemoval                      // no longer configured, but its active health checks pass
	PendingActiveHC                            // waiting for the first active health check
	ExcludedImmediateHCFail                    // excluded because the host requested it
	ActiveHCTimeout                            // the last active health check timed out
	EDSDraining                                // StatusDraining
	DegradedOutlierDetection                   // degraded by the outlier detector
)

const (
	unhealthyFlags = FailedActiveHC | FailedOutlierCheck | FailedEDSHealth | EDSDraining
	degradedFlags  = DegradedActiveHC | DegradedEDSHealth | DegradedOutlierDetection
	excludedFlags  = PendingActiveHC | ExcludedImmediateHCFail | EDSDraining
	staticFlags    = FailedEDSHealth | DegradedEDSHealth | EDSDraining // those of a Status
)

// Has reports whether any of the given flags is set.
func (f Flags) Has(some Flags) bool { return f&some != 0 }

// Health returns the health of a host with these flags.
func (f Flags) Health() Health {
	switch {
	case f.Has(unhealthyFlags):
		return Unhealthy
	case f.Has(degradedFlags):
		return Degraded
	default:
		return Healthy
	}
}

// Excluded reports whether a host with these flags is excluded when the health of its
// priority is computed.
func (f Flags) Excluded() bool { return f.Has(excludedFlags) }

// String returns the flags in the form of Envoy's admin interface, such as
// "/failed_active_hc/failed_outlier_check", or "healthy".
func (f Flags) String() string {
	if f == 0 {
		return "healthy"
	}
	var text strings.Builder
	for i, name := range [...]string{
		"/failed_active_hc", "/failed_outlier_check", "/failed_eds_health", "/degraded_active_hc",
		"/degraded_eds_health", "/pending_dynamic_removal", "/pending_active_hc",
		"/excluded_via_immediate_hc_fail", "/active_hc_timeout", "/eds_status_draining",
		"/degraded_outlier_detection",
	} {
		if f.Has(1 << i) {
			text.WriteString(name)
		}
	}
	return text.String()
}

// Health is the health of a host by its flags. It mirrors Envoy's Host::Health.
type Health uint8

// The three degrees of health.
const (
	Healthy   Health = iota // used first
	Degraded                // used if there are too few healthy hosts
	Unhealthy               // used only in panic
)

// String returns "healthy", "degraded" or "unhealthy".
func (h Health) String() string {
	switch h {
	case Healthy:
		return "healthy"
	case Degraded:
		return "degraded"
	default:
		return "unhealthy"
	}
}
