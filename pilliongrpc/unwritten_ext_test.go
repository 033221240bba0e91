package pilliongrpc_test

import (
	"context"
	"io"
	"testing"

	"google.golang.org/grpc"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/pilliongrpc"
	"github.com/pillion-go/pillion/retry"
)

// TestUnary_unwritten pins that a bare io.EOF of gRPC's client, whose stream ended before the message
// was written, is retried as a refused stream is.
func TestUnary_unwritten(t *testing.T) {
	u, err := pillion.New("recipes", retry.Config{On: "refused-stream", Rand: func() float64 { return 0 }})
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	invoke := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
		if calls++; calls == 1 {
			return io.EOF
		}
		return nil
	}
	err = pilliongrpc.UnaryClientInterceptor(u)(t.Context(), "/recipes.Book/Find", nil, nil, nil, invoke)
	if err != nil || calls != 2 {
		t.Errorf("got %v after %d calls, want none after 2", err, calls)
	}
}
