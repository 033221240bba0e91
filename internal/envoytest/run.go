package envoytest

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Binary returns the path of a real Envoy, or skips the test.
func Binary(t testing.TB) string {
	t.Helper()
	binary := Find()
	switch {
	case binary == "":
		t.Skip("SKIPPED, NOTHING WAS COMPARED: there is no envoy on PATH and PILLION_ENVOY does not name one")
	case !filepath.IsAbs(binary):
		t.Fatalf("PILLION_ENVOY: got %q, want an absolute path", binary)
	}
	return binary
}

// Run runs a real Envoy until the test ends, or skips the test. The admin page responds when it
// returns.
func Run(t testing.TB, config Object) *Envoy {
	t.Helper()
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	e, err := Start(context.WithoutCancel(t.Context()), Binary(t), func(string) ([]byte, error) { return text, nil }) // the cleanup stops it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if output := e.Close(); t.Failed() {
			t.Logf("Envoy's output:\n%s", output)
		}
	})
	return e
}

// RunListening is [Run], and waits for the listener.
func RunListening(t testing.TB, config Object) *Envoy {
	t.Helper()
	e := Run(t, config)
	if err := e.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	return e
}

// Validates reports whether a real Envoy accepts a configuration, or skips the test.
func Validates(t testing.TB, config Object) bool {
	t.Helper()
	file := filepath.Join(t.TempDir(), "envoy.json")
	text, err := json.Marshal(config)
	if err == nil {
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return exec.CommandContext(t.Context(), Binary(t), "--mode", "validate", "-l", "off", "-c", file).Run() == nil //nolint:gosec // the environment says which
}

// MustPage reads a page of the admin interface.
func (e *Envoy) MustPage(t testing.TB, target string) string {
	t.Helper()
	page, err := e.Page(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// MustStats is [Envoy.Stats].
func (e *Envoy) MustStats(t testing.TB, filter string) map[string]uint64 {
	t.Helper()
	stats, err := e.Stats(t.Context(), filter)
	if err != nil {
		t.Fatal(err)
	}
	return stats
}

// Eventually waits until done, for 30 seconds at most.
func Eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	const limit = 30 * time.Second
	for deadline := time.Now().Add(limit); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("Envoy has not shown %s within %v", what, limit)
		}
	}
}
