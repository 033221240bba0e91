// Package pillion does inside the process what a sidecar proxy does beside it:
// deadlines, retries, circuit breaking and limits around each outgoing call, with
// Envoy's words, rules and response flags.
//
// An [Upstream] is a service that is called: a name, and the policies that its
// calls are put under. The configurations of the policy packages are policies:
//
//	recipes, err := pillion.New("recipes",
//		timeout.Config{Total: 2 * time.Second, PerTry: 300 * time.Millisecond},
//		retry.Config{On: "5xx,reset,connect-failure", NumRetries: 2},
//		limits.Config{MaxRequests: 200},
//		breaker.Config{Threshold: 0.5, Sleep: time.Second},
//	)
//	if err != nil { // every bad field of every configuration
//		log.Fatal(err)
//	}
//	client := &http.Client{Transport: recipes.Transport(nil)}
//	resp, err := client.Get("http://recipes/1")
//
// The same upstream, and so the same breaker and the same limits, serves HTTP
// ([Upstream.Transport], [Upstream.Handler]), plain functions ([Do]), and gRPC (package
// pilliongrpc).
//
// # Order
//
// Policies are given from the outside in:
//
//	caller ─► timeout(total) ─► retry ─┬► limits ─► breaker ─► timeout(try) ─► wire
//	                                   └► …the next attempt…
//
// Order is behaviour. The breaker inside retry sees every attempt; outside it would
// see only the last one of each call. Limits inside retry hold a place while an attempt runs;
// outside they would hold it during back-offs too. Limits outside the breaker count calls
// that the breaker refuses at once; inside they do not, but then a full limit is a Rejection in the
// breaker's status. One timeout.Config outside of retry sets the limit of the whole call and
// of each try. An order that makes no sense is an error from [New]; [AnyOrder] allows it.
//
// # Zero values
//
// The zero value of each field means its default. A constant of its package says what else it may
// be: Zero means really zero, Unlimited no limit, and Never that it does not happen, as in
// breaker.Never, retry.Zero and timeout.Unlimited. Any other negative value is an error.
//
// # What happened to a call
//
// A refusal is a typed error ([errors.As] finds *breaker.OpenError or
// *limits.FullError), a limit on time a [*TimeoutError], what the network or the upstream did
// an [*UpstreamError]. [WithInfo] tells a caller attempts, response flags, details and
// endpoint, of good calls too. A [Listener] hears of everything as it happens; [Log] is
// one that writes to log/slog. With [Options] LocalReplies an HTTP client gets the responses
// that Envoy would have given, in place of errors.
//
// # Ends
//
// A call ends when its body does. Until then its place in the limits is held, its
// total limit runs, and nothing that it needs is cancelled; so an answer's body must be read to
// the end or closed, as always. Policies hear of the end with [policy.Outcome.OnEnd].
//
// # Writing a policy
//
// Package policy has what a policy is made of, and an example. What Envoy has words for, response
// flags and details, is in package envoy.
package pillion
