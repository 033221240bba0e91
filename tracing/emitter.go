package tracing

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/aws/aws-xray-sdk-go/v2/xray"

	"github.com/pillion-go/pillion/internal/report"
)

// Stats counts the documents of a [Tracer] since it was made, by what happened to them.
type Stats struct {
	Queued  int    // documents that wait to be sent now
	Sent    uint64 // packets that were sent; whether the daemon received them is not known
	Split   uint64 // of the packets sent, those beyond the first of a document over 64 KiB that was split
	Cut     uint64 // of the packets sent, those with a document that was cut, because it was too large even after the split
	Missing uint64 // calls outside of any segment

	QueueFull  uint64 // documents dropped because the queue was full
	SendFailed uint64 // packets dropped because they could not be sent, or the daemon did not listen
	Late       uint64 // documents dropped because they ended after Close
}

// Dropped returns the number of documents and packets that were lost.
func (s Stats) Dropped() uint64 { return s.QueueFull + s.SendFailed + s.Late }

// Errors that OnError receives.
var (
	// ErrQueueFull reports that documents were dropped because the queue was full.
	ErrQueueFull = errors.New("tracing: the queue is full")
	// ErrClosed reports that documents were dropped because they ended after Close.
	ErrClosed = errors.New("tracing: the tracer is closed")
)

// SendError reports that a packet was lost. OnError receives it.
type SendError struct {
	Address string // of the daemon
	Err     error
}

func (e *SendError) Error() string {
	return fmt.Sprintf("tracing: sending to %s: %v", e.Address, e.Err)
}

// Unwrap returns the error of the network.
func (e *SendError) Unwrap() error { return e.Err }

// dialer opens a connection to a daemon.
type dialer func(ctx context.Context, address string) (io.WriteCloser, error)

func dialUDP(ctx context.Context, address string) (io.WriteCloser, error) {
	var d net.Dialer
	return d.DialContext(ctx, "udp", address)
}

// settings configures an emitter.
type settings struct {
	address  string // if empty, nothing is sent
	dial     dialer
	size     int
	onError  func(error)
	defaults defaults
}

const (
	// linger is the time that the sender waits for more documents after it has emptied the
	// queue. Waking it for each document would cost every caller more than the document
	// itself.
	linger = 5 * time.Millisecond
	// retryInterval is the minimum time between two attempts to open a connection, and
	// between two calls of OnError.
	retryInterval = time.Second
	// lookUp is the timeout for opening a connection.
	lookUp = 5 * time.Second
)

// emitter writes and sends the documents of a bounded queue, in one goroutine.
type emitter struct {
	settings

	queued  atomic.Int64 // documents in the queue and in the sender's batch
	sent    atomic.Uint64
	split   atomic.Uint64
	cut     atomic.Uint64
	missing atomic.Uint64
	full    atomic.Uint64
	failed  atomic.Uint64
	late    atomic.Uint64

	mu       sync.Mutex
	queue    []*xray.Segment // guarded by mu
	closed   bool            // guarded by mu
	idle     bool            // the sender sleeps until it is woken; guarded by mu
	flushing []chan struct{} // closed when the queue has been sent; guarded by mu

	wake  chan struct{}   // has a buffer of one
	stop  context.Context //nolint:containedctx // is canceled when Close must not wait any longer
	abort context.CancelFunc
	done  chan struct{} // closed when the goroutine has ended

	// Used only by the sender.
	writer  writer
	conn    io.WriteCloser
	unwatch func() bool // stops the function that closes conn when stop is canceled
	retryAt time.Time   // the time of the next attempt to open a connection
	broken  error       // why there is no connection

	reports chan error    // errors for OnError; has a buffer of one
	quit    chan struct{} // closed when there will be no more errors
	ended   chan struct{} // closed when the goroutine that calls OnError has ended
}

// newEmitter makes an emitter and starts its goroutines. They outlive the contexts of all
// callers.
func newEmitter(s settings) *emitter {
	e := &emitter{
		settings: s, idle: true, wake: make(chan struct{}, 1), done: make(chan struct{}),
		reports: make(chan error, 1), quit: make(chan struct{}), ended: make(chan struct{}),
	}
	e.writer.defaults = &e.defaults
	e.stop, e.abort = context.WithCancel(context.Background())
	if s.address == "" {
		close(e.done)
	} else {
		go e.run()
	}
	if s.onError == nil {
		close(e.ended)
	} else {
		go e.reportErrors()
	}
	return e
}

// take puts a document into the queue, if there is room. It never waits for the network.
// The caller holds x's lock.
func (e *emitter) take(x *xray.Segment) {
	if e.address == "" {
		return
	}
	freezeTree(x)
	e.mu.Lock()
	switch {
	case e.closed:
		e.mu.Unlock()
		e.late.Add(1)
		e.report(ErrClosed)
		return
	case len(e.queue) >= e.size:
		e.mu.Unlock()
		e.full.Add(1)
		e.report(ErrQueueFull)
		return
	}
	e.queue = append(e.queue, x)
	e.queued.Add(1)
	wake := e.idle || len(e.queue) == e.size/2
	if wake {
		e.idle = false
	}
	e.mu.Unlock()
	if wake {
		e.wakeSender()
	}
}

// wakeSender wakes the sender.
func (e *emitter) wakeSender() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// freezeTree writes the values that their owner may change later, and cuts the strings that
// the SDK recorded.
func freezeTree(x *xray.Segment) {
	for _, values := range x.Metadata {
		freezeMap(values)
	}
	freezeMap(x.AWS)
	if owner(x) == nil {
		boundSegment(x)
	}
	for _, kid := range children(x) {
		kid.Lock()
		freezeTree(kid)
		kid.Unlock()
	}
}

func freezeMap(values map[string]any) {
	for key, value := range values {
		switch v := value.(type) {
		case frozen, tooLong, callerStack, callersMore, nil, bool, int, int64, float64:
		case string:
			if len(v) > maxPacket {
				values[key] = freeze(v)
			}
		default:
			values[key] = freeze(v)
		}
	}
}

// run sends documents until the emitter is closed.
func (e *emitter) run() {
	defer close(e.done)
	defer e.closeConn()
	pause := time.NewTimer(linger)
	defer pause.Stop()
	var batch []*xray.Segment
	for {
		var flushed []chan struct{}
		var closed bool
		batch, flushed, closed = e.next(batch)
		for i, x := range batch {
			e.send(x)
			batch[i] = nil
		}
		for _, f := range flushed {
			close(f)
		}
		switch {
		case closed:
			return
		case len(batch) == 0 && len(flushed) == 0:
			<-e.wake
		default:
			pause.Reset(linger)
			select {
			case <-e.wake:
			case <-pause.C:
			}
		}
	}
}

// next returns the contents of the queue, and reuses batch, which has been sent, as the new
// queue. If it returns an empty batch, the sender may sleep.
func (e *emitter) next(batch []*xray.Segment) (next []*xray.Segment, flushed []chan struct{}, closed bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	next, flushed = e.queue, e.flushing
	e.queue, e.flushing = batch[:0], nil
	e.idle = len(next) == 0 && len(flushed) == 0
	return next, flushed, e.closed && len(next) == 0
}

// send writes a document and sends its packets.
func (e *emitter) send(x *xray.Segment) {
	defer e.queued.Add(-1)
	defer func() {
		if p := recover(); p != nil { // in a method of a value: it must not end the process
			report.Panic("a document of tracing", p)
			e.lose(fmt.Errorf("a document could not be written: %v", p))
		}
	}()
	if e.stop.Err() != nil {
		e.late.Add(1)
		return
	}
	split, cuts := e.writer.pack(x, e.packet)
	e.split.Add(uint64(split)) //nolint:gosec // never negative
	e.cut.Add(uint64(cuts))    //nolint:gosec // never negative
}

// packet sends one packet.
func (e *emitter) packet(p []byte) {
	if !e.open() {
		e.lose(e.broken)
		return
	}
	n, err := e.conn.Write(p)
	if errors.Is(err, syscall.ECONNREFUSED) {
		// The system reports with this packet that an earlier packet was refused.
		e.lose(err)
		n, err = e.conn.Write(p)
		if err == nil {
			return // the earlier packet was counted as sent, so this one is not counted
		}
	}
	switch {
	case err == nil && n == len(p):
		e.sent.Add(1)
	case err == nil:
		e.lose(io.ErrShortWrite)
	default:
		e.lose(err)
		if !errors.Is(err, syscall.ECONNREFUSED) {
			e.closeConn()
			e.broken, e.retryAt = err, time.Now().Add(retryInterval)
		}
	}
}

// lose counts a packet that was not sent.
func (e *emitter) lose(err error) {
	e.failed.Add(1)
	e.report(&SendError{Address: e.address, Err: err})
}

// open opens a connection to the daemon, if there is none and the retry interval has
// passed.
func (e *emitter) open() bool {
	if e.conn != nil {
		return true
	}
	if time.Now().Before(e.retryAt) {
		return false
	}
	ctx, cancel := context.WithTimeout(e.stop, lookUp)
	defer cancel()
	conn, err := e.dial(ctx, e.address)
	if err != nil {
		e.broken, e.retryAt = err, time.Now().Add(retryInterval)
		return false
	}
	e.conn = conn
	e.unwatch = context.AfterFunc(e.stop, func() { _ = conn.Close() }) // unblocks a write
	return true
}

func (e *emitter) closeConn() {
	if e.conn != nil {
		e.unwatch()
		_ = e.conn.Close() // nothing is buffered in it
		e.conn = nil
	}
}

// report passes err to OnError, unless another error is waiting for it.
func (e *emitter) report(err error) {
	if e.onError == nil {
		return
	}
	select {
	case e.reports <- err:
	default:
	}
}

// reportErrors calls OnError, at most once per second, and a last time at the end.
func (e *emitter) reportErrors() {
	defer close(e.ended)
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case err := <-e.reports:
			e.call(err)
		case <-e.quit:
			e.reportLast()
			return
		}
		pause.Reset(retryInterval)
		select {
		case <-pause.C:
		case <-e.quit:
			e.reportLast()
			return
		}
	}
}

// reportLast calls OnError with the error that is waiting, if any.
func (e *emitter) reportLast() {
	select {
	case err := <-e.reports:
		e.call(err)
	default:
	}
}

// call calls OnError. It reports a panic, which must not end the process.
func (e *emitter) call(err error) {
	defer func() {
		if p := recover(); p != nil {
			report.Panic("tracing: Config.OnError", p)
		}
	}()
	e.onError(err)
}

func (e *emitter) flush(ctx context.Context) error {
	if e.address == "" {
		return nil
	}
	flushed := make(chan struct{})
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return e.await(ctx, e.done)
	}
	e.flushing = append(e.flushing, flushed)
	e.idle = false
	e.mu.Unlock()
	e.wakeSender()
	return e.await(ctx, flushed)
}

func (e *emitter) await(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("tracing: %d documents still wait: %w", e.queued.Load(), ctx.Err())
	}
}

func (e *emitter) close(ctx context.Context) error {
	e.mu.Lock()
	first := !e.closed
	e.closed, e.idle = true, false
	e.mu.Unlock()
	e.wakeSender()
	err := e.await(ctx, e.done)
	e.abort() // the remaining documents are dropped, which does not block
	<-e.done
	if first {
		close(e.quit)
	}
	if reported := e.await(ctx, e.ended); err == nil {
		err = reported
	}
	return err
}

func (e *emitter) stats() Stats {
	return Stats{
		Queued: int(e.queued.Load()), Sent: e.sent.Load(), Split: e.split.Load(), Cut: e.cut.Load(),
		Missing: e.missing.Load(), QueueFull: e.full.Load(), SendFailed: e.failed.Load(), Late: e.late.Load(),
	}
}
