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

// goldenFiles are those that this package must agree with.
var goldenFiles = []string{"commands.jsonl", "commands_random.jsonl"}

// TestGolden replays what the Ruby gem did, under a fake clock. A trace that no
// rule covers must be the same; one that is covered must be as the rule says.
func TestGolden(t *testing.T) {
	traces := readTraces(t)
	same, different := 0, 0
	used := map[string]bool{}
	for _, tr := range traces {
		t.Run(tr.Name, func(t *testing.T) {
			changed := applyRules(t, tr, used)
			synctest.Test(t, func(t *testing.T) { replay(t, tr) })
			switch {
			case t.Failed():
			case changed:
				different++
			default:
				same++
			}
		})
	}
	if os.Getenv(goldenEnv) == "" {
		for _, r := range rules {
			if !used[r.name] {
				t.Errorf("the rule %q is needed by no trace", r.name)
			}
		}
	}
	if most := max(8, len(traces)*8/117); different > most {
		t.Errorf("got %d differences, want at most %d", different, most)
	}
	t.Logf("golden expeditor commands: %d cases, %d same, %d documented differences, %d not yet",
		len(traces), same, different, len(traces)-same-different)
}

// trace is one recording of the gem. testdata/expeditor/README.md tells what the
// fields mean.
type trace struct {
	Kind         string                         `json:"kind"`
	Name         string                         `json:"name"`
	Note         string                         `json:"note"`
	Seed         int64                          `json:"seed"`
	Quirk        bool                           `json:"quirk"`
	RealTime     bool                           `json:"real_time"`
	FloatEdge    bool                           `json:"float_edge"`
	Ordered      *bool                          `json:"ordered"`
	Services     map[string]traceService        `json:"services"`
	Commands     []traceCommand                 `json:"commands"`
	Actions      []traceAction                  `json:"actions"`
	Log          []json.RawMessage              `json:"log"`
	LogByCommand map[string]([]json.RawMessage) `json:"log_by_command"`
}

type traceService struct {
	Threshold       *float64 `json:"threshold"`
	NonBreakCount   *int     `json:"non_break_count"`
	SleepUS         *int64   `json:"sleep_us"`
	PeriodUS        *int64   `json:"period_us"`
	FallbackEnabled *bool    `json:"fallback_enabled"`
	Pool            *struct {
		MaxThreads int      `json:"max_threads"`
		MaxQueue   int      `json:"max_queue"`
		Overflow   Overflow `json:"overflow"`
	} `json:"pool"`
}

type traceCommand struct {
	ID        string          `json:"id"`
	Service   string          `json:"service"`
	TimeoutMS int64           `json:"timeout_ms"`
	Deps      []string        `json:"deps"`
	Body      [][]traceStep   `json:"body"`
	Fallback  []traceStep     `json:"fallback"`
	Const     json.RawMessage `json:"const"`
	ChainOf   string          `json:"chain_of"`
	LogArgs   bool            `json:"log_args"`
}

// traceStep has one of these.
type traceStep struct {
	Ret       json.RawMessage `json:"ret"`
	Raise     string          `json:"raise"`
	Msg       string          `json:"msg"`
	Inner     json.RawMessage `json:"inner"`
	Gate      string          `json:"gate"`
	Open      string          `json:"open"`
	Hang      bool            `json:"hang"`
	SleepMS   int64           `json:"sleep_ms"`
	AdvanceUS int64           `json:"advance_us"`
	Sum       bool            `json:"sum"`
	Args      bool            `json:"args"`
	Add       float64         `json:"add"`
	Reraise   bool            `json:"reraise"`
	Swallow   []traceStep     `json:"swallow"`
}

type traceAction struct {
	Op            string          `json:"op"`
	Cmd           string          `json:"cmd"`
	Service       string          `json:"service"`
	CurrentThread bool            `json:"current_thread"`
	Retry         *traceRetry     `json:"retry"`
	Fallback      []traceStep     `json:"fallback"`
	Hook          string          `json:"hook"`
	Name          string          `json:"name"`
	Raises        bool            `json:"raises"`
	Kind          string          `json:"kind"`
	Value         json.RawMessage `json:"value"`
	Body          []traceStep     `json:"body"`
	Gate          string          `json:"gate"`
	US            int64           `json:"us"`
	Expect        *expectation    `json:"expect"`
}

type traceRetry struct {
	Tries       json.RawMessage `json:"tries"`
	Sleep       json.RawMessage `json:"sleep"`
	On          words           `json:"on"`
	Not         words           `json:"not"`
	Matching    json.RawMessage `json:"matching"`
	CB          bool            `json:"cb"`
	Bogus       bool            `json:"bogus"`
	SleepRaises bool            `json:"sleep_raises"`
	RealSleep   bool            `json:"real_sleep"`
}

// words is a word, or a list of them.
type words []string

func (w *words) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*w = words{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(w))
}

// expectation is what was seen of an action. A nil St and an empty Error are not
// seen at all.
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

// seen says for each op whether something of it was seen.
var seen = map[string]bool{
	"start": true, "wait": true, "get": true, "started": true, "set_fallback": true, "hook": true,
	"status": true, "run_if_allowed": true,
	"reset": false, "shutdown": false, "fallback_enabled": false, "record": false, "open": false, "entered": false,
	"advance": false, "settle": false,
}

// check reports an action that is not known, or lacks something.
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

// TestParseTrace has traces that are not as they should be found out, for a replay
// that skips what it does not know proves nothing.
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
