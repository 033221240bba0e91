package command

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/retry"
)

// A plan is a random graph of commands, with what their functions do.
type plan struct {
	services []planService
	commands []planCommand // each depends on earlier ones alone
	starts   []int         // which are started, in this order, at the same time
}

type planService struct {
	cfg  ServiceConfig
	pool PoolConfig
}

type planCommand struct {
	service  int
	deps     []int
	attempts []planAttempt // the last one repeats
	limit    time.Duration
	tries    int // 0 for no retry
	wait     time.Duration
	fallback *planAttempt
}

type planAttempt struct {
	takes time.Duration
	end   string // ok, failure, timeout, rejection, or panic
}

// told is how each command ended, and the counters.
type outcome struct {
	Ends   []string
	Ran    []int // attempts
	Hooks  []string
	At     []time.Duration // when it ended
	Status []breaker.Status
	Open   []bool
}

func randomPlan(r *rand.Rand) plan {
	var p plan
	for range 1 + r.IntN(3) {
		p.services = append(p.services, randomService(r))
	}
	n := 1 + r.IntN(10)
	for i := range n {
		p.commands = append(p.commands, randomCommand(r, i, len(p.services)))
	}
	p.starts = r.Perm(n)[:1+r.IntN(n)]
	return p
}

func randomService(r *rand.Rand) planService {
	s := planService{cfg: ServiceConfig{Threshold: breaker.Never}}
	if r.IntN(2) == 0 {
		s.cfg = ServiceConfig{
			Threshold: 0.5, NonBreakCount: 1 + r.IntN(3),
			Period: time.Duration(1+r.IntN(30)) * 10 * time.Millisecond, Sleep: time.Duration(1+r.IntN(30)) * time.Millisecond,
		}
	}
	if r.IntN(2) == 0 {
		s.pool = PoolConfig{MaxThreads: 1 + r.IntN(3), MaxQueue: []int{Zero, 0, 1, 2}[r.IntN(4)], Overflow: []Overflow{Abort, Discard}[r.IntN(2)]}
		if s.pool.MaxQueue == 0 { // it is never full
			s.pool.Overflow = Abort
		}
	}
	return s
}

func randomCommand(r *rand.Rand, i, services int) planCommand {
	c := planCommand{service: r.IntN(services)}
	if i > 0 && r.IntN(2) == 0 {
		c.deps = r.Perm(i)[:1+r.IntN(min(i, 7))]
	}
	for range 1 + r.IntN(3) {
		c.attempts = append(c.attempts, randomAttempt(r))
	}
	if r.IntN(3) == 0 {
		c.limit = legal(odd(r, 60))
	}
	if r.IntN(2) == 0 {
		c.tries, c.wait = 1+r.IntN(4), legal(odd(r, 20))
	}
	if r.IntN(3) == 0 {
		f := randomAttempt(r)
		c.fallback = &f
	}
	return c
}

func randomAttempt(r *rand.Rand) planAttempt {
	ends := []string{"ok", "ok", "ok", "failure", "failure", "timeout", "rejection", "panic"}
	return planAttempt{odd(r, 40), ends[r.IntN(len(ends))]}
}

// odd returns a random number of milliseconds and some nanoseconds, so that two things
// rarely happen at the same instant.
func odd(r *rand.Rand, ms int) time.Duration {
	return time.Duration(r.IntN(ms))*time.Millisecond + time.Duration(1+r.IntN(900_000))
}

// legal returns d, or the shortest legal setting if d is shorter.
func legal(d time.Duration) time.Duration {
	if d < time.Millisecond {
		return d + time.Millisecond
	}
	return d
}

// TestModel compares commands with a slow model, over random graphs.
func TestModel(t *testing.T) {
	const plans = 3000
	skipped := 0
	for seed := range uint64(plans) {
		p := randomPlan(rand.New(rand.NewPCG(seed, 5)))
		want, ok := newModel(p).run()
		if !ok {
			skipped++
			continue
		}
		var got outcome
		synctest.Test(t, func(t *testing.T) { got = execute(t, p) })
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Fatalf("seed %d: %+v (-model +got):\n%s", seed, p, diff)
		}
	}
	t.Logf("%d plans, %d of them skipped", plans, skipped)
	if skipped > plans/10 {
		t.Errorf("%d of %d plans have a tie, after which more than one result is right", skipped, plans)
	}
}

// execute executes a plan.
func execute(t *testing.T, p plan) outcome {
	t.Helper()
	var services []*Service
	for _, s := range p.services {
		pool, err := NewPool(s.pool)
		must(t, err)
		s.cfg.Executor = pool
		services = append(services, service(t, s.cfg))
	}
	n, epoch := len(p.commands), time.Now()
	o := outcome{Ends: make([]string, n), Ran: make([]int, n), Hooks: make([]string, n), At: make([]time.Duration, n)}
	commands := make([]*Command[int], n)
	for i, c := range p.commands {
		var deps []*Command[int]
		for _, d := range c.deps {
			deps = append(deps, commands[d])
		}
		commands[i] = NewAll(Config{Service: services[c.service], Timeout: c.limit}, deps,
			func(ctx context.Context, values []int) (int, error) {
				a := c.attempts[min(o.Ran[i], len(c.attempts)-1)]
				o.Ran[i]++
				return a.do(ctx, i+total(values))
			})
		if c.fallback != nil {
			must(t, commands[i].SetFallback(func(context.Context, error) (int, error) { return c.fallback.do(t.Context(), -1) }))
		}
		must(t, commands[i].OnComplete(func(v int, err error) {
			o.Hooks[i] += end(v, err)
			o.At[i] = time.Since(epoch)
		}))
	}
	for _, i := range p.starts {
		if c := p.commands[i]; c.tries > 0 {
			_ = commands[i].StartWithRetry(t.Context(), retry.Retryable{Tries: c.tries, Sleep: c.wait})
		} else {
			_ = commands[i].Start(t.Context()) // as a dependency it may be started
		}
	}
	for i, c := range commands {
		o.Ends[i] = "not started"
		if c.Started() {
			o.Ends[i] = end(c.Get(t.Context()))
		}
	}
	synctest.Wait()
	for _, s := range services {
		o.Status, o.Open = append(o.Status, s.Status()), append(o.Open, s.Breaking())
		must(t, s.Shutdown(t.Context()))
	}
	return o
}

func total(values []int) int {
	n, _ := sum(context.Background(), values)
	return n
}

func (a planAttempt) do(ctx context.Context, v int) (int, error) {
	pause(ctx, a.takes)
	switch {
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case a.end == "panic":
		panic(errBoom)
	case a.end == "ok":
		return v, nil
	}
	return 0, &planError{a.end}
}

// planError is the error of a planned attempt.
type planError struct{ end string }

func (e *planError) Error() string { return e.end }

func (e *planError) Unwrap() error {
	return map[string]error{"timeout": context.DeadlineExceeded, "rejection": ErrRejected}[e.end]
}

// end says in words how a command ended.
func end(v int, err error) string {
	switch e := err.(type) { //nolint:errorlint // the outermost counts
	case nil:
		return fmt.Sprint("ok ", v)
	case *planError:
		return e.end
	case *PanicError:
		return "panic"
	case *RejectedError:
		return "rejected"
	case *CircuitBreakError:
		return "break"
	case *DependencyError:
		return "dependency"
	case *TimeoutError:
		return "limit"
	default:
		return err.Error()
	}
}

// model executes a plan as one list of events in time. It is slow and simple: it has no
// goroutine, no lock and no ring.
type model struct {
	plan     plan
	now      time.Duration
	events   []event
	seq      int
	current  int // the number of the event that happens; 0 for the starts
	services []*modelService
	commands []*modelCommand
	tie      bool
}

type event struct {
	at  time.Duration
	seq int
	do  func()
}

type modelService struct {
	planService
	running, waiting int
	queue            []*modelCommand
	counted          []counted
	grid             time.Duration
	open             bool
	since            time.Duration
	lastAsked        time.Duration
	readyAt          time.Duration
	readyBy          map[int]bool // the events that made commands ready then
}

type counted struct {
	at time.Duration
	r  breaker.Result
}

type modelCommand struct {
	planCommand
	id                      int
	withRetry               bool
	started, settled, ended bool
	place                   string // in the pool: none, parked, queued, running
	end                     string
	value                   int
	attempt                 int
	then                    []func()
	at                      time.Duration
}

func newModel(p plan) *model {
	m := &model{plan: p}
	for _, s := range p.services {
		m.services = append(m.services, &modelService{planService: s, lastAsked: -1, readyAt: -1})
	}
	for i, c := range p.commands {
		m.commands = append(m.commands, &modelCommand{planCommand: c, id: i, end: "not started"})
	}
	return m
}

func (m *model) run() (o outcome, ok bool) {
	for _, i := range m.plan.starts {
		if c := m.commands[i]; !c.started {
			m.start(c, c.tries > 0)
		}
	}
	for len(m.events) > 0 {
		slices.SortFunc(m.events, func(a, b event) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.seq, b.seq)) })
		e := m.events[0]
		m.events, m.now, m.current = m.events[1:], e.at, e.seq
		e.do()
	}
	for _, c := range m.commands {
		hook := ""
		if c.ended {
			hook = c.end
		}
		o.Ends, o.Ran, o.Hooks, o.At = append(o.Ends, c.end), append(o.Ran, c.attempt), append(o.Hooks, hook), append(o.At, c.at)
	}
	last := slices.MaxFunc(o.At, cmp.Compare) // the test looks when all have ended
	m.now = last
	for _, s := range m.services {
		n := s.visible(m.now)
		o.Status = append(o.Status, breaker.Status{
			Success: n[0], Failure: n[1], Rejection: n[2], Timeout: n[3], Break: n[4], Dependency: n[5],
		})
		o.Open = append(o.Open, s.open)
	}
	return o, !m.tie
}

func (m *model) later(d time.Duration, do func()) {
	m.seq++
	m.events = append(m.events, event{m.now + d, m.seq, do})
}

func (m *model) service(c *modelCommand) *modelService { return m.services[c.service] }

func (m *model) start(c *modelCommand, withRetry bool) {
	c.started, c.withRetry = true, withRetry
	for _, d := range c.deps {
		if !m.commands[d].started {
			m.start(m.commands[d], false)
		}
	}
	s := m.service(c)
	if s.pool.MaxThreads > 0 && s.pool.MaxQueue != 0 && s.running+s.waiting >= s.pool.MaxThreads+max(s.pool.MaxQueue, 0) {
		r := breaker.Rejection
		if s.pool.Overflow == Discard {
			r = breaker.Ignored
		}
		m.settle(c, r, "rejected", func() {})
		return
	}
	s.waiting++
	c.place = "parked"
	left := len(c.deps)
	if left == 0 {
		m.ready(c)
	}
	for _, d := range c.deps {
		dep := m.commands[d]
		done := func() {
			left--
			if left == 0 || dep.failed() {
				m.ready(c)
			}
		}
		if dep.ended { // rejected just now: whether this one leaves its place before the next start is open
			m.tie = m.tie || s.pool.MaxThreads > 0
			done()
		} else {
			dep.then = append(dep.then, done)
		}
	}
}

func (c *modelCommand) failed() bool { return len(c.end) < 3 || c.end[:3] != "ok " }

func (m *model) ready(c *modelCommand) {
	if c.place != "parked" {
		return
	}
	s := m.service(c)
	together := s.readyTogether(m.now, m.current)
	if s.pool.MaxThreads > 0 && s.running >= s.pool.MaxThreads {
		m.tie = m.tie || together
		c.place = "queued"
		s.queue = append(s.queue, c)
		return
	}
	m.take(c)
}

// readyTogether reports whether several events of this instant make commands ready. Each event
// has its own goroutine, so that the order in the queue of a bounded pool is undefined.
func (s *modelService) readyTogether(now time.Duration, event int) bool {
	if s.readyAt != now {
		s.readyAt, s.readyBy = now, map[int]bool{}
	}
	s.readyBy[event] = true
	return len(s.readyBy) > 1
}

func (m *model) take(c *modelCommand) {
	s := m.service(c)
	s.waiting--
	s.running++
	c.place = "running"
	m.later(0, func() { m.work(c) })
}

// free passes the worker of a command to the next one.
func (m *model) free(c *modelCommand) {
	s := m.service(c)
	s.running--
	if len(s.queue) > 0 {
		next := s.queue[0]
		s.queue = s.queue[1:]
		m.take(next)
	}
}

func (m *model) work(c *modelCommand) {
	for _, d := range c.deps {
		if dep := m.commands[d]; dep.ended && dep.failed() {
			m.settle(c, breaker.Dependency, "dependency", func() { m.free(c) })
			return
		}
	}
	for _, d := range c.deps {
		c.value += m.commands[d].value
	}
	c.value += c.id
	if c.limit > 0 {
		m.later(c.limit, func() { m.settle(c, breaker.Timeout, "limit", func() { m.free(c) }) })
	}
	m.try(c, 1)
}

// try makes the nth attempt of a command.
func (m *model) try(c *modelCommand, n int) {
	s := m.service(c)
	admitted, trial := s.admit(m)
	if !admitted {
		m.tried(c, n, breaker.Break, "break", func() { s.count(m.now, breaker.Break) })
		return
	}
	a := c.attempts[min(c.attempt, len(c.attempts)-1)]
	c.attempt++
	m.later(a.takes, func() {
		if c.settled {
			return
		}
		r := map[string]breaker.Result{"ok": breaker.Success, "timeout": breaker.Timeout, "rejection": breaker.Rejection}[a.end]
		if a.end == "failure" || a.end == "panic" {
			r = breaker.Failure
		}
		m.tried(c, n, r, a.end, func() {
			if trial && r == breaker.Success {
				s.open, s.counted, s.grid = false, nil, m.now
			}
			s.count(m.now, r)
		})
	})
}

// tried ends the nth attempt, which is counted by count.
func (m *model) tried(c *modelCommand, n int, r breaker.Result, how string, count func()) {
	if c.withRetry && n < c.tries && how != "ok" && how != "panic" {
		m.later(c.wait, func() {
			if !c.settled {
				count()
				m.try(c, n+1)
			}
		})
		return
	}
	count()
	if how == "ok" {
		how = fmt.Sprint("ok ", c.value)
	}
	m.settle(c, breaker.Ignored, how, func() { m.free(c) })
	_ = r
}

// settle decides how a command ends, counts r, and ends it, after its fallback.
func (m *model) settle(c *modelCommand, r breaker.Result, how string, free func()) {
	if c.settled {
		return
	}
	c.settled = true
	m.service(c).count(m.now, r)
	if c.fallback == nil || len(how) > 3 && how[:3] == "ok " {
		m.finish(c, how, free)
		return
	}
	if how == "rejected" { // in the starter's goroutine, which goes on when it is over
		m.tie = true
		return
	}
	if how == "limit" {
		free() // the work honors its context; the fallback runs beside the pool
		free = func() {}
	}
	m.later(c.fallback.takes, func() {
		end := c.fallback.end
		if end == "ok" {
			end, c.value = "ok -1", -1
		}
		m.finish(c, end, free)
	})
}

func (m *model) finish(c *modelCommand, how string, free func()) {
	c.end, c.ended, c.at = how, true, m.now
	for _, f := range c.then {
		f()
	}
	free()
}

func (s *modelService) count(now time.Duration, r breaker.Result) {
	if r != breaker.Ignored {
		s.counted = append(s.counted, counted{now, r})
	}
}

// visible counts the results in the window, by the definition of the buckets.
func (s *modelService) visible(now time.Duration) (n [6]int64) {
	period := cmp.Or(s.cfg.Period, breaker.DefaultPeriod)
	bucket := func(at time.Duration) int64 { return int64((at - s.grid) * 10 / period) }
	for _, c := range s.counted {
		if bucket(c.at) > bucket(now)-10 {
			n[c.r]++
		}
	}
	return n
}

func (s *modelService) admit(m *model) (admitted, trial bool) {
	if s.lastAsked == m.now {
		m.tie = m.tie || s.open || s.trips(m.now)
	}
	s.lastAsked = m.now
	switch {
	case !s.open && s.trips(m.now):
		s.open, s.since = true, m.now
		return false, false
	case !s.open:
		return true, false
	case m.now-s.since > cmp.Or(s.cfg.Sleep, breaker.DefaultSleep):
		s.since = m.now
		return true, true
	}
	return false, false
}

func (s *modelService) trips(now time.Duration) bool {
	n := s.visible(now)
	volume, bad := n[0]+n[1]+n[3], n[1]+n[3]
	least := int64(cmp.Or(s.cfg.NonBreakCount, breaker.DefaultNonBreakCount))
	return volume >= least && s.cfg.Threshold != breaker.Never && float64(bad)/float64(volume) >= s.cfg.Threshold
}
