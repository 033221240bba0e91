// Package fault injects faults: delays, aborts and slow responses. Use it to test how a program
// behaves when an upstream is slow or fails.
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
// It mirrors Envoy's HTTP fault filter, which runs before the router. So the policy must be outside
// retry: an abort is not retried. It should be outside timeout: a delay then fires no timeout. An
// aborted call does not reach the upstream. It counts neither for a breaker nor in the upstream's
// statistics, only in the statistics of this package.
//
// # What the caller receives
//
// An HTTP client receives a response with the status of the abort and the text "fault filter abort".
// A gRPC client receives an error with the gRPC status of the abort. A function under [pillion.Do] is
// not run; Do returns an [*Error]. A server sends the same to its client. The response flags, also in
// logs and traces, are DI for a delay and FI for an abort.
//
// A delay ends early when the caller's context ends; the call then returns that context's error. It
// also ends early when a total timeout outside this policy fires, or when the deadline that the
// client of a server sent has passed.
//
// # Statistics
//
// Under cluster.<upstream>.fault. there are the counters aborts_injected, delays_injected,
// response_rl_injected (responses that were slowed) and faults_overflow (faults that MaxActiveFaults
// prevented), and the gauge active_faults (calls with a fault that have not ended). Delays and aborts
// of requests with the header x-envoy-downstream-service-cluster are also counted under the value of
// the header, for the first 100 values of at most 256 bytes.
package fault
