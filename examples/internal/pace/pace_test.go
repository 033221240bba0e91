package pace

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// starts returns when calls start that take a while and block the loop for that time.
func starts(ctx context.Context, calls int, takes time.Duration) []time.Duration {
	var at []time.Duration
	began := time.Now()
	for n, due := range Calls(ctx, calls, 10) {
		if n != len(at) || due != began.Add(time.Duration(n)*100*time.Millisecond) {
			return nil
		}
		at = append(at, time.Since(began))
		time.Sleep(takes)
	}
	return at
}

func TestCalls(t *testing.T) {
	const ms = time.Millisecond
	for name, test := range map[string]struct {
		calls         int
		takes, cancel time.Duration
		want          []time.Duration
	}{
		"on time":           {3, 0, time.Hour, []time.Duration{0, 100 * ms, 200 * ms}},
		"late calls":        {4, 150 * ms, time.Hour, []time.Duration{0, 150 * ms, 300 * ms, 450 * ms}},
		"the context ended": {9, 0, 250 * ms, []time.Duration{0, 100 * ms, 200 * ms}},
		"no calls":          {0, 0, time.Hour, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), test.cancel)
				defer cancel()
				if got := starts(ctx, test.calls, test.takes); !slices.Equal(got, test.want) {
					t.Errorf("got %v, want %v", got, test.want)
				}
			})
		})
	}
}
