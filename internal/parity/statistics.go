package parity

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// sharedNames are Envoy's statistics of a cluster that a client library can observe.
// CATEGORY stands for internal, external, canary, retry, or a name
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
upstream_rq_headers_count
upstream_rq_headers_size
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
upstream_rs_headers_count
upstream_rs_headers_size
`

// virtualNames are those of a virtual cluster.
const virtualNames = `
upstream_rq_NNN
upstream_rq_Nxx
upstream_rq_completed
upstream_rq_retry
upstream_rq_retry_limit_exceeded
upstream_rq_retry_overflow
upstream_rq_retry_success
upstream_rq_time
upstream_rq_timeout
upstream_rq_total
`

// pooledNames are those of pool, queue and balancer, which only a library with hosts of its own
// can see.
const pooledNames = `
circuit_breakers.default.cx_open
circuit_breakers.default.cx_pool_open
circuit_breakers.default.remaining_cx
circuit_breakers.default.remaining_pending
circuit_breakers.default.rq_pending_open
circuit_breakers.high.cx_open
circuit_breakers.high.cx_pool_open
circuit_breakers.high.remaining_cx
circuit_breakers.high.remaining_pending
circuit_breakers.high.remaining_retries
circuit_breakers.high.remaining_rq
circuit_breakers.high.rq_pending_open
lb_healthy_panic
membership_change
membership_degraded
membership_excluded
membership_healthy
membership_total
ring_hash_lb.size
upstream_cx_active
upstream_cx_close_notify
upstream_cx_connect_fail
upstream_cx_connect_ms
upstream_cx_connect_timeout
upstream_cx_destroy
upstream_cx_destroy_local
upstream_cx_destroy_local_with_active_rq
upstream_cx_destroy_remote
upstream_cx_destroy_remote_with_active_rq
upstream_cx_destroy_with_active_rq
upstream_cx_http1_total
upstream_cx_http2_total
upstream_cx_idle_timeout
upstream_cx_length_ms
upstream_cx_max_duration_reached
upstream_cx_max_requests
upstream_cx_overflow
upstream_cx_protocol_error
upstream_cx_total
upstream_rq_cancelled
upstream_rq_pending_active
upstream_rq_pending_failure_eject
upstream_rq_pending_total
upstream_rq_per_cx
upstream_rq_rx_reset
upstream_rq_tx_reset
`

//nolint:gochecknoglobals // read-only patterns
var (
	shared           = sharedPattern(sharedNames+pooledNames, `cluster\.`+clusterName+`\.`, "", `.`)
	sharedHistogram  = sharedPattern(sharedNames+pooledNames, `envoy_cluster_`, `\{envoy_cluster_name="`+clusterName+`"\}`, `_`)
	virtual          = sharedPattern(virtualNames, `vhost\.`+virtualHost+`\.vcluster\.\w+\.`, "", `.`)
	virtualHistogram = sharedPattern(virtualNames, `envoy_vhost_vcluster_`, `\{envoy_virtual_cluster="\w+",envoy_virtual_host="`+virtualHost+`"\}`, `_`)
	pooled           = sharedPattern(pooledNames, `cluster\.`+clusterName+`\.`, "", `.`)
	pooledHistogram  = sharedPattern(pooledNames, `envoy_cluster_`, `\{envoy_cluster_name="`+clusterName+`"\}`, `_`)
)

// sharedPattern matches all names of list between before and after; dot replaces the dots.
func sharedPattern(list, before, after, dot string) *regexp.Regexp {
	var names []string
	for name := range strings.FieldsSeq(list) {
		name = regexp.QuoteMeta(strings.ReplaceAll(name, ".", dot))
		name = strings.Replace(name, "CATEGORY", `(internal|external|canary|retry|alt|alt[._]internal)`, 1)
		name = strings.Replace(name, "NNN", `\d\d\d`, 1)
		name = strings.Replace(name, "METHOD", `pkg\.Svc\.Method\.\w+`, 1)
		names = append(names, strings.Replace(name, "Nxx", `\dxx`, 1))
	}
	return regexp.MustCompile("^" + before + "(" + strings.Join(names, "|") + ")" + after + "$")
}

// isShared reports whether a counter or gauge is compared.
func isShared(name string) bool { return shared.MatchString(name) || virtual.MatchString(name) }

// isSharedHistogram reports whether a histogram, by its Prometheus name, is compared.
func isSharedHistogram(name string) bool {
	return sharedHistogram.MatchString(name) || virtualHistogram.MatchString(name)
}

// withoutPool takes the statistics of pool, queue and balancer out of what was seen.
func (o *Observed) withoutPool() {
	for _, numbers := range append(slices.Collect(maps.Values(o.Snapshots)), o.Stats, o.Histograms) {
		maps.DeleteFunc(numbers, func(name string, _ uint64) bool { return pooled.MatchString(name) || pooledHistogram.MatchString(name) })
	}
}
