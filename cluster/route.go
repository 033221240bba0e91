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

// Route is what differs between upstreams that share a [Cluster]. Mirrors what Envoy keeps in
// RouteAction.
type Route struct {
	// HashPolicy says what of a call is hashed, for RingHash and Maglev. Without one, and for a call
	// of which nothing can be hashed, the host is drawn.
	HashPolicy []HashPolicy `json:"hash_policy,omitempty"`

	// HighPriority makes calls use separate connections and limits. Mirrors priority: HIGH.
	HighPriority bool `json:"high_priority,omitempty"`
}

// Route returns the policy for one upstream, where the [Cluster] itself is that of an upstream
// with the zero Route.
func (c *Cluster) Route(r Route) policy.Policy { return routed{c, r} }

// Place is that of a [Config].
func (*Cluster) Place() policy.Place { return Config{}.Place() }

// Wrap puts the cluster in an upstream.
func (c *Cluster) Wrap(b *policy.Builder, next policy.Func) (policy.Func, error) {
	return routed{c, Route{}}.Wrap(b, next)
}

// routed is a cluster with a Route.
type routed struct {
	cluster *Cluster
	cfg     Route
}

// Place is that of a Config.
func (routed) Place() policy.Place { return Config{}.Place() }

var errUnmade = errors.New("cluster: a *Cluster was not made by New")

// Wrap puts the cluster in an upstream.
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
		return nil, errors.New("cluster: another policy of the upstream picks the hosts; leave one of the two out")
	}
	b.Require(policy.Needs{Cancel: true}) // net/http leaves something in the context of a failed round trip
	d.cluster.stats.offer(b, lbPolicies[d.cluster.cfg.LBPolicy])
	d.cluster.offerNames(b)
	d.cluster.offerTLS(b)
	return r.call, nil
}

// otherHosts makes retries use other hosts than the attempts before, unless a policy says otherwise.
func otherHosts() policy.HostSelection {
	return policy.HostSelection{AvoidPrevious: true, MaxAttempts: otherAttempts}
}

const (
	otherAttempts  = 20 // how often another host is looked for
	leaveZoneAfter = 5  // after how many of them in other zones, too
)

// route is the cluster as one upstream uses it.
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
	leaveZone int // after how many rejected picks a retry may leave the zone; 0 for never

	noHosts, closed noHostError
}

// route implements these. They are found by their methods.
var _ interface {
	policy.Borrower
	policy.Selector
	policy.Connector
} = (*route)(nil)

// Carries reports whether calls of a protocol go to the hosts.
func (*route) Carries(p policy.Protocol) bool {
	return p == policy.ProtocolHTTP || p == policy.ProtocolGRPC
}

// Borrow has the pools take the slots of l.
func (r *route) Borrow(l policy.Lender) error {
	if err := r.cluster.lending.borrow(l); err != nil {
		return err
	}
	r.lender = l
	return nil
}

// Priority is the priority of the calls.
func (r *route) Priority() policy.Priority {
	if r.cfg.HighPriority {
		return policy.PriorityHigh
	}
	return policy.PriorityDefault
}

// Select sets which hosts retries avoid.
func (r *route) Select(s policy.HostSelection) { r.selection, r.leaveZone = s, 0 }

// CloseIdleConnections is that of the cluster.
func (r *route) CloseIdleConnections() { r.cluster.CloseIdleConnections() }

// pick is the host of an attempt, and its use of a connection.
type pick struct {
	host     *host
	began    time.Duration // on the cluster's clock; only for picks that look at it
	attached bool
	waiting  bool         // for a connection that a protocol's client makes
	on       *connection  // that it has
	limit    *streamLimit // nil for none
	reported bool         // the response headers were reported to the detector
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

// noHost returns why there is no host.
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

// timed reports to the balancer how long the host took to respond.
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

// malformed counts a response of HTTP/1 that was not the protocol. The pool cannot see that.
func (r *route) malformed(p *pick, end *policy.Outcome) {
	switch end.Detail {
	case envoy.MalformedResponse, envoy.MalformedResponseAfter:
		if p.attached && !p.stream.HTTP2() {
			p.host.Observe(pool.CxProtocolError, 1)
		}
	default: // it was, as far as it came
	}
}

// resetStream counts what ended a stream on a connection that a protocol's client made.
func (r *route) resetStream(p *pick, end *policy.Outcome) {
	if p.on == nil {
		return
	}
	switch end.Detail {
	case envoy.RemoteReset, envoy.RemoteResetAfter:
		p.host.Observe(pool.RqRxReset, 1)
	case envoy.ResponseTimeout, envoy.PerTryTimeout, envoy.PerTryIdleTimeout, envoy.StreamDuration, envoy.StreamIdle, MaxStreamDuration, envoy.CallerGone:
		p.host.Observe(pool.RqTxReset, 1)
	case envoy.ConnectionTermination, envoy.ConnectionTerminationAfter:
		p.host.Observe(pool.RqPendingFailureEject, 1)
		if !p.on.cut.Swap(true) {
			p.host.Observe(pool.CxDestroyWithActiveRq, 1)
			p.host.Observe(pool.CxDestroyRemoteWithActiveRq, 1)
		}
	default: // it ended by itself
	}
}

// release ends the attempt's use of a connection. err is what ended the exchange before it was
// complete.
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
	p.host, p.attached, p.reported, p.began = nil, false, false, 0
	r.cluster.picks.Put(p)
}
