package command

import (
	"encoding/json"
	"iter"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pillion-go/pillion/breaker"
)

// conduct says for each documented difference whether a world behaves like this package or
// like the gem. docs/expeditor.md describes the differences.
type conduct struct {
	secondStart     bool   // a second start reports that it is one
	zeroTries       bool   // tries: 0 are the default
	raisingSleep    bool   // an error of the wait ends the command, whatever is retried
	raisingHook     bool   // a hook that raises does not come out of the start
	sixthDependency bool   // all dependencies are watched, not five at a time
	dyingDependency bool   // an error outside StandardError fails the parent too
	ownFallback     bool   // a fallback runs where the command ended, and needs no slot
	discard         bool   // a command that is discarded ends
	parked          bool   // waiting for dependencies needs no thread
	shutdown        bool   // after a shutdown all is rejected, whatever the overflow policy
	freePool        bool   // a pool whose caller runs a command is not locked meanwhile
	refusalText     bool   // the text of a refusal is the breaker's
	startedFirst    bool   // a command is started before its dependencies are
	patientGet      bool   // get waits for the fallback where fallbacks are switched off
	order           uint64 // chooses which of several processes goes on; 0 for the first
	oneClock        bool   // delays, limits and the breaker go by one clock; the recorder's are two
}

// failure is an error in a world.
type failure struct {
	kind  string
	msg   string // empty for the text of an error that is the gem's own
	inner *failure
	limit bool // it ends the work by force
}

// standard reports whether it is a StandardError.
func (f *failure) standard() bool { return f.kind != "fatal" }

// is reports whether it is of a kind, as in a list of retryable.
func (f *failure) is(kind string) bool {
	switch kind {
	case "any":
		return true
	case "standard":
		return f.standard()
	case "A":
		return f.kind == "A" || f.kind == "A1"
	}
	return f.kind == kind
}

// expect is what a trace shows of the failure.
func (f *failure) expect() *expectation {
	e := &expectation{Error: f.kind, Msg: f.msg}
	if f.inner != nil {
		e.Inner = f.inner.expect()
	}
	return e
}

// dependencyOn is the error of a command whose dependency failed with f.
func dependencyOn(f *failure) *failure {
	return &failure{kind: "dependency", msg: f.msg, inner: f}
}

// world plays a trace without the code under test. One process runs at a time, until it waits.
type world struct {
	trace    *trace
	as       conduct
	procs    []*process
	real     time.Duration // of sleeps and limits
	fake     time.Duration // of the breaker
	services map[string]*worldService
	commands map[string]*worldCommand
	gates    map[string]bool
	log      []any
	ends     int        // how many ends there were, of works and of commands
	delays   int        // how many waits between attempts are under way on the one clock
	chance   *rand.Rand // of what goes on next; nil for none
}

// process is a thread. It has its own stack, but runs only when the world lets it.
type process struct {
	world     *world
	resume    func() (struct{}, bool)
	stop      func()
	yield     func(struct{}) bool
	ready     func() bool
	until     time.Duration // of a sleep; zero for none
	interrupt *failure
	done      bool
}

// stopped ends a process whose world has ended.
type stopped struct{}

func (w *world) spawn(f func(p *process)) *process {
	p := &process{world: w}
	p.resume, p.stop = iter.Pull(func(yield func(struct{}) bool) {
		defer func() {
			if v := recover(); v != nil && v != any(stopped{}) {
				panic(v)
			}
		}()
		p.yield = yield
		f(p)
	})
	w.procs = append(w.procs, p)
	return p
}

// wait waits until ready, or until the process is interrupted.
func (p *process) wait(ready func() bool) *failure {
	for !ready() {
		if f := p.interrupt; f != nil {
			p.interrupt = nil
			return f
		}
		p.ready = ready
		if !p.yield(struct{}{}) {
			panic(stopped{})
		}
	}
	return nil
}

// letOthers lets other processes run first, in a world with random order.
func (w *world) letOthers(p *process) {
	first := w.chance != nil
	_ = p.wait(func() bool {
		was := first
		first = false
		return !was
	})
}

func (p *process) sleep(d time.Duration) *failure {
	end := p.world.real + d
	p.until = end
	defer func() { p.until = 0 }()
	return p.wait(func() bool { return p.world.real >= end })
}

// step lets the first process run that can. It returns false if none can.
func (w *world) step() bool {
	w.procs = slices.DeleteFunc(w.procs, func(p *process) bool { return p.done })
	var able []*process
	for _, p := range w.procs {
		if p.ready == nil || p.interrupt != nil || p.ready() {
			able = append(able, p)
		}
	}
	if len(able) == 0 {
		return false
	}
	p := able[0]
	if w.chance != nil {
		p = able[w.chance.IntN(len(able))]
	}
	p.ready = never
	_, more := p.resume()
	p.done = !more
	return true
}

// run lets all processes run for a time, or until over returns true. It returns over's result.
func (w *world) run(d time.Duration, over func() bool) bool {
	for end := w.real + d; ; {
		for !over() {
			if !w.step() {
				break
			}
		}
		next := end + 1
		for _, p := range w.procs {
			if p.until > w.real {
				next = min(next, p.until)
			}
		}
		if over() || next > end {
			return over()
		}
		w.real = next
	}
}

func never() bool { return false }

// quiet lets all processes run that can run without time passing.
func (w *world) quiet() { w.run(0, never) }

// now is the breaker's clock.
func (w *world) now() time.Duration {
	if w.as.oneClock {
		return w.real
	}
	return w.fake
}

// advance makes time pass on the breaker's clock.
func (w *world) advance(p *process, d time.Duration) *failure {
	if w.as.oneClock {
		return p.sleep(d)
	}
	w.fake += d
	return nil
}

func (w *world) note(entry ...any) { w.log = append(w.log, normal(entry)) }

// worldPool is a thread pool like that of concurrent-ruby.
type worldPool struct {
	world      *world
	max, limit int // threads, and the queue's length; 0 for no bound
	overflow   Overflow
	busy       int
	parked     int // that hold a slot, but cannot run yet
	queue      []func(p *process)
	shut       bool
	owner      *process // the process that runs a command within the pool's lock
}

func (o *worldPool) full() bool {
	return o.max > 0 && o.limit > 0 && o.busy+len(o.queue)+o.parked >= o.max+o.limit
}

func (o *worldPool) lock(p *process) *failure {
	if o.world.as.freePool {
		return nil
	}
	return p.wait(func() bool { return o.owner == nil || o.owner == p })
}

// post gives the pool a task. Its failure is a rejection; gone is set if the task is
// discarded.
func (o *worldPool) post(p *process, task func(p *process)) (rejected *failure, gone bool) {
	if f := o.lock(p); f != nil {
		return f, false
	}
	if !o.shut && !o.full() {
		o.dispatch(task)
		return nil, false
	}
	return o.refuse(p, task)
}

func (o *worldPool) refuse(p *process, task func(p *process)) (rejected *failure, gone bool) {
	switch {
	case o.shut && o.world.as.shutdown, o.overflow == Abort:
		return &failure{kind: "rejection"}, false
	case o.overflow == Discard && o.world.as.discard:
		return &failure{kind: "rejection"}, true
	case o.overflow == Discard:
		return nil, true
	}
	was := o.owner
	o.owner = p
	task(p)
	o.owner = was
	return nil, false
}

func (o *worldPool) dispatch(task func(p *process)) {
	if o.max > 0 && o.busy >= o.max {
		o.queue = append(o.queue, task)
		return
	}
	o.busy++
	o.world.spawn(func(p *process) {
		for task != nil {
			task(p)
			_ = o.lock(p)
			if task = nil; len(o.queue) > 0 {
				task, o.queue = o.queue[0], o.queue[1:]
			}
		}
		o.busy--
	})
}

// worldService is a service with the gem's breaker.
type worldService struct {
	*modelService
	world    *world
	counts   bool
	fallback bool
	pool     *worldPool
}

func (w *world) newService(s traceService) *worldService {
	cfg := ServiceConfig{Threshold: breaker.DefaultThreshold, NonBreakCount: breaker.DefaultNonBreakCount, Period: breaker.DefaultPeriod, Sleep: breaker.DefaultSleep}
	if s.Threshold != nil {
		cfg.Threshold = *s.Threshold
	}
	if s.NonBreakCount != nil {
		cfg.NonBreakCount = max(*s.NonBreakCount, 1)
	}
	if s.SleepUS != nil {
		cfg.Sleep = time.Duration(*s.SleepUS) * time.Microsecond
	}
	if s.PeriodUS != nil {
		cfg.Period = time.Duration(*s.PeriodUS) * time.Microsecond
	}
	o := &worldPool{world: w}
	if s.Pool != nil {
		o.max, o.limit, o.overflow = s.Pool.MaxThreads, s.Pool.MaxQueue, s.Pool.Overflow
	}
	return &worldService{
		modelService: &modelService{planService: planService{cfg: cfg}},
		world:        w, counts: true, fallback: s.FallbackEnabled == nil || *s.FallbackEnabled, pool: o,
	}
}

// count counts how an attempt or a command ended.
func (s *worldService) count(f *failure) {
	r := breaker.Success
	if f != nil {
		r = map[string]breaker.Result{
			"timeout": breaker.Timeout, "rejection": breaker.Rejection, "break": breaker.Break, "dependency": breaker.Dependency,
		}[f.kind]
		if r == breaker.Success {
			r = breaker.Failure
		}
	}
	s.record(r)
}

func (s *worldService) record(r breaker.Result) {
	if s.counts {
		s.counted = append(s.counted, counted{s.world.now(), r})
	}
}

func (s *worldService) reset() { s.open, s.counted, s.grid = false, nil, s.world.now() }

// guard is run_if_allowed.
func (s *worldService) guard(p *process, f func(p *process) (any, *failure)) (any, *failure) {
	refusal := &failure{kind: "break"}
	now := s.world.now()
	switch {
	case !s.counts:
		return f(p)
	case s.open && now-s.since <= s.cfg.Sleep:
		return nil, refusal
	case s.open:
		s.since = now
		v, err := f(p)
		if err == nil {
			s.reset()
		}
		return v, err
	case s.tripping(now):
		s.open, s.since = true, now
		return nil, refusal
	}
	return f(p)
}

func (s *worldService) tripping(now time.Duration) bool {
	n := s.visible(now)
	volume, bad := n[breaker.Success]+n[breaker.Failure]+n[breaker.Timeout], n[breaker.Failure]+n[breaker.Timeout]
	return volume >= int64(s.cfg.NonBreakCount) && float64(bad)/float64(volume) >= s.cfg.Threshold
}

// worldCommand is a command of a trace.
type worldCommand struct {
	traceCommand
	world    *world
	service  *worldService
	deps     []*worldCommand
	verdicts map[*worldCommand]*failure // of those that have ended
	fallback []traceStep                // nil for none
	hooks    []traceAction
	retry    *traceRetry
	started  bool
	here     bool // in the process of the start
	attempts int

	settled bool // how the work ended is known
	value   any
	failed  *failure
	ended   bool // the final outcome is known, which may be the fallback's
	final   any
	err     *failure
	order   int // the number of its end among all
	since   int // the number of the last end before its dependencies were started
}

// start starts the command. Its failure comes out of the start.
func (c *worldCommand) start(p *process, retry *traceRetry, here bool) *failure {
	if c.started {
		if c.world.as.secondStart {
			return &failure{kind: "already_started"}
		}
		return nil
	}
	c.started, c.retry, c.here = c.world.as.startedFirst, retry, here
	for _, d := range c.deps {
		if f := d.start(p, nil, false); f != nil && f.kind != "already_started" {
			return f
		}
		c.world.letOthers(p)
	}
	if c.started && !c.world.as.startedFirst {
		return nil // by another start, while this one started the dependencies
	}
	c.started, c.since = true, c.world.ends
	switch {
	case here:
		return c.startHere(p)
	case c.world.as.parked && len(c.deps) > 0:
		return c.park(p)
	}
	return c.queue(p, func(p *process) { _ = c.execute(p) })
}

// startHere runs everything in the process of the start. If a hook raises, the start sets a
// future that is set already.
func (c *worldCommand) startHere(p *process) *failure {
	if f := c.execute(p); f != nil && !c.world.as.raisingHook {
		return &failure{kind: "multiple_assignment"}
	}
	return nil
}

// queue gives the pool a task. A rejection is the command's result, and its hooks run in the
// start.
func (c *worldCommand) queue(p *process, task func(p *process)) *failure {
	rejected, gone := c.service.pool.post(p, task)
	if rejected == nil {
		return nil
	}
	if f := c.settle(p, nil, rejected, !gone); f != nil && !c.world.as.raisingHook {
		return f
	}
	return nil
}

// park takes a slot, and takes a thread only when the dependencies have ended.
func (c *worldCommand) park(p *process) *failure {
	o := c.service.pool
	if o.shut || o.full() {
		return c.queue(p, func(p *process) { _ = c.execute(p) })
	}
	o.parked++
	c.world.spawn(func(p *process) {
		_ = p.wait(c.resolved)
		o.parked--
		o.dispatch(func(p *process) { _ = c.execute(p) })
	})
	return nil
}

// resolved reports whether all dependencies have succeeded, or one has failed.
func (c *worldCommand) resolved() bool {
	return c.broken() != nil || !slices.ContainsFunc(c.deps, func(d *worldCommand) bool { return !d.known() })
}

// known reports whether get has its result, or knows that it is the fallback's.
func (c *worldCommand) known() bool {
	if c.world.as.patientGet {
		return c.ended
	}
	return c.settled
}

// broken is the error of the dependency that failed first, if one did. It is the error that
// each had when it ended.
func (c *worldCommand) broken() (f *failure) {
	first := 0
	for _, d := range c.deps {
		if !d.known() {
			continue
		}
		if _, seen := c.verdicts[d]; !seen {
			_, c.verdicts[d] = d.outcome()
		}
		if at := max(d.order, c.since, 1); c.verdicts[d] != nil && (first == 0 || at < first) {
			f, first = c.verdicts[d], at
		}
	}
	return f
}

// outcome is what get returns for a command whose result is known.
func (c *worldCommand) outcome() (any, *failure) {
	switch {
	case c.failed == nil:
		return c.value, nil
	case c.fallback != nil && c.service.fallback:
		return c.final, c.err
	}
	return nil, c.failed
}

// get waits for the outcome.
func (c *worldCommand) get(p *process) (any, *failure) {
	if !c.started {
		return nil, &failure{kind: "not_started"}
	}
	if f := p.wait(c.known); f != nil {
		return nil, f
	}
	if c.world.as.patientGet || c.failed == nil || c.fallback == nil || !c.service.fallback {
		return c.outcome()
	}
	if f := p.wait(func() bool { return c.ended }); f != nil {
		return nil, f
	}
	return c.final, c.err // even if fallbacks have been switched off since
}

// execute runs the command in a thread. Its failure is that of a hook.
func (c *worldCommand) execute(p *process) *failure {
	var v any
	args, f := c.gather(p)
	if f == nil {
		v, f = c.limited(p, args)
	}
	return c.settle(p, v, f, true)
}

// gather waits for the dependencies and collects their values.
func (c *worldCommand) gather(p *process) ([]any, *failure) {
	if len(c.deps) == 0 {
		return nil, nil
	}
	if c.world.as.sixthDependency && c.world.as.dyingDependency && c.world.as.parked {
		_ = p.wait(c.resolved)
		if f := c.broken(); f != nil {
			return nil, dependencyOn(f)
		}
	}
	g := &gathering{command: c, parent: p, args: make([]any, len(c.deps)), have: make([]bool, len(c.deps))}
	waiters := 5
	if c.world.as.sixthDependency {
		waiters = len(c.deps)
	}
	for range min(waiters, len(c.deps)) {
		c.world.spawn(g.collect)
	}
	if f := p.wait(func() bool { return g.collected == len(c.deps) }); f != nil {
		return nil, f
	}
	return g.values(), nil
}

// gathering is the wait of a command for its dependencies.
type gathering struct {
	command   *worldCommand
	parent    *process
	args      []any
	have      []bool
	next      int
	collected int
	broken    bool
}

// collect gets one dependency after the other. The first failure interrupts the parent; a
// failure outside StandardError is not seen.
func (g *gathering) collect(p *process) {
	for g.next < len(g.args) {
		i := g.next
		g.next++
		v, f := g.command.deps[i].get(p)
		switch {
		case f == nil:
			g.args[i], g.have[i] = v, true
		case f.standard() || g.command.world.as.dyingDependency:
			if !g.broken {
				g.broken, g.parent.interrupt = true, dependencyOn(f)
			}
			continue // the parent does not wait for the rest
		}
		g.collected++
	}
}

// values are the arguments, up to the last one that exists.
func (g *gathering) values() []any {
	n := len(g.args)
	for n > 0 && !g.have[n-1] {
		n--
	}
	return g.args[:n]
}

// limited runs the work within the command's timeout.
func (c *worldCommand) limited(p *process, args []any) (v any, f *failure) {
	if c.TimeoutMS == 0 {
		return c.retried(p, args)
	}
	over := false
	c.world.spawn(func(timer *process) {
		if timer.sleep(time.Duration(c.TimeoutMS) * time.Millisecond); !over {
			p.interrupt = &failure{kind: "timeout", limit: true}
		}
	})
	v, f = c.retried(p, args)
	over, p.interrupt = true, nil
	return v, f
}

// retried makes attempts, as retryable does.
func (c *worldCommand) retried(p *process, args []any) (any, *failure) {
	r := c.retry
	if r == nil {
		return c.attempt(p, args)
	}
	if r.Bogus {
		return nil, &failure{kind: "argument"}
	}
	tries := c.tries()
	if tries == 0 {
		return nil, nil
	}
	retries := 0
	defer func() {
		if r.CB {
			c.world.note("ensure", c.ID, retries)
		}
	}()
	for {
		v, f := c.attempt(p, args)
		if f == nil || f.limit || !c.again(f) || tries > 0 && retries+1 >= tries {
			return v, f
		}
		if end := c.delay(p, retries); end != nil {
			return nil, end
		}
		retries++
		if r.CB {
			c.world.note("exception_cb", c.ID, f.kind)
			c.world.note("log_method", c.ID, retries, f.kind)
		}
		c.service.count(f)
	}
}

// tries is the number of attempts; negative means no bound.
func (c *worldCommand) tries() int {
	switch text := string(c.retry.Tries); {
	case text == "", text == "0" && c.world.as.zeroTries:
		return 2
	case text == `"infinite"`:
		return -1
	default:
		n := 0
		_ = json.Unmarshal([]byte(text), &n)
		return n
	}
}

// retries reports whether the class of a failure is retried.
func (c *worldCommand) retries(f *failure) bool {
	among := func(list words) bool { return slices.ContainsFunc(list, f.is) }
	return !among(c.retry.Not) && (c.retry.On == nil && f.standard() || among(c.retry.On))
}

// again reports whether a failure is retried, by its class and its text.
func (c *worldCommand) again(f *failure) bool {
	if !c.retries(f) || c.retry.Matching == nil {
		return c.retries(f)
	}
	text := f.msg
	if f.kind == "break" && text == "" {
		if text = gemsRefusal; c.world.as.refusalText {
			text = breaker.ErrOpen.Error()
		}
	}
	var expression struct{ Regexp string }
	if json.Unmarshal(c.retry.Matching, &expression) == nil {
		return regexp.MustCompile(expression.Regexp).MatchString(text)
	}
	var list words
	_ = json.Unmarshal(c.retry.Matching, &list)
	return slices.ContainsFunc(list, func(s string) bool { return strings.Contains(text, s) })
}

// delay is the wait before the next attempt. Its failure ends the attempts.
func (c *worldCommand) delay(p *process, retries int) *failure {
	d := c.pause(retries)
	if c.retry.RealSleep {
		return p.sleep(d)
	}
	c.world.note("delay", c.ID, d.Microseconds())
	if c.retry.SleepRaises {
		f := &failure{kind: "A", msg: "a failed"}
		if c.world.as.raisingSleep || !c.retries(f) {
			return f
		}
	}
	c.world.delays++
	defer func() { c.world.delays-- }()
	return c.world.advance(p, d)
}

func (c *worldCommand) pause(retries int) time.Duration {
	switch string(c.retry.Sleep) {
	case "":
		return time.Second
	case `"linear"`:
		return time.Duration(retries+1) * 100 * time.Millisecond
	case `"pow2"`:
		return 100 * time.Millisecond << retries
	}
	var n int64
	_ = json.Unmarshal(c.retry.Sleep, &n)
	return time.Duration(n) * time.Millisecond
}

// attempt runs the work once, if the breaker admits it.
func (c *worldCommand) attempt(p *process, args []any) (any, *failure) {
	return c.service.guard(p, func(p *process) (any, *failure) {
		c.attempts++
		entry := []any{"attempt", c.ID, c.attempts}
		if c.LogArgs {
			entry = append(entry, append([]any{}, args...))
		}
		c.world.note(entry...)
		c.world.letOthers(p)
		return c.world.steps(p, c.Body[min(c.attempts, len(c.Body))-1], args, nil)
	})
}

// settle records how the work ended: it counts the result, and then the fallback runs, if
// there is one. It returns the failure of a hook.
func (c *worldCommand) settle(p *process, v any, f *failure, counts bool) *failure {
	c.world.ends++
	c.settled, c.value, c.failed, c.order = true, v, f, c.world.ends
	if counts {
		c.service.count(f)
	}
	if f == nil || c.fallback == nil {
		return c.publish(v, f)
	}
	rescue := func(p *process) {
		c.world.note("fallback", c.ID, f.kind)
		v, err := c.world.steps(p, c.fallback, nil, f)
		_ = c.publish(v, err)
	}
	if c.world.as.ownFallback || c.here {
		rescue(p)
		return nil
	}
	_, _ = c.service.pool.post(p, rescue) // a rejection of it is seen by none
	return nil
}

// publish publishes the final outcome and runs the hooks, up to the first that raises.
func (c *worldCommand) publish(v any, f *failure) *failure {
	c.world.ends++
	c.ended, c.final, c.err, c.order = true, v, f, c.world.ends
	for _, h := range c.hooks {
		if f := c.tell(h); f != nil {
			return f
		}
	}
	return nil
}

func (c *worldCommand) tell(h traceAction) *failure {
	switch {
	case h.Hook == "success" && c.err == nil:
		c.world.note("hook", c.ID, h.Name, c.final)
	case h.Hook == "failure" && c.err != nil:
		c.world.note("hook", c.ID, h.Name, c.err.kind)
	case h.Hook == "complete" && c.err == nil:
		c.world.note("hook", c.ID, h.Name, true, c.final, nil)
	case h.Hook == "complete":
		c.world.note("hook", c.ID, h.Name, false, nil, c.err.kind)
	default:
		return nil
	}
	if h.Raises {
		return &failure{kind: "B", msg: "ErrB"}
	}
	return nil
}

// gemsRefusal is the text of a refusal in the gem: the name of its class.
const gemsRefusal = "Expeditor::CircuitBreakError"

// steps performs the steps of a body or a fallback.
func (w *world) steps(p *process, steps []traceStep, args []any, cause *failure) (any, *failure) {
	for _, s := range steps {
		switch {
		case s.Ret != nil:
			return decode(s.Ret), nil
		case s.Raise == "dependency":
			return nil, dependencyOn(&failure{kind: "B", msg: "inner"})
		case s.Raise != "":
			return nil, &failure{kind: s.Raise, msg: raised(s.Raise, s.Msg).msg}
		case s.Reraise:
			return nil, cause
		case s.Args:
			return args, nil
		case s.Sum || s.Add != 0:
			sum := s.Add
			for _, a := range args {
				sum += a.(float64)
			}
			return sum, nil
		}
		if f := w.pass(p, s, args, cause); f != nil {
			return nil, f
		}
	}
	return nil, nil
}

// pass performs a step that others follow.
func (w *world) pass(p *process, s traceStep, args []any, cause *failure) *failure {
	switch {
	case s.Gate != "":
		return p.wait(func() bool { return w.gates[s.Gate] })
	case s.Open != "":
		w.gates[s.Open] = true
	case s.Hang:
		return p.wait(never)
	case s.Swallow != nil:
		if _, f := w.steps(p, s.Swallow, args, cause); f != nil && f.limit {
			return f
		}
	case s.SleepMS != 0:
		return p.sleep(time.Duration(s.SleepMS) * time.Millisecond)
	default:
		return w.advance(p, time.Duration(s.AdvanceUS)*time.Microsecond)
	}
	return nil
}

// play plays a trace and returns what is seen of each action, and the log.
func play(tr *trace, as conduct) (seen []*expectation, log []any) {
	w := &world{
		trace: tr, as: as, services: map[string]*worldService{}, commands: map[string]*worldCommand{}, gates: map[string]bool{},
	}
	if as.order > 0 {
		w.chance = rand.New(rand.NewPCG(as.order, 0))
	}
	for name, s := range tr.Services {
		w.services[name] = w.newService(s)
	}
	w.services[""] = w.newService(traceService{})
	w.services[""].counts = false
	for _, c := range tr.Commands {
		w.define(c)
	}
	for _, a := range tr.Actions {
		seen = append(seen, w.do(a))
		w.quiet()
	}
	w.settle()
	for _, p := range w.procs {
		p.stop()
	}
	return seen, w.log
}

func (w *world) define(c traceCommand) {
	cmd := &worldCommand{traceCommand: c, world: w, service: w.services[c.Service], fallback: c.Fallback, verdicts: map[*worldCommand]*failure{}}
	if c.Const != nil {
		cmd.started, cmd.settled, cmd.ended, cmd.value, cmd.final = true, true, true, decode(c.Const), decode(c.Const)
	}
	deps := c.Deps
	if c.ChainOf != "" {
		deps = []string{c.ChainOf}
	}
	for _, d := range deps {
		cmd.deps = append(cmd.deps, w.commands[d])
	}
	w.commands[c.ID] = cmd
}

// settle waits until everything that can run has run.
func (w *world) settle() {
	if w.trace.RealTime {
		w.run(40*time.Millisecond, never)
	}
	for w.quiet(); w.delays > 0; w.quiet() {
		if !w.run(24*time.Hour, func() bool { return w.delays == 0 }) {
			return
		}
	}
}

// call performs an action in its own process, since it may hang.
func (w *world) call(f func(p *process) (any, *failure)) *expectation {
	got := &expectation{Hang: true}
	returned := false
	w.spawn(func(p *process) {
		v, err := f(p)
		if err != nil {
			*got = *err.expect()
		} else {
			*got = *told(v, nil)
		}
		returned = true
	})
	begun := w.real
	if !w.run(24*time.Hour, func() bool { return returned }) {
		if w.trace.RealTime {
			w.real = max(w.real, begun+hangs)
		}
		return &expectation{Hang: true}
	}
	return got
}

// do performs an action and returns what is seen of it.
func (w *world) do(a traceAction) *expectation {
	c, s := w.commands[a.Cmd], w.services[a.Service]
	switch a.Op {
	case "start":
		return w.call(func(p *process) (any, *failure) { return "self", c.start(p, a.Retry, a.CurrentThread) })
	case "wait":
		return w.call(func(p *process) (any, *failure) { return "done", c.wait(p) })
	case "get":
		return w.call(c.get)
	case "started":
		return told(c.started, nil)
	case "set_fallback":
		if c.started {
			return &expectation{Error: "already_started"}
		}
		c.fallback = a.Fallback
		return told("self", nil)
	case "hook":
		return w.call(func(*process) (any, *failure) { return "ok", c.hook(a) })
	case "run_if_allowed":
		return w.call(func(p *process) (any, *failure) {
			return s.guard(p, func(p *process) (any, *failure) { return w.steps(p, a.Body, nil, nil) })
		})
	case "status":
		return s.look()
	case "entered":
		w.run(24*time.Hour, func() bool { return c.attempts > 0 })
	case "advance":
		w.call(func(p *process) (any, *failure) { return nil, w.advance(p, time.Duration(a.US)*time.Microsecond) })
	case "settle":
		w.settle()
	default:
		w.set(a)
	}
	return nil
}

// set performs an action that cannot fail and of which nothing is seen.
func (w *world) set(a traceAction) {
	s := w.services[a.Service]
	switch a.Op {
	case "reset":
		s.reset()
	case "shutdown":
		s.pool.shut = true
	case "fallback_enabled":
		s.fallback = string(a.Value) == "true"
	case "record":
		s.record(recordable[a.Kind])
	case "open":
		w.gates[a.Gate] = true
	}
}

func (c *worldCommand) wait(p *process) *failure {
	if !c.started {
		return &failure{kind: "not_started"}
	}
	return p.wait(func() bool { return c.ended })
}

// hook adds a hook. The failure is that of a hook that is added late.
func (c *worldCommand) hook(a traceAction) *failure {
	if c.ended {
		return c.tell(a)
	}
	c.hooks = append(c.hooks, a)
	return nil
}

func (s *worldService) look() *expectation {
	n, open := s.visible(s.world.now()), s.open
	return &expectation{St: n[:], Open: &open}
}
