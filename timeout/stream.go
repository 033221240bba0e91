package timeout

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/internal/settings"
	"github.com/pillion-go/pillion/policy"
)

// Stream says how long a call may take as a stream, whatever its attempts. It is a policy, to stand
// outside retry. It is for calls that stay open, and for those that come from Envoy's routes: what
// it ends is not retried, and no statistic of the upstream's counts it. Beside it, a [Config] has its
// default of 15s for the whole call unless Total is set to Unlimited. The zero value limits nothing.
type Stream struct {
	// MaxDuration is how long the call may take, from its start to the end of its body; an upload
	// does not lengthen it. The server is not told. Zero and Unlimited mean no limit; any other value
	// below 1ms is an error. Mirrors max_stream_duration.max_stream_duration of RouteAction, beside
	// which Envoy ignores timeout.
	MaxDuration time.Duration `json:"max_stream_duration,omitempty"`

	// Idle is how long nothing may move: while response headers are waited for, and in each read of
	// the body. The time that a caller takes between reads does not count. Zero and Unlimited mean no limit;
	// any other value below 1ms is an error. Mirrors idle_timeout of RouteAction.
	Idle time.Duration `json:"idle_timeout,omitempty"`

	// GRPCTimeoutMax has the request header grpc-timeout take the place of MaxDuration, up to that
	// time. It is for HTTP clients that pass requests on, such as a proxy; of a gRPC client the context
	// has the deadline. Zero means that the header is not honored, Unlimited that it is without a
	// maximum; any other value below 1ms is an error. Mirrors grpc_timeout_header_max, whose 0 is
	// Unlimited.
	GRPCTimeoutMax time.Duration `json:"grpc_timeout_header_max,omitempty"`

	// GRPCTimeoutOffset is subtracted from grpc-timeout, if that is more. Negative is an error, and
	// so is a value without GRPCTimeoutMax. Mirrors grpc_timeout_header_offset.
	GRPCTimeoutOffset time.Duration `json:"grpc_timeout_header_offset,omitempty"`
}

// Place is outside of what retries or hedges.
func (Stream) Place() policy.Place {
	return policy.Place{
		Rank: policy.PerCall, Name: "stream timeout",
		Why: "would limit each attempt, not the call", Once: "would set the limits twice",
	}
}

// Wrap sets the limits in each call.
func (s Stream) Wrap(_ *policy.Builder, next policy.Func) (policy.Func, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		if d := s.duration(c); d > 0 {
			c.LimitStream(d)
		}
		if s.Idle > 0 {
			c.LimitStreamIdle(s.Idle)
		}
		return next(ctx, c)
	}, nil
}

// duration is the limit on the call.
func (s Stream) duration(c *policy.Call) time.Duration {
	if s.GRPCTimeoutMax == 0 {
		return s.MaxDuration
	}
	d, ok := envoy.GRPCTimeout(c.RequestHeader(envoy.GRPCTimeoutHeader))
	if !ok {
		return s.MaxDuration
	}
	if s.GRPCTimeoutMax > 0 {
		d = min(d, s.GRPCTimeoutMax)
	}
	if s.GRPCTimeoutOffset < d {
		d -= s.GRPCTimeoutOffset
	}
	return max(d, 1)
}

// check reports each bad field.
func (s Stream) check() error {
	var bad []error
	say := func(field string, value time.Duration, why string) {
		bad = append(bad, fmt.Errorf("timeout: Stream.%s: %v %s", field, value, why))
	}
	for _, f := range []struct {
		name    string
		value   time.Duration
		instead []string
	}{
		{"MaxDuration", s.MaxDuration, []string{noTimeout}},
		{"Idle", s.Idle, []string{noTimeout}},
		{"GRPCTimeoutMax", s.GRPCTimeoutMax, []string{"0 to ignore the header", "timeout.Unlimited"}},
	} {
		if why := settings.Duration(f.value, f.instead...); why != "" && f.value != Unlimited {
			say(f.name, f.value, why)
		}
	}
	switch offset := s.GRPCTimeoutOffset; {
	case offset < 0:
		say("GRPCTimeoutOffset", offset, "is negative; write a duration such as 5*time.Millisecond, or 0 to subtract nothing")
	case offset > 0 && s.GRPCTimeoutMax == 0:
		say("GRPCTimeoutOffset", offset, "has no effect without GRPCTimeoutMax; leave it out")
	}
	return errors.Join(bad...)
}
