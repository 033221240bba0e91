package pilliongrpc

import (
	"io"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// meaning classifies the error of an attempt.
type meaning struct {
	is     policy.Condition
	detail *envoy.Detail
	code   int // of the upstream's response; 0 if none
}

// classify classifies err in o. A status from the upstream is a response; a status that gRPC's
// client made describes a failure of the network.
func classify(u *pillion.Upstream, a *attempt, o *policy.Outcome, err error) {
	s, _ := status.FromError(err)
	m := a.meaning(s)
	a.notConnected.Store(m.is.Any(policy.ConnectFailure))
	if f := m.detail.Flags(); f != 0 {
		err = &pillion.UpstreamError{Upstream: u.Name(), Flags: f, Detail: m.detail, Err: err}
		o.Flags |= f
	}
	if a.begun() && m.code == 0 && m.is.Any(policy.NoResponse) {
		m.code = http.StatusOK // the headers belong to a response
	}
	o.Err, o.Code, o.Detail = err, m.code, m.detail
	o.Conditions |= m.is
}

// meaning classifies a status: it distinguishes those of the upstream from those of gRPC's client.
// It uses the status text only if nothing else proves the origin.
func (a *attempt) meaning(s *status.Status) meaning {
	if !a.sentByServer(s) {
		if m, ok := a.madeHere(s); ok {
			return m
		}
		if m, ok := a.cutOff(s.Code()); ok {
			return m
		}
	}
	code := known(s.Code())
	m := meaning{is: failure(code), detail: envoy.ViaUpstream, code: int(code)}
	if !a.begun() && !isMissingMessage(s) {
		m.is |= policy.GRPCCondition(m.code)
	}
	return m
}

// known returns code, or UNKNOWN if gRPC does not define it: other codes could be mistaken for an
// HTTP status.
func known(code codes.Code) codes.Code {
	if code > codes.Unauthenticated {
		return codes.Unknown
	}
	return code
}

// sentByServer reports whether the status certainly came from the server: there were trailers, or
// the status has details, which gRPC's client never adds.
func (a *attempt) sentByServer(s *status.Status) bool {
	return a.has(seenTrailers) || len(a.response().trailer) != 0 || len(s.Proto().GetDetails()) != 0
}

// cutOff recognizes, from wire events and not from texts, that the server sent neither a status nor
// response headers: the request was not sent, or no response arrived.
func (a *attempt) cutOff(code codes.Code) (meaning, bool) {
	switch {
	case !a.has(seenBegin) || a.begun() || code == codes.Canceled || code == codes.DeadlineExceeded:
		return meaning{}, false
	case a.has(seenSent) && code == codes.Unavailable:
		return meaning{is: policy.Reset, detail: envoy.ConnectionTermination}, true
	case a.has(seenSent) && (code == codes.Internal || code == codes.Unknown):
		return meaning{is: policy.ProtocolError, detail: envoy.MalformedResponse}, true
	case a.has(seenSent):
		return meaning{}, false
	case code == codes.Unavailable:
		return meaning{is: policy.ConnectFailure, detail: envoy.ConnectionFailure}, true
	}
	return meaning{is: policy.Invalid}, true
}

// isMissingMessage recognizes the error of gRPC's client for a response with status OK and no
// message. The upstream has handled the call, so that no condition retries it.
func isMissingMessage(s *status.Status) bool {
	return s.Code() == codes.Internal && strings.HasPrefix(s.Message(), "cardinality violation: received no response message")
}

// failure returns Failed for codes that count against the upstream: those that correspond to a 5xx,
// as in Envoy's outlier detection.
func failure(code codes.Code) policy.Condition {
	switch code {
	case codes.Unknown, codes.DeadlineExceeded, codes.Unimplemented, codes.Internal, codes.Unavailable, codes.DataLoss:
		return policy.Failed
	default:
		return 0
	}
}

// madeHere recognizes the statuses of gRPC's client by the texts of grpc-go 1.85. A status for a
// message that the client cannot read is not among them: that is a response.
func (a *attempt) madeHere(s *status.Status) (meaning, bool) {
	text := s.Message()
	switch s.Code() {
	case codes.Unavailable:
		return a.unavailable(text)
	case codes.Unknown:
		if text == io.EOF.Error() && !a.begun() {
			return unwritten, true
		}
		fallthrough
	case codes.Internal, codes.Unimplemented, codes.Unauthenticated, codes.PermissionDenied:
		if m, ok := a.reset(text); ok {
			return m, true
		}
		return a.malformed(text)
	case codes.ResourceExhausted:
		if m, ok := a.reset(text); ok {
			return m, true
		}
		return tooLarge(text)
	case codes.Canceled:
		if m, ok := a.reset(text); ok {
			return m, true
		}
		if hasPrefix(text, "grpc: the client connection is closing", "the provided transport is no longer valid", "grpc: the SubConn is closing") {
			return meaning{is: policy.Invalid}, true
		}
	default: // gRPC's client does not make the other codes
	}
	return meaning{}, false
}

// unwritten is the meaning of a bare io.EOF: the stream of a unary call ended before the message was
// written, and gRPC's client hides why. The server cannot have handled the call, which is what a
// refused stream means.
var unwritten = meaning{is: policy.Reset | policy.RefusedStream, detail: envoy.RemoteRefusedStream} //nolint:gochecknoglobals // it is never written

// unavailable recognizes failed and broken connections.
func (a *attempt) unavailable(text string) (meaning, bool) {
	if m, ok := a.reset(text); ok {
		return m, true
	}
	if m, ok := a.answeredHTTP(text); ok {
		return m, true
	}
	switch {
	case hasPrefix(text, "name resolver error", "dns:") || strings.Contains(text, "produced zero addresses") || strings.Contains(text, "no such host"):
		return meaning{is: policy.ConnectFailure, detail: envoy.DNSFailure}, true
	case strings.Contains(text, "rror while dialing") || strings.Contains(text, "authentication handshake failed"):
		return notConnected(text), true
	case hasPrefix(text, "no children to pick from", "SubConn state is not Ready"):
		return meaning{is: policy.ConnectFailure, detail: envoy.NoHealthyUpstream}, true
	case hasPrefix(text, "error reading", "closing transport due to", "transport is closing", "the stream is rejected because server is draining",
		"the connection is draining", "connection error: desc =", "last connection error: ", "keepalive ping failed", "received goaway",
		"closing connection since", "transport: "):
		return a.broken(text), true
	}
	return meaning{}, false
}

// notConnected classifies a failed connection.
func notConnected(text string) meaning {
	m := meaning{is: policy.ConnectFailure, detail: envoy.ConnectionFailure}
	switch {
	case strings.Contains(text, "connection refused"):
		m.detail = envoy.ConnectionRefused
	case strings.Contains(text, "connection reset by peer"):
		m.detail = envoy.ConnectionReset
	case strings.Contains(text, "i/o timeout") || strings.Contains(text, "deadline exceeded"):
		m.detail = envoy.ConnectionTimeout
		m.is |= policy.Timeout
	}
	return m
}

// broken classifies a connection that ended before the response.
func (a *attempt) broken(text string) meaning {
	switch {
	case a.begun():
		return meaning{is: policy.Reset, detail: envoy.ConnectionTerminationAfter}
	case !a.has(seenSent) && a.peer.Addr == nil && hasPrefix(text, "connection error: desc =", "last connection error: ") && strings.Contains(text, "error reading server preface"):
		return meaning{is: policy.ConnectFailure, detail: envoy.ConnectionFailure}
	}
	return meaning{is: policy.Reset, detail: envoy.ConnectionTermination}
}

// reset recognizes RST_STREAM. The code PROTOCOL_ERROR means that the server did not understand the
// request, which Envoy counts as a protocol error.
func (a *attempt) reset(text string) (meaning, bool) {
	code, ok := strings.CutPrefix(text, "stream terminated by RST_STREAM with error code: ")
	switch {
	case !ok:
		return meaning{}, false
	case code == "PROTOCOL_ERROR":
		return a.protocolError(), true
	case a.begun():
		return meaning{is: policy.Reset, detail: envoy.RemoteResetAfter}, true
	case code == "REFUSED_STREAM":
		return meaning{is: policy.Reset | policy.RefusedStream, detail: envoy.RemoteRefusedStream}, true
	}
	return meaning{is: policy.Reset, detail: envoy.RemoteReset}, true
}

// protocolError classifies a response that violated the protocol.
func (a *attempt) protocolError() meaning {
	if a.begun() {
		return meaning{is: policy.ProtocolError, detail: envoy.MalformedResponseAfter}
	}
	return meaning{is: policy.ProtocolError, detail: envoy.MalformedResponse}
}

// malformed recognizes responses that are not gRPC, and requests that cannot be sent.
func (a *attempt) malformed(text string) (meaning, bool) {
	if m, ok := a.answeredHTTP(text); ok {
		return m, true
	}
	switch {
	case hasPrefix(text, "server closed the stream without sending trailers", "malformed header", "transport: malformed",
		"transport: received unexpected content-type", "protocol error", "a HEADERS frame cannot appear", "peer header list size exceeded",
		"received invalid frame", "unexpected EOF"):
		return a.protocolError(), true
	case hasPrefix(text, "grpc: error while marshaling", "grpc: error while compressing", "header key ", "header list size to send",
		"grpc: Compressor is not installed", "no codec registered", "SendMsg called after CloseSend", "transport: per-RPC creds failed",
		"malformed method name"):
		return meaning{is: policy.Invalid}, true
	}
	return meaning{}, false
}

// answeredHTTP recognizes a plain HTTP response, and classifies it as one.
func (a *attempt) answeredHTTP(text string) (meaning, bool) {
	rest, ok := strings.CutPrefix(text, "unexpected HTTP status code received from server: ")
	if !ok {
		return meaning{}, false
	}
	number, _, _ := strings.Cut(rest, " ")
	code, err := strconv.Atoi(number)
	if err != nil || code < 100 {
		return meaning{is: policy.ProtocolError, detail: envoy.MalformedResponse}, true
	}
	return meaning{is: policy.HTTPCondition(code), detail: envoy.ViaUpstream, code: code}, true
}

// tooLarge recognizes a message over the client's own limit for sending.
func tooLarge(text string) (meaning, bool) {
	ok := hasPrefix(text, "trying to send message larger than max", "grpc: message too large")
	return meaning{is: policy.Invalid}, ok
}

func hasPrefix(text string, prefixes ...string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(text, p) {
			return true
		}
	}
	return false
}
