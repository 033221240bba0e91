// Package retry retries calls that failed in a way that may pass.
//
// A [Config] has Envoy's rules: conditions in Envoy's words, a number of retries, a jittered
// exponential back-off, waits that a response asks for. A [Retryable] has those of Ruby's
// retryable gem, as Expeditor uses them.
//
//	recipes, err := pillion.New("recipes",
//		timeout.Config{Total: 2 * time.Second, PerTry: 300 * time.Millisecond},
//		retry.Config{NumRetries: 2},
//		limits.Config{MaxRequests: 200},
//		breaker.Config{},
//	)
//
// It stands outside limits and breaker, so that each attempt is counted, and inside
// the total limit of timeout.
//
// # What is retried
//
// By default failures that may pass (no connection, a reset, 502 to 504, the per-try
// timeout), of calls that may be sent twice without harm. On says otherwise:
//
//	retry.Config{On: "5xx"}                    // as Envoy: a POST is retried, too
//	retry.Config{On: "5xx,idempotent"}         // but no POST
//	retry.Config{                              // the default, and 429
//		On:                   "default,idempotent,retriable-status-codes",
//		RetriableStatusCodes: []int{http.StatusTooManyRequests},
//	}
//	Config{When: func(o *policy.Outcome) bool { return errors.Is(o.Err, io.ErrUnexpectedEOF) }}
//
// Nothing is retried once a response has been handed to the caller. When the retries are used
// up the last response is returned as it is, with its body, and the flag URX; a discarded
// response is drained and closed.
//
// # How many
//
// A call is retried NumRetries times at most, and all calls of an upstream within a [Budget]:
// 20 % of the calls of the last 10 s, and 10 a second more. So single failures are retried, and
// an outage is not made worse. Where limits has MaxRetries or RetryBudget, these hold instead.
//
// # When
//
// The wait before a retry is random, and longer each time; a response may ask for another one in
// Retry-After. No wait goes past the time that is left: when it would not fit, the last response is
// returned immediately. If there is none and the time is over, the error is a timeout that wraps
// what the last attempt failed with.
//
// # Request bodies
//
// A request body is sent again by way of the request's GetBody, or of [pillion.Options]
// ReplayBuffer; a request with neither is not retried once its body was handed to the transport,
// which closes it even where no connection can be made. An error in
// [github.com/cenkalti/backoff/v4.Permanent] is never retried, and is returned without it.
//
// net/http sends some requests again by itself, when a kept-alive connection turns out to be
// dead. Those are not retries of this package, and not counted here.
package retry
