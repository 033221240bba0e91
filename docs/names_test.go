package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// span is code within a sentence; qualified is a name of a package of this module in it.
var (
	span      = regexp.MustCompile("`[^`\n]+`")
	qualified = regexp.MustCompile(`\b([a-z]+)\.([A-Z]\w*)(?:\.([A-Z]\w*))?`)
)

// TestNames finds each exported name that a sentence has in a code span, such as
// timeout.Config.PerTry, in the package's source.
func TestNames(t *testing.T) {
	known := moduleNames(t)
	for _, page := range pages(t) {
		if filepath.Base(page) == "CHANGELOG.md" { // old names stay there
			continue
		}
		for _, s := range span.FindAllString(fence.ReplaceAllString(read(t, page), ""), -1) {
			for _, m := range qualified.FindAllStringSubmatch(s, -1) {
				checkName(t, page, known, m[1], m[2], m[3])
			}
		}
	}
}

var fence = regexp.MustCompile("(?s)```.*?```")

// checkName reports a name that its package does not have. Members of an alias are those of
// another type, and are not checked.
func checkName(t *testing.T, page string, known map[string]map[string]members, pkg, name, member string) {
	t.Helper()
	names, ours := known[pkg]
	if !ours {
		return
	}
	of, ok := names[name]
	switch {
	case !ok:
		t.Errorf("%s: %s.%s does not exist", page, pkg, name)
	case member != "" && !of.alias && !slices.Contains(of.names, member):
		t.Errorf("%s: %s.%s.%s does not exist", page, pkg, name, member)
	}
}

// members are the fields and methods of a type.
type members struct {
	names []string
	alias bool
}

// moduleNames returns the exported names of the module's packages, by the package's name.
func moduleNames(t *testing.T) map[string]map[string]members {
	t.Helper()
	known := map[string]map[string]members{}
	for _, pattern := range []string{"../*.go", "../[a-z]*/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			pkg := parsed.Name.Name
			if strings.HasSuffix(file, "_test.go") || pkg == "main" {
				continue
			}
			if known[pkg] == nil {
				known[pkg] = map[string]members{}
			}
			for _, d := range parsed.Decls {
				declare(known[pkg], d)
			}
		}
	}
	if len(known["timeout"]["Config"].names) == 0 {
		t.Fatalf("got the names %v, want timeout.Config with its fields among them", known)
	}
	return known
}

// declare adds the exported names of a declaration.
func declare(names map[string]members, d ast.Decl) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil {
			names[d.Name.Name] = members{}
			return
		}
		of := receiver(d.Recv.List[0].Type)
		m := names[of]
		m.names = append(m.names, d.Name.Name)
		names[of] = m
	case *ast.GenDecl:
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.ValueSpec:
				for _, n := range s.Names {
					names[n.Name] = members{}
				}
			case *ast.TypeSpec:
				m := names[s.Name.Name]
				m.alias = s.Assign.IsValid()
				m.names = append(m.names, fields(s.Type)...)
				names[s.Name.Name] = m
			}
		}
	}
}

// receiver returns the name of a method's type.
func receiver(of ast.Expr) string {
	switch of := of.(type) {
	case *ast.StarExpr:
		return receiver(of.X)
	case *ast.IndexExpr:
		return receiver(of.X)
	case *ast.Ident:
		return of.Name
	}
	return ""
}

// fields returns the names of a struct's fields, or of an interface's methods.
func fields(of ast.Expr) (names []string) {
	var list *ast.FieldList
	switch of := of.(type) {
	case *ast.StructType:
		list = of.Fields
	case *ast.InterfaceType:
		list = of.Methods
	default:
		return nil
	}
	for _, f := range list.List {
		for _, n := range f.Names {
			names = append(names, n.Name)
		}
	}
	return names
}

// statistic is the name of a statistic without the name of its cluster.
var statistic = regexp.MustCompile("`((?:upstream_|retry_or_|circuit_breakers\\.)[a-z_.]+[a-z])`")

// TestStatistics finds each statistic that docs/envoy-fields.md and docs/life-of-a-call.md
// name in the source.
func TestStatistics(t *testing.T) {
	var source strings.Builder
	for _, pattern := range []string{"../metrics/*.go", "../limits/*.go", "../cluster/*.go", "../cluster/internal/pool/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			source.Write(text)
		}
	}
	for _, page := range []string{"envoy-fields.md", "life-of-a-call.md"} {
		found := statistic.FindAllStringSubmatch(read(t, page), -1)
		if len(found) == 0 {
			t.Errorf("%s names no statistic", page)
		}
		for _, m := range found {
			name := strings.TrimPrefix(m[1], "circuit_breakers.default.")
			if !strings.Contains(source.String(), name+`"`) {
				t.Errorf("%s: there is no statistic %s", page, m[1])
			}
		}
	}
}
