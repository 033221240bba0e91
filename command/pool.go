package command

import (
	"context"
	"fmt"
	"sync"
)

// NoQueue is a MaxQueue of zero, where zero means that the queue has no end.
const NoQueue = -1

// Overflow says what a full pool does with a command.
type Overflow uint8

// What a full pool can do.
const (
	Abort      Overflow = iota // the command fails with a [*RejectedError], counted as a rejection
	CallerRuns                 // Start does the work itself, so that who starts too much is slowed down
	Discard                    // the command fails with a [*RejectedError], counted nowhere
)

// String names the policy as concurrent-ruby does.
func (o Overflow) String() string { return [...]string{"abort", "caller_runs", "discard"}[o] }

// MarshalText gives the name, for configuration that is written.
func (o Overflow) MarshalText() ([]byte, error) {
	if o > Discard {
		return nil, fmt.Errorf("command: Overflow: %d is unknown", uint8(o))
	}
	return []byte(o.String()), nil
}

// UnmarshalText understands the name, for configuration that is read.
func (o *Overflow) UnmarshalText(name []byte) error {
	for p := Abort; p <= Discard; p++ {
		if p.String() == string(name) {
			*o = p
			return nil
		}
	}
	return fmt.Errorf("command: Overflow: %q is none of abort, caller_runs, discard", name)
}

// PoolConfig describes a [Pool]. It mirrors the options of
// Concurrent::ThreadPoolExecutor.
type PoolConfig struct {
	// MaxThreads is how many commands run at once. Zero means no bound; negative is an error.
	// Mirrors max_threads.
	MaxThreads int `json:"max_threads,omitempty"`

	// MaxQueue is how many more can wait for their turn, or for what they depend on. Zero
	// means no bound, as in Ruby, NoQueue none; any other negative value is an error. Mirrors
	// max_queue.
	MaxQueue int `json:"max_queue,omitempty"`

	// Overflow is what is done with a command that finds no place. The zero value is Abort.
	// Mirrors fallback_policy.
	Overflow Overflow `json:"overflow,omitempty"`
}

// Pool runs commands. It has a goroutine for each that runs, and none for one that
// waits in the queue or for its dependencies, nor when there is nothing to do. It is safe
// for concurrent use, and can be shared by services.
type Pool struct {
	max      int // threads; 0 for no bound
	places   int // threads and queue; 0 for no bound
	overflow Overflow

	mu      sync.Mutex
	running int           // workers; guarded by mu
	waiting int           // accepted, but not running; guarded by mu
	held    int           // goroutines beside the workers; guarded by mu
	queue   queue         // of those that could run; guarded by mu
	shut    bool          // guarded by mu
	idle    chan struct{} // closed when nothing is left after shut; guarded by mu
	ended   bool          // idle is closed; guarded by mu
}

// NewPool makes a pool. The error joins all that is wrong with cfg.
func NewPool(cfg PoolConfig) (*Pool, error) {
	var bad problems
	if cfg.MaxThreads < 0 {
		bad.say("PoolConfig.MaxThreads: %d is negative", cfg.MaxThreads)
	}
	if cfg.MaxQueue < 0 && cfg.MaxQueue != NoQueue {
		bad.say("PoolConfig.MaxQueue: %d is negative", cfg.MaxQueue)
	}
	if cfg.Overflow > Discard {
		bad.say("PoolConfig.Overflow: %d is unknown", uint8(cfg.Overflow))
	}
	if err := bad.err(); err != nil {
		return nil, err
	}
	p := &Pool{max: cfg.MaxThreads, overflow: cfg.Overflow}
	if p.max > 0 && cfg.MaxQueue != 0 {
		p.places = p.max + max(cfg.MaxQueue, 0)
	}
	return p, nil
}

// Load tells how many commands run, and how many wait for a turn or for their
// dependencies.
func (p *Pool) Load() (running, waiting int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running, p.waiting
}

// Shutdown has the pool reject what is started from now on, and waits until all
// that was started before has ended, hooks included; then no goroutine of it is left. When
// ctx ends first its error is returned, and the rest goes on ending. Shutdown may be called
// again, to wait again. Mirrors Expeditor::Service#shutdown, which does not wait.
func (p *Pool) Shutdown(ctx context.Context) error {
	idle := p.shutdown()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		select {
		case <-idle: // both, then it is not the wait that failed
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

// ending tells Shutdown if nothing is left. The caller holds mu.
func (p *Pool) ending() {
	if p.shut && !p.ended && p.running+p.waiting+p.held == 0 {
		p.ended = true
		close(p.idle)
	}
}

// entry is a job's place in a pool. The job's work does not panic, but may end its
// goroutine.
type entry struct {
	job        job
	prev, next *entry
	state      entryState // guarded by the pool's mu
}

type entryState uint8

const (
	outside entryState = iota // not in the pool, or no more
	parked                    // has a place, but cannot run yet
	queued                    // could run
	taken                     // a worker has it
)

// verdict is what a pool says to a job.
type verdict uint8

const (
	accepted  verdict = iota
	yours             // the caller has to run it
	full              // no place
	discarded         // no place, and nobody is to be told
	closed            // no place ever again
)

// enter asks for a place. With ready the job runs as soon as a worker is free,
// else it waits until it is made ready. One that waits counts as if it were queued, and
// never holds a worker: workers always get on, so that no two jobs can wait for each
// other's.
func (p *Pool) enter(e *entry, ready bool) verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.shut:
		return closed
	case p.places == 0 || p.running+p.waiting < p.places:
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

// ready lets a job run that has a place. It may be called more than once.
func (p *Pool) ready(e *entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.state == parked {
		p.dispatch(e)
	}
}

// dispatch gives a parked job to a worker, or queues it. The caller holds mu.
func (p *Pool) dispatch(e *entry) {
	if p.max > 0 && p.running >= p.max {
		e.state = queued
		p.queue.push(e)
		return
	}
	p.running++
	p.take(e)
	go p.serve(e)
}

func (p *Pool) take(e *entry) {
	p.waiting--
	e.state = taken
}

// serve is a worker: it does jobs as long as there are some.
func (p *Pool) serve(e *entry) {
	defer func() {
		if e != nil { // the job ended the goroutine
			if e = p.finished(); e != nil {
				go p.serve(e)
			}
		}
	}()
	for e != nil {
		e.job.work()
		e = p.finished()
	}
}

// finished gives a worker its next job; without one the worker is no more.
func (p *Pool) finished() *entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.queue.pop()
	if e == nil {
		p.running--
		p.ending()
		return nil
	}
	p.take(e)
	return e
}

// leave gives up the place of a job that has not begun.
func (p *Pool) leave(e *entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e.state {
	case queued:
		p.queue.remove(e)
	case parked:
	case outside, taken:
		return
	}
	e.state = outside
	p.waiting--
	p.ending()
}

// hold has Shutdown wait for a goroutine that is no worker, until release.
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
