package policy

import "strings"

// Condition says what kind of result an attempt had, as bits that an adapter
// sets once, so that a policy can judge an HTTP answer, a gRPC status and a
// function's error by the same words. Several may hold at once.
type Condition uint32

// What an attempt can have been. Zero is a plain success, or an answer that
// nobody would call a failure (a 404, say).
const (
	Status5xx             Condition = 1 << iota // an answer 500 to 599, or the status of another protocol that stands for one
	GatewayError                                // an answer 502, 503 or 504
	Retriable4xx                                // an answer 409
	Reset                                       // the connection or stream ended without a whole answer
	ConnectFailure                              // no connection could be made; nothing was sent
	RefusedStream                               // the upstream refused the stream before it worked on it
	ProtocolError                               // what came back was not the protocol
	Timeout                                     // time ran out, whoever set the limit: ours, the caller's deadline, or a time-out of the transport
	PerTryTimeout                               // with Timeout: the limit was one of this try, or the transport's own
	Cancelled                                   // the caller went away; no failure of the upstream
	Refused                                     // refused here, by a breaker or a limit; nothing was sent
	Failed                                      // a function returned an error of no kind known here
	Invalid                                     // the request itself cannot be sent; no failure of the upstream
	Discarded                                   // at the end of an answer that a policy threw away
	GRPCCancelled                               // gRPC status 1
	GRPCDeadlineExceeded                        // gRPC status 4
	GRPCResourceExhausted                       // gRPC status 8
	GRPCInternal                                // gRPC status 13
	GRPCUnavailable                             // gRPC status 14
	Upgraded                                    // a response 101, or 2xx to CONNECT: its connection belongs to the caller now
	Informational                               // a 1xx response came before; as in Envoy, nothing is retried after it
)

// NoResponse holds the conditions under which an attempt brought no answer at
// all through the upstream's or the network's doing. Envoy calls all of them a
// reset when it decides about a retry.
const NoResponse = Reset | ConnectFailure | RefusedStream | ProtocolError | PerTryTimeout

// Failure holds the conditions that count against an upstream.
const Failure = Status5xx | NoResponse | Timeout | Failed

// Any reports whether any of the given conditions holds.
func (c Condition) Any(conditions Condition) bool { return c&conditions != 0 }

// GRPCCondition classifies a gRPC status code by Envoy's gRPC retry words; it is 0
// for a code that none of them names.
func GRPCCondition(code int) Condition {
	switch code {
	case 1:
		return GRPCCancelled
	case 4:
		return GRPCDeadlineExceeded
	case 8:
		return GRPCResourceExhausted
	case 13:
		return GRPCInternal
	case 14:
		return GRPCUnavailable
	}
	return 0
}

//nolint:gochecknoglobals // a table that nothing writes
var conditionNames = [...]string{
	"5xx", "gateway-error", "retriable-4xx", "reset", "connect-failure", "refused-stream", "protocol-error", "timeout",
	"per-try-timeout", "cancelled", "refused", "failed", "invalid", "discarded", "grpc-cancelled", "grpc-deadline-exceeded",
	"grpc-resource-exhausted", "grpc-internal", "grpc-unavailable", "upgraded",
	"informational",
}

// String lists the conditions that hold, such as "5xx,gateway-error"; "-" for none.
func (c Condition) String() string {
	var words []string
	for i, name := range conditionNames {
		if c.Any(1 << i) {
			words = append(words, name)
		}
	}
	if len(words) == 0 {
		return "-"
	}
	return strings.Join(words, ",")
}

// HTTPCondition classifies an HTTP status as Envoy does.
func HTTPCondition(status int) Condition {
	switch {
	case status == 502 || status == 503 || status == 504:
		return Status5xx | GatewayError
	case status >= 500 && status <= 599:
		return Status5xx
	case status == 409:
		return Retriable4xx
	}
	return 0
}
