// Package command is Ruby's Expeditor in Go: work that runs at the same time as
// other work, on a pool, under a circuit breaker, and does not take its caller down when it
// fails.
//
// A [Command] does some work once and keeps what became of it. A [Service] is what
// commands have in common: the pool they run on, the breaker that judges them, and the six
// counters.
//
//	recipes, err := command.NewService(command.ServiceConfig{Name: "recipes", Threshold: 0.5})
//	...
//	cfg := command.Config{Service: recipes, Timeout: time.Second}
//	recipe := command.New(cfg, func(ctx context.Context) (Recipe, error) { ... })
//	author := command.Chain(cfg, recipe, func(ctx context.Context, r Recipe) (Author, error) { ... })
//	err = author.Start(ctx)      // recipe is started too
//	who, err := author.Get(ctx)  // waits
//
// The guide docs/expeditor.md sets each example and each option of the gem beside
// its form here, and lists each difference with its reason.
//
// # The layers
//
// From the outside in:
//
//	dependencies ─► time-out ─► retry ─► breaker ─► the work
//
// The wait for dependencies is under no limit; the limit covers all attempts and
// the waits between them; each attempt asks the breaker and is counted. When the work has
// come to an end it is counted, then the fallback runs, then the outcome is known to Get,
// then the hooks run. A failed attempt that is repeated is counted after the wait, when
// the next one begins.
//
// # The end of waiting
//
// Every command ends. On a pool it ends at its limit, and when the caller of the
// start cancels, even if the work does not honor its context; the work goes on then, its
// worker is not free, and its result is dropped. In the calling goroutine the limit acts
// through the context alone.
//
// When the result is known all that it implies has happened: it is counted, and the
// command's slot in the pool is free. So a caller that starts one command after the other
// is never rejected by a pool of one. Hooks run without a slot.
//
// Commands that would wait for each other in a circle are found out, where they
// are given as dependencies and where they are waited for with the work's own context.
// Work that starts a command on the bounded pool it runs on itself, and waits for it, can
// wait for ever, like any such use of a pool: give it as a dependency.
//
// # What is counted
//
// Attempts, not commands: success, failure, rejection, timeout, break, dependency.
// [Classify] says which. A caller who cancels says nothing about the work, and is counted
// nowhere.
package command
