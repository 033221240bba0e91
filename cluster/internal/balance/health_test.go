package balance

import (
	"testing"
)

func TestStatus(t *testing.T) {
	tests := []struct {
		status   Status
		health   Health
		excluded bool
		text     string
	}{
		{StatusUnknown, Healthy, false, "healthy"},
		{StatusHealthy, Healthy, false, "healthy"},
		{StatusUnhealthy, Unhealthy, false, "/failed_eds_health"},
		{StatusDraining, Unhealthy, true, "/eds_status_draining"},
		{StatusTimeout, Unhealthy, false, "/failed_eds_health"},
		{StatusDegraded, Degraded, false, "/degraded_eds_health"},
		{Status(99), Healthy, false, "healthy"},
	}
	for _, test := range tests {
		h := NewHost(Endpoint{Status: test.status})
		f := h.Flags()
		if h.Health() != test.health || f.Health() != test.health || f.Excluded() != test.excluded || f.String() != test.text {
			t.Errorf("status %d: got %v, excluded %v, %q, want %v, %v, %q", test.status, h.Health(), f.Excluded(), f, test.health, test.excluded, test.text)
		}
	}
}

func TestFlags(t *testing.T) {
	tests := []struct {
		flags    Flags
		health   Health
		excluded bool
		text     string
	}{
		{0, Healthy, false, "healthy"},
		{FailedActiveHC, Unhealthy, false, "/failed_active_hc"},
		{FailedOutlierCheck | FailedActiveHC, Unhealthy, false, "/failed_active_hc/failed_outlier_check"},
		{DegradedActiveHC, Degraded, false, "/degraded_active_hc"},
		{DegradedOutlierDetection, Degraded, false, "/degraded_outlier_detection"},
		{DegradedEDSHealth | EDSDraining, Unhealthy, true, "/degraded_eds_health/eds_status_draining"},
		{PendingDynamicRemoval, Healthy, false, "/pending_dynamic_removal"},
		{FailedActiveHC | PendingActiveHC, Unhealthy, true, "/failed_active_hc/pending_active_hc"},
		{FailedActiveHC | ExcludedImmediateHCFail | ActiveHCTimeout, Unhealthy, true, "/failed_active_hc/excluded_via_immediate_hc_fail/active_hc_timeout"},
		{1 << 30, Healthy, false, ""},
	}
	for _, test := range tests {
		if f := test.flags; f.Health() != test.health || f.Excluded() != test.excluded || f.String() != test.text {
			t.Errorf("%b: got %v, excluded %v, %q, want %v, %v, %q", uint32(f), f.Health(), f.Excluded(), f, test.health, test.excluded, test.text)
		}
	}
	if DegradedOutlierDetection != 0x400 || ExcludedImmediateHCFail != 0x80 {
		t.Error("the flags do not have Envoy's values")
	}
	for h, want := range map[Health]string{Healthy: "healthy", Degraded: "degraded", Unhealthy: "unhealthy", 9: "unhealthy"} {
		if h.String() != want {
			t.Errorf("Health(%d): got %q, want %q", h, h, want)
		}
	}
}
