package cluster

import (
	"cmp"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pillion-go/pillion/cluster/internal/pool"
	"github.com/pillion-go/pillion/policy"
)

// Host returns the host of the attempt. If the host has left the cluster, Host picks another one.
// Package pilliongrpc calls this method and those below.
func (r *route) Host(c *policy.Call) policy.Host {
	p := r.pickOf(c)
	if p == nil {
		return nil
	}
	if p.host.isGone() {
		h := r.pick(c)
		if h == nil {
			return nil
		}
		r.unwait(p)
		r.detach(p)
		p.host = h
		c.SetEndpoint(h.address)
	}
	return p.host
}

// pickOf returns the pick of an attempt, nil for none.
func (r *route) pickOf(c *policy.Call) *pick {
	p, _ := c.State(r.slot).V.(*pick)
	return p
}

// ConnectTimeout returns the limit of the time to make a connection, 0 for no limit.
func (r *route) ConnectTimeout() time.Duration {
	return max(cmp.Or(r.cluster.cfg.ConnectTimeout, DefaultConnectTimeout), 0)
}

// Wait counts an attempt that waits for a connection. It returns false and adds the reason to o if a
// limit refuses the attempt.
func (r *route) Wait(c *policy.Call, o *policy.Outcome) bool {
	p := r.pickOf(c)
	if p == nil || p.waiting {
		return p != nil
	}
	r.detach(p)
	if !r.slots().TryAcquire(pool.Pending) {
		r.overflow(c, o, &pool.RefusedError{Limit: pool.Pending})
		return false
	}
	p.waiting = true
	p.host.Observe(pool.RqPendingTotal, 1)
	p.host.Observe(pool.RqPendingActive, 1)
	return true
}

// Attach counts an attempt that has a connection. It returns false and adds the reason to o if a
// limit refuses the attempt.
func (r *route) Attach(c *policy.Call, on policy.HostConnection, o *policy.Outcome) bool {
	p := r.pickOf(c)
	if p == nil {
		return false
	}
	made := on.(*connection) //nolint:forcetypeassert // Connect made it
	if p.on != nil {         // gRPC's client retries the request itself: the attempt remains the same
		p.on = made
		made.served.Add(1)
		return true
	}
	r.unwait(p)
	if !r.slots().TryAcquire(pool.Request) {
		r.overflow(c, o, &pool.RefusedError{Limit: pool.Request})
		return false
	}
	p.on = made
	made.served.Add(1)
	if !p.counted { // gRPC may find the connection closed, and wait for another one
		p.counted = true
		p.host.Observe(pool.RqTotal, 1)
	}
	p.host.Observe(pool.RqActive, 1)
	r.connected(p)
	r.limit(c, p)
	return true
}

// Unconnected adds to o the failed connect of the connection that the attempt waited for.
func (r *route) Unconnected(c *policy.Call, o *policy.Outcome, err error) {
	p := r.pickOf(c)
	if p == nil {
		return
	}
	if r.unwait(p) {
		p.host.Observe(pool.RqPendingFailureEject, 1)
	}
	failed := &pool.ConnectError{Address: p.host.address, Err: err}
	if isTimeout(err) {
		failed.Reason = pool.Timeout
	}
	r.unconnected(o, failed)
}

// lent returns the slots of the route's priority.
func (r *route) lent() pool.Slots {
	if s := r.cluster.lending.slots(r.Priority()); s != nil {
		return s
	}
	return unlimited{}
}

// unlimited has a free slot at any time.
type unlimited struct{}

func (unlimited) TryAcquire(pool.Kind) bool { return true }
func (unlimited) Acquire(pool.Kind)         {}
func (unlimited) Release(pool.Kind)         {}

// unwait ends the wait of an attempt for a connection. It reports whether the attempt waited.
func (r *route) unwait(p *pick) bool {
	if !p.waiting {
		return false
	}
	p.waiting = false
	p.host.Observe(pool.RqPendingActive, -1)
	r.slots().Release(pool.Pending)
	return true
}

// detach ends the attempt's use of a connection of gRPC's client.
func (r *route) detach(p *pick) {
	if p.on != nil {
		p.on = nil
		p.host.Observe(pool.RqActive, -1)
		r.slots().Release(pool.Request)
	}
}

// isTimeout reports whether err is a timeout of the library. A timeout of the kernel is a failure of
// the network.
func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout() && !errors.Is(err, syscall.ETIMEDOUT)
}

// Address returns the address of the host.
func (h *host) Address() string { return h.address }

// isGone reports whether the host has left the cluster.
func (h *host) isGone() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.gone
}

// Connect counts a connection that gRPC's client starts to make. The client has one connection at a
// time, so it is made even beyond the limit.
func (h *host) Connect(p policy.Priority, drain func()) policy.HostConnection {
	c := &connection{of: h, slots: h.lending.slots(p), began: time.Now(), drain: drain}
	if c.slots == nil {
		c.slots = unlimited{}
	}
	if !c.slots.TryAcquire(pool.Connection) {
		h.Observe(pool.CxOverflow, 1)
		if beyond, ok := c.slots.(pool.ForceSlots); ok {
			beyond.Acquire(pool.Connection)
		}
	}
	h.Observe(pool.CxTotal, 1)
	h.Observe(pool.CxActive, 1)
	h.Observe(pool.CxHTTP2Total, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone {
		go drain()
		return c
	}
	if h.connections == nil {
		h.connections = map[*connection]func(){}
	}
	h.connections[c] = drain
	return c
}

// connection is a connection of gRPC's client.
type connection struct {
	of     *host
	slots  pool.Slots
	began  time.Time
	drain  func()
	timer  *time.Timer // fires at the maximum age, nil for none; guarded by mu of the host
	served atomic.Int64
	ready  atomic.Bool
	ended  atomic.Bool
	cut    atomic.Bool // the connection ended with an active attempt
}

// Ready counts a connection that was made, and starts the timer of its maximum age.
func (c *connection) Ready() {
	c.ready.Store(true)
	c.of.Observe(pool.CxConnectTime, int64(time.Since(c.began)))
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	if c.of.age != nil && !c.ended.Load() {
		c.timer = time.AfterFunc(c.of.age(), c.aged)
	}
}

// aged drains a connection that has reached its maximum age.
func (c *connection) aged() {
	if !c.ended.Load() {
		c.of.Observe(pool.CxMaxDurationReached, 1)
		c.drain()
	}
}

// connectionAge returns a function that returns the maximum age of a connection, with a random
// jitter. It returns nil for no maximum.
func (c *Config) connectionAge() func() time.Duration {
	least, jitter := c.MaxConnectionDuration, c.MaxConnectionDurationJitter/100
	if least <= 0 {
		return nil
	}
	return func() time.Duration { return pool.Lengthened(least, rand.Float64()*jitter) } //nolint:gosec // it is no secret
}

// Failed counts a failed connect.
func (c *connection) Failed(err error) {
	if c.ended.Swap(true) {
		return
	}
	c.of.Observe(pool.CxConnectFail, 1)
	timeout := isTimeout(err)
	if timeout {
		c.of.Observe(pool.CxConnectTimeout, 1)
	}
	c.end(!timeout)
}

// Closed counts the end of a connection.
func (c *connection) Closed(byHost bool) {
	if c.ended.Swap(true) {
		return
	}
	if c.ready.Load() {
		c.of.Observe(pool.RqPerCx, c.served.Load())
	} else {
		c.of.Observe(pool.CxConnectFail, 1)
	}
	c.end(byHost)
}

func (c *connection) end(byHost bool) {
	by := pool.CxDestroyLocal
	if byHost {
		by = pool.CxDestroyRemote
	}
	c.of.Observe(pool.CxDestroy, 1)
	c.of.Observe(by, 1)
	c.of.Observe(pool.CxActive, -1)
	c.of.Observe(pool.CxLength, int64(time.Since(c.began)))
	c.slots.Release(pool.Connection)
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	delete(c.of.connections, c)
	if c.timer != nil {
		c.timer.Stop()
	}
}
