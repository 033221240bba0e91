package outlier

// Kind is a kind of detection. It mirrors Envoy's OutlierEjectionType.
type Kind uint8

// The kinds of detection.
const (
	// Consecutive5xx is a run of 5xx results.
	Consecutive5xx Kind = iota
	// ConsecutiveGatewayFailure is a run of 502, 503 and 504.
	ConsecutiveGatewayFailure
	// ConsecutiveLocalOriginFailure is a run of local origin failures.
	ConsecutiveLocalOriginFailure
	// SuccessRate is a success rate far below the mean.
	SuccessRate
	// SuccessRateLocalOrigin is SuccessRate of local origin results.
	SuccessRateLocalOrigin
	// FailurePercentage is a share of failures that is too high.
	FailurePercentage
	// FailurePercentageLocalOrigin is FailurePercentage of local origin results.
	FailurePercentageLocalOrigin
	// Degraded is a response with x-envoy-degraded. It marks its host as degraded and does not
	// eject it.
	Degraded
)

// String returns the name that Envoy's outlier detection log uses.
func (k Kind) String() string {
	names := [...]string{
		"CONSECUTIVE_5XX", "CONSECUTIVE_GATEWAY_FAILURE", "CONSECUTIVE_LOCAL_ORIGIN_FAILURE",
		"SUCCESS_RATE", "SUCCESS_RATE_LOCAL_ORIGIN", "FAILURE_PERCENTAGE", "FAILURE_PERCENTAGE_LOCAL_ORIGIN",
		"DEGRADED",
	}
	if int(k) < len(names) {
		return names[k]
	}
	return "UNKNOWN"
}

// Stat names one statistic of a [Detector].
type Stat uint8

// The statistics, in the order of their names after the prefix outlier_detection. All are
// counters, except [EjectionsActive].
const (
	// EjectionsActive is the number of ejected hosts, a gauge.
	EjectionsActive Stat = iota
	// EjectionsConsecutive5xx is deprecated. It equals EjectionsDetectedConsecutive5xx.
	EjectionsConsecutive5xx
	// EjectionsDetectedConsecutive5xx counts detected runs of 5xx. Like all EjectionsDetected
	// statistics, it includes detections that were not enforced.
	EjectionsDetectedConsecutive5xx
	// EjectionsDetectedConsecutiveGatewayFailure counts detected runs of gateway failures.
	EjectionsDetectedConsecutiveGatewayFailure
	// EjectionsDetectedConsecutiveLocalOriginFailure counts detected runs of local origin
	// failures.
	EjectionsDetectedConsecutiveLocalOriginFailure
	// EjectionsDetectedDegradation counts hosts that were marked as degraded.
	EjectionsDetectedDegradation
	// EjectionsDetectedFailurePercentage counts failure percentages that were too high.
	EjectionsDetectedFailurePercentage
	// EjectionsDetectedLocalOriginFailurePercentage counts those of local origin.
	EjectionsDetectedLocalOriginFailurePercentage
	// EjectionsDetectedLocalOriginSuccessRate counts success rates of local origin that were
	// too low.
	EjectionsDetectedLocalOriginSuccessRate
	// EjectionsDetectedSuccessRate counts success rates that were too low.
	EjectionsDetectedSuccessRate
	// EjectionsEnforcedConsecutive5xx counts ejections by a run of 5xx.
	EjectionsEnforcedConsecutive5xx
	// EjectionsEnforcedConsecutiveGatewayFailure counts ejections by a run of gateway failures.
	EjectionsEnforcedConsecutiveGatewayFailure
	// EjectionsEnforcedConsecutiveLocalOriginFailure counts ejections by a run of local origin
	// failures.
	EjectionsEnforcedConsecutiveLocalOriginFailure
	// EjectionsEnforcedFailurePercentage counts ejections by failure percentage.
	EjectionsEnforcedFailurePercentage
	// EjectionsEnforcedLocalOriginFailurePercentage counts those of local origin.
	EjectionsEnforcedLocalOriginFailurePercentage
	// EjectionsEnforcedLocalOriginSuccessRate counts ejections by success rate of local origin.
	EjectionsEnforcedLocalOriginSuccessRate
	// EjectionsEnforcedSuccessRate counts ejections by success rate.
	EjectionsEnforcedSuccessRate
	// EjectionsEnforcedTotal counts all ejections.
	EjectionsEnforcedTotal
	// EjectionsOverflow counts detections whose ejection MaxEjectionPercent prevented.
	EjectionsOverflow
	// EjectionsSuccessRate is deprecated: it counts both kinds of success rate detections.
	EjectionsSuccessRate
	// EjectionsTotal is deprecated: it counts detections by 5xx and success rate that
	// MaxEjectionPercent allowed, enforced or not.
	EjectionsTotal

	// StatCount is the number of statistics.
	StatCount = iota
)

// String returns Envoy's name, without the prefix "outlier_detection.".
func (s Stat) String() string {
	names := [StatCount]string{
		"ejections_active",
		"ejections_consecutive_5xx",
		"ejections_detected_consecutive_5xx",
		"ejections_detected_consecutive_gateway_failure",
		"ejections_detected_consecutive_local_origin_failure",
		"ejections_detected_degradation",
		"ejections_detected_failure_percentage",
		"ejections_detected_local_origin_failure_percentage",
		"ejections_detected_local_origin_success_rate",
		"ejections_detected_success_rate",
		"ejections_enforced_consecutive_5xx",
		"ejections_enforced_consecutive_gateway_failure",
		"ejections_enforced_consecutive_local_origin_failure",
		"ejections_enforced_failure_percentage",
		"ejections_enforced_local_origin_failure_percentage",
		"ejections_enforced_local_origin_success_rate",
		"ejections_enforced_success_rate",
		"ejections_enforced_total",
		"ejections_overflow",
		"ejections_success_rate",
		"ejections_total",
	}
	if s < StatCount {
		return names[s]
	}
	return "unknown"
}

// Gauge reports whether s is a gauge.
func (s Stat) Gauge() bool { return s == EjectionsActive }

// detected returns the statistic of detections of kind k.
func (k Kind) detected() Stat {
	return [...]Stat{
		EjectionsDetectedConsecutive5xx, EjectionsDetectedConsecutiveGatewayFailure, EjectionsDetectedConsecutiveLocalOriginFailure,
		EjectionsDetectedSuccessRate, EjectionsDetectedLocalOriginSuccessRate,
		EjectionsDetectedFailurePercentage, EjectionsDetectedLocalOriginFailurePercentage,
		EjectionsDetectedDegradation,
	}[k]
}

// enforced returns the statistic of ejections by kind k, which is not Degraded.
func (k Kind) enforced() Stat {
	return [...]Stat{
		EjectionsEnforcedConsecutive5xx, EjectionsEnforcedConsecutiveGatewayFailure, EjectionsEnforcedConsecutiveLocalOriginFailure,
		EjectionsEnforcedSuccessRate, EjectionsEnforcedLocalOriginSuccessRate,
		EjectionsEnforcedFailurePercentage, EjectionsEnforcedLocalOriginFailurePercentage,
	}[k]
}

// deprecatedTotal reports whether EjectionsTotal counts k.
func (k Kind) deprecatedTotal() bool { return k == Consecutive5xx || k == SuccessRate }
