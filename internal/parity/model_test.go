package parity

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// ofGRPC returns a response with gRPC's content type.
func ofGRPC(body string, trailers ...[2]string) Step {
	return Step{Headers: [][2]string{{"content-type", "application/grpc"}}, Body: body, Trailers: trailers}
}

// trailersAlone returns a response that has only a status.
func trailersAlone(status string) Step {
	return Step{Headers: [][2]string{{"content-type", "application/grpc"}, {"grpc-status", status}}}
}

// hi is a message of two bytes.
const hi = "\x00\x00\x00\x00\x02hi"

// retries returns a route that retries up to n times, with more fields of its policy.
func retries(on string, n int, more string) map[string]json.RawMessage {
	text := `{"timeout": "1s", "retry_policy": {"retry_on": "` + on + `", "num_retries": ` + strconv.Itoa(n) + more + `}}`
	return map[string]json.RawMessage{"route": json.RawMessage(text)}
}

// modeled simulates one call with a model.
func modeled(t *testing.T, s *Scenario, h habit, made int) (Answer, Logged, *course) {
	t.Helper()
	if s.Upstream.Protocol == "" {
		s.Upstream.Protocol, s.Downstream.Protocol = "h2", "h2"
	}
	if s.Upstream.Hosts == nil {
		s.Upstream.Hosts = []Host{{ID: "a"}}
	}
	if s.Downstream.Ops == nil {
		s.Downstream.Ops = []Op{{Op: "request", Request: &Request{GRPC: true}}}
	}
	f, err := readFragments(s.Envoy)
	if err != nil {
		t.Fatal(err)
	}
	m := &model{scenario: s, parts: f, habits: h, played: map[string]int{"r001": made}}
	c := m.play()[0]
	return m.answer(c), m.logged(c), c
}

func oneCall(r Request) Calls {
	return Calls{Protocol: "http1", Ops: []Op{{Op: "request", Request: &r}}}
}

// libraryHabits returns all habits.
func libraryHabits() habit {
	var all habit
	for _, h := range habits() {
		all |= h.habit
	}
	return all
}

// TestModel_grpcStatuses pins the statuses that gRPC's client makes from responses in plain
// HTTP.
func TestModel_grpcStatuses(t *testing.T) {
	tests := map[int]string{
		400: "13", 401: "16", 403: "7", 404: "12", 429: "14", 502: "14", 503: "14", 504: "14",
		201: "2", 204: "2", 302: "2", 408: "2", 418: "2", 499: "2", 500: "2", 501: "2", 599: "2", 200: "2",
	}
	for status, want := range tests {
		for _, body := range []string{"", "no \"way\"\n", strings.Repeat("x", 5000)} {
			s := &Scenario{Upstream: UpstreamScript{Script: []Step{{Status: status, Body: body}}}}
			a, l, _ := modeled(t, s, libraryHabits(), 1)
			text := "unexpected HTTP status code received from server: " + strconv.Itoa(status) + " (" + http.StatusText(status) + "); malformed header: missing HTTP content-type"
			if body != "" {
				text += "\ndata: " + strconv.Quote(body[:min(len(body), 1024)])
			}
			if a.Status != 200 || a.Body != "" || a.Headers["grpc-status"] != want || a.Headers["grpc-message"] != text || l.Code != 200 || l.Flags != "-" {
				t.Errorf("%d with %d bytes: got %+v, %+v, want status %s", status, len(body), a, l, want)
			}
		}
	}
	s := &Scenario{Upstream: UpstreamScript{Script: []Step{{Status: 403, Headers: [][2]string{{"content-type", "text/html"}}}}}}
	if a, _, _ := modeled(t, s, libraryHabits(), 1); !strings.HasSuffix(a.Headers["grpc-message"], `; transport: received unexpected content-type "text/html"`) {
		t.Errorf("text/html: got %q", a.Headers["grpc-message"])
	}
}

// TestModel_unary pins the messages and the status that a unary caller receives, and the
// number of counted messages.
func TestModel_unary(t *testing.T) {
	ok := [2]string{"grpc-status", "0"}
	tests := []struct {
		name   string
		step   Step
		body   string
		status string
		flags  string
		counts int // number of messages
	}{
		{"one", ofGRPC(hi, ok), hi, "0", "-", 1},
		{"an empty one", ofGRPC(hi[:4]+"\x00", ok), hi[:4] + "\x00", "0", "-", 1},
		{"two", ofGRPC(hi+hi, ok), hi, "13", "-", 0},
		{"three, and a bad status", ofGRPC(hi+hi+hi, [2]string{"grpc-status", "7"}), hi, "13", "-", 0},
		{"one, and a bad status", ofGRPC(hi, [2]string{"grpc-status", "7"}), hi, "7", "-", 0},
		{"none", ofGRPC("", ok), "", "13", "-", 0},
		{"none, in trailers alone", trailersAlone("0"), "", "13", "-", 0},
		{"none, and a bad status", trailersAlone("11"), "", "11", "-", 0},
		{"a cut one", ofGRPC(hi[:6], ok), "", "13", "-", 0},
		{"a cut header", ofGRPC(hi[:3], [2]string{"grpc-status", "3"}), "", "13", "-", 0},
		{"a long one", ofGRPC("\x00\x01\x00\x00\x00x", ok), "", "8", "-", 0},
		{"no trailers", ofGRPC(hi), hi, "13", "UPE", 0},
		{"no status", ofGRPC(hi, [2]string{"x-tail", "1"}), hi, "2", "-", 0},
		{"no status in trailers alone", ofGRPC(""), "", "2", "-", 0},
		{"a malformed status", ofGRPC(hi, [2]string{"grpc-status", "1.0"}), hi, "2", "UPE", 0},
		{"a malformed status in trailers alone", trailersAlone(""), "", "14", "UPE", 0},
		{"an unknown status", trailersAlone("77"), "", "77", "-", 0},
		{"a response that breaks off", Step{Action: "reset_after_headers", Headers: ofGRPC("").Headers, Body: hi}, hi, "13", "UR", 0},
	}
	for _, test := range tests {
		s := &Scenario{
			Upstream: UpstreamScript{Script: []Step{test.step}},
			Envoy:    map[string]json.RawMessage{"http_filters": json.RawMessage(`[{"name": "envoy.filters.http.grpc_stats", "typed_config": {"stats_for_all_methods": true}}]`)},
		}
		a, l, c := modeled(t, s, libraryHabits(), 1)
		status := a.Trailers["grpc-status"]
		if status == "" {
			status = a.Headers["grpc-status"]
		}
		counts := c.stats["grpc.pkg.Svc.Method.response_message_count"]
		if a.Body != test.body || status != test.status || l.Flags != test.flags || counts != test.counts || a.Status != 200 {
			t.Errorf("%s: got %+v, flags %s, %d messages", test.name, a, l.Flags, counts)
		}
	}
}

// TestModel_courses pins the number of attempts and the end of the last one, for Envoy and
// for the library.
func TestModel_courses(t *testing.T) {
	refused := Step{Action: "rst_stream", Code: "REFUSED_STREAM"}
	buffer := func(n int, envoy map[string]json.RawMessage) map[string]json.RawMessage {
		envoy["virtual_host"] = json.RawMessage(`{"per_request_buffer_limit_bytes": ` + strconv.Itoa(n) + `}`)
		return envoy
	}
	cluster := func(text string, envoy map[string]json.RawMessage) map[string]json.RawMessage {
		envoy["cluster"] = json.RawMessage(text)
		return envoy
	}
	const full = `{"circuit_breakers": {"thresholds": [{"max_requests": 0}]}}`
	http1 := func(r Request, listen string, envoy map[string]json.RawMessage, script ...Step) Scenario {
		return Scenario{Envoy: envoy, Upstream: UpstreamScript{Protocol: "http1", Hosts: []Host{{ID: "a", Listen: listen}}, Script: script}, Downstream: oneCall(r)}
	}
	h2 := func(envoy map[string]json.RawMessage, script ...Step) Scenario {
		return Scenario{Envoy: envoy, Upstream: UpstreamScript{Script: script}}
	}
	tests := []struct {
		name        string
		s           Scenario
		envoy, here string // attempts, requests at the upstream, code, flags
	}{
		{"refused once, no policy", h2(nil, refused, ofGRPC(hi, [2]string{"grpc-status", "0"})), "1 1 200 UR", "1 2 200 -"},
		{"refused twice, no policy", h2(nil, refused), "1 1 200 UR", "1 2 200 UR"},
		{"always refused, two retries", h2(retries("refused-stream", 2, ""), refused), "3 3 200 URX,UR", "3 6 200 URX,UR"},
		{"another reset", h2(retries("refused-stream", 2, ""), Step{Action: "rst_stream", Code: "CANCEL"}), "1 1 200 UR", "1 1 200 UR"},
		{"malformed, reset", h2(retries("reset", 1, ""), trailersAlone("x")), "1 1 200 -", "2 2 200 URX,UPE"},
		{"malformed, unavailable", h2(retries("unavailable", 1, ""), trailersAlone("x")), "1 1 200 -", "1 1 200 UPE"},
		{"small buffer", h2(buffer(4, retries("internal", 3, "")), trailersAlone("13")), "1 1 200 -", "4 4 200 URX"},
		{"buffer that is large enough", h2(buffer(5, retries("internal", 1, "")), trailersAlone("13")), "2 2 200 URX", "2 2 200 URX"},
		{"200, which is retriable", h2(retries("retriable-status-codes", 2, `, "retriable_status_codes": [200]`), trailersAlone("3")), "3 3 200 URX", "1 1 200 -"},
		{"404, which is retriable", h2(retries("retriable-status-codes", 2, `, "retriable_status_codes": [404]`), Step{Status: 404}), "3 3 404 URX", "3 3 200 URX"},
		{"400, which the caller names", Scenario{
			Envoy: retries("5xx", 2, ""), Upstream: UpstreamScript{Script: []Step{{Status: 400}}},
			Downstream: Calls{Protocol: "h2", Ops: []Op{{Op: "request", Request: &Request{GRPC: true, Headers: map[string]string{
				"x-envoy-retry-on": "retriable-status-codes", "x-envoy-retriable-status-codes": "404,400",
			}}}}},
		}, "3 3 400 URX", "3 3 200 URX"},
		{"a header that the caller names", http1(Request{Headers: map[string]string{
			"x-envoy-retry-on": "retriable-headers", "x-envoy-retriable-header-names": "X-Mark",
		}}, "", retries("5xx", 1, ""), Step{Status: 404, Headers: [][2]string{{"x-mark", "a"}}}), "2 2 404 URX", "2 2 404 URX"},
		{"503 of gRPC's", h2(retries("5xx", 1, ""), Step{Status: 503, Headers: trailersAlone("5").Headers}), "2 2 503 URX", "1 1 200 -"},
		{"HTTP, small buffer", http1(Request{Method: "POST", BodyBytes: 9}, "", buffer(4, retries("5xx", 3, "")), Step{Status: 503}), "1 1 503 -", "1 1 503 -"},
		{"no connection, per try", http1(Request{Method: "POST"}, "blackhole", retries("connect-failure", 1, `, "per_try_timeout": "0.1s"`)), "2 0 504 UT", "1 0 504 UT"},
		{"no connection, 5xx", http1(Request{}, "blackhole", cluster(`{"connect_timeout": "0.3s"}`, retries("5xx", 1, `, "per_try_idle_timeout": "0.2s"`))), "2 0 503 URX,UF", "2 0 503 URX,UF"},
		{"no connection, long, 5xx", http1(Request{}, "blackhole", cluster(`{"connect_timeout": "0.45s"}`, retries("5xx", 1, `, "per_try_idle_timeout": "0.2s"`))), "2 0 503 URX,UF", "2 0 504 URX,UT"},
		{"overflow, no connection", http1(Request{}, "blackhole", cluster(full, retries("5xx", 0, ""))), "1 0 503 URX,UF", "1 0 503 URX,UF"},
		{"overflow, refused", http1(Request{}, "refuse", cluster(full, retries("reset", 2, ""))), "3 0 503 URX,UF", "3 0 503 URX,UF"},
		{"overflow", http1(Request{}, "", cluster(full, retries("reset", 2, ""))), "1 0 503 UO", "1 0 503 UO"},
		{"two lengths", http1(Request{Method: "PUT"}, "", retries("gateway-error", 1, ""), Step{Body: "x", Headers: [][2]string{{"Content-Length", "1"}}}), "2 2 502 URX,UPE", "1 1 200 -"},
		{"a status of four digits", http1(Request{}, "", retries("5xx", 1, ""), Step{Status: 2000}), "1 1 2000 -", "2 2 502 URX,UPE"},
		{"after a 1xx response", http1(Request{}, "", retries("5xx", 1, ""), Step{Status: 503, Informational: []Informational{{Status: 103}}}), "1 1 503 -", "1 1 503 -"},
		{"a long wait", http1(Request{}, "", retries("5xx", 1, `, "rate_limited_retry_back_off": {"reset_headers": [{"name": "X-Reset"}]}`), Step{Status: 500, Headers: [][2]string{{"x-reset", "4"}}}), "1 1 504 UT", "1 1 500 -"},
		{"a long wait in a header that is not read", http1(Request{}, "", retries("5xx", 1, ""), Step{Status: 500, Headers: [][2]string{{"x-reset", "4"}}}), "2 2 500 URX", "2 2 500 URX"},
	}
	for _, test := range tests {
		for h, want := range map[habit]string{0: test.envoy, libraryHabits(): test.here} {
			_, l, c := modeled(t, &test.s, h, 1)
			got := strings.Join([]string{strconv.Itoa(l.Attempts), strconv.Itoa(len(c.attempts)), strconv.Itoa(l.Code), l.Flags}, " ")
			if got != want {
				t.Errorf("%s, library: %v: got %s, want %s", test.name, h != 0, got, want)
			}
		}
	}
}

// TestModel_lengths pins the end of HTTP/2 responses whose body does not have its
// content-length.
func TestModel_lengths(t *testing.T) {
	tests := []struct {
		status       int
		method       string
		length, body string
		envoy, here  string
	}{
		{200, "GET", "", "x", "200 -", "200 -"},
		{200, "GET", "3", "hello", "200 UPE", "200 UPE"},
		{503, "DELETE", "9", "hello", "503 UPE", "503 UC"},
		{404, "GET", "1", "", "502 UPE", "404 UC"},
		{404, "HEAD", "1", "", "404 -", "404 -"},
		{304, "GET", "1", "", "304 -", "304 UC"},
		{304, "GET", "", "x", "304 UPE", "304 -"},
		{304, "GET", "0", "", "304 -", "304 -"},
		{204, "POST", "2", "", "502 UPE", "204 UC"},
		{204, "HEAD", "2", "", "502 UPE", "204 -"},
	}
	for _, test := range tests {
		step := Step{Status: test.status, Body: test.body}
		if test.length != "" {
			step.Headers = [][2]string{{"Content-Length", test.length}}
		}
		for h, want := range map[habit]string{0: test.envoy, libraryHabits(): test.here} {
			s := &Scenario{Upstream: UpstreamScript{Protocol: "h2", Script: []Step{step}}, Downstream: oneCall(Request{Method: test.method})}
			_, l, _ := modeled(t, s, h, 1)
			if got := strconv.Itoa(l.Code) + " " + l.Flags; got != want {
				t.Errorf("%+v, library: %v: got %s, want %s", test, h != 0, got, want)
			}
		}
	}
}

// TestRewrite checks that a rule changes nothing if the model did not predict the
// recording, or if its habit makes no difference.
func TestRewrite(t *testing.T) {
	step := Step{Status: 404, Body: "x", Trailers: [][2]string{{"x-tail", "1"}}}
	for flags, changes := range map[string]bool{"-": true, "UC": false} {
		for name, rule := range map[string]func(*Scenario, *Observed, *Played){
			"its own": rewrite(0, passesTrailers), "another": rewrite(0, readsHeads),
		} {
			s := &Scenario{Upstream: UpstreamScript{Protocol: "http1", Hosts: []Host{{ID: "a"}}, Script: []Step{step}}, Downstream: oneCall(Request{})}
			want := &Observed{
				Downstream: []Answer{{Case: "r001", Status: 404, Body: "x"}},
				AccessLog:  []Logged{{Case: "r001", Code: 404, Details: "via_upstream", Flags: flags, Attempts: 1}},
				Attempts:   []Attempt{{Case: "r001", Step: "respond 404"}},
				Stats:      map[string]uint64{}, Histograms: map[string]uint64{},
			}
			rule(s, want, &Played{})
			if got := want.Downstream[0].Trailers["x-tail"] != ""; got != (changes && name == "its own") {
				t.Errorf("flags %s, habit %s: got trailers %v", flags, name, want.Downstream[0].Trailers)
			}
		}
	}
}

// TestRewrite_resent checks that a stream that gRPC's client resends has the headers of its attempt.
func TestRewrite_resent(t *testing.T) {
	s := &Scenario{
		Envoy:      retries("refused-stream", 1, ""),
		Upstream:   UpstreamScript{Protocol: "h2", Hosts: []Host{{ID: "a"}}, Script: []Step{{Action: "rst_stream", Code: "REFUSED_STREAM"}}},
		Downstream: Calls{Protocol: "h2", Ops: []Op{{Op: "request", Request: &Request{GRPC: true}}}},
	}
	const step, details = "rst_stream REFUSED_STREAM", "upstream_reset_before_response_started{remote_refused_stream_reset}"
	want := &Observed{
		Downstream: []Answer{{Case: "r001"}},
		AccessLog:  []Logged{{Case: "r001", Code: 200, Details: details, Flags: "URX,UR", Attempts: 2}},
		Attempts: []Attempt{
			{Case: "r001", Step: step},
			{Case: "r001", Step: step, Headers: map[string]string{"x-envoy-is-timeout-retry": "false"}},
		},
		Stats: map[string]uint64{}, Histograms: map[string]uint64{},
	}
	rewrite(0, resendsRefused)(s, want, &Played{})
	var got []string
	for _, at := range want.Attempts {
		got = append(got, at.Headers["x-envoy-is-timeout-retry"])
	}
	if text := strings.Join(got, ","); text != ",,false,false" {
		t.Errorf("got headers %q, want two attempts without and two with them", text)
	}
}

// TestPlainly checks which encodings of a field are equal.
func TestPlainly(t *testing.T) {
	for _, test := range []struct{ name, value, want string }{
		{"grpc-message", "a%20b%25", "a b%"},
		{"grpc-message", "50% off", "50% off"},
		{"x-text", "a%20b", "a%20b"},
		{"x-data-bin", "AAE=", "AAE"},
		{"x-data", "AAE=", "AAE="},
	} {
		if got := plainly(test.name, test.value); got != test.want {
			t.Errorf("%s: %s: got %q, want %q", test.name, test.value, got, test.want)
		}
	}
}
