package retry

import (
	"fmt"
	"strings"

	"github.com/pillion-go/pillion"
)

// words are Envoy's retry conditions: the outcomes that each retries. Those with
// none need more than the kind of the outcome.
//
//nolint:gochecknoglobals // a table that nothing writes
var words = map[string]pillion.Condition{
	"5xx":                    pillion.Status5xx | pillion.NoAnswer,
	"gateway-error":          pillion.GatewayError | pillion.NoAnswer,
	"reset":                  pillion.NoAnswer,
	"reset-before-request":   pillion.ConnectFailure,
	"connect-failure":        pillion.ConnectFailure,
	"retriable-4xx":          pillion.Retriable4xx,
	"refused-stream":         pillion.RefusedStream,
	"retriable-status-codes": 0,
	"retriable-headers":      0,
	"envoy-ratelimited":      0,
	"cancelled":              pillion.GRPCCancelled,
	"deadline-exceeded":      pillion.GRPCDeadlineExceeded,
	"resource-exhausted":     pillion.GRPCResourceExhausted,
	"internal":               pillion.GRPCInternal,
	"unavailable":            pillion.GRPCUnavailable,
}

// byDefault is what is retried where no word says otherwise: connect-failure,
// refused-stream, reset, 502 to 504, and the per-try time-out.
const byDefault = pillion.GatewayError | pillion.NoAnswer

// conditions is a list of words, read.
type conditions struct {
	is          pillion.Condition
	statusCodes bool // retriable-status-codes
	headers     bool // retriable-headers
	rateLimited bool // envoy-ratelimited
}

// or holds what c or d does.
func (c conditions) or(d conditions) conditions {
	return conditions{
		is:          c.is | d.is,
		statusCodes: c.statusCodes || d.statusCodes,
		headers:     c.headers || d.headers,
		rateLimited: c.rateLimited || d.rateLimited,
	}
}

// byGRPC holds what gRPC's words retry. Over HTTP it is the header Grpc-Status that
// tells; a gRPC adapter tells by itself.
const byGRPC = pillion.GRPCCancelled | pillion.GRPCDeadlineExceeded | pillion.GRPCResourceExhausted |
	pillion.GRPCInternal | pillion.GRPCUnavailable

// parse reads Envoy's comma-separated words. What it does not know is in unknown.
func parse(on string) (c conditions, unknown []string) {
	for word := range strings.SplitSeq(on, ",") {
		word = strings.TrimSpace(word)
		is, ok := words[word]
		switch {
		case word == "":
		case !ok:
			unknown = append(unknown, word)
		}
		c.is |= is
		c.statusCodes = c.statusCodes || word == "retriable-status-codes"
		c.headers = c.headers || word == "retriable-headers"
		c.rateLimited = c.rateLimited || word == "envoy-ratelimited"
	}
	return c, unknown
}

// parseStrict is parse for a configuration, where an unknown word is an error.
func parseStrict(on string) (conditions, error) {
	c, unknown := parse(on)
	if len(unknown) == 0 && strings.Trim(on, " ") != "" && strings.Trim(on, " ,") == "" {
		unknown = []string{on}
	}
	if len(unknown) == 0 {
		return c, nil
	}
	return c, fmt.Errorf("retry: Config.On: %q is no retry condition of Envoy's", unknown)
}
