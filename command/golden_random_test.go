package command

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion/internal/raceflag"
)

// TestRules_randomTraces checks the rules on random traces: the model of the gem takes the
// place of the recording, the rules change the expectations, and the commands must meet them.
// A trace is left out if its result depends on which of several threads runs first.
func TestRules_randomTraces(t *testing.T) {
	traces := 250
	if raceflag.Enabled { // the model is one thread, and slow there
		traces = 40
	}
	open, different := 0, 0
	for seed := range uint64(traces) {
		tr := randomTrace(rand.New(rand.NewPCG(seed, 9)))
		if tr.ambiguous(gems) || tr.ambiguous(ours()) {
			open++
			continue
		}
		tr.record()
		gem, mine := tr.outcome(), playOutcome(tr, ours())
		if !gocmp.Equal(gem, mine) {
			different++
			tr.expect(gem, mine)
		}
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			defer func() { // a replay that fails ends the test
				if t.Failed() {
					text, _ := json.Marshal(tr)
					t.Logf("the rules %q apply to %s", needed(tr, gem, mine), text)
				}
			}()
			synctest.Test(t, func(t *testing.T) { replay(t, tr) })
		})
	}
	t.Logf("%d traces, %d left out, %d with differences", traces, open, different)
	if open > traces/4 || different < traces/4 {
		t.Errorf("got %d of %d traces left out and %d with differences, want at most a quarter, and more than that", open, traces, different)
	}
}

// ambiguous reports whether what is seen depends on which process runs first.
func (tr *trace) ambiguous(as conduct) bool {
	first := playOutcome(tr, as)
	for as.order = 1; as.order <= 8; as.order++ {
		if !gocmp.Equal(first, playOutcome(tr, as)) {
			return true
		}
	}
	return false
}

// record sets the expectations to what the model of the gem sees.
func (tr *trace) record() {
	seen, log := play(tr, gems)
	for i := range tr.Actions {
		tr.Actions[i].Expect = nil
		if tr.sees(i) {
			tr.Actions[i].Expect = seen[i]
		}
	}
	tr.LogByCommand = map[string][]json.RawMessage{}
	for _, entry := range log {
		text, _ := json.Marshal(entry)
		id := entry.([]any)[1].(string)
		tr.LogByCommand[id] = append(tr.LogByCommand[id], text)
	}
}

// sees reports whether something of an action is seen.
func (tr *trace) sees(i int) bool { return seen[tr.Actions[i].Op] }

// tracer makes a random trace.
type tracer struct {
	*rand.Rand
	tr    *trace
	gates []string
}

func one[E any](r *tracer, of ...E) E { return of[r.IntN(len(of))] }

// chance returns true with the given percentage.
func (r *tracer) chance(percent int) bool { return r.IntN(100) < percent }

func (r *tracer) act(op, cmd string) *traceAction {
	r.tr.Actions = append(r.tr.Actions, traceAction{Op: op, Cmd: cmd})
	a := &r.tr.Actions[len(r.tr.Actions)-1]
	if seen[op] {
		a.Expect = &expectation{} // for the model to fill in
	}
	return a
}

func (r *tracer) act2(op, service string) *traceAction {
	a := r.act(op, "")
	a.Service = service
	return a
}

func randomTrace(rnd *rand.Rand) *trace {
	r := &tracer{Rand: rnd, tr: &trace{Kind: "command", Services: map[string]traceService{}, LogByCommand: map[string][]json.RawMessage{}}}
	services := []string{"s", "t"}[:1+r.IntN(2)]
	for _, s := range services {
		r.tr.Services[s] = r.service()
	}
	for i := range 2 + r.IntN(7) {
		r.tr.Commands = append(r.tr.Commands, r.command(i, services))
	}
	r.calm()
	r.hooks()
	for _, i := range r.Perm(len(r.tr.Commands)) {
		r.starts(r.tr.Commands[i], services)
	}
	r.look(services)
	for _, g := range r.gates {
		r.act("open", "").Gate = g
		r.act("settle", "")
	}
	r.look(services)
	return r.tr
}

// calm makes sure that no breaker opens while dependencies run concurrently: otherwise a
// refusal would depend on which of them is counted first.
func (r *tracer) calm() {
	if !slices.ContainsFunc(r.tr.Commands, func(c traceCommand) bool { return len(c.Deps) > 1 }) {
		return
	}
	for name, s := range r.tr.Services {
		s.Threshold, s.NonBreakCount = nil, nil
		r.tr.Services[name] = s
	}
}

func (r *tracer) service() traceService {
	var text string
	if r.chance(70) {
		text = fmt.Sprintf(`"pool": {"max_threads": %d, "max_queue": %d, "overflow": %q}`,
			1+r.IntN(2), one(r, 0, 1, 1, 2), one(r, "abort", "abort", "discard", "caller_runs"))
	} else {
		text = fmt.Sprintf(`"threshold": 0.5, "non_break_count": %d`, 1+r.IntN(4))
	}
	var s traceService
	if err := json.Unmarshal([]byte(`{`+text+`}`), &s); err != nil {
		panic(err)
	}
	if enabled := !r.chance(20); r.chance(50) {
		s.FallbackEnabled = &enabled
	}
	return s
}

func (r *tracer) command(i int, services []string) traceCommand {
	c := traceCommand{ID: fmt.Sprint("c", i), Service: one(r, append(services, services...)...)}
	if r.chance(10) {
		c.Service = ""
	}
	switch {
	case i > 0 && r.chance(40):
		for _, d := range r.Perm(i)[:1+r.IntN(min(i, 7))] {
			c.Deps = append(c.Deps, fmt.Sprint("c", d))
		}
		c.LogArgs = r.chance(50)
	case i > 0 && r.chance(10):
		c.ChainOf = fmt.Sprint("c", r.IntN(i))
	}
	for range 1 + r.IntN(3) {
		c.Body = append(c.Body, r.steps(c.Deps != nil))
	}
	if r.chance(40) {
		c.Fallback = r.steps(false)
		if r.chance(20) {
			c.Fallback = []traceStep{{Reraise: true}}
		}
	}
	return c
}

// steps returns the steps of a body or a fallback. A gate is opened for one command only.
func (r *tracer) steps(deps bool) (steps []traceStep) {
	if r.chance(35) {
		r.gates = append(r.gates, fmt.Sprint("g", len(r.gates)))
		steps = append(steps, traceStep{Gate: r.gates[len(r.gates)-1]})
	}
	switch kind := one(r, "A", "B", "A1", "fatal", "timeout", "rejection", "break", "dependency"); {
	case r.chance(50):
		return append(steps, traceStep{Ret: json.RawMessage(strconv.Itoa(r.IntN(5)))})
	case deps && r.chance(40):
		return append(steps, traceStep{Args: true})
	case r.chance(10):
		return append(steps, traceStep{Swallow: []traceStep{{Raise: kind}}}, traceStep{Ret: json.RawMessage(`"swallowed"`)})
	case kind != "dependency" && r.chance(50):
		return append(steps, traceStep{Raise: kind, Msg: one(r, "m0", "m1")})
	default:
		return append(steps, traceStep{Raise: kind})
	}
}

func (r *tracer) hooks() {
	for _, c := range r.tr.Commands {
		for i := range r.IntN(3) {
			a := r.act("hook", c.ID)
			a.Hook, a.Name, a.Raises = one(r, "success", "failure", "complete"), fmt.Sprint("h", i), r.chance(15)
		}
	}
}

// starts starts a command, with some other actions.
func (r *tracer) starts(c traceCommand, services []string) {
	a := r.act("start", c.ID)
	a.CurrentThread = r.chance(15)
	if r.chance(35) {
		a.Retry = r.retry()
	}
	r.act("settle", "")
	s := one(r, services...)
	switch r.IntN(10) {
	case 0:
		r.act("start", c.ID)
	case 1:
		r.act2("shutdown", s)
	case 2:
		r.act2("fallback_enabled", s).Value = one(r, json.RawMessage("true"), json.RawMessage("false"))
	case 3:
		r.act(one(r, "get", "wait", "started"), one(r, r.tr.Commands...).ID)
	case 4:
		r.act2("run_if_allowed", s).Body = []traceStep{{Raise: one(r, "A", "fatal")}}
	case 5:
		r.act("advance", "").US = one(r, int64(1), 1_000_001, 10_000_000)
	}
}

func (r *tracer) retry() *traceRetry {
	q := &traceRetry{
		Tries: json.RawMessage(one(r, "0", "1", "2", "3")), Sleep: json.RawMessage(one(r, "0", "100", "1000", `"linear"`, `"pow2"`)),
		CB: r.chance(40), Bogus: r.chance(5), SleepRaises: r.chance(15),
	}
	if r.chance(30) {
		q.On = one(r, words{"A"}, words{"A", "break"}, words{"any"}, words{"standard"}, words{"timeout", "B"})
	}
	if r.chance(20) {
		q.Not = one(r, words{"A1"}, words{"break"}, words{"A"})
	}
	if r.chance(25) {
		q.Matching = json.RawMessage(one(r, `"m1"`, `["m0", "failed"]`, `"Break"`, `"circuit"`, `{"Regexp": "^m|open$"}`))
	}
	return q
}

// look reads everything.
func (r *tracer) look(services []string) {
	r.act("settle", "")
	for _, c := range r.tr.Commands {
		if r.chance(70) {
			r.act(one(r, "get", "wait", "started"), c.ID)
		}
	}
	for _, s := range services {
		r.act2("status", s)
	}
}
