package cluster

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pillion-go/pillion/cluster/internal/balance"
	"github.com/pillion-go/pillion/cluster/internal/health"
	"github.com/pillion-go/pillion/cluster/internal/pool"
	"github.com/pillion-go/pillion/internal/report"
	"github.com/pillion-go/pillion/policy"
)

// host is one endpoint with its connections. It is the Data of its balance.Host.
type host struct {
	*balance.Host

	address string
	stats   *stats
	own     *endpointStats // nil without PerEndpointStats
	lending *lending
	age     func() time.Duration         // returns the maximum age of a connection of gRPC's client; nil for none
	pools   [2]atomic.Pointer[pool.Pool] // by priority; written with mu held

	session *health.Session // nil without health checks; written before the host is used
	uncheck func()          // ends the health checks

	mu          sync.Mutex
	gone        bool                   // the host has left the cluster, and makes no more pools; guarded by mu
	connections map[*connection]func() // the connections of gRPC's client, with their drain functions; guarded by mu
}

func newHost(e balance.Endpoint, s *stats, l *lending) *host {
	h := &host{Host: balance.NewHost(e), address: e.Address, stats: s, lending: l}
	h.Data = h
	if s.perEndpoint {
		h.own = newEndpointStats()
	}
	return h
}

// hostOf returns the host of a balance.Host.
func hostOf(h *balance.Host) *host { return h.Data.(*host) } //nolint:forcetypeassert // newHost made it

// Observe counts an event of one of the host's pools.
func (h *host) Observe(e pool.Event, n int64) {
	switch {
	case e == pool.RqActive:
		h.AddActive(n)
	case e == pool.CxTotal && h.stats.health != nil:
		h.stats.health.Traffic()
	}
	if h.own != nil {
		h.own.observe(e, n)
	}
	h.stats.Observe(e, n)
}

// pool returns the pool of a priority. It makes the pool at the first use. It returns nil if the host
// has left the cluster.
func (h *host) pool(c *Cluster, p policy.Priority) *pool.Pool {
	if found := h.pools[p].Load(); found != nil {
		return found
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if found := h.pools[p].Load(); found != nil || h.gone {
		return found
	}
	made := c.newPool(h, p)
	h.pools[p].Store(made)
	return made
}

// attach attaches a stream to a connection of the host. It returns pool.ErrClosed if the host has
// left the cluster.
func (h *host) attach(ctx context.Context, c *Cluster, p policy.Priority, s *pool.Stream) error {
	connections := h.pool(c, p)
	if connections == nil {
		return pool.ErrClosed
	}
	return connections.Attach(ctx, s)
}

// each calls do for each pool.
func (h *host) each(do func(*pool.Pool)) {
	for p := range h.pools {
		if found := h.pools[p].Load(); found != nil {
			do(found)
		}
	}
}

// drain closes each connection when it is idle. Later calls use new connections.
func (h *host) drain() {
	h.each((*pool.Pool).Drain)
	h.drainConnections()
}

// drainConnections drains the connections of gRPC's client.
func (h *host) drainConnections() {
	h.mu.Lock()
	all := slices.Collect(maps.Values(h.connections))
	h.mu.Unlock()
	for _, drain := range all {
		drain()
	}
}

// leave closes the pools. Calls that use a connection or wait for one continue. leave reports whether
// the host waited for its first health check.
func (h *host) leave() (unchecked bool) {
	h.mu.Lock()
	h.gone = true
	h.mu.Unlock()
	h.each((*pool.Pool).Close)
	h.drainConnections()
	if h.session == nil {
		return false
	}
	if h.uncheck != nil {
		h.uncheck()
	}
	step, ok := h.session.Close()
	return ok && step.First
}

// dialPanicked reports the panic of a dial function.
func dialPanicked(value any) { report.Panic("the dial function of a cluster", value) }
