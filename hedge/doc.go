// Package hedge sends a call once more when its response takes longer than usual. The first good
// response is the result, and the other attempts are canceled. So a few slow servers, or a few
// slow moments of one, do not make calls slow, for a few per cent of calls more.
//
//	recipes, err := pillion.New("recipes",
//		timeout.Config{Total: 2 * time.Second},
//		retry.Config{},
//		hedge.Config{Percentile: 95},
//		limits.Config{MaxRequests: 200},
//	)
//
// It stands inside retry and outside of limits and breaker: each attempt holds a slot, and is judged
// by itself. An attempt that is canceled because another one was faster counts neither for nor
// against the upstream.
//
// # When
//
// The delay is fixed, or a percentile of the latencies that this upstream had in the last Window:
// with Percentile 95, one call of 20 takes longer, and is sent twice. It runs from the moment at
// which the request was sent to the response headers. A slow upload, and a slow body, do not count.
//
// # Which calls
//
// Calls that may be sent twice without harm, as for retry: idempotent methods, an Idempotency-Key,
// [pillion.WithIdempotent]; AnyCall is for upstreams whose calls all are. The request's body must be
// there to be sent again. Streams of gRPC are not hedged; unary calls are.
//
// A Budget bounds hedges by a share of the calls, so that an upstream that becomes slow as a whole
// does not get twice as many.
//
// # What is good
//
// A response that does not count against the upstream: no 5xx, no reset, no timeout. A failure is
// the result only if no other attempt is under way: retry decides about it. Envoy's own hedging, a
// retry that does not end the attempt before it, is retry.Config.HedgeOnPerTryTimeout.
//
// # Statistics
//
// Below cluster.<upstream>.hedge.: sent, won (hedges whose response was the result), overflow (those
// that the budget forbade), and the gauge delay_ms.
package hedge
