package command

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/internal/settings"
)

// The phases of a command.
const (
	made    uint32 = iota // it can be changed
	started               // it cannot
	ended                 // the final outcome is known
)

// core is the part of a command that does not depend on the type of its result: how it is
// started, how its work runs, and how it ends.
//
// A command is settled before it ends: its result is decided and counted, once. Three
// goroutines can settle it: the one that runs the work, the timer of the timeout, and the one
// that sees the caller cancel. The first one settles the command, and runs the fallback and
// the hooks.
type core struct {
	entry // its job is the command itself
	ctx   runContext

	service   *Service
	timeout   time.Duration
	hookPanic func(*PanicError)
	bad       error         // the error in its arguments
	links     *links        // nil if it waits for no command
	retrying  *retrying     // nil without retries
	limit     *TimeoutError // the cause of the work's context when the timeout fires; nil without a timeout
	unwatch   func() bool   // stops watching the caller's context; may be nil

	phase    atomic.Uint32
	settled  atomic.Bool    // set under mu
	worked   bool           // it has a worker; read by the worker alone
	begun    bool           // the work may be running; guarded by mu
	fellBack bool           // the fallback ran; read when ended
	admitted bool           // ticket is set; guarded by mu
	ticket   breaker.Ticket // of an attempt that is not counted yet; guarded by mu

	mu   sync.Mutex
	done sync.WaitGroup // done at the end
	end  chan struct{}  // closed at the end; nil until it is needed; guarded by mu
	then []func()       // called at the end; guarded by mu

	failed error // of the work; read when ended
	err    error // of the final outcome; read when ended
}

// links are the commands for which a command waits.
type links struct {
	deps      []*core // guarded by waits and mu until the start
	blockedOn []*core // by a Get within the work; guarded by waits
	broken    error   // of the first dependency that failed; guarded by mu
}

// job is the part of a command that depends on the type of its result.
type job interface {
	bind() error
	attempt(ctx context.Context) error
	rescue(ctx context.Context, cause error) (ran bool, err error)
	verdict() error
	runHooks()
	work()
}

// make sets the fields that all commands have.
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

// check checks the arguments of the constructor.
func (c *core) check(noWork bool, deps []*core) {
	var bad problems
	if noWork {
		bad.say("the work is a nil function; pass a function")
	}
	if why := settings.Duration(c.timeout, "0 for no timeout"); why != "" {
		bad.say("Config.Timeout: %v %s", c.timeout, why)
	}
	if !c.service.made() {
		c.service = DefaultService()
		bad.say("Config.Service: the service was not made by NewService; pass one that was, or nil for the default service")
	}
	for i, d := range deps {
		if d == nil || d.job == nil {
			bad.say("dependency %d is nil, or was not made by New; pass a command that was", i+1)
		}
	}
	c.bad = bad.err()
}

// dependencies are the commands for which this one waits before its work.
func (c *core) dependencies() []*core {
	if c.links == nil {
		return nil
	}
	return c.links.deps
}

// runContext is the context of a start, which knows its command. It is part of the command,
// to avoid an allocation.
type runContext struct {
	context.Context //nolint:containedctx // it is a context
	of              *core
}

type runKey struct{}

// Value returns the command for runKey, and the values of the caller's context.
func (r *runContext) Value(key any) any {
	if key == (runKey{}) {
		return r.of
	}
	return r.Context.Value(key)
}

// runningIn returns the command whose work has ctx, if any.
func runningIn(ctx context.Context) *core {
	c, _ := ctx.Value(runKey{}).(*core)
	return c
}

// start begins the command, once.
func (c *core) start(ctx context.Context, r *retrying, here bool) error {
	switch {
	case c.job == nil:
		return invalid("Start: the command was not made by New; make it with New")
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

// startHere waits for the dependencies and runs the work, in the calling goroutine.
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

// startPooled makes the pool run the work when the dependencies have ended.
func (c *core) startPooled(ctx context.Context) {
	if ctx.Err() != nil {
		c.canceled() //nolint:contextcheck // the context is in c.ctx
		return
	}
	deps := c.dependencies()
	startAll(ctx, deps)
	if ctx.Done() != nil {
		c.unwatch = context.AfterFunc(ctx, c.canceled)
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

// begin reports whether the work may begin: not if the command is settled.
func (c *core) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begun = !c.settled.Load()
	return c.begun
}

// reject ends a command that found no free slot. The policy Discard counts nothing, as in
// the gem.
func (c *core) reject(v verdict) {
	r, why := breaker.Rejection, Full
	switch v { //nolint:exhaustive // the others are not rejections
	case closed:
		why = Shutdown
	case discarded:
		r, why = breaker.Ignored, Discarded
	}
	c.finish(r, &RejectedError{c.service.name, why})
}

// startAll starts the commands that are not started yet.
func startAll(ctx context.Context, deps []*core) {
	for _, d := range deps {
		_ = d.start(ctx, nil, false) // it may be started already
	}
}

// whenAllEnded calls f when all deps have succeeded, and when one has failed.
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

// breakLinks keeps the first failure of a dependency.
func (c *core) breakLinks(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.links.broken == nil {
		c.links.broken = err
	}
}

// gathered reads the values of the dependencies. If one has failed the others may not have
// ended.
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

// waitForAll waits until all deps have succeeded, one has failed, or ctx has ended. It
// returns an error if the wait would never end.
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

// whenEnded calls f when the command has ended, immediately if it has.
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

// execute runs the work, counts its result and ends the command, unless the command has
// ended meanwhile. If watched is set, the timeout and the caller end it even while the work
// continues.
func (c *core) execute(watched bool) {
	returned := false
	defer func() {
		if !returned { // the work called runtime.Goexit
			c.finish(breaker.Failure, newPanicError(Goexit))
		}
	}()
	r, err := c.layers(watched)
	returned = true
	c.finish(r, err)
}

// finish settles and ends the command, if it is not settled. It is called by the goroutine
// that runs the command.
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

// settle decides the result of the work and counts it. It returns false if the command was
// settled before.
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
		r, err = p.result, p.err // the caller canceled during the wait after an attempt
	}
	c.mu.Unlock()
	c.count(ticket, admitted, r, err)
	return true
}

// takeTicket returns the ticket, for counting the attempt, and removes it. The caller holds
// mu.
func (c *core) takeTicket() (breaker.Ticket, bool) {
	admitted := c.admitted
	c.admitted = false
	return c.ticket, admitted
}

// count adds one to the counter of r: by the ticket, if there is one.
func (c *core) count(ticket breaker.Ticket, admitted bool, r breaker.Result, err error) {
	defer func() {
		if p := recover(); p != nil { // of OnStateChange; r has been counted
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

// conclude runs the fallback if it is needed, publishes the outcome, and runs the hooks. If
// holding is set the calling goroutine is a worker that holds the command's slot, which it
// releases before it publishes the outcome.
func (c *core) conclude(holding bool) {
	c.err = c.failed
	known := false
	defer func() {
		if !known { // the fallback called runtime.Goexit
			c.fellBack, c.err = true, newPanicError(Goexit)
			c.publish(holding)
			c.job.runHooks()
		}
	}()
	if c.failed != nil && !c.abandoned() {
		c.fellBack, c.err = c.job.rescue(&c.ctx, c.failed)
	}
	known = true
	c.publish(holding)
	c.job.runHooks()
}

// publish makes the outcome visible, after all state that it implies.
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

// nilContext is the end of the errors about a nil context.
const nilContext = "the context is nil; pass context.Background() if there is none"

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
	if ctx.Done() == nil { // cheaper than a channel
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

// whenDone returns a channel that is closed when the command has ended.
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
