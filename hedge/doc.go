// Package hedge sends a second attempt of a call when the response to the first one is slow.
//
// The first good response is the result, and the other attempts are canceled. So one slow server,
// or one slow moment of a server, does not make a call slow. The cost is a few percent more
// requests.
//
//	recipes, err := pillion.New("recipes",
//		timeout.Config{Total: 2 * time.Second},
//		retry.Config{},
//		hedge.Config{Percentile: 95},
//		limits.Config{MaxRequests: 200},
//	)
//
// The policy must be inside retry, and outside limits and breaker. Each attempt holds a slot, and
// the breaker counts each attempt. An attempt that is canceled because another one was faster
// counts neither as a success nor as a failure.
//
// # When
//
// A hedge is an attempt that the policy adds. It is sent when an attempt has waited for its response
// headers for a delay. The wait begins when the request has been sent: a slow upload does not
// count, and neither does a slow response body. The delay is fixed, or it is a percentile of the
// latencies of the upstream in the last Window. With Percentile 95, one call of 20 takes longer than
// the delay and is hedged. A latency is the time from the start of an attempt to its response
// headers.
//
// # Which calls
//
// Calls that are safe to send twice are hedged, as for retry: the method is idempotent (GET, HEAD,
// OPTIONS, TRACE, PUT, DELETE), the request has an Idempotency-Key, or the caller used
// [pillion.WithIdempotent]. AnyCall hedges all others, too. A request with a body is hedged only if
// the body can be read again: through the request's GetBody, or the ReplayBuffer of
// [pillion.Options]. Streams of gRPC are not hedged; unary calls are.
//
// A Budget bounds the hedges of an upstream to a share of its calls. So an upstream that becomes slow
// as a whole does not get twice as many requests.
//
// # Which response is good
//
// A response is good if it does not count against the upstream: a 5xx, a reset and a timeout do. A
// failure is the result only if no other attempt is running; the retry policy then decides whether
// to retry it. Package retry has Envoy's hedging, a retry that runs beside the attempt whose
// per-try timeout fired: retry.Config.HedgeOnPerTryTimeout.
//
// # Statistics
//
// Under cluster.<upstream>.hedge. there are the counters sent (hedges), won (hedges whose response
// was the result) and overflow (hedges that the budget forbade), and the gauge delay_ms (the current
// delay, 0 if there is none yet).
package hedge
