package parity

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// recorded returns a case of one call with two attempts.
func recorded() *Case {
	return &Case{
		Observed: Observed{
			Downstream: []Answer{{
				Case: "r001", Status: 200, Headers: map[string]string{"server": "envoy", "x-a": "1", "x-envoy-upstream-service-time": "<ms>"}, Body: "ok",
			}},
			AccessLog: []Logged{{Case: "r001", Code: 200, Details: "via_upstream", Flags: "-", LongFlags: "-", Cluster: "upstream", Attempts: 2}},
			Attempts: []Attempt{
				{Case: "r001", Host: "a", Method: "GET", Path: "/", Step: "respond 503", Outcome: "sent", Headers: map[string]string{timeLeftHeader: "1000", "x-request-id": "<present>"}},
				{Case: "r001", Host: "a", Method: "GET", Path: "/", Step: "respond 200", Outcome: "sent", Headers: map[string]string{timeLeftHeader: "990"}},
			},
			Stats: map[string]uint64{"cluster.upstream.upstream_rq_total": 2, "cluster.upstream.upstream_cx_total": 1, "cluster.upstream.upstream_rq_retry": 1},
		},
		Volatile: map[string][]json.RawMessage{},
	}
}

// played returns a play that is equal to the recording.
func played() *Played {
	p := &Played{Observed: *recorded().Observed.clone(), Timing: Timing{Attempts: []float64{1, 11}}}
	p.Downstream[0].Headers = map[string]string{"x-a": "1"}
	delete(p.Attempts[0].Headers, "x-request-id")
	return p
}

// TestCompare changes one value at a time, and checks that the difference is found.
func TestCompare(t *testing.T) {
	tests := []struct {
		name   string
		change func(p *Played)
		want   []string
	}{
		{"nothing", func(*Played) {}, nil},
		{"status", func(p *Played) { p.Downstream[0].Status = 201 }, []string{"/downstream/0/status"}},
		{"a header", func(p *Played) { p.Downstream[0].Headers["x-b"] = "2" }, []string{"/downstream/0/headers/x-b"}},
		{"a missing header", func(p *Played) { delete(p.Downstream[0].Headers, "x-a") }, []string{"/downstream/0/headers/x-a"}},
		{"a proxy's header", func(p *Played) { p.Downstream[0].Headers["server"] = "other" }, nil},
		{"body", func(p *Played) { p.Downstream[0].Body = "" }, []string{"/downstream/0/body"}},
		{"a broken body", func(p *Played) { p.Downstream[0].Error = "body: EOF" }, []string{"/downstream/0/error"}},
		{"a trailer", func(p *Played) { p.Downstream[0].Trailers = map[string]string{"x": "y"} }, []string{"/downstream/0/trailers/x"}},
		{"flags", func(p *Played) { p.AccessLog[0].Flags = "URX" }, []string{"/access_log/0/response_flags"}},
		{"details", func(p *Played) { p.AccessLog[0].Details = "x" }, []string{"/access_log/0/response_code_details"}},
		{"number of attempts", func(p *Played) { p.AccessLog[0].Attempts = 1 }, []string{"/access_log/0/upstream_request_attempt_count"}},
		{"a missing call", func(p *Played) { p.AccessLog = nil }, []string{
			"/access_log#len", "/access_log/0/case", "/access_log/0/response_code", "/access_log/0/response_code_details",
			"/access_log/0/response_flags", "/access_log/0/response_flags_long", "/access_log/0/upstream_cluster",
			"/access_log/0/upstream_request_attempt_count",
		}},
		{"a step", func(p *Played) { p.Attempts[1].Step = "hang" }, []string{"/upstream_attempts/1/step"}},
		{"outcome", func(p *Played) { p.Attempts[1].Outcome = "aborted_by_peer" }, []string{"/upstream_attempts/1/outcome"}},
		{"an attempt's header", func(p *Played) { p.Attempts[0].Headers["x-envoy-attempt-count"] = "1" }, []string{"/upstream_attempts/0/headers/x-envoy-attempt-count"}},
		{"a caller's id", func(p *Played) { p.Attempts[0].Headers["x-request-id"] = "mine" }, []string{"/upstream_attempts/0/headers/x-request-id"}},
		{"a length of 0", func(p *Played) { p.Attempts[0].Headers["content-length"] = "0" }, nil},
		{"a counter", func(p *Played) { p.Stats["cluster.upstream.upstream_rq_total"] = 3 }, []string{"/stats_nonzero/cluster.upstream.upstream_rq_total"}},
		{"a missing counter", func(p *Played) { delete(p.Stats, "cluster.upstream.upstream_rq_retry") }, []string{"/stats_nonzero/cluster.upstream.upstream_rq_retry"}},
		{"an additional counter", func(p *Played) { p.Stats["cluster.upstream.retry.upstream_rq_503"] = 1 }, []string{"/stats_nonzero/cluster.upstream.retry.upstream_rq_503"}},
		{"a counter of 0", func(p *Played) { p.Stats["cluster.upstream.upstream_rq_timeout"] = 0 }, nil},
		{"a counter of the pool's", func(p *Played) { p.Stats["cluster.upstream.upstream_cx_total"] = 7 }, []string{"/stats_nonzero/cluster.upstream.upstream_cx_total"}},
		{"a histogram", func(p *Played) {
			p.Histograms = map[string]uint64{`envoy_cluster_internal_upstream_rq_time{envoy_cluster_name="upstream"}`: 1}
		}, []string{`/histogram_counts/envoy_cluster_internal_upstream_rq_time{envoy_cluster_name="upstream"}`}},
		{"a snapshot", func(p *Played) {
			p.Snapshots = map[string]map[string]uint64{"mid": {"cluster.upstream.upstream_rq_active": 1}}
		}, []string{
			"/snapshots/mid", "/snapshots/mid/cluster.upstream.upstream_rq_active",
		}},
		{"a limit of the attempt", func(p *Played) { p.Timing.Attempts[1] = 600 }, nil},
		{"less time left in a later attempt", func(p *Played) {
			p.Timing.Attempts[1] = 500
			p.Attempts[1].Headers[timeLeftHeader] = "500"
		}, nil},
		{"more time left than remains", func(p *Played) {
			p.Timing.Attempts[1] = 500
			p.Attempts[1].Headers[timeLeftHeader] = "700"
		}, []string{"/upstream_attempts/1/headers/" + timeLeftHeader}},
		{"less time left from the start", func(p *Played) { p.Attempts[0].Headers[timeLeftHeader] = "900" }, []string{"/upstream_attempts/0/headers/" + timeLeftHeader}},
		{"no time left in the headers", func(p *Played) { delete(p.Attempts[0].Headers, timeLeftHeader) }, []string{"/upstream_attempts/0/headers/" + timeLeftHeader}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := played()
			test.change(p)
			differences, _ := recorded().Compare(p, nil)
			var got []string
			for _, d := range differences {
				got = append(got, d.Path)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("differences (-want +got):\n%s", diff)
			}
		})
	}
}

// TestCompare_volatile checks that values may differ if they differed among the recorded
// plays.
func TestCompare_volatile(t *testing.T) {
	const path = "/access_log/0/upstream_request_attempt_count"
	tests := []struct {
		name  string
		path  string
		plays string
		got   int
		same  bool
	}{
		{"between", path, `[2, 5]`, 4, true},
		{"above", path, `[2, 5]`, 6, false},
		{"another path", "/downstream/0/status", `[2, 5]`, 4, false},
		{"missing in one play", path, `[2, null]`, 1, true},
		{"words", path, `["a", "b"]`, 1, false},
	}
	for _, test := range tests {
		c, p := recorded(), played()
		var values []json.RawMessage
		if err := json.Unmarshal([]byte(test.plays), &values); err != nil {
			t.Fatal(err)
		}
		c.Volatile[test.path] = values
		p.AccessLog[0].Attempts = test.got
		if differences, _ := c.Compare(p, nil); (len(differences) == 0) != test.same {
			t.Errorf("%s: got %v, want same: %v", test.name, differences, test.same)
		}
	}
}

// TestCompare_rules checks that a rule must hold where it applies: Envoy's behavior is then
// a difference.
func TestCompare_rules(t *testing.T) {
	rule := Rule{
		Name: "once", Applies: func(s *Scenario) bool { return s.Name == "x" },
		Change: func(_ *Scenario, want *Observed, _ *Played) { want.AccessLog[0].Attempts = 1 },
	}
	for _, test := range []struct {
		scenario   string
		got        int
		same       bool
		documented int
	}{{"x", 1, true, 1}, {"x", 2, false, 1}, {"y", 2, true, 0}, {"y", 1, false, 0}} {
		c, p := recorded(), played()
		c.Scenario.Name = test.scenario
		p.AccessLog[0].Attempts = test.got
		differences, documented := c.Compare(p, []Rule{rule})
		if (len(differences) == 0) != test.same || len(documented) != test.documented {
			t.Errorf("%+v: got %v, %v", test, differences, documented)
		}
		if c.Observed.AccessLog[0].Attempts != 2 {
			t.Error("a rule changed the recording")
		}
	}
}

// TestCompare_pools pins where the statistics of pool, queue and balancer are not compared: where a
// rule changes what becomes of calls.
func TestCompare_pools(t *testing.T) {
	rule := Rule{
		Applies: func(*Scenario) bool { return true }, OfCalls: true,
		Change: func(_ *Scenario, want *Observed, _ *Played) { want.AccessLog[0].Attempts = 1 },
	}
	grpc := Calls{Ops: []Op{{Request: &Request{GRPC: true}}}}
	for _, test := range []struct {
		name     string
		calls    Calls
		attempts int
		rules    []Rule
		same     bool
	}{
		{"HTTP", Calls{}, 2, nil, false},
		{"gRPC", grpc, 2, nil, false},
		{"a rule", Calls{}, 1, []Rule{rule}, true},
	} {
		c, p := recorded(), played()
		c.Scenario.Downstream, p.AccessLog[0].Attempts = test.calls, test.attempts
		p.Stats["cluster.upstream.upstream_cx_total"] = 7
		if differences, _ := c.Compare(p, test.rules); (len(differences) == 0) != test.same {
			t.Errorf("%s: got %v, want same: %v", test.name, differences, test.same)
		}
	}
}

// TestCompare_renamed pins that hosts whose addresses decide may have other names.
func TestCompare_renamed(t *testing.T) {
	c, p := recorded(), played()
	c.Scenario.Upstream.Hosts = []Host{{ID: "a"}, {ID: "b"}, {ID: "c"}}
	c.Scenario.Envoy = map[string]json.RawMessage{"cluster": json.RawMessage(`{"lb_policy": "RING_HASH"}`)}
	p.Attempts[0].Host, p.Attempts[1].Host = "c", "c"
	if differences, _ := c.Compare(p, nil); len(differences) != 0 {
		t.Errorf("got %v, want none under another name", differences)
	}
	p.Attempts[1].Host = "b"
	if differences, _ := c.Compare(p, nil); len(differences) != 1 {
		t.Errorf("got %v, want one host that is another", differences)
	}
}

// TestCompareWaits checks which waits are considered different.
func TestCompareWaits(t *testing.T) {
	uniform := func(n int, longest float64) (waits []float64) {
		for i := range n {
			waits = append(waits, longest*float64(i)/float64(n-1))
		}
		return waits
	}
	tests := []struct {
		name string
		got  []float64
		same bool
	}{
		{"the same", uniform(30, 100), true},
		{"fewer", uniform(12, 100), true},
		{"one slow wait", append(uniform(29, 100), 400), true},
		{"twice as long", uniform(30, 200), false},
		{"half as long", uniform(30, 50), false},
		{"always the longest", []float64{100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100}, false},
		{"none", nil, false},
	}
	for _, test := range tests {
		if what := compareWaits(uniform(90, 100), test.got); (what == "") != test.same {
			t.Errorf("%s: got %q, want same: %v", test.name, what, test.same)
		}
	}
}

func TestShared(t *testing.T) {
	for name, want := range map[string]bool{
		"cluster.upstream.upstream_rq_total":                true,
		"cluster.upstream.upstream_rq_503":                  true,
		"cluster.upstream.upstream_rq_5xx":                  true,
		"cluster.upstream.retry.upstream_rq_503":            true,
		"cluster.upstream.alt.internal.upstream_rq_2xx":     true,
		"cluster.upstream.upstream_rq_breaker_open":         false,
		"cluster.upstream.upstream_cx_total":                true,
		"cluster.upstream.upstream_rq_pending_total":        true,
		"cluster.upstream.upstream_cx_rx_bytes_total":       false,
		"cluster.other.upstream_rq_total":                   false,
		"http.egress.rq_total":                              false,
		"cluster.upstream.circuit_breakers.default.rq_open": true,
	} {
		if got := isShared(name); got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
}
