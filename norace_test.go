//go:build !race

package pillion_test

const raceEnabled = false
