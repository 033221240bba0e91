package pillion_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/policy"
)

// claiming is a policy that an upstream may have once for each name.
type claiming string

func (c claiming) Wrap(s *policy.Builder, next policy.Func) (policy.Func, error) {
	if !s.Claim(c) {
		return nil, errors.New("twice: " + string(c))
	}
	return next, nil
}

func TestBuilder_Claim(t *testing.T) {
	if _, err := pillion.New("recipes", claiming("a"), claiming("b")); err != nil {
		t.Errorf("different keys: got %v, want no error", err)
	}
	_, err := pillion.New("recipes", claiming("a"), claiming("b"), claiming("a"))
	if want := `upstream "recipes": twice: a`; err == nil || err.Error() != want {
		t.Errorf("one key twice: got %v, want %q", err, want)
	}
	if _, err := pillion.New("recipes", claiming("a")); err != nil {
		t.Errorf("another upstream: got %v, want no error", err)
	}
}

// TestCall_limitsRead reads the limits that outer policies have set.
func TestCall_limitsRead(t *testing.T) {
	for _, tc := range []struct {
		name       string
		total, try time.Duration
		want       time.Duration
	}{
		{"none", 0, 0, 0},
		{"only total", time.Minute, 0, 0},
		{"only per try", 0, time.Second, time.Second},
		{"per try shorter than the total", time.Minute, time.Second, time.Second},
		{"as long as the total", time.Second, time.Second, 0},
		{"longer than the total", time.Second, time.Minute, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			u, err := pillion.New("recipes", pillion.Options{LocalReplies: tc.total != 0},
				policyFunc(func(_ *policy.Builder, next policy.Func) (policy.Func, error) {
					return func(ctx context.Context, c *policy.Call) *policy.Outcome {
						if tc.total != 0 {
							c.LimitTotal(tc.total)
						}
						if tc.try != 0 {
							c.LimitPerTry(tc.try)
						}
						if got := c.PerTryLimit(); got != tc.want {
							t.Errorf("PerTryLimit: got %v, want %v", got, tc.want)
						}
						return next(ctx, c)
					}, nil
				}))
			if err != nil {
				t.Fatal(err)
			}
			if got := u.Options().LocalReplies; got != (tc.total != 0) {
				t.Errorf("LocalReplies: got %v, want %v", got, !got)
			}
			if _, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 0, nil }); err != nil {
				t.Fatal(err)
			}
		})
	}
}
