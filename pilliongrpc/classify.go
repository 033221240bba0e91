package pilliongrpc

import (
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// meaning is what an error of an attempt means.
type meaning struct {
	is     policy.Condition
	detail *envoy.Detail
	code   int // of the upstream's response, 0 if there was none
}

// classify says in o what err means: a status that the upstream sent is its response, one that
// gRPC's client made stands for what the network did.
func classify(u *pillion.Upstream, a *attempt, o *policy.Outcome, err error) {
	s, _ := status.FromError(err)
	m := a.meaning(s)
	a.notConnected.Store(m.is.Any(policy.ConnectFailure))
	if f := m.detail.Flags(); f != 0 {
		err = &pillion.UpstreamError{Upstream: u.Name(), Flags: f, Detail: m.detail, Err: err}
		o.Flags |= f
	}
	if a.begun() && m.code == 0 && m.is.Any(policy.NoResponse) {
		m.code = http.StatusOK // the headers were those of a response
	}
	o.Err, o.Code, o.Detail = err, m.code, m.detail
	o.Conditions |= m.is
}

// meaning returns what a status means: it distinguishes what the upstream sent from what gRPC's
// client made. If the origin is proved, no text decides.
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

// known returns code, or UNKNOWN for one that gRPC does not define: it must not be taken for
// a status of HTTP.
func known(code codes.Code) codes.Code {
	if code > codes.Unauthenticated {
		return codes.Unknown
	}
	return code
}

// sentByServer reports whether it is certain that the status came from the server: there were
// trailers, or it has details, which gRPC's client never adds.
func (a *attempt) sentByServer(s *status.Status) bool {
	return a.has(seenTrailers) || len(a.response().trailer) != 0 || len(s.Proto().GetDetails()) != 0
}

// cutOff recognizes by what was seen on the wire, and by no text, that the server sent no status
// and no response headers: the request was not sent, or nothing came back.
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

// isMissingMessage recognizes what gRPC's client makes of an OK without a message, the one
// status that it makes for whole trailers without a header. The upstream did what
// it was asked to, so no condition retries it.
func isMissingMessage(s *status.Status) bool {
	return s.Code() == codes.Internal && strings.HasPrefix(s.Message(), "cardinality violation: received no response message")
}

// failure returns how a code counts against the upstream: the codes that stand for a 5xx do,
// as in Envoy's outlier detection.
func failure(code codes.Code) policy.Condition {
	switch code {
	case codes.Unknown, codes.DeadlineExceeded, codes.Unimplemented, codes.Internal, codes.Unavailable, codes.DataLoss:
		return policy.Failed
	default:
		return 0
	}
}

// madeHere recognizes the statuses that gRPC's client makes, by the texts of grpc-go 1.85. What
// it makes of messages that it cannot read is not among them: that is a response.
func (a *attempt) madeHere(s *status.Status) (meaning, bool) {
	text := s.Message()
	switch s.Code() {
	case codes.Unavailable:
		return a.unavailable(text)
	case codes.Internal, codes.Unknown, codes.Unimplemented, codes.Unauthenticated, codes.PermissionDenied:
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
	default: // never made up
	}
	return meaning{}, false
}

// unavailable recognizes connections that were not made, or broke.
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

// notConnected says why there is no connection.
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

// broken is a connection that ended before the response did.
func (a *attempt) broken(text string) meaning {
	switch {
	case a.begun():
		return meaning{is: policy.Reset, detail: envoy.ConnectionTerminationAfter}
	case !a.has(seenSent) && a.peer.Addr == nil && hasPrefix(text, "connection error: desc =", "last connection error: ") && strings.Contains(text, "error reading server preface"):
		return meaning{is: policy.ConnectFailure, detail: envoy.ConnectionFailure}
	}
	return meaning{is: policy.Reset, detail: envoy.ConnectionTermination}
}

// reset recognizes RST_STREAM. The code PROTOCOL_ERROR says of the server that it did not
// understand, which Envoy counts as a protocol error.
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

// protocolError is a response, or the rest of one, that was not the protocol.
func (a *attempt) protocolError() meaning {
	if a.begun() {
		return meaning{is: policy.ProtocolError, detail: envoy.MalformedResponseAfter}
	}
	return meaning{is: policy.ProtocolError, detail: envoy.MalformedResponse}
}

// malformed recognizes responses that were not gRPC, and requests that cannot be sent.
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

// answeredHTTP recognizes a response in plain HTTP, which is what it counts as.
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

// tooLarge recognizes a message over the client's own limit on what it sends.
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
