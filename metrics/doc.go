// Package metrics counts calls under Envoy's statistic names, and serves the statistics as
// Envoy's admin page does, so that one dashboard works for services with a sidecar and services
// with this library.
//
// [Config] is a policy. It counts the calls and attempts of an upstream in a [ClusterStats] of
// a [Registry]. [Handler] serves a registry at /stats, and [Collector] exports it to
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
// upstream_rq_total counts attempts that got a connection, when they end. It does not count
// refused attempts. upstream_rq_200, upstream_rq_2xx and upstream_rq_completed, and the same
// statistics with the prefix internal, count the responses that callers receive, when the
// response headers arrive. A call without a response counts as the response that Envoy would
// send, such as 503 or 504. The prefix retry is for responses discarded for a retry.
// upstream_rq_time holds the milliseconds from the start of a call to the end of its response
// body, retries and back-offs included. Envoy's documentation describes the other statistics in
// "Cluster manager: Statistics".
//
// A function under [pillion.Do] counts as 200 if it succeeds and as 500 if it fails. Each
// response over gRPC counts as 200. A call that a circuit breaker refuses counts as 503 and in
// upstream_rq_breaker_open, which Envoy does not have. A call that panics counts only in
// upstream_rq_total.
//
// RequestResponseSizes of [Config] adds the sizes of requests and responses. VirtualClusters also
// counts calls by path, method or header. PerEndpointStats of cluster.Config adds the statistics of
// each host.
//
// Statistics of things that the library cannot see are absent, not zero. upstream_cx_* is
// present for the transport that belongs to the upstream (a nil base), for a transport of
// [ClusterStats.InstrumentTransport], for a dialer of [ClusterStats.InstrumentDial], and for package
// cluster. Statistics of things that the library never does, such as upstream_cx_http3_total, are 0.
// docs/envoy.md lists both, and the differences from Envoy.
//
// # Names
//
// A cluster has the name of its upstream. In Prometheus the name is a label, as are a status
// code and gRPC's service and method. They are cut out of the statistic's name:
// cluster.recipes.upstream_rq_200 becomes
// envoy_cluster_upstream_rq{envoy_response_code="200",envoy_cluster_name="recipes"}. Use names
// without dots: as in Envoy, a cluster a.b becomes the cluster a, with statistics named
// b.upstream_rq_200. [Settings] can add tags.
//
// # Cost
//
// Counting costs one atomic addition and does not allocate, except with RequestResponseSizes. Sums and
// quantiles are computed on reading. The layout of a page is cached until a cluster or a statistic is
// added, or the endpoints of a cluster change.
//
// # Counting other things
//
// An adapter can count with the same [ClusterStats] as the policy: see [ClusterStats.Counter],
// [ClusterStats.Gauge], [ClusterStats.ReadGauge], [ClusterStats.Histogram] and [ClusterStats.Responses].
package metrics
