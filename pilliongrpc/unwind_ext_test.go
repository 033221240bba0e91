package pilliongrpc_test

import (
	"context"
	"runtime"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/pilliongrpc"
	"github.com/pillion-go/pillion/policy"
)

// exiting is a policy that ends its goroutine.
type exiting struct{}

func (exiting) Wrap(*policy.Builder, policy.Func) (policy.Func, error) {
	return func(context.Context, *policy.Call) *policy.Outcome {
		runtime.Goexit()
		return nil
	}, nil
}

// TestStream_policyExits ends the separate goroutine of a stream in a policy: the stream returns an
// error.
func TestStream_policyExits(t *testing.T) {
	u, _ := upstream(t, again("unavailable", 1), exiting{})
	c := client(t, &service{serve: func(context.Context, int64, stream) error { return nil }}, u)
	s, err := c.FullDuplexCall(t.Context())
	if err == nil {
		_, err = s.Recv()
	}
	if status.Code(err) != codes.Internal {
		t.Errorf("got %v, want INTERNAL", err)
	}
}

// TestStream_hookPanics panics in a listener at the end of a stream that the caller does not read:
// grpc.OnFinish is called once.
func TestStream_hookPanics(t *testing.T) {
	u, log := upstream(t, pillion.Listener(func(_ context.Context, e policy.Event) {
		if e.Kind == policy.EventEnd {
			panic("soup")
		}
	}))
	c := client(t, &service{serve: func(ctx context.Context, _ int64, _ stream) error {
		<-ctx.Done()
		return ctx.Err()
	}}, u)
	ctx, cancel := context.WithCancel(t.Context())
	finished := make(chan error, 2)
	if _, err := c.FullDuplexCall(ctx, grpc.OnFinish(func(err error) { finished <- err })); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-log.ends
	select {
	case <-finished:
	case <-time.After(10 * time.Second):
		t.Error("got no call of OnFinish, want one")
	}
}

// TestServer_policyPanics panics in a policy of a service, before a call and at its end: the client
// receives a status, the slot is freed, and the process continues.
func TestServer_policyPanics(t *testing.T) {
	for _, at := range []policy.EventKind{policy.EventAttempt, policy.EventAttemptEnd, policy.EventEnd} {
		t.Run(at.String(), func(t *testing.T) {
			rude := true
			front, err := pillion.New("front", limits.Config{MaxRequests: 1}, pillion.Listener(func(_ context.Context, e policy.Event) {
				if rude && e.Kind == at {
					panic("soup")
				}
			}))
			if err != nil {
				t.Fatal(err)
			}
			options, err := pilliongrpc.ServerOptions(front)
			if err != nil {
				t.Fatal(err)
			}
			c := testgrpc.NewTestServiceClient(connect(t, &service{serve: func(context.Context, int64, stream) error { return nil }}, nil, options...))
			for _, kind := range kinds {
				if err := kind.call(t.Context(), c); status.Code(err) != codes.Internal {
					t.Errorf("%s: got %v, want INTERNAL", kind.name, err)
				}
			}
			rude = false
			if _, err := c.UnaryCall(t.Context(), &testgrpc.SimpleRequest{}); err != nil {
				t.Errorf("the next call: got %v", err)
			}
		})
	}
}
