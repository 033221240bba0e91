package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// table is a group with its results.
type table struct {
	group   group
	results map[string]result
}

// text is the table for a terminal.
func (t table) text() string {
	var b strings.Builder
	fmt.Fprintln(&b, t.group.name)
	for i, c := range t.group.candidates {
		time, allocs := t.results[c.name].cells(i == 0)
		fmt.Fprintf(&b, "  %-52s %16s %8s\n", c.name, time, allocs)
	}
	return b.String()
}

// bound says that a candidate adds at most factor times the time of another, unless that is "", and
// at most so many allocations.
type bound struct {
	group     string // the beginning of the group's name
	candidate string
	rival     string
	factor    float64
	allocs    float64
}

// bounds are what the library promises. The time on loopback has no bound: it is within
// the machine's noise. With a body the rival judges at the end of the body too, which is the
// same work.
var bounds = []bound{
	{"breaker core", "pillion, clean window", "gobreaker v2 rolling Execute", 0.5, 0},
	{"breaker open", "pillion", "gobreaker v2", 2, 0},
	{"closed breaker through a RoundTripper, stub with a body", "pillion", "gobreaker v2 two-step, judged at the end of the body", 1, 1},
	{"closed breaker through a RoundTripper, stub with a body", "pillion, cancellable caller", "gobreaker v2 two-step, judged at the end of the body", 1, 1},
	{"closed breaker through a RoundTripper, stub with http.NoBody", "pillion", "gobreaker v2", 1.15, 0},
	{"retry, breaker, limits and timeouts, stub with a body", "pillion", "failsafe-go", 0.40, 4},
	{"retry, breaker, limits and timeouts, stub", "pillion", "failsafe-go", 0.45, 4},
	{"retry, breaker, limits and timeouts, stub", "pillion", "named packages by hand", 1, 4},
	{"retry, breaker, limits and timeouts, stub", "pillion, with the timeout header", "failsafe-go", 0.65, 10},
}

func checkBounds(tables []table) error {
	var bad []error
	for _, b := range slices.Concat(bounds, commandBounds(), metricsBounds(), tracingBounds(), grpcBounds(), clusterBounds()) {
		for _, t := range tables {
			if strings.HasPrefix(t.group.name, b.group) {
				bad = append(bad, b.check(t))
			}
		}
	}
	return errors.Join(append(append(bad, checkScrapes(tables)...), checkDrops())...)
}

// check prints whether the bound holds in t, and returns an error if it does not.
func (b bound) check(t table) error {
	ours := t.results[b.candidate]
	holds, text := ours.addedA <= b.allocs+0.5, fmt.Sprintf("%.1f allocations (at most %.0f)", ours.addedA, b.allocs)
	if b.rival != "" {
		ratio := ours.ratio(t.results[b.rival])
		holds = holds && ratio <= b.factor
		text = fmt.Sprintf("%.2f of %s (at most %.2f), %s", ratio, b.rival, b.factor, text)
	}
	text = fmt.Sprintf("%s: %s is %s", t.group.name, b.candidate, text)
	if !holds {
		fmt.Println("FAIL", text)
		return errors.New("bench: " + text)
	}
	fmt.Println("ok  ", text)
	return nil
}
