package parity

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// FindEnvoy returns the path of a real Envoy: the one that PILLION_ENVOY names, or envoy on
// PATH. It returns "" if there is none.
func FindEnvoy() string {
	if binary := os.Getenv("PILLION_ENVOY"); binary != "" {
		return binary
	}
	binary, err := exec.LookPath("envoy")
	if err != nil {
		return ""
	}
	return binary
}

// sidecar is a running Envoy as a Side.
type sidecar struct {
	dir    string // the directory of its files
	cmd    *exec.Cmd
	output bytes.Buffer
	ended  chan struct{}
	client *http.Transport
	egress string // host and port of the listener
	admin  string // host and port of the admin page
}

// StartEnvoy returns a StartFunc that starts a separate Envoy for each scenario.
func StartEnvoy(binary string) StartFunc {
	return func(ctx context.Context, s *Scenario, addresses Addresses) (Side, error) {
		dir, err := os.MkdirTemp("", "parity")
		if err != nil {
			return nil, err
		}
		e := &sidecar{dir: dir, ended: make(chan struct{}), client: &http.Transport{DisableCompression: true}}
		if s.Downstream.Protocol == "h2" {
			e.client.Protocols = &http.Protocols{}
			e.client.Protocols.SetUnencryptedHTTP2(true)
		}
		if err := e.start(ctx, binary, s, addresses); err != nil {
			e.Close()
			return nil, err
		}
		return e, nil
	}
}

func (e *sidecar) start(ctx context.Context, binary string, s *Scenario, addresses Addresses) error {
	config, err := e.config(s, addresses)
	if err != nil {
		return err
	}
	text, err := json.Marshal(config)
	if err != nil {
		return err
	}
	if err := os.WriteFile(e.file("envoy.json"), text, 0o600); err != nil {
		return err
	}
	e.cmd = exec.CommandContext(ctx, binary, "-c", e.file("envoy.json"), "--use-dynamic-base-id", "--concurrency", "1", //nolint:gosec // the caller chooses the binary
		"--admin-address-path", e.file("admin"), "--file-flush-interval-msec", "10", "--log-level", "warning")
	e.cmd.Stdout, e.cmd.Stderr = &e.output, &e.output
	if err := e.cmd.Start(); err != nil {
		return err
	}
	go func() {
		defer close(e.ended)
		_ = e.cmd.Wait() // Close kills it
	}()
	return e.await(ctx)
}

func (e *sidecar) file(name string) string { return filepath.Join(e.dir, name) }

// await waits for the listener.
func (e *sidecar) await(ctx context.Context) error {
	for deadline := time.Now().Add(2 * waitLimit); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		select {
		case <-e.ended:
			return fmt.Errorf("envoy ended immediately: %s", e.output.String())
		default:
		}
		address, err := os.ReadFile(e.file("admin"))
		if err != nil {
			continue
		}
		e.admin = string(address)
		page, err := e.page(ctx, "/listeners?format=json")
		if err != nil {
			continue
		}
		var listeners struct {
			Statuses []struct {
				Local struct {
					Socket struct {
						Port int `json:"port_value"`
					} `json:"socket_address"`
				} `json:"local_address"`
			} `json:"listener_statuses"`
		}
		if json.Unmarshal(page, &listeners) == nil && len(listeners.Statuses) == 1 {
			e.egress = net.JoinHostPort("127.0.0.1", strconv.Itoa(listeners.Statuses[0].Local.Socket.Port))
			return nil
		}
	}
	return errors.New("envoy was not ready in time")
}

// page reads a page of the admin interface.
func (e *sidecar) page(ctx context.Context, target string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.admin+target, nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // the body was read
	return io.ReadAll(resp.Body)
}

// Send sends a request to the listener.
func (e *sidecar) Send(req *http.Request) (*http.Response, error) {
	if req.URL.Host = e.egress; req.Host == anyHost {
		req.Host = ""
	}
	return e.client.RoundTrip(req)
}

// Log reads the access log.
func (e *sidecar) Log(_ context.Context, answers []Answer) ([]Logged, error) {
	for deadline := time.Now().Add(waitLimit); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if lines, err := e.lines(); err != nil || len(lines) < len(answers) {
			continue
		}
		time.Sleep(20 * time.Millisecond) // a call with an internal redirect has a second line
		lines, err := e.lines()
		if err != nil {
			return nil, err
		}
		var log []Logged
		for _, a := range answers {
			log = append(log, lines[a.Case]...)
		}
		return log, nil
	}
	return nil, errors.New("the access log is not complete")
}

// lines returns the log lines of each case that has any.
func (e *sidecar) lines() (map[string][]Logged, error) {
	text, err := os.ReadFile(e.file("access.log"))
	if err != nil {
		return nil, err
	}
	found := map[string][]Logged{}
	for line := range bytes.Lines(text) {
		var l Logged
		if err := json.Unmarshal(line, &l); err != nil {
			return nil, err
		}
		found[l.Case] = append(found[l.Case], l)
	}
	return found, nil
}

// Stats reads the statistics.
func (e *sidecar) Stats(ctx context.Context) (numbers, histograms map[string]uint64, err error) {
	text, err := e.page(ctx, "/stats")
	if err != nil {
		return nil, nil, err
	}
	time.Sleep(flush) // histograms are updated later
	prometheus, err := e.page(ctx, "/stats/prometheus")
	return readNumbers(string(text)), readCounts(string(prometheus)), err
}

// flush is the maximum time until histograms contain what was recorded.
const flush = 150 * time.Millisecond

// Close kills Envoy, and removes its files.
func (e *sidecar) Close() {
	e.client.CloseIdleConnections()
	if e.cmd != nil && e.cmd.Process != nil {
		_ = e.cmd.Process.Kill() // it may have ended already
		<-e.ended
	}
	_ = os.RemoveAll(e.dir) // a temporary directory
}

// The base configuration into which a scenario's fragments are merged.
const (
	baseConfig = `{
		"admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
		"stats_flush_interval": "0.05s"
	}`
	baseCluster = `{
		"name": "upstream", "type": "STATIC", "connect_timeout": "0.5s", "lb_policy": "ROUND_ROBIN"
	}`
	baseHTTP2 = `{"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
		"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
		"explicit_http_config": {"http2_protocol_options": {}}
	}}}`
	baseManager = `{
		"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
		"stat_prefix": "egress", "use_remote_address": true,
		"access_log": [{"name": "envoy.access_loggers.file", "typed_config": {
			"@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
			"log_format": {"json_format": {
				"case": "%REQ(X-PARITY-CASE)%",
				"response_code": "%RESPONSE_CODE%",
				"response_code_details": "%RESPONSE_CODE_DETAILS%",
				"response_flags": "%RESPONSE_FLAGS%",
				"response_flags_long": "%RESPONSE_FLAGS_LONG%",
				"upstream_cluster": "%UPSTREAM_CLUSTER%",
				"upstream_host": "%UPSTREAM_HOST%",
				"upstream_request_attempt_count": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"
			}}
		}}]
	}`
	internalAddresses = `{"internal_address_config": {"cidr_ranges": [{"address_prefix": "127.0.0.0", "prefix_len": 8}]}}`
	baseRouter        = `{"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}`
)

// object is a JSON object.
type object = map[string]any

// parse parses JSON of this file, or of a scenario that was read.
func parse[T any](text string) T {
	var v T
	if text == "" {
		return v
	}
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		panic(fmt.Sprintf("%v: %s", err, text))
	}
	return v
}

// merge adds the fields of more to base, recursively.
func merge(base, more object) object {
	if base == nil {
		base = object{}
	}
	for name, value := range more {
		inner, isObject := value.(object)
		old, wasObject := base[name].(object)
		if isObject && wasObject {
			base[name] = merge(maps.Clone(old), inner)
			continue
		}
		base[name] = value
	}
	return base
}

// config returns Envoy's configuration for a scenario.
func (e *sidecar) config(s *Scenario, addresses Addresses) (object, error) {
	cluster, err := envoyClusterConfig(s, addresses)
	config := parse[object](baseConfig)
	config["static_resources"] = object{
		"listeners": []any{object{
			"name": "egress", "address": socketAddress("127.0.0.1", 0),
			"filter_chains": []any{object{"filters": []any{object{
				"name": "envoy.filters.network.http_connection_manager", "typed_config": e.manager(s),
			}}}},
		}},
		"clusters": []any{cluster},
	}
	if runtime := fragment(s, "runtime"); runtime != nil {
		config["layered_runtime"] = object{"layers": []any{object{"name": "scenario", "static_layer": runtime}}}
	}
	return config, err
}

func fragment(s *Scenario, name string) object { return parse[object](string(s.Envoy[name])) }

// manager returns the HTTP connection manager of a scenario.
func (e *sidecar) manager(s *Scenario) object {
	manager := parse[object](baseManager)
	if string(s.Envoy["external"]) != "true" {
		merge(manager, parse[object](internalAddresses))
	}
	log := manager["access_log"].([]any)[0].(object)["typed_config"].(object) //nolint:forcetypeassert // it is defined above
	log["path"] = e.file("access.log")
	routes := append(parse[[]any](string(s.Envoy["routes"])), defaultRoute(s))
	host := merge(object{"name": "svc", "domains": []any{"*"}, "routes": routes}, fragment(s, "virtual_host"))
	manager["route_config"] = merge(object{"name": "routes", "virtual_hosts": []any{host}}, fragment(s, "route_config"))
	manager["http_filters"] = append(parse[[]any](string(s.Envoy["http_filters"])), object{
		"name": "envoy.filters.http.router", "typed_config": merge(parse[object](baseRouter), fragment(s, "router")),
	})
	return merge(manager, fragment(s, "hcm"))
}

// defaultRoute returns the route for all other paths.
func defaultRoute(s *Scenario) object {
	route := merge(object{"match": object{"prefix": "/"}}, fragment(s, "route_entry"))
	if route["redirect"] == nil && route["direct_response"] == nil {
		route["route"] = merge(object{"cluster": clusterName}, fragment(s, "route"))
	}
	return route
}

func socketAddress(host string, port int) object {
	return object{"socket_address": object{"address": host, "port_value": port}}
}

// envoyClusterConfig returns the cluster with the scenario's hosts.
func envoyClusterConfig(s *Scenario, addresses Addresses) (object, error) {
	priorities := parse[map[string]int](string(s.Envoy["priorities"]))
	metadata := parse[object](string(s.Envoy["host_metadata"]))
	var endpoints []any
	for i, h := range s.Upstream.Hosts {
		host, text, err := net.SplitHostPort(addresses[i])
		if err != nil {
			return nil, err
		}
		port, err := strconv.Atoi(text)
		if err != nil {
			return nil, err
		}
		endpoint := object{"endpoint": object{"address": socketAddress(host, port)}}
		if m := metadata[h.ID]; m != nil {
			endpoint["metadata"] = m
		}
		endpoints = addEndpoint(endpoints, priorities[h.ID], endpoint)
	}
	cluster := parse[object](baseCluster)
	cluster["load_assignment"] = object{"cluster_name": clusterName, "endpoints": endpoints}
	if s.Upstream.Protocol == "h2" {
		merge(cluster, parse[object](baseHTTP2))
	}
	return merge(cluster, fragment(s, "cluster")), nil
}

// addEndpoint adds a host to the hosts of its priority.
func addEndpoint(groups []any, priority int, endpoint object) []any {
	for _, g := range groups {
		group := g.(object) //nolint:forcetypeassert // created below
		if group["priority"] == priority {
			group["lb_endpoints"] = append(group["lb_endpoints"].([]any), endpoint) //nolint:forcetypeassert // created below
			return groups
		}
	}
	return append(groups, object{"priority": priority, "lb_endpoints": []any{endpoint}})
}
