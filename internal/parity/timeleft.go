package parity

import (
	"fmt"
	"strconv"
)

// timeLeftHeader tells the upstream how long an attempt will be waited for.
const timeLeftHeader = "x-envoy-expected-rq-timeout-ms"

// leftMargin is how far the time that is left may be off, in milliseconds: the
// machine may be busy between an attempt's beginning and its arrival.
const leftMargin = 60

// compareTimeLeft compares the time that each attempt was said to be waited for.
// The first attempt of a call has all of it. What a later one has depends on the back-offs,
// which are random: it must be as many milliseconds less as have passed since, unless it is
// near to what was recorded, as a limit of the attempt's own is.
func (p *Played) compareTimeLeft(want *Observed) []Difference {
	type first struct{ left, at float64 }
	firsts := map[string]first{}
	var found []Difference
	for i, at := range p.Attempts {
		if i >= len(want.Attempts) {
			break // which is a difference in number already
		}
		w, g := want.Attempts[i].Headers[timeLeftHeader], at.Headers[timeLeftHeader]
		begun, again := firsts[at.Case]
		ok := near(g, w)
		if again && g != "" && w != "" {
			passed := p.Timing.Attempts[i] - begun.at
			ok = ok || near(g, strconv.FormatFloat(begun.left-passed, 'f', 0, 64))
		} else if !again {
			left, _ := strconv.ParseFloat(g, 64) // what is no number is not ok
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

// near reports whether two times are within the margin, or both not there.
func near(a, b string) bool {
	x, errA := strconv.ParseFloat(a, 64)
	y, errB := strconv.ParseFloat(b, 64)
	if errA != nil || errB != nil {
		return a == b
	}
	return x-y <= leftMargin && y-x <= leftMargin
}
