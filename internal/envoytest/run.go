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
func Binary(tb testing.TB) string {
	tb.Helper()
	binary := Find()
	switch {
	case binary == "":
		tb.Skip("SKIPPED, NOTHING WAS COMPARED: there is no envoy on PATH and PILLION_ENVOY does not name one")
	case !filepath.IsAbs(binary):
		tb.Fatalf("PILLION_ENVOY: got %q, want an absolute path", binary)
	}
	return binary
}

// Run runs a real Envoy until the test ends, or skips the test. The admin page responds when it
// returns.
func Run(tb testing.TB, config Object) *Envoy {
	tb.Helper()
	text, err := json.Marshal(config)
	if err != nil {
		tb.Fatal(err)
	}
	e, err := Start(context.WithoutCancel(tb.Context()), Binary(tb), func(string) ([]byte, error) { return text, nil }) // the cleanup stops it
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if output := e.Close(); tb.Failed() {
			tb.Logf("Envoy's output:\n%s", output)
		}
	})
	return e
}

// RunListening is [Run], and waits for the listener.
func RunListening(tb testing.TB, config Object) *Envoy {
	tb.Helper()
	e := Run(tb, config)
	if err := e.Listen(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return e
}

// Validates reports whether a real Envoy accepts a configuration, or skips the test.
func Validates(tb testing.TB, config Object) bool {
	tb.Helper()
	file := filepath.Join(tb.TempDir(), "envoy.json")
	text, err := json.Marshal(config)
	if err == nil {
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return exec.CommandContext(tb.Context(), Binary(tb), "--mode", "validate", "-l", "off", "-c", file).Run() == nil //nolint:gosec // the environment says which
}

// MustPage reads a page of the admin interface.
func (e *Envoy) MustPage(tb testing.TB, target string) string {
	tb.Helper()
	page, err := e.Page(tb.Context(), target)
	if err != nil {
		tb.Fatal(err)
	}
	return string(page)
}

// MustStats is [Envoy.Stats].
func (e *Envoy) MustStats(tb testing.TB, filter string) map[string]uint64 {
	tb.Helper()
	stats, err := e.Stats(tb.Context(), filter)
	if err != nil {
		tb.Fatal(err)
	}
	return stats
}

// Eventually waits until done, for 30 seconds at most.
func Eventually(tb testing.TB, what string, done func() bool) {
	tb.Helper()
	const limit = 30 * time.Second
	for deadline := time.Now().Add(limit); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("Envoy has not shown %s within %v", what, limit)
		}
	}
}
