// Package pace starts calls at a fixed rate.
package pace

import (
	"context"
	"iter"
	"time"
)

// Calls yields the numbers of calls, from 0, each with the time when it is due and not before. It
// stops when ctx ends. Calls at a fixed rate do not wait for earlier ones: start each in a goroutine.
func Calls(ctx context.Context, calls int, perSecond float64) iter.Seq2[int, time.Time] {
	return func(yield func(n int, due time.Time) bool) {
		began := time.Now()
		for n := range calls {
			due := began.Add(time.Duration(float64(n) / perSecond * float64(time.Second)))
			if !WaitUntil(ctx, due) || !yield(n, due) {
				return
			}
		}
	}
}

// WaitUntil waits until due, and reports whether ctx is still active.
func WaitUntil(ctx context.Context, due time.Time) bool {
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
