// Package metrics counts what happens to calls under Envoy's names, and shows it as
// Envoy's admin page does, so that one dashboard serves services with a sidecar and
// services with this library.
//
// [Config] is a policy. It counts the calls and attempts of an upstream in a [ClusterStats] of
// a [Registry]; [Handler] shows a registry at /stats, and [Collector] gives it to
// Prometheus's client library:
//
//	recipes, err := pillion.New("recipes",
//		metrics.Config{},
//		retry.Config{On: "5xx", NumRetries: 2},
//	)
//	if err != nil {
//		log.Fatal(err)
//	}
//	client := &http.Client{Transport: recipes.Transport(nil)}
//	http.Handle("/stats", metrics.Handler(nil))
//	http.Handle("/stats/", metrics.Handler(nil)) // for /stats/prometheus
//
// # What is counted when
//
// upstream_rq_total counts attempts that got a connection, when they have ended; refused
// ones are not in it. upstream_rq_200, upstream_rq_2xx, upstream_rq_completed and the same
// below internal. count the responses that callers get, at their header. A call without a
// response counts as the one that Envoy would have sent: 503, 504. Below retry. are the
// responses that were thrown away for a retry. upstream_rq_time holds the milliseconds from
// the start of a call to the end of its response's body, retries and back-offs included. All
// others are named in Envoy's documentation, "Cluster manager: Statistics".
//
// A function under [pillion.Do] that succeeds counts as 200, one that fails as 500, and each
// response over gRPC as 200. A call that a circuit breaker refuses counts as 503 and in
// upstream_rq_breaker_open, which Envoy does not have. A call that panics is in
// upstream_rq_total alone.
//
// What the library cannot see is absent, not zero. upstream_cx_* is there for the transport
// that belongs to the upstream (a nil base), one of [ClusterStats.InstrumentTransport], or a dialer of
// [ClusterStats.InstrumentDial]. What a library never does, such as upstream_rq_maintenance_mode, is 0.
// docs/envoy.md lists both, and what differs from Envoy.
//
// # Names
//
// A cluster has the name of its upstream. In Prometheus that is a label, as are a status code
// and gRPC's service and method; they are cut out of the statistic's name:
// cluster.recipes.upstream_rq_200 is
// envoy_cluster_upstream_rq{envoy_response_code="200",envoy_cluster_name="recipes"}. Names are
// best without dots: as in Envoy, a cluster a.b is the cluster a, with statistics that are named
// b.upstream_rq_200. [Settings] add tags.
//
// # Cost
//
// Counting is an atomic addition each, and allocates nothing. Sums and quantiles are
// made when they are read. A page is laid out once and kept until there is another cluster or
// another status code.
//
// # Counting other things
//
// Adapters count through the same [ClusterStats] as the policy does: [ClusterStats.Counter],
// [ClusterStats.Gauge], [ClusterStats.ReadGauge], [ClusterStats.Histogram], [ClusterStats.Responses].
package metrics
