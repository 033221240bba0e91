package cluster

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/pillion-go/pillion/cluster/internal/balance"
	"github.com/pillion-go/pillion/cluster/internal/pool"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// Route holds the settings of one upstream that uses a shared [Cluster]. The zero value hashes
// nothing and has the default priority. Mirrors fields of Envoy's RouteAction.
type Route struct {
	// HashPolicy selects the parts of a call that [RingHash] and [Maglev] hash. If there is nothing to
	// hash, a random host is picked. Other load balancing policies ignore it. Mirrors hash_policy.
	HashPolicy []HashPolicy `json:"hash_policy,omitempty"`

	// HighPriority makes calls use separate connections, and the slots of High of limits.Config.
	// Mirrors priority: HIGH.
	HighPriority bool `json:"high_priority,omitempty"`
}

// Route returns the policy of one upstream. The [Cluster] itself is the policy with the zero Route.
// If r is invalid, pillion.New returns its errors.
func (c *Cluster) Route(r Route) policy.Policy { return routed{c, r} }

// Place returns the place of a [Config].
func (*Cluster) Place() policy.Place { return Config{}.Place() }

// Wrap implements [policy.Policy]. It adds the cluster with the zero [Route] to an upstream.
func (c *Cluster) Wrap(b *policy.Builder, next policy.Func) (policy.Func, error) {
	return routed{c, Route{}}.Wrap(b, next)
}

// routed is the policy of a cluster with a Route.
type routed struct {
	cluster *Cluster
	cfg     Route
}

// Place returns the place of a Config.
func (routed) Place() policy.Place { return Config{}.Place() }

var errUnmade = errors.New("cluster: the *Cluster was not made by New; use New")

// Wrap adds the cluster to an upstream.
func (d routed) Wrap(b *policy.Builder, next policy.Func) (policy.Func, error) {
	if d.cluster == nil || d.cluster.balancer == nil {
		return nil, errUnmade
	}
	if err := d.cfg.check(); err != nil {
		return nil, err
	}
	r := &route{cluster: d.cluster, cfg: d.cfg, slot: b.Slot(), upstream: b.Upstream(), next: next, selection: otherHosts(), leaveZone: leaveZoneAfter}
	r.noHosts = noHostError{"cluster: " + r.upstream + ": no healthy upstream: no host can be picked", ErrNoHosts}
	r.closed = noHostError{"cluster: " + r.upstream + ": the cluster is closed", ErrClosed}
	r.slots = sync.OnceValue(r.lent)
	r.end = r.ended
	if !b.Carry(r) {
		return nil, errors.New("cluster: another policy of the upstream picks the hosts; remove one of the two")
	}
	b.Require(policy.Needs{Cancel: true}) // a failed round trip of net/http keeps resources until its context ends
	d.cluster.stats.offer(b, lbPolicies[d.cluster.cfg.LBPolicy])
	d.cluster.offerNames(b)
	d.cluster.offerTLS(b)
	return r.call, nil
}

// otherHosts returns the default selection: a retry avoids the hosts of earlier attempts.
func otherHosts() policy.HostSelection {
	return policy.HostSelection{AvoidPrevious: true, MaxAttempts: otherAttempts}
}

const (
	otherAttempts  = 20 // the maximum number of picks for one attempt
	leaveZoneAfter = 5  // the number of rejected picks after which a pick may leave the zone
)

// route is the use of a cluster by one upstream.
type route struct {
	cluster   *Cluster
	cfg       Route
	slot      policy.Slot // V is a *pick while an attempt has one
	upstream  string
	next      policy.Func
	end       policy.Hook
	lender    policy.Lender // nil for none
	slots     func() pool.Slots
	selection policy.HostSelection
	leaveZone int // the number of rejected picks after which a retry may leave the zone; 0 for never

	noHosts, closed noHostError
}

// route implements these interfaces, which other packages detect by type assertion.
var _ interface {
	policy.Borrower
	policy.Selector
	policy.Connector
} = (*route)(nil)

// Carries reports whether calls of a protocol go to the hosts.
func (*route) Carries(p policy.Protocol) bool {
	return p == policy.ProtocolHTTP || p == policy.ProtocolGRPC
}

// Borrow makes the pools acquire the slots of l.
func (r *route) Borrow(l policy.Lender) error {
	if err := r.cluster.lending.borrow(l); err != nil {
		return err
	}
	r.lender = l
	return nil
}

// Priority returns the priority of the calls.
func (r *route) Priority() policy.Priority {
	if r.cfg.HighPriority {
		return policy.PriorityHigh
	}
	return policy.PriorityDefault
}

// Select sets the hosts that retries avoid.
func (r *route) Select(s policy.HostSelection) { r.selection, r.leaveZone = s, 0 }

// CloseIdleConnections closes the idle connections of the cluster.
func (r *route) CloseIdleConnections() { r.cluster.CloseIdleConnections() }

// pick is the host of an attempt, and its use of a connection: stream for a connection of a pool, or
// waiting and on for a connection of gRPC's client.
type pick struct {
	host     *host
	began    time.Duration // on the cluster's clock; set only if the balancer uses the time
	attached bool          // stream has a connection
	waiting  bool          // the attempt waits for a connection of gRPC's client
	counted  bool          // the attempt is in upstream_rq_total
	on       *connection   // the connection of gRPC's client, nil for none
	limit    *streamLimit  // nil for none
	reported bool          // the response headers were reported to the detector
	stream   pool.Stream
}

// A noHostError is the error of a call for which there is no host.
type noHostError struct {
	text  string
	cause error // ErrNoHosts or ErrClosed
}

func (e *noHostError) Error() string { return e.text }

// Unwrap returns ErrNoHosts or ErrClosed.
func (e *noHostError) Unwrap() error { return e.cause }

// call picks the host of an attempt.
func (r *route) call(ctx context.Context, c *policy.Call) *policy.Outcome {
	if !r.Carries(c.Request().Protocol) {
		return r.next(ctx, c)
	}
	h := r.pick(c)
	if h == nil && r.cluster.names != nil {
		if o := r.cluster.awaitHosts(ctx, c); o != nil {
			return o
		}
		h = r.pick(c)
	}
	if h == nil {
		return c.Refuse(r.noHost(), envoy.NoHealthyUpstream)
	}
	p := r.cluster.picks.Get().(*pick) //nolint:forcetypeassert // it holds nothing else
	p.host = h
	if r.cluster.balancer.UsesTime() {
		p.began = r.cluster.now()
	}
	c.SetEndpoint(h.address)
	c.State(r.slot).V = p
	returned := false
	defer func() { //nolint:contextcheck // a dial belongs to no request
		if !returned {
			r.release(c, errUnwound)
		}
	}()
	o := r.next(ctx, c)
	returned = true
	r.overdue(p, o)
	r.timed(p, o)
	r.responded(c, p, o)
	r.judged(c, p, o, false)
	r.saidUnhealthy(c, p, o)
	o.OnEnd(c, r.end)
	return o
}

var errUnwound = errors.New("cluster: the call panicked or ended its goroutine")

// noHost returns the reason why no host was picked.
func (r *route) noHost() error {
	if r.cluster.isClosed() {
		return &r.closed
	}
	return &r.noHosts
}

// pick picks a host for the attempt, nil if there is none.
func (r *route) pick(c *policy.Call) *host {
	balancer := r.cluster.balancer
	q := balance.Request{}
	q.Hash, q.HasHash = r.cfg.hash(c)
	if balancer.UsesTime() {
		q.Now = r.cluster.now()
	}
	if c.Attempt() > 1 {
		r.avoid(c, &q)
	}
	h, _ := balancer.Pick(q)
	if h == nil {
		return nil
	}
	return hostOf(h)
}

// timed reports the latency of the attempt to the balancer.
func (r *route) timed(p *pick, o *policy.Outcome) {
	balancer := r.cluster.balancer
	if !balancer.UsesTime() || o.Has(policy.Refused|policy.Invalid) {
		return
	}
	now := r.cluster.now()
	switch took := now - p.began; {
	case o.Has(policy.Cancelled):
		balancer.ObserveAtLeast(p.host.Host, took, now)
	case o.Has(policy.Failure):
		balancer.Observe(p.host.Host, max(took, r.cluster.cfg.PeakEWMA.failureLatency()), now)
	default:
		balancer.Observe(p.host.Host, took, now)
	}
}

// ended is the hook at the end of an attempt.
func (r *route) ended(c *policy.Call, end *policy.Outcome) {
	if p := r.pickOf(c); p != nil {
		r.overdue(p, end)
		r.reset(p, end)
		r.malformed(p, end)
		r.resetStream(p, end)
		r.timedOut(p, end)
		r.judged(c, p, end, true)
	}
	r.release(c, end.Err)
}

// malformed counts a malformed HTTP/1 response, which the pool does not detect.
func (r *route) malformed(p *pick, end *policy.Outcome) {
	switch end.Detail {
	case envoy.MalformedResponse, envoy.MalformedResponseAfter:
		if p.attached && !p.stream.HTTP2() {
			p.host.Observe(pool.CxProtocolError, 1)
		}
	default: // it was well formed
	}
}

// resetStream counts the end of a stream on a connection of gRPC's client, if it was a reset.
func (r *route) resetStream(p *pick, end *policy.Outcome) {
	if p.on == nil {
		return
	}
	switch end.Detail {
	case envoy.RemoteReset, envoy.RemoteResetAfter:
		p.host.Observe(pool.RqRxReset, 1)
	case envoy.ResponseTimeout, envoy.PerTryTimeout, envoy.PerTryIdleTimeout, envoy.StreamDuration, envoy.StreamIdle, MaxStreamDuration, envoy.CallerGone,
		envoy.MalformedResponse, envoy.MalformedResponseAfter:
		p.host.Observe(pool.RqTxReset, 1)
	case envoy.ConnectionTermination, envoy.ConnectionTerminationAfter:
		p.host.Observe(pool.RqPendingFailureEject, 1)
		if !p.on.cut.Swap(true) {
			p.host.Observe(pool.CxDestroyWithActiveRq, 1)
			p.host.Observe(pool.CxDestroyRemoteWithActiveRq, 1)
		}
	default: // it ended without a reset
	}
}

// release ends the attempt's use of its host. err is the error that ended an incomplete exchange, nil
// if the exchange is complete.
func (r *route) release(c *policy.Call, err error) {
	state := c.State(r.slot)
	p, ok := state.V.(*pick)
	if !ok {
		return
	}
	state.V = nil
	if p.attached {
		p.stream.Release(err)
	}
	if r.unwait(p) {
		p.host.Observe(pool.RqCancelled, 1)
	}
	r.detach(p)
	p.limit.stop()
	p.limit = nil
	p.host, p.attached, p.counted, p.reported, p.began = nil, false, false, false, 0
	r.cluster.picks.Put(p)
}
