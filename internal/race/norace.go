//go:build !race

// Package race says whether the race detector is built in: tests that count allocations or
// measure time leave that out under it.
package race

// Enabled reports whether the race detector is built in.
const Enabled = false
