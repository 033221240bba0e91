package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

const (
	beginMark = "<!-- bench: begin -->\n"
	endMark   = "<!-- bench: end -->"
)

// newPage is the page that is made if there is none.
const newPage = "# Performance\n\n" + beginMark + endMark + "\n"

// writePage replaces the text between the marks of a page.
func writePage(path, text string) error {
	page, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		page, err = []byte(newPage), nil
	}
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(page), beginMark)
	_, after, end := strings.Cut(rest, endMark)
	if !ok || !end {
		return fmt.Errorf("bench: %s: must contain the marks %q and %q", path, strings.TrimSpace(beginMark), endMark)
	}
	return os.WriteFile(path, []byte(before+beginMark+text+"\n"+endMark+after), 0o644)
}

// docsText is all tables in Markdown.
func docsText(tables []table) string {
	var b strings.Builder
	for _, t := range tables {
		b.WriteString("\n" + t.markdown())
	}
	return b.String()
}

func (t table) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "| %s | time | allocations |\n|---|--:|--:|\n", t.group.name)
	for i, c := range t.group.candidates {
		r := t.results[c.name]
		if i == 0 && r.ns <= 10 {
			continue // the bare work is nothing
		}
		time, allocs := r.cells(i == 0)
		fmt.Fprintf(&b, "| %s | %s | %s |\n", c.name, time, allocs)
	}
	return b.String()
}

// highlight is a row of the README: what pillion and another library add to the same
// work.
type highlight struct {
	work, group, ours, rival string
}

var highlights = []highlight{
	{"a refusal by an open breaker", "breaker open, refusal through a RoundTripper", "pillion", "gobreaker v2"},
	{"a closed breaker", "closed breaker through a RoundTripper, stub with a body", "pillion", "failsafe-go"},
	{"retry, breaker, limits and timeouts", "retry, breaker, limits and timeouts, stub with a body", "pillion", "failsafe-go"},
	{"metrics", "metrics, added to all policies, stub with a body", "pillion", "promhttp"},
	{"all policies of a gRPC call", grpcStub, "pillion", "failsafegrpc, uncounted"},
}

// readmeText is the highlights in Markdown.
func readmeText(tables []table) (string, error) {
	var b strings.Builder
	b.WriteString("\n| added to each call | pillion | allocations | another library | its time | allocations |\n|---|--:|--:|---|--:|--:|\n")
	for _, h := range highlights {
		ours, rival, err := h.find(tables)
		if err != nil {
			return "", err
		}
		time, allocs := ours.cells(false)
		rivalTime, rivalAllocs := rival.cells(false)
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", h.work, time, allocs, h.rival, rivalTime, rivalAllocs)
	}
	return b.String(), nil
}

func (h highlight) find(tables []table) (ours, rival result, err error) {
	for _, t := range tables {
		if t.group.name != h.group {
			continue
		}
		var okOurs, okRival bool
		ours, okOurs = t.results[h.ours]
		rival, okRival = t.results[h.rival]
		if okOurs && okRival {
			return ours, rival, nil
		}
	}
	return ours, rival, fmt.Errorf("bench: %q, %q and %q were not measured, for the README", h.group, h.ours, h.rival)
}

// cells are the time and the allocations of a row. The first row of a table is the bare
// work; the others are what is added to it.
func (r result) cells(bare bool) (time, allocs string) {
	switch {
	case bare:
		return fmt.Sprintf("%.0f ns", r.ns), fmt.Sprintf("%.0f", r.allocs)
	case r.noise:
		time = "within the noise"
	default:
		time = fmt.Sprintf("+%.0f ns", r.added)
	}
	return time, fmt.Sprintf("+%.1f", max(0, r.addedA))
}
