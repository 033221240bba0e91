package outlier

// Outcome says what became of one attempt, as Envoy's Outlier::Result.
type Outcome uint8

// The outcomes. A caller that speaks HTTP or gRPC reports [ConnectSuccess] when an attempt is
// handed to a connection, new or reused, and one more outcome when it is over.
const (
	// RequestSuccess: the host responded, and the response is no error. Without a code it is a
	// 200.
	RequestSuccess Outcome = iota

	// RequestFailed: the host responded with an error. Without a code it is a 500, or a 503
	// with SplitExternalLocalOriginErrors.
	RequestFailed

	// RequestDegraded is RequestSuccess with the response header x-envoy-degraded. A 5xx
	// response is RequestFailed, whatever its headers.
	RequestDegraded

	// ConnectSuccess: a connection is there for the attempt. It counts with
	// SplitExternalLocalOriginErrors only, where it ends a run of local origin failures.
	ConnectSuccess

	// ConnectSuccessFinal is ConnectSuccess of a protocol that reports nothing else, such as
	// plain TCP. Without SplitExternalLocalOriginErrors it is a 200.
	ConnectSuccessFinal

	// ConnectFailed: the connect failed, or the connection or stream was reset, also after the
	// response headers. It is a 503 unless origins are split.
	ConnectFailed

	// Timeout: a timeout of the attempt or of the whole call fired before the response
	// headers. It is a 504 unless origins are split. Without the split a code wins: Envoy
	// reports 204 for calls that ask for its alternative timeout response, which then count
	// as successes.
	Timeout
)

// Result is the result of one attempt.
type Result struct {
	// Outcome says what happened.
	Outcome Outcome

	// Code is the HTTP status of the response, for gRPC that of [GRPCCode]. Zero means that
	// there is none.
	Code int
}

// Response returns the result of an attempt that got a response with this HTTP status.
func Response(code int) Result {
	if is5xx(code) {
		return Result{Outcome: RequestFailed, Code: code}
	}
	return Result{Outcome: RequestSuccess, Code: code}
}

// merged returns the status that r counts as if origins are not split, or false for none.
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

// GRPCCode returns the HTTP status as which Envoy reports a gRPC status that arrived in the
// response headers. A status in real trailers is never reported.
func GRPCCode(status uint32) int {
	codes := [...]int{200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401}
	if status < uint32(len(codes)) {
		return codes[status]
	}
	return 500
}
