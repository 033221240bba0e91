package parity

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var record = flag.String("record", "", "directory of scenarios, *.json, to record with an Envoy: each becomes a *.json.gz in testdata/golden")

// TestRecord records scenarios with a real Envoy.
func TestRecord(t *testing.T) {
	if *record == "" {
		t.Skip("-record is not set: set it to a directory of scenarios")
	}
	binary := FindEnvoy()
	if binary == "" {
		t.Fatal("no Envoy found: set PILLION_ENVOY or put envoy on PATH")
	}
	files, err := filepath.Glob(filepath.Join(*record, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) { recordFile(t, binary, path) })
	}
}

// recordFile records the scenario of a file.
func recordFile(t *testing.T, binary, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c := &Case{}
	if err := strictBytes(text, &c.Scenario); err != nil {
		t.Fatal(err)
	}
	if err := c.record(t.Context(), StartEnvoy(binary)); err != nil {
		t.Fatal(err)
	}
	if err := c.write(filepath.Join("testdata", "golden", c.Scenario.Name+".json.gz")); err != nil {
		t.Fatal(err)
	}
}
