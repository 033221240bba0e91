// Package pillion protects the calls of a service. It does inside the process what a
// sidecar proxy does beside it: timeouts, retries, limits and circuit breaking around each
// call, with Envoy's rules, names and response flags.
//
// An [Upstream] is a service that is called: a name, and the policies that guard its calls.
// The configurations of the policy packages are policies:
//
//	recipes, err := pillion.New("recipes",
//		timeout.Config{Total: 2 * time.Second, PerTry: 300 * time.Millisecond},
//		retry.Config{NumRetries: 2},
//		limits.Config{MaxRequests: 200},
//		breaker.Config{},
//	)
//	if err != nil { // every bad field of every configuration
//		log.Fatal(err)
//	}
//	client := &http.Client{Transport: recipes.Transport(nil)}
//	resp, err := client.Get("http://localhost:8080/recipes/1")
//
// The same upstream, with the same breaker and the same limits, guards HTTP clients
// ([Upstream.Transport]), HTTP servers ([Upstream.Handler]), functions ([Do]) and, with package
// pilliongrpc, gRPC. The zero value of each field of a configuration means its default.
//
// # Order
//
// Policies are given from the outside in:
//
//	caller ─► timeout (total) ─► retry ─┬► limits ─► breaker ─► timeout (per try) ─► wire
//	                                    └► the next attempt
//
// The order changes the behavior:
//
//   - The breaker inside retry sees every attempt. Outside, it would see only the last one of
//     each call.
//   - Limits inside retry hold a slot while an attempt runs. Outside, they would hold it
//     during back-offs, too.
//   - Limits outside the breaker count calls that the breaker refuses. Inside, they do not,
//     but then a full limit is a Rejection in the breaker's status.
//   - Faults are outermost: inside retry they would be retried. A rate limit outside retry counts
//     calls, and inside it attempts. Hedging is between retry and limits.
//   - A cluster is innermost, in place of the network: it picks the host of each attempt.
//
// One timeout.Config outside retry sets the timeouts of the whole call and of each attempt.
// [New] returns an error for an order that makes no sense; [AnyOrder] allows it.
//
// # Zero values
//
// The zero value of each field means its default. Constants stand for other special values: Zero
// for the number zero, Unlimited for no limit, and Never for something that must not happen, as
// in retry.Zero, timeout.Unlimited and breaker.Never. Any other negative value is an error.
//
// # What happened to a call
//
// A refusal is a typed error: [errors.As] finds *breaker.OpenError or *limits.FullError. A
// timeout that fires is a [*TimeoutError]. A failure of the network or the upstream is an
// [*UpstreamError]. A response of any status is no error.
//
// [WithInfo] reports attempts, response flags, details and endpoint of one call. A [Listener]
// receives each event; [Log] is one that writes to log/slog. With LocalReplies of [Options], a
// client receives the responses that Envoy would have sent, in place of errors.
//
// # Ends
//
// A call ends when its response's body ends, fails or is closed. Until then the call holds its
// slot in the limits, its total timeout runs, and its context is not canceled. So the body must
// be read to its end or closed, as always.
//
// # Writing a policy
//
// Package policy contains the types for it, and an example. Envoy's response flags and details
// are in package envoy.
package pillion
