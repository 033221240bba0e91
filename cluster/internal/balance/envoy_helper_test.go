package balance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pillion-go/pillion/internal/envoytest"
)

// maxWait bounds each wait for the real Envoy.
const maxWait = 30 * time.Second

// object is a JSON object of Envoy's configuration.
type object = envoytest.Object

// upstream is the servers that stand for the hosts of all clusters. Each responds
// with its number.
type upstream struct {
	addresses []string

	mu     sync.Mutex
	served map[string][]int // by the header x-key, the servers that received it
	free   chan struct{}
	held   chan int // the server of each request that is held
}

// startUpstream starts n servers.
func startUpstream(t *testing.T, n int) *upstream {
	t.Helper()
	u := &upstream{served: map[string][]int{}, free: make(chan struct{}), held: make(chan int)}
	for i := range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		u.addresses = append(u.addresses, l.Addr().String())
		server := &http.Server{ReadHeaderTimeout: maxWait, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			u.serve(i, w, r)
		})}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				t.Error(err)
			}
		}()
		t.Cleanup(func() {
			server.Close()
			<-done
		})
	}
	return u
}

// serve responds with the number of the server. A header x-hold delays the response
// until release, and x-fail makes it a 503.
func (u *upstream) serve(i int, w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	u.served[r.Header.Get("X-Key")] = append(u.served[r.Header.Get("X-Key")], i)
	free := u.free
	u.mu.Unlock()
	if r.Header.Get("X-Hold") != "" {
		u.held <- i
		<-free
	}
	w.Header().Set("Content-Type", "text/plain")
	if r.Header.Get("X-Fail") != "" {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	io.WriteString(w, strconv.Itoa(i))
}

// release has the held requests end.
func (u *upstream) release() {
	u.mu.Lock()
	defer u.mu.Unlock()
	close(u.free)
	u.free = make(chan struct{})
}

// of returns the servers that received the key.
func (u *upstream) of(key string) []int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.served[key]
}

// liveCluster is a cluster that is configured in Envoy and in a Balancer alike.
type liveCluster struct {
	name   string
	config Config
	member Membership
	fields object // of Envoy's cluster, beside those that follow from config and member
	route  object // of Envoy's route
	picks  int    // what a test wants to know of its route
	eds    string // the file from which Envoy reads the hosts, if they change
}

// index returns the number of the server that the host stands for, or -1.
func (u *upstream) index(h *Host) int {
	if h != nil {
		for i, a := range u.addresses {
			if a == h.Endpoint().Address {
				return i
			}
		}
	}
	return -1
}

// envoy returns the cluster in Envoy's configuration.
func (c *liveCluster) envoy() object {
	common := object{"update_merge_window": "0s"}
	cluster := object{
		"name": c.name, "connect_timeout": "5s", "common_lb_config": common, "load_assignment": assignment(c.name, &c.member),
		"lb_policy": c.config.Policy.String(), "circuit_breakers": object{"thresholds": []any{object{"max_retries": 100}}},
	}
	switch c.config.Policy {
	case RingHash:
		ring := object{}
		setIf(ring, "minimum_ring_size", c.config.RingHash.MinSize, c.config.RingHash.MinSize > 0)
		setIf(ring, "maximum_ring_size", c.config.RingHash.MaxSize, c.config.RingHash.MaxSize > 0)
		setIf(ring, "hash_function", "MURMUR_HASH_2", c.config.RingHash.Function == MurmurHash2)
		cluster["ring_hash_lb_config"] = ring
	case Maglev:
		table := object{}
		setIf(table, "table_size", c.config.Maglev.TableSize, c.config.Maglev.TableSize > 0)
		cluster["maglev_lb_config"] = table
	case LeastRequest:
		least := object{}
		setIf(least, "choice_count", c.config.LeastRequest.ChoiceCount, c.config.LeastRequest.ChoiceCount > 0)
		setIf(least, "active_request_bias", object{"default_value": max(c.config.LeastRequest.ActiveRequestBias, 0), "runtime_key": "none"}, c.config.LeastRequest.ActiveRequestBias != 0)
		cluster["least_request_lb_config"] = least
	default:
	}
	if s := c.config.SlowStart; s.Window > 0 {
		slow := object{"slow_start_window": fmt.Sprintf("%.3fs", s.Window.Seconds())}
		setIf(slow, "aggression", object{"default_value": s.Aggression, "runtime_key": "none"}, s.Aggression > 0)
		setIf(slow, "min_weight_percent", object{"value": max(s.MinWeightPercent, 0)}, s.MinWeightPercent != 0)
		if least, ok := cluster["least_request_lb_config"].(object); ok {
			least["slow_start_config"] = slow
		} else {
			cluster["round_robin_lb_config"] = object{"slow_start_config": slow}
		}
	}
	setIf(common, "healthy_panic_threshold", object{"value": max(c.config.PanicThreshold, 0)}, c.config.PanicThreshold != 0)
	setIf(common, "locality_weighted_lb_config", object{}, c.config.LocalityWeighted)
	setIf(common, "consistent_hashing_lb_config", object{"hash_balance_factor": c.config.ConsistentHashing.BalanceFactor}, c.config.ConsistentHashing.BalanceFactor > 0)
	if z := c.config.ZoneAware; z != nil {
		zone := object{"fail_traffic_on_panic": z.FailTrafficOnPanic}
		setIf(zone, "routing_enabled", object{"value": max(z.RoutingEnabled, 0)}, z.RoutingEnabled != 0)
		setIf(zone, "min_cluster_size", z.MinClusterSize, z.MinClusterSize > 0)
		setIf(zone, "force_local_zone", object{"min_size": z.ForceLocalZone}, z.ForceLocalZone > 0)
		setIf(zone, "locality_basis", "HEALTHY_HOSTS_WEIGHT", z.ByWeight)
		cluster["load_balancing_policy"] = object{"policies": []any{object{"typed_extension_config": object{
			"name": "envoy.load_balancing_policies.round_robin", "typed_config": object{
				"@type":              "type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
				"locality_lb_config": object{"zone_aware_lb_config": zone},
			},
		}}}}
	}
	if c.eds != "" {
		delete(cluster, "load_assignment")
		cluster["type"] = "EDS"
		cluster["eds_cluster_config"] = object{"eds_config": object{"resource_api_version": "V3", "path_config_source": object{"path": c.eds}}}
	}
	maps.Copy(cluster, c.fields)
	return cluster
}

// update writes the hosts to the file from which Envoy reads them.
func (c *liveCluster) update(t *testing.T) {
	t.Helper()
	resource := assignment(c.name, &c.member)
	resource["@type"] = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	text, err := json.Marshal(object{"resources": []any{resource}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.eds+".new", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(c.eds+".new", c.eds); err != nil { // Envoy watches for a file that is moved there
		t.Fatal(err)
	}
}

func setIf(o object, field string, value any, condition bool) {
	if condition {
		o[field] = value
	}
}

// assignment returns the hosts in Envoy's configuration: a group for each run of
// hosts with the same priority and locality.
func assignment(name string, m *Membership) object {
	var groups []any
	var last object
	var where PriorityLocality
	for _, h := range m.Hosts {
		e := h.Endpoint()
		if at := (PriorityLocality{e.Priority, e.Locality}); last == nil || at != where {
			where, last = at, object{"priority": e.Priority, "lb_endpoints": []any{}}
			if e.Locality != (Locality{}) {
				last["locality"] = object{"region": e.Locality.Region, "zone": e.Locality.Zone, "sub_zone": e.Locality.SubZone}
				setIf(last, "load_balancing_weight", m.LocalityWeights[at], m.LocalityWeights[at] > 0)
			}
			groups = append(groups, last)
		}
		address, port, _ := net.SplitHostPort(e.Address)
		number, _ := strconv.Atoi(port)
		endpoint := object{
			"endpoint":      object{"address": object{"socket_address": object{"address": address, "port_value": number}}, "hostname": e.Hostname},
			"health_status": [...]string{"UNKNOWN", "HEALTHY", "UNHEALTHY", "DRAINING", "TIMEOUT", "DEGRADED"}[e.Status],
		}
		setIf(endpoint, "load_balancing_weight", e.Weight, e.Weight > 0)
		setIf(endpoint, "metadata", object{"filter_metadata": e.Metadata}, e.Metadata != nil)
		last["lb_endpoints"] = append(last["lb_endpoints"].([]any), endpoint)
	}
	policy := object{"weighted_priority_health": m.WeightedPriorityHealth}
	setIf(policy, "overprovisioning_factor", m.OverprovisioningFactor, m.OverprovisioningFactor > 0)
	return object{"cluster_name": name, "endpoints": groups, "policy": policy}
}

// sidecar is a running Envoy.
type sidecar struct {
	*envoytest.Envoy

	client *http.Client
}

// startEnvoy runs Envoy with the clusters until the test ends, or skips the test. The other fields are
// of its bootstrap configuration. For each cluster there is a route that hashes the header x-key.
func startEnvoy(t *testing.T, clusters []*liveCluster, other object) *sidecar {
	t.Helper()
	var all, routes []object
	for _, c := range clusters {
		action := object{"timeout": "30s", "hash_policy": []any{object{"header": object{"header_name": "x-key"}}}}
		maps.Copy(action, c.route)
		all, routes = append(all, c.envoy()), append(routes, envoytest.Route(c.name, action))
	}
	config := envoytest.Bootstrap(all, routes)
	maps.Copy(config, other)
	transport := &http.Transport{MaxIdleConnsPerHost: 128}
	t.Cleanup(transport.CloseIdleConnections)
	return &sidecar{envoytest.RunListening(t, config), &http.Client{Transport: transport, Timeout: maxWait}}
}

// get returns the number of the server that a request of the cluster reaches, or -1
// if Envoy has no host for it.
func (e *sidecar) get(t *testing.T, cluster, key string, headers ...string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+e.Egress+"/"+cluster+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("X-Key", key)
	}
	for _, name := range headers {
		req.Header.Set(name, "1")
	}
	resp, err := e.client.Do(req)
	if err != nil {
		t.Error(err)
		return -2
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	if string(body) == "no healthy upstream" {
		return -1
	}
	i, err := strconv.Atoi(string(body))
	if err != nil {
		t.Errorf("cluster %s, key %s: got %d %q, want the number of a server", cluster, key, resp.StatusCode, body)
		return -2
	}
	return i
}

// sequence returns the servers that n requests without a key reach.
func (e *sidecar) sequence(t *testing.T, cluster string, n int) []int {
	t.Helper()
	picks := make([]int, n)
	for i := range picks {
		picks[i] = e.get(t, cluster, "")
	}
	return picks
}

// await waits until a statistic of the cluster has the value.
func (e *sidecar) await(t *testing.T, cluster, name string, want uint64) {
	t.Helper()
	for deadline := time.Now().Add(maxWait); e.stats(t, cluster)[name] != want; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s of %s: got %d within %v, want %d", name, cluster, e.stats(t, cluster)[name], maxWait, want)
		}
	}
}

// stats returns the statistics of the cluster by their names without its own.
func (e *sidecar) stats(t *testing.T, cluster string) map[string]uint64 {
	t.Helper()
	stats, prefix := map[string]uint64{}, "cluster."+cluster+"."
	for name, n := range e.MustStats(t, "^"+regexp.QuoteMeta(prefix)) {
		stats[strings.TrimPrefix(name, prefix)] = n
	}
	return stats
}
