package metrics_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/pilliongrpc"
	"github.com/pillion-go/pillion/retry"
)

// kitchen is an in-memory server that responds with 503 to every other call.
type kitchen struct{ calls int }

func (k *kitchen) RoundTrip(req *http.Request) (*http.Response, error) {
	k.calls++
	status := http.StatusOK
	if k.calls%2 == 1 {
		status = http.StatusServiceUnavailable
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
}

// get prints the page of a query.
func get(h http.Handler, url string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, url, http.NoBody))
	fmt.Print(w.Body)
}

// own makes a separate registry for an example. Programs usually use Default.
func own() *metrics.Registry {
	r, err := metrics.NewRegistry(metrics.Settings{})
	if err != nil {
		fmt.Println(err)
	}
	return r
}

// A retried call counts once in the statistics of calls, and twice in those of attempts.
func ExampleConfig() {
	registry := own()
	recipes, err := pillion.New("recipes",
		metrics.Config{Registry: registry},
		retry.Config{On: "5xx"},
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: recipes.Transport(&kitchen{})}
	resp, err := client.Get("http://recipes/1")
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := resp.Body.Close(); err != nil {
		fmt.Println(err)
		return
	}
	get(metrics.Handler(registry), "/stats?usedonly&type=Counters")
	// Output:
	// cluster.recipes.internal.upstream_rq_200: 1
	// cluster.recipes.internal.upstream_rq_2xx: 1
	// cluster.recipes.internal.upstream_rq_completed: 1
	// cluster.recipes.retry.upstream_rq_503: 1
	// cluster.recipes.retry.upstream_rq_5xx: 1
	// cluster.recipes.retry.upstream_rq_completed: 1
	// cluster.recipes.upstream_rq_200: 1
	// cluster.recipes.upstream_rq_2xx: 1
	// cluster.recipes.upstream_rq_completed: 1
	// cluster.recipes.upstream_rq_retry: 1
	// cluster.recipes.upstream_rq_retry_backoff_exponential: 1
	// cluster.recipes.upstream_rq_retry_success: 1
	// cluster.recipes.upstream_rq_total: 2
}

// Calls of one path are counted separately as well, and all others as "other".
func ExampleVirtualCluster() {
	registry := own()
	kitchens, err := pillion.New("kitchens", metrics.Config{
		Registry:    registry,
		VirtualHost: "shop",
		VirtualClusters: []metrics.VirtualCluster{
			{Name: "orders", Headers: []envoy.HeaderMatcher{{Name: ":path", Prefix: "/orders/"}, {Name: ":method", Exact: http.MethodGet}}},
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: kitchens.Transport(&kitchen{})}
	for _, path := range []string{"/orders/1", "/menu"} {
		resp, err := client.Get("http://kitchens" + path)
		if err != nil {
			fmt.Println(err)
			return
		}
		if err := resp.Body.Close(); err != nil {
			fmt.Println(err)
		}
	}
	get(metrics.Handler(registry), "/stats?usedonly&filter=rq_.0.$|vcluster.*total")
	// Output:
	// cluster.kitchens.internal.upstream_rq_200: 1
	// cluster.kitchens.internal.upstream_rq_503: 1
	// cluster.kitchens.upstream_rq_200: 1
	// cluster.kitchens.upstream_rq_503: 1
	// vhost.shop.vcluster.orders.upstream_rq_503: 1
	// vhost.shop.vcluster.orders.upstream_rq_total: 1
	// vhost.shop.vcluster.other.upstream_rq_200: 1
	// vhost.shop.vcluster.other.upstream_rq_total: 1
}

// The handler serves a registry in all formats.
func ExampleHandler() {
	registry := own()
	registry.Cluster("recipes").Counter("upstream_rq_retry").Add(3)
	mux := http.NewServeMux()
	mux.Handle("/stats", metrics.Handler(registry))
	mux.Handle("/stats/", metrics.Handler(registry))
	get(mux, "/stats")
	get(mux, "/stats?format=json&filter=retry$")
	fmt.Println()
	get(mux, "/stats/prometheus")
	// Output:
	// cluster.recipes.upstream_rq_retry: 3
	// {"stats":[{"name":"cluster.recipes.upstream_rq_retry","value":3}]}
	// # TYPE envoy_cluster_upstream_rq_retry counter
	// envoy_cluster_upstream_rq_retry{envoy_cluster_name="recipes"} 3
}

// The collector exports the same names and labels to Prometheus's client library.
func ExampleCollector() {
	registry := own()
	registry.Cluster("recipes").Responses(metrics.Internal).Count(http.StatusNotFound)
	prom := prometheus.NewRegistry()
	prom.MustRegister(metrics.Collector(registry))
	families, err := prom.Gather()
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, f := range families {
		if f.GetName() == "envoy_cluster_upstream_rq" {
			fmt.Println(f.GetName(), f.GetMetric()[0].GetLabel()[1].GetValue(), f.GetMetric()[0].GetCounter().GetValue())
		}
	}
	// Output: envoy_cluster_upstream_rq 404 1
}

// Tags identify the service, as Envoy's stats_tags do.
func ExampleNewRegistry() {
	registry, err := metrics.NewRegistry(metrics.Settings{Tags: []metrics.Tag{
		{Name: "service.cluster", Value: "shop"},
		{Name: "team", Regex: `^cluster\.((\w+)-)`},
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	registry.Cluster("kitchen-recipes").Counter("upstream_rq_retry").Inc()
	get(metrics.Handler(registry), "/stats/prometheus")
	// Output:
	// # TYPE envoy_cluster_upstream_rq_retry counter
	// envoy_cluster_upstream_rq_retry{service_cluster="shop",envoy_cluster_name="kitchen-recipes",team="kitchen"} 1
}

// A custom adapter can count with a cluster.
func ExampleClusterStats() {
	registry := own()
	c := registry.Cluster("queue")
	c.Responses(metrics.Internal).Count(http.StatusOK)
	c.Responses(metrics.Internal).Time(44)
	c.Gauge("upstream_rq_active").Add(1)
	c.ReadGauge("circuit_breakers.default.remaining_rq", func() uint64 { return 1023 })
	c.Histogram("upstream_rq_body_size").Record(1500)
	get(metrics.Handler(registry), "/stats?filter=active|remaining|200|size")
	// Output:
	// cluster.queue.circuit_breakers.default.remaining_rq: 1023
	// cluster.queue.internal.upstream_rq_200: 1
	// cluster.queue.upstream_rq_200: 1
	// cluster.queue.upstream_rq_active: 1
	// cluster.queue.upstream_rq_body_size: P0(nan,1550) P25(nan,1550) P50(nan,1550) P75(nan,1550) P90(nan,1550) P95(nan,1550) P99(nan,1550) P99.5(nan,1550) P99.9(nan,1550) P100(nan,1550)
}

// InstrumentTransport counts the connections of a transport.
func ExampleClusterStats_InstrumentTransport() {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	registry := own()
	transport := registry.Cluster("recipes").InstrumentTransport(&http.Transport{})
	client := &http.Client{Transport: transport}
	for range 3 {
		resp, err := client.Head(server.URL)
		if err != nil {
			fmt.Println(err)
			return
		}
		if err := resp.Body.Close(); err != nil {
			fmt.Println(err)
			return
		}
	}
	get(metrics.Handler(registry), "/stats?filter=upstream_cx_(total|http1|active)")
	transport.CloseIdleConnections()
	// Output:
	// cluster.recipes.upstream_cx_active: 1
	// cluster.recipes.upstream_cx_http1_total: 1
	// cluster.recipes.upstream_cx_total: 1
}

// InstrumentDial counts the connections of any protocol.
func ExampleClusterStats_InstrumentDial() {
	registry := own()
	dial := registry.Cluster("database").InstrumentDial(func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("connection refused")
	})
	_, err := dial(context.Background(), "tcp", "database:5432")
	fmt.Println(err)
	get(metrics.Handler(registry), "/stats?usedonly&type=Counters")
	// Output:
	// connection refused
	// cluster.database.upstream_cx_connect_fail: 1
	// cluster.database.upstream_cx_destroy: 1
	// cluster.database.upstream_cx_destroy_remote: 1
	// cluster.database.upstream_cx_total: 1
}

// A category other than Envoy's is an alternative stat name.
func ExampleClusterStats_Responses() {
	registry := own()
	registry.Cluster("recipes").Responses("mobile.internal").Count(http.StatusOK)
	get(metrics.Handler(registry), "/stats?filter=mobile.*_200")
	// Output:
	// cluster.recipes.mobile.internal.upstream_rq_200: 1
	// cluster.recipes.mobile.upstream_rq_200: 1
}

// Names are shown as Envoy shows them.
func ExampleRegistry_Cluster() {
	registry := own()
	c := registry.Cluster("outbound|80||recipes.svc:80")
	c.Counter("upstream_rq_retry").Inc()
	fmt.Println(c.Name(), strings.Count(c.Name(), ":"))
	get(metrics.Handler(registry), "/stats/prometheus")
	registry.Remove("outbound|80||recipes.svc:80")
	get(metrics.Handler(registry), "/stats")
	// Output:
	// outbound|80||recipes.svc_80 0
	// # TYPE envoy_cluster_svc_80_upstream_rq_retry counter
	// envoy_cluster_svc_80_upstream_rq_retry{envoy_cluster_name="outbound|80||recipes"} 1
}

// GRPC counts the calls of each gRPC method, as Envoy's filter grpc_stats does.
func ExampleGRPC() {
	registry := own()
	front, err := pillion.New("front", metrics.GRPC{Registry: registry})
	if err != nil {
		fmt.Println(err)
		return
	}
	intercept, err := pilliongrpc.UnaryServerInterceptor(front)
	if err != nil {
		fmt.Println(err)
		return
	}
	info := &grpc.UnaryServerInfo{FullMethod: "/kitchen.Menu/Soup"}
	soup, err := intercept(context.Background(), "order", info, func(context.Context, any) (any, error) { return "soup", nil })
	fmt.Println(soup, err)
	get(metrics.Handler(registry), "/stats?usedonly&type=Counters")
	// Output:
	// soup <nil>
	// cluster.front.grpc.kitchen.Menu.Soup.0: 1
	// cluster.front.grpc.kitchen.Menu.Soup.request_message_count: 1
	// cluster.front.grpc.kitchen.Menu.Soup.response_message_count: 1
	// cluster.front.grpc.kitchen.Menu.Soup.success: 1
	// cluster.front.grpc.kitchen.Menu.Soup.total: 1
}

// ReadGauge shows a number that the program has.
func ExampleClusterStats_ReadGauge() {
	registry, waiting := own(), []string{"soup", "salad"}
	registry.Cluster("kitchen").ReadGauge("orders_waiting", func() uint64 { return uint64(len(waiting)) })
	get(metrics.Handler(registry), "/stats")
	// Output: cluster.kitchen.orders_waiting: 2
}

// Remove deletes the statistics of an upstream that exists no more.
func ExampleRegistry_Remove() {
	registry := own()
	for _, name := range []string{"east", "west"} {
		registry.Cluster(name).Counter("upstream_rq_retry").Inc()
	}
	registry.Remove("east")
	get(metrics.Handler(registry), "/stats")
	// Output: cluster.west.upstream_rq_retry: 1
}

// Time records how long a response took, in milliseconds.
func ExampleResponseCounters_Time() {
	registry := own()
	responses := registry.Cluster("recipes").Responses(metrics.Internal)
	responses.Count(http.StatusOK)
	responses.Time(44)
	get(metrics.Handler(registry), "/stats?usedonly&type=Histograms&filter=internal")
	// Output: cluster.recipes.internal.upstream_rq_time: P0(nan,44.5) P25(nan,44.5) P50(nan,44.5) P75(nan,44.5) P90(nan,44.5) P95(nan,44.5) P99(nan,44.5) P99.5(nan,44.5) P99.9(nan,44.5) P100(nan,44.5)
}
