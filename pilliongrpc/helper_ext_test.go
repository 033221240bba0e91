package pilliongrpc_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/pilliongrpc"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service serves all kinds of calls with one function, which also sends the header if the call has
// one.
type service struct {
	testgrpc.UnimplementedTestServiceServer
	serve func(ctx context.Context, n int64, s stream) error // n is the number of the call, from 1
	n     atomic.Int64
}

// stream has the operations for any kind of call.
type stream struct {
	head func(metadata.MD) error
	tail func(metadata.MD)
	recv func() error
	send func() error // nil for unary calls
}

func (s *service) UnaryCall(ctx context.Context, _ *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	err := s.serve(ctx, s.n.Add(1), stream{
		head: func(md metadata.MD) error { return grpc.SendHeader(ctx, md) },
		tail: func(md metadata.MD) { _ = grpc.SetTrailer(ctx, md) },
		recv: func() error { return nil },
	})
	return &testgrpc.SimpleResponse{Username: "me"}, err
}

func (s *service) StreamingOutputCall(_ *testgrpc.StreamingOutputCallRequest, out testgrpc.TestService_StreamingOutputCallServer) error {
	return s.serve(out.Context(), s.n.Add(1), stream{
		head: out.SendHeader, tail: out.SetTrailer, recv: func() error { return nil },
		send: func() error { return out.Send(&testgrpc.StreamingOutputCallResponse{}) },
	})
}

func (s *service) StreamingInputCall(in testgrpc.TestService_StreamingInputCallServer) error {
	err := s.serve(in.Context(), s.n.Add(1), stream{
		head: in.SendHeader, tail: in.SetTrailer, recv: func() error { _, err := in.Recv(); return err },
	})
	if err != nil {
		return err
	}
	return in.SendAndClose(&testgrpc.StreamingInputCallResponse{})
}

func (s *service) FullDuplexCall(both testgrpc.TestService_FullDuplexCallServer) error {
	return s.serve(both.Context(), s.n.Add(1), stream{
		head: both.SendHeader, tail: both.SetTrailer, recv: func() error { _, err := both.Recv(); return err },
		send: func() error { return both.Send(large) },
	})
}

// large is a message of which a few fill a client's receive window.
var large = &testgrpc.StreamingOutputCallResponse{Payload: &testgrpc.Payload{Body: make([]byte, 10<<10)}}

// kinds holds the four kinds of calls, each made to its end.
var kinds = []struct {
	name   string
	client bool // the client sends a stream
	call   func(ctx context.Context, c testgrpc.TestServiceClient, options ...grpc.CallOption) error
}{
	{"unary", false, func(ctx context.Context, c testgrpc.TestServiceClient, options ...grpc.CallOption) error {
		_, err := c.UnaryCall(ctx, &testgrpc.SimpleRequest{}, options...)
		return err
	}},
	{"server stream", false, func(ctx context.Context, c testgrpc.TestServiceClient, options ...grpc.CallOption) error {
		s, err := c.StreamingOutputCall(ctx, &testgrpc.StreamingOutputCallRequest{}, options...)
		if err != nil {
			return err
		}
		return drain(func() error { _, err := s.Recv(); return err })
	}},
	{"client stream", true, func(ctx context.Context, c testgrpc.TestServiceClient, options ...grpc.CallOption) error {
		s, err := c.StreamingInputCall(ctx, options...)
		if err != nil {
			return err
		}
		_ = s.Send(&testgrpc.StreamingInputCallRequest{})
		_, err = s.CloseAndRecv()
		return err
	}},
	{"bidi", true, func(ctx context.Context, c testgrpc.TestServiceClient, options ...grpc.CallOption) error {
		s, err := c.FullDuplexCall(ctx, options...)
		if err != nil {
			return err
		}
		_ = s.Send(&testgrpc.StreamingOutputCallRequest{})
		_ = s.CloseSend()
		return drain(func() error { _, err := s.Recv(); return err })
	}},
}

// drain receives to the end.
func drain(recv func() error) error {
	for {
		err := recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// client serves s in memory, and returns a client of it under r's policies.
func client(t *testing.T, s testgrpc.TestServiceServer, r pillion.Resolver, server ...grpc.ServerOption) testgrpc.TestServiceClient {
	t.Helper()
	return testgrpc.NewTestServiceClient(connect(t, s, pilliongrpc.DialOptions(r), server...))
}

// connect serves s in memory, and returns a connection to it.
func connect(t *testing.T, s testgrpc.TestServiceServer, dial []grpc.DialOption, options ...grpc.ServerOption) *grpc.ClientConn {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	server := grpc.NewServer(options...)
	testgrpc.RegisterTestServiceServer(server, s)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	conn, err := grpc.NewClient("passthrough:///recipes", append(dial, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		serving.Wait()
	})
	return conn
}

// upstream makes an upstream, and the log of its events.
func upstream(t *testing.T, policies ...pillion.Policy) (*pillion.Upstream, *events) {
	t.Helper()
	log := &events{ends: make(chan policy.Outcome, 2000)}
	u, err := pillion.New("recipes", append(policies, pillion.Listener(log.hear), pillion.Options{ReplayBuffer: 1 << 20})...)
	if err != nil {
		t.Fatal(err)
	}
	return u, log
}

// events counts the events of calls.
type events struct {
	ends chan policy.Outcome
	seen [policy.EventEnd + 1]atomic.Int64
}

func (l *events) hear(_ context.Context, e policy.Event) {
	l.seen[e.Kind].Add(1)
	if e.Kind == policy.EventEnd {
		end := *e.Outcome
		end.Value = nil
		l.ends <- end
	}
}

func (l *events) count(kind policy.EventKind) int64 { return l.seen[kind].Load() }

// again is a retry policy without waits.
func again(on string, retries int) retry.Config {
	return retry.Config{On: on, NumRetries: retries, Rand: func() float64 { return 0 }}
}

// answering fails the first of every two calls as its metadata asks: with a code, after a header or
// not.
func answering(ctx context.Context, _ int64, s stream) error {
	md, _ := metadata.FromIncomingContext(ctx)
	get := func(name string) string {
		if v := md.Get(name); len(v) != 0 {
			return v[0]
		}
		return ""
	}
	code, _ := strconv.Atoi(get("code"))
	if get("after") == "header" {
		if err := s.head(metadata.Pairs("x-head", "1")); err != nil {
			return err
		}
	}
	return status.Error(codes.Code(code), "asked for")
}

var errUnavailable = status.Error(codes.Unavailable, "not now")

// wantEnd waits for the end of a call.
func wantEnd(t *testing.T, log *events) policy.Outcome {
	t.Helper()
	select {
	case end := <-log.ends:
		return end
	case <-time.After(10 * time.Second):
		t.Fatal("got no end of the call, want one")
		return policy.Outcome{}
	}
}

// bareStream is a ServerStream that is not gRPC's: RecvMsg waits until its context ends.
type bareStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s bareStream) Context() context.Context { return s.ctx }

func (s bareStream) RecvMsg(any) error {
	<-s.ctx.Done()
	return s.ctx.Err()
}

func (bareStream) SendMsg(any) error            { return nil }
func (bareStream) SendHeader(metadata.MD) error { return nil }
func (bareStream) SetTrailer(metadata.MD)       {}

var info = &grpc.StreamServerInfo{FullMethod: "/pkg.Svc/Method", IsClientStream: true}
