package tracing

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/big"
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

// UnmarshalJSON keeps the text of numbers, and the order of objects that are merged.
func (c *goldenCase) UnmarshalJSON(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	v, err := decode(d, "")
	if err != nil {
		return err
	}
	m, _ := v.(map[string]any)
	c.ID, _ = m["id"].(string)
	c.Kind, _ = m["kind"].(string)
	c.Note, _ = m["note"].(string)
	c.Config, _ = m["config"].(map[string]any)
	c.Input, _ = m["input"].(map[string]any)
	c.Output, _ = m["output"].(map[string]any)
	return nil
}

// object is an object whose order matters.
type object []member

type member struct {
	key   string
	value any
}

// decode decodes the value of key.
func decode(d *json.Decoder, key string) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('['):
		all := []any{}
		for d.More() {
			v, bad := decode(d, "")
			if bad != nil {
				return nil, bad
			}
			all = append(all, v)
		}
		_, err = d.Token()
		return all, err
	case json.Delim('{'):
		all := object{}
		for d.More() {
			name, bad := d.Token()
			if bad != nil {
				return nil, bad
			}
			v, bad := decode(d, name.(string))
			if bad != nil {
				return nil, bad
			}
			all = append(all, member{name.(string), v})
		}
		_, err = d.Token()
		if key == "values" || key == "default_annotation" || key == "default_metadata" {
			return all, err
		}
		return all.asMap(), err
	}
	return token, nil
}

func (o object) asMap() map[string]any {
	m := map[string]any{}
	for _, member := range o {
		m[member.key] = member.value
	}
	return m
}

var showRules = flag.Bool("rules", false, "TestGolden lists which cases need which rule")

// TestGolden replays recordings of the Ruby gem aws-xray 0.39.0
// (testdata/golden/README.md), or, with PILLION_GOLDEN_XRAY, another directory of such
// cases. The result of each case must be equal, except for ids, times, ports, paths and
// Ruby's own texts, or differ by the rules in docs/aws-xray.md. In that case the gem of
// golden_gem_test.go must have the recorded result without the rules, and this package's
// result with them.
func TestGolden(t *testing.T) {
	dir := os.Getenv("PILLION_GOLDEN_XRAY")
	if dir == "" {
		dir = filepath.Join("testdata", "golden")
	}
	replayGolden(t, "aws-xray", dir)
}

// TestGoldenRandom replays recordings of random inputs. They verify the rules beyond the
// cases that were written by hand.
func TestGoldenRandom(t *testing.T) {
	replayGolden(t, "aws-xray-random", filepath.Join("testdata", "golden-random"))
}

func replayGolden(t *testing.T, name, dir string) {
	t.Helper()
	cases := readGolden(t, dir)
	var same, differ, failing int
	used := map[string][]string{}
	captureLogs(t) // handlers panic
	for _, c := range cases {
		failed := !t.Run(c.name(), func(t *testing.T) {
			applied := replayCase(t, c)
			for _, r := range applied {
				used[r] = append(used[r], c.name())
			}
			if len(applied) == 0 {
				same++
			} else {
				differ++
			}
		})
		if failed {
			failing++
		}
	}
	if *showRules {
		for _, r := range slices.Sorted(maps.Keys(used)) {
			t.Logf("rule %s: %d cases: %s", r, len(used[r]), strings.Join(used[r], " "))
		}
	}
	t.Logf("golden %s: %d cases, %d same, %d documented differences, %d not yet, %d failing", name, len(cases), same, differ, 0, failing)
}

// replayCase replays a case, and returns the rules by which it differs, or none if the
// result is equal. It ends the test if the case fails.
func replayCase(t *testing.T, c *goldenCase) (applied []string) {
	t.Helper()
	run := goldenKinds[c.Kind]
	if run == nil {
		t.Fatalf("unknown kind %q", c.Kind)
	}
	recorded, got := canonical(c, c.Output), canonical(c, run(t, c))
	if cmp.Equal(recorded, got) {
		return nil
	}
	expected, applied := gemOutput(c, true)
	diff := cmp.Diff(canonical(c, expected), got)
	if asRecorded := gemDiff(c, recorded); asRecorded != "" || diff != "" || len(applied) == 0 {
		t.Fatalf("rules %v; %s\nthe gem (-golden_gem_test.go +recorded):\n%s\nthis package (-by the rules +here):\n%s",
			applied, c.Note, asRecorded, diff)
	}
	return applied
}

// gemDiff compares the result of golden_gem_test.go with the recorded one.
func gemDiff(c *goldenCase, recorded map[string]any) string {
	output, _ := gemOutput(c, false)
	return cmp.Diff(fillRuby(canonical(c, output), recorded), any(recorded))
}

// fillRuby replaces texts that only Ruby can write with the recorded ones.
func fillRuby(v, recorded any) any {
	switch v := v.(type) {
	case map[string]any:
		if s, ok := recorded.(string); ok && v["<ruby>"] == true {
			return s
		}
		other, _ := recorded.(map[string]any)
		for key := range v {
			v[key] = fillRuby(v[key], other[key])
		}
	case []any:
		other, _ := recorded.([]any)
		for i := range min(len(v), len(other)) {
			v[i] = fillRuby(v[i], other[i])
		}
	}
	return v
}

// TestGem checks that golden_gem_test.go has the gem's result, including cases without a
// rule.
func TestGem(t *testing.T) {
	for _, dir := range []string{"golden", "golden-random"} {
		for _, c := range readGolden(t, filepath.Join("testdata", dir)) {
			if diff := gemDiff(c, canonical(c, c.Output)); diff != "" {
				t.Errorf("%s (-golden_gem_test.go +recorded):\n%s", c.name(), diff)
			}
		}
	}
}

// TestRulesAreDocumented checks that the rules in the documentation are exactly those that
// a recording needs.
func TestRulesAreDocumented(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "docs", "aws-xray.md"))
	if err != nil {
		t.Fatal(err)
	}
	needed := map[string]bool{}
	for _, dir := range []string{"golden", "golden-random"} {
		for _, c := range readGolden(t, filepath.Join("testdata", dir)) {
			with, applied := gemOutput(c, true)
			without, _ := gemOutput(c, false)
			if !cmp.Equal(canonical(c, with), canonical(c, without)) {
				for _, r := range applied {
					needed[r] = true
				}
			}
		}
	}
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9-]+)` \\|.*Golden").FindAllSubmatch(page, -1) {
		documented[string(m[1])] = true
	}
	if diff := cmp.Diff(documented, needed); diff != "" {
		t.Errorf("rules (-documented +needed):\n%s", diff)
	}
}

// readGolden reads all cases of a directory. An empty directory is a failure.
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
		if err := json.Unmarshal(text, &f); err != nil {
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

func mustJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// canonical removes from an output the parts that can never be equal, and numbers ids in
// the order in which they appear.
func canonical(c *goldenCase, output map[string]any) map[string]any {
	var out map[string]any
	d := json.NewDecoder(strings.NewReader(mustJSON(output)))
	d.UseNumber()
	if err := d.Decode(&out); err != nil {
		panic(err)
	}
	tidy(c, out)
	for _, key := range []string{"log", "documents", "wire_requests"} {
		if v, ok := out[key].([]any); (ok && len(v) == 0) || out[key] == nil {
			delete(out, key)
		}
	}
	n := &numbering{given: mustJSON(c.Input), messages: messagesOf(c.Input), known: map[string]string{}}
	docs, _ := out["documents"].([]any)
	for _, doc := range docs {
		n.document(doc.(map[string]any))
	}
	for _, key := range []string{"first_packet", "wire_requests", "log", "response", "env_seen_by_app", "at_rate_0", "at_rate_1"} {
		if v, ok := out[key]; ok {
			if c.Kind == "header" { // the gem was started again for each
				n.known, n.ids, n.roots = map[string]string{}, 0, 0
			}
			out[key] = n.texts(v)
		}
	}
	return numbers(out).(map[string]any)
}

// numbers writes equal numbers in the same way: 1.0 as 1.
func numbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if r, ok := new(big.Rat).SetString(v.String()); ok && len(v) < 400 {
			return json.Number(r.RatString())
		}
	case []any:
		for i := range v {
			v[i] = numbers(v[i])
		}
	case map[string]any:
		for key := range v {
			v[key] = numbers(v[key])
		}
	}
	return v
}

// nearLimit marks the message of an exception whose stack is about as long as the limit:
// the result depends on the frames around the application.
const nearLimit = "near the limit: "

// messagesOf returns the messages that a case raises.
func messagesOf(v any) map[string]bool {
	all := map[string]bool{}
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			maps.Copy(all, messagesOf(e))
		}
	case map[string]any:
		if op := v["op"]; op == "raise" || op == "deep_raise" {
			all[text(v["message"])] = true
			if depth := rubyToI(v["depth"]); depth > 150 && depth < 250 {
				all[nearLimit+text(v["message"])] = true
			}
		}
		for _, e := range v {
			maps.Copy(all, messagesOf(e))
		}
	}
	return all
}

// tidy removes the parts that only one of the two outputs can have.
func tidy(c *goldenCase, out map[string]any) {
	for _, key := range []string{
		"schema", "end_not_before_start", "daemon_headers", "started_after", // from the recorder
		"worker", "record_caller", "solr_hook_name", // not set by variables
	} {
		delete(out, key)
	}
	if out["worker_config_raised"] != nil {
		delete(out, "worker_config_raised")
		out["raised"] = true
	}
	if _, ok := out["raised"]; ok {
		out["raised"] = true // Ruby's own text
	}
	switch c.Kind {
	case "header", "annotation":
		tidyPairs(c, out)
	case "sampling":
		for _, key := range byChance(c) {
			delete(out, key)
		}
	case "udp":
		tidyUDP(out)
	}
}

// tidyPairs converts pairs with unique keys to a map.
func tidyPairs(c *goldenCase, out map[string]any) {
	m, isMap := out["pairs"].(map[string]any)
	if !isMap {
		m = map[string]any{}
	}
	for _, p := range list(out["pairs"]) {
		m[text(p.([]any)[0])] = p.([]any)[1]
	}
	for key, v := range m {
		if float, ok := v.(map[string]any); ok && float["float"] != nil {
			m[key] = "<float>"
		}
	}
	if out["pairs"] = m; c.Kind == "header" {
		delete(m, "Sampled") // kept as a decision: see at_rate
		return
	}
	if s, ok := out["json"].(string); ok {
		d := json.NewDecoder(strings.NewReader(s))
		d.UseNumber()
		var v any
		if d.Decode(&v) == nil {
			out["json"] = v
		}
	}
}

func tidyUDP(out map[string]any) {
	if out["worker"] == nil && len(out) == 1 { // the worker was not started
		return
	}
	out["reported"] = out["reported"] == true || len(list(out["handler_calls"])) != 0
	for _, key := range []string{"dropped", "cut"} {
		out[key] = out[key] == true
	}
	delete(out, "handler_calls")
	delete(out, "stderr_first_line")
	if out["first_packet"] == nil {
		delete(out, "first_packet")
	}
}

// numbering numbers ids by their first appearance.
type numbering struct {
	given    string          // ids in this text do not change
	messages map[string]bool // messages of exceptions that Ruby did not write
	known    map[string]string
	ids      int
	roots    int
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
		if v["op"] == "current" && v["raised"] == nil && v["nil"] != true {
			return map[string]any{"op": "current"} // the id may differ
		}
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if key == "document" {
				n.document(v[key].(map[string]any))
				continue
			}
			if key == "raised" || key == "message" {
				v[key] = true // Ruby's own text
				continue
			}
			v[key] = n.texts(v[key])
		}
	}
	return v
}

// document makes a document comparable.
func (n *numbering) document(d map[string]any) {
	d["id"], d["name"] = n.id(text(d["id"])), text(d["name"])
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
			m["tracing_sdk"] = "<the writer>"
		}
		if caller, ok := m["caller"].(map[string]any); ok && caller["truncated"] != nil {
			m["caller"] = "<stack>"
		}
		maskUnwritable(m)
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

// exception makes an exception comparable: classes, messages of the network and frames are
// Ruby's.
func (n *numbering) exception(e map[string]any) {
	e["id"] = n.id(text(e["id"]))
	if kind := text(e["type"]); !strings.HasPrefix(kind, "http_") {
		e["type"] = "<class>"
		if !n.messages[text(e["message"])] {
			e["message"] = "<message>"
		}
	}
	e["remote"] = e["remote"] == true
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
	if n.messages[nearLimit+text(e["message"])] {
		frames = "<some>"
	}
	if frames == "250" {
		e["truncated"] = text(e["truncated"]) != "0"
	} else {
		delete(e, "truncated")
	}
	e["stack"] = map[string]any{"frames": frames, "line_type": line}
}

// maskUnwritable removes the reason why a value could not be written.
func maskUnwritable(m map[string]any) {
	for key, v := range m {
		switch v := v.(type) {
		case string:
			if strings.HasSuffix(v, ")") && strings.Contains(v, " cannot be written: ") {
				m[key] = "<cannot be written>"
			}
		case map[string]any:
			maskUnwritable(v)
		}
	}
}

// text returns a value of a case as a string.
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
