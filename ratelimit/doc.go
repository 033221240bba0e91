// Package ratelimit refuses calls that come too fast, by a token bucket.
//
//	recipes, err := pillion.New("recipes",
//		ratelimit.Config{TokenBucket: ratelimit.TokenBucket{MaxTokens: 100, TokensPerFill: 10, FillInterval: 100 * time.Millisecond}},
//		timeout.Config{},
//		retry.Config{},
//	)
//
// It mirrors Envoy's local rate limit filter, on clients and servers. Outside of retry it limits
// calls, as in Envoy; inside it limits attempts, retries too. A refusal is immediate, and is not
// retried. It counts against no upstream: no breaker and none of the upstream's statistics counts
// it.
//
// # What the caller gets
//
// An [*Error], or with [pillion.Options] LocalReplies a response 429 with the text
// "local_rate_limited". A gRPC client gets UNAVAILABLE, or RESOURCE_EXHAUSTED if that is configured.
// A server sends the same to its client. The response flag is RL.
//
// # Keys
//
// With Key each value of a function of the request, such as the name of the caller, has its own
// bucket. At most MaxKeys of them are kept: the bucket of a caller that makes no calls is dropped as
// soon as it is full again, which makes no difference. Callers that find no room share one bucket.
//
// # Statistics
//
// Below cluster.<upstream>.http_local_rate_limit.: enabled, ok, rate_limited, enforced.
package ratelimit
