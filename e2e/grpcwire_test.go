package e2e

import (
	"net"
	"testing"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/pilliongrpc"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
)

// trailersOnly responds with a status only.
func (s *stream) trailersOnly(code string) {
	s.respond(true, ":status", "200", "content-type", "application/grpc", "grpc-status", code)
}

// dialScript returns a client of server through u.
func dialScript(t *testing.T, u *pillion.Upstream, server *scripted) testgrpc.TestServiceClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+server.addr(),
		append(pilliongrpc.DialOptions(u), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return testgrpc.NewTestServiceClient(conn)
}

// callOnce makes a unary call, or a streaming call without messages, and returns its error.
func callOnce(t *testing.T, c testgrpc.TestServiceClient, streaming bool) error {
	t.Helper()
	if !streaming {
		_, err := c.EmptyCall(t.Context(), &testgrpc.Empty{})
		return err
	}
	s := startStream(t.Context(), t, c)
	_ = s.CloseSend()
	_, err := s.Recv()
	return err
}

// TestGRPCWire has a server reset streams with every code, and send GOAWAY, before it
// responds. Texts, flags and codes are Envoy's, over a real connection. gRPC resends by
// itself a refused stream, and one that was not processed according to GOAWAY, once: these
// are not attempts.
func TestGRPCWire(t *testing.T) {
	rst := func(code http2.ErrCode) func(s *stream) { return func(s *stream) { s.rst(code) } }
	goAway := func(last func(s *stream) uint32) func(s *stream) {
		return func(s *stream) {
			_ = s.framer.WriteGoAway(last(s), http2.ErrCodeNo, nil)
			_ = s.Conn.(*net.TCPConn).CloseWrite()
		}
	}
	worked := goAway(func(s *stream) uint32 { return s.id })
	tests := []struct {
		name     string
		act      func(s *stream)
		on       string
		detail   *envoy.Detail
		flags    envoy.Flags
		requests int64 // received by the server, for 2 attempts
	}{
		{"NO_ERROR", rst(http2.ErrCodeNo), "reset", envoy.RemoteReset, envoy.UR, 2},
		{"PROTOCOL_ERROR", rst(http2.ErrCodeProtocol), "reset", envoy.MalformedResponse, envoy.UPE, 2},
		{"INTERNAL_ERROR", rst(http2.ErrCodeInternal), "reset", envoy.RemoteReset, envoy.UR, 2},
		{"CANCEL", rst(http2.ErrCodeCancel), "reset", envoy.RemoteReset, envoy.UR, 2},
		{"ENHANCE_YOUR_CALM", rst(http2.ErrCodeEnhanceYourCalm), "reset", envoy.RemoteReset, envoy.UR, 2},
		{"INADEQUATE_SECURITY", rst(http2.ErrCodeInadequateSecurity), "reset", envoy.RemoteReset, envoy.UR, 2},
		{"REFUSED_STREAM", rst(http2.ErrCodeRefusedStream), "refused-stream", envoy.RemoteRefusedStream, envoy.UR, 4},
		{"GOAWAY, and the stream was processed", worked, "reset", envoy.ConnectionTermination, envoy.UC, 2},
	}
	for _, test := range tests {
		for _, streaming := range []bool{false, true} {
			t.Run(test.name+map[bool]string{false: ", unary", true: ", stream"}[streaming], func(t *testing.T) {
				wantNoLeaks(t)
				u, _, events := streamUpstream(t, retry.Config{On: test.on, Rand: func() float64 { return 0 }}, limits.Config{MaxRequests: 1})
				var script h2script
				server := serveScript(t, func(_ *scripted, conn net.Conn) { script.play(conn, test.act) })
				err := callOnce(t, dialScript(t, u, server), streaming)
				end := wantSoon(t, events.ends, "the end of the call")
				if status.Code(err) != codes.Unavailable || end.Detail != test.detail || end.Flags != test.flags|envoy.URX {
					t.Errorf("got %v, %v %v, want Unavailable, %v %v", err, end.Flags, end.Detail, test.flags|envoy.URX, test.detail)
				}
				if got := events.count(policy.EventAttempt); got != 2 || script.requests.Load() != test.requests {
					t.Errorf("got %d attempts and %d requests, want 2 and %d", got, script.requests.Load(), test.requests)
				}
			})
		}
	}
}

// TestGRPCWire_otherStatus responds with an unknown status code, which is treated as
// Unknown: no condition retries it, and it is passed on.
func TestGRPCWire_otherStatus(t *testing.T) {
	wantNoLeaks(t)
	u, _, _ := streamUpstream(t, again(3))
	var script h2script
	server := serveScript(t, func(_ *scripted, conn net.Conn) { script.play(conn, func(s *stream) { s.trailersOnly("77") }) })
	err := callOnce(t, dialScript(t, u, server), false)
	if status.Code(err) != codes.Code(77) || script.requests.Load() != 1 {
		t.Errorf("got %v after %d requests, want status 77 after 1", err, script.requests.Load())
	}
}

// TestGRPCWire_malformed has a server send an invalid gRPC response, or break a response
// off: flags and details are Envoy's, and nothing is retried after the response headers.
func TestGRPCWire_malformed(t *testing.T) {
	head := func(s *stream) { s.respond(false, ":status", "200", "content-type", "application/grpc") }
	afterHeader := func(act func(s *stream)) func(s *stream) {
		return func(s *stream) {
			head(s)
			act(s)
		}
	}
	rst := func(code http2.ErrCode) func(s *stream) { return func(s *stream) { s.rst(code) } }
	data := func(end bool, body string) func(s *stream) {
		return func(s *stream) { _ = s.framer.WriteData(s.id, end, []byte(body)) }
	}
	tests := []struct {
		name     string
		act      func(s *stream)
		code     codes.Code
		detail   *envoy.Detail
		flags    envoy.Flags
		attempts int
	}{
		{"grpc-status: abc", func(s *stream) { s.trailersOnly("abc") }, codes.Unavailable, envoy.MalformedResponse, envoy.UPE, 2},
		{"a header name in capitals", func(s *stream) {
			s.respond(true, ":status", "200", "content-type", "application/grpc", "X-Capital", "1", "grpc-status", "0")
		}, codes.Unavailable, envoy.MalformedResponse, envoy.UPE, 2},
		{"no content-type", func(s *stream) { s.respond(true, ":status", "200", "grpc-status", "0") }, codes.Unknown, envoy.ViaUpstream, 0, 1},
		{"NO_ERROR after the header", afterHeader(rst(http2.ErrCodeNo)), codes.Internal, envoy.RemoteResetAfter, envoy.UR, 1},
		{"PROTOCOL_ERROR after the header", afterHeader(rst(http2.ErrCodeProtocol)), codes.Internal, envoy.MalformedResponseAfter, envoy.UPE, 1},
		{"CANCEL after the header", afterHeader(rst(http2.ErrCodeCancel)), codes.Canceled, envoy.RemoteResetAfter, envoy.UR, 1},
		{"a second header", afterHeader(head), codes.Internal, envoy.MalformedResponseAfter, envoy.UPE, 1},
		{"no trailers", afterHeader(data(true, "")), codes.Internal, envoy.MalformedResponseAfter, envoy.UPE, 1},
		{"a cut message and no trailers", afterHeader(data(true, "\x00\x00\x00\x00\x05hi")), codes.Internal, envoy.MalformedResponseAfter, envoy.UPE, 1},
		{"a cut message and trailers", afterHeader(func(s *stream) {
			data(false, "\x00\x00\x00\x00\x05hi")(s)
			s.respond(true, "grpc-status", "0")
		}), codes.Internal, envoy.ViaUpstream, 0, 1},
		{"a message that cannot be read, and trailers", afterHeader(func(s *stream) {
			data(false, "\x00\x00\x00\x00\x01\xff")(s)
			s.respond(true, "grpc-status", "0")
		}), codes.Internal, envoy.ViaUpstream, 0, 1},
	}
	for _, test := range tests {
		for _, streaming := range []bool{false, true} {
			t.Run(test.name+map[bool]string{false: ", unary", true: ", stream"}[streaming], func(t *testing.T) {
				wantNoLeaks(t)
				u, _, events := streamUpstream(t, retry.Config{On: "reset,internal,cancelled,unavailable", Rand: func() float64 { return 0 }}, limits.Config{MaxRequests: 1})
				var script h2script
				server := serveScript(t, func(_ *scripted, conn net.Conn) { script.play(conn, test.act) })
				err := callOnce(t, dialScript(t, u, server), streaming)
				end := wantSoon(t, events.ends, "the end of the call")
				flags := test.flags
				if test.attempts > 1 {
					flags |= envoy.URX
				}
				if status.Code(err) != test.code || end.Detail != test.detail || end.Flags != flags {
					t.Errorf("got %v, %v %v, want %v, %v %v", err, end.Flags, end.Detail, test.code, flags, test.detail)
				}
				if got := events.count(policy.EventAttempt); got != test.attempts {
					t.Errorf("got %d attempts, want %d", got, test.attempts)
				}
			})
		}
	}
}
