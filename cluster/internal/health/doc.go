// Package health implements Envoy's active health checking: the state machine of a checked host
// as a pure core, and probers for HTTP, TCP and gRPC. It mirrors Envoy 1.40, message
// HealthCheck, statistics health_check.* and the health flags of /clusters.
//
// # Model
//
// A [Checker] holds the state that all hosts of a cluster share: configuration, statistics, and
// whether the cluster has had traffic. Each host has a [Session], made by [Checker.Session].
// Neither has a clock, a timer or a goroutine. A session has four methods:
//
//   - [Session.Start] returns the time of the first check;
//   - [Session.Begin] begins a check and returns an [Attempt] with its deadline;
//   - [Attempt.Done] ends the check with a [Verdict] and returns a [Step] with the changes and
//     the time of the next check;
//   - [Session.Close] ends the session when the host is removed.
//
// [Run] calls them for one host with a [Prober], in the goroutine of its caller.
//
// # Rules
//
// The host of a new session is usually failed: it receives no traffic before its first check
// passes. The result of the first check applies immediately. After that a failed host becomes
// healthy after HealthyThreshold passed checks in a row. A healthy host fails after
// UnhealthyThreshold network failures, timeouts or retriable statuses in a row, and immediately
// after any other failure: the network may lose a check, but an unexpected response comes from
// the host.
//
// The time to the next check depends on the result, on whether a change is pending (the edge
// intervals), and on whether the cluster has ever had a connection: until then
// NoTrafficInterval applies, 60s by default.
//
// A response with x-envoy-degraded marks the host as degraded. A response with
// x-envoy-immediate-health-check-fail excludes the host from the host counts of load balancing,
// if it belongs to a failed check or to ordinary traffic, see [Session.Fail].
//
// # Differences from Envoy
//
//   - The gauge health_check.degraded is the number of degraded hosts. Envoy's does not fall
//     when a host is no longer degraded, only when a degraded host is removed.
//   - A TCP connection is not watched between checks, see [TCPProber].
package health
