package pilliongrpc

import (
	"context"
	"time"

	"google.golang.org/grpc/connectivity"
)

// redialTime is how long an attempt that follows a failed connection waits for a new one.
// gRPC does not say when a further dial fails, so this is also how long such an attempt takes
// while the server is away.
const redialTime = 50 * time.Millisecond

// redial has gRPC dial again, and waits for the connection. After a failed dial gRPC waits
// for a second or more before the next one, and meanwhile fails every request with the old
// error: a retry could not succeed. Envoy dials for each attempt.
func (x *client) redial(ctx context.Context) {
	if x.cc == nil || x.cc.GetState() != connectivity.TransientFailure {
		return
	}
	x.cc.ResetConnectBackoff()
	ctx, cancel := context.WithTimeout(ctx, redialTime)
	defer cancel()
	x.cc.WaitForStateChange(ctx, connectivity.TransientFailure)
}
