package parity

import (
	"os"
	"strings"
	"testing"
)

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
