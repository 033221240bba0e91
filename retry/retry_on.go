package retry

import (
	"strings"

	"github.com/pillion-go/pillion/policy"
)

// words maps Envoy's retry conditions to the outcomes that they retry. Those with 0 need more
// than the outcome's conditions.
//
//nolint:gochecknoglobals // read-only table
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

// The conditions of a Config that Envoy does not have.
const (
	defaultWord    = "default"    // all conditions of byDefault
	idempotentWord = "idempotent" // restricts retries to idempotent calls
)

// byDefault is the set of default conditions: connect-failure, refused-stream, reset, 502 to
// 504, and the per-try timeout.
const byDefault = policy.GatewayError | policy.NoResponse

// conditions is a parsed list of conditions.
type conditions struct {
	is          policy.Condition
	statusCodes bool // retriable-status-codes
	headers     bool // retriable-headers
	rateLimited bool // envoy-ratelimited
	idempotent  bool // idempotent
}

// or returns the union of c and d. The result has idempotent only if c has.
func (c conditions) or(d conditions) conditions {
	return conditions{
		is:          c.is | d.is,
		statusCodes: c.statusCodes || d.statusCodes,
		headers:     c.headers || d.headers,
		rateLimited: c.rateLimited || d.rateLimited,
		idempotent:  c.idempotent,
	}
}

// some reports whether there is any condition other than idempotent.
func (c conditions) some() bool {
	c.idempotent = false
	return c != conditions{}
}

// byGRPC is the set of gRPC's conditions. Over HTTP they are read from the header Grpc-Status; a
// gRPC adapter sets them itself.
const byGRPC = policy.GRPCCancelled | policy.GRPCDeadlineExceeded | policy.GRPCResourceExhausted |
	policy.GRPCInternal | policy.GRPCUnavailable

// parse parses a comma-separated list of conditions. It returns unknown ones separately.
func parse(on string) (c conditions, unknown []string) {
	for word := range strings.SplitSeq(on, ",") {
		if word = strings.TrimSpace(word); word != "" && !c.add(word) {
			unknown = append(unknown, word)
		}
	}
	return c, unknown
}

// add adds a condition. It reports whether the condition exists.
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
