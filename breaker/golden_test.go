package breaker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestGolden replays recordings of the Ruby gem: on the core, which takes the time as an
// argument, and on the two ways in which programs use a Breaker, under a fake clock.
func TestGolden(t *testing.T) {
	traces := readTraces(t)
	same, different, failing := 0, 0, 0
	for _, tr := range traces {
		t.Run(tr.Name, func(t *testing.T) {
			changed := tr.applyRule(t)
			defer func() { // a failed replay ends the test
				switch {
				case t.Failed():
					failing++
				case changed:
					different++
				default:
					same++
				}
			}()
			t.Run("core", func(t *testing.T) { tr.replay(t, newCoreSubject(tr.Config), true) })
			if !tr.stepsBack() && tr.Config.config().check() == nil { // a real clock does not step back
				for name, subject := range realSubjects {
					t.Run(name, func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) { tr.replay(t, subject(t, tr.Config), true) })
					})
					// Reading the counters rolls the window, which can hide that a call does not.
					t.Run(name+" unseen", func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) { tr.replay(t, subject(t, tr.Config), false) })
					})
				}
			}
		})
	}
	if os.Getenv("PILLION_GOLDEN_EXPEDITOR") == "" && different == 0 {
		t.Error("got no trace that needs the rule for bucket edges, want one")
	}
	t.Logf("golden expeditor: %d cases, %d same, %d documented differences, 0 not yet, %d failing",
		len(traces), same, different, failing)
}

// trace is one recording of the gem. testdata/expeditor/README.md describes the fields.
type trace struct {
	Kind   string       `json:"kind"`
	Name   string       `json:"name"`
	Float  bool         `json:"float_edge"` // it depends on the gem's arithmetic
	Note   string       `json:"note"`
	Seed   int64        `json:"seed"`
	Config traceConfig  `json:"config"`
	Events []traceEvent `json:"events"`
}

type traceConfig struct {
	Threshold     *float64 `json:"threshold"`
	NonBreakCount *int     `json:"non_break_count"`
	SleepUS       *int64   `json:"sleep_us"`
	PeriodUS      *int64   `json:"period_us"`
}

type traceEvent struct {
	At   *int64  `json:"at"`
	Op   string  `json:"op"`
	Out  string  `json:"out"`
	ID   int     `json:"id"`
	Kind string  `json:"kind"`
	Ran  *bool   `json:"ran"`
	St   []int64 `json:"st"`
	Open *bool   `json:"open"`
}

// goldenFiles are the recordings that this package must reproduce.
var goldenFiles = []string{"breaker_scripted.jsonl", "breaker_random.jsonl", "breaker_float_quirks.jsonl"}

// traceResults maps the outcomes in traces to results.
var traceResults = map[string]Result{
	"success": Success, "failure": Failure, "fatal": Failure, "rejection": Rejection,
	"timeout": Timeout, "break": Break, "dependency": Dependency,
}

// readTraces reads all traces of the golden directory. It fails if there is none, or one that
// is invalid.
func readTraces(t *testing.T) []trace {
	t.Helper()
	dir := os.Getenv("PILLION_GOLDEN_EXPEDITOR")
	if dir == "" {
		dir = filepath.Join("testdata", "expeditor")
	}
	var traces []trace
	for _, name := range goldenFiles {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range bytes.Split(bytes.TrimSpace(text), []byte("\n")) {
			tr, err := parseTrace(line)
			if err != nil {
				t.Fatalf("%s:%d: %v", name, i+1, err)
			}
			traces = append(traces, tr)
		}
	}
	if len(traces) == 0 {
		t.Fatalf("%s: no traces", dir)
	}
	return traces
}

func parseTrace(line []byte) (trace, error) {
	var tr trace
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&tr); err != nil {
		return tr, err
	}
	if d.More() {
		return tr, errors.New("more than one value on a line")
	}
	if tr.Kind != "breaker" || tr.Name == "" || len(tr.Events) == 0 {
		return tr, fmt.Errorf("got a %q named %q with %d events, want a breaker with a name and events", tr.Kind, tr.Name, len(tr.Events))
	}
	for i, e := range tr.Events {
		if err := e.check(); err != nil {
			return tr, fmt.Errorf("%s: event %d: %w", tr.Name, i, err)
		}
	}
	return tr, nil
}

// check reports an event with a missing field, an extra field or an unknown word.
func (e traceEvent) check() error {
	_, knownOut := traceResults[e.Out]
	_, knownKind := traceResults[e.Kind]
	want := traceEvent{Op: e.Op}
	switch e.Op {
	case "run":
		want.Out, want.Ran = e.Out, e.Ran
	case "begin":
		want.ID, want.Ran = e.ID, e.Ran
	case "end":
		want.ID, want.Out = e.ID, e.Out
	case "record":
		want.Kind = e.Kind
	case "reset", "status":
	default:
		return fmt.Errorf("unknown op %q", e.Op)
	}
	switch {
	case (e.Op == "run" || e.Op == "end") && !knownOut:
		return fmt.Errorf("%s: unknown outcome %q", e.Op, e.Out)
	case e.Op == "record" && (!knownKind || e.Kind == "fatal"):
		return fmt.Errorf("record: unknown kind %q", e.Kind)
	case (e.Op == "begin" || e.Op == "end") && e.ID == 0:
		return fmt.Errorf("%s: no id", e.Op)
	case (e.Op == "run" || e.Op == "begin") && e.Ran == nil:
		return fmt.Errorf("%s: no ran", e.Op)
	case e.At == nil || e.Open == nil || len(e.St) != int(resultCount):
		return fmt.Errorf("%s: at, open or one of the six counters is missing", e.Op)
	case e.Out != want.Out || e.ID != want.ID || e.Kind != want.Kind || e.Ran != want.Ran:
		return fmt.Errorf("%s: a field that does not belong to it", e.Op)
	}
	return nil
}

func (e traceEvent) status() Status { return counts(e.St).status() }

func (e traceEvent) instant() time.Duration { return time.Duration(*e.At) * time.Microsecond }

// config returns the Config of a breaker like the recorded one.
func (c traceConfig) config() Config {
	cfg := Config{Name: "golden"}
	if c.Threshold != nil {
		cfg.Threshold = thresholdOf(*c.Threshold)
	}
	if c.NonBreakCount != nil {
		cfg.NonBreakCount = max(*c.NonBreakCount, 1) // the gem takes 0 for 1
	}
	if c.SleepUS != nil {
		cfg.Sleep = time.Duration(*c.SleepUS) * time.Microsecond
		if cfg.Sleep == 0 {
			cfg.Sleep = Zero
		}
	}
	if c.PeriodUS != nil {
		cfg.Period = time.Duration(*c.PeriodUS) * time.Microsecond
	}
	return cfg
}

// thresholdOf converts a threshold of the gem to a Threshold. Above 1 the gem's circuit never opens.
func thresholdOf(t float64) float64 {
	switch {
	case t == 0:
		return Zero
	case t > 1:
		return Never
	}
	return t
}

func (tr trace) stepsBack() bool {
	return !slices.IsSortedFunc(tr.Events, func(a, b traceEvent) int { return int(*a.At - *b.At) })
}

// has reports whether the trace has an event with one of the ops.
func (tr trace) has(ops ...string) bool {
	return slices.ContainsFunc(tr.Events, func(e traceEvent) bool { return slices.Contains(ops, e.Op) })
}

// subject is a breaker on which a trace is replayed.
type subject interface {
	advance(at time.Duration)
	// run makes a call that, if it is admitted, ends with out immediately.
	run(out string) (ran bool)
	// begin makes a call that, if it is admitted, ends when end is called.
	begin() (end func(out string), ran bool)
	record(r Result)
	reset()
	look() (Status, bool)
}

// replay applies the trace's events to s. If looks is set it compares the counters and the flag
// after each event, else only after the last one.
func (tr trace) replay(t *testing.T, s subject, looks bool) {
	t.Helper()
	flying := map[int]func(string){}
	for i, e := range tr.Events {
		if ran := happen(t, s, e, flying); e.Ran != nil && ran != *e.Ran {
			t.Fatalf("event %d, %s at %v: got ran %t, want %t", i, e.Op, e.instant(), ran, *e.Ran)
		}
		if !looks && i < len(tr.Events)-1 {
			continue
		}
		if st, open := s.look(); st != e.status() || open != *e.Open {
			t.Fatalf("event %d, %s at %v: got %+v, open %t, want %+v, open %t",
				i, e.Op, e.instant(), st, open, e.status(), *e.Open)
		}
	}
	for _, end := range flying { // no real call may remain
		end("success")
	}
}

// happen applies one event to s.
func happen(t *testing.T, s subject, e traceEvent, flying map[int]func(string)) (ran bool) {
	t.Helper()
	s.advance(e.instant())
	switch e.Op {
	case "run":
		return s.run(e.Out)
	case "begin":
		end, ran := s.begin()
		if ran {
			flying[e.ID] = end
		}
		return ran
	case "end":
		end, ok := flying[e.ID]
		if !ok {
			t.Fatalf("end of call %d, which is not in progress", e.ID)
		}
		end(e.Out)
		delete(flying, e.ID)
	case "record":
		s.record(traceResults[e.Kind])
	case "reset":
		s.reset()
	}
	return false
}

// TestParseTrace checks that invalid traces are rejected: a replay that skips what it does not
// know proves nothing.
func TestParseTrace(t *testing.T) {
	const head, tail = `{"kind":"breaker","name":"n","config":{},"events":[`, `]}`
	const seen = `"at":1,"st":[0,0,0,0,0,0],"open":false`
	tests := map[string]struct {
		line string
		want string // part of the error; empty for none
	}{
		"good":              {head + `{"op":"run","out":"fatal","ran":true,` + seen + `}` + tail, ""},
		"empty":             {"", "EOF"},
		"two on a line":     {head + `{"op":"status",` + seen + `}` + tail + "{}", "more than one value"},
		"another kind":      {`{"kind":"command","name":"n","events":[{}]}`, `got a "command"`},
		"no events":         {head + tail, "0 events"},
		"unknown field":     {head + `{"op":"status","new":1,` + seen + `}` + tail, `unknown field "new"`},
		"unknown setting":   {`{"kind":"breaker","name":"n","config":{"new":1}}`, `unknown field "new"`},
		"unknown op":        {head + `{"op":"new",` + seen + `}` + tail, `unknown op "new"`},
		"unknown outcome":   {head + `{"op":"run","out":"new","ran":true,` + seen + `}` + tail, `unknown outcome "new"`},
		"unknown kind":      {head + `{"op":"record","kind":"fatal",` + seen + `}` + tail, `unknown kind "fatal"`},
		"begin without ran": {head + `{"op":"begin","id":1,` + seen + `}` + tail, "no ran"},
		"end without id":    {head + `{"op":"end","out":"success",` + seen + `}` + tail, "no id"},
		"status with ran":   {head + `{"op":"status","ran":true,` + seen + `}` + tail, "does not belong"},
		"seven counters":    {head + `{"op":"status","at":1,"st":[0,0,0,0,0,0,0],"open":false}` + tail, "missing"},
		"no instant":        {head + `{"op":"status","st":[0,0,0,0,0,0],"open":false}` + tail, "missing"},
		"not whether open":  {head + `{"op":"status","at":1,"st":[0,0,0,0,0,0]}` + tail, "missing"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := parseTrace([]byte(tt.line))
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want one with %q", err, tt.want)
			}
		})
	}
}
