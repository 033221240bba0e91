package parity

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Fuzzer plays random scenarios through an Envoy and through the library, and compares.
type Fuzzer struct {
	Envoy   string        // path of the binary
	Workers int           // scenarios that are played at the same time
	Time    time.Duration // after which no more scenarios are drawn; 0 for no limit
	Shrink  time.Duration // for each difference; 0 for no shrinking
	Dir     string        // for the cases that are found; created if needed
	Out     io.Writer     // for the report
	Log     io.Writer     // for a line after each batch; nil for none

	library StartFunc // NewLibrary; tests replace it
}

// batchSize is the number of scenarios that share an Envoy.
const batchSize = 40

// playTime bounds one play.
const playTime = 20 * time.Second

// Tally counts verdicts on scenarios.
type Tally struct {
	Same, Documented, Failing int
}

// All is the number of scenarios.
func (t Tally) All() int { return t.Same + t.Documented + t.Failing }

// verdict is the result of one comparison.
type verdict struct {
	differences []Difference
	documented  []string
	err         error
}

// same reports whether there is no difference that no rule explains.
func (v verdict) same() bool { return v.err == nil && len(v.differences) == 0 }

// Run draws a scenario for each seed, plays it on both sides, and reports the differences: for each
// of them a case with the smallest scenario that still has it.
func (f *Fuzzer) Run(ctx context.Context, seeds []uint64) (tally Tally, err error) {
	if f.library == nil {
		f.library = NewLibrary
	}
	if f.Log == nil {
		f.Log = io.Discard
	}
	began := time.Now()
	for len(seeds) > 0 && err == nil && (f.Time == 0 || time.Since(began) < f.Time) {
		n := min(batchSize, len(seeds))
		err = f.some(ctx, seeds[:n], &tally)
		seeds = seeds[n:]
		fmt.Fprintf(f.Log, "%d scenarios after %v, %d failing\n", tally.All(), time.Since(began).Round(time.Second), tally.Failing) //nolint:errcheck // it only shows progress
	}
	_, failed := fmt.Fprintf(f.Out, "parity fuzz: %d scenarios, %d same, %d documented differences, %d failing\n",
		tally.All(), tally.Same, tally.Documented, tally.Failing)
	return tally, errors.Join(err, failed)
}

// some plays the scenarios of some seeds together, and those that differ alone.
func (f *Fuzzer) some(ctx context.Context, seeds []uint64, tally *Tally) error {
	var cases []*Case
	for _, seed := range seeds {
		cases = append(cases, &Case{Scenario: *Draw(seed)})
	}
	for i, v := range f.together(ctx, cases) {
		if !v.same() {
			v = f.alone(ctx, cases[i])
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		switch {
		case !v.same():
			tally.Failing++
			if err := f.fail(ctx, cases[i], v); err != nil {
				return err
			}
		case len(v.documented) > 0:
			tally.Documented++
		default:
			tally.Same++
		}
	}
	return nil
}

// together plays cases at the same time, through one Envoy. What it returns is certain only for
// those that are equal.
func (f *Fuzzer) together(ctx context.Context, cases []*Case) []verdict {
	verdicts := make([]verdict, len(cases))
	b, err := startBatch(ctx, f.Envoy, cases)
	if err != nil {
		for i := range verdicts {
			verdicts[i].err = err
		}
		return verdicts
	}
	defer b.close()
	var playing sync.WaitGroup
	slots := make(chan struct{}, max(1, f.Workers))
	for i, c := range cases {
		slots <- struct{}{}
		playing.Go(func() {
			defer func() { <-slots }()
			verdicts[i] = f.compare(ctx, c, func(ctx context.Context) (*Played, error) { return b.play(ctx, i) })
		})
	}
	playing.Wait()
	return verdicts
}

// compare plays a case on both sides once.
func (f *Fuzzer) compare(ctx context.Context, c *Case, envoy func(ctx context.Context) (*Played, error)) verdict {
	ctx, cancel := context.WithTimeout(ctx, playTime)
	defer cancel()
	there, err := envoy(ctx)
	if err != nil {
		return verdict{err: err}
	}
	c.Observed, c.Volatile = there.Observed, nil
	here, err := c.Play(ctx, f.library)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return verdict{err: err}
	}
	differences, documented := c.Compare(here, Rules())
	return verdict{differences: differences, documented: documented}
}

// alone records a case with an Envoy of its own, and plays it until the library is equal, at most
// three times.
func (f *Fuzzer) alone(ctx context.Context, c *Case) (v verdict) {
	if err := c.record(ctx, StartEnvoy(f.Envoy)); err != nil {
		return verdict{err: err}
	}
	for range recordings {
		here, err := c.punctual(ctx, f.library)
		if err != nil {
			return verdict{err: err}
		}
		if v.differences, v.documented = c.Compare(here, Rules()); v.same() {
			break
		}
	}
	return v
}

// fail shrinks a case, and reports it.
func (f *Fuzzer) fail(ctx context.Context, c *Case, v verdict) error {
	if v.err == nil {
		smallest := &Case{Scenario: *shrink(ctx, &c.Scenario, f.stillFails(ctx, v.kinds(), time.Now().Add(f.Shrink)))}
		if w := f.alone(ctx, smallest); w.err == nil && !w.same() {
			c, v = smallest, w
		}
	}
	if err := os.MkdirAll(f.Dir, 0o750); err != nil {
		return err
	}
	path := filepath.Join(f.Dir, c.Scenario.Name+".json.gz")
	if err := c.write(path); err != nil {
		return err
	}
	text := &strings.Builder{}
	fmt.Fprintf(text, "== %s\n%s\n", path, c.Scenario.text())
	for _, d := range v.differences {
		fmt.Fprintf(text, "   %v\n", d)
	}
	if v.err != nil {
		fmt.Fprintf(text, "   %v\n", v.err)
	}
	_, err := io.WriteString(f.Out, text.String())
	return err
}

// stillFails returns a test for scenarios that shrink: it returns the first one that has a
// difference of one of the kinds, and its place; -1 for none, or after the deadline.
func (f *Fuzzer) stillFails(ctx context.Context, kinds map[string]bool, deadline time.Time) func(candidates []*Scenario) int {
	return func(candidates []*Scenario) int {
		if time.Now().After(deadline) {
			return -1
		}
		var cases []*Case
		for _, s := range candidates {
			cases = append(cases, &Case{Scenario: *s})
		}
		verdicts := f.together(ctx, cases)
		for i, v := range verdicts {
			broken := v.err != nil && len(cases) > 1 // Envoy may have refused another one
			if !broken && !v.isOf(kinds) {
				continue
			}
			if again := f.alone(ctx, cases[i]); again.isOf(kinds) {
				return i
			}
		}
		return -1
	}
}

// kinds are the paths of the differences, without numbers.
func (v verdict) kinds() map[string]bool {
	kinds := map[string]bool{}
	for _, d := range v.differences {
		kinds[digits.ReplaceAllString(d.Path, "#")] = true
	}
	return kinds
}

var digits = regexp.MustCompile(`\d+`)

// isOf reports whether a difference is of one of the kinds.
func (v verdict) isOf(kinds map[string]bool) bool {
	for kind := range v.kinds() {
		if v.err == nil && kinds[kind] {
			return true
		}
	}
	return false
}

// text formats a scenario as a file, without the fields that are empty.
func (s *Scenario) text() string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(s.tree()); err != nil {
		panic(err) // it is made of JSON
	}
	return strings.TrimSpace(b.String())
}

// valid returns an error for a scenario that one of the sides cannot play.
func (s *Scenario) valid(ctx context.Context) error {
	c := &Case{Format: 1, Scenario: *s}
	if err := c.check(); err != nil {
		return err
	}
	if len(s.Upstream.Hosts) == 0 || len(s.requests()) == 0 {
		return errors.New("no host or no call")
	}
	var addresses Addresses // nothing is sent to them
	for i := range s.Upstream.Hosts {
		addresses = append(addresses, fmt.Sprintf("127.0.0.1:%d", i+1))
	}
	side, err := NewLibrary(ctx, s, addresses)
	if err != nil {
		return err
	}
	side.Close()
	return nil
}
