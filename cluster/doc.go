// Package cluster sends each attempt of a call to one of several hosts, as a sidecar proxy does: it
// picks the host, keeps the connections, and avoids hosts that fail.
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
// A [Config] is a policy. It must be inside all other policies, so that it picks a host for each
// attempt. The cluster determines where a request goes; it does not change the URL and the Host
// header of the request. Upstreams that share hosts and connections use one [Cluster], made with [New].
//
// # Hosts
//
// A pick has three steps. It selects the priority, by the share of healthy hosts in each priority;
// then the locality, if [ZoneAware] or [LocalityWeighted] is set; then the host, by LBPolicy of the
// [Config]. The hosts, their sequence and the probabilities are those of Envoy. By default a retry
// avoids the hosts of earlier attempts; Hosts of retry.Config changes that. [pillion.Info.Endpoint]
// reports the host of a call.
//
// If no host can be picked, the call is refused with the flag UH and is not retried. Its error wraps
// [ErrNoHosts].
//
// # Connections
//
// Each host has one pool of connections for calls of the default priority and one for calls of the
// priority HIGH. The pools follow Envoy's rules: a request uses the connection that became idle last,
// or waits for one, and a failed connect fails the requests that wait for it. A limits policy outside
// the cluster limits the connections, the waiting requests and the active requests of all hosts
// together. Without it there are no limits. A request is sent once for each attempt: net/http does
// not resend it.
//
// A cluster has no effect on functions ([pillion.Do]).
//
// # Statistics
//
// Package metrics shows the statistics that Envoy has for a cluster: upstream_cx_*,
// upstream_rq_pending_*, membership_* and lb_*. It also shows outlier_detection.*, health_check.*,
// update_* (of DNS) and ssl.*, if those parts are configured. Each statistic is present from the
// start, with the value 0.
package cluster
