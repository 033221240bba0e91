// Package breaker stops calling an upstream that fails, and finds out when it is
// well again.
//
// Its rules are those of Expeditor's service (https://github.com/cookpad/expeditor).
// Results are counted over a rolling period. Before each call: if there are NonBreakCount
// results or more, and the share of failures and time-outs is Threshold or more, the
// circuit opens and the call is refused. While it is open calls are refused with an
// [*OpenError]; each time Sleep has passed, one call is let through as a trial. A trial
// that succeeds closes the circuit and empties the counters.
//
//	recipes, err := pillion.New("recipes",
//		retry.Config{NumRetries: 2},
//		breaker.Config{Threshold: 0.5, Sleep: time.Second},
//	)
//
// It stands inside retry and judges each try. An answer whose head is bad is a
// failure at its head; any other is judged when its body or stream ends, so that a
// connection that breaks within it counts. Closing a body early is a success. A caller
// who cancels says nothing about the upstream, and is counted nowhere; a trial that was
// cancelled leaves the circuit open until Sleep has passed since the trial began. An
// upgraded connection (101) is judged at its head.
//
// A [Config] makes a breaker in each upstream. To share one, or to read its
// counters, make it with [New]; to have one for each host or route, use [GroupConfig].
//
// # What may surprise
//
// The circuit is judged before a call and never after one. The failure that fills
// the window does not open it, the next call does; if that comes after the failures have
// left the window, the circuit never opens. The sleep runs from that first refused call.
// One trial is let through per sleep, not one at a time: a trial that takes longer does not
// hold back the next. What was admitted while the circuit was closed and ends later is
// counted in whatever window there is then.
//
// # gobreaker as engine
//
// [FromGobreaker] takes a caller's own gobreaker. It differs from the rules above:
// it opens at the failure that fills the window and not at the next call; its sleep runs
// from there, or from the end of a failed trial; one trial at a time is let through, and one
// that never ends blocks all others; its counters are empty after each change of state; what
// ends in a later state is dropped; a result goes to the bucket in which the call began.
package breaker
