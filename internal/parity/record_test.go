package parity

import (
	"compress/gzip"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var record = flag.String("record", "", "directory of scenarios, *.json, to record with an Envoy: each becomes a *.json.gz in testdata/golden")

// recordings is the number of plays of a scenario that is recorded.
const recordings = 3

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
	c := &Case{Format: 1, EnvoyVersion: "1.40.0", Runs: recordings}
	if err := strictBytes(text, &c.Scenario); err != nil {
		t.Fatal(err)
	}
	recordCase(t, binary, c)
	writeCase(t, filepath.Join("testdata", "golden", c.Scenario.Name+".json.gz"), c)
}

// recordCase plays the scenario of c, and keeps the observations of the first play and the
// values that differ in later ones.
func recordCase(t *testing.T, binary string, c *Case) {
	t.Helper()
	if err := c.check(); err != nil {
		t.Fatal(err)
	}
	var views []view
	for i := range recordings {
		played, err := punctual(t, c, StartEnvoy(binary))
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			c.Observed = played.Observed
		}
		views = append(views, played.view())
		c.TimingRuns = append(c.TimingRuns, played.Timing)
	}
	c.Volatile = unlike(t, views)
}

// unlike returns the paths whose values are not equal in all views.
func unlike(t *testing.T, views []view) map[string][]json.RawMessage {
	t.Helper()
	found := map[string][]json.RawMessage{}
	for _, v := range views {
		for path := range v {
			if values, same := valuesAt(t, views, path); !same {
				found[path] = values
			}
		}
	}
	return found
}

func valuesAt(t *testing.T, views []view, path string) (values []json.RawMessage, same bool) {
	t.Helper()
	same = true
	for _, v := range views {
		same = same && v[path] == views[0][path]
		text, err := json.Marshal(v[path])
		if err != nil {
			t.Fatal(err)
		}
		values = append(values, text)
	}
	return values, same
}

func writeCase(t *testing.T, path string, c *Case) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(f)
	if err := json.NewEncoder(z).Encode(c); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
