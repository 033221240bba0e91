package parity

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"os"
	"time"
)

// recordings is the number of plays of a scenario that is recorded.
const recordings = 3

// tolerable is the maximum delay of a timed step of a play: the times of recordings are at
// least 40 ms apart.
const tolerable = 25 * time.Millisecond

// punctual plays a case, and repeats it if the machine was too busy to keep the times,
// because that was another scenario.
func (c *Case) punctual(ctx context.Context, start StartFunc) (played *Played, err error) {
	for range 12 {
		played, err = c.Play(ctx, start)
		if err != nil || played.Late < tolerable {
			break
		}
	}
	return played, err
}

// record plays the scenario of c through an Envoy, and keeps the observations of the first play
// and the values that differ in later ones.
func (c *Case) record(ctx context.Context, start StartFunc) error {
	c.Format, c.EnvoyVersion, c.Runs = 1, "1.40.0", recordings
	c.TimingRuns = nil
	if err := c.check(); err != nil {
		return err
	}
	var views []view
	for plays := 0; len(views) < recordings && plays < 6*recordings; plays++ {
		played, err := c.punctual(ctx, start)
		if err != nil {
			return err
		}
		if len(views) == 0 {
			c.Observed = played.Observed
		}
		if (&Case{Scenario: c.Scenario, Observed: played.Observed}).firstHost() != c.firstHost() {
			continue // chance decides where hosts that take turns begin
		}
		views = append(views, played.view())
		c.TimingRuns = append(c.TimingRuns, played.Timing)
	}
	c.Volatile = unlike(views)
	return nil
}

// unlike returns the paths whose values are not equal in all views.
func unlike(views []view) map[string][]json.RawMessage {
	found := map[string][]json.RawMessage{}
	for _, v := range views {
		for path := range v {
			if values, same := valuesAt(views, path); !same {
				found[path] = values
			}
		}
	}
	return found
}

func valuesAt(views []view, path string) (values []json.RawMessage, same bool) {
	same = true
	for _, v := range views {
		same = same && v[path] == views[0][path]
		text, err := json.Marshal(v[path])
		if err != nil {
			panic(err) // it is text
		}
		values = append(values, text)
	}
	return values, same
}

// write writes the case to a file in the format of recordings.
func (c *Case) write(path string) error {
	f, err := os.Create(path) //nolint:gosec // the caller chooses the path
	if err != nil {
		return err
	}
	z := gzip.NewWriter(f)
	err = json.NewEncoder(z).Encode(c)
	if failed := z.Close(); err == nil {
		err = failed
	}
	if failed := f.Close(); err == nil {
		err = failed
	}
	return err
}
