// Package retry sends calls again that failed in a way that may pass.
//
// A [Config] has Envoy's rules: conditions in Envoy's words, a number of retries,
// a jittered exponential back-off, waits that an answer asks for. A [Retryable] has those
// of Ruby's retryable gem, as Expeditor uses them.
//
//	recipes, err := pillion.New("recipes",
//		timeout.Config{Total: 2 * time.Second, PerTry: 300 * time.Millisecond},
//		retry.Config{On: "5xx,reset,connect-failure", NumRetries: 2},
//		breaker.Config{},
//	)
//
// It stands outside limits and breaker, so that each try is counted, and inside
// the total limit of timeout.
//
// Nothing is retried once an answer has been handed to the caller. When the
// retries are used up the last answer is returned as it is, with its body, and the flag
// URX; a discarded answer is drained and closed. No wait goes past the time that is left:
// when it would not fit, the last answer is returned at once. Where there is none and the
// time is over, the error is a time-out that wraps what the last try failed with.
//
// A request body is sent again by way of the request's GetBody, or of
// [pillion.HTTP] ReplayBuffer; a request with neither is not retried once its body was
// handed to the transport, which closes it even where no connection can be made. An
// error in [github.com/cenkalti/backoff/v4.Permanent] is never retried, and is returned
// bare.
//
// net/http sends some requests again by itself, when a kept-alive connection
// turns out to be dead. Those are not retries of this package, and not counted here.
package retry
