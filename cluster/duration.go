package cluster

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/pillion-go/pillion/cluster/internal/pool"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// MaxStreamDuration is the response code detail of an attempt that exceeded MaxStreamDuration of its
// [Config]. The attempt fails with a [policy.UpstreamError] that has this detail. Mirrors Envoy's
// upstream_max_stream_duration_reached.
//
//nolint:gochecknoglobals // a constant of a type that Go has no constants of
var MaxStreamDuration = envoy.NewDetail(envoy.DetailSpec{
	Text: "upstream_max_stream_duration_reached", Flags: envoy.UMSDR, Status: 504, Body: "upstream max stream duration reached", Unrouted: true,
})

var errMaxStreamDuration = errors.New("cluster: max_stream_duration reached")

// streamLimit limits the time of an attempt from the connection to the end of the response.
type streamLimit struct {
	timer   *time.Timer
	expired atomic.Bool
}

// limit starts the limit of an attempt that has a connection.
func (r *route) limit(c *policy.Call, p *pick) {
	d := r.cluster.cfg.MaxStreamDuration
	if d <= 0 || p.limit != nil {
		return
	}
	l, stream := &streamLimit{}, (*policy.Attempt)(c).Stream()
	l.timer = time.AfterFunc(d, func() {
		l.expired.Store(true)
		stream.Break(errMaxStreamDuration)
	})
	p.limit = l
}

// stop ends the limit.
func (l *streamLimit) stop() {
	if l != nil {
		l.timer.Stop()
	}
}

// overdue changes o to the outcome of an attempt that exceeded the limit, if the limit ended it.
func (r *route) overdue(p *pick, o *policy.Outcome) {
	if p.limit == nil || !p.limit.expired.Load() || o.Err == nil || o.Has(policy.Timeout) || o.Detail == MaxStreamDuration {
		return
	}
	p.host.Observe(maxDurationReached, 1)
	o.Conditions = o.Conditions&^policy.Cancelled | policy.Reset
	o.Flags, o.Detail = MaxStreamDuration.Flags(), MaxStreamDuration
	o.Err = &policy.UpstreamError{Upstream: r.upstream, Flags: o.Flags, Detail: o.Detail, Err: errMaxStreamDuration}
}

// maxDurationReached is an event in addition to those of the pools: an attempt exceeded the limit.
const maxDurationReached = pool.Event(pool.NumEvents)
