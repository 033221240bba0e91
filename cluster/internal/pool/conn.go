package pool

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// A state is the state of a conn.
type state uint8

const (
	connecting state = iota
	ready            // takes requests
	busy             // takes no request until a request on it ends
	draining         // takes no more requests; closes when its last request ends
	closed
)

// conn is a connection, from the dial to its end.
type conn struct {
	pool *Pool
	wire wire

	cc        *http.ClientConn // nil while connecting
	h2        bool
	opaque    bool        // TLS hides which side closed
	handshake atomic.Bool // the TLS handshake began

	// quiet means that changed can ignore a report of the connection. poked means that the
	// pool, which is locked, is calling into net/http.
	quiet, poked atomic.Bool

	sending    atomic.Int32 // HTTP/2: requests in RoundTrip
	maxStreams int          // HTTP/2: the server's limit at the last call of changed; only changed uses it

	// The fields below are guarded by pool.mu.

	state      state
	list       *connList
	prev, next *conn // in list; next is also used in the list of conns to shut

	hasSlot   bool // holds a slot of max_connections
	expected  int  // the expected number of concurrent requests, while connecting
	limit     int  // the maximum number of concurrent requests
	remaining int  // the number of requests that it can still take
	served    int  // the number of requests that it took
	active    int  // the number of current requests
	full      bool // HTTP/2: the server allows no more requests now
	remote    bool // closed by the server
	cut       bool // closed with an active request, which was counted

	began     time.Time
	idleSince time.Time
	cancel    context.CancelFunc // ends the dial
	idleTimer *time.Timer
	idleArmed bool
	ageTimer  *time.Timer
	lookTimer *time.Timer   // of a full connection
	lookDelay time.Duration // that lookTimer was set to
}

// changed is called by net/http when the state of the connection has changed: it was closed,
// or it can take requests again. net/http calls it from several goroutines, one at a time, and
// from within RoundTrip, Release and Close.
//
// HTTP/1 needs no report, because the end of each request checks the connection. HTTP/2 needs
// a report only if the pool found the connection full.
func (c *conn) changed(cc *http.ClientConn) {
	if c.poked.Load() || !c.h2 && c.quiet.Load() {
		return
	}
	if c.h2 && cc.Err() == nil {
		c.wakeHeld(cc)
		if c.quiet.Load() {
			return
		}
	}
	p := c.pool
	p.mu.Lock()
	defer p.unlock()
	switch {
	case c.state == connecting || c.state == closed || !c.h2 && c.active > 0:
	case cc.Err() != nil:
		p.lost(c)
		p.dispatch()
		p.settle()
	case c.full && c.state == busy:
		if p.reopen(c) {
			p.dispatch()
			p.settle()
		}
	}
}

// wakeHeld makes net/http send the requests that it holds back, after the server has allowed
// more. net/http checks them again only when another request ends; if there is none, they
// would wait forever and block all later ones. So wakeHeld starts a request whose context has
// ended.
func (c *conn) wakeHeld(cc *http.ClientConn) {
	inFlight := cc.InFlight()
	before := c.maxStreams
	c.maxStreams = inFlight + cc.Available()
	if c.maxStreams <= before || inFlight > 0 || c.sending.Load() == 0 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	req := (&http.Request{URL: &url.URL{Scheme: "http", Host: "held"}, Header: http.Header{}}).WithContext(ctx)
	if resp, err := cc.RoundTrip(req); err == nil {
		_ = resp.Body.Close()
	}
}

// room reports whether an HTTP/2 connection can take a request that net/http does not hold
// back. It also counts requests that were attached and have not reached net/http.
//
// Reserve would be more exact, but it can block a connection forever: a request holds a lock
// of net/http while it waits for a slot, requests with a reservation wait for that lock, and
// if the server has lowered the number of streams to that of the reservations, no slot
// becomes free. Without Reserve, a request waits inside net/http only for the end of a
// canceled request, or when the server lowers the number.
func (c *conn) room() bool {
	inFlight := c.cc.InFlight() // first: a request that begins now must count twice rather than not at all
	return c.cc.Available() > max(0, c.active-inFlight)
}

// watch returns room. If it is false, net/http reports when that changes. It compares with the
// last state that it saw, which can be older than that of room, so watch makes it update that
// state.
func (c *conn) watch() bool {
	if c.full = !c.room(); c.full {
		c.quiet.Store(false)
		c.poked.Store(true)
		c.cc.Release() // without a reservation
		c.poked.Store(false)
		c.full = !c.room() // an earlier change was not reported
	}
	if c.full {
		c.lookIn(firstLook)
	} else {
		c.quiet.Store(true)
	}
	return !c.full
}

// net/http does not check the state while it runs its hook, which can be the caller of watch
// or can wait for the pool's lock. It checks the state afterwards, but compares it with an
// older one, and can miss two changes. So the pool itself checks a full connection a few
// times, the last time after about a second.
const (
	firstLook = 10 * time.Millisecond
	lastLook  = 640 * time.Millisecond
)

func (c *conn) lookIn(d time.Duration) {
	c.lookDelay = d
	if c.lookTimer == nil {
		c.lookTimer = time.AfterFunc(d, c.lookFired)
		return
	}
	c.lookTimer.Reset(d)
}

// lookFired checks a connection that was full.
func (c *conn) lookFired() {
	p := c.pool
	p.mu.Lock()
	defer p.unlock()
	if c.state != busy || !c.full {
		return
	}
	d := c.lookDelay
	switch {
	case p.reopen(c):
		p.dispatch()
		p.settle()
	case d < lastLook:
		c.lookIn(2 * d)
	default:
		c.lookTimer.Stop()
	}
}

// usable reports whether an HTTP/1 connection can take the next request: the exchange is
// complete, and neither side closes. The pool must be unlocked, since net/http can hold its own
// lock while it closes a TLS connection.
func (c *conn) usable() bool { return c.cc.Available() == 1 }

// closedRemotely reports whether the server closed the connection. If TLS hides that, it
// returns likely.
func (c *conn) closedRemotely(likely bool) bool {
	return c.wire.remote.Load() || c.opaque && likely
}

// diedIdle reports whether err is the reason why net/http closed an HTTP/1 connection between
// two exchanges.
func diedIdle(err error) bool {
	return err != nil && (err.Error() == "http: server closed idle connection" || peekFailed(err))
}

// peekFailed reports whether err came from reading an idle connection: a network error, or
// bytes without a request.
func peekFailed(err error) bool { return strings.HasPrefix(err.Error(), "readLoopPeekFailLocked") }

// unsolicited reports whether err is about bytes without a request: then it wraps no error.
func unsolicited(err error) bool { return err != nil && peekFailed(err) && errors.Unwrap(err) == nil }

// idle records that c has no request since now. It does not reset a running timer, which waits
// for the rest of the time when it fires.
func (c *conn) idle(now time.Time) {
	c.idleSince = now
	if d := c.pool.cfg.IdleTimeout; d >= 0 && !c.idleArmed {
		c.armIdle(d)
	}
}

// armIdle makes the idle timer fire in d.
func (c *conn) armIdle(d time.Duration) {
	c.idleArmed = true
	if c.idleTimer == nil {
		c.idleTimer = time.AfterFunc(d, c.idleFired)
		return
	}
	c.idleTimer.Reset(d)
}

// idleFired closes c if it has been idle long enough.
func (c *conn) idleFired() {
	p := c.pool
	p.mu.Lock()
	defer p.unlock()
	c.idleArmed = false
	if c.state == closed || c.active > 0 {
		return
	}
	if left := p.cfg.IdleTimeout - time.Since(c.idleSince); left > 0 {
		c.armIdle(left)
		return
	}
	p.cfg.Observer.Observe(CxIdleTimeout, 1)
	p.finish(c, false)
	p.dispatch()
	p.settle()
}

// ageFired stops c from taking requests.
func (c *conn) ageFired() {
	p := c.pool
	p.mu.Lock()
	defer p.unlock()
	if c.state == closed || c.state == draining {
		return
	}
	p.cfg.Observer.Observe(CxMaxDurationReached, 1)
	p.drain(c)
	p.dispatch()
	p.settle()
}

// shut releases the resources of c. It is called once, after finish, with the pool unlocked.
func (c *conn) shut() {
	c.cancel()
	for _, t := range [...]*time.Timer{c.idleTimer, c.ageTimer, c.lookTimer} {
		if t != nil {
			t.Stop()
		}
	}
	if c.cc != nil { // otherwise dial closes its connection
		_ = c.cc.Close()
		c.wire.shut()
	}
}

// connList is a list of conns, the latest one first. It is guarded by Pool.mu. A conn is in one
// list at a time.
type connList struct {
	front *conn
	n     int
}

func (l *connList) push(c *conn) {
	c.list, c.prev, c.next = l, nil, l.front
	if l.front != nil {
		l.front.prev = c
	}
	l.front = c
	l.n++
}

func (l *connList) remove(c *conn) {
	if c.prev == nil {
		l.front = c.next
	} else {
		c.prev.next = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	}
	c.list, c.prev, c.next = nil, nil, nil
	l.n--
}
