package docs_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the code of the Examples into the pages")

// heldByCommand are the pages whose Examples a test of package command compares.
var heldByCommand = []string{"expeditor.md", "expeditor-faraday-xray.md"}

// sources are the files whose functions the pages show.
var sources = []string{"recipes_test.go", "../e2e/opentelemetry_test.go"}

// pages returns the paths of all pages of the project.
func pages(t *testing.T) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{"../*.md", "*.md"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, names...)
	}
	if !slices.Contains(found, "../README.md") || !slices.Contains(found, "recipes.md") {
		t.Fatalf("got the pages %q, want README.md and recipes.md among them", found)
	}
	return found
}

// marked is the code that a page shows below the name of a function, with that name.
var marked = regexp.MustCompile("(?s)<!-- ((?:Example|Test)\\w*) -->\n(?:\n```go\n.*?```\n)?")

// TestExamples compares the code below each mark with the function that it names, which
// go test runs. No function of sources may be missing.
func TestExamples(t *testing.T) {
	bodies := map[string]string{}
	for _, file := range sources {
		maps.Copy(bodies, functionBodies(t, file))
	}
	shown := map[string]bool{}
	for _, page := range pages(t) {
		if slices.Contains(heldByCommand, page) {
			continue
		}
		text := read(t, page)
		want := marked.ReplaceAllStringFunc(text, func(block string) string {
			name := marked.FindStringSubmatch(block)[1]
			if bodies[name] == "" {
				t.Errorf("%s shows %s, which does not exist", page, name)
			}
			shown[name] = true
			return fmt.Sprintf("<!-- %s -->\n\n```go\n%s```\n", name, bodies[name])
		})
		if text == want {
			continue
		}
		if !*update {
			t.Errorf("%s does not show the code that runs; repair it with: go test ./docs -run TestExamples -update", page)
			continue
		}
		if err := os.WriteFile(page, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name := range bodies {
		if !shown[name] {
			t.Errorf("no page shows %s", name)
		}
	}
}

// functionBodies returns the code between the braces of each Example and Test of a file,
// by its name, with one tab less.
func functionBodies(t *testing.T, file string) map[string]string {
	t.Helper()
	text := read(t, file)
	files := token.NewFileSet()
	parsed, err := parser.ParseFile(files, file, text, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	bodies := map[string]string{}
	for _, d := range parsed.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || !strings.HasPrefix(f.Name.Name, "Example") && !strings.HasPrefix(f.Name.Name, "Test") {
			continue
		}
		from, to := files.Position(f.Body.Lbrace).Offset, files.Position(f.Body.Rbrace).Offset
		bodies[f.Name.Name] = indent.ReplaceAllString(text[from+len("{\n"):to], "")
	}
	return bodies
}

var indent = regexp.MustCompile(`(?m)^\t`)

// block is a piece of Go code of a page.
type block struct {
	page string
	code string
}

// goBlocks returns the code of a page that is not compared with a function.
func goBlocks(t *testing.T, page string) []block {
	t.Helper()
	var found []block
	parts := strings.Split(marked.ReplaceAllString(read(t, page), ""), "```go\n")
	for _, part := range parts[1:] {
		code, _, ok := strings.Cut(part, "```")
		if !ok {
			t.Errorf("%s: a block of code does not end", page)
		}
		found = append(found, block{page, code})
	}
	return found
}

// TestCode compiles all other Go code of the pages. A block is a whole program, or
// declarations, or statements; the latter may use names that the page does not declare, as
// long as they are not exported, and need not use those that they declare.
func TestCode(t *testing.T) {
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	dir, replace, blocks, packages := t.TempDir(), map[string]string{}, map[string]block{}, []string{}
	for _, page := range pages(t) {
		for i, b := range goBlocks(t, page) {
			name := fmt.Sprintf("%s_%d", strings.TrimSuffix(filepath.Base(page), ".md"), i+1)
			file := filepath.Join(dir, name+".go")
			if err = os.WriteFile(file, []byte(b.file()), 0o600); err != nil {
				t.Fatal(err)
			}
			replace[filepath.Join(root, "docs", "blocks", name, "block.go")] = file
			blocks[name], packages = b, append(packages, "./docs/blocks/"+name)
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(dir, "overlay.json")
	if err = os.WriteFile(list, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // a cold cache takes its time
	defer cancel()
	build := exec.CommandContext(ctx, "go", append([]string{"build", "-gcflags=-e", "-overlay", list}, packages...)...)
	build.Dir = root
	out, err := build.CombinedOutput()
	if _, failed := err.(*exec.ExitError); err != nil && !failed { //nolint:errorlint // it is not wrapped
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(out), "\n") {
		name, message, ok := compilerError(line)
		b := blocks[name]
		switch {
		case !ok:
			if line != "" && !strings.HasPrefix(line, "# ") {
				t.Errorf("go build: %s", line)
			}
		case b.program() || !allowed.MatchString(message):
			t.Errorf("%s: %s\n%s", b.page, message, b.code)
		}
	}
}

// compilerError splits a line of the compiler into the name of the block and the message.
func compilerError(line string) (name, message string, ok bool) {
	m := compilerLine.FindStringSubmatch(line)
	if m == nil {
		return "", "", false
	}
	return m[1], m[2], true
}

var (
	compilerLine = regexp.MustCompile(`([^/ ]+)(?:/block)?\.go:\d+:\d+: (.*)$`)
	allowed      = regexp.MustCompile(`^declared and not used: |^undefined: [a-z]\w*$`)
)

func (b block) program() bool { return strings.HasPrefix(b.code, "package main") }

// file returns the block as a file that can be compiled.
func (b block) file() string {
	if b.program() {
		return b.code
	}
	var f strings.Builder
	f.WriteString("package block\n\nimport (\n")
	for _, path := range imports {
		name := filepath.Base(strings.TrimSuffix(path, "/v2"))
		if uses := regexp.MustCompile(`\b` + name + `\.[A-Z]`); uses.MatchString(b.code) {
			fmt.Fprintf(&f, "\t%q\n", path)
		}
	}
	f.WriteString(")\n\n")
	if declarations.MatchString(b.code) {
		f.WriteString(b.code)
	} else {
		f.WriteString("func _() {\n" + b.code + "}\n")
	}
	return f.String()
}

var declarations = regexp.MustCompile(`^(?://.*\n)*(?:func|type|import) `)

// imports are the packages that blocks may use without importing them.
var imports = []string{
	"context", "database/sql", "errors", "fmt", "io", "log", "log/slog", "net/http", "net/http/httptest", "net/http/httputil", "net/url", "os", "testing", "time",
	"github.com/sony/gobreaker/v2",
	"google.golang.org/grpc",
	"github.com/pillion-go/pillion",
	"github.com/pillion-go/pillion/breaker",
	"github.com/pillion-go/pillion/command",
	"github.com/pillion-go/pillion/limits",
	"github.com/pillion-go/pillion/metrics",
	"github.com/pillion-go/pillion/pilliongrpc",
	"github.com/pillion-go/pillion/policy",
	"github.com/pillion-go/pillion/policytest",
	"github.com/pillion-go/pillion/retry",
	"github.com/pillion-go/pillion/timeout",
	"github.com/pillion-go/pillion/tracing",
}

// TestReadmeHasPrograms keeps the README's first program a whole one.
func TestReadmeHasPrograms(t *testing.T) {
	blocks := goBlocks(t, "../README.md")
	if len(blocks) == 0 || !blocks[0].program() {
		t.Errorf("got the blocks %q, want a program first", blocks)
	}
}

// TestLinks follows each relative link of each page, and finds each page in the index.
func TestLinks(t *testing.T) {
	index := read(t, "README.md")
	for _, page := range pages(t) {
		if filepath.Dir(page) == "." && page != "README.md" && !strings.Contains(index, "]("+page+")") {
			t.Errorf("README.md, the index, does not have %s", page)
		}
		checkHeadings(t, page)
		for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(read(t, page), ""), -1) {
			checkLink(t, page, m[1])
		}
	}
}

var (
	code = regexp.MustCompile("(?s)```.*?```|`[^`\n]*`")
	link = regexp.MustCompile(`\]\(([^)\s]+)\)`)
)

// checkHeadings reports a heading that a page has twice. A changelog repeats them in each
// version.
func checkHeadings(t *testing.T, page string) {
	t.Helper()
	seen := map[string]bool{}
	for _, h := range headings(read(t, page)) {
		if seen[h] && filepath.Base(page) != "CHANGELOG.md" {
			t.Errorf("%s has the heading %q twice", page, h)
		}
		seen[h] = true
	}
}

// checkLink reports a link whose file or heading does not exist.
func checkLink(t *testing.T, page, target string) {
	t.Helper()
	if strings.Contains(target, "://") {
		return
	}
	path, heading, _ := strings.Cut(target, "#")
	file := page
	if path != "" {
		file = filepath.Join(filepath.Dir(page), path)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("%s links to %s: %v", page, target, err)
		return
	}
	if heading != "" && !slices.Contains(headings(read(t, file)), heading) {
		t.Errorf("%s links to %s, a heading that does not exist", page, target)
	}
}

// headings returns the anchors of a page, as GitHub makes them.
func headings(text string) []string {
	var found []string
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		word := notInAnchor.ReplaceAllString(strings.ToLower(m[1]), "")
		found = append(found, strings.ReplaceAll(word, " ", "-"))
	}
	return found
}

var (
	heading     = regexp.MustCompile(`(?m)^#+ (.*)$`)
	notInAnchor = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
