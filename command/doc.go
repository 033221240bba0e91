// Package command is Ruby's Expeditor in Go. A command does its work on a pool, beside
// other work and under a circuit breaker. When the work fails, a fallback can take its place.
//
// A [Command] does its work once and keeps the result. A [Service] is what commands
// share: the pool on which they run, the circuit breaker, and six counters.
//
//	recipes, err := command.NewService(command.ServiceConfig{Name: "recipes", Threshold: 0.5})
//	...
//	cfg := command.Config{Service: recipes, Timeout: time.Second}
//	recipe := command.New(cfg, func(ctx context.Context) (Recipe, error) { ... })
//	author := command.Chain(cfg, recipe, func(ctx context.Context, r Recipe) (Author, error) { ... })
//	err = author.Start(ctx)          // starts recipe too
//	result, err := author.Get(ctx)   // waits
//
// The guide docs/expeditor.md shows each example and each option of the gem beside its
// Go form. It lists each difference with its reason.
//
// # Layers
//
// From the outside in:
//
//	dependencies ─► timeout ─► retry ─► breaker ─► work
//
// The timeout does not limit the wait for dependencies. It limits all attempts together
// and the waits between them. Each attempt asks the breaker and is counted. When the work has
// ended, four things happen in this order: the result is counted, the fallback runs, Get
// returns the outcome, the hooks run. A failed attempt that is retried is counted after the
// wait, when the next attempt begins.
//
// # How commands end
//
// Every command ends. On a pool it ends when its timeout fires and when the context of
// its start is canceled, even if the work ignores its context. The work then continues and
// keeps its worker until it returns; its result is dropped. In the calling goroutine the
// timeout acts through the context alone: the command ends when the work returns.
//
// When Get returns, the result has been counted and the command's slot in the pool is free.
// So a pool of one thread never rejects a caller that starts one command after the other.
// Hooks run without a slot.
//
// Commands cannot wait for each other in a cycle. [Command.After], and a Get with the
// context of some work, return a [*CycleError] instead. One deadlock remains: work that starts
// another command on its own bounded pool and waits for it may wait forever. Make the
// other command a dependency instead.
//
// # What is counted
//
// The service counts attempts, not commands, as one of: success, failure, rejection,
// timeout, break, dependency. [Classify] decides which. A command that its caller cancels is
// not counted, since that says nothing about the work.
package command
