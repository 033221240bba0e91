package retry

import (
	"strings"

	"github.com/pillion-go/pillion/policy"
)

// words are Envoy's retry conditions: the outcomes that each retries. Those with
// none need more than the kind of the outcome.
//
//nolint:gochecknoglobals // a table that nothing writes
var words = map[string]policy.Condition{
	"5xx":                    policy.Status5xx | policy.NoResponse,
	"gateway-error":          policy.GatewayError | policy.NoResponse,
	"reset":                  policy.NoResponse,
	"reset-before-request":   policy.ConnectFailure,
	"connect-failure":        policy.ConnectFailure,
	"retriable-4xx":          policy.Retriable4xx,
	"refused-stream":         policy.RefusedStream,
	"retriable-status-codes": 0,
	"retriable-headers":      0,
	"envoy-ratelimited":      0,
	"cancelled":              policy.GRPCCancelled,
	"deadline-exceeded":      policy.GRPCDeadlineExceeded,
	"resource-exhausted":     policy.GRPCResourceExhausted,
	"internal":               policy.GRPCInternal,
	"unavailable":            policy.GRPCUnavailable,
}

// The words that a Config has beside Envoy's.
const (
	defaultWord    = "default"    // all conditions of byDefault
	idempotentWord = "idempotent" // no condition, but a guard: only idempotent calls
)

// byDefault is what is retried where no word says otherwise: connect-failure,
// refused-stream, reset, 502 to 504, and the per-try timeout.
const byDefault = policy.GatewayError | policy.NoResponse

// conditions is what a list of words says.
type conditions struct {
	is          policy.Condition
	statusCodes bool // retriable-status-codes
	headers     bool // retriable-headers
	rateLimited bool // envoy-ratelimited
	idempotent  bool // the guard
}

// or holds what c or d does. The guard is c's.
func (c conditions) or(d conditions) conditions {
	return conditions{
		is:          c.is | d.is,
		statusCodes: c.statusCodes || d.statusCodes,
		headers:     c.headers || d.headers,
		rateLimited: c.rateLimited || d.rateLimited,
		idempotent:  c.idempotent,
	}
}

// some reports whether there is any condition, the guard apart.
func (c conditions) some() bool {
	c.idempotent = false
	return c != conditions{}
}

// byGRPC holds what gRPC's words retry. Over HTTP the header Grpc-Status says so; a gRPC
// adapter knows by itself.
const byGRPC = policy.GRPCCancelled | policy.GRPCDeadlineExceeded | policy.GRPCResourceExhausted |
	policy.GRPCInternal | policy.GRPCUnavailable

// parse reads words that are separated by commas. What it does not know is in unknown.
func parse(on string) (c conditions, unknown []string) {
	for word := range strings.SplitSeq(on, ",") {
		if word = strings.TrimSpace(word); word != "" && !c.add(word) {
			unknown = append(unknown, word)
		}
	}
	return c, unknown
}

// add adds one word. It is false if there is no such word.
func (c *conditions) add(word string) bool {
	is, ok := words[word]
	switch word {
	case "retriable-status-codes":
		c.statusCodes = true
	case "retriable-headers":
		c.headers = true
	case "envoy-ratelimited":
		c.rateLimited = true
	case defaultWord:
		is, ok = byDefault, true
	case idempotentWord:
		c.idempotent, ok = true, true
	}
	c.is |= is
	return ok
}
