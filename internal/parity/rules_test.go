package parity

import (
	"os"
	"strings"
	"testing"
)

// TestKeepsStreams checks that a response is discarded if the caller received another one, and not
// if only a hedged attempt without a response ran beside it.
func TestKeepsStreams(t *testing.T) {
	const resets = "cluster." + clusterName + ".upstream_rq_tx_reset"
	first := Step{Status: 503, Body: "x"}
	for _, test := range []struct {
		second  Step
		outcome string
		want    uint64
	}{
		{Step{Action: "hang"}, "aborted_by_peer", 1},
		{Step{Status: 200}, "sent", 0},
	} {
		s := &Scenario{Upstream: UpstreamScript{Protocol: "h2", Hosts: []Host{{ID: "a"}}, Script: []Step{first, test.second}}}
		want := &Observed{
			AccessLog: []Logged{{Case: "r001", Host: "host:a", Details: "via_upstream"}},
			Attempts: []Attempt{
				{Case: "r001", Host: "a", Path: "/", Step: first.String(), Outcome: "sent"},
				{Case: "r001", Host: "a", Path: "/", Step: test.second.String(), Outcome: test.outcome},
			},
			Stats: map[string]uint64{resets: 1},
		}
		keepsStreams(s, want)
		if got := want.Stats[resets]; got != test.want {
			t.Errorf("second step %s: got %d resets, want %d", test.second, got, test.want)
		}
	}
}

// TestRulesAreStated checks that docs/envoy.md or docs/grpc.md documents each rule, with a
// scenario that shows it, and documents no other rules with a scenario.
func TestRulesAreStated(t *testing.T) {
	stated := map[string]string{}
	for _, path := range []string{"../../docs/envoy.md", "../../docs/grpc.md"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			cells := strings.Split(line, " | ")
			if tests := cells[len(cells)-1]; strings.HasPrefix(line, "| ") && strings.Contains(tests, "TestGolden/cases/") {
				stated[strings.Trim(cells[0], "| `")] = tests
			}
		}
	}
	for _, r := range Rules() {
		if stated[r.Name] == "" {
			t.Errorf("rule %s is not documented with a scenario", r.Name)
		}
		delete(stated, r.Name)
	}
	for name := range stated {
		t.Errorf("documented rule %s does not exist", name)
	}
}
