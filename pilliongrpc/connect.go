package pilliongrpc

import (
	"context"
	"time"

	"google.golang.org/grpc/connectivity"
)

// redialTime is how long an attempt after a failed connection waits for a new one. gRPC does not
// report when the next dial fails, so such an attempt also takes this long while the server is
// unreachable.
const redialTime = 50 * time.Millisecond

// redial makes gRPC dial again and waits for the connection. After a failed dial gRPC waits for a
// second or more, and until then fails every request with the old error, so that a retry could not
// succeed. Envoy dials for each attempt.
func (x *client) redial(ctx context.Context) {
	if x.cc == nil || x.cc.GetState() != connectivity.TransientFailure {
		return
	}
	x.cc.ResetConnectBackoff()
	ctx, cancel := context.WithTimeout(ctx, redialTime)
	defer cancel()
	x.cc.WaitForStateChange(ctx, connectivity.TransientFailure)
}
