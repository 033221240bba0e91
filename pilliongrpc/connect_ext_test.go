package pilliongrpc_test

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/pilliongrpc"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
)

// away is a server that refuses connections until it is back.
type away struct {
	listener *bufconn.Listener
	back     atomic.Bool
	dials    atomic.Int64
}

func (a *away) dial(ctx context.Context, _ string) (net.Conn, error) {
	a.dials.Add(1)
	if !a.back.Load() {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	return a.listener.DialContext(ctx)
}

// client serves s behind a, and returns a client of it.
func (a *away) client(t *testing.T, s testgrpc.TestServiceServer, u *pillion.Upstream) testgrpc.TestServiceClient {
	t.Helper()
	a.listener = bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(server, s)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(a.listener) })
	conn, err := grpc.NewClient("passthrough:///recipes", append(pilliongrpc.DialOptions(u),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(a.dial))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		serving.Wait()
	})
	return testgrpc.NewTestServiceClient(conn)
}

// TestRedial uses an unreachable server: each attempt after a failed connection dials, long before
// the end of gRPC's own back-off of a second.
func TestRedial(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u, log := upstream(t, retry.Config{On: "connect-failure", NumRetries: 4})
				a, began := &away{}, time.Now()
				err := kind.call(t.Context(), a.client(t, &service{}, u))
				end := <-log.ends
				if status.Code(err) != codes.Unavailable || end.Detail != envoy.ConnectionRefused {
					t.Errorf("got %v, %v, want Unavailable, refused", err, end.Detail)
				}
				if attempts, dials := log.count(policy.EventAttempt), a.dials.Load(); attempts != 5 || dials != 5 {
					t.Errorf("got %d attempts and %d dials, want 5 of both", attempts, dials)
				}
				if took := time.Since(began); took > time.Second {
					t.Errorf("took %v, want less than gRPC's back-off", took)
				}
			})
		})
	}
}

// TestRedial_back makes a server reachable while a call is retried: the next attempt reaches it.
func TestRedial_back(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var a away
				u, log := upstream(t, retry.Config{On: "connect-failure", NumRetries: 4}, pillion.Listener(func(_ context.Context, e policy.Event) {
					if e.Kind == policy.EventRetryScheduled && e.Call.Attempt() == 2 {
						a.back.Store(true)
					}
				}))
				s := &service{serve: func(context.Context, int64, stream) error { return nil }}
				if err := kind.call(t.Context(), a.client(t, s, u)); err != nil {
					t.Errorf("got %v, want the server's response", err)
				}
				<-log.ends
				if got := log.count(policy.EventAttempt); got != 3 {
					t.Errorf("got %d attempts, want 3: the server was back after the second", got)
				}
			})
		})
	}
}
