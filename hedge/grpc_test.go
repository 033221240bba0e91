package hedge

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/test/bufconn"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/internal/statstest"
	"github.com/pillion-go/pillion/pilliongrpc"
)

// slowOnce is a server that does not respond to its first request.
type slowOnce struct {
	grpc_health_v1.UnimplementedHealthServer
	n atomic.Int64
}

func (s *slowOnce) Check(ctx context.Context, _ *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	if s.n.Add(1) == 1 {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
}

func (s *slowOnce) Watch(_ *grpc_health_v1.HealthCheckRequest, out grpc.ServerStreamingServer[grpc_health_v1.HealthCheckResponse]) error {
	time.Sleep(50 * ms)
	return out.Send(&grpc_health_v1.HealthCheckResponse{})
}

// TestGRPC pins that a unary call is hedged, and a stream is not.
func TestGRPC(t *testing.T) {
	u, registry := statstest.New(t, Config{Delay: 10 * ms})
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, &slowOnce{})
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()
	conn, err := grpc.NewClient("passthrough:///recipes", append(pilliongrpc.DialOptions(u),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	client := grpc_health_v1.NewHealthClient(conn)
	ctx := pillion.WithIdempotent(t.Context())
	reply, err := client.Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil || reply.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("got %v and %v, want the second response", reply, err)
	}
	sent := statstest.Used(t, registry, "hedge.")["sent"]
	stream, err := client.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Errorf("stream: got %v", err)
	}
	if now := statstest.Used(t, registry, "hedge.")["sent"]; sent != 1 || now != 1 {
		t.Errorf("got %d hedges, and %d after the stream, want 1", sent, now)
	}
}
