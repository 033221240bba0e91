package parity

import (
	"strings"
)

// Rule is a difference between Envoy and the library that is meant: docs/envoy.md
// states it by its name, with the reason.
type Rule struct {
	Name    string
	Applies func(s *Scenario) bool
	Change  func(s *Scenario, want *Observed) // makes of what Envoy did what the library does
}

// Rules are all that there are.
func Rules() []Rule {
	return []Rule{
		{Name: "no-useless-wait", Applies: longBackOff, Change: lastAnswerAtOnce},
		{Name: "informational-answers-pass", Applies: informs, Change: informed},
		{Name: "expect-is-passed-on", Applies: expects, Change: expectPassedOn},
		{Name: "untrusted-headers-pass", Applies: untrusted, Change: untrustedPass},
		{Name: "attempts-are-counted-at-their-end", Applies: looksMeanwhile, Change: countedAtTheEnd},
		{Name: "grpc-callers-get-a-status", Applies: answersGRPCInHTTP, Change: answeredWithAStatus},
		{Name: "grpc-messages-are-the-callers", Applies: answersBeforeFailing, Change: messagesNotGiven},
		{Name: "grpc-timeout-tells-our-limits", Applies: tellsGRPCTimeout, Change: ownGRPCTimeout},
	}
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

// longBackOff recognises a back-off that will hardly fit in the time that the call
// has.
func longBackOff(s *Scenario) bool {
	f, err := readFragments(s.Envoy)
	if err != nil || f.route.RetryPolicy == nil || f.route.Timeout == nil {
		return false
	}
	return f.route.RetryPolicy.RetryBackOff.BaseInterval >= 10**f.route.Timeout && *f.route.Timeout > 0
}

// lastAnswerAtOnce: the caller gets the upstream's last answer at once, where Envoy
// lets it wait for a time-out that is certain.
func lastAnswerAtOnce(_ *Scenario, want *Observed) {
	want.Downstream[0] = Answer{Case: "r001", Status: 503, Headers: map[string]string{"content-length": "0"}}
	l := &want.AccessLog[0]
	l.Code, l.Details, l.Flags, l.LongFlags = 503, "via_upstream", "-", "-"
	const prefix = "cluster." + clusterName + "."
	for _, name := range []string{"503", "5xx", "completed"} {
		delete(want.Stats, prefix+"retry.upstream_rq_"+name)
		want.Stats[prefix+"upstream_rq_"+name]++
		want.Stats[prefix+"internal.upstream_rq_"+name]++
	}
	const labels = `{envoy_cluster_name="` + clusterName + `"}`
	want.Histograms["envoy_cluster_upstream_rq_time"+labels]++
	want.Histograms["envoy_cluster_internal_upstream_rq_time"+labels]++
}

func informs(s *Scenario) bool {
	for _, step := range s.Upstream.Script {
		if len(step.Informational) > 0 {
			return true
		}
	}
	return false
}

// informed: net/http shows a caller the answers before the answer, which Envoy keeps
// for itself; it counts them, which nobody here can.
func informed(s *Scenario, want *Observed) {
	for i := range want.Downstream {
		for _, early := range stepAt(s.Upstream.Script, i).Informational {
			want.Downstream[i].Informational = append(want.Downstream[i].Informational, early.Status)
		}
	}
	for _, category := range []string{"", "internal."} {
		prefix := "cluster." + clusterName + "." + category + "upstream_rq_"
		want.Stats[prefix+"completed"] -= want.Stats[prefix+"1xx"]
		for name := range want.Stats {
			if strings.HasPrefix(name, prefix+"1") {
				delete(want.Stats, name)
			}
		}
	}
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
					want.Attempts[j].Headers[name] = value
				}
			}
		}
	}
}

func untrusted(s *Scenario) bool { return string(s.Envoy["external"]) == "true" }

// untrustedPass: headers that are not obeyed are none of the library's business.
func untrustedPass(s *Scenario, want *Observed) {
	passOn(s, want, func(name string) bool { return strings.HasPrefix(name, "x-envoy-") })
}

func looksMeanwhile(s *Scenario) bool {
	for _, op := range s.Downstream.Ops {
		if op.Op == "concurrent" && op.Name != "" {
			return true
		}
	}
	return false
}

// countedAtTheEnd: only then is it known whether an attempt got a connection.
func countedAtTheEnd(_ *Scenario, want *Observed) {
	const prefix = "cluster." + clusterName + ".upstream_rq_"
	for _, numbers := range want.Snapshots {
		numbers[prefix+"total"] -= numbers[prefix+"active"]
	}
}
