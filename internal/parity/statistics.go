package parity

import (
	"regexp"
	"strings"
)

// sharedNames are Envoy's statistics of a cluster that a client library can observe.
// Statistics of connections and of the queue for them are not included, because they depend
// on the connection pool. CATEGORY stands for internal, external, canary, retry, or a name
// that a caller chose; NNN stands for a code and Nxx for its class; METHOD stands for a
// method and one of its counters.
const sharedNames = `
CATEGORY.upstream_rq_NNN
CATEGORY.upstream_rq_Nxx
CATEGORY.upstream_rq_completed
CATEGORY.upstream_rq_time
circuit_breakers.default.remaining_retries
circuit_breakers.default.remaining_rq
circuit_breakers.default.rq_open
circuit_breakers.default.rq_retry_open
circuit_breakers.high.rq_open
circuit_breakers.high.rq_retry_open
grpc.METHOD
outlier_detection.ejections_active
outlier_detection.ejections_consecutive_5xx
outlier_detection.ejections_detected_consecutive_5xx
outlier_detection.ejections_detected_consecutive_gateway_failure
outlier_detection.ejections_detected_consecutive_local_origin_failure
outlier_detection.ejections_detected_failure_percentage
outlier_detection.ejections_detected_local_origin_failure_percentage
outlier_detection.ejections_detected_local_origin_success_rate
outlier_detection.ejections_detected_success_rate
outlier_detection.ejections_enforced_consecutive_5xx
outlier_detection.ejections_enforced_consecutive_gateway_failure
outlier_detection.ejections_enforced_consecutive_local_origin_failure
outlier_detection.ejections_enforced_failure_percentage
outlier_detection.ejections_enforced_local_origin_failure_percentage
outlier_detection.ejections_enforced_local_origin_success_rate
outlier_detection.ejections_enforced_success_rate
outlier_detection.ejections_enforced_total
outlier_detection.ejections_overflow
outlier_detection.ejections_success_rate
outlier_detection.ejections_total
retry_or_shadow_abandoned
upstream_cx_none_healthy
upstream_internal_redirect_failed_total
upstream_internal_redirect_succeeded_total
upstream_rq_NNN
upstream_rq_Nxx
upstream_rq_active
upstream_rq_active_overflow
upstream_rq_body_size
upstream_rq_completed
upstream_rq_maintenance_mode
upstream_rq_max_duration_reached
upstream_rq_pending_overflow
upstream_rq_per_try_idle_timeout
upstream_rq_per_try_timeout
upstream_rq_retry
upstream_rq_retry_backoff_exponential
upstream_rq_retry_backoff_ratelimited
upstream_rq_retry_limit_exceeded
upstream_rq_retry_overflow
upstream_rq_retry_success
upstream_rq_time
upstream_rq_timeout
upstream_rq_timeout_budget_per_try_percent_used
upstream_rq_timeout_budget_percent_used
upstream_rq_total
upstream_rs_body_size
`

//nolint:gochecknoglobals // read-only patterns
var (
	shared          = sharedPattern(`cluster\.`+clusterName+`\.`, "", `.`)
	sharedHistogram = sharedPattern(`envoy_cluster_`, `\{envoy_cluster_name="`+clusterName+`"\}`, `_`)
)

// sharedPattern matches all of sharedNames between before and after; dot replaces the dots.
func sharedPattern(before, after, dot string) *regexp.Regexp {
	var names []string
	for name := range strings.FieldsSeq(sharedNames) {
		name = regexp.QuoteMeta(strings.ReplaceAll(name, ".", dot))
		name = strings.Replace(name, "CATEGORY", `(internal|external|canary|retry|alt|alt[._]internal)`, 1)
		name = strings.Replace(name, "NNN", `\d\d\d`, 1)
		name = strings.Replace(name, "METHOD", `pkg\.Svc\.Method\.\w+`, 1)
		names = append(names, strings.Replace(name, "Nxx", `\dxx`, 1))
	}
	return regexp.MustCompile("^" + before + "(" + strings.Join(names, "|") + ")" + after + "$")
}

// isShared reports whether a counter or gauge is compared.
func isShared(name string) bool { return shared.MatchString(name) }

// isSharedHistogram reports whether a histogram, by its Prometheus name, is compared.
func isSharedHistogram(name string) bool { return sharedHistogram.MatchString(name) }
