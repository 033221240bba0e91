// Package report reports what no caller can be told.
package report

import (
	"log/slog"
	"runtime/debug"
)

// Panic logs a panic of a function that the user supplied and that ran in a goroutine
// in which no caller waits for it: a timer's, a worker's, or one of the runtime's. There a
// panic that goes on would end the process. What names the function, such as
// "breaker: Config.OnStateChange". It is called from the deferred function that recovered value.
//
// The report goes to [slog.Default] at level Error, with the stack.
func Panic(what string, value any) { Recovered(what, value, debug.Stack()) }

// Recovered is Panic for a value that was recovered before, with the stack of then.
func Recovered(what string, value any, stack []byte) {
	slog.Error("recovered from a panic in "+what, slog.Any("panic", value), slog.String("stack", string(stack)))
}
