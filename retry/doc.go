// Package retry retries calls after temporary failures.
//
// [Config] follows Envoy's rules: Envoy's retry conditions, a number of retries, a jittered
// exponential back-off, and waits that a response asks for. [Retryable] follows the rules of
// Ruby's retryable gem, as Expeditor uses it.
//
//	recipes, err := pillion.New("recipes",
//		timeout.Config{Total: 2 * time.Second, PerTry: 300 * time.Millisecond},
//		retry.Config{NumRetries: 2},
//		limits.Config{MaxRequests: 200},
//		breaker.Config{},
//	)
//
// The policy must be outside limits and breaker, so that they count each attempt. The Total of
// timeout covers all attempts.
//
// # What is retried
//
// By default the policy retries temporary failures (no connection, a reset, 502 to 504, the
// per-try timeout) of calls that are safe to send twice. On replaces this default:
//
//	retry.Config{On: "5xx"}                    // as in Envoy: a POST is retried, too
//	retry.Config{On: "5xx,idempotent"}         // but no POST
//	retry.Config{                              // the default, and 429
//		On:                   "default,idempotent,retriable-status-codes",
//		RetriableStatusCodes: []int{http.StatusTooManyRequests},
//	}
//	Config{When: func(o *policy.Outcome) bool { return errors.Is(o.Err, io.ErrUnexpectedEOF) }}
//
// A call is not retried after its response was returned to the caller. When the retries are
// used up, the last response is returned unchanged, with its body and the flag URX. A discarded
// response is drained and closed.
//
// # How many
//
// A call is retried at most NumRetries times. A [Budget] bounds the retries of all calls of an
// upstream: by default 20% of the calls of the last 10s, plus 10 per second. So single failures
// are retried, and retries do not make an outage worse. MaxRetries or RetryBudget of limits
// replace the budget.
//
// # When
//
// The wait before a retry is random and grows with each retry. A response can ask for a
// different wait in Retry-After. If the wait does not fit in the remaining time, the last
// response is returned immediately. If there is no response and no time remains, the error is a
// timeout that wraps the error of the last attempt.
//
// # Request bodies
//
// A retry takes the request body from the request's GetBody, or from the ReplayBuffer of
// [pillion.Options]. Without either, a request is not retried once its body was passed to the
// transport, which closes the body even if it cannot connect.
//
// # Permanent errors
//
// An error wrapped in [github.com/cenkalti/backoff/v4.Permanent] is never retried. It is
// returned without the wrapper.
//
// net/http itself resends some requests after an idle connection was closed. This package does
// not count them as retries.
package retry
