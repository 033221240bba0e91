package outlier

// Outcome is the outcome of one attempt. It mirrors Envoy's Outlier::Result.
type Outcome uint8

// The outcomes. For HTTP and gRPC a caller reports [ConnectSuccess] when an attempt has a
// connection, new or reused, and one more outcome when the attempt ends.
const (
	// RequestSuccess: the host responded, and the response is not an error. Without a code it
	// counts as 200.
	RequestSuccess Outcome = iota

	// RequestFailed: the host responded with an error. Without a code it counts as 500, or as
	// 503 with SplitExternalLocalOriginErrors.
	RequestFailed

	// RequestDegraded is RequestSuccess with the response header x-envoy-degraded. A 5xx
	// response is RequestFailed, whatever its headers.
	RequestDegraded

	// ConnectSuccess: the attempt has a connection. It counts only with
	// SplitExternalLocalOriginErrors, and then ends a run of local origin failures.
	ConnectSuccess

	// ConnectSuccessFinal is ConnectSuccess of a protocol that reports nothing else, such as
	// plain TCP. Without SplitExternalLocalOriginErrors it counts as 200.
	ConnectSuccessFinal

	// ConnectFailed: the connect failed, or the connection or stream was reset, before or after
	// the response headers. It counts as 503 unless origins are split.
	ConnectFailed

	// Timeout: a timeout of the attempt or of the whole call fired before the response
	// headers. It counts as 504 unless origins are split. Without the split a code takes
	// precedence: Envoy reports 204 for calls that request its alternative timeout response,
	// which then count as successes.
	Timeout
)

// Result is the result of one attempt.
type Result struct {
	// Outcome is the outcome of the attempt.
	Outcome Outcome

	// Code is the HTTP status of the response, or for gRPC that of [GRPCCode]. Zero means no
	// status.
	Code int
}

// Response returns the result of an attempt whose response has this HTTP status.
func Response(code int) Result {
	if is5xx(code) {
		return Result{Outcome: RequestFailed, Code: code}
	}
	return Result{Outcome: RequestSuccess, Code: code}
}

// merged returns the status that r counts as if origins are not split. It returns false if r does
// not count.
func (r Result) merged() (code int, ok bool) {
	if r.Code != 0 {
		return r.Code, true
	}
	switch r.Outcome {
	case RequestSuccess, RequestDegraded, ConnectSuccessFinal:
		return 200, true
	case RequestFailed:
		return 500, true
	case ConnectFailed:
		return 503, true
	case Timeout:
		return 504, true
	default:
		return 0, false
	}
}

// external returns the status of a response if origins are split.
func (r Result) external() int {
	switch {
	case r.Code != 0:
		return r.Code
	case r.Outcome == RequestFailed:
		return 503
	}
	return 200
}

// local reports whether r is of local origin, and whether it is a success.
func (r Result) local() (success, ok bool) {
	switch r.Outcome {
	case ConnectSuccess, ConnectSuccessFinal:
		return true, true
	case ConnectFailed, Timeout:
		return false, true
	default:
		return false, false
	}
}

func is5xx(code int) bool { return code >= 500 && code < 600 }

func isGatewayFailure(code int) bool { return code >= 502 && code <= 504 }

// GRPCCode returns the HTTP status that Envoy reports for a gRPC status in the response headers.
// Envoy does not report a status in trailers.
func GRPCCode(status uint32) int {
	codes := [...]int{200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401}
	if status < uint32(len(codes)) {
		return codes[status]
	}
	return 500
}
