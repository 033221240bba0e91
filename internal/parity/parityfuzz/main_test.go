package main

import (
	"slices"
	"testing"
)

func TestParseSeeds(t *testing.T) {
	for list, want := range map[string][]uint64{"3": {1, 2, 3}, "7-9": {7, 8, 9}, "5-5": {5}} {
		if got, err := parseSeeds(list); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %v, %v, want %v", list, got, err, want)
		}
	}
	for _, list := range []string{"", "many", "1-", "-3", "9-7", "0"} {
		if got, err := parseSeeds(list); err == nil {
			t.Errorf("%s: got %v, want an error", list, got)
		}
	}
}
