//go:build race

package pilliongrpc_test

const raceEnabled = true
