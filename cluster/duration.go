package cluster

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/pillion-go/pillion/cluster/internal/pool"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// MaxStreamDuration is the detail of an attempt that took longer than MaxStreamDuration of its
// [Config]. Mirrors Envoy's upstream_max_stream_duration_reached.
//
//nolint:gochecknoglobals // a constant, which Go has none of this type
var MaxStreamDuration = envoy.NewDetail(envoy.DetailSpec{
	Text: "upstream_max_stream_duration_reached", Flags: envoy.UMSDR, Status: 504, Body: "upstream max stream duration reached", Unrouted: true,
})

var errMaxStreamDuration = errors.New("cluster: max_stream_duration reached")

// streamLimit ends an attempt that takes too long, from its connection to the end of its response.
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

// overdue makes o that of an attempt that took too long, if it did.
func (r *route) overdue(p *pick, o *policy.Outcome) {
	if p.limit == nil || !p.limit.expired.Load() || o.Err == nil || o.Has(policy.Timeout) || o.Detail == MaxStreamDuration {
		return
	}
	p.host.Observe(maxDurationReached, 1)
	o.Conditions = o.Conditions&^policy.Cancelled | policy.Reset
	o.Flags, o.Detail = MaxStreamDuration.Flags(), MaxStreamDuration
	o.Err = &policy.UpstreamError{Upstream: r.upstream, Flags: o.Flags, Detail: o.Detail, Err: errMaxStreamDuration}
}

// maxDurationReached is an event besides those of the pools: it counts attempts that took too long.
const maxDurationReached = pool.Event(pool.NumEvents)
