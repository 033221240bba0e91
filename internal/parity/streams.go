package parity

import (
	"time"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/timeout"
)

// envoyMaxStream is Envoy's MaxStreamDuration.
type envoyMaxStream struct {
	MaxStreamDuration       duration  `json:"max_stream_duration"`
	GRPCTimeoutHeaderMax    *duration `json:"grpc_timeout_header_max"`
	GRPCTimeoutHeaderOffset duration  `json:"grpc_timeout_header_offset"`
}

// makeStream maps the limits of a route's streams. Beside a max_stream_duration Envoy ignores the
// route's timeout.
func (f *fragments) makeStream(r envoyRoute, made *route) {
	made.stream.Idle = time.Duration(r.Route.IdleTimeout)
	m := r.Route.MaxStreamDuration
	if m == nil {
		return
	}
	made.timeout.Total = timeout.Unlimited
	made.stream.MaxDuration = time.Duration(m.MaxStreamDuration)
	made.stream.GRPCTimeoutOffset = time.Duration(m.GRPCTimeoutHeaderOffset)
	if most := m.GRPCTimeoutHeaderMax; most != nil {
		if made.stream.GRPCTimeoutMax = time.Duration(*most); *most == 0 {
			made.stream.GRPCTimeoutMax = timeout.Unlimited
		}
	}
}

// maintenance takes the upstream out of service for a share of its calls, in percent.
func maintenance(percent int) (*limits.Maintenance, error) {
	if percent == 0 {
		return nil, nil
	}
	m := &limits.Maintenance{}
	return m, m.Set(envoy.Percent{Numerator: percent})
}
