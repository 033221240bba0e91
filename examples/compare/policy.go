package main

import (
	"bytes"
	"fmt"
	"net"
	"strconv"
	"text/template"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// policy is the policy for calls to one service, from which the configurations of the
// library and of the sidecar are made.
type policy struct {
	Cluster     string
	Total       time.Duration
	PerTry      time.Duration
	RetryOn     string
	NumRetries  int
	BackOff     time.Duration // the base interval
	MaxRequests int
	MaxRetries  int
}

func standardPolicy() policy {
	return policy{
		Cluster:     "recipes",
		Total:       2 * time.Second,
		PerTry:      500 * time.Millisecond, // far more than a healthy response takes on a busy machine
		RetryOn:     "5xx,reset,connect-failure",
		NumRetries:  2,
		BackOff:     5 * time.Millisecond,
		MaxRequests: 200,
		MaxRetries:  100,
	}
}

// library returns the policy as the library's configuration.
func (p policy) library(registry *metrics.Registry) []pillion.Policy {
	return []pillion.Policy{
		metrics.Config{Registry: registry},
		timeout.Config{Total: p.Total, PerTry: p.PerTry, EnvoyHeaders: true},
		retry.Config{On: p.RetryOn, NumRetries: p.NumRetries, BaseInterval: p.BackOff, EnvoyHeaders: true},
		limits.Config{MaxRequests: p.MaxRequests, MaxRetries: p.MaxRetries},
	}
}

// envoy returns the policy as the configuration of a sidecar in front of the server.
// Calls below /refused go to an address that refuses connections, and gRPC calls go to the
// gRPC server, by HTTP/2. All count for the same cluster.
func (p policy) envoy(server, grpc, refusing string) ([]byte, error) {
	var text bytes.Buffer
	err := sidecarTemplate.Execute(&text, struct {
		policy
		Server, GRPC, Refusing string
	}{p, server, grpc, refusing})
	return text.Bytes(), err
}

var sidecarTemplate = template.Must(template.New("envoy").Funcs(template.FuncMap{
	"seconds": func(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + "s" },
	"address": envoyAddress,
}).Parse(`
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
stats_flush_interval: 0.1s # so that histograms are not seconds late
static_resources:
  listeners:
  - name: egress
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: egress
          use_remote_address: true # this and the next line: calls may set their own timeouts
          internal_address_config: {cidr_ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}]}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - {match: {prefix: /refused}, route: {cluster: refusing, {{template "route" .}}}}
              - {match: {prefix: /, grpc: {}}, route: {cluster: grpc, {{template "route" .}}}}
              - {match: {prefix: /}, route: {cluster: {{.Cluster}}, {{template "route" .}}}}
  clusters:
  - name: {{.Cluster}}
    {{- template "thresholds" .}}
    load_assignment: {cluster_name: {{.Cluster}}, endpoints: [{lb_endpoints: [{endpoint: {address: {{address .Server}}}}]}]}
  - name: grpc
    alt_stat_name: {{.Cluster}}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    {{- template "thresholds" .}}
    load_assignment: {cluster_name: grpc, endpoints: [{lb_endpoints: [{endpoint: {address: {{address .GRPC}}}}]}]}
  - name: refusing
    alt_stat_name: {{.Cluster}}
    {{- template "thresholds" .}}
    load_assignment: {cluster_name: refusing, endpoints: [{lb_endpoints: [{endpoint: {address: {{address .Refusing}}}}]}]}

{{- define "route" -}}
timeout: {{seconds .Total}}, retry_policy: {retry_on: "{{.RetryOn}}", num_retries: {{.NumRetries}}, per_try_timeout: {{seconds .PerTry}}, retry_back_off: {base_interval: {{seconds .BackOff}}}}
{{- end}}
{{- define "thresholds"}}
    circuit_breakers: {thresholds: [{max_requests: {{.MaxRequests}}, max_retries: {{.MaxRetries}}, max_connections: 4096, max_pending_requests: 4096}]}
{{- end}}
`))

// envoyAddress writes an address in Envoy's form.
func envoyAddress(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("{socket_address: {address: %q, port_value: %s}}", host, port), nil
}
