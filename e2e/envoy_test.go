package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/internal/envoytest"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// envoyConfig configures a sidecar with a route and a cluster for each scenario. The fields
// of a scenario are fragments in YAML's flow style.
var envoyConfig = template.Must(template.New("envoy").Parse(`
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
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
          {{- if .Trusting}}
          use_remote_address: true
          internal_address_config: {cidr_ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}]}
          {{- end}}
          delayed_close_timeout: 0.05s
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {{.AccessLog}}
              log_format:
                text_format_source:
                  inline_string: "%REQ(X-CALL)% %RESPONSE_FLAGS% %UPSTREAM_REQUEST_ATTEMPT_COUNT% %RESPONSE_CODE_DETAILS%\n"
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              {{- range .Scenarios}}
              - match: {prefix: "/{{.ID}}/"}
                route: {cluster: "{{.ID}}"{{with .Route}}, {{.}}{{end}}}
              {{- end}}
  clusters:
  {{- range .Scenarios}}
  - name: "{{.ID}}"
    connect_timeout: 0.2s
    load_assignment:
      cluster_name: "{{.ID}}"
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{.Port}}}}}}]}]
    {{- if .H2}}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    {{- end}}
    {{- if .TLS}}
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext}
    {{- end}}
    {{- with .Cluster}}
    {{.}}
    {{- end}}
  {{- end}}
`))

// scenario is an upstream, with equivalent configurations of a sidecar and of the library.
type scenario struct {
	name     string
	method   string                        // empty means GET
	play     func(s *scripted, c net.Conn) // nil if the upstream refuses connections
	act      func(s *stream)               // for an HTTP/2 upstream, instead of play
	TLS      bool                          // to the upstream
	busy     bool                          // another call is active
	Route    string                        // fields of the sidecar's route
	Cluster  string                        // fields of the sidecar's cluster
	policies []pillion.Policy              // the library's policies
	base     func(*http.Transport)         // configures the transport, if not nil
	ID       string
	Port     string
	H2       bool
	addr     string
	server   *scripted // nil if the upstream refuses connections
	script   *h2script
}

// observed is what a caller and an access log see of a call.
type observed struct {
	Status     int
	Body       string
	Type       string
	Length     string
	Overloaded string
	Flags      string
	Detail     string
	Attempts   int
	Upstream   int64 // number of requests that the upstream received
}

// TestEnvoy compares the library, with LocalReplies, with a real Envoy in front of the same
// upstreams. The sidecar is the binary that PILLION_ENVOY names, or envoy on PATH.
func TestEnvoy(t *testing.T) {
	binary := envoytest.Binary(t)
	scenarios := envoyScenarios()
	for _, f := range h2Failures() {
		if f.base == nil && f.unlike == "" { // with a base the client itself causes the failure
			scenarios = append(scenarios, &scenario{name: "HTTP/2: " + f.name, act: f.act, base: unencryptedHTTP2})
		}
	}
	for i, s := range scenarios {
		s.start(t, fmt.Sprintf("s%02d", i))
	}
	sidecar := startEnvoy(t, binary, scenarios)
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			library, envoy := s.throughLibrary(t), s.throughEnvoy(t, sidecar)
			if library != envoy {
				t.Errorf("library:\n\t%+v\nEnvoy:\n\t%+v", library, envoy)
			}
		})
	}
}

// envoyScenarios returns new scenarios.
func envoyScenarios() []*scenario {
	const (
		again     = "retry_policy: {retry_on: \"5xx,reset,connect-failure\", num_retries: 2, retry_back_off: {base_interval: 0.001s, max_interval: 0.002s}}"
		onceAgain = "retry_policy: {retry_on: 5xx, num_retries: 1, per_try_timeout: 0.05s, retry_back_off: {base_interval: 0.001s, max_interval: 0.002s}}"
	)
	retries := []pillion.Policy{retry.Config{On: "5xx,reset,connect-failure", NumRetries: 2, BaseInterval: time.Millisecond}}
	return []*scenario{
		{name: "refused"},
		{name: "refused, HEAD", method: http.MethodHead},
		{name: "refused, retried", Route: again, policies: retries},
		{name: "closed", play: afterRequest(fin)},
		{name: "closed, retried", play: afterRequest(fin), Route: again, policies: retries},
		{name: "reset", play: afterRequest(reset)},
		{name: "reset, retried", play: afterRequest(reset), Route: again, policies: retries},
		{name: "garbage", play: afterRequest(say("\x00\x01 what is this\r\n\r\n"), fin)},
		{name: "garbage, retried", play: afterRequest(say("\x00\x01 what is this\r\n\r\n"), fin), Route: again, policies: retries},
		{name: "garbage after the status line", play: afterRequest(say("HTTP/1.1 200 OK\r\n\x00\x01\r\n\r\n"), fin)},
		{name: "closed within the headers", play: afterRequest(say("HTTP/1.1 200 OK\r\nServer: te"), fin)},
		{
			name: "503, retried", play: afterRequest(say("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\nContent-Type: text/x\r\n\r\nno\n")),
			Route: again, policies: retries,
		},
		{
			name: "per-try timeout, retried", play: afterRequest(), Route: onceAgain,
			policies: []pillion.Policy{
				timeout.Config{PerTry: 50 * time.Millisecond}, retry.Config{On: "5xx", NumRetries: 1, BaseInterval: time.Millisecond},
			},
		},
		{
			name: "total timeout", play: afterRequest(), Route: "timeout: 0.05s",
			policies: []pillion.Policy{timeout.Config{Total: 50 * time.Millisecond}},
		},
		{
			name: "total timeout within the body", play: afterRequest(say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")),
			Route: "timeout: 0.2s", policies: []pillion.Policy{timeout.Config{Total: 200 * time.Millisecond}},
		},
		{
			name: "max_requests", busy: true, play: afterRequest(), Cluster: "circuit_breakers: {thresholds: [{max_requests: 1}]}",
			policies: []pillion.Policy{limits.Config{MaxRequests: 1}},
		},
		{name: "a body shorter than its length", play: afterRequest(say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart"), fin)},
		{name: "a body shorter than its length, reset", play: afterRequest(say("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart"), reset)},
		{name: "an invalid chunk", play: afterRequest(say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\nmany\r\n"), fin)},
		{name: "TLS to a plain HTTP server", TLS: true, play: func(_ *scripted, c net.Conn) { say("HTTP/1.1 400 Bad Request\r\n\r\n")(c) }},
		{
			name: "silence in the TLS handshake", TLS: true, play: func(_ *scripted, c net.Conn) { firstByte(c) },
			base: func(b *http.Transport) { b.TLSHandshakeTimeout = 200 * time.Millisecond },
		},
	}
}

// start starts the scenario's upstream.
func (s *scenario) start(t *testing.T, id string) {
	t.Helper()
	s.ID, s.H2 = id, s.act != nil
	play := s.play
	if s.H2 {
		s.script = &h2script{}
		play = func(_ *scripted, conn net.Conn) { s.script.play(conn, s.act) }
	}
	if play == nil {
		s.addr = refusing(t)
	} else {
		s.server = serveScript(t, play)
		s.addr = s.server.addr()
	}
	_, s.Port, _ = strings.Cut(s.addr, ":")
}

// seenUpstream returns the number of requests that the upstream has received.
func (s *scenario) seenUpstream() int64 {
	switch {
	case s.H2:
		return s.script.requests.Load()
	case s.server == nil:
		return 0
	}
	return s.server.requests.Load()
}

// throughLibrary makes the scenario's call through the library.
func (s *scenario) throughLibrary(t *testing.T) observed {
	t.Helper()
	base := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	if s.base != nil {
		s.base(base)
	}
	u, err := pillion.New("upstream", append(s.policies, pillion.Options{LocalReplies: true})...)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: u.Transport(base)}
	defer client.CloseIdleConnections()
	url := "http://" + s.addr + "/"
	if s.TLS {
		url = "https://" + s.addr + "/"
	}
	before := s.seenUpstream()
	if s.busy {
		defer s.occupy(t, client, url)()
	}
	ctx, info := pillion.WithInfo(t.Context())
	seen := get(ctx, t, client, s.method, url)
	seen.Flags, seen.Detail, seen.Attempts = info.Flags().String(), reason(info.Detail().String()), info.Attempts()
	seen.Upstream = s.seenUpstream() - before
	return seen
}

// throughEnvoy makes the scenario's call through the sidecar.
func (s *scenario) throughEnvoy(t *testing.T, e *sidecar) observed {
	t.Helper()
	base := &http.Transport{}
	client := &http.Client{Transport: callID{base, s.ID}}
	defer base.CloseIdleConnections()
	url := e.egress + "/" + s.ID + "/"
	before := s.seenUpstream()
	if s.busy {
		defer s.occupy(t, &http.Client{Transport: callID{base, s.ID + "-busy"}}, url)()
	}
	seen := get(t.Context(), t, client, s.method, url)
	fields := e.logged(t, s.ID)
	seen.Flags, seen.Detail = fields[0], reason(fields[2])
	if _, err := fmt.Sscan(fields[1], &seen.Attempts); err != nil {
		t.Errorf("access log: attempts %q: %v", fields[1], err)
	}
	seen.Upstream = s.seenUpstream() - before
	return seen
}

// occupy keeps a call active until the returned function is called.
func (s *scenario) occupy(t *testing.T, client *http.Client, url string) func() {
	t.Helper()
	before := s.seenUpstream()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		get(ctx, t, client, http.MethodGet, url)
	}()
	for deadline := time.Now().Add(waitLimit); s.seenUpstream() == before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("the upstream received no request within %v", waitLimit)
			break
		}
	}
	return func() {
		cancel()
		<-done
	}
}

// callID adds a header that identifies the call in the access log.
type callID struct {
	http.RoundTripper
	id string
}

func (c callID) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("X-Call", c.id)
	return c.RoundTripper.RoundTrip(req)
}

// get makes a call, and returns what its caller observes. The status is 0 after an error.
func get(ctx context.Context, t *testing.T, client *http.Client, method, url string) (seen observed) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		t.Error(err)
		return seen
	}
	resp, err := client.Do(req)
	if err != nil {
		return seen
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		body = []byte("broken") // the length of the part that arrives depends on buffers
	}
	return observed{
		Status: resp.StatusCode, Body: string(body), Type: resp.Header.Get("Content-Type"),
		Length: resp.Header.Get("Content-Length"), Overloaded: resp.Header.Get("X-Envoy-Overloaded"),
	}
}

// reason removes Envoy's description of the transport error: "{a|b}" becomes "{a}".
func reason(detail string) string {
	before, _, more := strings.Cut(detail, "|")
	if more {
		before += "}"
	}
	return before
}

// sidecar is a running Envoy.
type sidecar struct {
	egress string // URL of the listener for calls
	log    string // path of the access log
}

// startEnvoy runs Envoy until the test ends.
func startEnvoy(t *testing.T, binary string, scenarios []*scenario) *sidecar {
	t.Helper()
	return startEnvoyThat(t, binary, scenarios, false)
}

// startEnvoyThat runs an Envoy that may treat callers on the loopback interface as internal
// ones, and so honor their headers.
func startEnvoyThat(t *testing.T, binary string, scenarios []*scenario, trusting bool) *sidecar {
	t.Helper()
	e, err := envoytest.Start(context.Background(), binary, func(dir string) ([]byte, error) { // the cleanup, which runs after t.Context ends, stops it
		var config bytes.Buffer
		err := envoyConfig.Execute(&config, struct {
			AccessLog string
			Scenarios []*scenario
			Trusting  bool
		}{filepath.Join(dir, accessLog), scenarios, trusting})
		return config.Bytes(), err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if output := e.Close(); t.Failed() {
			t.Logf("envoy said:\n%s", output)
		}
	})
	if err := e.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &sidecar{egress: "http://" + e.Egress, log: e.File(accessLog)}
}

// accessLog is the name of the file.
const accessLog = "access.log"

// logged returns the fields of a call's line in the access log.
func (e *sidecar) logged(t *testing.T, id string) []string {
	t.Helper()
	for deadline := time.Now().Add(waitLimit); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		text, err := os.ReadFile(e.log)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			fields := strings.SplitN(strings.TrimSpace(line), " ", 4)
			if len(fields) == 4 && fields[0] == id {
				return fields[1:]
			}
		}
	}
	t.Fatalf("access log: got no line of call %s within %v", id, waitLimit)
	return nil
}
