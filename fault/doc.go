// Package fault injects faults on purpose: delays, aborts, and slow responses. It shows what a
// program does when an upstream is slow or fails, before one is.
//
//	recipes, err := pillion.New("recipes",
//		fault.Config{
//			Delay: &fault.Delay{Fixed: 500 * time.Millisecond, Percentage: envoy.Percent{Numerator: 10}},
//			Abort: &fault.Abort{HTTPStatus: 503, Percentage: envoy.Percent{Numerator: 1}},
//		},
//		timeout.Config{Total: 2 * time.Second},
//		retry.Config{},
//	)
//
// It mirrors Envoy's HTTP fault filter, which stands before the router: outside of retry and of
// all timeouts, so that a delay takes nothing of the call's time, and an abort is not retried. An
// abort reaches no upstream. No breaker and none of the upstream's statistics counts it, but those
// of this package do.
//
// # What the caller gets
//
// An HTTP client gets a response with the status of the abort, and the text "fault filter abort".
// A gRPC client gets a status, a function under [pillion.Do] an [*Error]. A server sends the same
// to its client. The response flags are DI for a delay and FI for an abort, in logs and traces too.
//
// A delay ends with the caller's context, and returns its error. Where a total timeout stands
// outside, or the client of a server named a deadline, the delay ends when that time is over.
//
// # Statistics
//
// Below cluster.<upstream>.fault.: aborts_injected, delays_injected, response_rl_injected,
// faults_overflow, and the gauge active_faults. Requests with the header
// x-envoy-downstream-service-cluster are counted below its value too: 100 different ones of 256
// bytes.
package fault
