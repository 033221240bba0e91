package pillion_test

import (
	"context"
	"testing"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/policy"
)

// TestListener_panics pins that the other listeners receive each event if one listener panics, and
// that the panic goes on to the caller.
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
			for name, seen := range map[string][policy.EventEnd + 1]int{"outer": outer, "inner": inner} {
				for _, kind := range []policy.EventKind{policy.EventAttempt, policy.EventAttemptEnd, policy.EventEnd} {
					if seen[kind] != 1 {
						t.Errorf("the %s listener: got %d times %v, want 1", name, seen[kind], kind)
					}
				}
			}
		})
	}
}
