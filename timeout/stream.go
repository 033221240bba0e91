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

// Stream configures the timeouts of a call as one stream, independent of its attempts. It is a policy
// that must be outside retry. It is for calls that stay open, such as event streams, and for Envoy's
// route settings of the same names. A call whose Stream timeout fires is not retried, and the
// upstream's statistics do not count the timeout. If the upstream also has a [Config], its Total is
// still 15s by default: set Total to Unlimited. The zero value sets no timeouts.
type Stream struct {
	// MaxDuration bounds the call from its start to the end of the response body. Unlike Total, it
	// also runs during an upload, and it is not announced to the server. Zero and Unlimited mean no
	// timeout; any other value below 1ms is an error. Mirrors max_stream_duration.max_stream_duration
	// of RouteAction. With it Envoy ignores timeout, which is Total of [Config].
	MaxDuration time.Duration `json:"max_stream_duration,omitempty"`

	// Idle bounds each wait for the upstream: the wait for the response headers, and each read of the
	// body. The time between reads does not count. Zero and Unlimited mean no timeout; any other value
	// below 1ms is an error. Mirrors idle_timeout of RouteAction.
	Idle time.Duration `json:"idle_timeout,omitempty"`

	// GRPCTimeoutMax makes the request header grpc-timeout replace MaxDuration, and is the maximum of
	// the header. It is for HTTP clients that forward requests, such as a proxy: a gRPC client has its
	// deadline in the context. Zero means that the header is ignored; Unlimited means no maximum; any
	// other value below 1ms is an error. Mirrors grpc_timeout_header_max, whose 0 is Unlimited.
	GRPCTimeoutMax time.Duration `json:"grpc_timeout_header_max,omitempty"`

	// GRPCTimeoutOffset is subtracted from grpc-timeout if it is less than that. Zero subtracts
	// nothing; negative is an error, as is a value without GRPCTimeoutMax. Mirrors
	// grpc_timeout_header_offset.
	GRPCTimeoutOffset time.Duration `json:"grpc_timeout_header_offset,omitempty"`
}

// Place returns a place outside retry and hedge policies.
func (Stream) Place() policy.Place {
	return policy.Place{
		Rank: policy.PerCall, Name: "stream timeout",
		Why: "would limit each attempt, not the call", Once: "would set the limits twice",
	}
}

// Wrap wraps next and sets the timeouts of each call.
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

// duration returns the timeout of the call, 0 or less for none.
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

// check returns an error for each invalid field.
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
