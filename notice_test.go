package pillion_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

//go:generate env PILLION_NOTICE=write go test -count=1 -run ^TestNotice$ .

// ownNotice is the start of NOTICE. The rest follows from the linked modules.
const ownNotice = `pillion
Copyright 2026 The pillion authors

Licensed under the Apache License, Version 2.0, whose text is in the file LICENSE.

A program that imports packages of this module contains other people's work too.
This file names it, with the notices that its licenses want passed on with the
program. "In" names the packages that bring a work into a program.
`

// ported are the works that packages were ported from, under the MIT License.
const ported = `
Expeditor, https://github.com/cookpad/expeditor
In: breaker, command
Copyright (c) 2015 Cookpad Inc.

aws-xray, https://github.com/cookpad/aws-xray
In: tracing
Copyright (c) 2017 Taiki Ono

retryable, https://github.com/nfedyashev/retryable
In: command, retry
Copyright (c) 2011 Carlo Zottmann
Copyright (c) 2012 Nikita Fedyashev

Permission is hereby granted, free of charge, to any person obtaining
a copy of this software and associated documentation files (the
"Software"), to deal in the Software without restriction, including
without limitation the rights to use, copy, modify, merge, publish,
distribute, sublicense, and/or sell copies of the Software, and to
permit persons to whom the Software is furnished to do so, subject to
the following conditions:

The above copyright notice and this permission notice shall be
included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND,
EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF
MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE
LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION
OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION
WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
`

// TestNotice compares NOTICE with the modules that programs link which import the packages. It
// fails if a linked module has no entry.
func TestNotice(t *testing.T) {
	want := notice(t)
	if os.Getenv("PILLION_NOTICE") == "write" {
		if err := os.WriteFile("NOTICE", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile("NOTICE")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(got), "\n"), strings.Split(want, "\n")); diff != "" {
		t.Errorf("NOTICE differs from what is linked: look at the licenses, then go generate . (-got +want):\n%s", diff)
	}
}

// notice returns what NOTICE should be.
func notice(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	text.WriteString(ownNotice + line + ported)
	linked := linkedModules(t)
	for _, m := range slices.SortedFunc(maps.Keys(linked), func(a, b module) int { return strings.Compare(a.path, b.path) }) {
		fmt.Fprintf(&text, "%s\n%s, https://pkg.go.dev/%s\nIn: %s\n\n%s", line, m.path, m.path, strings.Join(linked[m], ", "), m.notices(t))
	}
	return text.String()
}

const line = "\n--------------------------------------------------------------------------------\n"

// module is a module and the directory of its source.
type module struct{ path, dir string }

// linkedModules returns the modules that are linked into programs which import packages of this
// module, and the packages that need each of them.
func linkedModules(t *testing.T) map[module][]string {
	t.Helper()
	const name = `{{if ne .Name "main"}}{{.ImportPath}}{{end}}`
	linked := map[module][]string{}
	for _, pkg := range goList(t, "-f", name, "./...") {
		if strings.Contains(pkg, "/internal/") {
			continue
		}
		for _, dep := range goList(t, "-deps", "-f", `{{with .Module}}{{if not .Main}}{{.Path}} {{.Dir}}{{end}}{{end}}`, pkg) {
			path, dir, _ := strings.Cut(dep, " ")
			short := pkg[strings.LastIndexByte(pkg, '/')+1:]
			if m := (module{path, dir}); !slices.Contains(linked[m], short) {
				linked[m] = append(linked[m], short)
			}
		}
	}
	if len(linked) == 0 {
		t.Fatal("no module is linked")
	}
	return linked
}

// goList runs go list for one platform, so that its result is the same everywhere, and returns its
// lines. More is linked on Linux than elsewhere.
func goList(t *testing.T, args ...string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", append([]string{"list"}, args...)...)
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %q: %v", args, err)
	}
	return strings.FieldsFunc(string(out), func(r rune) bool { return r == '\n' })
}

// notices returns what the module's license requires to be passed on: its notice, and its license
// unless that is the Apache License, which is the license of this module too.
func (m module) notices(t *testing.T) string {
	t.Helper()
	text := m.read(t, "LICENSE*", "COPYING*")
	if text == "" {
		t.Fatalf("%s has no license", m.path)
	}
	if strings.HasPrefix(strings.TrimSpace(text), "Apache License") {
		text = "Licensed under the Apache License, Version 2.0, whose text is in the file LICENSE.\n"
		if notice := m.read(t, "NOTICE*"); notice != "" {
			text += "\n" + notice
		}
	}
	return text
}

// read returns the first of the module's files that match, "" for none.
func (m module) read(t *testing.T, patterns ...string) string {
	t.Helper()
	for _, pattern := range patterns {
		found, err := filepath.Glob(filepath.Join(m.dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range found {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			return strings.TrimSpace(strings.ReplaceAll(string(text), "\r\n", "\n")) + "\n"
		}
	}
	return ""
}
