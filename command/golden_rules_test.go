package command

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// rule is a documented difference: a behavior of the model that can be this package's or the
// gem's. docs/expeditor.md has each rule by its name, with the reason. What a rule changes
// follows from playing a trace with it and without it, for any trace.
type rule struct {
	name string
	flag func(*conduct) *bool
}

var rules = []rule{
	{"a second start", func(c *conduct) *bool { return &c.secondStart }},
	{"tries: 0", func(c *conduct) *bool { return &c.zeroTries }},
	{"an error within the wait", func(c *conduct) *bool { return &c.raisingSleep }},
	{"a hook that raises within the start", func(c *conduct) *bool { return &c.raisingHook }},
	{"a sixth dependency that fails", func(c *conduct) *bool { return &c.sixthDependency }},
	{"a dependency that dies", func(c *conduct) *bool { return &c.dyingDependency }},
	{"a fallback and the pool", func(c *conduct) *bool { return &c.ownFallback }},
	{"the discard policy", func(c *conduct) *bool { return &c.discard }},
	{"waiting for dependencies", func(c *conduct) *bool { return &c.parked }},
	{"an overflow policy after a shutdown", func(c *conduct) *bool { return &c.shutdown }},
	{"a caller that runs a command", func(c *conduct) *bool { return &c.freePool }},
	{"matching and a refusal", func(c *conduct) *bool { return &c.refusalText }},
	{"a start that is under way", func(c *conduct) *bool { return &c.startedFirst }},
	{"get with fallbacks switched off", func(c *conduct) *bool { return &c.patientGet }},
}

// gems is how the gem behaves, with the clock of a replay.
var gems = conduct{oneClock: true}

// ours is how this package behaves: with all rules.
func ours() conduct {
	c := gems
	for _, r := range rules {
		*r.flag(&c) = true
	}
	return c
}

// with returns c with one rule inverted.
func (r rule) with(c conduct) conduct {
	s := r.flag(&c)
	*s = !*s
	return c
}

// applyRules changes the expectations of tr as the rules say, and returns the names of the
// rules that make a difference. The rules apply to a trace that the model of the gem explains:
// the model sees what was recorded.
func applyRules(t *testing.T, tr *trace) (used []string) {
	t.Helper()
	recorded := tr.outcome()
	gem, mine := playOutcome(tr, gems), playOutcome(tr, ours())
	if diff := gocmp.Diff(recorded, gem); diff != "" {
		t.Logf("%s: the model of the gem sees something else (-recorded +model):\n%s", tr.Name, diff)
		return nil
	}
	if gocmp.Equal(gem, mine) {
		return nil
	}
	used = needed(tr, gem, mine)
	tr.expect(recorded, mine)
	return used
}

// needed returns the rules that make a difference to a trace, alone or with the others.
func needed(tr *trace, gem, mine traceOutcome) (names []string) {
	for _, r := range rules {
		if !gocmp.Equal(gem, playOutcome(tr, r.with(gems))) || !gocmp.Equal(mine, playOutcome(tr, r.with(ours()))) {
			names = append(names, r.name)
		}
	}
	return names
}

// traceOutcome is what is seen of a trace, without the texts of the gem's own errors.
type traceOutcome struct {
	Seen []any
	Log  map[string][]any
}

// outcome is what was recorded.
func (tr *trace) outcome() traceOutcome {
	var o traceOutcome
	for _, a := range tr.Actions {
		o.Seen = append(o.Seen, plainOf(a.Expect))
	}
	var log []any
	for _, entry := range tr.Log {
		log = append(log, decode(entry))
	}
	for _, entries := range tr.LogByCommand {
		for _, entry := range entries {
			log = append(log, decode(entry))
		}
	}
	o.Log = tr.sortLog(log)
	return o
}

// playOutcome is what the model sees.
func playOutcome(tr *trace, as conduct) traceOutcome {
	seen, log := play(tr, as)
	o := traceOutcome{Log: tr.sortLog(log)}
	for i, e := range seen {
		if tr.Actions[i].Expect == nil {
			e = nil
		}
		o.Seen = append(o.Seen, plainOf(e))
	}
	return o
}

// sortLog sorts the log as the trace does: all together, or command by command.
func (tr *trace) sortLog(log []any) map[string][]any {
	sorted := map[string][]any{}
	for _, entry := range log {
		key := tr.logKey(entry.([]any))
		sorted[key] = append(sorted[key], normal(entry))
	}
	return sorted
}

// logKey is the list to which an entry belongs. Ensure of work with a timeout has a list of
// its own: when the timeout fires the command ends beside the work.
func (tr *trace) logKey(entry []any) string {
	id := entry[1].(string)
	switch {
	case entry[0] == "ensure" && tr.command(id).TimeoutMS > 0:
		return "ensure " + id
	case tr.LogByCommand != nil:
		return id
	}
	return ""
}

// plainOf returns an expectation without the texts of the gem's own errors.
func plainOf(e *expectation) any {
	if e == nil {
		return nil
	}
	plain := *e
	plain.Msg = strings.TrimPrefix(plain.Msg, "command: panic: ") // which is ours
	if plain.gemsText() {
		plain.Msg = ""
	}
	var inner any
	if e.Inner != nil {
		inner = plainOf(e.Inner)
	}
	plain.Inner = nil
	return []any{normal(&plain), inner}
}

// gemsText reports whether the message is that of one of the gem's own errors, or of the
// corresponding error here.
func (e *expectation) gemsText() bool {
	if e.Error != "dependency" {
		return !slices.Contains([]string{"A", "B", "A1", "fatal"}, e.Error)
	}
	return e.Inner == nil || e.Inner.gemsText()
}

// expect changes the expectations as the rules say.
func (tr *trace) expect(recorded, mine traceOutcome) {
	seen, log := play(tr, ours())
	for i := range tr.Actions {
		if !gocmp.Equal(recorded.Seen[i], mine.Seen[i]) {
			tr.Actions[i].Expect = seen[i]
		}
	}
	if gocmp.Equal(recorded.Log, mine.Log) {
		return
	}
	byCommand := tr.LogByCommand != nil
	tr.Log, tr.LogByCommand = nil, nil
	if byCommand {
		tr.LogByCommand = map[string][]json.RawMessage{}
	}
	for _, entry := range log {
		text, err := json.Marshal(entry)
		if err != nil {
			panic(err) // it came from JSON
		}
		if id := entry.([]any)[1].(string); byCommand {
			tr.LogByCommand[id] = append(tr.LogByCommand[id], text)
		} else {
			tr.Log = append(tr.Log, text)
		}
	}
}

// TestRules_explainTheRecordings checks that the model of the gem sees exactly what was
// recorded of each trace. Otherwise the rules would say nothing about it.
func TestRules_explainTheRecordings(t *testing.T) {
	for _, tr := range readTraces(t) {
		if diff := gocmp.Diff(tr.outcome(), playOutcome(tr, gems)); diff != "" {
			t.Errorf("%s (-recorded +model):\n%s", tr.Name, diff)
		}
	}
}
