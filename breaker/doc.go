// Package breaker implements a circuit breaker: it stops calls to an upstream that
// fails, and detects when the upstream has recovered.
//
// The rules are those of Expeditor's service (https://github.com/cookpad/expeditor).
// The breaker counts results over a rolling period and checks them before each call. If
// there are at least NonBreakCount results, and the share of failures and timeouts is at
// least Threshold, the circuit opens and the call is refused. An open circuit refuses calls
// with an [*OpenError]. Each time Sleep has passed, it admits one call as a trial. A trial
// that succeeds closes the circuit and resets the counters.
//
//	recipes, err := pillion.New("recipes",
//		retry.Config{NumRetries: 2},
//		breaker.Config{Threshold: 0.5, Sleep: time.Second},
//	)
//
// The breaker must be inside retry, so that it counts each attempt. A failure in the response
// headers, such as a 503, is counted when they arrive. Any other response is counted when its
// body or stream ends, so that a connection that breaks in the body counts as a failure.
// Closing a body early counts as a success. A call that its caller cancels is not counted; a
// canceled trial leaves the circuit open until Sleep has passed since the trial began. An
// upgraded connection (101) is counted when its response headers arrive.
//
// A [Config] makes a separate breaker in each upstream. Use [New] to share a breaker or to
// read its counters, and [GroupConfig] for a breaker per host or route.
//
// # What may surprise
//
// The circuit is checked before a call and never after one. The failure that fills the window
// does not open the circuit; the next call does. If that call comes after the failures have
// left the window, the circuit never opens. Sleep runs from the first refused call. One trial
// is admitted per Sleep, even while an earlier trial is still running. A call that was admitted
// while the circuit was closed is counted in the window that is current when the call ends.
//
// # gobreaker as engine
//
// [FromGobreaker] accepts the caller's own gobreaker. Its rules differ from the above:
//   - It opens at the failure that fills the window, not at the next call.
//   - Its sleep runs from that failure, or from the end of a failed trial.
//   - It admits one trial at a time. A trial that never ends blocks all others.
//   - Each change of state resets its counters. A call that ends in a later state is not counted.
//   - A result is counted in the bucket in which the call began.
package breaker
