package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// table is a group with what was measured.
type table struct {
	group   group
	results map[string]result
}

// text is the table for a terminal.
func (t table) text() string {
	var b strings.Builder
	fmt.Fprintln(&b, t.group.name)
	for i, c := range t.group.candidates {
		r := t.results[c.name]
		if i == 0 {
			fmt.Fprintf(&b, "  %-56s %9.0f ns %6.1f allocs\n", c.name, r.ns, r.allocs)
			continue
		}
		fmt.Fprintf(&b, "  %-56s %+9.0f ns %+6.1f allocs\n", c.name, r.added, r.addedA)
	}
	return b.String()
}

// markdown is the table for a README.
func (t table) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "| %s | time | allocations |\n|---|--:|--:|\n", t.group.name)
	for i, c := range t.group.candidates {
		r := t.results[c.name]
		if i == 0 {
			if r.ns > 10 {
				fmt.Fprintf(&b, "| %s | %.0f ns | %.0f |\n", c.name, r.ns, r.allocs)
			}
			continue
		}
		fmt.Fprintf(&b, "| %s | %+.0f ns | %+.1f |\n", c.name, r.added, r.addedA)
	}
	return b.String()
}

const (
	beginMark = "<!-- bench: begin -->\n"
	endMark   = "<!-- bench: end -->"
)

// writeTable replaces what stands between the marks of a file.
func writeTable(path string, tables []table) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), beginMark)
	_, after, end := strings.Cut(rest, endMark)
	if !ok || !end {
		return fmt.Errorf("bench: %s has no marks %q and %q", path, strings.TrimSpace(beginMark), endMark)
	}
	var b strings.Builder
	b.WriteString(before + beginMark)
	for _, t := range tables {
		b.WriteString("\n" + t.markdown())
	}
	b.WriteString("\n" + endMark + after)
	return os.WriteFile(path, []byte(b.String()), 0o644)
}

// bound says that one candidate costs no more than factor times another, and so
// many allocations.
type bound struct {
	group     string // all groups whose name begins so
	candidate string
	rival     string
	factor    float64
	allocs    float64
}

// bounds are what the library promises. The first row of each work is the one
// that users meet; time on loopback is the machine's noise, and is not bound. With a
// body the rival judges at the end of the body too: that is the same work.
var bounds = []bound{
	{"breaker core", "pillion, clean window", "gobreaker v2 rolling Execute", 0.5, 0},
	{"breaker open", "pillion", "gobreaker v2", 2, 0},
	{"closed breaker through a RoundTripper, stub with a body", "pillion", "gobreaker v2 two-step, judged at the end of the body", 1, 1},
	{"closed breaker through a RoundTripper, stub with a body", "pillion, cancellable caller", "gobreaker v2 two-step, judged at the end of the body", 1, 1},
	{"closed breaker through a RoundTripper, stub with http.NoBody", "pillion", "gobreaker v2", 1.15, 0},
	{"retry, breaker, limits and time-outs, stub with a body", "pillion", "failsafe-go", 0.40, 4},
	{"retry, breaker, limits and time-outs, stub", "pillion", "failsafe-go", 0.45, 4},
	{"retry, breaker, limits and time-outs, stub", "pillion, cancellable caller", "named packages by hand", 1, 4},
	{"retry, breaker, limits and time-outs, stub", "pillion", "named packages by hand", 1, 4},
	{"retry, breaker, limits and time-outs, stub", "pillion, with the timeout header", "failsafe-go", 0.65, 10},
}

func checkBounds(tables []table) error {
	var bad []error
	for _, b := range slices.Concat(bounds, commandBounds(), metricsBounds(), tracingBounds(), grpcBounds()) {
		for _, t := range tables {
			if !strings.HasPrefix(t.group.name, b.group) {
				continue
			}
			ours, rival := t.results[b.candidate], t.results[b.rival]
			ratio := ours.added / rival.added
			verdict := "ok"
			if ratio > b.factor || ours.addedA > b.allocs+0.5 {
				verdict = "FAIL"
				bad = append(bad, fmt.Errorf("bench: %s: %s: %.2f of %s, bound %.2f; %.1f allocations, bound %.0f",
					t.group.name, b.candidate, ratio, b.rival, b.factor, ours.addedA, b.allocs))
			}
			fmt.Printf("%-4s %s: %s is %.2f of %s (at most %.2f), %.1f allocations (at most %.0f)\n",
				verdict, t.group.name, b.candidate, ratio, b.rival, b.factor, ours.addedA, b.allocs)
		}
	}
	return errors.Join(append(append(bad, checkScrapes(tables)...), checkDrops())...)
}
