package parity

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

var show = flag.Bool("show", false, "show what each side did in each scenario")

// verdicts collects the results of the cases.
type verdicts struct {
	mu         sync.Mutex
	same       map[string][]string // all under one key; guarded by mu
	documented map[string][]string // cases of each rule; guarded by mu
	notYet     map[string][]string // cases of each missing part; guarded by mu
	failing    map[string][]string // all under one key; guarded by mu
}

// TestGolden plays every recorded scenario against the library.
func TestGolden(t *testing.T) {
	cases := load(t)
	v := &verdicts{same: map[string][]string{}, documented: map[string][]string{}, notYet: map[string][]string{}, failing: map[string][]string{}}
	t.Run("cases", func(t *testing.T) {
		for _, c := range cases {
			t.Run(c.Scenario.Name, func(t *testing.T) {
				t.Parallel()
				v.judge(t, c)
			})
		}
	})
	v.report(t, cases)
}

// load reads the cases of testdata, or of the directory that PILLION_GOLDEN_ENVOY
// names.
func load(t *testing.T) []*Case {
	t.Helper()
	dir := os.Getenv("PILLION_GOLDEN_ENVOY")
	if dir == "" {
		dir = "testdata/golden"
	}
	cases, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return cases
}

// judge plays one case. A statistical case that is different may be a coincidence: then it
// must be equal twice.
func (v *verdicts) judge(t *testing.T, c *Case) {
	t.Helper()
	differences, documented, err := playOnce(t, c)
	if len(differences) > 0 && c.Scenario.Statistical {
		t.Logf("different, so it is played twice more: %v", differences)
		if differences, documented, err = playOnce(t, c); len(differences) == 0 {
			differences, documented, err = playOnce(t, c)
		}
	}
	if missing, ok := errors.AsType[*NotYetError](err); ok {
		v.add(v.notYet, missing.Missing, c)
		return
	}
	if err != nil {
		v.add(v.failing, "", c)
		t.Fatal(err)
	}
	for _, d := range differences {
		t.Error(d)
	}
	v.file(c, len(differences) > 0, documented)
}

// file records the verdict on a case.
func (v *verdicts) file(c *Case, failing bool, documented []string) {
	switch {
	case failing:
		v.add(v.failing, "", c)
	case len(documented) == 0:
		v.add(v.same, "", c)
	default:
		for _, name := range documented {
			v.add(v.documented, name, c)
		}
	}
}

// playOnce plays a case against the library.
func playOnce(t *testing.T, c *Case) (differences []Difference, documented []string, err error) {
	t.Helper()
	played, err := c.punctual(t.Context(), NewLibrary)
	if err != nil {
		return nil, nil, err
	}
	differences, documented = c.Compare(played, Rules())
	if *show || len(differences) > 0 {
		showSides(t, c, played)
	}
	return differences, documented, nil
}

func (v *verdicts) add(to map[string][]string, key string, c *Case) {
	v.mu.Lock()
	defer v.mu.Unlock()
	to[key] = append(to[key], c.Scenario.Name)
}

// showSides shows the values of the recording, of the library and, if there is one, of an
// Envoy.
func showSides(t *testing.T, c *Case, library *Played) {
	t.Helper()
	recorded, here := c.Observed.view(), library.view()
	there := view{}
	if binary := FindEnvoy(); binary != "" {
		played, err := c.punctual(t.Context(), StartEnvoy(binary))
		if err != nil {
			t.Logf("envoy: %v", err)
		} else {
			there = played.view()
		}
	}
	all := maps.Clone(recorded)
	maps.Copy(all, here)
	maps.Copy(all, there)
	var b strings.Builder
	for _, path := range slices.Sorted(maps.Keys(all)) {
		mark := " "
		if recorded[path] != here[path] {
			mark = "!"
		}
		fmt.Fprintf(&b, "%s %-90s recorded %-24q library %-24q envoy %q\n", mark, path, recorded[path], here[path], there[path])
	}
	t.Log("\n" + b.String())
}

// report logs a summary line. If all cases of the project were played, each rule must be
// needed by one of them.
func (v *verdicts) report(t *testing.T, cases []*Case) {
	t.Helper()
	different := map[string]bool{}
	for _, rule := range Rules() {
		names := v.documented[rule.Name]
		slices.Sort(names)
		t.Logf("documented difference: %s: %s", rule.Name, strings.Join(names, " "))
		if len(names) == 0 && v.all() == len(cases) && complete(t, cases) {
			t.Errorf("no case needs the rule %s", rule.Name)
		}
		for _, name := range names {
			different[name] = true
		}
	}
	missing := 0
	for _, part := range slices.Sorted(maps.Keys(v.notYet)) {
		names := v.notYet[part]
		slices.Sort(names)
		t.Logf("not yet: %s: %s", part, strings.Join(names, " "))
		missing += len(names)
	}
	t.Logf("golden envoy: %d cases, %d same, %d documented differences, %d not yet, %d failing",
		len(cases), len(v.same[""]), len(different), missing, len(v.failing[""]))
}

// all returns the number of cases that have a verdict.
func (v *verdicts) all() int {
	names := map[string]bool{}
	for _, verdict := range []map[string][]string{v.same, v.documented, v.notYet} {
		for _, list := range verdict {
			for _, name := range list {
				names[name] = true
			}
		}
	}
	return len(names)
}

// complete reports whether all cases of the project were played.
func complete(t *testing.T, cases []*Case) bool {
	t.Helper()
	own, err := filepath.Glob("testdata/golden/*.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, c := range cases {
		there[c.Scenario.Name+".json.gz"] = true
	}
	return !slices.ContainsFunc(own, func(path string) bool { return !there[filepath.Base(path)] })
}
