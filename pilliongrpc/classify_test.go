package pilliongrpc

import (
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// FuzzMeaning classifies arbitrary statuses with arbitrary wire events:
//   - A status with trailers or details is a response, whatever its text.
//   - After response headers no condition of a status applies.
//   - Only a response has a code, and no code is negative.
//   - A response flag comes with a condition that retries can name.
func FuzzMeaning(f *testing.F) {
	f.Add(uint32(14), "transport is closing", uint32(seenBegin|seenSent), true, false, false)
	f.Add(uint32(13), "stream terminated by RST_STREAM with error code: REFUSED_STREAM", uint32(0), false, false, false)
	f.Add(uint32(13), "stream terminated by RST_STREAM with error code: PROTOCOL_ERROR", uint32(seenBegin|seenSent|seenHeaders), false, false, false)
	f.Add(uint32(14), "unexpected HTTP status code received from server: 99999999999999999999 x", uint32(seenBegin|seenSent), false, false, false)
	f.Add(uint32(13), "cardinality violation: received no response message from non-server-streaming RPC", uint32(seenBegin|seenSent|seenTrailers), false, true, false)
	f.Add(uint32(2), "EOF", uint32(seenBegin|seenSent), false, false, false)
	f.Add(uint32(14), "other text", uint32(seenBegin), false, false, false)
	f.Add(uint32(8), "trying to send message larger than max (5 vs. 4)", uint32(seenBegin|seenSent), false, false, true)
	f.Fuzz(func(t *testing.T, code uint32, text string, bits uint32, header, trailer, details bool) {
		a := &attempt{}
		a.bits.Store(bits)
		if header {
			a.header = metadata.MD{}
		}
		if trailer {
			a.trailer = metadata.Pairs("content-type", "application/grpc")
		}
		s := status.New(codes.Code(code), text)
		if details && code != 0 {
			s, _ = s.WithDetails(&errdetails.ErrorInfo{Reason: "DATABASE_DOWN"})
		}
		m := a.meaning(s)
		proved := a.has(seenTrailers) || trailer || details && code != 0
		if proved && (m.detail != envoy.ViaUpstream || m.code != int(known(s.Code())) || m.is.Any(policy.NoResponse|policy.Invalid)) {
			t.Errorf("%v %q: got %v, %v, code %d for a status that the server sent", s.Code(), text, m.detail, m.is, m.code)
		}
		if a.begun() && m.detail == envoy.ViaUpstream && m.is.Any(policy.GRPCCancelled|policy.GRPCDeadlineExceeded|policy.GRPCResourceExhausted|policy.GRPCInternal|policy.GRPCUnavailable) {
			t.Errorf("%v %q: got %v after response headers", s.Code(), text, m.is)
		}
		if m.code < 0 || m.code != 0 && m.detail != envoy.ViaUpstream {
			t.Errorf("%v %q: got code %d, %v", s.Code(), text, m.code, m.detail)
		}
		if f := m.detail.Flags(); f != 0 && !m.is.Any(policy.NoResponse) {
			t.Errorf("%v %q: got flags %v with %v", s.Code(), text, f, m.is)
		}
	})
}
