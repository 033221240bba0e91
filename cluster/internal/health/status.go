package health

import (
	"strings"
	"time"
)

// Status is the state of a host by its active health checks: those of Envoy's health flags that
// health checks set.
type Status struct {
	// Failed: the host receives no traffic. Envoy's flag is failed_active_hc.
	Failed bool

	// Degraded: the host receives traffic only if there are too few healthy hosts. Envoy's flag
	// is degraded_active_hc.
	Degraded bool

	// Pending: the host has not been checked yet, and is excluded from host counts. Envoy's flag
	// is pending_active_hc; Envoy sets it on new hosts of clusters with
	// ignore_new_hosts_until_first_hc.
	Pending bool

	// Excluded: the host sent x-envoy-immediate-health-check-fail and is excluded from host
	// counts. Envoy's flag is excluded_via_immediate_hc_fail. As in Envoy it is reset only when a
	// failed host becomes healthy: a host that sent the header with a retriable status, and
	// passed the next check, keeps the flag.
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

// Transition is the effect of a result on a host's status. It mirrors Envoy's HealthTransition.
type Transition uint8

// The transitions.
const (
	// Unchanged: the status is the same.
	Unchanged Transition = iota
	// ChangePending: more results like this will change the host.
	ChangePending
	// Changed: the status has changed, and load balancing must be updated.
	Changed
)

// Step is the effect of a result.
//
// Steps of [Attempt.Done] and of concurrent calls of [Session.Fail] can reach their callers in
// any order. A caller that keeps a copy of the status must read it with [Session.Status], holding
// the lock of the copy, whenever Transition is [Changed].
type Step struct {
	// Transition is the effect on the status.
	Transition Transition

	// Healthy reports whether the check passed. If it passed and Status is not Failed, an ejection
	// by outlier detection may end.
	Healthy bool

	// Status is the new status.
	Status Status

	// First reports that this is the first result of the session, or the end of a session without
	// results: the wait for the host's first check ends.
	First bool

	// Events lists the lines of the health check log, oldest first.
	Events []Event

	// Next is the time of the next check. It is zero if the step is not the end of a check.
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
	// Kind is the kind of the event.
	Kind EventKind

	// Failure, Code and Err are the fields of the verdict. They are set for [EjectUnhealthy] and
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

// Gauge reports whether s is a gauge.
func (s Stat) Gauge() bool { return s == StatDegraded || s == StatHealthy }
