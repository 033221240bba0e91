package pillion_test

import (
	"context"
	"testing"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/policy"
)

// TestListener_panics wants a listener that panics to keep no event from the others, and
// the panic to go on to the caller.
func TestListener_panics(t *testing.T) {
	for _, at := range []policy.EventKind{policy.EventAttempt, policy.EventAttemptEnd, policy.EventEnd} {
		t.Run(at.String(), func(t *testing.T) {
			var outer, inner [policy.EventEnd + 1]int
			u := newUpstream(t,
				pillion.Listener(func(_ context.Context, e policy.Event) { outer[e.Kind]++ }),
				pillion.Listener(func(_ context.Context, e policy.Event) {
					if e.Kind == at {
						panic("soup")
					}
				}),
				pillion.Listener(func(_ context.Context, e policy.Event) { inner[e.Kind]++ }),
			)
			func() {
				defer func() {
					if p := recover(); p != "soup" {
						t.Errorf("got the panic %v, want soup", p)
					}
				}()
				_, _ = pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 0, nil })
			}()
			for name, heard := range map[string][policy.EventEnd + 1]int{"outer": outer, "inner": inner} {
				for _, kind := range []policy.EventKind{policy.EventAttempt, policy.EventAttemptEnd, policy.EventEnd} {
					if heard[kind] != 1 {
						t.Errorf("the %s listener: got %d times %v, want 1", name, heard[kind], kind)
					}
				}
			}
		})
	}
}
