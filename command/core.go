package command

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pillion-go/pillion/breaker"
)

// The phases of a command.
const (
	made    uint32 = iota // it can still be changed
	started               // it is under way
	ended                 // the final outcome is known
)

// core is what of a command has nothing to do with its result's type: how it is
// started, how its work is run, and how it ends.
//
// A command is settled before it ends: then what the work came to is decided and
// counted, once, by whoever is first: who ran it, the timer of its limit, or the caller's
// cancellation. The one that settled it runs the fallback and the hooks.
type core struct {
	entry // its job is the command itself
	ctx   runContext

	service   *Service
	timeout   time.Duration
	hookPanic func(*PanicError)
	bad       error         // what is wrong with how it was made
	links     *links        // nil if it waits for none
	retrying  *retrying     // nil without retries
	limit     *TimeoutError // what the work's context ends with at the limit; nil without one
	unwatch   func() bool   // stops watching the caller's context; may be nil

	phase    atomic.Uint32
	settled  atomic.Bool    // set under mu
	worked   bool           // a worker has it; read by the worker alone
	begun    bool           // the work may be running; guarded by mu
	fellBack bool           // the fallback ran; read when ended
	admitted bool           // there is a ticket; guarded by mu
	ticket   breaker.Ticket // of an attempt that is to be counted yet; guarded by mu

	mu   sync.Mutex
	done sync.WaitGroup // of the end
	end  chan struct{}  // closed at the end; nil while nobody needs it; guarded by mu
	then []func()       // called at the end; guarded by mu

	failed error // of the work; read when ended
	err    error // of the final outcome; read when ended
}

// links are the commands that one waits for.
type links struct {
	deps      []*core // guarded by waits and mu until the start
	blockedOn []*core // by a Get within the work; guarded by waits
	broken    error   // what the first dependency failed with that did; guarded by mu
}

// job is the part of a command that knows the result's type.
type job interface {
	bind() error
	attempt(ctx context.Context) error
	rescue(ctx context.Context, cause error) (ran bool, err error)
	verdict() error
	tell()
	work()
}

// make fills in what all commands have.
func (c *core) make(j job, cfg Config, noWork bool, deps ...*core) {
	c.job = j
	c.service, c.timeout, c.hookPanic = cfg.Service, cfg.Timeout, cfg.HookPanic
	if c.service == nil {
		c.service = DefaultService()
	}
	c.check(noWork, deps)
	if len(deps) > 0 {
		c.links = &links{deps: deps}
	}
}

// check finds what is wrong with how the command was made.
func (c *core) check(noWork bool, deps []*core) {
	var bad problems
	if noWork {
		bad.say("the work is a nil function: pass a function")
	}
	switch {
	case c.timeout < 0:
		bad.say("Config.Timeout: %v is negative: write a duration such as 5*time.Second, or 0 for no limit", c.timeout)
	case c.timeout > 0 && c.timeout < time.Millisecond:
		bad.say("Config.Timeout: %v is below a millisecond, did you forget the unit? Write a duration such as 5*time.Second, or 0 for no limit", c.timeout)
	}
	if !c.service.made() {
		c.service = DefaultService()
		bad.say("Config.Service: the service was not made by NewService: pass one that was, or nil for the default service")
	}
	for i, d := range deps {
		if d == nil || d.job == nil {
			bad.say("dependency %d is nil, or was not made by New: pass a command that was", i+1)
		}
	}
	c.bad = bad.err()
}

// dependencies are what the command waits for before its work.
func (c *core) dependencies() []*core {
	if c.links == nil {
		return nil
	}
	return c.links.deps
}

// runContext is the context of a start, that knows which command it is for. It is
// part of the command, to spare an allocation.
type runContext struct {
	context.Context //nolint:containedctx // it is one
	of              *core
}

type runKey struct{}

// Value gives the command, beside what the caller's context has.
func (r *runContext) Value(key any) any {
	if key == (runKey{}) {
		return r.of
	}
	return r.Context.Value(key)
}

// runningIn is the command whose work ctx was given to, if any.
func runningIn(ctx context.Context) *core {
	c, _ := ctx.Value(runKey{}).(*core)
	return c
}

// start begins the command, once.
func (c *core) start(ctx context.Context, r *retrying, here bool) error {
	switch {
	case c.job == nil:
		return invalid("the command was not made by New: make it so")
	case ctx == nil:
		return invalid("Start: %s", nilContext)
	}
	c.mu.Lock()
	if c.phase.Load() != made {
		c.mu.Unlock()
		return ErrAlreadyStarted
	}
	c.done.Add(1)
	c.phase.Store(started)
	c.mu.Unlock()
	c.ctx, c.retrying = runContext{ctx, c}, r
	switch {
	case c.bad != nil:
		c.finish(breaker.Failure, c.bad) //nolint:contextcheck // the context is in c.ctx
	case here:
		c.startHere(ctx, false)
	default:
		c.startPooled(ctx)
	}
	return nil
}

// startHere waits for the dependencies and does the work, in the calling goroutine.
func (c *core) startHere(ctx context.Context, watched bool) {
	if deps := c.dependencies(); len(deps) > 0 && ctx.Err() == nil {
		startAll(ctx, deps)
		if err := c.waitForAll(ctx, deps); err != nil {
			c.finish(breaker.Failure, err) //nolint:contextcheck // the context is in c.ctx
			return
		}
	}
	c.execute(watched) //nolint:contextcheck // the context is in c.ctx
}

// startPooled has the pool do the work, when the dependencies have ended.
func (c *core) startPooled(ctx context.Context) {
	if ctx.Err() != nil {
		c.cancelled() //nolint:contextcheck // the context is in c.ctx
		return
	}
	deps := c.dependencies()
	startAll(ctx, deps)
	if ctx.Done() != nil {
		c.unwatch = context.AfterFunc(ctx, c.cancelled)
	}
	pool := c.service.pool
	switch v := pool.enter(&c.entry, len(deps) == 0); v {
	case accepted:
		if len(deps) > 0 {
			c.whenAllEnded(deps, func() { pool.ready(&c.entry) })
		}
		if settled, begun := c.state(); settled { // canceled before it had a slot to leave
			pool.leave(&c.entry, begun)
		}
	case yours:
		defer pool.release()
		c.startHere(ctx, true)
	case full, closed, discarded:
		c.reject(v) //nolint:contextcheck // the context is in c.ctx
	}
}

// state reports whether the command is settled, and whether its work may be running.
func (c *core) state() (settled, begun bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.settled.Load(), c.begun
}

// begin reports whether the work may begin. A command that was settled before has ended.
func (c *core) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begun = !c.settled.Load()
	return c.begun
}

// reject ends a command that found no slot. The discard policy counts nothing, as
// in the gem.
func (c *core) reject(v verdict) {
	r, why := breaker.Rejection, Full
	switch v { //nolint:exhaustive // the others are no rejections
	case closed:
		why = Shutdown
	case discarded:
		r, why = breaker.Ignored, Discarded
	}
	c.finish(r, &RejectedError{c.service.name, why})
}

// startAll starts those that are not yet.
func startAll(ctx context.Context, deps []*core) {
	for _, d := range deps {
		_ = d.start(ctx, nil, false) // another may have been first
	}
}

// whenAllEnded calls f when all have ended well, and when one has failed.
func (c *core) whenAllEnded(deps []*core, f func()) {
	var left atomic.Int64
	left.Store(int64(len(deps)))
	for _, d := range deps {
		d.whenEnded(func() {
			err := d.job.verdict()
			if err != nil {
				c.breakLinks(err)
			}
			if left.Add(-1) == 0 || err != nil {
				f()
			}
		})
	}
}

// breakLinks remembers the first failure of a dependency.
func (c *core) breakLinks(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.links.broken == nil {
		c.links.broken = err
	}
}

// gathered takes what the dependencies gave. If one has failed the others may not
// have ended.
func (c *core) gathered() error {
	if len(c.dependencies()) > 0 {
		c.mu.Lock()
		err := c.links.broken
		c.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return c.job.bind()
}

// waitForAll waits until all have ended well, one has failed, or ctx has ended. It
// fails only where the wait would have no end.
func (c *core) waitForAll(ctx context.Context, deps []*core) error {
	if outer := runningIn(ctx); outer != nil {
		if err := outer.await(c); err != nil {
			return err
		}
		defer outer.awaited(c)
	}
	ready := make(chan struct{})
	var once sync.Once
	c.whenAllEnded(deps, func() { once.Do(func() { close(ready) }) })
	select {
	case <-ready:
	case <-ctx.Done():
	}
	return nil
}

// whenEnded calls f when the command has ended, at once if it has.
func (c *core) whenEnded(f func()) {
	c.mu.Lock()
	if c.phase.Load() == ended {
		c.mu.Unlock()
		f()
		return
	}
	c.then = append(c.then, f)
	c.mu.Unlock()
}

// execute does the work, counts its result, and ends the command, unless it was ended
// meanwhile. If watched is set the limit and the caller end it even while the work goes on.
func (c *core) execute(watched bool) {
	returned := false
	defer func() {
		if !returned { // the work ended the goroutine
			c.finish(breaker.Failure, newPanicError(Goexit))
		}
	}()
	r, err := c.layers(watched)
	returned = true
	c.finish(r, err)
}

// finish settles and ends the command, if it is not settled. The goroutine that runs the
// command calls it.
func (c *core) finish(r breaker.Result, err error) {
	if !c.settle(r, err) {
		reportLate(err)
		return
	}
	if c.unwatch != nil {
		c.unwatch()
	}
	c.conclude(c.worked)
}

// settle decides what the work came to, and counts it. It is false if that has been
// done.
func (c *core) settle(r breaker.Result, err error) bool {
	c.mu.Lock()
	if c.settled.Load() {
		c.mu.Unlock()
		return false
	}
	c.settled.Store(true)
	c.failed = err
	ticket, admitted := c.takeTicket()
	if p := c.retrying; p != nil && p.waiting && r == breaker.Ignored {
		r, err = p.result, p.err // the caller went away in the wait after an attempt
	}
	c.mu.Unlock()
	c.count(ticket, admitted, r, err)
	return true
}

// takeTicket gives the ticket to whoever counts the attempt. The caller holds mu.
func (c *core) takeTicket() (breaker.Ticket, bool) {
	admitted := c.admitted
	c.admitted = false
	return c.ticket, admitted
}

// count adds one r to the counters: by the ticket, if the breaker gave one.
func (c *core) count(ticket breaker.Ticket, admitted bool, r breaker.Result, err error) {
	defer func() {
		if p := recover(); p != nil { // the counting is done
			c.report(ofStateChange, newPanicError(p))
		}
	}()
	switch {
	case admitted:
		ticket.Done(r, err)
	case r != breaker.Ignored:
		c.service.Record(r)
	}
}

// conclude runs the fallback if one is needed, makes the outcome known, and runs the
// hooks. If holding is set the calling goroutine is a worker that holds the command's slot:
// it releases the slot before the outcome is known.
func (c *core) conclude(holding bool) {
	c.err = c.failed
	known := false
	defer func() {
		if !known { // the fallback ended the goroutine
			c.fellBack, c.err = true, newPanicError(Goexit)
			c.publish(holding)
			c.job.tell()
		}
	}()
	if c.failed != nil && !c.abandoned() {
		c.fellBack, c.err = c.job.rescue(&c.ctx, c.failed)
	}
	known = true
	c.publish(holding)
	c.job.tell()
}

// publish makes the outcome known, after all state that it implies is in place.
func (c *core) publish(holding bool) {
	if holding {
		c.service.pool.finished(&c.entry)
	}
	c.mu.Lock()
	c.phase.Store(ended)
	if c.end != nil {
		close(c.end)
	}
	then := c.then
	c.then = nil
	c.mu.Unlock()
	c.done.Done()
	for _, f := range then {
		f()
	}
}

// nilContext says what is wrong with a context.
const nilContext = "the context is nil: pass context.Background() if there is none"

// wait waits until the command has ended, or ctx has.
func (c *core) wait(ctx context.Context) error {
	if ctx == nil {
		return invalid("Get, Wait: %s", nilContext)
	}
	switch c.phase.Load() {
	case made:
		return ErrNotStarted
	case ended:
		return nil
	}
	if outer := runningIn(ctx); outer != nil {
		if err := outer.await(c); err != nil {
			return err
		}
		defer outer.awaited(c)
	}
	if ctx.Done() == nil { // the cheaper way
		c.done.Wait()
		return nil
	}
	select {
	case <-c.whenDone():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// whenDone is closed when the command has ended.
func (c *core) whenDone() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end == nil {
		c.end = make(chan struct{})
		if c.phase.Load() == ended {
			close(c.end)
		}
	}
	return c.end
}
