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

// Stats counts what became of the documents of a [Tracer], since it was made.
type Stats struct {
	Queued  int    // wait to be sent now
	Sent    uint64 // packets that the network took; whether the daemon got them, nobody knows
	Split   uint64 // of them, those that a document over 64 KiB was split into beyond the first
	Cut     uint64 // of them, those that are too large by themselves and were cut
	Missing uint64 // calls that were made outside of any segment

	QueueFull  uint64 // documents dropped since too many waited
	SendFailed uint64 // packets dropped since they could not be sent, or nobody listened
	Late       uint64 // documents dropped since they ended after Close
}

// Dropped is how many documents and packets were lost.
func (s Stats) Dropped() uint64 { return s.QueueFull + s.SendFailed + s.Late }

// Errors that OnError hears of.
var (
	// ErrQueueFull says that documents were dropped, since too many waited.
	ErrQueueFull = errors.New("tracing: the queue is full")
	// ErrClosed says that documents were dropped, since they ended after Close.
	ErrClosed = errors.New("tracing: the tracer is closed")
)

// SendError says that a packet was lost: OnError gets it.
type SendError struct {
	Address string // of the daemon
	Err     error
}

func (e *SendError) Error() string {
	return fmt.Sprintf("tracing: sending to %s: %v", e.Address, e.Err)
}

// Unwrap gives what the network reported.
func (e *SendError) Unwrap() error { return e.Err }

// dialer opens the way to a daemon.
type dialer func(ctx context.Context, address string) (io.WriteCloser, error)

func dialUDP(ctx context.Context, address string) (io.WriteCloser, error) {
	var d net.Dialer
	return d.DialContext(ctx, "udp", address)
}

// settings are what an emitter needs to know.
type settings struct {
	address  string // empty sends nothing
	dial     dialer
	size     int
	onError  func(error)
	defaults defaults
}

const (
	// linger is how long the sender waits for more, when it has sent what there was: to be
	// woken for each document would cost every caller more than the document itself.
	linger = 5 * time.Millisecond
	// patience is how long a broken way to the daemon is left alone before the next try, and
	// how long OnError is, before it is told again.
	patience = time.Second
	// lookUp is how long a way may take to open.
	lookUp = 5 * time.Second
)

// emitter sends documents from a bounded queue, in one goroutine, which also writes
// them.
type emitter struct {
	settings

	queued  atomic.Int64 // documents in the queue and in the sender's hands
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

	wake  chan struct{}   // has room for one
	stop  context.Context //nolint:containedctx // ends when Close may wait no longer
	abort context.CancelFunc
	done  chan struct{} // closed when the goroutine has ended

	// The sender's own.
	writer  writer
	conn    io.WriteCloser
	unwatch func() bool // leaves conn alone when Close may wait no longer
	retryAt time.Time   // the next try to open the way
	broken  error       // why there is none

	reports chan error    // what OnError is to hear; has room for one
	quit    chan struct{} // closed when there will be no more of that
	ended   chan struct{} // closed when the goroutine that tells it has ended
}

// newEmitter makes an emitter, and starts its goroutines, which outlive each caller's
// context.
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
		go e.tell()
	}
	return e
}

// take puts a document into the queue, if there is room for it. It never waits for
// the network. The caller holds x's lock.
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
		e.notify()
	}
}

// rouse wakes the sender.
func (e *emitter) notify() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// freezeTree writes now what its owner may change later, and cuts the strings that the
// SDK recorded.
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

// run sends what comes, until the emitter is closed.
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

// next takes all that is in the queue, and gives batch, which is done with, for the
// queue to grow in. An empty batch says that the sender may sleep.
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
		if p := recover(); p != nil { // of a value's own methods: it must not end the process
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
		// The system tells with this packet that an earlier one was refused.
		e.lose(err)
		n, err = e.conn.Write(p)
		if err == nil {
			return // the earlier one was counted as sent: this one takes its place
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
			e.broken, e.retryAt = err, time.Now().Add(patience)
		}
	}
}

// lose counts a packet that was not sent.
func (e *emitter) lose(err error) {
	e.failed.Add(1)
	e.report(&SendError{Address: e.address, Err: err})
}

// open opens the way to the daemon, if there is none, and its time has come.
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
		e.broken, e.retryAt = err, time.Now().Add(patience)
		return false
	}
	e.conn = conn
	e.unwatch = context.AfterFunc(e.stop, func() { _ = conn.Close() }) // should a write be stuck
	return true
}

func (e *emitter) closeConn() {
	if e.conn != nil {
		e.unwatch()
		_ = e.conn.Close() // nothing waits in it
		e.conn = nil
	}
}

// report has OnError receive err, unless something else waits for it.
func (e *emitter) report(err error) {
	if e.onError == nil {
		return
	}
	select {
	case e.reports <- err:
	default:
	}
}

// tell calls OnError, once a second at most, and once more at the end.
func (e *emitter) tell() {
	defer close(e.ended)
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case err := <-e.reports:
			e.call(err)
		case <-e.quit:
			e.tellLast()
			return
		}
		pause.Reset(patience)
		select {
		case <-pause.C:
		case <-e.quit:
			e.tellLast()
			return
		}
	}
}

// tellLast tells what nobody was told yet.
func (e *emitter) tellLast() {
	select {
	case err := <-e.reports:
		e.call(err)
	default:
	}
}

// call calls OnError. If that panics, the panic is reported: it must not end the process.
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
	e.notify()
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
	e.notify()
	err := e.await(ctx, e.done)
	e.abort() // what still waits is dropped: that takes no time
	<-e.done
	if first {
		close(e.quit)
	}
	if told := e.await(ctx, e.ended); err == nil {
		err = told
	}
	return err
}

func (e *emitter) stats() Stats {
	return Stats{
		Queued: int(e.queued.Load()), Sent: e.sent.Load(), Split: e.split.Load(), Cut: e.cut.Load(),
		Missing: e.missing.Load(), QueueFull: e.full.Load(), SendFailed: e.failed.Load(), Late: e.late.Load(),
	}
}
