package command

import (
	"context"
	"fmt"
	"sync"

	"github.com/pillion-go/pillion/internal/settings"
)

// Zero is a MaxQueue of zero. The zero value of the field means no bound.
const Zero = -1

// Overflow is what a full pool does with a command.
type Overflow uint8

// The overflow policies.
const (
	Abort      Overflow = iota // the command fails with a [*RejectedError], counted as a rejection
	CallerRuns                 // Start runs the command itself, which slows the caller down
	Discard                    // the command fails with a [*RejectedError], which is not counted
)

// String returns the name of the policy in concurrent-ruby.
func (o Overflow) String() string {
	if o > Discard {
		return fmt.Sprintf("Overflow(%d)", uint8(o))
	}
	return [...]string{"abort", "caller_runs", "discard"}[o]
}

// MarshalText returns the name, for configuration files.
func (o Overflow) MarshalText() ([]byte, error) {
	if o > Discard {
		return nil, fmt.Errorf("command: Overflow: %d is unknown", uint8(o))
	}
	return []byte(o.String()), nil
}

// UnmarshalText reads the name, for configuration files.
func (o *Overflow) UnmarshalText(name []byte) error {
	for p := Abort; p <= Discard; p++ {
		if p.String() == string(name) {
			*o = p
			return nil
		}
	}
	return fmt.Errorf("command: Overflow: %q is unknown; write abort, caller_runs or discard", name)
}

// PoolConfig describes a [Pool]. It mirrors the options of
// Concurrent::ThreadPoolExecutor.
type PoolConfig struct {
	// MaxThreads is the number of commands that run at a time. Zero means no bound; negative
	// values are errors. Mirrors max_threads.
	MaxThreads int `json:"max_threads,omitempty"`

	// MaxQueue is the number of commands that can wait for a worker or for dependencies. Zero
	// means no bound, as in Ruby; with the constant Zero none can wait. Other negative values
	// are errors, and so is any value but zero without MaxThreads. Mirrors max_queue.
	MaxQueue int `json:"max_queue,omitempty"`

	// Overflow is what the pool does with a command if no slot is free. The zero value is
	// Abort. Any other value is an error without MaxThreads and MaxQueue. Mirrors
	// fallback_policy.
	Overflow Overflow `json:"overflow,omitempty"`
}

func (cfg PoolConfig) check() error {
	var bad problems
	if why := settings.Count(int64(cfg.MaxThreads), "0 for no bound"); why != "" {
		bad.say("PoolConfig.MaxThreads: %d %s", cfg.MaxThreads, why)
	}
	switch why := settings.Count(int64(cfg.MaxQueue), "0 for no bound", "command.Zero for no queue"); {
	case why != "" && cfg.MaxQueue != Zero:
		bad.say("PoolConfig.MaxQueue: %d %s", cfg.MaxQueue, why)
	case cfg.MaxQueue != 0 && cfg.MaxThreads == 0:
		bad.say("PoolConfig.MaxQueue: %d has no effect on a pool without MaxThreads; write MaxThreads too", cfg.MaxQueue)
	}
	switch {
	case cfg.Overflow > Discard:
		bad.say("PoolConfig.Overflow: %d is unknown; write command.Abort, command.CallerRuns or command.Discard", uint8(cfg.Overflow))
	case cfg.Overflow != Abort && (cfg.MaxQueue == 0 || cfg.MaxThreads == 0):
		bad.say("PoolConfig.Overflow: %v has no effect on a pool that is never full; write MaxThreads and MaxQueue too", cfg.Overflow)
	}
	return bad.err()
}

// Pool runs commands. It has a goroutine for each command that runs, and none for a
// command that waits in the queue or for its dependencies. An idle pool has no goroutine.
//
// Each command that runs or waits holds a slot. The slot is free before Get and Wait return,
// before the hooks run and before the commands run that depend on it. If the timeout fires, or
// the caller cancels, while the work runs, the command holds its slot until the work returns.
//
// A Pool is safe for concurrent use, and several services can share it. The zero value is a
// pool without bounds.
type Pool struct {
	max      int // threads; 0 for no bound
	slots    int // threads and queue; 0 for no bound
	overflow Overflow

	mu      sync.Mutex
	running int           // commands that have a worker; guarded by mu
	waiting int           // commands that have no worker yet; guarded by mu
	held    int           // goroutines that work without a slot; guarded by mu
	queue   queue         // of commands that are ready to run; guarded by mu
	shut    bool          // guarded by mu
	idle    chan struct{} // closed when nothing is left after shut; guarded by mu
	ended   bool          // idle is closed; guarded by mu
}

// NewPool makes a pool. The error joins all errors in cfg and matches [ErrInvalid].
func NewPool(cfg PoolConfig) (*Pool, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	p := &Pool{max: cfg.MaxThreads, overflow: cfg.Overflow}
	if p.max > 0 && cfg.MaxQueue != 0 {
		p.slots = p.max + max(cfg.MaxQueue, 0)
	}
	return p, nil
}

// Load returns the number of commands that run, and of those that wait for a worker or for
// their dependencies. A command that has ended is in neither, even if its hooks still run.
func (p *Pool) Load() (running, waiting int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running, p.waiting
}

// Shutdown makes the pool reject commands that are started from now on. It waits until all
// commands that were started before have ended and their hooks have run; then the pool has no
// goroutine left. If ctx ends first, Shutdown returns the cause of that, and the commands
// continue. It may be called again, to wait again. If ctx is nil it does nothing and returns
// an error that matches [ErrInvalid]. Mirrors Expeditor::Service#shutdown, which does not
// wait.
func (p *Pool) Shutdown(ctx context.Context) error {
	if ctx == nil {
		return invalid("Shutdown: %s", nilContext)
	}
	idle := p.shutdown()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		select {
		case <-idle: // both ended: the wait has succeeded
			return nil
		default:
			return context.Cause(ctx)
		}
	}
}

func (p *Pool) shutdown() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.shut {
		p.shut, p.idle = true, make(chan struct{})
		p.ending()
	}
	return p.idle
}

// ending wakes Shutdown if nothing is left. The caller holds mu.
func (p *Pool) ending() {
	if p.shut && !p.ended && p.running+p.waiting+p.held == 0 {
		p.ended = true
		close(p.idle)
	}
}

// entry is the slot of a job in a pool. The job's work does not panic, but may end its
// goroutine.
type entry struct {
	job        job
	prev, next *entry
	state      entryState // guarded by the pool's mu
}

type entryState uint8

const (
	outside entryState = iota // holds no slot
	parked                    // holds a slot and waits for dependencies
	queued                    // holds a slot and waits for a worker
	taken                     // has a worker
)

// verdict is a pool's decision about a job.
type verdict uint8

const (
	accepted  verdict = iota
	yours             // the caller must run it
	full              // no slot is free
	discarded         // no slot is free, and the rejection is not counted
	closed            // the pool is shut down
)

// enter acquires a slot. If ready is set the job runs as soon as a worker is free, else it
// waits until ready is called. A waiting job takes a place in the queue, but never a worker. So
// workers always make progress, and no two jobs wait for each other's worker.
func (p *Pool) enter(e *entry, ready bool) verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.shut:
		return closed
	case p.slots == 0 || p.running+p.waiting < p.slots:
	case p.overflow == CallerRuns:
		p.held++
		return yours
	case p.overflow == Discard:
		return discarded
	default:
		return full
	}
	p.waiting++
	e.state = parked
	if ready {
		p.dispatch(e)
	}
	return accepted
}

// ready makes a job ready to run. It may be called more than once.
func (p *Pool) ready(e *entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.state == parked {
		p.dispatch(e)
	}
}

// dispatch starts a worker for a parked job, or queues it. A non-empty queue always has a
// worker that comes back to it, from a job or from its hooks. The caller holds mu.
func (p *Pool) dispatch(e *entry) {
	if p.busy() || p.queue.head != nil {
		e.state = queued
		p.queue.push(e)
		return
	}
	p.take(e)
	go p.serve(e)
}

// busy reports whether as many jobs run as may. The caller holds mu.
func (p *Pool) busy() bool { return p.max > 0 && p.running >= p.max }

// take assigns a waiting job to a worker. The caller holds mu.
func (p *Pool) take(e *entry) {
	p.waiting--
	p.running++
	e.state = taken
}

// serve is a worker: it runs jobs until there are none.
func (p *Pool) serve(e *entry) {
	defer func() {
		if e != nil { // the job ended the goroutine
			if e = p.next(e); e != nil {
				go p.serve(e)
			}
		}
	}()
	for e != nil {
		e.job.work()
		e = p.next(e)
	}
}

// next returns the worker's next job after e, or nil if the worker has to end.
func (p *Pool) next(e *entry) *entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.vacate(e)
	p.held--
	if e = nil; !p.busy() {
		e = p.queue.pop()
	}
	if e != nil {
		p.take(e)
	}
	p.ending()
	return e
}

// vacate releases the slot of a job that a worker has. The worker goes on without one. The
// caller holds mu.
func (p *Pool) vacate(e *entry) {
	if e.state == taken {
		e.state = outside
		p.running--
		p.held++
	}
}

// finished releases the slot of a job whose outcome is about to be known.
func (p *Pool) finished(e *entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.vacate(e)
}

// leave releases the slot of a job that was ended from outside. A job that has begun keeps
// its slot until its work returns.
func (p *Pool) leave(e *entry, begun bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e.state {
	case queued:
		p.queue.remove(e)
	case parked:
	case taken:
		if !begun {
			p.vacate(e)
		}
		return
	case outside:
		return
	}
	e.state = outside
	p.waiting--
	p.ending()
}

// hold makes Shutdown wait for a goroutine that is no worker, until release.
func (p *Pool) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held++
}

func (p *Pool) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held--
	p.ending()
}

// queue is a list of entries, first in, first out.
type queue struct{ head, tail *entry }

func (q *queue) push(e *entry) {
	e.prev, e.next = q.tail, nil
	if q.tail == nil {
		q.head = e
	} else {
		q.tail.next = e
	}
	q.tail = e
}

func (q *queue) pop() *entry {
	e := q.head
	if e != nil {
		q.remove(e)
	}
	return e
}

func (q *queue) remove(e *entry) {
	if e.prev == nil {
		q.head = e.next
	} else {
		e.prev.next = e.next
	}
	if e.next == nil {
		q.tail = e.prev
	} else {
		e.next.prev = e.prev
	}
	e.prev, e.next = nil, nil
}
