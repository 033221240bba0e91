package health

import (
	"strings"
	"time"
)

// Status is what active health checks know of a host: Envoy's health flags, as far as health
// checks set them.
type Status struct {
	// Failed: the host gets no traffic. Envoy's flag is failed_active_hc.
	Failed bool

	// Degraded: the host gets traffic only if the others cannot take all. Envoy's flag is
	// degraded_active_hc.
	Degraded bool

	// Pending: the host has not been checked yet, and is left out of host counts. Envoy's flag
	// is pending_active_hc; it sets it on new hosts of clusters with
	// ignore_new_hosts_until_first_hc.
	Pending bool

	// Excluded: the host sent x-envoy-immediate-health-check-fail and is left out of host
	// counts. Envoy's flag is excluded_via_immediate_hc_fail. As in Envoy it ends only when
	// a failed host becomes healthy: a host that sent the header with a retriable status, and
	// passed the next check, keeps it.
	Excluded bool

	// TimedOut: the host is failed, and the last check timed out. Envoy's flag is
	// active_hc_timeout.
	TimedOut bool
}

// NewHost is the status with which Envoy adds a host to a cluster with health checks.
func NewHost() Status { return Status{Failed: true} }

// String returns the flags as Envoy's /clusters does, such as "/failed_active_hc", or
// "healthy".
func (s Status) String() string {
	var b strings.Builder
	for _, flag := range []struct {
		set  bool
		name string
	}{
		{s.Failed, "/failed_active_hc"},
		{s.Degraded, "/degraded_active_hc"},
		{s.Pending, "/pending_active_hc"},
		{s.Excluded, "/excluded_via_immediate_hc_fail"},
		{s.TimedOut, "/active_hc_timeout"},
	} {
		if flag.set {
			b.WriteString(flag.name)
		}
	}
	if b.Len() == 0 {
		return "healthy"
	}
	return b.String()
}

// Transition says what a result means for a host's status.
type Transition uint8

// The transitions, as Envoy's HealthTransition.
const (
	// Unchanged: the host is what it was.
	Unchanged Transition = iota
	// ChangePending: more results like this will change the host.
	ChangePending
	// Changed: the host has changed, and load balancing must know.
	Changed
)

// Step is what a result led to.
//
// Steps of [Attempt.Done] and of concurrent calls of [Session.Fail] can reach their callers in
// any order. A caller that keeps a copy of the status reads it with [Session.Status], under the
// lock of the copy, whenever Transition is [Changed].
type Step struct {
	// Transition says whether the host changed.
	Transition Transition

	// Healthy reports whether the check passed. If it did and Status is not Failed, an ejection
	// by outlier detection may end.
	Healthy bool

	// Status is the status from now on.
	Status Status

	// First reports that this was the first result of the session, or its end without any: a
	// caller that waits for the host's first check need not wait longer.
	First bool

	// Events are lines of the health check log, oldest first.
	Events []Event

	// Next is the instant of the next check. It is zero if the step is not the end of a check.
	Next time.Time
}

// EventKind is a kind of event.
type EventKind uint8

// The kinds of events, as in Envoy's HealthCheckEvent.
const (
	// EjectUnhealthy: a healthy host failed.
	EjectUnhealthy EventKind = iota
	// AddHealthy: a failed host became healthy.
	AddHealthy
	// CheckPassed: a check passed and changed nothing, see AlwaysLogSuccess.
	CheckPassed
	// CheckFailed: the first check of a session failed, or any, see AlwaysLogFailures.
	CheckFailed
	// BecameDegraded: a host became degraded.
	BecameDegraded
	// NoLongerDegraded: a host is no longer degraded.
	NoLongerDegraded
)

// String returns the name of the field of Envoy's HealthCheckEvent.
func (k EventKind) String() string {
	names := [...]string{
		"eject_unhealthy_event", "add_healthy_event", "successful_health_check_event", "health_check_failure_event",
		"degraded_healthy_host", "no_longer_degraded_host",
	}
	if int(k) < len(names) {
		return names[k]
	}
	return "unknown"
}

// Event is one line of the health check log.
type Event struct {
	// Kind is what happened.
	Kind EventKind

	// Failure, Code and Err are those of the verdict. They are set for [EjectUnhealthy] and
	// [CheckFailed].
	Failure Failure
	Code    int
	Err     error

	// First reports that the session had no result before.
	First bool
}

// Stat names one statistic of a [Checker].
type Stat uint8

// The statistics, in the order of their names after the prefix health_check. All are counters,
// except [StatDegraded] and [StatHealthy].
const (
	// StatAttempt counts checks that began.
	StatAttempt Stat = iota
	// StatDegraded is the number of degraded hosts, a gauge.
	StatDegraded
	// StatFailure counts all failures.
	StatFailure
	// StatHealthy is the number of hosts that are not failed, a gauge.
	StatHealthy
	// StatNetworkFailure counts failures of the network and timeouts.
	StatNetworkFailure
	// StatPassiveFailure counts failures that ordinary traffic reported.
	StatPassiveFailure
	// StatSuccess counts passed checks.
	StatSuccess
	// StatVerifyCluster counts comparisons of the service's name.
	StatVerifyCluster

	// StatCount is the number of statistics.
	StatCount = iota
)

// String returns Envoy's name, without the prefix "health_check.".
func (s Stat) String() string {
	names := [StatCount]string{
		"attempt", "degraded", "failure", "healthy", "network_failure", "passive_failure", "success", "verify_cluster",
	}
	if s < StatCount {
		return names[s]
	}
	return "unknown"
}

// Gauge reports whether s can fall.
func (s Stat) Gauge() bool { return s == StatDegraded || s == StatHealthy }
