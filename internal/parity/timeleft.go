package parity

import (
	"fmt"
	"strconv"
)

// timeLeftHeader announces the remaining time of an attempt to the upstream.
const timeLeftHeader = "x-envoy-expected-rq-timeout-ms"

// leftMargin is the tolerance of the remaining time, in milliseconds: the machine may be
// busy between the beginning of an attempt and its arrival.
const leftMargin = 60

// compareTimeLeft compares the announced remaining time of each attempt. The first attempt
// of a call has all of it. That of a later attempt depends on the back-offs, which are
// random: it must be shorter by the time that has passed, unless it is close to the
// recorded value, as a limit of the attempt is.
func (p *Played) compareTimeLeft(want *Observed) []Difference {
	type first struct{ left, at float64 }
	firsts := map[string]first{}
	var found []Difference
	for i, at := range p.Attempts {
		if i >= len(want.Attempts) {
			break // the number of attempts is already a difference
		}
		w, g := want.Attempts[i].Headers[timeLeftHeader], at.Headers[timeLeftHeader]
		begun, again := firsts[at.Case]
		ok := near(g, w)
		if again && g != "" && w != "" {
			passed := p.Timing.Attempts[i] - begun.at
			ok = ok || near(g, strconv.FormatFloat(begun.left-passed, 'f', 0, 64))
		} else if !again {
			left, _ := strconv.ParseFloat(g, 64) // an invalid number is not ok
			firsts[at.Case] = first{left, p.Timing.Attempts[i]}
		}
		if !ok {
			found = append(found, Difference{
				Path: fmt.Sprintf("/upstream_attempts/%d/headers/%s", i, timeLeftHeader), Want: w, Got: g,
			})
		}
	}
	return found
}

// near reports whether two times are within the margin, or both missing.
func near(a, b string) bool {
	x, errA := strconv.ParseFloat(a, 64)
	y, errB := strconv.ParseFloat(b, 64)
	if errA != nil || errB != nil {
		return a == b
	}
	return x-y <= leftMargin && y-x <= leftMargin
}
