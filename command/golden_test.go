package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
)

// goldenEnv names another directory to replay, in place of testdata/expeditor.
const goldenEnv = "PILLION_GOLDEN_EXPEDITOR"

// goldenFiles are the recordings with which this package must agree. The traces of
// differencesFile were recorded to show the differences; most of the others must be the same.
var goldenFiles = []string{"commands.jsonl", "commands_random.jsonl", differencesFile}

const differencesFile = "commands_differences.jsonl"

// TestGolden replays what the Ruby gem did, with a fake clock. A trace that no rule covers
// must be the same; a trace that a rule covers must be as the rule says.
func TestGolden(t *testing.T) {
	traces := readTraces(t)
	same, different, failing, elsewhere := 0, 0, 0, 0
	used := map[string]bool{}
	for _, tr := range traces {
		t.Run(tr.Name, func(t *testing.T) {
			needed := applyRules(t, tr)
			for _, name := range needed {
				used[name] = true
			}
			defer func() { // a replay that fails ends the test
				switch {
				case t.Failed():
					failing++
				case needed == nil:
					same++
				default:
					different++
					if tr.file != differencesFile {
						elsewhere++
					}
				}
			}()
			synctest.Test(t, func(t *testing.T) { replay(t, tr) })
		})
	}
	if os.Getenv(goldenEnv) == "" {
		for _, r := range rules {
			if !used[r.name] {
				t.Errorf("no trace needs the rule %q", r.name)
			}
		}
		if elsewhere > 8 {
			t.Errorf("got %d differences in traces that were not recorded for them, want at most 8", elsewhere)
		}
	}
	t.Logf("golden expeditor commands: %d cases, %d same, %d documented differences, 0 not yet, %d failing",
		len(traces), same, different, failing)
}

// trace is one recording of the gem. testdata/expeditor/README.md explains the fields.
type trace struct {
	file string

	Kind         string                         `json:"kind,omitempty"`
	Name         string                         `json:"name,omitempty"`
	Note         string                         `json:"note,omitempty"`
	Seed         int64                          `json:"seed,omitempty"`
	Quirk        bool                           `json:"quirk,omitempty"`
	RealTime     bool                           `json:"real_time,omitempty"`
	FloatEdge    bool                           `json:"float_edge,omitempty"`
	Ordered      *bool                          `json:"ordered,omitempty"`
	Services     map[string]traceService        `json:"services,omitempty"`
	Commands     []traceCommand                 `json:"commands,omitempty"`
	Actions      []traceAction                  `json:"actions,omitempty"`
	Log          []json.RawMessage              `json:"log,omitempty"`
	LogByCommand map[string]([]json.RawMessage) `json:"log_by_command,omitempty"`
}

type traceService struct {
	Threshold       *float64 `json:"threshold,omitempty"`
	NonBreakCount   *int     `json:"non_break_count,omitempty"`
	SleepUS         *int64   `json:"sleep_us,omitempty"`
	PeriodUS        *int64   `json:"period_us,omitempty"`
	FallbackEnabled *bool    `json:"fallback_enabled,omitempty"`
	Pool            *struct {
		MaxThreads int      `json:"max_threads,omitempty"`
		MaxQueue   int      `json:"max_queue,omitempty"`
		Overflow   Overflow `json:"overflow,omitempty"`
	} `json:"pool,omitempty"`
}

type traceCommand struct {
	ID        string          `json:"id,omitempty"`
	Service   string          `json:"service,omitempty"`
	TimeoutMS int64           `json:"timeout_ms,omitempty"`
	Deps      []string        `json:"deps,omitempty"`
	Body      [][]traceStep   `json:"body,omitempty"`
	Fallback  []traceStep     `json:"fallback,omitempty"`
	Const     json.RawMessage `json:"const,omitempty"`
	ChainOf   string          `json:"chain_of,omitempty"`
	LogArgs   bool            `json:"log_args,omitempty"`
}

// traceStep has one of these fields.
type traceStep struct {
	Ret       json.RawMessage `json:"ret,omitempty"`
	Raise     string          `json:"raise,omitempty"`
	Msg       string          `json:"msg,omitempty"`
	Inner     json.RawMessage `json:"inner,omitempty"`
	Gate      string          `json:"gate,omitempty"`
	Open      string          `json:"open,omitempty"`
	Hang      bool            `json:"hang,omitempty"`
	SleepMS   int64           `json:"sleep_ms,omitempty"`
	AdvanceUS int64           `json:"advance_us,omitempty"`
	Sum       bool            `json:"sum,omitempty"`
	Args      bool            `json:"args,omitempty"`
	Add       float64         `json:"add,omitempty"`
	Reraise   bool            `json:"reraise,omitempty"`
	Swallow   []traceStep     `json:"swallow,omitempty"`
}

type traceAction struct {
	Op            string          `json:"op,omitempty"`
	Cmd           string          `json:"cmd,omitempty"`
	Service       string          `json:"service,omitempty"`
	CurrentThread bool            `json:"current_thread,omitempty"`
	Retry         *traceRetry     `json:"retry,omitempty"`
	Fallback      []traceStep     `json:"fallback,omitempty"`
	Hook          string          `json:"hook,omitempty"`
	Name          string          `json:"name,omitempty"`
	Raises        bool            `json:"raises,omitempty"`
	Kind          string          `json:"kind,omitempty"`
	Value         json.RawMessage `json:"value,omitempty"`
	Body          []traceStep     `json:"body,omitempty"`
	Gate          string          `json:"gate,omitempty"`
	US            int64           `json:"us,omitempty"`
	Expect        *expectation    `json:"expect,omitempty"`
}

type traceRetry struct {
	Tries       json.RawMessage `json:"tries,omitempty"`
	Sleep       json.RawMessage `json:"sleep,omitempty"`
	On          words           `json:"on,omitempty"`
	Not         words           `json:"not,omitempty"`
	Matching    json.RawMessage `json:"matching,omitempty"`
	CB          bool            `json:"cb,omitempty"`
	Bogus       bool            `json:"bogus,omitempty"`
	SleepRaises bool            `json:"sleep_raises,omitempty"`
	RealSleep   bool            `json:"real_sleep,omitempty"`
}

// words is a word or a list of words.
type words []string

func (w *words) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*w = words{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(w))
}

// expectation is what was seen of an action. A nil St and an empty Error mean that
// nothing was seen.
type expectation struct {
	Value json.RawMessage `json:"value,omitempty"`
	Error string          `json:"error,omitempty"`
	Msg   string          `json:"msg,omitempty"`
	Inner *expectation    `json:"inner,omitempty"`
	Hang  bool            `json:"hang,omitempty"`
	St    []int64         `json:"st,omitempty"`
	Open  *bool           `json:"open,omitempty"`
}

func readTraces(t *testing.T) []*trace {
	t.Helper()
	dir := os.Getenv(goldenEnv)
	if dir == "" {
		dir = filepath.Join("testdata", "expeditor")
	}
	var traces []*trace
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
			tr.file = name
			traces = append(traces, tr)
		}
	}
	if len(traces) == 0 {
		t.Fatalf("%s: no traces", dir)
	}
	return traces
}

func parseTrace(line []byte) (*trace, error) {
	tr := &trace{}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(tr); err != nil {
		return nil, err
	}
	if d.More() {
		return nil, errors.New("more than one value on a line")
	}
	if tr.Kind != "command" || tr.Name == "" || len(tr.Actions) == 0 {
		return nil, fmt.Errorf("got a %q named %q with %d actions, want a command with a name and actions",
			tr.Kind, tr.Name, len(tr.Actions))
	}
	for i, a := range tr.Actions {
		if err := a.check(tr); err != nil {
			return nil, fmt.Errorf("%s: action %d: %w", tr.Name, i, err)
		}
	}
	for _, c := range tr.Commands {
		for _, steps := range append(c.Body, c.Fallback) {
			if err := checkSteps(steps); err != nil {
				return nil, fmt.Errorf("%s: command %s: %w", tr.Name, c.ID, err)
			}
		}
	}
	return tr, nil
}

// seen says for each op whether something was seen.
var seen = map[string]bool{
	"start": true, "wait": true, "get": true, "started": true, "set_fallback": true, "hook": true,
	"status": true, "run_if_allowed": true,
	"reset": false, "shutdown": false, "fallback_enabled": false, "record": false, "open": false, "entered": false,
	"advance": false, "settle": false,
}

// check reports an unknown or incomplete action.
func (a traceAction) check(tr *trace) error {
	expects, known := seen[a.Op]
	switch {
	case !known:
		return fmt.Errorf("unknown op %q", a.Op)
	case expects != (a.Expect != nil):
		return fmt.Errorf("%s: an expectation that is missing, or too much", a.Op)
	case a.Op == "status" && (len(a.Expect.St) != 6 || a.Expect.Open == nil):
		return errors.New("status: one of the six counters is missing, or open")
	}
	if _, ok := tr.Services[a.Service]; a.Service != "" && !ok {
		return fmt.Errorf("%s: unknown service %q", a.Op, a.Service)
	}
	if a.Cmd != "" && tr.command(a.Cmd) == nil {
		return fmt.Errorf("%s: unknown command %q", a.Op, a.Cmd)
	}
	if a.Retry != nil {
		for _, w := range append(a.Retry.On, a.Retry.Not...) {
			if _, ok := kinds[w]; !ok && w != "standard" && w != "any" {
				return fmt.Errorf("unknown kind %q in a retry list", w)
			}
		}
	}
	return checkSteps(append(a.Body, a.Fallback...))
}

func checkSteps(steps []traceStep) error {
	for _, s := range steps {
		if _, ok := kinds[s.Raise]; s.Raise != "" && !ok {
			return fmt.Errorf("unknown kind %q", s.Raise)
		}
		if cmp.Equal(s, traceStep{}) {
			return errors.New("an empty step")
		}
		if err := checkSteps(s.Swallow); err != nil {
			return err
		}
	}
	return nil
}

func (tr *trace) command(id string) *traceCommand {
	for i := range tr.Commands {
		if tr.Commands[i].ID == id {
			return &tr.Commands[i]
		}
	}
	return nil
}

// TestParseTrace has traces with errors, which the parser must report: a replay that skips
// what it does not know proves nothing.
func TestParseTrace(t *testing.T) {
	const head, tail = `{"kind":"command","name":"n","services":{"s":{}},"commands":[{"id":"a","body":[[{"ret":1}]]}],"actions":[`, `]}`
	tests := map[string]struct {
		line string
		want string // part of the error; empty for none
	}{
		"good":               {head + `{"op":"start","cmd":"a","expect":{"value":"self"}}` + tail, ""},
		"empty":              {"", "EOF"},
		"two on a line":      {head + `{"op":"settle"}` + tail + "{}", "more than one value"},
		"another kind":       {`{"kind":"breaker","name":"n","actions":[{}]}`, `got a "breaker"`},
		"no actions":         {head + tail, "0 actions"},
		"unknown field":      {head + `{"op":"settle","new":1}` + tail, `unknown field "new"`},
		"unknown op":         {head + `{"op":"new"}` + tail, `unknown op "new"`},
		"unknown command":    {head + `{"op":"entered","cmd":"b"}` + tail, `unknown command "b"`},
		"unknown service":    {head + `{"op":"reset","service":"t"}` + tail, `unknown service "t"`},
		"unknown option":     {head + `{"op":"start","cmd":"a","retry":{"new":1},"expect":{"value":"self"}}` + tail, `unknown field "new"`},
		"unknown retry kind": {head + `{"op":"start","cmd":"a","retry":{"on":"C"},"expect":{"value":"self"}}` + tail, `unknown kind "C"`},
		"nothing seen":       {head + `{"op":"get","cmd":"a"}` + tail, "missing, or too much"},
		"too much seen":      {head + `{"op":"settle","expect":{"value":1}}` + tail, "missing, or too much"},
		"five counters":      {head + `{"op":"status","service":"s","expect":{"st":[0,0,0,0,0],"open":false}}` + tail, "is missing"},
		"unknown step":       {strings.Replace(head, `{"ret":1}`, `{"new":1}`, 1) + `{"op":"settle"}` + tail, `unknown field "new"`},
		"unknown kind":       {strings.Replace(head, `{"ret":1}`, `{"raise":"C"}`, 1) + `{"op":"settle"}` + tail, `unknown kind "C"`},
		"empty step":         {strings.Replace(head, `{"ret":1}`, `{}`, 1) + `{"op":"settle"}` + tail, `empty step`},
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
