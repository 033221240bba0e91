package pillion_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestReadmeCompiles builds each program of the README as its reader would.
func TestReadmeCompiles(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	programs := 0
	for block := range strings.SplitSeq(string(text), "```go\n") {
		code, _, ok := strings.Cut(block, "```")
		if !ok || !strings.HasPrefix(code, "package main") {
			continue
		}
		programs++
		compile(t, code)
	}
	if programs == 0 {
		t.Error("README.md has no program")
	}
}

// compile vets code as a package of this module, which exists in an overlay only.
func compile(t *testing.T, code string) {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	if err := os.WriteFile(source, []byte(code), 0o600); err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	virtual := filepath.Join(here, "readme", "main.go")
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{virtual: source}})
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(dir, "overlay.json")
	if err = os.WriteFile(list, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // a cold cache takes its time
	defer cancel()
	out, err := exec.CommandContext(ctx, "go", "build", "-overlay", list, "-o", filepath.Join(dir, "program"), "./readme").CombinedOutput()
	if err != nil {
		t.Errorf("go build: %v\n%s\n%s", err, out, code)
	}
}
