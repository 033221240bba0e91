package cluster_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/cluster"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/pilliongrpc"
	"github.com/pillion-go/pillion/retry"
)

// TestConfig_errors reports all bad fields together, each by its name.
func TestConfig_errors(t *testing.T) {
	one := cluster.Addresses("10.0.0.1:80")
	endpoint := func(e cluster.Endpoint) cluster.Config { return cluster.Config{Endpoints: []cluster.Endpoint{e}} }
	lookup := func(context.Context, string, string) ([]net.IPAddr, error) { return nil, nil }
	tests := []struct {
		name string
		cfg  cluster.Config
		want []string
	}{
		{"no port", endpoint(cluster.Endpoint{Address: "10.0.0.1"}), []string{`Config.Endpoints[0].Address: "10.0.0.1" is not an address; write host:port`}},
		{"port 0", endpoint(cluster.Endpoint{Address: "10.0.0.1:0"}), []string{"has no port from 1 to 65535"}},
		{"no host", endpoint(cluster.Endpoint{Address: ":80"}), []string{"Endpoints[0].Address"}},
		{"twice", cluster.Config{Endpoints: cluster.Addresses("10.0.0.1:80", "10.0.0.1:80")}, []string{"Endpoints[1].Address", "is also the address of Endpoints[0]"}},
		{"weight", endpoint(cluster.Endpoint{Address: "a:1", Weight: -1}), []string{"Endpoints[0].Weight: -1"}},
		{"sum of weights", cluster.Config{LBPolicy: cluster.Maglev, Endpoints: []cluster.Endpoint{{Address: "a:1", Weight: 1<<32 - 1}, {Address: "b:1", Weight: 2}}}, []string{"cluster: Config.Endpoints:", "sum of the weights"}},
		{"priority", endpoint(cluster.Endpoint{Address: "a:1", Priority: 129}), []string{"Endpoints[0].Priority: 129"}},
		{"health", endpoint(cluster.Endpoint{Address: "a:1", Health: "ILL"}), []string{`Endpoints[0].Health: "ILL" is unknown; write one of DEGRADED, DRAINING, HEALTHY`}},
		{"lb policy", cluster.Config{LBPolicy: "BEST"}, []string{`Config.LBPolicy: "BEST" is unknown; write one of LEAST_REQUEST`}},
		{"protocol", cluster.Config{Protocol: "HTTP3"}, []string{`Config.Protocol: "HTTP3" is unknown`}},
		{"type", cluster.Config{Type: "EDS"}, []string{`Config.Type: "EDS" is unknown; write one of LOGICAL_DNS, STATIC, STRICT_DNS`}},
		{"ring", cluster.Config{LBPolicy: cluster.RingHash, RingHash: cluster.RingHashConfig{MinSize: 1 << 24}}, []string{"cluster: Config.RingHash.MinSize: 16777216 is more than 8388608"}},
		{"ring, min over max", cluster.Config{LBPolicy: cluster.RingHash, RingHash: cluster.RingHashConfig{MinSize: 10, MaxSize: 5}}, []string{"cluster: Config.RingHash.MinSize"}},
		{"ring, max", cluster.Config{LBPolicy: cluster.RingHash, RingHash: cluster.RingHashConfig{MaxSize: 8_388_609}}, []string{"cluster: Config.RingHash.MaxSize: 8388609 is more than 8388608"}},
		{"ring, max below the default", cluster.Config{LBPolicy: cluster.RingHash, RingHash: cluster.RingHashConfig{MaxSize: 1000}}, []string{"cluster: Config.RingHash.MinSize"}},
		{"table, size", cluster.Config{LBPolicy: cluster.Maglev, Maglev: cluster.MaglevConfig{TableSize: 5_000_077}}, []string{"cluster: Config.Maglev.TableSize: 5000077 is more than 5000011"}},
		{"weight of 33 bits", endpoint(cluster.Endpoint{Address: "a:1", Weight: 1 << 32}), []string{"Endpoints[0].Weight: 4294967296 is out of range; write 1 to 4294967295, or 0 for 1"}},
		{"priority below 0", endpoint(cluster.Endpoint{Address: "a:1", Priority: -1}), []string{"Endpoints[0].Priority: -1"}},
		{"overprovisioning", cluster.Config{OverprovisioningFactor: -1}, []string{"Config.OverprovisioningFactor: -1 is negative"}},
		{"table", cluster.Config{LBPolicy: cluster.Maglev, Maglev: cluster.MaglevConfig{TableSize: 100}}, []string{"cluster: Config.Maglev.TableSize: 100 is not a prime number"}},
		{"panic", cluster.Config{PanicThreshold: 101}, []string{"cluster: Config.PanicThreshold: 101"}},
		{"slow start", cluster.Config{LBPolicy: cluster.Random, SlowStart: cluster.SlowStart{Window: time.Minute}}, []string{"cluster: Config.SlowStart"}},
		{"slow start, unit", cluster.Config{SlowStart: cluster.SlowStart{Window: 60}}, []string{"cluster: Config.SlowStart.Window: 60ns is less than 1ms"}},
		{"slow start, numbers", cluster.Config{SlowStart: cluster.SlowStart{Aggression: -2, MinWeightPercent: 101}}, []string{"cluster: Config.SlowStart.Aggression: -2", "cluster: Config.SlowStart.MinWeightPercent: 101"}},
		{"decay", cluster.Config{PeakEWMA: cluster.PeakEWMAConfig{Decay: -time.Second, FailureLatency: 5}}, []string{"cluster: Config.PeakEWMA.Decay: -1s is negative", "cluster: Config.PeakEWMA.FailureLatency: 5ns is below 1ms"}},
		{"negative limit", cluster.Config{MaxStreamDuration: -1, ConnectTimeout: -1}, []string{"cluster: Config.MaxStreamDuration: -1ns is negative; write a duration such as 5*time.Second, or 0 for no limit"}},
		{"jitter", cluster.Config{MaxConnectionDurationJitter: -1}, []string{"cluster: Config.MaxConnectionDurationJitter: -1 is negative"}},
		{"no locality", cluster.Config{ZoneAware: &cluster.ZoneAware{}}, []string{"cluster: Config.Locality: it is empty; write where the program runs"}},
		{"zones of a ring", cluster.Config{LBPolicy: cluster.RingHash, ZoneAware: &cluster.ZoneAware{}}, []string{"cluster: Config.ZoneAware: has no effect with RING_HASH"}},
		{"zones and weights", cluster.Config{ZoneAware: &cluster.ZoneAware{}, LocalityWeighted: &cluster.LocalityWeighted{}}, []string{"cluster: Config.ZoneAware: LocalityWeighted is set, too; remove one of the two"}},
		{"zones", cluster.Config{ZoneAware: &cluster.ZoneAware{RoutingEnabled: 101, MinClusterSize: -2, ForceLocalZone: &cluster.ForceLocalZone{MinSize: -1}, LocalityBasis: "SIZE", LocalCluster: cluster.Addresses("a")}}, []string{
			"cluster: Config.ZoneAware.RoutingEnabled: 101 is not between 0 and 100", "cluster: Config.ZoneAware.MinClusterSize: -2 is negative", "cluster: Config.ZoneAware.ForceLocalZone.MinSize: -1 is out of range",
			`cluster: Config.ZoneAware.LocalityBasis: "SIZE" is unknown; write one of HEALTHY_HOSTS_NUM, HEALTHY_HOSTS_WEIGHT`, `cluster: Config.ZoneAware.LocalCluster[0].Address: "a" is not an address`,
		}},
		{"locality weight", endpoint(cluster.Endpoint{Address: "a:1", LocalityWeight: -1}), []string{"Endpoints[0].LocalityWeight: -1 is out of range; write 1 to"}},
		{"two locality weights", cluster.Config{Endpoints: []cluster.Endpoint{{Address: "a:1", LocalityWeight: 1}, {Address: "b:1"}, {Address: "c:1", LocalityWeight: 2}}}, []string{"Endpoints[2].LocalityWeight: 2 differs from 1, the weight of another host of the locality"}},
		{"unit", cluster.Config{ConnectTimeout: 5}, []string{"cluster: Config.ConnectTimeout: 5ns is below 1ms; did you forget the unit? Write a duration such as 5*time.Second, 0 for 5s, or Never for no limit"}},
		{"negative", cluster.Config{MaxRequestsPerConnection: -1}, []string{"cluster: Config.MaxRequestsPerConnection: -1 is negative"}},
		{"outlier", cluster.Config{Outlier: &cluster.Outlier{Consecutive5xx: -2, MaxEjectionPercent: 101}}, []string{"cluster: Config.Outlier.Consecutive5xx: -2", "cluster: Config.Outlier.MaxEjectionPercent: 101"}},
		{"no check", cluster.Config{HealthCheck: &cluster.HealthCheck{}}, []string{"cluster: Config.HealthCheck: 0 of HTTP, TCP and GRPC are set; set one"}},
		{"check", cluster.Config{HealthCheck: &cluster.HealthCheck{HTTP: &cluster.HTTPHealthCheck{}}}, []string{"cluster: Config.HealthCheck.HTTP.Path"}},
		{"logical", cluster.Config{Type: cluster.LogicalDNS}, []string{"cluster: Config.Endpoints: 0 endpoints; LogicalDNS needs exactly one"}},
		{"DNS", cluster.Config{Type: cluster.StrictDNS, Endpoints: one, DNS: cluster.DNS{UseTCP: true, Lookup: lookup}}, []string{"cluster: Config.DNS.Lookup: set, so Servers, UseTCP"}},
		{"TLS", cluster.Config{TLS: &cluster.TLS{CA: cluster.PEM{File: "/nowhere/ca.pem"}}}, []string{"cluster: Config.TLS.CA", "/nowhere/ca.pem"}},
		{"SAN", cluster.Config{TLS: &cluster.TLS{SANs: []cluster.SANMatcher{{}}}}, []string{"cluster: Config.TLS.SANs: 0: 0 of Exact"}},
		{"all at the same time", cluster.Config{LBPolicy: "BEST", Protocol: "X", PanicThreshold: -5, Outlier: &cluster.Outlier{Interval: -1}, TLS: &cluster.TLS{MinVersion: 1}}, []string{"TLS.MinVersion", "LBPolicy", "Protocol", "PanicThreshold", "Outlier.Interval"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := pillion.New("recipes", test.cfg)
			if err == nil {
				t.Fatal("got no error")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want %q in it", err, want)
				}
			}
		})
	}
}

// TestWrap_errors reports policies that cannot be combined.
func TestWrap_errors(t *testing.T) {
	c, other := made(t, cluster.Config{}), made(t, cluster.Config{})
	if _, err := pillion.New("a", limits.Config{MaxConnections: 1}, c); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name     string
		policies []pillion.Policy
		want     string
	}{
		{"outside retry", []pillion.Policy{other, retry.Config{}}, "would use one host for all attempts of a call"},
		{"twice", []pillion.Policy{other, cluster.Config{}}, "would pick a host twice"},
		{"twice in any order", []pillion.Policy{pillion.AnyOrder{}, other, cluster.Config{}}, "remove one of the two"},
		{"other limits", []pillion.Policy{limits.Config{MaxConnections: 2}, c}, "limits.New"},
		{"not made", []pillion.Policy{new(cluster.Cluster)}, "was not made by New"},
		{"hash policy", []pillion.Policy{other.Route(cluster.Route{HashPolicy: []cluster.HashPolicy{{Header: "a", Cookie: "b"}}})}, "HashPolicy[0]: 2 of"},
		{"hosts of no cluster", []pillion.Policy{retry.Config{Hosts: &retry.Hosts{}}}, "there is no cluster inside"},
		{"hosts", []pillion.Policy{retry.Config{Hosts: &retry.Hosts{MaxAttempts: -1}}, other}, "Config.Hosts.MaxAttempts: -1"},
		{"a third priority", []pillion.Policy{limits.Config{High: &limits.Config{High: &limits.Config{}}}, other}, "there is no third priority"},
		{"high, no cluster", []pillion.Policy{limits.Config{High: &limits.Config{}}}, "only a route of a cluster"},
	}
	for _, test := range tests {
		if _, err := pillion.New("b", test.policies...); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
	}
	if _, err := pillion.New("b", breaker.Config{}, c); err != nil {
		t.Errorf("got %v, want a route without limits of its own", err)
	}
}

// TestServers refuses to serve under a cluster.
func TestServers(t *testing.T) {
	u := upstream(t, made(t, cluster.Config{}))
	if _, err := u.Handler(http.NotFoundHandler()); err == nil || !strings.Contains(err.Error(), "leave out cluster") {
		t.Errorf("got %v, want an error", err)
	}
	if _, err := pilliongrpc.ServerOptions(u); err == nil || !strings.Contains(err.Error(), "leave out cluster") {
		t.Errorf("got %v, want an error", err)
	}
}

// TestConfig_json reads fields by Envoy's names.
func TestConfig_json(t *testing.T) {
	var got cluster.Config
	err := json.Unmarshal([]byte(`{
		"type": "STRICT_DNS", "lb_policy": "LEAST_REQUEST", "least_request_lb_config": {"choice_count": 3},
		"endpoints": [{"address": "a:80", "load_balancing_weight": 3, "health_status": "DRAINING", "locality": {"zone": "z"}}],
		"outlier_detection": {"consecutive_5xx": 3, "always_eject_one_host": true},
		"health_check": {"http_health_check": {"path": "/healthz"}}, "healthy_panic_threshold": 30,
		"dns": {"dns_lookup_family": "V4_ONLY"}, "tls": {"sni": "a", "trusted_ca": {"filename": "ca.pem"}}
	}`), &got)
	want := cluster.Config{
		Type: cluster.StrictDNS, LBPolicy: cluster.LeastRequest, LeastRequest: cluster.LeastRequestConfig{ChoiceCount: 3},
		Endpoints:   []cluster.Endpoint{{Address: "a:80", Weight: 3, Health: cluster.Draining, Locality: cluster.Locality{Zone: "z"}}},
		Outlier:     &cluster.Outlier{Consecutive5xx: 3, AlwaysEjectOneHost: true},
		HealthCheck: &cluster.HealthCheck{HTTP: &cluster.HTTPHealthCheck{Path: "/healthz"}}, PanicThreshold: 30,
		DNS: cluster.DNS{Family: cluster.V4Only}, TLS: &cluster.TLS{SNI: "a", CA: cluster.PEM{File: "ca.pem"}},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(cluster.Config{}, "Rand", "Transport")); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// TestEndpoints_gaps uses priorities with gaps, and hosts without a weight.
func TestEndpoints_gaps(t *testing.T) {
	a, _ := server(t, "a")
	b, _ := server(t, "b")
	c := made(t, cluster.Config{Endpoints: []cluster.Endpoint{{Address: a, Priority: 7, Health: cluster.Unhealthy}, {Address: b, Priority: 100}}})
	u := upstream(t, c)
	var got []string
	for range 4 {
		body, err := get(t, u)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, body)
	}
	if !slices.Contains(got, "b") || slices.Contains(got, "a") {
		t.Errorf("got %v, want the healthy host alone", got)
	}
	if w := c.Hosts()[0].Endpoint.Weight; w != 1 {
		t.Errorf("got weight %d, want 1", w)
	}
}
