package pilliongrpc

import (
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion"
)

// meaning is what an error of an attempt means.
type meaning struct {
	is     pillion.Condition
	detail pillion.Detail
	code   int // of the upstream's answer, 0 where there was none
}

// explain says in o what err means: a status that the upstream gave is its answer, one
// that gRPC made up stands for what the network did.
func explain(c *pillion.Call, a *attempt, o *pillion.Outcome, err error) {
	s, _ := status.FromError(err)
	m := a.meaning(s)
	if f := m.detail.Flags(); f != 0 {
		err = &pillion.UpstreamError{Upstream: c.Upstream(), Flags: f, Detail: m.detail, Err: err}
		o.Flags |= f
	}
	if a.header != nil && m.code == 0 && m.is.Any(pillion.NoAnswer) {
		m.code = http.StatusOK // the head was that of an answer
	}
	o.Err, o.Code, o.Detail = err, m.code, m.detail
	o.Is |= m.is
}

// meaning tells what the upstream said from what gRPC says of it. Trailers without a
// header are the upstream's for certain: they alone bring a content-type. Else the texts
// decide; they are those of grpc-go 1.85.
func (a *attempt) meaning(s *status.Status) meaning {
	if a.header != nil || len(a.trailer.Get("content-type")) == 0 {
		if m, ok := a.madeHere(s); ok {
			return m
		}
	}
	m := meaning{is: failure(s.Code()), detail: pillion.ViaUpstream, code: int(s.Code())}
	if a.header == nil {
		m.is |= pillion.GRPCCondition(m.code)
	}
	return m
}

// failure tells which codes count against the upstream: those that stand for a 5xx,
// as in Envoy's outlier detection.
func failure(code codes.Code) pillion.Condition {
	switch code {
	case codes.Unknown, codes.DeadlineExceeded, codes.Unimplemented, codes.Internal, codes.Unavailable, codes.DataLoss:
		return pillion.Failed
	default:
		return 0
	}
}

// madeHere recognises the statuses that grpc-go gives by itself.
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
			return meaning{is: pillion.Invalid}, true
		}
	default: // never made up
	}
	return meaning{}, false
}

// unavailable recognises connections that were not made, or broke.
func (a *attempt) unavailable(text string) (meaning, bool) {
	if m, ok := a.reset(text); ok {
		return m, true
	}
	if m, ok := a.answeredHTTP(text); ok {
		return m, true
	}
	switch {
	case hasPrefix(text, "name resolver error", "dns:") || strings.Contains(text, "produced zero addresses") || strings.Contains(text, "no such host"):
		return meaning{is: pillion.ConnectFailure, detail: pillion.DNSFailure}, true
	case strings.Contains(text, "rror while dialing") || strings.Contains(text, "authentication handshake failed"):
		return notConnected(text), true
	case hasPrefix(text, "no children to pick from", "SubConn state is not Ready"):
		return meaning{is: pillion.ConnectFailure, detail: pillion.NoHealthyUpstream}, true
	case hasPrefix(text, "error reading", "closing transport due to", "transport is closing", "the stream is rejected because server is draining",
		"the connection is draining", "connection error: desc =", "last connection error: ", "keepalive ping failed", "received goaway",
		"closing connection since", "transport: "):
		return a.broken(text), true
	}
	return meaning{}, false
}

// notConnected says why there is no connection.
func notConnected(text string) meaning {
	m := meaning{is: pillion.ConnectFailure, detail: pillion.ConnectionFailure}
	switch {
	case strings.Contains(text, "connection refused"):
		m.detail = pillion.ConnectionRefused
	case strings.Contains(text, "connection reset by peer"):
		m.detail = pillion.ConnectionReset
	case strings.Contains(text, "i/o timeout") || strings.Contains(text, "deadline exceeded"):
		m.detail = pillion.ConnectionTimeout
		m.is |= pillion.Timeout
	}
	return m
}

// broken is a connection that ended before the answer did.
func (a *attempt) broken(text string) meaning {
	switch {
	case a.header != nil:
		return meaning{is: pillion.Reset, detail: pillion.ConnectionTerminationAfter}
	case a.peer.Addr == nil && hasPrefix(text, "connection error: desc =", "last connection error: ") && strings.Contains(text, "error reading server preface"):
		return meaning{is: pillion.ConnectFailure, detail: pillion.ConnectionFailure}
	}
	return meaning{is: pillion.Reset, detail: pillion.ConnectionTermination}
}

// reset recognises RST_STREAM.
func (a *attempt) reset(text string) (meaning, bool) {
	code, ok := strings.CutPrefix(text, "stream terminated by RST_STREAM with error code: ")
	switch {
	case !ok:
		return meaning{}, false
	case a.header != nil:
		return meaning{is: pillion.Reset, detail: pillion.RemoteResetAfter}, true
	case code == "REFUSED_STREAM":
		return meaning{is: pillion.Reset | pillion.RefusedStream, detail: pillion.RemoteRefusedStream}, true
	}
	return meaning{is: pillion.Reset, detail: pillion.RemoteReset}, true
}

// malformed recognises answers that were not gRPC, and requests that cannot be sent.
func (a *attempt) malformed(text string) (meaning, bool) {
	if m, ok := a.answeredHTTP(text); ok {
		return m, true
	}
	switch {
	case hasPrefix(text, "server closed the stream without sending trailers", "malformed header", "transport: malformed", "protocol error",
		"a HEADERS frame cannot appear", "peer header list size exceeded", "cardinality violation: received", "unexpected EOF",
		"grpc: failed to unmarshal the received", "grpc: failed to decompress", "grpc: failed to read decompressed", "grpc: compressed flag set",
		"grpc: Decompressor is not installed", "grpc: received unexpected payload", "grpc: no decompressor"):
		detail := pillion.MalformedAnswer
		if a.header != nil {
			detail = pillion.MalformedAnswerAfter
		}
		return meaning{is: pillion.ProtocolError, detail: detail}, true
	case hasPrefix(text, "grpc: error while marshaling", "grpc: error while compressing", "header key ", "header list size to send",
		"grpc: Compressor is not installed", "no codec registered", "SendMsg called after CloseSend", "transport: per-RPC creds failed",
		"malformed method name"):
		return meaning{is: pillion.Invalid}, true
	}
	return meaning{}, false
}

// answeredHTTP recognises an answer in plain HTTP, which is what it counts as.
func (a *attempt) answeredHTTP(text string) (meaning, bool) {
	rest, ok := strings.CutPrefix(text, "unexpected HTTP status code received from server: ")
	if !ok {
		return meaning{}, false
	}
	number, _, _ := strings.Cut(rest, " ")
	code, err := strconv.Atoi(number)
	if err != nil || code < 100 {
		return meaning{is: pillion.ProtocolError, detail: pillion.MalformedAnswer}, true
	}
	return meaning{is: pillion.HTTPCondition(code), detail: pillion.ViaUpstream, code: code}, true
}

// tooLarge recognises messages over a limit of the client's own: one to send is not
// the upstream's fault, and one that was received is an answer all the same.
func tooLarge(text string) (meaning, bool) {
	switch {
	case hasPrefix(text, "trying to send message larger than max", "grpc: message too large"):
		return meaning{is: pillion.Invalid}, true
	case hasPrefix(text, "grpc: received message larger than max", "grpc: message after decompression larger", "grpc: received message after decompression"):
		return meaning{detail: pillion.ViaUpstream, code: int(codes.ResourceExhausted)}, true
	}
	return meaning{}, false
}

func hasPrefix(text string, prefixes ...string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(text, p) {
			return true
		}
	}
	return false
}
