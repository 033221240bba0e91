package command

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/pillion-go/pillion/breaker"
)

var update = flag.Bool("update", false, "write what the tests measure and compile into docs/expeditor.md")

const guide = "../docs/expeditor.md"

// TestGuideExamples checks that the Go code of the guide is that of Examples that run: the
// code below a mark is that of the function that the mark names.
func TestGuideExamples(t *testing.T) {
	for page, examples := range map[string]string{
		guide:                               "example_test.go",
		"../docs/expeditor-faraday-xray.md": "../examples/expeditor/stack_test.go",
	} {
		t.Run(filepath.Base(page), func(t *testing.T) { showExamples(t, page, exampleBodies(t, examples)) })
	}
}

// showExamples compares the code of a page with the Examples.
func showExamples(t *testing.T, page string, bodies map[string]string) {
	t.Helper()
	shown := map[string]bool{}
	text := readPage(t, page)
	now := exampleMark.ReplaceAllStringFunc(text, func(block string) string {
		name := exampleMark.FindStringSubmatch(block)[1]
		if _, ok := bodies[name]; !ok {
			t.Errorf("%s: the guide shows this Example, but it does not exist", name)
		}
		shown[name] = true
		return "<!-- " + name + " -->\n\n```go\n" + bodies[name] + "```\n"
	})
	for name := range bodies {
		if !shown[name] {
			t.Errorf("%s: the guide does not show this Example", name)
		}
	}
	if now != text && !*update {
		t.Error("the page differs from the Examples; run go test ./command -run TestGuide -update")
	}
	writePage(t, page, now)
}

// exampleMark matches the mark of an Example, and the code below it.
var exampleMark = regexp.MustCompile("(?s)<!-- (Example\\w*) -->\n(?:\n```go\n.*?```\n)?")

// exampleBodies returns the body of each Example, without the expected output and without
// the first tab of each line.
func exampleBodies(t *testing.T, file string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	fset := token.NewFileSet()
	parsed, err := parser.ParseFile(fset, file, text, 0)
	must(t, err)
	bodies := map[string]string{}
	for _, d := range parsed.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || !strings.HasPrefix(f.Name.Name, "Example") {
			continue
		}
		from, to := fset.Position(f.Body.Lbrace).Offset+2, fset.Position(f.Body.Rbrace).Offset
		body, _, _ := strings.Cut(string(text[from:to]), "\t// Output:")
		var b strings.Builder
		for line := range strings.Lines(body) {
			b.WriteString(strings.TrimPrefix(line, "\t"))
		}
		bodies[f.Name.Name] = b.String()
	}
	return bodies
}

func readPage(t *testing.T, page string) string {
	t.Helper()
	text, err := os.ReadFile(page)
	must(t, err)
	return string(text)
}

func writePage(t *testing.T, page, text string) {
	t.Helper()
	if *update {
		must(t, os.WriteFile(page, []byte(text), 0o644))
	}
}

// TestGuideRules checks that the guide's table has each rule of the replay by its name, and
// names each trace that needs a rule.
func TestGuideRules(t *testing.T) {
	text := readPage(t, guide)
	for _, r := range rules {
		if !strings.Contains(text, "| "+r.name+" |") {
			t.Errorf("the guide has no row for the rule %q", r.name)
		}
	}
	for _, tr := range readTraces(t) {
		if used := applyRules(t, tr); os.Getenv(goldenEnv) == "" && used != nil && !strings.Contains(text, "`"+tr.Name+"`") {
			t.Errorf("the guide does not name the trace %q, which the rules %q cover", tr.Name, used)
		}
	}
}

const (
	beginTable = "<!-- gobreaker: begin -->\n"
	endTable   = "<!-- gobreaker: end -->"
)

// TestGuideGobreaker replays the breaker's traces on a gobreaker with the nearest settings,
// and checks that the guide says where it admits other calls than Expeditor did. It omits
// traces that reset or count by hand, which gobreaker cannot do, and traces whose clock steps
// back.
func TestGuideGobreaker(t *testing.T) {
	var table strings.Builder
	for _, kind := range []string{"scripted", "random"} {
		admissions := readAdmissions(t, "breaker_"+kind+".jsonl")
		var rows strings.Builder
		same := 0
		for _, a := range admissions {
			synctest.Test(t, func(t *testing.T) { a.replay(t) })
			if a.first == "" {
				same++
				continue
			}
			fmt.Fprintf(&rows, "| `%s` | %d | %d | %d | %s |\n", a.Name, a.calls, a.wanted, a.let, a.first)
		}
		fmt.Fprintf(&table, "\nOf %d %s traces gobreaker lets in the same calls in %d; in the others:\n\n", len(admissions), kind, same)
		table.WriteString("| trace | calls | let in by Expeditor | by gobreaker | first difference |\n|---|--:|--:|--:|---|\n")
		table.WriteString(rows.String())
	}
	text := readPage(t, guide)
	before, rest, ok := strings.Cut(text, beginTable)
	was, after, end := strings.Cut(rest, endTable)
	if !ok || !end {
		t.Fatalf("%s has no marks %q and %q", guide, beginTable, endTable)
	}
	if now := table.String() + "\n"; was != now {
		if !*update {
			t.Errorf("the guide differs from what was measured; run go test ./command -run TestGuide -update\n%s", now)
		}
		writePage(t, guide, before+beginTable+now+endTable+after)
	}
}

// admission is a trace of the breaker, with its result on a gobreaker.
type admission struct {
	Name   string `json:"name"`
	Config struct {
		Threshold     *float64 `json:"threshold"`
		NonBreakCount *int     `json:"non_break_count"`
		SleepUS       *int64   `json:"sleep_us"`
		PeriodUS      *int64   `json:"period_us"`
	} `json:"config"`
	Events []struct {
		At  int64  `json:"at"`
		Op  string `json:"op"`
		Out string `json:"out"`
		ID  int    `json:"id"`
		Ran *bool  `json:"ran"`
	} `json:"events"`

	calls, wanted, let int
	first              string
}

func readAdmissions(t *testing.T, file string) []*admission {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "breaker", "testdata", "expeditor", file))
	must(t, err)
	var found []*admission
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		a := &admission{}
		must(t, json.Unmarshal(lines.Bytes(), a))
		if a.fits() {
			found = append(found, a)
		}
	}
	must(t, lines.Err())
	return found
}

// fits reports whether a gobreaker can replay the trace.
func (a *admission) fits() bool {
	last := int64(0)
	for _, e := range a.Events {
		if e.Op == "reset" || e.Op == "record" || e.At < last {
			return false
		}
		last = e.At
	}
	return true
}

func (a *admission) breaker(t *testing.T) *breaker.Breaker {
	t.Helper()
	cfg := breaker.Config{}
	c := a.Config
	if c.Threshold != nil {
		cfg.Threshold = thresholdOf(*c.Threshold)
	}
	if c.NonBreakCount != nil {
		cfg.NonBreakCount = max(*c.NonBreakCount, 1)
	}
	if c.SleepUS != nil {
		cfg.Sleep = orZero(time.Duration(*c.SleepUS) * time.Microsecond)
	}
	if c.PeriodUS != nil {
		cfg.Period = time.Duration(*c.PeriodUS) * time.Microsecond
	}
	settings, err := breaker.GobreakerSettings(cfg)
	must(t, err)
	b, err := breaker.FromGobreaker[any](gobreaker.NewTwoStepCircuitBreaker[any](settings))
	must(t, err)
	return b
}

func (a *admission) replay(t *testing.T) {
	t.Helper()
	b, epoch := a.breaker(t), time.Now()
	flying := map[int]breaker.Ticket{}
	for _, e := range a.Events {
		at := time.Duration(e.At) * time.Microsecond
		time.Sleep(time.Until(epoch.Add(at)))
		switch e.Op {
		case "run", "begin":
			ticket, err := b.Admit()
			a.judge(err == nil, *e.Ran, at)
			switch {
			case err != nil:
			case e.Op == "run":
				ticket.Done(traceResult(e.Out), nil)
			default:
				flying[e.ID] = ticket
			}
		case "end":
			if ticket, ok := flying[e.ID]; ok {
				ticket.Done(traceResult(e.Out), nil)
				delete(flying, e.ID)
			}
		}
	}
}

// judge compares one admission.
func (a *admission) judge(let, wanted bool, at time.Duration) {
	a.calls++
	if wanted {
		a.wanted++
	}
	if let {
		a.let++
	}
	if let != wanted && a.first == "" {
		verb := "refuses"
		if let {
			verb = "lets in"
		}
		a.first = fmt.Sprintf("%s call %d, at %v", verb, a.calls, at)
	}
}

// traceResult is how a call ends.
func traceResult(out string) breaker.Result {
	names := []string{"success", "failure", "rejection", "timeout", "break", "dependency"}
	if i := slices.Index(names, out); i >= 0 {
		return breaker.Result(i)
	}
	return breaker.Failure // fatal
}
