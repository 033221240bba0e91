package tracing

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// goldenCase is one recorded run of the gem.
type goldenCase struct {
	ID     string         `json:"id"`
	Kind   string         `json:"kind"`
	Note   string         `json:"note"`
	Config map[string]any `json:"config"`
	Input  map[string]any `json:"input"`
	Output map[string]any `json:"output"`
	group  string
}

func (c *goldenCase) name() string { return c.group + "/" + c.ID }

var showRules = flag.Bool("rules", false, "TestGolden lists which cases need which rule")

// TestGolden replays what the Ruby gem aws-xray 0.39.0 did (testdata/golden/README.md),
// or, with PILLION_GOLDEN_XRAY, another directory of such cases. Each case must come out
// the same, but for ids, times, ports, paths and Ruby's own words, or differ by the rules
// in goldenRules, each of which is in docs/aws-xray.md.
func TestGolden(t *testing.T) {
	dir := os.Getenv("PILLION_GOLDEN_XRAY")
	own := dir == ""
	if own {
		dir = filepath.Join("testdata", "golden")
	}
	cases := readGolden(t, dir)
	var same, differ int
	used := map[string][]string{}
	for _, c := range cases {
		t.Run(c.name(), func(t *testing.T) {
			run := goldenKinds[c.Kind]
			if run == nil {
				t.Fatalf("unknown kind %q", c.Kind)
			}
			applied := applyRules(c)
			for _, r := range applied {
				used[r] = append(used[r], c.name())
			}
			got := run(t, c)
			if diff := cmp.Diff(canonical(c, c.Output), canonical(c, got)); diff != "" {
				t.Errorf("rules %v; %s (-gem +here):\n%s", applied, c.Note, diff)
			}
			if len(applied) == 0 {
				same++
			} else {
				differ++
			}
		})
	}
	for _, r := range goldenRules {
		if own && len(used[r.name]) == 0 {
			t.Errorf("no case needs the rule %s", r.name)
		}
		if *showRules {
			t.Logf("rule %s: %d cases: %s", r.name, len(used[r.name]), strings.Join(used[r.name], " "))
		}
	}
	t.Logf("golden aws-xray: %d cases, %d same, %d documented differences, 0 not yet", len(cases), same, differ)
}

// TestRulesAreDocumented has each rule of the replay stand in the documentation.
func TestRulesAreDocumented(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "docs", "aws-xray.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range goldenRules {
		if !bytes.Contains(text, []byte("`"+r.name+"`")) {
			t.Errorf("docs/aws-xray.md does not mention the rule %s", r.name)
		}
	}
}

// readGolden reads all cases of a directory. No case at all is a failure.
func readGolden(t *testing.T, dir string) []*goldenCase {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	var all []*goldenCase
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var f struct {
			Group string
			Cases []*goldenCase
		}
		d := json.NewDecoder(bytes.NewReader(text))
		d.UseNumber()
		if err := d.Decode(&f); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, c := range f.Cases {
			c.group = f.Group
			if c.Kind == "" || c.ID == "" || c.Output == nil {
				t.Errorf("%s: case %q cannot be read", file, c.ID)
				continue
			}
			all = append(all, c)
		}
	}
	if len(all) == 0 {
		t.Fatalf("no cases in %s", dir)
	}
	return all
}

// applyRules makes of what the gem did what is expected here, and gives the names of
// the rules that had something to change.
func applyRules(c *goldenCase) []string {
	var applied []string
	for _, r := range goldenRules {
		before := mustJSON(c.Output)
		if r.when == nil || r.when(c) {
			r.change(c)
		}
		if mustJSON(c.Output) != before {
			applied = append(applied, r.name)
		}
	}
	return applied
}

func mustJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// canonical takes out of an output what can never be equal, and numbers ids in the
// order in which they appear.
func canonical(c *goldenCase, output map[string]any) map[string]any {
	var out map[string]any
	d := json.NewDecoder(strings.NewReader(mustJSON(output)))
	d.UseNumber()
	if err := d.Decode(&out); err != nil {
		panic(err)
	}
	for _, key := range []string{"schema", "end_not_before_start", "daemon_headers", "log", "documents", "wire_requests"} {
		if v, ok := out[key].([]any); (ok && len(v) == 0) || (out[key] == nil) || key == "schema" || key == "end_not_before_start" || key == "daemon_headers" {
			delete(out, key)
		}
	}
	if out["started_after"] == false {
		delete(out, "started_after")
	}
	tidy(c, out)
	n := &numbering{given: mustJSON(c.Input), known: map[string]string{}}
	docs, _ := out["documents"].([]any)
	for _, doc := range docs {
		n.document(doc.(map[string]any))
	}
	for _, key := range []string{"first_packet", "wire_requests", "log", "response", "env_seen_by_app", "at_rate_0", "at_rate_1"} {
		if v, ok := out[key]; ok {
			if c.Kind == "header" { // the gem was run anew for each
				n = &numbering{given: n.given, known: map[string]string{}}
			}
			out[key] = n.texts(v)
		}
	}
	if _, ok := out["raised"]; ok {
		out["raised"] = true // in Ruby's words
	}
	return out
}

// tidy takes out what only one of the two can have.
func tidy(c *goldenCase, out map[string]any) {
	if pairs, ok := out["pairs"].([]any); ok { // keys are unique by now
		m := map[string]any{}
		for _, p := range pairs {
			m[text(p.([]any)[0])] = p.([]any)[1]
		}
		if c.Kind == "header" {
			delete(m, "Sampled") // kept as a decision: see at_rate
		}
		out["pairs"] = m
	}
	for _, key := range []string{"worker", "record_caller", "solr_hook_name"} { // no variable sets them
		delete(out, key)
	}
	if rate, ok := out["sampling_rate"].(json.Number); ok {
		f, _ := rate.Float64()
		out["sampling_rate"] = f
	}
	if c.Kind != "udp" {
		return
	}
	out["told"] = out["told"] == true || len(list(out["handler_calls"])) != 0
	for _, key := range []string{"dropped", "cut"} {
		out[key] = out[key] == true
	}
	if out["dropped"] == true {
		delete(out, "packets")
	}
	delete(out, "handler_calls")
	delete(out, "stderr_first_line")
	if out["first_packet"] == nil || c.ID == "queue-size-0" {
		delete(out, "first_packet")
	}
}

// numbering numbers ids by their first appearance.
type numbering struct {
	given string // ids in here stay as they are
	known map[string]string
	ids   int
	roots int
}

var (
	traceIDs = regexp.MustCompile(`1-[0-9a-f]{8}-[0-9a-f]{24}|<root:\d+>`)
	parents  = regexp.MustCompile(`Parent=([0-9a-f]{16}|<id:\d+>)`)
)

func (n *numbering) id(s string) string {
	if s == "" || (strings.Contains(n.given, s) && !strings.HasPrefix(s, "<")) {
		return s
	}
	if n.known[s] == "" {
		n.ids++
		n.known[s] = fmt.Sprintf("<id:%d>", n.ids)
	}
	return n.known[s]
}

func (n *numbering) root(s string) string {
	if s == "" || (strings.Contains(n.given, s) && !strings.HasPrefix(s, "<")) {
		return s
	}
	if n.known[s] == "" {
		n.roots++
		n.known[s] = fmt.Sprintf("<root:%d>", n.roots)
	}
	return n.known[s]
}

// texts numbers the ids in all strings of v.
func (n *numbering) texts(v any) any {
	switch v := v.(type) {
	case string:
		v = traceIDs.ReplaceAllStringFunc(v, n.root)
		return parents.ReplaceAllStringFunc(v, func(s string) string { return "Parent=" + n.id(strings.TrimPrefix(s, "Parent=")) })
	case []any:
		for i := range v {
			v[i] = n.texts(v[i])
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if key == "document" {
				n.document(v[key].(map[string]any))
				continue
			}
			if key == "raised" || key == "message" {
				v[key] = true // in Ruby's words
				continue
			}
			v[key] = n.texts(v[key])
		}
	}
	return v
}

// document makes a document comparable.
func (n *numbering) document(d map[string]any) {
	d["id"] = n.id(text(d["id"]))
	if id, ok := d["trace_id"]; ok {
		d["trace_id"] = n.root(text(id))
	}
	for _, key := range []string{"start_time", "end_time"} {
		if _, ok := d[key]; ok {
			d[key] = "<time>"
		}
	}
	if m, ok := d["metadata"].(map[string]any); ok {
		if sdk, ok := m["tracing_sdk"].(map[string]any); ok && sdk["name"] != nil {
			m["tracing_sdk"] = "<who wrote it>"
		}
		if caller, ok := m["caller"].(map[string]any); ok {
			caller["stack"] = "<stack>"
		}
	}
	if a, ok := d["annotations"].(map[string]any); ok && a["hostname"] != nil {
		a["hostname"] = "<hostname>"
	}
	if cause, ok := d["cause"].(map[string]any); ok {
		cause["working_directory"] = "<cwd>/"
		for _, e := range cause["exceptions"].([]any) {
			n.exception(e.(map[string]any))
		}
	}
	if parent, ok := d["parent_id"]; ok {
		d["parent_id"] = n.id(text(parent))
	}
	if http, ok := d["http"].(map[string]any); ok {
		if r, ok := http["request"].(map[string]any); ok {
			r["url"] = localPort.ReplaceAllString(text(r["url"]), "//127.0.0.1:<port>")
		}
	}
}

var localPort = regexp.MustCompile(`//127\.0\.0\.1:\d+`)

// exception makes an exception comparable: classes, messages of the network and
// frames are Ruby's.
func (n *numbering) exception(e map[string]any) {
	e["id"] = n.id(text(e["id"]))
	if kind := text(e["type"]); !strings.HasPrefix(kind, "http_") {
		e["type"] = "<class>"
		if !slices.Contains([]string{"app failed", "bad arg", "later", "deep", "inside", "x"}, text(e["message"])) {
			e["message"] = "<message>"
		}
	}
	frames, line := "<some>", "Integer"
	switch stack := e["stack"].(type) {
	case map[string]any:
		inner := stack["<stack>"].(map[string]any)
		line = text(inner["line_type"])
		if text(inner["frames"]) == "250" {
			frames = "250"
		}
	case []any:
		if len(stack) == 0 {
			frames = "<none>"
		} else if len(stack) == 250 {
			frames = "250"
		}
		for _, f := range stack {
			if _, err := f.(map[string]any)["line"].(json.Number).Int64(); err != nil {
				line = "String"
			}
		}
	}
	e["stack"] = map[string]any{"frames": frames, "line_type": line}
	if _, ok := e["truncated"]; ok {
		e["truncated"] = "<count>"
		if frames == "250" {
			e["truncated"] = "<positive>"
		}
	}
}

// text is a value of a case as a string.
func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	default:
		return fmt.Sprint(v)
	}
}
