package pool_test

import (
	"slices"
	"time"

	"github.com/pillion-go/pillion/cluster/internal/pool"
)

// model is what Envoy's pool does, written for the reader: slices, no locks, and every
// event a plain function. Connections and requests are numbers in the order of their
// beginning.
type model struct {
	h2       bool
	perConn  int // max_requests_per_connection
	streams  int // requests on a connection at the same time
	limit    [3]int
	keep     bool
	now      time.Duration
	idle     time.Duration
	age      time.Duration
	connect  time.Duration
	closed   bool
	conns    map[int]*modelConn
	dialing  []int // the last one first, as the two others
	ready    []int
	busy     []int // and draining
	waiting  []int // the first one first
	requests map[int]*modelRequest
	used     [3]int
	n        [pool.NumEvents]int64
}

type modelConn struct {
	id, remaining, served int
	active                []int
	draining              bool
	began, up, idleSince  time.Duration
}

type modelRequest struct {
	conn int // or -1
	end  string
}

func (m *model) count(e pool.Event, n int64) { m.n[e] += n }

func (m *model) request(id int) {
	m.requests[id] = &modelRequest{conn: -1}
	switch {
	case m.closed:
		m.requests[id].end = "closed"
	case len(m.ready) > 0:
		m.attach(id)
	case m.used[pool.Pending] >= m.limit[pool.Pending]:
		m.count(pool.RqPendingOverflow, 1)
		m.requests[id].end = "pending overflow"
	default:
		m.used[pool.Pending]++
		m.count(pool.RqPendingTotal, 1)
		m.count(pool.RqPendingActive, 1)
		m.waiting = append(m.waiting, id)
		m.grow()
	}
}

func (m *model) attach(id int) {
	r, c := m.requests[id], m.conns[m.ready[0]]
	if m.used[pool.Request] >= m.limit[pool.Request] {
		m.count(pool.RqActiveOverflow, 1)
		r.end = "request overflow"
		return
	}
	m.used[pool.Request]++
	m.count(pool.RqTotal, 1)
	m.count(pool.RqActive, 1)
	c.remaining--
	c.served++
	c.active = append(c.active, id)
	r.conn = c.id
	switch {
	case c.remaining == 0:
		m.count(pool.CxMaxRequests, 1)
		c.draining = true
		m.move(c, &m.ready, &m.busy)
	case len(c.active) == m.streams:
		m.move(c, &m.ready, &m.busy)
	}
}

func (m *model) unwait(id int) {
	m.waiting = remove(m.waiting, id)
	m.used[pool.Pending]--
	m.count(pool.RqPendingActive, -1)
}

func (m *model) dispatch() {
	for len(m.waiting) > 0 && len(m.ready) > 0 {
		id := m.waiting[0]
		m.unwait(id)
		m.attach(id)
	}
	if len(m.waiting) > 0 {
		m.grow()
	}
}

func (m *model) grow() {
	for range 3 {
		if len(m.waiting) <= len(m.dialing)*m.capacity() {
			return
		}
		room := m.used[pool.Connection] < m.limit[pool.Connection]
		if !room {
			m.count(pool.CxOverflow, 1)
		}
		if !room && len(m.dialing)+len(m.ready)+len(m.busy) > 0 {
			return
		}
		c := &modelConn{id: len(m.conns), remaining: m.perConn, began: m.now}
		m.conns[c.id] = c
		m.used[pool.Connection]++
		m.count(pool.CxTotal, 1)
		m.count(pool.CxActive, 1)
		m.count(m.protocol(), 1)
		m.dialing = append([]int{c.id}, m.dialing...)
		if !room {
			return
		}
	}
}

func (m *model) protocol() pool.Event {
	if m.h2 {
		return pool.CxHTTP2Total
	}
	return pool.CxHTTP1Total
}

func (m *model) capacity() int { return min(m.streams, m.perConn) }

func (m *model) move(c *modelConn, from, to *[]int) {
	*from = remove(*from, c.id)
	*to = append([]int{c.id}, *to...)
}

// destroy ends a connection that may still have requests on it.
func (m *model) destroy(c *modelConn, remote bool) {
	m.count(pool.CxDestroy, 1)
	if remote {
		m.count(pool.CxDestroyRemote, 1)
	} else {
		m.count(pool.CxDestroyLocal, 1)
	}
	if slices.Contains(m.dialing, c.id) {
		m.count(pool.CxConnectFail, 1)
	} else {
		m.count(pool.RqPerCx, int64(c.served))
	}
	m.count(pool.CxActive, -1)
	m.used[pool.Connection]--
	m.dialing, m.ready, m.busy = remove(m.dialing, c.id), remove(m.ready, c.id), remove(m.busy, c.id)
}

func (m *model) withActive(remote bool) {
	m.count(pool.CxDestroyWithActiveRq, 1)
	if remote {
		m.count(pool.CxDestroyRemoteWithActiveRq, 1)
	} else {
		m.count(pool.CxDestroyLocalWithActiveRq, 1)
	}
}

func (m *model) dialed(id int) {
	c := m.conns[id]
	m.move(c, &m.dialing, &m.ready)
	c.up, c.idleSince = m.now, m.now
	m.dispatch()
	m.settle()
}

func (m *model) dialFailed(id int, timeout bool) {
	if timeout {
		m.count(pool.CxConnectTimeout, 1)
	}
	m.destroy(m.conns[id], !timeout)
	for len(m.waiting) > 0 {
		first := m.waiting[0]
		m.unwait(first)
		m.count(pool.RqPendingFailureEject, 1)
		m.requests[first].end = "connect"
		if timeout {
			m.requests[first].end = "connect timeout"
		}
	}
	m.settle()
}

// detach ends a request on a connection that goes on.
func (m *model) detach(id int, end string) *modelConn {
	r := m.requests[id]
	c := m.conns[r.conn]
	c.active = remove(c.active, id)
	m.used[pool.Request]--
	m.count(pool.RqActive, -1)
	r.end = end
	return c
}

func (m *model) freed(c *modelConn) {
	switch {
	case c.draining && len(c.active) == 0:
		m.destroy(c, false)
		m.dispatch()
	case !c.draining && slices.Contains(m.busy, c.id):
		m.move(c, &m.busy, &m.ready)
		c.idleSince = m.now
		m.dispatch()
	case len(c.active) == 0:
		c.idleSince = m.now
	}
	m.settle()
}

func (m *model) respond(id int) { m.freed(m.detach(id, "ok")) }

// respondClose is a response of HTTP/1 that says "Connection: close".
func (m *model) respondClose(id int) {
	m.count(pool.CxCloseNotify, 1)
	m.destroy(m.detach(id, "ok"), false)
	m.dispatch()
	m.settle()
}

func (m *model) cancel(id int) {
	r := m.requests[id]
	if r.conn < 0 {
		m.unwait(id)
		r.end = "canceled"
		m.count(pool.RqCancelled, 1)
		if !m.keep && len(m.dialing) > 0 && len(m.waiting) <= (len(m.dialing)-1)*m.capacity() {
			m.destroy(m.conns[m.dialing[0]], false)
		}
		m.settle()
		return
	}
	c := m.detach(id, "canceled")
	if m.h2 {
		m.count(pool.RqTxReset, 1)
		m.freed(c)
		return
	}
	m.destroy(c, false)
	m.withActive(false)
	m.dispatch()
	m.settle()
}

// serverCloses is the end of an open connection, by the server.
func (m *model) serverCloses(id int) {
	c := m.conns[id]
	m.destroy(c, true)
	if len(c.active) > 0 {
		m.withActive(true)
	}
	for _, r := range slices.Clone(c.active) {
		m.detach(r, "reset")
		if m.h2 {
			m.count(pool.RqPendingFailureEject, 1)
		}
	}
	m.dispatch()
	m.settle()
}

func (m *model) drain() {
	m.closeIdle()
	for _, id := range slices.Backward(slices.Clone(m.ready)) {
		m.move(m.conns[id], &m.ready, &m.busy)
	}
	for _, id := range m.busy {
		m.conns[id].draining = true
	}
	m.settle()
}

func (m *model) closeIdle() {
	for _, id := range slices.Clone(m.ready) {
		if len(m.conns[id].active) == 0 {
			m.destroy(m.conns[id], false)
		}
	}
	if len(m.waiting) > 0 {
		return
	}
	for _, id := range slices.Clone(m.dialing) {
		m.destroy(m.conns[id], false)
	}
}

// others lets other pools hold slots for connections.
func (m *model) others(n int) { m.used[pool.Connection] += n }

func (m *model) close() {
	m.closed = true
	m.settle()
}

func (m *model) settle() {
	if m.closed {
		m.closeIdle()
	}
}

// pass lets time go by, one timer after the other.
func (m *model) pass(d time.Duration) {
	for end := m.now + d; ; {
		at, fire := end, func() {}
		for _, id := range m.dialing {
			if t := m.conns[id].began + m.connect; t < at {
				at, fire = t, func() { m.dialFailed(id, true) }
			}
		}
		for _, id := range append(slices.Clone(m.ready), m.busy...) {
			c := m.conns[id]
			if t := c.idleSince + m.idle; len(c.active) == 0 && t < at {
				at, fire = t, func() {
					m.count(pool.CxIdleTimeout, 1)
					m.destroy(c, false)
					m.dispatch()
				}
			}
			if t := c.up + m.age; !c.draining && t < at {
				at, fire = t, func() { m.old(c) }
			}
		}
		m.now = at
		if at == end {
			return
		}
		fire()
		m.settle()
	}
}

func (m *model) old(c *modelConn) {
	m.count(pool.CxMaxDurationReached, 1)
	if len(c.active) == 0 {
		m.destroy(c, false)
		m.dispatch()
		return
	}
	c.draining = true
	if slices.Contains(m.ready, c.id) {
		m.move(c, &m.ready, &m.busy)
	}
}

func remove(s []int, id int) []int { return slices.DeleteFunc(s, func(x int) bool { return x == id }) }
