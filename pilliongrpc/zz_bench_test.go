package pilliongrpc_test

import (
	"context"
	"testing"

	"google.golang.org/grpc"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/pilliongrpc"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

func BenchmarkUnary(b *testing.B) {
	registry, _ := metrics.NewRegistry(metrics.Settings{})
	u, err := pillion.New("recipes", metrics.Config{Registry: registry}, timeout.Config{PerTry: 3e8}, retry.Config{On: "unavailable"}, limits.Config{}, breaker.Config{})
	if err != nil {
		b.Fatal(err)
	}
	intercept := pilliongrpc.Unary(u)
	ctx, reply := context.Background(), &struct{ int }{}
	invoke := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil }
	b.ReportAllocs()
	for b.Loop() {
		if err := intercept(ctx, "/pkg.Svc/Method", reply, reply, nil, invoke); err != nil {
			b.Fatal(err)
		}
	}
}
