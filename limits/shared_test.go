package limits

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/policy"
)

// TestNew_shared shares the slots of one Limits between two upstreams. The error names the upstream
// whose call was refused.
func TestNew_shared(t *testing.T) {
	shared, err := New(Config{MaxRequests: 1})
	if err != nil {
		t.Fatal(err)
	}
	first, second := upstream(t, shared), upstream(t, shared)
	refused := func(context.Context) (int, error) {
		return pillion.Do(t.Context(), second, func(context.Context) (int, error) { return 0, nil })
	}
	_, err = pillion.Do(t.Context(), first, refused)
	full, ok := errors.AsType[*FullError](err)
	if !ok || full.Upstream != second.Name() || full.Max != 1 {
		t.Errorf("got %v, want a FullError of the second upstream", err)
	}
	if _, err = refused(t.Context()); err != nil {
		t.Errorf("afterwards: got %v, want a free slot", err)
	}
}

// TestConfig_separate checks that a Config makes separate slots in each upstream.
func TestConfig_separate(t *testing.T) {
	cfg := Config{MaxRequests: 1}
	first, second := upstream(t, cfg), upstream(t, cfg)
	_, err := pillion.Do(t.Context(), first, func(context.Context) (int, error) {
		return pillion.Do(t.Context(), second, func(context.Context) (int, error) { return 0, nil })
	})
	if err != nil {
		t.Errorf("got %v, want a slot in each", err)
	}
}

// TestNew_invalid checks the errors of invalid fields and of Limits not made by New.
func TestNew_invalid(t *testing.T) {
	if l, err := New(Config{MaxRequests: -7, MaxRetries: -8}); l != nil || err == nil ||
		!strings.Contains(err.Error(), "MaxRequests: -7") || !strings.Contains(err.Error(), "MaxRetries: -8") {
		t.Errorf("got %v, %v, want both fields", l, err)
	}
	for _, p := range []policy.Policy{(*Limits)(nil), &Limits{}} {
		if _, err := pillion.New("recipes", p); !errors.Is(err, errUnmade) {
			t.Errorf("%#v: got %v, want errUnmade", p, err)
		}
	}
}
