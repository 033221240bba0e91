#!/usr/bin/env bash
# Records what Envoy 1.40.0's admin page shows after some calls, for the tests of
# this package: every format of the page, for the statistics that the library counts.
#
#   PILLION_ENVOY=/path/to/envoy ./record.sh
set -euo pipefail
cd "$(dirname "$0")"
: "${PILLION_ENVOY:?the path of an Envoy 1.40.0}"
dir=$(mktemp -d)
cat >"$dir/server.py" <<'PY'
import http.server, re, socketserver, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        word = re.match(r'/(?:odd|first)?(\d*)-?(\d*)', self.path)
        time.sleep(int(word.group(2) or 0) / 1000)
        self.send_response(int(word.group(1) or 200))
        self.send_header('content-length', '2')
        self.end_headers()
        self.wfile.write(b'ok')
    def log_message(self, *args): pass
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer): daemon_threads = True
Server(('127.0.0.1', 29903), Handler).serve_forever()
PY
cluster() {
	echo "  - name: \"$1\""
	echo "    connect_timeout: 0.5s"
	echo "    track_cluster_stats: {timeout_budgets: true}"
	echo "    load_assignment: {cluster_name: x, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 29903}}}}]}]}"
}
cat >"$dir/envoy.yaml" <<YAML
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 29901}}}
stats_config:
  stats_tags:
  - {tag_name: service.cluster, fixed_value: "shop"}
  - {tag_name: service.node, fixed_value: "n\\"1"}
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: 29902}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: egress
          use_remote_address: true
          internal_address_config: {cidr_ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}]}
          route_config:
            virtual_hosts:
            - name: svc
              domains: ["*"]
              routes:
              - {match: {prefix: /odd}, route: {cluster: "odd.name:80|x#y-z \\"q\\\\"}}
              - {match: {prefix: /first}, route: {cluster: a-first}}
              - {match: {prefix: /}, route: {cluster: up, timeout: 4s, retry_policy: {retry_on: 5xx, num_retries: 1}}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
$(cluster up)
$(cluster a-first)
$(cluster 'odd.name:80|x#y-z \"q\\')
$(cluster unused)
YAML
python3 "$dir/server.py" & server=$!
"$PILLION_ENVOY" -c "$dir/envoy.yaml" --disable-hot-restart --concurrency 1 -l error & envoy=$!
trap 'kill $server $envoy; rm -rf "$dir"' EXIT
until curl -sf -o /dev/null http://127.0.0.1:29901/ready; do sleep 0.1; done
for path in 200 200-2 200-2 200-7 201-24 204-101 200-104 200-107 200-249 200-1003 404 503 999 odd odd404-3 first; do
	curl -s -o /dev/null "http://127.0.0.1:29902/$path"
done
sleep 12 # two flushes: the last interval is empty
page() { curl -sgf "http://127.0.0.1:29901/stats$2filter=^cluster.(up|a-first|odd.*|unused).((internal|retry).)?(upstream_rq_(time\$|...\$|un|comp|total|retry|act|timeout|per_try_t)|retry_or)" >"$1"; }
page plain.txt '?'
page used.txt '?usedonly&'
page counters.txt '?type=Counters&'
page gauges.txt '?type=Gauges&'
page histograms.txt '?type=Histograms&'
page cumulative.txt '?histogram_buckets=cumulative&'
page disjoint.txt '?histogram_buckets=disjoint&'
page detailed.txt '?histogram_buckets=detailed&'
page plain.json '?format=json&'
page cumulative.json '?format=json&histogram_buckets=cumulative&'
page disjoint.json '?format=json&histogram_buckets=disjoint&'
page detailed.json '?format=json&histogram_buckets=detailed&'
page prometheus.txt '/prometheus?'
page prometheus-used.txt '?format=prometheus&usedonly&'
