package pilliongrpc_test

import (
	"context"
	"fmt"
	"strings"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/pilliongrpc"
)

// byMethod chooses the upstream of health checks and that of all other calls.
type byMethod struct{ checks, others *pillion.Upstream }

func (b byMethod) Resolve(_ context.Context, t pillion.Target) (*pillion.Upstream, error) {
	if strings.HasPrefix(t.Path, "/grpc.health.v1.Health/") {
		return b.checks, nil
	}
	return b.others, nil
}

// A server whose slots are all taken is healthy. So its health checks belong to an upstream
// without limits, which a Resolver chooses.
func ExampleServerOptions_healthChecks() {
	front, err := pillion.New("front", limits.Config{MaxRequests: limits.Zero}) // all slots are taken
	if err != nil {
		fmt.Println(err)
		return
	}
	checks, err := pillion.New("checks") // no policies
	if err != nil {
		fmt.Println(err)
		return
	}
	options, err := pilliongrpc.ServerOptions(byMethod{checks: checks, others: front})
	if err != nil {
		fmt.Println(err)
		return
	}
	conn, stop, err := serveHealth(nil, options...)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	response, err := healthpb.NewHealthClient(conn).Check(context.Background(), &healthpb.HealthCheckRequest{})
	fmt.Println(response.GetStatus(), err)
	// Output: SERVING <nil>
}
