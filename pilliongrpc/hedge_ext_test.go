package pilliongrpc_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion/pilliongrpc"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// TestHedgeOnPerTryTimeout has a unary call go on after its limit while the next one runs, and pins
// that streams end with the limit as ever.
func TestHedgeOnPerTryTimeout(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			u, log := upstream(t, timeout.Config{Total: 10 * time.Second, PerTry: 50 * time.Millisecond}, retry.Config{On: "unavailable,reset", HedgeOnPerTryTimeout: true})
			c := client(t, &service{serve: func(ctx context.Context, n int64, s stream) error {
				if n == 1 {
					<-ctx.Done()
					return ctx.Err()
				}
				s.tail(metadata.Pairs("attempt", "2"))
				return nil
			}}, u)
			var trailer metadata.MD
			err := kind.call(t.Context(), c, grpc.Trailer(&trailer))
			end := wantEnd(t, log)
			if err != nil || log.count(policy.EventAttempt) != 2 || end.Err != nil {
				t.Errorf("got %v, and %v after %d attempts", err, end.Err, log.count(policy.EventAttempt))
			}
			want := int64(0)
			if kind.name == "unary" {
				want = 1
				if got := trailer.Get("attempt"); len(got) != 1 || got[0] != "2" {
					t.Errorf("trailer: got %v, want that of the second attempt", trailer)
				}
			}
			if got := log.count(policy.EventOverdue); got != want {
				t.Errorf("got %d attempts that outlasted their limit, want %d", got, want)
			}
		})
	}
}

// TestHedgeOnPerTryTimeout_firstWins pins that the reply, the text of the status and the targets are
// those of the attempt that wins, and that an attempt that was not needed is not told.
func TestHedgeOnPerTryTimeout_firstWins(t *testing.T) {
	u, log := upstream(t, timeout.Config{PerTry: 50 * time.Millisecond}, retry.Config{On: "unavailable", HedgeOnPerTryTimeout: true})
	answer := make(chan struct{})
	c := client(t, &service{serve: func(ctx context.Context, n int64, s stream) error {
		if n == 2 {
			close(answer)
			<-ctx.Done()
			return ctx.Err()
		}
		<-answer
		s.tail(metadata.Pairs("attempt", "1"))
		return nil
	}}, u)
	var trailer metadata.MD
	reply, err := c.UnaryCall(t.Context(), &testgrpc.SimpleRequest{}, grpc.Trailer(&trailer))
	if err != nil || reply.GetUsername() != "me" || len(trailer.Get("attempt")) != 1 || trailer.Get("attempt")[0] != "1" {
		t.Errorf("got %v, %v and %v, want the first attempt's", reply, err, trailer)
	}
	wantEnd(t, log)
}

// TestHedgeOnPerTryTimeout_quick pins that a call that fails in time is not said to have been
// retried, and that an unreachable server is dialed anew for the next attempt.
func TestHedgeOnPerTryTimeout_quick(t *testing.T) {
	u, log := upstream(t, timeout.Config{PerTry: time.Second}, retry.Config{On: "reset", HedgeOnPerTryTimeout: true})
	c := client(t, &service{serve: func(context.Context, int64, stream) error { return errUnavailable }}, u)
	_, err := c.UnaryCall(t.Context(), &testgrpc.SimpleRequest{})
	if _, local := errors.AsType[*pilliongrpc.Error](err); local || status.Code(err) != codes.Unavailable {
		t.Errorf("got %v, want the server's status", err)
	}
	if end := wantEnd(t, log); end.Flags != 0 || log.count(policy.EventAttempt) != 1 {
		t.Errorf("got %v after %d attempts", end.Flags, log.count(policy.EventAttempt))
	}
}
