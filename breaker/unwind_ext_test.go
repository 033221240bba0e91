package breaker_test

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
)

// TestUnwind_trial ends the goroutine of a trial, or panics in it: the trial counts as failed,
// and the circuit admits another one later.
func TestUnwind_trial(t *testing.T) {
	const sleep = time.Second
	settings := gobreaker.Settings{Timeout: sleep, ReadyToTrip: func(gobreaker.Counts) bool { return true }}
	for _, name := range []string{"own", "plain", "two-step"} {
		for what, unwind := range map[string]func(){"exits": runtime.Goexit, "panics": func() { panic("soup") }} {
			t.Run(name+" "+what, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					circuit := pillion.Policy(breaker.Config{NonBreakCount: 1, Sleep: sleep})
					if engine := engines[name]; engine != nil {
						circuit = engine(t, settings)
					}
					u, err := pillion.New("recipes", circuit)
					if err != nil {
						t.Fatal(err)
					}
					fail := func(context.Context) (int, error) { return 0, errBoom }
					_, _ = pillion.Do(t.Context(), u, fail)
					_, _ = pillion.Do(t.Context(), u, fail) // opens a circuit of this package
					time.Sleep(2 * sleep)
					var recovered any
					returned, done := false, make(chan struct{})
					go func() {
						defer close(done)
						defer func() { recovered = recover() }()
						_, _ = pillion.Do(t.Context(), u, func(context.Context) (int, error) { unwind(); return 0, nil })
						returned = true
					}()
					<-done
					if want := map[string]any{"exits": nil, "panics": "soup"}[what]; returned || recovered != want {
						t.Errorf("the trial: returned %v, panicked with %v, want %v", returned, recovered, want)
					}
					time.Sleep(2 * sleep)
					if got, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 1, nil }); err != nil || got != 1 {
						t.Errorf("the next trial: got %v, %v, want it admitted", got, err)
					}
				})
			})
		}
	}
}
