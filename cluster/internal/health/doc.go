// Package health is Envoy's active health checking: the state machine of a checked host as a
// pure core, and thin probers for HTTP, TCP and gRPC. It mirrors Envoy 1.40, message
// HealthCheck, statistics health_check.* and the health flags of /clusters.
//
// # Model
//
// A [Checker] holds what all hosts of a cluster share: configuration, statistics, and whether
// the cluster has had traffic. Each host has a [Session], made by [Checker.Session]. Neither
// has a clock, a timer or a goroutine. A session is driven by four calls:
//
//   - [Session.Start] returns the instant of the first check;
//   - [Session.Begin] begins a check and returns an [Attempt] with its deadline;
//   - [Attempt.Done] ends it with a [Verdict] and returns a [Step]: what changed, and the
//     instant of the next check;
//   - [Session.Close] ends the session when the host is removed.
//
// [Run] does that for one host with a [Prober], in the goroutine that calls it.
//
// # Rules
//
// A host of a new session is usually failed: it gets no traffic before its first check
// passes. The first check of a session decides alone. After that a failed host becomes healthy
// after HealthyThreshold passed checks in a row. A healthy host fails after UnhealthyThreshold
// failures of the network, timeouts or retriable statuses in a row, and immediately after any
// other failure: the network may lose a check, but an unexpected response comes from the host
// itself.
//
// The time to the next check depends on the result, on whether a change is pending (the edge
// intervals), and on whether the cluster has ever had a connection: until then
// NoTrafficInterval applies, 60s by default.
//
// A response with x-envoy-degraded marks the host as degraded. One with
// x-envoy-immediate-health-check-fail excludes it from the host counts of load balancing:
// on a failed check, and on any response of ordinary traffic, see [Session.Fail].
//
// # Differences from Envoy
//
//   - The gauge health_check.degraded is the number of degraded hosts. Envoy's does not fall
//     when a host is no longer degraded, only when a degraded host is removed.
//   - A TCP connection is not watched between checks, see [TCPProber].
package health
