package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pillion-go/pillion/cluster/internal/balance"
	"github.com/pillion-go/pillion/cluster/internal/health"
	"github.com/pillion-go/pillion/cluster/internal/outlier"
	"github.com/pillion-go/pillion/cluster/internal/pool"
	"github.com/pillion-go/pillion/cluster/internal/resolve"
	"github.com/pillion-go/pillion/cluster/internal/secure"
	"github.com/pillion-go/pillion/policy"
)

// ErrClosed is wrapped by the error of a call after [Cluster.Close], and is the error of the cluster's
// methods after it.
var ErrClosed = errors.New("cluster: closed")

// ErrNoHosts is wrapped by the error of a call for which no host can be picked, and by that of
// [Cluster.WaitReady] if no host is available.
var ErrNoHosts = errors.New("cluster: no hosts")

// Cluster holds the hosts and connections of a [Config]. It is a policy that several upstreams can
// share, such as several routes to one service; [Cluster.Route] sets what differs between them. Make
// one with [New]: the zero value is not valid, and pillion.New returns an error for it. A Cluster is
// safe for concurrent use.
type Cluster struct {
	cfg      Config
	epoch    time.Time
	stats    *stats
	balancer *balance.Balancer
	template *pool.Template
	detector *outlier.Detector[*host] // nil for none
	checker  *health.Checker          // nil for none
	names    *resolve.Resolver        // nil for static hosts
	tls      *secure.Secure           // nil for none
	known    atomic.Pointer[map[string]*host]
	picks    sync.Pool // of *pick

	background context.Context //nolint:containedctx // of the cluster's goroutines
	cancel     context.CancelFunc
	ready      chan struct{} // closed when the hosts are known

	mu         sync.Mutex
	weights    map[balance.PriorityLocality]uint32 // of localities; guarded by mu
	local      []*balance.Host                     // of the local cluster; guarded by mu
	hosts      []*host                             // in the order of the configuration; guarded by mu
	closed     bool                                // guarded by mu
	merge      mergeWindow                         // guarded by mu
	unchecked  int                                 // hosts that wait for their first health check; guarded by mu
	unresolved bool                                // names wait for their first lookup; guarded by mu
	lending    *lending
}

// New makes a cluster. The error joins the errors of all fields of cfg. The cluster starts its health
// checks, DNS lookups and checks of files immediately, if they are configured. [Cluster.Close] ends
// them, and so does the garbage collector if the cluster is no longer referenced.
func New(cfg Config) (*Cluster, error) {
	c := &Cluster{cfg: cfg, epoch: time.Now(), stats: &stats{perEndpoint: cfg.PerEndpointStats}, lending: &lending{}, ready: make(chan struct{})}
	c.picks.New = func() any { return new(pick) }
	c.background, c.cancel = context.WithCancel(context.Background())
	runtime.AddCleanup(c, func(cancel context.CancelFunc) { cancel() }, c.cancel)
	c.merge.length = cfg.mergeWindow()
	c.local = cfg.ZoneAware.local()
	balancer, bad := balance.New(cfg.balance(c.stats))
	err := errors.Join(cfg.check(), renamed(bad, "balance: Config.", ""), c.startDetector(), c.startChecker(), c.startTLS())
	if err != nil {
		c.Close()
		return nil, err
	}
	c.balancer, c.template = balancer, c.makeTemplate()
	c.stats.picked = balancer.Counted()
	start := c.startResolver
	if !types[cfg.Type] {
		start = func() error { return c.setEndpoints(cfg.Endpoints) }
	}
	if err := start(); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// renamed replaces prefix, which begins the errors of a part's configuration, by the name of a field
// of a [Config].
func renamed(err error, prefix, field string) error {
	if err == nil {
		return nil
	}
	return errors.New(strings.ReplaceAll(err.Error(), prefix, "cluster: Config."+field))
}

// now returns the time since the cluster was made.
func (c *Cluster) now() time.Duration { return time.Since(c.epoch) }

// newPool makes the pool of a host.
func (c *Cluster) newPool(h *host, p policy.Priority) *pool.Pool {
	cfg := c.cfg.pool()
	cfg.Template, cfg.Address, cfg.Observer, cfg.Panicked = c.template, h.address, h, dialPanicked
	cfg.Slots, cfg.Scheme = c.lending.slots(p), c.scheme()
	if s := c.tls; s != nil {
		cfg.HandshakeFailed = func(err error) { s.Observe(tls.ConnectionState{}, err) }
	}
	return pool.New(cfg)
}

// Update replaces the endpoints of a [Static] cluster. A host whose address remains keeps its
// connections, statistics and health. A host that is removed takes no more calls; its current calls
// continue until they end. Without endpoints, calls are refused.
//
// If endpoints are invalid, Update returns the errors of all of them and changes nothing. It returns
// an error for a cluster of another [Type], and [ErrClosed] after Close.
func (c *Cluster) Update(endpoints []Endpoint) error {
	if c.names != nil {
		return fmt.Errorf("cluster: Update: the hosts of a %s cluster come from DNS; use type %s", c.cfg.Type, Static)
	}
	if err := errors.Join(checkEndpoints("Endpoints", endpoints)...); err != nil {
		return err
	}
	return c.setEndpoints(endpoints)
}

// setEndpoints replaces the hosts by those of endpoints, which are valid.
func (c *Cluster) setEndpoints(endpoints []Endpoint) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	var added []*host
	accepted, undo := false, c.undo()
	defer func() {
		if !accepted { // also if Rand panics
			undo()
			leaveAll(added)
		}
	}()
	c.weights = localityWeights(endpoints)
	before := c.byAddress()
	hosts := make([]*host, len(endpoints))
	known := make(map[string]*host, len(endpoints))
	for i := range endpoints {
		e := endpoints[i].endpoint()
		h := before[e.Address]
		if h == nil {
			h = newHost(e, c.stats, c.lending)
			h.age = c.cfg.connectionAge()
			added = append(added, h)
		} else {
			h.SetEndpoint(e)
		}
		hosts[i], known[e.Address] = h, h
	}
	var removed []*host
	for _, h := range c.hosts {
		if known[h.address] == nil {
			removed = append(removed, h)
		}
	}
	if err := c.exchange(hosts, known, added, removed); err != nil {
		return err
	}
	accepted = true
	return nil
}

// undo returns a function that restores the configuration of the hosts. The caller holds mu.
func (c *Cluster) undo() func() {
	hosts, weights := c.hosts, c.weights
	endpoints := make([]*balance.Endpoint, len(hosts))
	for i, h := range hosts {
		endpoints[i] = h.Endpoint()
	}
	return func() {
		c.weights = weights
		for i, h := range hosts {
			h.SetEndpoint(*endpoints[i])
		}
	}
}

// leaveAll makes hosts leave the cluster.
func leaveAll(hosts []*host) {
	for _, h := range hosts {
		h.leave()
	}
}

// exchange replaces the hosts that picks use. The caller holds mu.
func (c *Cluster) exchange(hosts []*host, known map[string]*host, added, removed []*host) error {
	c.begin(added)
	if err := c.balancer.Update(c.membership(hosts), c.now()); err != nil {
		return fmt.Errorf("cluster: Config.Endpoints: %w", err)
	}
	c.stats.lb[membershipChange].Add(priorities(added, removed))
	before := c.hosts
	c.hosts = hosts
	c.known.Store(&known)
	if c.detector != nil {
		c.detector.Update(added, removed)
	}
	if c.merge.stop(); len(before) > 0 { // the first hosts begin no window
		c.merge.published(c.now())
	}
	for _, h := range added {
		c.check(h)
	}
	for _, h := range removed {
		if h.leave() {
			c.unchecked--
		}
	}
	c.readied()
	c.stats.members(hosts)
	c.stats.list(hosts)
	c.stats.tables(c.balancer.Stats())
	return nil
}

// priorities returns the number of priorities whose hosts changed.
func priorities(added, removed []*host) uint64 {
	changed := map[int]struct{}{}
	for _, h := range slices.Concat(added, removed) {
		changed[h.Endpoint().Priority] = struct{}{}
	}
	return uint64(len(changed))
}

// byAddress returns the hosts by address.
func (c *Cluster) byAddress() map[string]*host {
	if known := c.known.Load(); known != nil {
		return *known
	}
	return nil
}

// HostStatus is the state of a host. Mirrors a host of Envoy's admin page /clusters.
type HostStatus struct {
	// Endpoint is the configuration of the host. Weight is at least 1, and Health is empty. The
	// Address of a host of a DNS cluster is its IP address and port, and Hostname is the name.
	Endpoint Endpoint

	// Health is Healthy, Degraded or Unhealthy. It combines the configuration, the health checks and
	// the outlier detection.
	Health Health

	// Flags lists the reasons why the host is not healthy, in Envoy's words, such as
	// "/failed_outlier_check". If there is none, it is "healthy".
	Flags string

	// Active is the number of active requests of the host.
	Active int
}

// Hosts returns the state of all hosts. Those of a Static cluster have the order of the endpoints.
func (c *Cluster) Hosts() []HostStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]HostStatus, len(c.hosts))
	for i, h := range c.hosts {
		all[i] = h.status()
		e := h.Endpoint()
		all[i].Endpoint.LocalityWeight = int(c.weights[balance.PriorityLocality{Priority: e.Priority, Locality: e.Locality}])
	}
	return all
}

// status returns the state of a host.
func (h *host) status() HostStatus {
	e, flags := h.Endpoint(), h.Flags()
	return HostStatus{
		Endpoint: Endpoint{
			Address: e.Address, Hostname: e.Hostname, Weight: max(int(e.Weight), 1), Priority: e.Priority,
			Locality: Locality(e.Locality), Metadata: e.Metadata, Health: statedHealth(e.Status),
		},
		Health: [...]Health{balance.Healthy: Healthy, balance.Degraded: Degraded, balance.Unhealthy: Unhealthy}[flags.Health()],
		Flags:  flags.String(), Active: int(h.Active()),
	}
}

// Close closes the cluster. Calls that use a connection or wait for one continue; later calls are
// refused with [ErrClosed]. A connection is closed when its last call ends; Close does not wait for
// it. Only the first Close has an effect.
//
// A cluster that is no longer referenced need not be closed: its idle connections are closed after
// IdleTimeout, and its goroutines end.
func (c *Cluster) Close() {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.closed = true
	c.cancel()
	hosts := c.hosts
	c.merge.stop()
	c.mu.Unlock()
	if c.names != nil {
		c.names.Close()
	}
	if c.tls != nil {
		c.tls.Close()
	}
	leaveAll(hosts)
}

// isClosed reports whether Close was called.
func (c *Cluster) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// CloseIdleConnections closes the HTTP connections that no call uses. It closes the others when their
// calls end. Later calls use new connections. It does not affect the connections of gRPC.
func (c *Cluster) CloseIdleConnections() {
	c.mu.Lock()
	hosts := slices.Clone(c.hosts)
	c.mu.Unlock()
	for _, h := range hosts {
		h.each((*pool.Pool).Drain)
	}
}

// lending holds the slots that the pools acquire, by priority.
type lending struct {
	mu    sync.Mutex
	from  policy.Lender   // the first lender, nil for none; guarded by mu
	lent  [2]policy.Slots // nil for no limits; guarded by mu
	taken bool            // a pool was made, so lent cannot change; guarded by mu
}

// borrow makes the pools acquire the slots of from.
func (l *lending) borrow(from policy.Lender) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	wanted := [2]policy.Slots{from.Slots(policy.PriorityDefault), from.Slots(policy.PriorityHigh)}
	switch {
	case l.lent == wanted:
		return nil
	case l.taken || l.from != nil:
		return errOtherLimits
	}
	l.from, l.lent = from, wanted
	return nil
}

// lender returns the lender of the slots, nil for none.
func (l *lending) lender() policy.Lender {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.from
}

var errOtherLimits = errors.New("cluster: upstreams that share a cluster must share its limits; make them once, with limits.New, " +
	"and pass them to all of these upstreams before the first call")

// slots returns the slots of a priority, nil for no limits.
func (l *lending) slots(p policy.Priority) pool.Slots {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken = true
	if l.lent[p] == nil {
		return nil
	}
	return lentSlots{l.lent[p]}
}

// lentSlots adapts the slots of a limits policy to a pool.
type lentSlots struct{ of policy.Slots }

// TryAcquire acquires a slot if one is free.
func (s lentSlots) TryAcquire(k pool.Kind) bool { return s.of.TryAcquire(resources[k]) }

// Acquire acquires a slot, even beyond the limit.
func (s lentSlots) Acquire(k pool.Kind) { s.of.Acquire(resources[k]) }

// Release releases a slot.
func (s lentSlots) Release(k pool.Kind) { s.of.Release(resources[k]) }

//nolint:gochecknoglobals // a table that nothing writes
var resources = [...]policy.Resource{
	pool.Connection: policy.Connections, pool.Pending: policy.PendingRequests, pool.Request: policy.Requests,
}
