package parity

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// rewrite returns a change that converts the observations of a model with the habits before
// to those of a model with the habits after. It does nothing if the model did not predict
// the observations, or if no habit makes a difference.
func rewrite(before, after habit) func(s *Scenario, want *Observed, got *Played) {
	return func(s *Scenario, want *Observed, got *Played) {
		f, err := readFragments(s.Envoy)
		if err != nil || len(s.Upstream.Hosts) != 1 || want.Summary != nil {
			return
		}
		old := (&model{scenario: s, parts: f, habits: before, played: made(want)}).play()
		changed := (&model{scenario: s, parts: f, habits: after, played: made(&got.Observed)}).play()
		r := rewriter{model: &model{scenario: s, parts: f, habits: before}, now: &model{scenario: s, parts: f, habits: after}, want: want}
		if !r.foresaw(old) {
			return
		}
		for i := range old {
			r.rewrite(i, old[i], changed[i])
		}
	}
}

// made returns the number of attempts of each call.
func made(o *Observed) map[string]int {
	all := map[string]int{}
	for _, l := range o.AccessLog {
		all[l.Case] = l.Attempts
	}
	return all
}

// rewriter changes observations.
type rewriter struct {
	model, now *model
	want       *Observed
}

// foresaw reports whether the model predicted the calls.
func (r *rewriter) foresaw(courses []*course) bool {
	if len(courses) != len(r.want.AccessLog) || len(courses) != len(r.want.Downstream) {
		return false
	}
	for i, c := range courses {
		l, seen := r.model.logged(c), r.want.AccessLog[i]
		if !c.known || l.Code != seen.Code || l.Details != seen.Details || l.Flags != seen.Flags || l.Attempts != seen.Attempts {
			return false
		}
		if !slices.Equal(stepsOf(c), r.seen(c.name)) {
			return false
		}
	}
	return true
}

func stepsOf(c *course) []string {
	var steps []string
	for _, t := range c.attempts {
		steps = append(steps, t.step.String())
	}
	return steps
}

// seen returns the steps that the attempts of a call met.
func (r *rewriter) seen(name string) []string {
	var steps []string
	for _, at := range r.want.Attempts {
		if at.Case == name {
			steps = append(steps, at.Step)
		}
	}
	return steps
}

// logged returns the line of a course in the access log.
func (m *model) logged(c *course) Logged {
	e := &c.end
	l := Logged{Case: c.name, Code: e.code, Details: e.details, Flags: strings.Join(e.flags, ","), Cluster: clusterName, Attempts: c.made}
	switch {
	case e.gone:
		l.Details, l.Flags = m.disconnect()
	case e.code == 0:
		l.Code = m.answer(c).Status
	case m.grpc() && m.has(makesStatuses):
		l.Code = m.answer(c).Status
	}
	if l.Flags == "" {
		l.Flags = "-"
	}
	l.LongFlags = longFlags(l.Flags)
	return l
}

// disconnect returns the detail and the flag of a caller that disconnected.
func (m *model) disconnect() (details, flags string) {
	here := m.has(disconnects)
	if m.grpc() {
		here = m.has(cancels)
	}
	if m.scenario.Downstream.Protocol == "h2" && !here {
		return "http2.remote_reset", "DR"
	}
	return "downstream_remote_disconnect", "DC"
}

// longFlags maps flags to their long names.
func longFlags(flags string) string {
	var long []string
	for flag := range strings.SplitSeq(flags, ",") {
		long = append(long, longNames[flag])
	}
	return strings.Join(long, ",")
}

//nolint:gochecknoglobals // a read-only table
var longNames = map[string]string{
	"-": "-", "DC": "DownstreamConnectionTermination", "DR": "DownstreamRemoteReset", "UC": "UpstreamConnectionTermination",
	"UF": "UpstreamConnectionFailure", "UO": "UpstreamOverflow", "UPE": "UpstreamProtocolError", "UR": "UpstreamRemoteReset",
	"URX": "UpstreamRetryLimitExceeded", "UT": "UpstreamRequestTimeout",
}

// rewrite changes the observations of the nth call.
func (r *rewriter) rewrite(n int, old, changed *course) {
	was, is := r.model.answer(old), r.now.answer(changed)
	if !equalViews(was, is) {
		r.want.Downstream[n] = is
	}
	if before, after := r.model.logged(old), r.now.logged(changed); before != after {
		l := &r.want.AccessLog[n]
		l.Code, l.Details, l.Flags, l.LongFlags, l.Attempts = after.Code, after.Details, after.Flags, after.LongFlags, after.Attempts
	}
	r.recount(old.stats, -1)
	r.recount(changed.stats, 1)
	if !slices.EqualFunc(old.attempts, changed.attempts, sameTry) {
		r.resend(old, changed)
	}
}

func sameTry(a, b tried) bool {
	return a.number == b.number && a.cut == b.cut && a.step.String() == b.step.String()
}

func equalViews(a, b Answer) bool {
	x, y := view{}, view{}
	x.answer("", a)
	y.answer("", b)
	return maps.Equal(x, y)
}

// recount adds to the statistics.
func (r *rewriter) recount(stats map[string]int, sign int) {
	for name, n := range stats {
		in := r.want.Stats
		path := "cluster." + clusterName + "." + name
		if h, ok := strings.CutPrefix(name, histogram); ok {
			in, path = r.want.Histograms, "envoy_cluster_"+h+`{envoy_cluster_name="`+clusterName+`"}`
		}
		in[path] += uint64(sign * n) //nolint:gosec // it wraps around and back
	}
}

// resend replaces the attempts that the upstream observed, which are those of old, with those of
// a course.
func (r *rewriter) resend(old, c *course) {
	var before, own, after []Attempt
	for _, at := range r.want.Attempts {
		switch {
		case at.Case == c.name:
			own = append(own, at)
		case len(own) == 0:
			before = append(before, at)
		default:
			after = append(after, at)
		}
	}
	for _, t := range c.attempts {
		before = append(before, r.attempt(old, c, own, t))
	}
	r.want.Attempts = append(before, after...)
}

// attempt returns the observation of an attempt at the upstream: that of the attempt of old with
// the same number, because a stream that is resent has the same headers.
func (r *rewriter) attempt(old, c *course, own []Attempt, t tried) Attempt {
	i := slices.IndexFunc(old.attempts, func(o tried) bool { return o.number == t.number })
	var at Attempt
	switch {
	case i >= 0:
		at = own[i]
	case len(own) > 0:
		at = own[len(own)-1]
	default:
		at = Attempt{Case: c.name, Host: r.now.scenario.Upstream.Hosts[0].ID}
	}
	at.Step, at.Outcome, at.Headers = t.step.String(), "sent", maps.Clone(at.Headers)
	if t.cut {
		at.Outcome = "aborted_by_peer"
	}
	if at.Headers["x-envoy-attempt-count"] != "" {
		at.Headers["x-envoy-attempt-count"] = strconv.Itoa(t.number)
	}
	return at
}
