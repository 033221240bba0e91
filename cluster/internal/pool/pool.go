package pool

import (
	"net/http"
	"sync"
	"time"
)

// A Pool keeps the connections to one endpoint in one priority. It is safe for concurrent
// use.
type Pool struct {
	cfg  Config
	done chan struct{} // closed when the pool is closed and all connections and streams have ended

	mu         sync.Mutex
	connecting connList // guarded by mu, as all fields below
	ready      connList
	busy       connList // and draining
	waiters    waitList
	dying      *conn // finished since p was locked; shut when p is unlocked
	expected   int   // requests that connecting expects to serve
	active     int   // requests attached
	choseHTTP1 bool  // the server selected HTTP/1 at the last handshake
	closed     bool
}

// New returns a pool for one endpoint. It makes no connection before the first request.
func New(cfg Config) *Pool {
	return &Pool{cfg: cfg.withDefaults(), done: make(chan struct{})}
}

// Stats is the state of a pool at one time.
type Stats struct {
	Connecting int // connections being made
	Ready      int // connections that take requests
	Busy       int // connections that take no requests now, or no more
	Pending    int // requests that wait
	Active     int // requests attached to a connection
}

// Stats returns the pool's state.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Stats{
		Connecting: p.connecting.n, Ready: p.ready.n, Busy: p.busy.n,
		Pending: p.waiters.n, Active: p.active,
	}
}

// Drain closes the idle connections immediately, and the others when their requests end. The
// pool remains open: waiting and later requests use new connections. Drain is for an endpoint
// that is ejected or fails its health checks.
func (p *Pool) Drain() {
	p.mu.Lock()
	defer p.unlock()
	p.closeIdle()
	for c := p.ready.front; c != nil; c = p.ready.front {
		p.drain(c)
	}
	for c := p.busy.front; c != nil; c = c.next {
		c.state = draining
	}
	if p.dying != nil { // this can include a full HTTP/2 connection for which requests wait
		p.dispatch()
	}
	p.settle()
}

// Close closes the pool. Later requests fail with [ErrClosed]; current and waiting requests
// continue. A connection is closed when it is idle, and [Pool.Done] reports the end of the last
// one. Close does not wait, and can be called more than once.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.unlock()
	p.closed = true
	p.settle()
}

// Done returns a channel that is closed when the pool has been closed, its last connection
// has ended and its last stream was released. All slots are then released.
func (p *Pool) Done() <-chan struct{} { return p.done }

// unlock unlocks p and then shuts the finished connections: net/http calls the pool when it
// closes a connection.
func (p *Pool) unlock() {
	c := p.dying
	p.dying = nil
	p.mu.Unlock()
	for c != nil {
		next := c.next
		c.next = nil
		c.shut()
		c = next
	}
}

// A verdict is the result of an attempt to attach a request.
type verdict uint8

const (
	none     verdict = iota // no connection is ready
	attached                // the request has a connection
	refused                 // max_requests refused the request
)

// take attaches s to a ready connection. A new connection takes requests even if it was closed,
// as in Envoy, which attaches requests before it reads from the server: a server that closes
// each new connection must fail requests, and not make the pool dial forever.
func (p *Pool) take(s *Stream, fresh *conn) verdict {
	for c := p.ready.front; c != nil; c = p.ready.front {
		switch dead := c.cc.Err() != nil; {
		case dead && c == fresh:
		case dead:
			p.lost(c)
			continue
		case c.h2 && !c.room():
			p.move(c, busy)
			p.reopen(c)
			continue
		}
		if !p.cfg.Slots.TryAcquire(Request) {
			p.cfg.Observer.Observe(RqActiveOverflow, 1)
			return refused
		}
		p.attach(c, s)
		return attached
	}
	return none
}

// attach attaches s to c.
func (p *Pool) attach(c *conn, s *Stream) {
	s.conn = c
	s.reused, s.wasIdle, s.idleSince = c.served > 0, c.served > 0 && c.active == 0, c.idleSince
	c.quiet.Store(true)
	c.served++
	c.active++
	p.active++
	c.remaining--
	p.cfg.Observer.Observe(RqTotal, 1)
	p.cfg.Observer.Observe(RqActive, 1)
	switch {
	case c.remaining == 0:
		p.cfg.Observer.Observe(CxMaxRequests, 1)
		p.move(c, draining)
	case c.active >= c.limit:
		p.move(c, busy)
	}
}

// dispatch attaches waiting requests to ready connections, and makes more connections if there
// are too few. It is called when a connection becomes ready or ends.
func (p *Pool) dispatch() { p.dispatchTo(nil) }

// dispatchTo is dispatch for a connection that was just made.
func (p *Pool) dispatchTo(fresh *conn) {
	for s := p.waiters.front; s != nil; s = p.waiters.front {
		switch p.take(s, fresh) {
		case attached:
			p.wake(s, nil)
		case refused:
			p.wake(s, errRequests)
		default:
			if fresh == nil || fresh.served > 0 { // otherwise the server allows no request yet, and maybe not on another connection
				p.grow()
			}
			return
		}
	}
}

// wake ends the wait of s. If err is nil, s was attached.
func (p *Pool) wake(s *Stream, err error) {
	p.unwait(s)
	s.err = err
	s.woken <- struct{}{}
}

// wait makes s wait until a value arrives on s.woken.
func (p *Pool) wait(s *Stream) {
	p.cfg.Observer.Observe(RqPendingTotal, 1)
	p.cfg.Observer.Observe(RqPendingActive, 1)
	p.waiters.push(s)
}

func (p *Pool) unwait(s *Stream) {
	p.waiters.remove(s)
	p.cfg.Observer.Observe(RqPendingActive, -1)
	p.cfg.Slots.Release(Pending)
}

// leave ends the wait of a canceled stream. It returns false if s was woken before.
func (p *Pool) leave(s *Stream) bool {
	p.mu.Lock()
	defer p.unlock()
	if !s.waiting {
		return false
	}
	p.unwait(s)
	p.cfg.Observer.Observe(RqCancelled, 1)
	if c := p.connecting.front; c != nil && !p.cfg.KeepDials && p.waiters.n <= p.expected-c.expected {
		p.finish(c, false)
	}
	p.settle()
	return true
}

// maxGrowth is the maximum number of connections that one event starts to make, as in Envoy.
const maxGrowth = 3

// grow makes connections while more requests wait than the new connections will serve. A pool
// without a connection makes one even beyond the limit.
func (p *Pool) grow() {
	for range maxGrowth {
		if p.waiters.n <= p.expected {
			return
		}
		hasSlot := p.cfg.Slots.TryAcquire(Connection)
		if !hasSlot {
			p.cfg.Observer.Observe(CxOverflow, 1)
			if p.size() == 0 {
				p.start(p.force())
			}
			return
		}
		p.start(true)
	}
}

// size returns the number of connections, including those that are being made.
func (p *Pool) size() int { return p.connecting.n + p.ready.n + p.busy.n }

// force acquires a slot beyond the limit, if Slots supports it.
func (p *Pool) force() bool {
	f, ok := p.cfg.Slots.(ForceSlots)
	if ok {
		f.Acquire(Connection)
	}
	return ok
}

// connected adds c, whose dial has succeeded, to the pool.
func (p *Pool) connected(c *conn, cc *http.ClientConn) {
	now := time.Now()
	p.expected -= c.expected
	c.cc, c.limit = cc, 1
	if c.h2 {
		c.limit = p.cfg.MaxConcurrentStreams
		c.quiet.Store(true)
	}
	if p.negotiates() {
		p.choseHTTP1 = !c.h2
		p.countProtocol(c.h2)
	}
	p.cfg.Observer.Observe(CxConnectTime, int64(now.Sub(c.began)))
	p.move(c, ready)
	c.idle(now)
	if p.cfg.MaxConnectionDuration > 0 {
		c.ageTimer = time.AfterFunc(p.cfg.maxDuration(), c.ageFired)
	}
	p.dispatchTo(c)
	if c.state == ready && c.active == 0 && cc.Err() != nil {
		p.lost(c)
	}
	p.settle()
}

// connectFailed ends c, whose dial has failed, and fails all waiting requests.
func (p *Pool) connectFailed(c *conn, err *ConnectError) {
	if err.Reason == Timeout {
		p.cfg.Observer.Observe(CxConnectTimeout, 1)
	}
	p.finish(c, err.Reason == RemoteFailure)
	for s := p.waiters.front; s != nil; s = p.waiters.front {
		p.cfg.Observer.Observe(RqPendingFailureEject, 1)
		p.wake(s, err)
	}
	p.settle()
}

// move changes the state of c, which must not be closed.
func (p *Pool) move(c *conn, to state) {
	if c.list != nil {
		c.list.remove(c)
	}
	c.state = to
	if to == ready {
		p.ready.push(c)
	} else {
		p.busy.push(c)
	}
}

// drain stops c from taking requests. A connection without a request ends immediately.
func (p *Pool) drain(c *conn) {
	if c.active == 0 {
		p.finish(c, false)
		return
	}
	p.move(c, draining)
}

// finish ends c, which the server or the pool closed.
func (p *Pool) finish(c *conn, remote bool) {
	o := p.cfg.Observer
	o.Observe(CxDestroy, 1)
	o.Observe(either(remote, CxDestroyRemote, CxDestroyLocal), 1)
	if c.state == connecting {
		p.expected -= c.expected
		o.Observe(CxConnectFail, 1)
	} else {
		o.Observe(RqPerCx, int64(c.served))
	}
	o.Observe(CxLength, int64(time.Since(c.began)))
	o.Observe(CxActive, -1)
	if c.hasSlot {
		p.cfg.Slots.Release(Connection)
	}
	c.list.remove(c)
	c.state, c.remote = closed, remote
	c.next, p.dying = p.dying, c
}

// either returns a if first is true, otherwise b.
func either(first bool, a, b Event) Event {
	if first {
		return a
	}
	return b
}

// lost ends c, which was found closed between requests, or with HTTP/2 requests.
func (p *Pool) lost(c *conn) {
	if !c.h2 && unsolicited(c.cc.Err()) {
		p.cfg.Observer.Observe(CxProtocolError, 1)
		p.finish(c, false)
		return
	}
	p.finish(c, c.closedRemotely(true))
	if c.h2 && !c.remote { // net/http closes it after a GOAWAY
		p.cfg.Observer.Observe(CxCloseNotify, 1)
	}
}

// reopen makes c, which is busy, ready if it can take a request. It reports whether c is no
// longer busy.
func (p *Pool) reopen(c *conn) bool {
	switch {
	case c.active >= c.limit:
		return false
	case !c.h2 || c.watch():
		p.move(c, ready)
		return true
	case c.served > 0 && c.active == 0 && c.cc.InFlight() == 0: // GOAWAY, or the server allows 0 streams
		p.cfg.Observer.Observe(CxCloseNotify, 1)
		p.finish(c, false)
		return true
	default:
		return false
	}
}

// release ends s, a request on c. For HTTP/1, usable reports whether c can serve another one.
func (p *Pool) release(c *conn, s *Stream, err error, usable bool) {
	c.active--
	p.active--
	p.cfg.Observer.Observe(RqActive, -1)
	p.cfg.Slots.Release(Request)
	before := c.state
	if c.h2 {
		p.endStream(c, s, err)
	} else {
		c.quiet.Store(false)
		p.endHTTP1(c, s, err, usable)
	}
	if c.state == draining && c.active == 0 {
		p.finish(c, false)
	}
	if c.state == busy {
		p.reopen(c)
	}
	if c.state != closed && c.active == 0 {
		c.idle(time.Now())
	}
	if c.state != before {
		p.dispatch()
	}
	p.settle()
}

// endHTTP1 ends c if it cannot serve another request after s. The exchange was complete if c was
// closed afterwards, or if s reached its end and net/http did not interrupt an upload.
func (p *Pool) endHTTP1(c *conn, s *Stream, err error, usable bool) {
	switch dead := c.cc.Err(); {
	case usable && dead == nil:
		return
	case usable || diedIdle(dead):
		p.lost(c)
		return
	}
	remote := c.closedRemotely(isEOF(err))
	p.finish(c, remote)
	if s.sent && (err != nil || !s.last(c) && !remote) {
		p.countCut(c)
	}
}

// endStream counts the end of an HTTP/2 stream, and detects whether c is closed.
func (p *Pool) endStream(c *conn, s *Stream, err error) {
	if c.state != closed && c.cc.Err() != nil {
		p.lost(c)
	}
	if !s.sent || err == nil {
		return
	}
	switch reset, refused := remoteReset(err); {
	case refused || turnedAway(err):
	case reset && isProtocolError(err): // as Envoy, which does not ask who found it
		p.cfg.Observer.Observe(RqTxReset, 1)
	case reset:
		p.cfg.Observer.Observe(RqRxReset, 1)
	case c.state == closed && !isCanceled(err):
		p.cfg.Observer.Observe(RqPendingFailureEject, 1)
		p.countCut(c)
	default:
		p.cfg.Observer.Observe(RqTxReset, 1)
	}
}

// countCut counts c, once, as closed with a request active.
func (p *Pool) countCut(c *conn) {
	if c.cut {
		return
	}
	c.cut = true
	p.cfg.Observer.Observe(CxDestroyWithActiveRq, 1)
	p.cfg.Observer.Observe(either(c.remote, CxDestroyRemoteWithActiveRq, CxDestroyLocalWithActiveRq), 1)
}

// closeIdle closes the connections without a request, and cancels the dials for which no request
// waits.
func (p *Pool) closeIdle() {
	for _, l := range [...]*connList{&p.ready, &p.busy} {
		for c := l.front; c != nil; {
			next := c.next
			if c.active == 0 {
				p.finish(c, false)
			}
			c = next
		}
	}
	if p.waiters.n > 0 {
		return
	}
	for c := p.connecting.front; c != nil; c = p.connecting.front {
		p.finish(c, false)
	}
}

// settle closes the connections that a closed pool no longer needs. While requests wait, it
// needs all of them, even an idle HTTP/2 connection whose server allows no request now.
func (p *Pool) settle() {
	if !p.closed || p.waiters.n > 0 {
		return
	}
	p.closeIdle()
	if p.size()+p.active > 0 {
		return
	}
	select {
	case <-p.done:
	default:
		close(p.done)
	}
}
