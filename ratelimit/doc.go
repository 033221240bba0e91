// Package ratelimit limits the rate of calls with a token bucket, as Envoy's local rate limit filter
// does, on clients and servers.
//
//	recipes, err := pillion.New("recipes",
//		ratelimit.Config{TokenBucket: ratelimit.TokenBucket{MaxTokens: 100, TokensPerFill: 10, FillInterval: 100 * time.Millisecond}},
//		timeout.Config{},
//		retry.Config{},
//	)
//
// Each call takes a token from the bucket. A call that finds none is refused: immediately, and
// nothing waits in a queue. A refusal is not retried, and counts neither for a breaker nor in the
// upstream's statistics. Outside retry the policy limits calls, as in Envoy. Inside retry it limits
// attempts, including retries.
//
// # What the caller receives
//
// A refused call returns an [*Error]. With LocalReplies of [pillion.Options] an HTTP client receives
// a response 429 with the text "local_rate_limited". A gRPC client receives UNAVAILABLE, or
// RESOURCE_EXHAUSTED with ResourceExhausted. A server sends the same to its client. The response flag
// is RL.
//
// # Keys
//
// If Key is set, the calls of each key, such as the name of a tenant, have a separate bucket. At most
// MaxKeys buckets are kept. A bucket that is full again makes room for another key, because a new
// bucket is full, too. While no bucket can make room, the calls of all other keys share one bucket.
//
// # Statistics
//
// Under cluster.<upstream>.http_local_rate_limit. there are the counters enabled (calls that Enabled
// selected), ok (calls that took a token), rate_limited (calls that found none) and enforced (calls
// that were refused).
package ratelimit
