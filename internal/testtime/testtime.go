// Package testtime holds what tests share that need real time: bounded waits, and how long a soak
// takes.
package testtime

import (
	"os"
	"testing"
	"time"
)

// limit bounds each wait. It is long because the machine may be busy.
const limit = 10 * time.Second

// Eventually waits until done returns true, and fails the test after ten seconds.
func Eventually(tb testing.TB, done func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(limit); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("got nothing in %v, want it to happen", limit)
		}
	}
}

// Soak returns how long a soak takes: PILLION_SOAK, or usual.
func Soak(tb testing.TB, usual time.Duration) time.Duration {
	tb.Helper()
	text := os.Getenv("PILLION_SOAK")
	if text == "" {
		return usual
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		tb.Fatalf("PILLION_SOAK: %v", err)
	}
	return d
}
