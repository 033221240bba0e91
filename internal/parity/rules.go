package parity

import (
	"slices"
	"strings"
)

// Rule is a difference between Envoy and the library that is meant: docs/envoy.md or
// docs/grpc.md states it by its name, with the reason. Change makes of what Envoy did what the
// library does; of what was played it may use only what chance decides.
type Rule struct {
	Name    string
	Applies func(s *Scenario) bool
	Change  func(s *Scenario, want *Observed, got *Played)

	// OfCalls says that it changes what becomes of calls. Their connections follow from that, and
	// are not compared.
	OfCalls bool
}

// Rules are all that there are. Those by habits follow from a model of a call.
func Rules() []Rule {
	rules := []Rule{
		{Name: "expect-is-passed-on", Applies: expects, Change: alone(expectPassedOn)},
		{Name: "untrusted-headers-pass", Applies: untrusted, Change: alone(untrustedPass)},
		{Name: "retried-responses-keep-connections", Applies: both(speaks("http1"), backsOff), Change: alone(keepsConnections)},
		{Name: "grpc-refused-messages", Applies: countsMessages, Change: alone(messagesOfAll)},
		{Name: "grpc-timeout-tells-our-limits", Applies: tellsGRPCTimeout, Change: alone(ownGRPCTimeout)},
	}
	var before habit
	for _, h := range habits() {
		rules = append(rules, Rule{Name: h.name, Applies: h.applies, Change: rewrite(before, before|h.habit), OfCalls: true})
		before |= h.habit
	}
	return rules
}

// alone is a change that chance has no part in.
func alone(change func(s *Scenario, want *Observed)) func(*Scenario, *Observed, *Played) {
	return func(s *Scenario, want *Observed, _ *Played) { change(s, want) }
}

// habitRule is the rule of a habit.
type habitRule struct {
	name    string
	habit   habit
	applies func(s *Scenario) bool
}

// habits are all habits of the library, in the order in which they are taken on.
func habits() []habitRule {
	return []habitRule{
		{"informational-answers-pass", showsInformational, informs},
		{"no-useless-wait", waitsForNothing, backsOff},
		{"limits-include-connecting", limitsIncludeConnecting, listensNot("blackhole")},
		{"http1-trailers-pass", passesTrailers, speaks("http1")},
		{"http1-heads", readsHeads, speaks("http1")},
		{"http2-heads", readsLengths, speaksHTTP2},
		{"canceled-callers", disconnects, leaves(false)},
		{"grpc-refused-streams-are-gRPC's", resendsRefused, isGRPC},
		{"grpc-has-no-http-status", hasNoHTTPStatus, isGRPC},
		{"grpc-messages-need-no-buffer", needsNoBuffer, isGRPC},
		{"grpc-malformed-responses", findsMalformed, isGRPC},
		{"grpc-callers-get-a-status", givesStatuses, isGRPC},
		{"grpc-messages-are-the-callers", countsGivenMessages, isGRPC},
		{"grpc-whole-messages", wantsWholeMessages, isGRPC},
		{"grpc-broken-responses", tellsBroken, isGRPC},
		{"grpc-canceled-callers", cancels, leaves(true)},
		{"grpc-attempt-count", countsNoAttemptsOfErrors, isGRPC},
	}
}

// both recognizes scenarios that both do.
func both(a, b func(*Scenario) bool) func(*Scenario) bool {
	return func(s *Scenario) bool { return a(s) && b(s) }
}

// isGRPC recognizes scenarios of gRPC calls.
func isGRPC(s *Scenario) bool {
	all, _ := speaksGRPC(s)
	return all
}

// speaks recognizes scenarios of HTTP calls whose upstream speaks a version.
func speaks(protocol string) func(*Scenario) bool {
	return func(s *Scenario) bool { return !isGRPC(s) && s.Upstream.Protocol == protocol }
}

// speaksHTTP2 recognizes scenarios whose upstream speaks HTTP/2.
func speaksHTTP2(s *Scenario) bool { return s.Upstream.Protocol == "h2" }

// listensNot recognizes an upstream that has no connections.
func listensNot(how ...string) func(*Scenario) bool {
	return func(s *Scenario) bool {
		return slices.ContainsFunc(s.Upstream.Hosts, func(h Host) bool { return slices.Contains(how, h.Listen) })
	}
}

// leaves recognizes callers of HTTP/2 that leave.
func leaves(grpc bool) func(*Scenario) bool {
	return func(s *Scenario) bool {
		return s.Downstream.Protocol == "h2" && isGRPC(s) == grpc &&
			slices.ContainsFunc(s.requests(), func(r Request) bool { return r.ClientTimeout > 0 })
	}
}

// backsOff recognizes calls that may be retried, and have a time in which to.
func backsOff(s *Scenario) bool {
	f, err := readFragments(s.Envoy)
	return err == nil && (f.route.RetryPolicy != nil || f.virtualHost.RetryPolicy != nil || len(f.routes) > 0 || !f.external)
}

// requests are all requests of the scenario, in the order of their cases.
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

// expectPassedOn: it is the upstream that says whether it wants the body; Envoy says
// so by itself, at once.
func expectPassedOn(s *Scenario, want *Observed) {
	passOn(s, want, func(name string) bool { return name == "expect" })
}

// passOn has the requests' headers reach the upstream that Envoy keeps from it.
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

// untrustedPass: headers that are not obeyed are none of the library's business.
func untrustedPass(s *Scenario, want *Observed) {
	passOn(s, want, func(name string) bool { return strings.HasPrefix(name, "x-envoy-") || name == "x-request-id" })
}

// keepsConnections: the rest of a response that is discarded for a retry is read if it is short, so
// that its connection serves the next attempt. Envoy resets the stream, which ends the connection.
func keepsConnections(s *Scenario, want *Observed) {
	kept := -uint64(keptConnections(s, want.Attempts)) //nolint:gosec // added, it wraps
	const row, histogram = "cluster." + clusterName + ".upstream_", "envoy_cluster_upstream_"
	if kept == 0 {
		return
	}
	for _, name := range []string{
		"cx_destroy", "cx_destroy_local", "cx_destroy_local_with_active_rq", "cx_destroy_with_active_rq",
		"cx_http1_total", "cx_total", "rq_pending_total",
	} {
		want.Stats[row+name] += kept
	}
	for _, name := range []string{"cx_connect_ms", "cx_length_ms", "rq_per_cx"} {
		want.Histograms[histogram+name+`{envoy_cluster_name="`+clusterName+`"}`] += kept
	}
}

// keptConnections is how many attempts got a response with a body, and were followed by another
// one of the same call.
func keptConnections(s *Scenario, attempts []Attempt) (n int) {
	script := newScript(s.Upstream)
	for i, at := range attempts {
		path, _, _ := strings.Cut(at.Path, "?")
		place := slices.IndexFunc(s.Upstream.Hosts, func(h Host) bool { return h.ID == at.Host })
		if place < 0 {
			return 0
		}
		step := script.next(s.Upstream.Hosts[place], path)
		again := slices.ContainsFunc(attempts[i+1:], func(later Attempt) bool { return later.Case == at.Case })
		if again && strings.HasPrefix(step.String(), "respond") && step.Body != "" && at.Outcome != "aborted_by_peer" {
			n++
		}
	}
	return n
}
