package parity

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// document returns a small case, with replacements.
func document(replacements ...string) string {
	return strings.NewReplacer(replacements...).Replace(`{
		"format": 1, "envoy_version": "x", "runs": 1,
		"scenario": {
			"name": "one", "description": "", "tags": [], "envoy": {},
			"upstream": {"protocol": "http1", "hosts": [{"id": "a"}], "script": [{"status": 200, "body": "ok"}]},
			"downstream": {"protocol": "http1", "ops": [{"op": "request", "request": {}}]}
		},
		"observed": {}, "timing_runs": []
	}`)
}

// TestLoad checks that no unknown part of a case is ignored.
func TestLoad(t *testing.T) {
	tests := []struct{ name, file, text, want string }{
		{"good", "one.json", document(), ""},
		{"another name", "two.json", document(), `it contains the scenario "one"`},
		{"a field of the case", "one.json", document(`"runs"`, `"run"`), `unknown field "run"`},
		{"a field of a step", "one.json", document(`"body"`, `"bodies"`), `unknown field "bodies"`},
		{"a field of a request", "one.json", document(`"request": {}`, `"request": {"verb": "GET"}`), `unknown field "verb"`},
		{"an action", "one.json", document(`"body": "ok"`, `"action": "explode"`), `action: "explode" is unknown`},
		{"a code", "one.json", document(`"body": "ok"`, `"action": "rst_stream", "code": "WHY"`), `code: "WHY" is unknown`},
		{"an op", "one.json", document(`"op": "request"`, `"op": "ask"`), `op: "ask" is unknown`},
		{"a listener", "one.json", document(`"id": "a"`, `"id": "a", "listen": "never"`), `listen: "never" is unknown`},
		{"a format", "one.json", document(`"format": 1`, `"format": 2`), `format: "2" is unknown`},
		{"a protocol", "one.json", document(`"protocol": "http1", "ops"`, `"protocol": "h3", "ops"`), `downstream.protocol: "h3" is unknown`},
		{"more", "one.json", document() + "{}", "unexpected data after the end"},
		{"not compressed", "one.json.gz", document(), "gzip: invalid header"},
		{"no case", "one.txt", "", "no case found"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, test.file), []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			cases, err := Load(dir)
			switch {
			case test.want == "" && (err != nil || len(cases) != 1):
				t.Errorf("got %d cases, %v, want one", len(cases), err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("got error %v, want %q", err, test.want)
			}
		})
	}
}

func TestStepAt(t *testing.T) {
	steps := []Step{{Status: 1, Repeat: 2}, {Status: 2}, {Status: 3}}
	for n, want := range []int{1, 1, 2, 3, 3, 3} {
		if got := stepAt(steps, n).Status; got != want {
			t.Errorf("step %d: got %d, want %d", n, got, want)
		}
	}
}
