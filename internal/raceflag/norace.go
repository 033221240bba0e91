//go:build !race

// Package raceflag reports whether the race detector is built in. Tests that count allocations or
// measure time skip that part under it.
package raceflag

// Enabled reports whether the race detector is built in.
const Enabled = false
