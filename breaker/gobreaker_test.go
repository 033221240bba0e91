package breaker

import (
	"testing"
	"testing/synctest"

	"github.com/sony/gobreaker/v2"
)

// TestGobreakerSettings_golden measures how close a gobreaker with GobreakerSettings is to the
// rules of this package. It counts the recorded traces on which both admit the same calls, and
// leaves out traces that need features gobreaker lacks.
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

// sameCalls reports whether s admits the same calls as the trace. It stops at the first
// difference.
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
