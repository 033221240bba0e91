package policy

import "strings"

// Condition classifies the result of an attempt, as a set of bits. The adapter sets it once, so
// that policies judge an HTTP response, a gRPC status and a function's error by the same
// conditions. Several may hold together.
type Condition uint32

// The conditions. Zero is a success, or a response that is no failure, such as a 404.
const (
	Status5xx             Condition = 1 << iota // a response 500 to 599, or an equivalent status of another protocol
	GatewayError                                // a response 502, 503 or 504
	Retriable4xx                                // a response 409
	Reset                                       // the connection or stream ended without a complete response
	ConnectFailure                              // no connection could be made; nothing was sent
	RefusedStream                               // the upstream refused the stream before it processed it
	ProtocolError                               // the response violates the protocol
	Timeout                                     // a timeout fired: one of the library or the transport, or the caller's deadline
	PerTryTimeout                               // with Timeout: it was the timeout of this attempt, or one of the transport
	Cancelled                                   // the caller was canceled or disconnected; no failure of the upstream
	Refused                                     // a breaker or a limit refused it; nothing was sent
	Failed                                      // a function returned an error that has no other condition
	Invalid                                     // the request itself cannot be sent; no failure of the upstream
	Discarded                                   // at the end: a policy discarded the response
	GRPCCancelled                               // gRPC status 1
	GRPCDeadlineExceeded                        // gRPC status 4
	GRPCResourceExhausted                       // gRPC status 8
	GRPCInternal                                // gRPC status 13
	GRPCUnavailable                             // gRPC status 14
	Upgraded                                    // a response 101, or 2xx to CONNECT: its connection belongs to the caller
	Informational                               // a 1xx response arrived before; as in Envoy, nothing is retried after it
)

// NoResponse is the set of conditions under which the upstream or the network produced no response.
// Envoy's retry_on treats them all as reset.
const NoResponse = Reset | ConnectFailure | RefusedStream | ProtocolError | PerTryTimeout

// Failure is the set of conditions that count against an upstream.
const Failure = Status5xx | NoResponse | Timeout | Failed

// Any reports whether any of the given conditions holds.
func (c Condition) Any(conditions Condition) bool { return c&conditions != 0 }

// GRPCCondition returns the condition of a gRPC status code. It is 0 for a code that no gRPC
// condition of Envoy's retry_on names.
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
	var names []string
	for i, name := range conditionNames {
		if c.Any(1 << i) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "-"
	}
	return strings.Join(names, ",")
}

// HTTPCondition returns the condition of an HTTP status, by Envoy's rules.
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
