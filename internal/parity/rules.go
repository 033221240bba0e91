package parity

import (
	"maps"
	"net/http"
	"slices"
	"strings"
)

// Rule is an intentional difference between Envoy and the library. docs/envoy.md or
// docs/grpc.md documents it under its name, with the reason. Change converts the
// observations of Envoy to those of the library. It may use the play only for values that
// depend on chance.
type Rule struct {
	Name    string
	Applies func(s *Scenario) bool
	Change  func(s *Scenario, want *Observed, got *Played)

	// OfCalls means that the rule changes the course of calls. The statistics of their connections
	// depend on that, and are not compared.
	OfCalls bool
}

// Rules returns all rules. Most follow from the habits of a model of a call.
func Rules() []Rule {
	rules := []Rule{
		{Name: "expect-is-passed-on", Applies: expects, Change: alone(expectPassedOn)},
		{Name: "untrusted-headers-pass", Applies: untrusted, Change: alone(untrustedPass)},
		{Name: "retried-responses-keep-connections", Applies: both(speaks("http1"), discards), Change: alone(keepsConnections)},
		{Name: "retried-responses-keep-streams", Applies: both(speaksHTTP2, backsOff), Change: alone(keepsStreams)},
		{Name: "http2-protocol-errors-end-connections", Applies: both(speaks("h2"), resetsWith("PROTOCOL_ERROR")), Change: alone(endConnections), OfCalls: true},
		{Name: "grpc-refused-messages", Applies: countsMessages, Change: alone(messagesOfAll)},
		{Name: "grpc-timeout-has-our-limits", Applies: sendsGRPCTimeout, Change: alone(ownGRPCTimeout)},
	}
	var before habit
	for _, h := range habits() {
		rules = append(rules, Rule{Name: h.name, Applies: h.applies, Change: rewrite(before, before|h.habit), OfCalls: true})
		before |= h.habit
	}
	return rules
}

// alone returns a change that does not depend on chance.
func alone(change func(s *Scenario, want *Observed)) func(*Scenario, *Observed, *Played) {
	return func(s *Scenario, want *Observed, _ *Played) { change(s, want) }
}

// habitRule is the rule of a habit.
type habitRule struct {
	name    string
	habit   habit
	applies func(s *Scenario) bool
}

// habits returns all habits of the library, in the order in which they are applied.
func habits() []habitRule {
	return []habitRule{
		{"informational-responses-pass", showsInformational, informs},
		{"no-useless-wait", skipsUselessWaits, backsOff},
		{"limits-include-connecting", limitsIncludeConnecting, listensNot("blackhole")},
		{"http1-trailers-pass", passesTrailers, speaks("http1")},
		{"http1-response-headers", readsHeads, speaks("http1")},
		{"http2-response-headers", readsLengths, speaksHTTP2},
		{"canceled-callers", disconnects, leaves(false)},
		{"grpc-refused-streams-are-gRPC's", resendsRefused, isGRPC},
		{"grpc-has-no-http-status", hasNoHTTPStatus, isGRPC},
		{"grpc-messages-need-no-buffer", needsNoBuffer, isGRPC},
		{"grpc-malformed-responses", findsMalformed, isGRPC},
		{"grpc-callers-get-a-status", makesStatuses, isGRPC},
		{"grpc-messages-are-the-callers", countsReceivedMessages, isGRPC},
		{"grpc-whole-messages", wantsWholeMessages, isGRPC},
		{"grpc-broken-responses", reportsBroken, isGRPC},
		{"grpc-canceled-callers", cancels, leaves(true)},
		{"grpc-attempt-count", countsNoAttemptsOfErrors, isGRPC},
	}
}

// both reports whether a and b both apply.
func both(a, b func(*Scenario) bool) func(*Scenario) bool {
	return func(s *Scenario) bool { return a(s) && b(s) }
}

// isGRPC reports whether the calls of a scenario are gRPC calls.
func isGRPC(s *Scenario) bool {
	all, _ := speaksGRPC(s)
	return all
}

// speaks matches scenarios of HTTP calls whose upstream uses a protocol.
func speaks(protocol string) func(*Scenario) bool {
	return func(s *Scenario) bool { return !isGRPC(s) && s.Upstream.Protocol == protocol }
}

// speaksHTTP2 reports whether the upstream of a scenario uses HTTP/2.
func speaksHTTP2(s *Scenario) bool { return s.Upstream.Protocol == "h2" }

// listensNot matches scenarios whose upstream accepts no connections.
func listensNot(how ...string) func(*Scenario) bool {
	return func(s *Scenario) bool {
		return slices.ContainsFunc(s.Upstream.Hosts, func(h Host) bool { return slices.Contains(how, h.Listen) })
	}
}

// leaves matches scenarios in which a caller of HTTP/2 is canceled.
func leaves(grpc bool) func(*Scenario) bool {
	return func(s *Scenario) bool {
		return s.Downstream.Protocol == "h2" && isGRPC(s) == grpc &&
			slices.ContainsFunc(s.requests(), func(r Request) bool { return r.ClientTimeout > 0 })
	}
}

// backsOff reports whether calls may be retried within a limited time.
func backsOff(s *Scenario) bool {
	f, err := readFragments(s.Envoy)
	return err == nil && (f.route.RetryPolicy != nil || f.virtualHost.RetryPolicy != nil || len(f.routes) > 0 || !f.external)
}

// discards reports whether calls may be retried, and a retry follows its attempt. Attempts of a
// hedged call run beside each other, so a response with a later attempt need not be discarded.
func discards(s *Scenario) bool {
	f, err := readFragments(s.Envoy)
	return err == nil && backsOff(s) && !f.route.HedgePolicy.HedgeOnPerTryTimeout &&
		!slices.ContainsFunc(s.requests(), func(r Request) bool { return r.Headers["x-envoy-hedge-on-per-try-timeout"] != "" })
}

// requests returns all requests of the scenario, in the order of their cases.
func (s *Scenario) requests() []Request {
	var all []Request
	for _, op := range s.Downstream.Ops {
		if op.Request != nil {
			for range max(1, op.Count) {
				all = append(all, *op.Request)
			}
		}
		all = append(all, op.Requests...)
	}
	return all
}

func informs(s *Scenario) bool {
	for _, step := range s.Upstream.Script {
		if len(step.Informational) > 0 {
			return true
		}
	}
	return false
}

func expects(s *Scenario) bool {
	for _, r := range s.requests() {
		if r.Headers["expect"] != "" {
			return true
		}
	}
	return false
}

// expectPassedOn changes the handling of expect: here the upstream asks for the body; Envoy
// asks for it immediately.
func expectPassedOn(s *Scenario, want *Observed) {
	passOn(s, want, func(name string) bool { return name == "expect" })
}

// passOn adds the headers that Envoy removes to the requests that the upstream receives.
func passOn(s *Scenario, want *Observed, which func(name string) bool) {
	requests := s.requests()
	for i, a := range want.Downstream {
		for j, at := range want.Attempts {
			for name, value := range requests[i].Headers {
				if at.Case == a.Case && which(name) {
					want.Attempts[j].Headers[name] = strings.TrimSpace(value)
				}
			}
		}
	}
}

func untrusted(s *Scenario) bool { return string(s.Envoy["external"]) == "true" }

// untrustedPass changes the handling of untrusted headers: the library neither honors nor
// removes them.
func untrustedPass(s *Scenario, want *Observed) {
	passOn(s, want, func(name string) bool { return strings.HasPrefix(name, "x-envoy-") || name == "x-request-id" })
}

// keepsConnections: the rest of a response that is discarded for a retry is read if it is short, so
// that its connection serves the next attempt at its host. Envoy resets the stream, which ends the
// connection.
func keepsConnections(s *Scenario, want *Observed) {
	kept, used, closed := keptConnections(s, want, "respond")
	if kept+closed == 0 {
		return
	}
	const row, histogram = "cluster." + clusterName + ".upstream_", "envoy_cluster_upstream_"
	const label = `{envoy_cluster_name="` + clusterName + `"}`
	for _, name := range []string{"cx_destroy", "cx_destroy_local"} {
		want.Stats[row+name] -= kept
	}
	for _, name := range []string{"cx_destroy_local_with_active_rq", "cx_destroy_with_active_rq"} {
		want.Stats[row+name] -= kept + closed
	}
	for _, name := range []string{"cx_http1_total", "cx_total", "rq_pending_total"} {
		want.Stats[row+name] -= used
	}
	want.Stats[row+"cx_active"] += kept - used
	for _, name := range []string{"cx_length_ms", "rq_per_cx"} {
		want.Histograms[histogram+name+label] -= kept
	}
	want.Histograms[histogram+"cx_connect_ms"+label] -= used
}

// keepsStreams: likewise, a stream ends by itself, or is reset by the upstream. Envoy resets it.
func keepsStreams(s *Scenario, want *Observed) {
	kept, _, _ := keptConnections(s, want, "respond", "reset_after_headers")
	want.Stats["cluster."+clusterName+".upstream_rq_tx_reset"] -= kept
}

// endsAt reports whether the host of an attempt is the last one of its call.
func (o *Observed) endsAt(at Attempt) bool {
	return slices.ContainsFunc(o.AccessLog, func(l Logged) bool { return l.Case == at.Case && l.Host == "host:"+at.Host })
}

// onlyResponse reports whether an attempt got the only response of its call, and the caller received
// it. With hedging, later attempts run beside it.
func (o *Observed) onlyResponse(at Attempt) bool {
	responses := 0
	for _, a := range o.Attempts {
		if a.Case == at.Case && a.Outcome == "sent" {
			responses++
		}
	}
	return responses == 1 && at.Outcome == "sent" &&
		slices.ContainsFunc(o.AccessLog, func(l Logged) bool { return l.Case == at.Case && l.Details == "via_upstream" })
}

// resetsWith matches scenarios whose upstream resets streams with a code.
func resetsWith(code string) func(*Scenario) bool {
	return func(s *Scenario) bool {
		scripts := append(slices.Collect(maps.Values(s.Upstream.ByPath)), s.Upstream.Script)
		for _, h := range s.Upstream.Hosts {
			scripts = append(scripts, h.Script)
		}
		return slices.ContainsFunc(scripts, func(steps []Step) bool {
			return slices.ContainsFunc(steps, func(s Step) bool { return s.Action == "rst_stream" && s.Code == code })
		})
	}
}

// endConnections: net/http does not use a connection again whose server reset a stream with
// PROTOCOL_ERROR.
func endConnections(_ *Scenario, want *Observed) {
	for _, at := range want.Attempts {
		if at.Step == "rst_stream PROTOCOL_ERROR" {
			want.Stats["cluster."+clusterName+".upstream_cx_close_notify"]++
		}
	}
}

// keptConnections is how many attempts got a response with a body, by one of the actions, and were
// followed by another one of the same call; and how many of these were followed by one at the same host, which uses
// their connection. closed is how many had a connection that the response ends.
func keptConnections(s *Scenario, want *Observed, actions ...string) (kept, used, closed uint64) {
	script := newScript(s.Upstream)
	for i, at := range want.Attempts {
		path, _, _ := strings.Cut(at.Path, "?")
		place := slices.IndexFunc(s.Upstream.Hosts, func(h Host) bool { return h.ID == at.Host })
		if place < 0 {
			return 0, 0, 0
		}
		step, later := script.next(s.Upstream.Hosts[place], path), want.Attempts[i+1:]
		again := !want.onlyResponse(at) && (slices.ContainsFunc(later, func(next Attempt) bool { return next.Case == at.Case }) || !want.endsAt(at))
		action, _, _ := strings.Cut(step.String(), " ")
		cut := at.Outcome == "aborted_by_peer" && (s.Upstream.Protocol == "http1" || step.BodyDelayMS == 0 || step.DelayMS > 0)
		if !again || cut || !slices.Contains(actions, action) || step.Body == "" || !hasBody(step.status()) || at.Method == http.MethodHead {
			continue
		}
		if step.Close {
			closed++
			continue
		}
		kept++
		if slices.ContainsFunc(later, func(next Attempt) bool { return next.Host == at.Host }) {
			used++
		}
	}
	return kept, used, closed
}
