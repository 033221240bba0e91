package cluster

import (
	"sync/atomic"

	"github.com/pillion-go/pillion/cluster/internal/balance"
	"github.com/pillion-go/pillion/cluster/internal/outlier"
	"github.com/pillion-go/pillion/cluster/internal/pool"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// The statistics of each host.
const (
	ofConnectFail = iota
	ofConnections
	ofErrors
	ofSuccesses
	ofTimeouts
	ofRequests
	ofActiveConnections
	ofHealthy
	ofActiveRequests
	ofPendingRequests
	hostStats
)

//nolint:gochecknoglobals // a table that nothing writes
var hostStatNames = [hostStats]struct {
	name string
	kind policy.StatKind
}{
	ofConnectFail:       {"cx_connect_fail", policy.Counter},
	ofConnections:       {"cx_total", policy.Counter},
	ofErrors:            {"rq_error", policy.Counter},
	ofSuccesses:         {"rq_success", policy.Counter},
	ofTimeouts:          {"rq_timeout", policy.Counter},
	ofRequests:          {"rq_total", policy.Counter},
	ofActiveConnections: {"cx_active", policy.Gauge},
	ofHealthy:           {"healthy", policy.Gauge},
	ofActiveRequests:    {"rq_active", policy.Gauge},
	ofPendingRequests:   {"rq_pending_active", policy.Gauge},
}

// ofEvent returns the statistic of a pool event.
func ofEvent(e pool.Event) (of int, ok bool) {
	switch e {
	case pool.CxConnectFail:
		return ofConnectFail, true
	case pool.CxTotal:
		return ofConnections, true
	case pool.RqTotal:
		return ofRequests, true
	case pool.CxActive:
		return ofActiveConnections, true
	case pool.RqActive:
		return ofActiveRequests, true
	case pool.RqPendingActive:
		return ofPendingRequests, true
	default:
		return 0, false
	}
}

// endpointStats holds the statistics of one host. It does not refer to the host; see [stats].
type endpointStats struct {
	counts [hostStats]atomic.Int64
	shown  []policy.Stat
}

func newEndpointStats() *endpointStats {
	s := &endpointStats{}
	for i, of := range hostStatNames {
		n := &s.counts[i]
		s.shown = append(s.shown, policy.Stat{Kind: of.kind, Name: of.name, Read: func() uint64 { return uint64(max(0, n.Load())) }})
	}
	return s
}

// observe counts an event of one of the host's pools.
func (s *endpointStats) observe(e pool.Event, n int64) {
	if of, ok := ofEvent(e); ok {
		s.counts[of].Add(n)
	}
}

// setHealth counts the host as healthy or not.
func (s *endpointStats) setHealth(h balance.Health) {
	var healthy int64
	if h == balance.Healthy {
		healthy = 1
	}
	s.counts[ofHealthy].Store(healthy)
}

// list publishes the statistics of the current hosts.
func (s *stats) list(hosts []*host) {
	if !s.perEndpoint {
		return
	}
	all := &policy.EndpointStats{}
	for _, h := range hosts {
		all.List = append(all.List, policy.EndpointStat{Address: h.address, Hostname: h.Endpoint().Hostname, Stats: h.own.shown})
	}
	s.endpoints.Store(all)
}

// judged counts an attempt as a success or an error of its host: over HTTP at the response headers,
// over gRPC at its end.
func (r *route) judged(c *policy.Call, p *pick, o *policy.Outcome, ended bool) {
	own := p.host.own
	if own == nil || ended != (c.Request().Protocol == policy.ProtocolGRPC) {
		return
	}
	switch failed, ok := r.failed(c, p, o); {
	case !ok:
	case failed:
		own.counts[ofErrors].Add(1)
	default:
		own.counts[ofSuccesses].Add(1)
	}
}

// failed reports whether an attempt failed. ok is false if the attempt is neither a success nor an
// error of the host.
func (r *route) failed(c *policy.Call, p *pick, o *policy.Outcome) (failed, ok bool) {
	switch {
	case o.Has(policy.Refused | policy.Cancelled | policy.Invalid), o.Detail.Unrouted():
		return false, false
	case o.Has(policy.ConnectFailure):
		return true, true
	case o.Has(policy.Timeout):
		return true, p.connected()
	case o.Has(policy.NoResponse):
		return true, true
	case c.Request().Protocol == policy.ProtocolGRPC:
		return grpcFailed(o), o.Detail == envoy.ViaUpstream
	}
	return o.Code >= 500, o.Err == nil
}

// grpcFailed reports whether the status of a gRPC response corresponds to a 5xx.
func grpcFailed(o *policy.Outcome) bool {
	switch {
	case o.Code >= 100: // a response in plain HTTP
		return o.Code >= 500
	case o.Err == nil:
		return false
	}
	return outlier.GRPCCode(uint32(o.Code)) >= 500 //nolint:gosec // not negative
}

// connected reports whether the attempt has a connection.
func (p *pick) connected() bool { return p.attached || p.on != nil }

// timedOut counts a timeout of the library that ended an attempt.
func (r *route) timedOut(p *pick, end *policy.Outcome) {
	own := p.host.own
	if own == nil || !p.connected() {
		return
	}
	switch end.Detail {
	case envoy.ResponseTimeout, envoy.PerTryTimeout, envoy.PerTryIdleTimeout:
		own.counts[ofTimeouts].Add(1)
	default: // none fired
	}
}
