package cluster_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/cluster"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// kitchens starts hosts that respond with their names, and returns their addresses. A host whose name
// begins with "bad" responds with status 503.
func kitchens(names ...string) (addresses []string, closeAll func()) {
	var all []*httptest.Server
	for _, name := range names {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if strings.HasPrefix(name, "bad") {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			fmt.Fprint(w, name)
		}))
		all = append(all, s)
		addresses = append(addresses, s.Listener.Addr().String())
	}
	return addresses, func() {
		for _, s := range all {
			s.Close()
		}
	}
}

// ask makes a call and returns the body of the response.
func ask(u *pillion.Upstream, headers ...string) string {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://recipes.internal/menu", nil)
	if err != nil {
		log.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := u.Transport(nil).RoundTrip(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return string(text)
}

// first makes the first picked host the first host of the configuration. By default it is random.
func first() uint64 { return 0 }

// A cluster is the innermost policy of an upstream. In this example a retry uses the other host.
func ExampleConfig() {
	addresses, closeAll := kitchens("bad", "good")
	defer closeAll()
	recipes, err := pillion.New("recipes",
		timeout.Config{Total: 2 * time.Second},
		retry.Config{},
		limits.Config{MaxConnections: 100, MaxPendingRequests: 50},
		cluster.Config{Endpoints: cluster.Addresses(addresses...), Rand: first},
	)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ask(recipes))
	// Output: good
}

// A host that fails twice in a row is ejected for a time.
func ExampleConfig_outlier() {
	addresses, closeAll := kitchens("bad", "good")
	defer closeAll()
	kitchens, err := cluster.New(cluster.Config{
		Endpoints: cluster.Addresses(addresses...), Rand: first,
		Outlier: &cluster.Outlier{Consecutive5xx: 2, MaxEjectionPercent: 50},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer kitchens.Close()
	recipes, err := pillion.New("recipes", kitchens)
	if err != nil {
		log.Fatal(err)
	}
	for range 6 {
		fmt.Print(ask(recipes), " ")
	}
	fmt.Println(kitchens.Hosts()[0].Flags)
	// Output: bad good bad good good good /failed_outlier_check
}

// PerEndpointStats counts each host separately.
func ExampleConfig_perEndpointStats() {
	addresses, closeAll := kitchens("good")
	defer closeAll()
	registry := &metrics.Registry{}
	recipes, err := pillion.New("recipes",
		metrics.Config{Registry: registry},
		cluster.Config{Endpoints: cluster.Addresses(addresses...), PerEndpointStats: true},
	)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ask(recipes))
	page := httptest.NewRecorder()
	metrics.Handler(registry).ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/stats?filter=rq_(success|error)", nil))
	fmt.Print(strings.ReplaceAll(page.Body.String(), strings.ReplaceAll(addresses[0], ":", "_"), "127.0.0.1_80"))
	// Output:
	// good
	// cluster.recipes.endpoint.127.0.0.1_80.rq_error: 0
	// cluster.recipes.endpoint.127.0.0.1_80.rq_success: 1
}

// A host receives calls only after its first health check has passed.
func ExampleConfig_healthCheck() {
	addresses, closeAll := kitchens("bad", "good")
	defer closeAll()
	kitchens, err := cluster.New(cluster.Config{
		Endpoints:   cluster.Addresses(addresses...),
		HealthCheck: &cluster.HealthCheck{HTTP: &cluster.HTTPHealthCheck{Path: "/healthz"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer kitchens.Close()
	if err = kitchens.WaitReady(context.Background()); err != nil {
		log.Fatal(err)
	}
	recipes, err := pillion.New("recipes", kitchens)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ask(recipes), ask(recipes))
	// Output: good good
}

// StrictDNS looks up the addresses of a name repeatedly. Each address is a host.
func ExampleConfig_dns() {
	addresses, closeAll := kitchens("good")
	defer closeAll()
	_, port, _ := net.SplitHostPort(addresses[0])
	kitchens, err := cluster.New(cluster.Config{
		Type:      cluster.StrictDNS,
		Endpoints: cluster.Addresses("recipes.internal:" + port),
		DNS: cluster.DNS{ // without Lookup, the system's resolver is used
			RefreshRate: 5 * time.Second,
			Lookup: func(_ context.Context, network, _ string) ([]net.IPAddr, error) {
				if network == "ip6" {
					return nil, nil
				}
				return []net.IPAddr{{IP: net.IPv4(127, 0, 0, 1)}}, nil
			},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer kitchens.Close()
	recipes, err := pillion.New("recipes", kitchens)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ask(recipes))
	// Output: good
}

// Several upstreams, such as routes to one service, can share hosts, connections and limits.
func ExampleNew() {
	addresses, closeAll := kitchens("good")
	defer closeAll()
	kitchens, err := cluster.New(cluster.Config{Endpoints: cluster.Addresses(addresses...)})
	if err != nil {
		log.Fatal(err)
	}
	defer kitchens.Close()
	slots, err := limits.New(limits.Config{MaxConnections: 10})
	if err != nil {
		log.Fatal(err)
	}
	quick, err := pillion.New("quick", timeout.Config{Total: time.Second}, slots, kitchens)
	if err != nil {
		log.Fatal(err)
	}
	patient, err := pillion.New("patient", timeout.Config{Total: time.Minute}, slots, kitchens)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ask(quick), ask(patient))
	// Output: good good
}

// With a hash policy, all calls of a user go to the same host, as long as the host is healthy.
func ExampleCluster_Route() {
	addresses, closeAll := kitchens("a", "b", "c")
	defer closeAll()
	kitchens, err := cluster.New(cluster.Config{Endpoints: cluster.Addresses(addresses...), LBPolicy: cluster.Maglev})
	if err != nil {
		log.Fatal(err)
	}
	defer kitchens.Close()
	recipes, err := pillion.New("recipes", kitchens.Route(cluster.Route{HashPolicy: []cluster.HashPolicy{{Header: "User"}}}))
	if err != nil {
		log.Fatal(err)
	}
	one := ask(recipes, "User", "jo")
	for range 3 {
		fmt.Println(ask(recipes, "User", "jo") == one)
	}
	// Output:
	// true
	// true
	// true
}

// Update replaces the hosts. Current calls continue on the old hosts.
func ExampleCluster_Update() {
	addresses, closeAll := kitchens("old", "new")
	defer closeAll()
	kitchens, err := cluster.New(cluster.Config{Endpoints: cluster.Addresses(addresses[0])})
	if err != nil {
		log.Fatal(err)
	}
	defer kitchens.Close()
	recipes, err := pillion.New("recipes", kitchens)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ask(recipes))
	if err := kitchens.Update(cluster.Addresses(addresses[1])); err != nil {
		log.Fatal(err)
	}
	fmt.Println(ask(recipes))
	// Output:
	// old
	// new
}

func ExampleCluster_Hosts() {
	kitchens, err := cluster.New(cluster.Config{Endpoints: []cluster.Endpoint{
		{Address: "10.0.0.1:80", Weight: 3},
		{Address: "10.0.0.2:80", Health: cluster.Draining},
	}})
	if err != nil {
		log.Fatal(err)
	}
	defer kitchens.Close()
	for _, h := range kitchens.Hosts() {
		fmt.Println(h.Endpoint.Address, h.Endpoint.Weight, h.Health, h.Flags)
	}
	// Output:
	// 10.0.0.1:80 3 HEALTHY healthy
	// 10.0.0.2:80 1 UNHEALTHY /eds_status_draining
}

func ExampleCluster_Suspicious() {
	kitchens, err := cluster.New(cluster.Config{
		Endpoints: cluster.Addresses("10.0.0.1:80", "10.0.0.2:80"),
		Outlier:   &cluster.Outlier{Consecutive5xx: 3},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer kitchens.Close()
	for _, s := range kitchens.Suspicious() {
		fmt.Println(s)
	}
	// Output: cluster: Config.Outlier: no host can be ejected: one host is more than MaxEjectionPercent of all hosts; set AlwaysEjectOneHost or a greater MaxEjectionPercent
}

func ExampleAddresses() {
	for _, e := range cluster.Addresses("10.0.0.1:80", "10.0.0.2:80") {
		fmt.Println(e.Address)
	}
	// Output:
	// 10.0.0.1:80
	// 10.0.0.2:80
}

func ExampleSPIFFE() {
	encrypted := cluster.TLS{
		CA:   cluster.PEM{File: "/etc/mesh/ca.pem"},
		SANs: []cluster.SANMatcher{cluster.SPIFFE("spiffe://mesh/ns/recipes")},
	}
	fmt.Println(encrypted.SANs[0].Type, encrypted.SANs[0].Exact)
	// Output: URI spiffe://mesh/ns/recipes
}

// Hosts of a retry policy selects the hosts that a retry avoids. Here it avoids canary hosts only.
func ExampleConfig_hosts() {
	addresses, closeAll := kitchens("bad", "bad canary", "good")
	defer closeAll()
	canary := map[string]map[string]any{"envoy.lb": {"canary": true}}
	recipes, err := pillion.New("recipes",
		retry.Config{On: "5xx", Hosts: &retry.Hosts{OmitMetadata: canary, MaxAttempts: 3}},
		cluster.Config{
			Endpoints: []cluster.Endpoint{{Address: addresses[0]}, {Address: addresses[1], Metadata: canary}, {Address: addresses[2]}},
			Rand:      first,
		},
	)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ask(recipes))
	// Output: good
}

// A route of priority HIGH has separate connections and limits.
func ExampleRoute_highPriority() {
	addresses, closeAll := kitchens("good")
	defer closeAll()
	kitchens, err := cluster.New(cluster.Config{Endpoints: cluster.Addresses(addresses...)})
	if err != nil {
		log.Fatal(err)
	}
	defer kitchens.Close()
	urgent, err := pillion.New("urgent",
		limits.Config{MaxRequests: limits.Zero, High: &limits.Config{MaxRequests: 10}},
		kitchens.Route(cluster.Route{HighPriority: true}),
	)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ask(urgent))
	// Output: good
}

// ZoneAware keeps calls in the zone of the program, as long as the load of all hosts stays even.
func ExampleConfig_zoneAware() {
	addresses, closeAll := kitchens("here", "there")
	defer closeAll()
	here, there := cluster.Locality{Zone: "a"}, cluster.Locality{Zone: "b"}
	recipes, err := pillion.New("recipes", cluster.Config{
		Endpoints: []cluster.Endpoint{{Address: addresses[0], Locality: here}, {Address: addresses[1], Locality: there}},
		Locality:  here,
		ZoneAware: &cluster.ZoneAware{MinClusterSize: cluster.Zero}, // 6 by default
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ask(recipes), ask(recipes), ask(recipes))
	// Output: here here here
}

// Zone a has three of four callers, but only half of the hosts: some of its calls go to zone b.
func ExampleCluster_UpdateLocalCluster() {
	a, b := cluster.Locality{Zone: "a"}, cluster.Locality{Zone: "b"}
	kitchens, err := cluster.New(cluster.Config{
		Endpoints: []cluster.Endpoint{{Address: "10.0.0.1:80", Locality: a}, {Address: "10.0.0.2:80", Locality: b}},
		Locality:  a,
		ZoneAware: &cluster.ZoneAware{MinClusterSize: cluster.Zero},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer kitchens.Close()
	err = kitchens.UpdateLocalCluster([]cluster.Endpoint{
		{Address: "10.0.1.1:80", Locality: a},
		{Address: "10.0.1.2:80", Locality: a},
		{Address: "10.0.1.3:80", Locality: a},
		{Address: "10.0.1.4:80", Locality: b},
	})
	fmt.Println(err)
	// Output: <nil>
}

// LocalityWeighted sends each zone its share of the calls, whatever the number of its hosts.
func ExampleConfig_localityWeighted() {
	addresses, closeAll := kitchens("old", "new")
	defer closeAll()
	recipes, err := pillion.New("recipes", cluster.Config{
		Endpoints: []cluster.Endpoint{
			{Address: addresses[0], Locality: cluster.Locality{Zone: "a"}, LocalityWeight: 3},
			{Address: addresses[1], Locality: cluster.Locality{Zone: "b"}, LocalityWeight: 1},
		},
		LocalityWeighted: &cluster.LocalityWeighted{},
	})
	if err != nil {
		log.Fatal(err)
	}
	served := map[string]int{}
	for range 8 {
		served[ask(recipes)]++
	}
	fmt.Println(served)
	// Output: map[new:2 old:6]
}

// With SlowStart, a new host first receives a tenth of its share of the calls, and all of it after a
// minute.
func ExampleConfig_slowStart() {
	kitchens, err := cluster.New(cluster.Config{
		Endpoints: cluster.Addresses("10.0.0.1:80", "10.0.0.2:80"),
		LBPolicy:  cluster.LeastRequest,
		SlowStart: cluster.SlowStart{Window: time.Minute},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer kitchens.Close()
	fmt.Println(kitchens.Update(cluster.Addresses("10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80")))
	// Output: <nil>
}

// PeakEWMA prefers hosts that respond quickly. A host that fails counts as slow.
func ExampleConfig_peakEWMA() {
	addresses, closeAll := kitchens("bad", "good")
	defer closeAll()
	recipes, err := pillion.New("recipes", cluster.Config{
		Endpoints: cluster.Addresses(addresses...),
		LBPolicy:  cluster.PeakEWMA,
		PeakEWMA:  cluster.PeakEWMAConfig{Decay: time.Minute, FailureLatency: 5 * time.Second},
	})
	if err != nil {
		log.Fatal(err)
	}
	served := map[string]int{}
	for range 10 {
		served[ask(recipes)]++
	}
	fmt.Println(served["bad"] <= 1, served["good"] >= 9)
	// Output: true true
}

// A connection load balancer sends a new connection to any of its replicas. With a maximum age,
// connections also reach replicas that were added. With the jitter, they do not end at the same time.
func ExampleConfig_connectionAge() {
	addresses, closeAll := kitchens("good")
	defer closeAll()
	recipes, err := pillion.New("recipes", cluster.Config{
		Endpoints:                   cluster.Addresses(addresses...),
		MaxConnectionDuration:       10 * time.Minute,
		MaxConnectionDurationJitter: 20, // percent: 10 to 12 minutes
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ask(recipes))
	// Output: good
}
