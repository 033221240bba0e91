package breaker

import (
	"testing"
	"testing/synctest"

	"github.com/sony/gobreaker/v2"
)

// TestGobreakerSettings_golden measures how near a gobreaker with GobreakerSettings
// comes to the rules of this package: on how many of the recorded traces that ask for
// nothing it lacks it admits the same calls.
func TestGobreakerSettings_golden(t *testing.T) {
	same, all := 0, 0
	for _, tr := range readTraces(t) {
		if tr.has("reset", "record") || tr.stepsBack() {
			continue
		}
		all++
		synctest.Test(t, func(t *testing.T) {
			settings, err := GobreakerSettings(tr.Config.config())
			if err != nil {
				t.Fatal(err)
			}
			b, err := FromGobreaker[any](gobreaker.NewTwoStepCircuitBreaker[any](settings))
			if err != nil {
				t.Fatal(err)
			}
			subject := newHandSubject(t, tr.Config).(*handSubject)
			subject.breaker = b
			if tr.sameCalls(t, subject) {
				same++
			}
		})
	}
	t.Logf("gobreaker admits the same calls on %d of %d traces", same, all)
	if same < 20 {
		t.Errorf("got %d traces with the same calls, want at least 20 of %d", same, all)
	}
}

// sameCalls reports whether s lets the same calls run as the trace tells, up to
// the end or the first that is not.
func (tr trace) sameCalls(t *testing.T, s subject) bool {
	t.Helper()
	flying := map[int]func(string){}
	for _, e := range tr.Events {
		if ran := happen(t, s, e, flying); e.Ran != nil && ran != *e.Ran {
			return false
		}
	}
	return true
}
