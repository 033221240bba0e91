// Package cluster calls one of several hosts, as a sidecar proxy does: it picks the host of each
// attempt, keeps the connections to it, and avoids hosts that fail.
//
//	recipes, err := pillion.New("recipes",
//		retry.Config{On: "5xx,connect-failure"},
//		limits.Config{MaxConnections: 100, MaxPendingRequests: 50},
//		cluster.Config{
//			Endpoints: cluster.Addresses("10.0.0.1:80", "10.0.0.2:80"),
//			Outlier:   &cluster.Outlier{Consecutive5xx: 5, AlwaysEjectOneHost: true},
//		},
//	)
//	client := &http.Client{Transport: recipes.Transport(nil)}
//
// It must be inside all other policies, so that it picks a host for each attempt. The URL and the
// Host header of a request stay the caller's: the cluster alone decides where it goes.
//
// # Hosts
//
// A pick chooses the priority, by the share of its hosts that are healthy; then, if it is configured
// so, the locality ([ZoneAware], [LocalityWeighted]); then the host, by [Config] LBPolicy. Hosts,
// order and probabilities are Envoy's. A retry avoids the hosts of previous attempts, unless
// retry.Config.Hosts says otherwise. [pillion.Info.Endpoint] reports the host of a call.
//
// A call for which no host can be picked is refused, with flag UH, and is not retried. Its error wraps
// [ErrNoHosts].
//
// # Connections
//
// Each host has a pool of connections for each priority. Its rules are those of Envoy's: a request
// uses the connection that became idle last, or waits for one; a failed connect fails all that
// wait for it. Limits of package limits that stand outside count connections, waiting requests and
// active ones over all hosts. Without such limits nothing is limited. A request is sent once:
// net/http does not resend it, and nothing waits unseen.
//
// Functions ([pillion.Do]) go to no host: for them a cluster does nothing.
//
// # Statistics
//
// Package metrics shows what Envoy shows of a cluster: upstream_cx_*, upstream_rq_pending_*,
// membership_*, lb_* and outlier_detection.*. Rows of configured parts are there from the start,
// as 0.
package cluster
