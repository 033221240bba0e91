package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// results makes a table of every group, with the same result for each candidate.
func results(r result) []table {
	var tables []table
	for _, g := range groups() {
		t := table{g, map[string]result{}}
		for _, c := range g.candidates {
			t.results[c.name] = r
		}
		tables = append(tables, t)
	}
	return tables
}

func TestReadmeText(t *testing.T) {
	got, err := readmeText(results(result{ns: 400, added: 123.4, addedA: 1}))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(got, "\n| "); n != 6 {
		t.Errorf("got %d lines, want a header and five rows:\n%s", n, got)
	}
	if want := "| a closed breaker | +123 ns | +1.0 | failsafe-go | +123 ns | +1.0 |\n"; !strings.Contains(got, want) {
		t.Errorf("got\n%s\nwant %s", got, want)
	}
	if _, err := readmeText(nil); err == nil {
		t.Error("nothing measured: got no error")
	}
}

func TestMarkdown(t *testing.T) {
	tab := table{group{name: "work", candidates: []candidate{{name: "bare"}, {name: "a"}, {name: "b"}}}, map[string]result{
		"bare": {ns: 145859, allocs: 56},
		"a":    {added: -44020, noise: true, addedA: -0.2},
		"b":    {added: 7144, addedA: 5.84},
	}}
	want := `| work | time | allocations |
|---|--:|--:|
| bare | 145859 ns | 56 |
| a | within the noise | +0.0 |
| b | +7144 ns | +5.8 |
`
	if got := tab.markdown(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := tab.text(); strings.Contains(got, "-44020") || !strings.Contains(got, "within the noise") {
		t.Errorf("got\n%s\nwant no negative cost", got)
	}
}

// TestBound checks a bound of time and allocations, and one of allocations alone. What was not measured
// holds no bound.
func TestBound(t *testing.T) {
	tab := table{group{name: "work"}, map[string]result{
		"a": {addedA: 1, each: []float64{30, 900, 15}}, // the machine was slow in the second round
		"b": {each: []float64{20, 600, 40}},
		"c": {each: []float64{-1, -1, 40}}, // it seemed to cost nothing in two rounds
	}}
	tests := []struct {
		b     bound
		holds bool
	}{
		{bound{"work", "a", "b", 1.5, 1}, true},
		{bound{"work", "a", "b", 1.4, 1}, false},
		{bound{"work", "a", "b", 1.5, 0}, false},
		{bound{"work", "a", "c", 1.5, 1}, false},
		{bound{"work", "c", "a", 0, 0}, true},
		{bound{"work", "a", "", 0, 1}, true},
		{bound{"work", "a", "", 0, 0}, false},
		{bound{"work", "nothing", "nothing either", 1, 0}, false},
	}
	for _, test := range tests {
		if err := test.b.check(tab); (err == nil) != test.holds {
			t.Errorf("%+v: got %v, want it to hold: %t", test.b, err, test.holds)
		}
	}
}

func TestReadPicks(t *testing.T) {
	got := readPicks("goos: linux\nBenchmarkPickCost/round_robin/EDF-2 \t 1\t 0.5 allocs/pick\t 145.5 ns/pick\nBenchmarkPickCost/reference-16 1 0 allocs/pick 30 ns/pick\nPASS\n")
	if r := got.results["round robin/EDF"]; r.added != 145.5 || r.addedA != 0.5 {
		t.Errorf("got %+v, want 145.5 ns and 0.5 allocations", r)
	}
	if r := got.results[pickReference]; r.added != 30 || len(got.group.candidates) != 3 {
		t.Errorf("got %+v of %d rows, want 30 ns of 3", r, len(got.group.candidates))
	}
}

func TestWritePage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "page.md")
	write := func(text string) {
		t.Helper()
		if err := writePage(path, text); err != nil {
			t.Fatal(err)
		}
	}
	check := func(want string) {
		t.Helper()
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("got error %v and\n%s\nwant\n%s", err, got, want)
		}
	}
	write("\none\n")
	check("# Performance\n\n<!-- bench: begin -->\n\none\n\n<!-- bench: end -->\n")
	write("\ntwo\n")
	check("# Performance\n\n<!-- bench: begin -->\n\ntwo\n\n<!-- bench: end -->\n")
	if err := os.WriteFile(path, []byte("no marks"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writePage(path, "text"); err == nil {
		t.Error("a page without marks: got no error")
	}
}

func TestRun_only(t *testing.T) {
	if err := run(options{only: "breaker", readme: "README.md"}); err == nil {
		t.Error("-only with -readme: got no error")
	}
}

// TestCalibrate checks that one slow operation among the first does not make the slices short.
func TestCalibrate(t *testing.T) {
	calls := 0
	busy := func(d time.Duration) {
		for start := cpuTime(); cpuTime()-start < d; {
			runtime.Gosched()
		}
	}
	op := func() {
		if calls++; calls == 3 {
			busy(5 * time.Millisecond)
		}
		busy(20 * time.Microsecond)
	}
	if n := calibrate(op, time.Millisecond); n < 5 {
		t.Errorf("got %d operations in a slice, want tens", n)
	}
}
