package pilliongrpc_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/pilliongrpc"
	"github.com/pillion-go/pillion/policy"
)

// clientTexts holds texts of statuses that gRPC's client makes. A server can send them, too, for
// example when it forwards a status from its own upstream.
var clientTexts = []string{
	`connection error: desc = "transport: Error while dialing: dial tcp 10.0.0.7:5432: connect: connection refused"`,
	"last connection error: connection closed before server preface received",
	"error reading from server: EOF",
	"error reading shard 3",
	"transport is closing",
	"dns: A record lookup error: no such host",
	"name resolver error: produced zero addresses",
	"no children to pick from",
	"unexpected EOF",
	"unexpected HTTP status code received from server: 503 (Service Unavailable)",
	"stream terminated by RST_STREAM with error code: REFUSED_STREAM",
	"stream terminated by RST_STREAM with error code: PROTOCOL_ERROR",
	"server closed the stream without sending trailers",
	"malformed header: missing HTTP content-type",
	"grpc: error while marshaling: proto: required field not set",
	"grpc: received message larger than max (5 vs. 4)",
	"trying to send message larger than max (5 vs. 4)",
	"grpc: the client connection is closing",
	"transport: per-RPC creds failed due to error: no token",
	"cardinality violation: expected <EOF> for non server-streaming RPCs, but received another message",
}

// TestOrigin sends every code from the server with texts that gRPC's client also uses, trailers-only
// and after a header, with details and without. The caller receives each unchanged, and the outcome
// is that of a response.
func TestOrigin(t *testing.T) {
	u, log := upstream(t)
	c := client(t, &service{serve: sendAsAsked}, u)
	for i, text := range clientTexts {
		for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
			for j, of := range []struct{ after, details string }{{"", ""}, {"header", ""}, {"", "details"}, {"header", "details"}} {
				sent := asked(code, text, of.details)
				kind := kinds[(i+int(code)+j)%len(kinds)]
				err := kind.call(metadata.AppendToOutgoingContext(t.Context(),
					"code", strconv.Itoa(int(code)), "text", text, "after", of.after, "details", of.details), c)
				end := <-log.ends
				if got, _ := status.FromError(err); !proto.Equal(got.Proto(), sent.Proto()) {
					t.Errorf("%s, %+v: got %v, want %v", kind.name, of, got.Proto(), sent.Proto())
				}
				if own, ok := errors.AsType[*pilliongrpc.Error](err); ok {
					t.Errorf("%s, %v %q, %+v: got %#v, want only the server's status", kind.name, code, text, of, own)
				}
				if end.Code != int(code) || end.Detail != envoy.ViaUpstream || end.Flags != 0 {
					t.Errorf("%s, %v %q, %+v: got code %d, %v, flags %v, want a response", kind.name, code, text, of, end.Code, end.Detail, end.Flags)
				}
			}
		}
	}
}

// TestOrigin_alone uses the interceptors without the other options of DialOptions: metadata in
// trailers, or details, still prove that a status came from the server.
func TestOrigin_alone(t *testing.T) {
	u, log := upstream(t)
	conn := connect(t, &service{serve: sendAsAsked}, []grpc.DialOption{
		grpc.WithUnaryInterceptor(pilliongrpc.UnaryClientInterceptor(u)), grpc.WithStreamInterceptor(pilliongrpc.StreamClientInterceptor(u)),
	})
	for _, text := range clientTexts {
		for _, of := range []struct{ after, details, trailer string }{{"", "", ""}, {"header", "details", ""}, {"header", "", "x"}} {
			ctx := metadata.AppendToOutgoingContext(t.Context(), "code", "14", "text", text, "after", of.after, "details", of.details, "trailer", of.trailer)
			for _, kind := range kinds {
				err := kind.call(ctx, testgrpc.NewTestServiceClient(conn))
				if end := <-log.ends; end.Detail != envoy.ViaUpstream || status.Convert(err).Message() != text {
					t.Errorf("%s, %+v: got %v and %v, want the server's %q", kind.name, of, end.Detail, err, text)
				}
			}
		}
	}
}

// TestOrigin_unknownCode sends codes that gRPC does not define: callers receive them, and policies
// see UNKNOWN, never an HTTP status.
func TestOrigin_unknownCode(t *testing.T) {
	for _, code := range []codes.Code{17, 99, 200, 503} {
		u, log := upstream(t)
		c := client(t, &service{serve: func(context.Context, int64, stream) error { return status.Error(code, "") }}, u)
		for _, kind := range kinds {
			err := kind.call(t.Context(), c)
			if end := <-log.ends; end.Code != int(codes.Unknown) || end.Detail != envoy.ViaUpstream || status.Code(err) != code {
				t.Errorf("%s, %d: got code %d, %v and %v", kind.name, code, end.Code, end.Detail, err)
			}
		}
	}
}

func asked(code codes.Code, text, details string) *status.Status {
	s := status.New(code, text)
	if details != "" {
		s, _ = s.WithDetails(&errdetails.ErrorInfo{Reason: "DATABASE_DOWN"})
	}
	return s
}

// sendAsAsked sends the status that the request's metadata asks for.
func sendAsAsked(ctx context.Context, _ int64, s stream) error {
	md, _ := metadata.FromIncomingContext(ctx)
	get := func(name string) string { return append(md.Get(name), "")[0] }
	if get("after") != "" {
		if err := s.head(metadata.Pairs("x-head", "1")); err != nil {
			return err
		}
	}
	if trailer := get("trailer"); trailer != "" {
		s.tail(metadata.Pairs("x-tail", trailer))
	}
	code, _ := strconv.Atoi(get("code"))
	return asked(codes.Code(code), get("text"), get("details")).Err()
}

// TestOrigin_made makes calls without a response, for which gRPC's client makes a status: it is
// classified correctly even if an interceptor inside changes its text.
func TestOrigin_made(t *testing.T) {
	tests := []struct {
		name    string
		serve   func(l *conns, w http.ResponseWriter, r *http.Request)
		detail  *envoy.Detail
		retried bool
	}{
		{"a reset stream", func(*conns, http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, envoy.MalformedResponse, true},
		{"a connection that is cut", func(l *conns, _ http.ResponseWriter, _ *http.Request) { l.cut() }, envoy.ConnectionTermination, true},
	}
	reword := func(err error) error {
		if err == nil {
			return nil
		}
		return status.Error(status.Code(err), "other text")
	}
	inside := []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, options ...grpc.CallOption) error {
			return reword(invoker(ctx, method, req, reply, cc, options...))
		}),
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			u, log := upstream(t, again("reset", 1))
			err := kinds[0].call(t.Context(), plainHTTP(t, u, test.serve, inside...))
			end := <-log.ends
			if end.Detail != test.detail || (log.count(policy.EventRetry) == 1) != test.retried {
				t.Errorf("got %v, %v, %d retries, want %v", err, end.Detail, log.count(policy.EventRetry), test.detail)
			}
		})
	}
}

// TestOrigin_missingMessage sends OK without the message that a unary call needs. gRPC's client
// returns an error, but the server has processed the call: it is not retried. Neither is a call
// with an extra message.
func TestOrigin_missingMessage(t *testing.T) {
	tests := []struct {
		name     string
		messages int
		head     bool
	}{{"trailers-only", 0, false}, {"a header and trailers", 0, true}, {"two messages", 2, true}}
	for _, test := range tests {
		for _, kind := range []int{0, 2} { // the kinds with one response message
			t.Run(fmt.Sprint(test.name, ", ", kinds[kind].name), func(t *testing.T) {
				u, log := upstream(t, again("internal,reset,5xx,unavailable,cancelled", 2))
				c := plainHTTP(t, u, func(_ *conns, w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Type", "application/grpc")
					if !test.head {
						w.Header().Set("Grpc-Status", "0")
						return
					}
					grpcHead(w)
					for range test.messages {
						_, _ = w.Write([]byte{0, 0, 0, 0, 0})
					}
					w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
				})
				err := kinds[kind].call(t.Context(), c)
				end := <-log.ends
				if status.Code(err) != codes.Internal || end.Detail != envoy.ViaUpstream || end.Flags != 0 {
					t.Errorf("got %v, %v, flags %v, want Internal from a response", err, end.Detail, end.Flags)
				}
				if got := log.count(policy.EventAttempt); got != 1 {
					t.Errorf("got %d attempts, want 1", got)
				}
			})
		}
	}
}
