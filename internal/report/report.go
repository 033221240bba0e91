// Package report logs panics that reach no caller.
package report

import (
	"log/slog"
	"runtime/debug"
)

// Panic logs a panic of a user's function that ran in a goroutine without a caller, such as
// that of a timer, of a worker or of the runtime. A panic that is not recovered there ends the
// process. what names the function, such as "breaker: Config.OnStateChange". Panic must be
// called from the deferred function that recovered value, so that the stack is complete.
//
// The report goes to [slog.Default] at level Error, with the stack.
func Panic(what string, value any) { Recovered(what, value, debug.Stack()) }

// Recovered is Panic for a value that was recovered before, with the stack of that moment.
func Recovered(what string, value any, stack []byte) {
	slog.Error("recovered from a panic in "+what, slog.Any("panic", value), slog.String("stack", string(stack)))
}
