package parity

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Draw returns a random scenario, which is always the same for a seed. Both sides can play it.
//
// It avoids what the documentation excludes: the heads that net/http or gRPC's client reads
// otherwise, chance, and the features that need a rule if the model of a call cannot follow them,
// which is the case with several hosts. No two instants that matter are close: see [grid].
func Draw(seed uint64) *Scenario {
	d := &drawer{r: rand.New(rand.NewPCG(seed, 0x70617269)), envoy: map[string]any{}} //nolint:gosec // repeatable on purpose
	d.s = &Scenario{Name: fmt.Sprintf("fuzz-%d", seed), Description: fmt.Sprintf("drawn from the seed %d", seed), Tags: []string{"fuzz"}}
	d.scenario()
	d.s.Envoy = map[string]json.RawMessage{}
	for name, part := range d.envoy {
		text, err := json.Marshal(part)
		if err != nil {
			panic(err) // it is made of plain values
		}
		d.s.Envoy[name] = text
	}
	return d.s
}

// drawer draws one scenario.
type drawer struct {
	r     *rand.Rand
	s     *Scenario
	envoy map[string]any
	grid  grid

	grpc       bool
	hosts      int
	concurrent bool
	hedges     bool
	retries    bool
	ejects     bool   // hosts are ejected, which Envoy does a moment after a failure
	refuses    bool   // limits refuse attempts; Envoy counts a retry that is refused as a success
	idle       bool   // there is a per_try_idle_timeout
	hashes     bool   // hosts are picked by a header
	avoids     bool   // retries avoid the hosts of the attempts before
	headers    bool   // responses are retried for their headers
	breaks     bool   // a response breaks off, which one to HEAD cannot
	dials      bool   // the host accepts no connection
	filtered   bool   // filters may end calls, or delay them
	stats      bool   // the filter grpc_stats is there, which counts messages before a call ends
	limited    string // the limit of a concurrent scenario
}

// grid contains the durations of a scenario, in milliseconds. What attempts take are its multiples:
// delays are even ones, and timeouts of an attempt odd ones. Back-offs add a few milliseconds. The
// other timeouts are far from any sum of these.
type grid struct {
	unit   int
	delays []int
	perTry []int
	totals []int
	leaves []int // when callers are canceled
}

// The grids. Concurrent calls start at multiples of 150 ms, so that no two of them are at the same
// place of a unit. With hedging a second attempt runs while the first continues.
//
//nolint:gochecknoglobals // read-only tables
var (
	oneByOne   = grid{unit: 200, delays: []int{400}, perTry: []int{200, 600}, totals: []int{280, 480, 680}, leaves: []int{340, 540}}
	atOnce     = grid{unit: 600, delays: []int{600, 600, 1200}, totals: []int{685}}
	hedging    = grid{unit: 300, delays: []int{450}, perTry: []int{300}, totals: []int{530, 830}}
	startEvery = 150
)

// connecting is the time for a connection, in milliseconds. A connection outlasts the attempt that
// began to make it, so this is far from any multiple of a timeout of an attempt.
const connecting = 730

// one returns one of the values.
func one[T any](d *drawer, values ...T) T { return values[d.r.IntN(len(values))] }

// chance is true with a probability in percent.
func (d *drawer) chance(percent int) bool { return d.r.IntN(100) < percent }

// some returns between least and most different values.
func some[T any](d *drawer, least, most int, values ...T) []T {
	n := min(least+d.r.IntN(most-least+1), len(values))
	var chosen []T
	for _, i := range d.r.Perm(len(values))[:n] {
		chosen = append(chosen, values[i])
	}
	return chosen
}

// seconds formats milliseconds as Envoy's duration.
func seconds(ms int) string { return strconv.FormatFloat(float64(ms)/1000, 'f', -1, 64) + "s" }

// scenario draws everything.
func (d *drawer) scenario() {
	d.s.Upstream.Protocol, d.s.Downstream.Protocol = "http1", "http1"
	switch d.r.IntN(10) {
	case 0, 1, 2:
		d.s.Upstream.Protocol = "h2"
		d.s.Downstream.Protocol = one(d, "http1", "h2")
	case 3, 4, 5:
		d.s.Upstream.Protocol, d.s.Downstream.Protocol, d.grpc = "h2", "h2", true
	}
	d.hosts = one(d, 1, 1, 1, 2, 3)
	d.grid = oneByOne
	switch d.r.IntN(10) {
	case 0, 1, 2:
		d.concurrent, d.grid = true, atOnce
		d.limited = one(d, "connections", "requests", "retries", "budget", "none")
	case 3:
		d.hedges, d.grid = true, hedging
	}
	d.refuses = d.limited == "connections" || d.limited == "requests" || !d.concurrent && !d.hedges && d.chance(5)
	d.ejects = d.hosts == 2 && !d.hedges && d.chance(30) // of more hosts, chance decides which follows an ejected one
	d.retries = !d.refuses && !d.ejects && (d.hedges || d.chance(80))
	d.filters()
	d.route()
	d.cluster()
	d.virtualHost()
	d.upstream()
	d.calls()
}

// set sets a field of a section of the configuration.
func (d *drawer) set(section, field string, value any) {
	o, ok := d.envoy[section].(object)
	if !ok {
		o = object{}
		d.envoy[section] = o
	}
	o[field] = value
}

// route draws the timeouts and the retry policy.
func (d *drawer) route() {
	if d.chance(50) {
		d.set("route", "timeout", seconds(one(d, d.grid.totals...)))
	}
	if d.hedges {
		d.set("route", "hedge_policy", object{"hedge_on_per_try_timeout": true})
	}
	if !d.retries {
		return
	}
	where := "route"
	if d.chance(20) && !d.hedges {
		where = "virtual_host"
	}
	d.set(where, "retry_policy", d.retryPolicy())
}

// retryPolicy draws a retry policy.
func (d *drawer) retryPolicy() object {
	p := object{
		"retry_on":       strings.Join(d.words(), ","),
		"retry_back_off": object{"base_interval": "0.001s", "max_interval": "0.002s"},
	}
	if d.chance(80) {
		p["num_retries"] = d.r.IntN(4)
	}
	if d.hedges {
		p["num_retries"] = 1 + d.r.IntN(2)
	}
	if d.hedges || len(d.grid.perTry) > 0 && d.chance(30) {
		p["per_try_timeout"] = seconds(one(d, d.grid.perTry...))
	}
	if p["per_try_timeout"] == nil && len(d.grid.perTry) > 0 && d.chance(15) {
		p["per_try_idle_timeout"], d.idle = seconds(one(d, d.grid.perTry...)), true
	}
	if strings.Contains(p["retry_on"].(string), "retriable-status-codes") && d.chance(80) { //nolint:forcetypeassert // it is above
		codes := []any{400, 404, 429, 500, 503}
		if d.single() || !d.grpc { // else a rule is needed
			codes = append(codes, 200)
		}
		p["retriable_status_codes"] = some(d, 1, 2, codes...)
	}
	if strings.Contains(p["retry_on"].(string), "retriable-headers") && d.chance(80) { //nolint:forcetypeassert // it is above
		p["retriable_headers"] = []any{d.matcher("x-mark")}
	}
	if d.chance(10) && !d.hedges { // Envoy hedges the others without their bodies
		p["retriable_request_headers"] = []any{d.matcher("x-call")}
	}
	if d.chance(10) {
		p["rate_limited_retry_back_off"] = object{"reset_headers": []any{object{"name": "retry-after", "format": "SECONDS"}}, "max_interval": one(d, "0.5s", "5s")}
	}
	if d.avoids = d.hosts > 1 && d.chance(40); d.avoids {
		p["retry_host_predicate"] = []any{object{
			"name":         "envoy.retry_host_predicates.previous_hosts",
			"typed_config": object{"@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
		}}
		p["host_selection_retry_max_attempts"] = 3
	}
	return p
}

// words draws conditions.
func (d *drawer) words() []string {
	all := []string{"5xx", "gateway-error", "reset", "connect-failure", "reset-before-request", "retriable-4xx", "retriable-status-codes", "refused-stream", "envoy-ratelimited"}
	if !d.stats && (!d.grpc || !d.breaks) { // the library counts messages of responses that are discarded, and looks at whole ones
		all = append(all, "retriable-headers")
	}
	if d.grpc {
		all = append(all, "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable")
	}
	chosen := some(d, 1, 3, all...)
	d.headers = d.headers || slices.Contains(chosen, "retriable-headers")
	return chosen
}

// matcher draws a matcher of a header whose values are a, b or ab.
func (d *drawer) matcher(name string) object {
	m := object{"name": name}
	if d.chance(70) {
		m["string_match"] = object{one(d, "exact", "prefix", "suffix", "contains"): one(d, "a", "b", "ab")}
	}
	if d.chance(30) {
		m["invert_match"] = true
	}
	return m
}

// cluster draws the limits, the outlier detection, and how hosts are picked.
func (d *drawer) cluster() {
	if d.chance(15) {
		d.set("cluster", "track_cluster_stats", object{"timeout_budgets": true})
	}
	if t := d.thresholds(); t != nil {
		d.set("cluster", "circuit_breakers", object{"thresholds": []any{t}})
	}
	if d.hosts == 1 {
		return
	}
	switch n := d.r.IntN(3); {
	case d.ejects:
		d.set("cluster", "outlier_detection", d.outlier())
		d.set("cluster", "common_lb_config", object{"update_merge_window": "0s"})
		if d.chance(30) {
			d.set("cluster", "common_lb_config", object{"update_merge_window": "0s", "healthy_panic_threshold": object{"value": one(d, 0, 100)}})
		}
	case n == 0:
		priorities := object{}
		for i := range d.hosts {
			priorities[hostID(i)] = i
		}
		d.envoy["priorities"] = priorities
	case n == 1:
		if !d.grpc && !d.avoids { // the hosts' addresses, which differ in each play, decide which other host a hash finds
			d.hashes = true
			d.set("cluster", "lb_policy", one(d, "RING_HASH", "MAGLEV"))
			d.set("route", "hash_policy", []any{object{"header": object{"header_name": "x-user"}}})
		}
	}
}

func hostID(n int) string { return "abc"[n : n+1] }

// outlier draws an outlier detection that depends on no interval.
func (d *drawer) outlier() object {
	o := object{
		"interval": "300s", "base_ejection_time": "300s", "max_ejection_time_jitter": "0s", "enforcing_success_rate": 0,
		"consecutive_5xx": one(d, 1, 2, 3), "enforcing_consecutive_5xx": one(d, 0, 100, 100, 100),
		"consecutive_gateway_failure": one(d, 1, 2, 100), "enforcing_consecutive_gateway_failure": one(d, 0, 0, 100),
	}
	if d.chance(60) {
		o["max_ejection_percent"] = one(d, 0, 50, 100)
	}
	if d.chance(30) {
		o["split_external_local_origin_errors"] = true
		o["consecutive_local_origin_failure"] = one(d, 1, 2)
		o["enforcing_local_origin_success_rate"] = 0
	}
	return o
}

// thresholds draws circuit breakers.
func (d *drawer) thresholds() object {
	t := object{}
	if d.stats { // whether the message of a refused call passes depends on chance
		return nil
	}
	switch d.limited {
	case "connections":
		t["max_connections"], t["max_pending_requests"] = one(d, 1, 2), one(d, 0, 1, 2)
	case "requests":
		t["max_requests"] = one(d, 0, 1, 2)
	case "retries":
		t["max_retries"] = one(d, 0, 1, 2)
	case "budget":
		t["retry_budget"] = object{"budget_percent": object{"value": one(d, 20, 50, 100)}, "min_retry_concurrency": one(d, 0, 1, 2)}
	default:
		if d.hedges { // Envoy counts each attempt that fails while another one runs
			return nil
		}
		switch n := d.r.IntN(8); {
		case d.refuses:
			t["max_requests"] = one(d, 0, 1)
		case n == 0:
			t["max_retries"] = one(d, 0, 1)
		case n == 1:
			t["retry_budget"] = object{"budget_percent": object{"value": one(d, 0, 20, 100)}, "min_retry_concurrency": one(d, 0, 1, 3)}
		default:
			return nil
		}
	}
	if d.chance(50) {
		t["track_remaining"] = true
	}
	return t
}

// virtualHost draws the settings of headers and the router.
func (d *drawer) virtualHost() {
	if d.chance(25) {
		d.set("virtual_host", "include_request_attempt_count", true)
	}
	if d.chance(25) && (d.single() || !d.grpc) {
		d.set("virtual_host", "include_attempt_count_in_response", true)
	}
	if d.chance(15) {
		d.set("virtual_host", "include_is_timeout_retry_header", true)
	}
	if d.chance(10) && !d.has("cluster", "circuit_breakers") && (!d.grpc || d.single() && !d.has("virtual_host", "include_is_timeout_retry_header")) { // chance decides which part of a refused call arrives
		d.set("virtual_host", "per_request_buffer_limit_bytes", one(d, 4, 16))
	}
	if d.chance(10) {
		d.set("router", "suppress_envoy_headers", true)
	}
	if d.chance(8) {
		d.envoy["external"] = true
	}
}

// always is a percentage that chance does not decide.
func always(percent int) object { return object{"numerator": percent, "denominator": "HUNDRED"} }

// filters draws the HTTP filters.
func (d *drawer) filters() {
	var all []any
	if d.chance(12) {
		all = append(all, object{"name": "envoy.filters.http.fault", "typed_config": d.fault()})
	}
	if d.chance(10) {
		all = append(all, object{"name": "envoy.filters.http.local_ratelimit", "typed_config": object{
			"@type":       "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
			"stat_prefix": "local", "status": object{"code": one(d, 429, 503)},
			"token_bucket":    object{"max_tokens": one(d, 1, 2, 3), "tokens_per_fill": 1, "fill_interval": "600s"},
			"filter_enabled":  object{"default_value": always(one(d, 0, 100, 100, 100))},
			"filter_enforced": object{"default_value": always(one(d, 0, 100, 100, 100))},
		}})
	}
	d.filtered = all != nil
	if d.stats = d.grpc && !d.filtered && d.chance(25); d.stats {
		all = append(all, object{"name": "envoy.filters.http.grpc_stats", "typed_config": object{
			"@type":                 "type.googleapis.com/envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
			"stats_for_all_methods": true, "enable_upstream_stats": true, "emit_filter_state": true,
		}})
	}
	if all != nil {
		d.envoy["http_filters"] = all
	}
}

// fault draws a fault.
func (d *drawer) fault() object {
	f := object{"@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault"}
	if d.chance(70) {
		abort := object{"percentage": always(one(d, 0, 100, 100))}
		switch {
		case d.chance(30):
			abort["header_abort"] = object{}
		case d.grpc && d.chance(50):
			abort["grpc_status"] = one(d, 1, 8, 14)
		default:
			abort["http_status"] = one(d, 400, 429, 503)
		}
		f["abort"] = abort
	}
	if f["abort"] == nil || d.chance(40) {
		f["delay"] = object{"fixed_delay": seconds(2 * d.grid.unit), "percentage": always(one(d, 0, 100, 100))}
	}
	if d.chance(40) {
		f["headers"] = []any{d.matcher("x-call")}
	}
	if d.chance(15) {
		f["max_active_faults"] = one(d, 0, 1)
	}
	return f
}

// upstream draws the hosts and their steps.
func (d *drawer) upstream() {
	for i := range d.hosts {
		h := Host{ID: hostID(i)}
		switch {
		case d.hashes || d.concurrent || d.hedges:
		case d.chance(8):
			h.Listen = "refuse"
		case d.hosts > 1 && d.chance(25):
			h.Script = d.steps(1 + d.r.IntN(3))
		}
		d.s.Upstream.Hosts = append(d.s.Upstream.Hosts, h)
	}
	if d.single() && d.s.Upstream.Hosts[0].Listen == "" && !d.has("cluster", "circuit_breakers") && !d.has("route", "timeout") && d.chance(4) {
		d.s.Upstream.Hosts[0].Listen, d.dials = "blackhole", true
		d.set("cluster", "connect_timeout", seconds(connecting))
	}
	d.s.Upstream.Script = d.steps(1 + d.r.IntN(5))
	if d.hosts > 1 && d.chance(15) {
		d.s.Upstream.Scope = "host"
	}
}

// steps draws steps.
func (d *drawer) steps(n int) []Step {
	var all []Step
	for range n {
		s := d.step()
		if d.chance(15) {
			s.Repeat = 2
		}
		all = append(all, s)
	}
	return all
}

// step draws the reaction to an attempt.
func (d *drawer) step() Step {
	s := Step{}
	actions := d.actions()
	if len(actions) == 0 || d.chance(70) {
		if s = d.response(); d.s.Upstream.Protocol == "http1" && !d.concurrent && d.chance(8) {
			s.Close = true
		}
	} else {
		s.Action = one(d, actions...)
	}
	switch s.Action {
	case "rst_stream":
		s.Code = one(d, "REFUSED_STREAM", "INTERNAL_ERROR", "CANCEL", "NO_ERROR", "PROTOCOL_ERROR", "ENHANCE_YOUR_CALM")
		if d.grpc && !d.single() {
			s.Code = one(d, "INTERNAL_ERROR", "CANCEL", "ENHANCE_YOUR_CALM")
		}
	case "reset_after_headers":
		for s = d.response(); d.grpc && s.Body != emptyMessage; {
			s = d.response()
		}
		s.Action = "reset_after_headers"
		s.Trailers, s.Informational, d.breaks = nil, nil, true
		if s.Status == 204 || s.Status == 304 {
			s.Status = 200
		}
		if s.Body == "" {
			s.Body = "part"
		}
	}
	percent := 25
	if d.concurrent {
		percent = 60
	}
	resent := d.grpc && s.Code == "REFUSED_STREAM" // by gRPC's client, within the same attempt
	if s.Action != "hang" && s.BodyDelayMS == 0 && !resent && d.chance(percent) {
		s.DelayMS = one(d, d.grid.delays...)
	}
	return s
}

// actions lists the failures that are possible.
func (d *drawer) actions() []string {
	all := []string{"hang"}
	if d.s.Upstream.Protocol == "h2" {
		all = append(all, "rst_stream", "rst_stream")
	}
	if !d.concurrent {
		all = append(all, "reset", "fin")
	}
	if d.single() {
		all = append(all, "garbage")
	}
	if d.single() && (!d.grpc || !d.headers) {
		all = append(all, "reset_after_headers")
	}
	if d.hedges { // likewise
		all = []string{"hang"}
	}
	if !d.has("route", "timeout") {
		all = slices.DeleteFunc(all, func(a string) bool { return a == "hang" })
	}
	return all
}

// has reports whether a section of the configuration has a field.
func (d *drawer) has(section, field string) bool {
	o, ok := d.envoy[section].(object)
	return ok && o[field] != nil
}

// response draws a response.
func (d *drawer) response() Step {
	if d.grpc {
		return d.grpcResponse()
	}
	s := Step{Status: one(d, 200, 200, 200, 200, 204, 304, 400, 404, 409, 429, 500, 500, 502, 503, 503, 503, 504)}
	discarded := d.retries && (d.hedges || d.concurrent && d.s.Upstream.Protocol == "http1") // a rule counts those of attempts one after another
	if hasBody(s.Status) && !discarded && d.chance(50) {
		s.Body = one(d, "ok", "a body")
	}
	for _, h := range [][2]string{
		{"x-mark", one(d, "a", "b", "ab")},
		{"x-envoy-upstream-canary", "true"},
		{"x-envoy-ratelimited", "true"},
		{"x-envoy-overloaded", "true"},
	} {
		if d.chance(8) {
			s.Headers = append(s.Headers, h)
		}
	}
	if d.chance(3) && d.single() {
		s.Headers = append(s.Headers, [2]string{"retry-after", "1"})
	}
	if d.single() && s.Body != "" && d.chance(5) {
		s.BodyDelayMS = d.grid.unit * 2
	}
	if d.single() && hasBody(s.Status) && d.chance(3) {
		s.Informational = []Informational{{Status: 103}}
	}
	passes := d.s.Upstream.Protocol == d.s.Downstream.Protocol // Envoy drops trailers for a caller of HTTP/1
	if d.single() && passes && s.Body != "" && d.chance(5) {
		s.Trailers = [][2]string{{"x-sum", "7"}}
	}
	return s
}

// single reports whether the model of a call can follow the scenario, and rules apply.
func (d *drawer) single() bool {
	return d.hosts == 1 && !d.concurrent && !d.hedges && !d.filtered
}

// emptyMessage is a gRPC message without content.
const emptyMessage = "\x00\x00\x00\x00\x00"

// grpcResponse draws a response to a gRPC call.
func (d *drawer) grpcResponse() Step {
	kind := [2]string{"content-type", "application/grpc"}
	code := strconv.Itoa(one(d, 1, 2, 4, 5, 8, 13, 14, 14))
	s := Step{Headers: [][2]string{kind}}
	switch d.r.IntN(10) {
	case 0, 1, 2, 3:
		s.Body, s.Trailers = emptyMessage, [][2]string{{"grpc-status", "0"}}
	case 4, 5, 6, 7:
		s.Headers = append(s.Headers, [2]string{"grpc-status", code})
		if d.chance(30) {
			s.Headers = append(s.Headers, [2]string{"grpc-message", "no"})
		}
	default:
		switch {
		case d.single() && d.chance(50):
			return Step{Status: one(d, 400, 404, 429, 500, 503), Body: one(d, "", "plain")}
		case d.hedges || d.ejects || d.stats && !d.single(): // a message beside an error is lost, or counts otherwise
			s.Headers = append(s.Headers, [2]string{"grpc-status", code})
		default:
			s.Body, s.Trailers = emptyMessage, [][2]string{{"grpc-status", code}}
		}
	}
	if d.chance(6) {
		s.Headers = append(s.Headers, [2]string{"x-envoy-upstream-canary", "true"})
	}
	return s
}

// calls draws the calls.
func (d *drawer) calls() {
	if d.concurrent {
		op := Op{Op: "concurrent"}
		for i := range 2 + d.r.IntN(3) {
			r := d.request()
			r.StartMS = i * startEvery
			op.Requests = append(op.Requests, r)
		}
		if !d.has("route", "timeout") && !d.stats && d.chance(50) {
			op.Name, op.SnapshotAt = "during", startEvery*d.r.IntN(5)+startEvery/2
		}
		d.s.Downstream.Ops = append(d.s.Downstream.Ops, op)
		return
	}
	n := 1 + d.r.IntN(3)
	if d.dials { // whether another call waits for the dial of the first one depends on the pool
		n = 1
	}
	if d.hosts > 1 {
		n += d.r.IntN(4)
	}
	for i := range n {
		if d.ejects && i > 0 {
			d.s.Downstream.Ops = append(d.s.Downstream.Ops, Op{Op: "sleep", MS: 60})
		}
		r := d.request()
		d.s.Downstream.Ops = append(d.s.Downstream.Ops, Op{Op: "request", Request: &r})
	}
}

// request draws a call.
func (d *drawer) request() Request {
	r := Request{GRPC: d.grpc, Headers: map[string]string{}}
	if !d.grpc {
		if r.Method = one(d, "", "", "", http.MethodPost, http.MethodPut, http.MethodDelete, d.head()); r.Method == http.MethodPost || r.Method == http.MethodPut {
			r.Body = one(d, "", "body", "a body of some length")
		}
	}
	if d.chance(40) {
		r.Headers["x-call"] = one(d, "a", "b", "ab")
	}
	if d.hashes || d.chance(50) { // without a hash chance picks
		if r.Headers["x-user"] = one(d, "x", "y", "z"); d.hashes { // the hosts' addresses decide which users are together
			r.Headers["x-user"] = "x"
		}
	}
	d.envoyHeaders(r.Headers)
	if d.single() && d.chance(5) && !d.has("route", "timeout") && !d.dials {
		r.ClientTimeout = one(d, d.grid.leaves...)
	}
	if len(r.Headers) == 0 {
		r.Headers = nil
	}
	return r
}

// head is a method without response bodies, if there may be one.
func (d *drawer) head() string {
	if d.breaks {
		return http.MethodGet
	}
	return http.MethodHead
}

// envoyHeaders draws the request headers that a caller sets for Envoy.
func (d *drawer) envoyHeaders(h map[string]string) {
	if d.refuses || d.ejects {
		return
	}
	if d.chance(10) {
		h["x-envoy-retry-on"] = strings.Join(d.words(), ",")
	}
	if d.grpc && d.chance(8) {
		h["x-envoy-retry-grpc-on"] = one(d, "unavailable", "internal,cancelled")
	}
	if d.chance(8) && !d.hedges {
		h["x-envoy-max-retries"] = one(d, "0", "1", "2", "3", "no")
	}
	if d.chance(5) && !d.concurrent && !d.dials { // else the dial ends while statistics are read
		h["x-envoy-upstream-rq-timeout-ms"] = strconv.Itoa(one(d, d.grid.totals...))
	}
	if d.chance(5) && len(d.grid.perTry) > 0 && !d.idle {
		h["x-envoy-upstream-rq-per-try-timeout-ms"] = strconv.Itoa(one(d, d.grid.perTry...))
	}
	if d.chance(4) {
		h["x-envoy-retriable-status-codes"] = one(d, "404", "400,503")
	}
	if d.chance(4) {
		h["x-envoy-retriable-header-names"] = "x-mark"
	}
	if d.chance(5) {
		h["x-envoy-upstream-alt-stat-name"] = "alt"
	}
	if d.chance(3) && !d.dials && !d.grpc {
		h["x-envoy-upstream-rq-timeout-alt-response"] = "1"
	}
	if d.chance(30) && strings.Contains(fmt.Sprint(d.envoy["http_filters"]), "header_abort") {
		h["x-envoy-fault-abort-request"] = one(d, "404", "503")
	}
}
