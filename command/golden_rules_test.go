package command

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"
)

// rule is a documented difference: it changes what is expected of the traces whose
// input asks for it. docs/expeditor.md has each by its name, with the reason.
type rule struct {
	name  string
	apply func(tr *trace)
}

var rules = []rule{
	{"a second start", secondStart},
	{"tries: 0", zeroTries},
	{"an error within the wait", raisingSleep},
	{"a hook that raises in the current thread", raisingHook},
	{"a sixth dependency that fails", sixthDependency},
	{"a dependency that dies", dyingDependency},
	{"a rejected command with a fallback", rejectedFallback},
	{"the discard policy", discard},
}

// applyRules changes what is expected of tr, and reports whether it did.
func applyRules(t *testing.T, tr *trace, used map[string]bool) (changed bool) {
	t.Helper()
	for _, r := range rules {
		before, err := json.Marshal(tr)
		if err != nil {
			t.Fatal(err)
		}
		r.apply(tr)
		if after, _ := json.Marshal(tr); !bytes.Equal(before, after) {
			used[r.name], changed = true, true
		}
	}
	return changed
}

// actions gives those on a command.
func (tr *trace) actions(id string, ops ...string) []*traceAction {
	var found []*traceAction
	for i := range tr.Actions {
		if a := &tr.Actions[i]; a.Cmd == id && slices.Contains(ops, a.Op) {
			found = append(found, a)
		}
	}
	return found
}

// addLog puts an entry where the trace logs, behind all others.
func (tr *trace) addLog(id, entry string) {
	if tr.LogByCommand != nil {
		tr.LogByCommand[id] = append(tr.LogByCommand[id], json.RawMessage(entry))
		return
	}
	tr.Log = append(tr.Log, json.RawMessage(entry))
}

// secondStart: a start of what has been started says so.
func secondStart(tr *trace) {
	started := map[string]bool{}
	var start func(id string)
	start = func(id string) {
		c := tr.command(id)
		for _, d := range append(slices.Clone(c.Deps), c.ChainOf) {
			if d != "" && !started[id] {
				start(d)
			}
		}
		started[id] = true
	}
	for i := range tr.Actions {
		a := &tr.Actions[i]
		if a.Op != "start" {
			continue
		}
		if started[a.Cmd] || tr.command(a.Cmd).Const != nil {
			a.Expect = &expectation{Error: "already_started"}
		}
		start(a.Cmd)
	}
}

// zeroTries: zero is the default, as for the policy, and so the work runs.
func zeroTries(tr *trace) {
	for _, a := range tr.Actions {
		if a.Op != "start" || a.Retry == nil || string(a.Retry.Tries) != "0" {
			continue
		}
		first := tr.command(a.Cmd).Body[0][0]
		if first.Ret == nil {
			continue // what the default then does is in other traces
		}
		for _, get := range tr.actions(a.Cmd, "get") {
			get.Expect = &expectation{Value: first.Ret}
		}
		tr.addLog(a.Cmd, `["attempt","`+a.Cmd+`",1]`)
	}
}

// raisingSleep: what the wait panics with ends the command, and is not dropped.
func raisingSleep(tr *trace) {
	for _, a := range tr.Actions {
		if a.Op != "start" || a.Retry == nil || !a.Retry.SleepRaises {
			continue
		}
		for _, get := range tr.actions(a.Cmd, "get") {
			get.Expect = &expectation{Error: "A", Msg: "a failed"}
		}
		for i := range tr.Actions {
			if s := &tr.Actions[i]; s.Op == "status" {
				s.Expect.St = []int64{0, 1, 0, 0, 0, 0}
			}
		}
		tr.Log = tr.Log[:2] // the first attempt, and the wait
	}
}

// raisingHook: it is reported, and the start is as good as the work.
func raisingHook(tr *trace) {
	for i := range tr.Actions {
		a := &tr.Actions[i]
		if a.Op == "start" && a.CurrentThread && a.Expect.Error == "multiple_assignment" {
			a.Expect = &expectation{Value: json.RawMessage(`"self"`)}
		}
	}
}

// sixthDependency: no failure has to wait for one of five waiters.
func sixthDependency(tr *trace) {
	for _, c := range tr.Commands {
		if len(c.Deps) < 6 {
			continue
		}
		gets := tr.actions(c.ID, "get", "wait")
		last := gets[len(gets)-1].Expect
		for _, get := range gets {
			if get.Expect.Hang && last.Error == "dependency" {
				get.Expect = last
			}
		}
	}
}

// dyingDependency: a panic fails the parent like any other failure.
func dyingDependency(tr *trace) {
	for _, c := range tr.Commands {
		for _, d := range c.Deps {
			if !dies(tr.command(d)) {
				continue
			}
			for _, get := range tr.actions(c.ID, "get") {
				get.Expect = &expectation{Error: "dependency", Msg: "command: panic: fatal", Inner: &expectation{Error: "fatal", Msg: "fatal"}}
			}
			for i := range tr.Actions {
				if s := &tr.Actions[i]; s.Op == "status" {
					s.Expect.St = []int64{s.Expect.St[0] - 1, s.Expect.St[1], 0, 0, 0, s.Expect.St[5] + 1}
				}
			}
			delete(tr.LogByCommand, c.ID) // its work does not run
		}
	}
}

func dies(c *traceCommand) bool {
	return c.Fallback == nil && len(c.Body) > 0 && c.Body[0][0].Raise == "fatal"
}

// rejectedFallback: the fallback runs in the starter's goroutine.
func rejectedFallback(tr *trace) {
	for _, c := range tr.Commands {
		if c.Fallback == nil {
			continue
		}
		calls := tr.actions(c.ID, "wait", "get")
		shut := slices.ContainsFunc(tr.Actions, func(a traceAction) bool { return a.Op == "shutdown" && a.Service == c.Service })
		if !shut || !slices.ContainsFunc(calls, func(a *traceAction) bool { return a.Expect.Hang }) {
			continue
		}
		for _, call := range calls {
			call.Expect = &expectation{Value: c.Fallback[0].Ret}
			if call.Op == "wait" {
				call.Expect = &expectation{Value: json.RawMessage(`"done"`)}
			}
		}
		tr.addLog(c.ID, `["fallback","`+c.ID+`","rejection"]`)
	}
}

// discard: the command ends, but still nobody counts it.
func discard(tr *trace) {
	for _, s := range tr.Services {
		if s.Pool == nil || s.Pool.Overflow != Discard {
			continue
		}
		for i := range tr.Actions {
			if a := &tr.Actions[i]; a.Op == "get" && a.Expect.Hang {
				a.Expect = &expectation{Error: "rejection"}
			}
		}
	}
}
