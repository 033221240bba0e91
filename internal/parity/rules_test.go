package parity

import (
	"os"
	"strings"
	"testing"
)

// TestRulesAreStated pins that docs/envoy.md or docs/grpc.md has each rule, with a scenario
// that shows it, and that no scenario is named for another one.
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
			t.Errorf("no document states the rule %s with a scenario", r.Name)
		}
		delete(stated, r.Name)
	}
	for name := range stated {
		t.Errorf("there is no rule %s", name)
	}
}
