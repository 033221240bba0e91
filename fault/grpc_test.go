package fault

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/pilliongrpc"
	"github.com/pillion-go/pillion/retry"
)

// dial serves health checks under the policies of server, and returns a client for them under those
// of client. A nil upstream means no policies.
func dial(t *testing.T, server, client *pillion.Upstream) grpc_health_v1.HealthClient {
	t.Helper()
	var served []grpc.ServerOption
	dialed := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	if server != nil {
		options, err := pilliongrpc.ServerOptions(server)
		if err != nil {
			t.Fatal(err)
		}
		served = options
	}
	if client != nil {
		dialed = append(dialed, pilliongrpc.DialOptions(client)...)
	}
	listener := bufconn.Listen(1 << 16)
	s := grpc.NewServer(served...)
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	go func() { _ = s.Serve(listener) }()
	dialed = append(dialed, grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	conn, err := grpc.NewClient("passthrough:///recipes", dialed...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		s.Stop()
	})
	return grpc_health_v1.NewHealthClient(conn)
}

// TestGRPC pins the status of an abort on a client and on a server, for unary calls and streams.
func TestGRPC(t *testing.T) {
	tests := []struct {
		abort Abort
		want  codes.Code
	}{
		{Abort{HTTPStatus: 503}, codes.Unavailable},
		{Abort{HTTPStatus: 403}, codes.PermissionDenied},
		{Abort{GRPCStatus: 8}, codes.ResourceExhausted},
		{Abort{GRPCStatus: 1}, codes.Canceled},
	}
	for _, tc := range tests {
		for _, side := range []string{"client", "server"} {
			k := newKitchen(t, Config{Abort: &tc.abort})
			check := dial(t, nil, k.Upstream)
			if side == "server" {
				check = dial(t, k.Upstream, nil)
			}
			_, err := check.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
			if got := status.Code(err); got != tc.want {
				t.Errorf("%s, %+v: got %v, want %v", side, tc.abort, err, tc.want)
			}
			stream, err := check.Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
			if err == nil {
				_, err = stream.Recv()
			}
			if got := status.Code(err); got != tc.want {
				t.Errorf("%s, stream, %+v: got %v, want %v", side, tc.abort, err, tc.want)
			}
			if side == "client" && !errors.Is(err, ErrInjected) {
				t.Errorf("%+v: got %v, want ErrInjected", tc.abort, err)
			}
		}
	}
}

// TestGRPC_metadata pins that metadata can ask for an abort, and that it is not retried.
func TestGRPC_metadata(t *testing.T) {
	k := newKitchen(t, Config{Abort: &Abort{Header: true}}, retry.Config{On: "unavailable", NumRetries: 3})
	check := dial(t, nil, k.Upstream)
	ctx, info := pillion.WithInfo(metadata.AppendToOutgoingContext(t.Context(), "x-envoy-fault-abort-grpc-request", "14"))
	_, err := check.Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if status.Code(err) != codes.Unavailable || info.Attempts() != 0 || info.Flags() != envoy.FI {
		t.Errorf("got %v, %d attempts and %v", err, info.Attempts(), info.Flags())
	}
	if _, err = check.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Errorf("without metadata: got %v", err)
	}
}

// TestGRPC_delay pins that a delay ends at the deadline of the caller.
func TestGRPC_delay(t *testing.T) {
	k := newKitchen(t, Config{Delay: &Delay{Fixed: time.Hour}})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := dial(t, nil, k.Upstream).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("got %v, want DeadlineExceeded", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = dial(t, k.Upstream, nil).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("server: got %v, want DeadlineExceeded", err)
	}
}
