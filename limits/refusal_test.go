package limits

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// TestRefusal checks all effects of a refusal.
func TestRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []policy.EventKind
		u := upstream(t, Config{MaxRequests: 1}, policy.Listener(func(_ context.Context, e policy.Event) {
			events = append(events, e.Kind)
		}))
		defer open(t.Context(), t, u).Body.Close()
		events = nil
		client := &http.Client{Transport: u.Transport(roundTripper(func(*http.Request) (*http.Response, error) {
			t.Error("a refused call was sent")
			return nil, errBroken
		}))}
		ctx, info := pillion.WithInfo(t.Context())
		body := &closeWatch{Reader: strings.NewReader("a body")}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://recipes/", body)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err = client.Do(req)
		if waited := time.Since(began); waited != 0 {
			t.Errorf("got a refusal after %v, want it immediately", waited)
		}
		var refused *FullError
		if !errors.Is(err, ErrFull) || !errors.As(err, &refused) {
			t.Fatalf("got %v, want a FullError", err)
		}
		if want := (FullError{Upstream: "recipes", Limit: "max_requests", Max: 1}); *refused != want {
			t.Errorf("got %+v, want %+v", *refused, want)
		}
		if got, want := refused.Error(), "limits: recipes: max_requests of 1 reached; is the body of every response closed?"; got != want {
			t.Errorf("got text %q, want %q", got, want)
		}
		if info.Flags() != envoy.UO || info.Detail() != Overflow || info.Attempts() != 1 || !info.Done() {
			t.Errorf("got flags %v, details %v, %d attempts, done: %v, want UO, overflow, 1, true",
				info.Flags(), info.Detail(), info.Attempts(), info.Done())
		}
		if !body.closed {
			t.Error("the body of the refused request is not closed")
		}
		if want := []policy.EventKind{policy.EventRefused, policy.EventEnd}; !slices.Equal(events, want) {
			t.Errorf("got events %v, want %v", events, want)
		}
	})
}

// closeWatch is a body that records whether it was closed.
type closeWatch struct {
	*strings.Reader
	closed bool
}

func (b *closeWatch) Close() error {
	b.closed = true
	return nil
}

// TestFullErrorIs matches a FullError with other errors.
func TestFullErrorIs(t *testing.T) {
	err := fmt.Errorf("asking: %w", &FullError{Upstream: "recipes", Limit: "max_requests", Max: 1})
	if !errors.Is(err, ErrFull) || errors.Is(err, errBroken) || errors.Is(errBroken, ErrFull) {
		t.Errorf("got %v match ErrFull: %v, another error: %v, want only the former",
			err, errors.Is(err, ErrFull), errors.Is(err, errBroken))
	}
}

// measured counts the allocations of the policies inside it.
type measured struct{ allocs *float64 }

func (p measured) Wrap(_ *policy.Builder, next policy.Func) (policy.Func, error) {
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		*p.allocs = testing.AllocsPerRun(100, func() { next(ctx, c) })
		return next(ctx, c)
	}, nil
}

// good always returns the same outcome and sends nothing.
type good struct{}

func (good) Wrap(*policy.Builder, policy.Func) (policy.Func, error) {
	o := &policy.Outcome{Code: 200, Detail: envoy.ViaUpstream}
	return func(context.Context, *policy.Call) *policy.Outcome { return o }, nil
}

// TestCostsNothing checks that neither a refusal, which must be cheap under overload, nor an
// admission allocates.
func TestCostsNothing(t *testing.T) {
	for _, tc := range []struct {
		name string
		cfg  Config
		want error
	}{
		{"refused", Config{MaxRequests: Zero}, ErrFull},
		{"admitted", Config{}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			allocs := -1.0
			u := upstream(t, measured{&allocs}, tc.cfg, good{})
			_, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 0, nil })
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if allocs != 0 {
				t.Errorf("got %v allocations, want 0", allocs)
			}
		})
	}
}
