package parity

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pillion-go/pillion/internal/envoytest"
)

// FindEnvoy returns the path of a real Envoy: the one that PILLION_ENVOY names, or
// envoy on PATH; "" if there is none.
func FindEnvoy() string { return envoytest.Find() }

// sidecar is a listener of a running Envoy as a Side.
type sidecar struct {
	*envoytest.Envoy
	client *http.Transport
	label  string // of the scenario, in the names of an Envoy that plays several; else ""
	close  func()
}

// StartEnvoy returns a StartFunc that starts an Envoy for each scenario.
func StartEnvoy(binary string) StartFunc {
	return func(ctx context.Context, s *Scenario, addresses Addresses) (Side, error) {
		e, err := envoytest.Start(ctx, binary, func(dir string) ([]byte, error) {
			config, err := config(s, addresses, filepath.Join(dir, accessLog))
			if err != nil {
				return nil, err
			}
			return json.Marshal(config)
		})
		if err != nil {
			return nil, err
		}
		if err := e.Listen(ctx); err != nil {
			e.Close()
			return nil, err
		}
		return newSidecar(e, s, "", func() { e.Close() }), nil
	}
}

// newSidecar returns the listener of a scenario.
func newSidecar(e *envoytest.Envoy, s *Scenario, label string, done func()) *sidecar {
	x := &sidecar{Envoy: e, client: &http.Transport{DisableCompression: true}, label: label, close: done}
	if s.Downstream.Protocol == "h2" {
		x.client.Protocols = &http.Protocols{}
		x.client.Protocols.SetUnencryptedHTTP2(true)
	}
	return x
}

// accessLog is the name of the file.
const accessLog = "access.log"

// egress is the name of a listener.
const egress = "egress"

// Send sends a request to the listener.
func (e *sidecar) Send(req *http.Request) (*http.Response, error) {
	if req.URL.Host = e.Listeners[egress+e.label]; req.Host == anyHost {
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
	text, err := os.ReadFile(e.File(accessLog + e.label))
	if err != nil {
		return nil, err
	}
	found := map[string][]Logged{}
	for line := range bytes.Lines(text) {
		var l Logged
		if err := json.Unmarshal(line, &l); err != nil {
			return nil, err
		}
		if l.Cluster == clusterName+e.label {
			l.Cluster = clusterName
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
	time.Sleep(flush) // histograms come later
	prometheus, err := e.page(ctx, "/stats/prometheus")
	return readNumbers(text), readCounts(prometheus), err
}

// page reads a page of statistics, with those of this listener and its cluster alone if there are
// several.
func (e *sidecar) page(ctx context.Context, target string) (string, error) {
	if e.label != "" {
		target += "?filter=" + url.QueryEscape(`^(cluster\.`+clusterName+`|http\.`+egress+`)`+e.label+`\.`)
	}
	text, err := e.Page(ctx, target)
	return strings.NewReplacer(
		"cluster."+clusterName+e.label+".", "cluster."+clusterName+".",
		"http."+egress+e.label+".", "http."+egress+".",
		`="`+clusterName+e.label+`"`, `="`+clusterName+`"`,
	).Replace(string(text)), err
}

// flush is the maximum time until histograms contain what was recorded.
const flush = 150 * time.Millisecond

// Close ends it.
func (e *sidecar) Close() {
	e.client.CloseIdleConnections()
	e.close()
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

// config is Envoy's configuration for a scenario.
func config(s *Scenario, addresses Addresses, log string) (object, error) {
	cluster, err := envoyClusterConfig(s, addresses)
	config := parse[object](baseConfig)
	config["static_resources"] = object{
		"listeners": []any{object{
			"name": "egress", "address": socketAddress("127.0.0.1", 0),
			"filter_chains": []any{object{"filters": []any{object{
				"name": "envoy.filters.network.http_connection_manager", "typed_config": manager(s, log),
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

// manager is the HTTP connection manager of a scenario.
func manager(s *Scenario, path string) object {
	manager := parse[object](baseManager)
	if string(s.Envoy["external"]) != "true" {
		merge(manager, parse[object](internalAddresses))
	}
	log := manager["access_log"].([]any)[0].(object)["typed_config"].(object) //nolint:forcetypeassert // it is above
	log["path"] = path
	routes := append(parse[[]any](string(s.Envoy["routes"])), defaultRoute(s))
	host := merge(object{"name": virtualHost, "domains": []any{"*"}, "routes": routes}, fragment(s, "virtual_host"))
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
