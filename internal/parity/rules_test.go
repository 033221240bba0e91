package parity

import (
	"os"
	"strings"
	"testing"
)

// TestRulesAreStated pins that docs/envoy.md has each rule, with a scenario that shows
// it, and no other.
func TestRulesAreStated(t *testing.T) {
	text, err := os.ReadFile("../../docs/envoy.md")
	if err != nil {
		t.Fatal(err)
	}
	stated := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if cells := strings.Split(line, " | "); strings.HasPrefix(line, "| `") && len(cells) == 6 {
			stated[strings.Trim(cells[0], "| `")] = cells[5]
		}
	}
	for _, r := range Rules() {
		if !strings.Contains(stated[r.Name], "TestGolden/cases/") {
			t.Errorf("docs/envoy.md: rule %s: got test %q, want a scenario", r.Name, stated[r.Name])
		}
		delete(stated, r.Name)
	}
	for name := range stated {
		t.Errorf("docs/envoy.md: there is no rule %s", name)
	}
}
