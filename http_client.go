package pillion

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/pillion-go/pillion/internal/report"
)

// lastWrites is how long writes may go on after a timeout has fired: long enough to send a response
// to a client that reads.
const lastWrites = 500 * time.Millisecond

// longAgo is a deadline in the past.
var longAgo = time.Unix(1, 0) //nolint:gochecknoglobals // nothing writes it

// errBody is the error of reading the request's body after a timeout has fired.
var errBody = fmt.Errorf("pillion: the request has timed out: %w", os.ErrDeadlineExceeded)

// client represents the client of a served request while the handler waits for it: for the
// request's body, or for the client to read the response. When a timeout fires, client ends the
// wait with the deadlines of the connection or of the HTTP/2 stream.
type client struct {
	w       http.ResponseWriter // the server's
	request context.Context     //nolint:containedctx // the server's: it ends when the client disconnects
	body    servedBody

	// These are set before the handler runs, and only if a timeout can end its context.
	limited bool
	ctx     context.Context //nolint:containedctx // the handler's

	mu        sync.Mutex
	epoch     time.Time     // the zero of the clock
	began     time.Duration // when the limits began, on that clock; may be negative; guarded by mu
	reads     waits         // waits for the request's body; guarded by mu
	writes    waits         // waits for the client to read the response; guarded by mu
	fired     bool          // a timeout has fired; guarded by mu
	over      bool          // the handler has returned, or hijacked the connection; guarded by mu
	bodyErr   error         // the error of reading the body; guarded by mu
	handlerBy time.Time     // the write deadline that the handler set; guarded by mu
	writeBy   time.Time     // the write deadline that was set because a timeout fired; guarded by mu

	// These are final when the handler has returned.
	slow bool // the client caused the timeout; guarded by mu
	cut  bool // a read deadline was set: the connection must not be reused; guarded by mu
}

// waits counts operations that wait, and measures how long at least one of them waited.
type waits struct {
	underWay int
	since    time.Duration // when underWay became positive, on the client's clock
	total    time.Duration // the waits before since
}

func (w *waits) enter(now time.Duration) {
	if w.underWay == 0 {
		w.since = now
	}
	w.underWay++
}

func (w *waits) leave(now time.Duration) {
	if w.underWay--; w.underWay == 0 {
		w.total += now - w.since
	}
}

// took reports whether the completed waits took at least that much time.
func (w *waits) took(least time.Duration) bool { return w.total > 0 && w.total >= least }

// start begins to watch what the handler waits for, until ctx ends. Its limits have run for
// elapsed.
func (c *client) start(ctx context.Context, elapsed time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ctx, c.limited, c.epoch, c.began = ctx, true, time.Now(), -elapsed
}

// now returns the time on the client's clock.
func (c *client) now() time.Duration { return time.Since(c.epoch) }

// finish ends the watch: the ResponseWriter is not used any more.
func (c *client) finish() {
	c.lock()
	defer c.mu.Unlock()
	if c.limited && !c.fired {
		c.slow = c.keptWaiting()
	}
	c.over = true
}

// lock locks mu. It notices that a timeout has fired even before [serverCall.LimitFired] runs.
func (c *client) lock() {
	if c.limited && c.ctx.Err() != nil {
		c.limitFired()
	}
	c.mu.Lock()
}

// limitFired ends the handler's waits, because a timeout has fired.
func (c *client) limitFired() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fire()
}

// fire is limitFired. The caller holds mu.
func (c *client) fire() {
	if c.fired || c.over || c.disconnected() {
		return
	}
	c.fired = true
	c.slow = c.keptWaiting()
	c.endReads()
	if c.writes.underWay > 0 {
		c.limitWrites()
	}
}

// keptWaiting reports whether the client took the time, and not the handler: the handler waits for
// the client now, or has waited for a quarter of the time to read, or for half of it to write. A
// client must not be able to take just so much time that the timeout fires in the work that
// follows. The caller holds mu.
func (c *client) keptWaiting() bool {
	all := c.now() - c.began
	return c.reads.underWay > 0 || c.writes.underWay > 0 || c.reads.took(all/4) || c.writes.took(all/2)
}

// endReads wakes a handler that waits for the request's body, or a server that reads the rest of it
// before it writes a response. If no body is left, endReads does nothing: the server itself reads
// then, to notice that the client disconnects. The caller holds mu.
func (c *client) endReads() {
	if c.body.ReadCloser == nil || c.body.done {
		return
	}
	c.cut = http.NewResponseController(c.w).SetReadDeadline(longAgo) == nil
}

// endBody bounds how long the server waits for the rest of the request's body before it sends a
// local reply. If the rest arrives in that time, the connection can be reused.
func (c *client) endBody() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.body.ReadCloser == nil || c.body.done || c.serverEnds(readTimeout) {
		return
	}
	_ = http.NewResponseController(c.w).SetReadDeadline(time.Now().Add(lastWrites)) // without support there is no other way
}

// limitWrites sets the deadline of the last writes, unless there is an earlier one. The caller
// holds mu.
func (c *client) limitWrites() {
	if c.over || !c.writeBy.IsZero() {
		return
	}
	c.writeBy = time.Now().Add(lastWrites)
	if !c.handlerBy.IsZero() && c.handlerBy.Before(c.writeBy) || c.serverEnds(writeTimeout) {
		return
	}
	_ = http.NewResponseController(c.w).SetWriteDeadline(c.writeBy) // without support there is no other way
}

// serverEnds reports whether the server's own timeout ends before the last writes may. The caller
// holds mu.
func (c *client) serverEnds(timeout func(*http.Server) time.Duration) bool {
	server, ok := c.request.Value(http.ServerContextKey).(*http.Server)
	if !ok || timeout(server) <= 0 {
		return false
	}
	return c.limited && timeout(server)-(c.now()-c.began) < lastWrites
}

func readTimeout(s *http.Server) time.Duration  { return s.ReadTimeout }
func writeTimeout(s *http.Server) time.Duration { return s.WriteTimeout }

// disconnected reports whether the request's context was canceled. After a read deadline was set,
// the server may have canceled it because of that.
func (c *client) disconnected() bool { return errors.Is(c.request.Err(), context.Canceled) }

// gone reports whether the client has disconnected.
func (c *client) gone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.cut && c.disconnected()
}

// fault returns an error if the client did something that may make the handler fail: it
// disconnected, sent a body that cannot be read, or kept the handler waiting for too long.
func (c *client) fault() error {
	if c.gone() {
		return context.Cause(c.request)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bodyErr == nil && c.fired && c.slow {
		return errBody
	}
	return c.bodyErr
}

func (c *client) enterWrite() {
	if !c.limited {
		return
	}
	c.lock()
	defer c.mu.Unlock()
	c.writes.enter(c.now())
	if c.fired {
		c.limitWrites()
	}
}

func (c *client) leaveWrite() {
	if !c.limited {
		return
	}
	c.lock()
	defer c.mu.Unlock()
	c.writes.leave(c.now())
}

// hijack hands conn to the handler, without deadlines.
func (c *client) hijack(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn != nil && (c.cut || !c.writeBy.IsZero()) {
		_ = conn.SetDeadline(time.Time{}) // a closed connection needs none
	}
	c.over, c.cut = true, false
}

// setReadDeadline sets a deadline for the handler, unless a timeout has fired.
func (c *client) setReadDeadline(w http.ResponseWriter, deadline time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		return nil
	}
	return http.NewResponseController(w).SetReadDeadline(deadline)
}

// setWriteDeadline sets a deadline for the handler. After a timeout has fired it may not be later
// than the one that was set then.
func (c *client) setWriteDeadline(w http.ResponseWriter, deadline time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.writeBy.IsZero() && (deadline.IsZero() || deadline.After(c.writeBy)) {
		return nil
	}
	c.handlerBy = deadline
	return http.NewResponseController(w).SetWriteDeadline(deadline)
}

// closeAfterResponse makes the server close the connection when the response is sent: what the
// client still sends must not be read as its next request. The server does that for a request whose
// body is too large, even if the response headers have been sent.
func closeAfterResponse(w http.ResponseWriter) {
	for {
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = wrapper.Unwrap()
	}
	_, _ = http.MaxBytesReader(w, io.NopCloser(strings.NewReader(" ")), 0).Read(make([]byte, 1)) // any body is too large for 0 bytes
}

// servedBody is the body of a request as the handler sees it.
type servedBody struct {
	io.ReadCloser // nil if the request has none

	client *client
	done   bool // it was read to its end or closed; guarded by client.mu
	closed bool // guarded by client.mu
}

// wrap sets the body, if the request has one.
func (b *servedBody) wrap(body io.ReadCloser, of *client) {
	if body != http.NoBody {
		b.ReadCloser, b.client = body, of
	}
}

// Read reads from the body. It fails after a timeout has fired.
func (b *servedBody) Read(p []byte) (n int, err error) {
	if !b.enter() {
		return 0, errBody
	}
	defer func() { err = b.leave(err) }()
	return b.ReadCloser.Read(p)
}

// enter records that a Read begins. It is not ok if a timeout has fired.
func (b *servedBody) enter() (ok bool) {
	c := b.client
	if !c.limited {
		return true
	}
	c.lock()
	defer c.mu.Unlock()
	if c.fired {
		return false
	}
	c.reads.enter(c.now())
	return true
}

// leave records that a Read has ended with err. It returns the error for the handler.
func (b *servedBody) leave(err error) error {
	c := b.client
	c.lock()
	defer c.mu.Unlock()
	if c.limited {
		c.reads.leave(c.now())
	}
	switch {
	case err == nil:
	case err == io.EOF: //nolint:errorlint // a wrapped EOF is not the end
		b.done = true
	case c.fired:
		return errBody
	case !b.closed && c.bodyErr == nil:
		c.bodyErr = err
	}
	return err
}

// Close closes the body. The server may read the rest of it first.
func (b *servedBody) Close() error {
	c := b.client
	c.lock()
	c.reads.enter(c.now())
	c.mu.Unlock()
	defer func() {
		c.lock()
		defer c.mu.Unlock()
		c.reads.leave(c.now())
		b.done, b.closed = true, true
	}()
	return b.ReadCloser.Close()
}

// LimitFired ends the handler's waits. It runs in a goroutine of the runtime.
func (x *serverCall) LimitFired() {
	defer func() {
		if p := recover(); p != nil {
			report.Panic("the deadlines of an http.ResponseWriter", p)
		}
	}()
	x.client.limitFired()
}
