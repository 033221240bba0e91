package command

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/retry"
)

// kinds are the kinds of errors in traces, each with the error that an error of that kind
// wraps here.
var kinds = map[string]error{
	"A": nil, "B": nil, "A1": nil, "fatal": nil,
	"timeout":     context.DeadlineExceeded,
	"rejection":   &RejectedError{},
	"break":       &CircuitBreakError{},
	"dependency":  &DependencyError{errors.New("told")},
	"not_started": nil, "already_started": nil, "argument": nil, "multiple_assignment": nil,
}

// kindError is an error that a trace raises.
type kindError struct{ kind, msg string }

func raised(kind, msg string) *kindError {
	defaults := map[string]string{"A": "a failed", "B": "b failed", "A1": "a1 failed"}
	return &kindError{kind, cmp.Or(msg, defaults[kind], kind)}
}

func (e *kindError) Error() string { return e.msg }

func (e *kindError) Unwrap() error { return kinds[e.kind] }

// describe describes err as a trace does.
func describe(err error) *expectation {
	switch e := err.(type) { //nolint:errorlint // the outermost counts
	case *kindError:
		return &expectation{Error: e.kind, Msg: e.msg}
	case *PanicError:
		return describe(e.Unwrap())
	case *DependencyError:
		return &expectation{Error: "dependency", Msg: e.Error(), Inner: describe(e.Err)}
	case *TimeoutError:
		return &expectation{Error: "timeout"}
	case *RejectedError:
		return &expectation{Error: "rejection"}
	case *CircuitBreakError:
		return &expectation{Error: "break"}
	}
	switch {
	case errors.Is(err, ErrNotStarted):
		return &expectation{Error: "not_started"}
	case errors.Is(err, ErrAlreadyStarted):
		return &expectation{Error: "already_started"}
	case errors.Is(err, ErrInvalid):
		return &expectation{Error: "argument"}
	}
	return &expectation{Error: err.Error()}
}

// player performs the actions of one trace.
type player struct {
	trace    *trace
	services map[string]*Service
	commands map[string]*Command[any]

	mu      sync.Mutex
	gates   map[string]chan struct{}
	entered map[string]chan struct{}
	delays  map[string]time.Time // when the waits that are under way will be over
	log     []any
}

func replay(t *testing.T, tr *trace) {
	t.Helper()
	p := &player{
		trace: tr, services: map[string]*Service{}, commands: map[string]*Command[any]{},
		gates: map[string]chan struct{}{}, entered: map[string]chan struct{}{}, delays: map[string]time.Time{},
	}
	ctx, stop := context.WithCancel(t.Context())
	for name, s := range tr.Services {
		p.services[name] = newService(t, s)
	}
	for _, c := range tr.Commands {
		p.define(t, c)
	}
	for i, a := range tr.Actions {
		got := p.do(ctx, t, a)
		if a.Expect != nil {
			compareSeen(t, i, a, got)
		}
	}
	p.settle()
	p.compareLog(t)
	stop() // what still hangs
	for name := range p.gates {
		p.openGate(name)
	}
}

func newService(t *testing.T, s traceService) *Service {
	t.Helper()
	var cfg ServiceConfig
	if s.Threshold != nil {
		cfg.Threshold = thresholdOf(*s.Threshold)
	}
	if s.NonBreakCount != nil {
		cfg.NonBreakCount = max(*s.NonBreakCount, 1) // the gem takes 0 for 1
	}
	if s.SleepUS != nil {
		cfg.Sleep = orZero(time.Duration(*s.SleepUS) * time.Microsecond)
	}
	if s.PeriodUS != nil {
		cfg.Period = time.Duration(*s.PeriodUS) * time.Microsecond
	}
	if s.Pool != nil {
		c := PoolConfig{MaxThreads: s.Pool.MaxThreads, MaxQueue: s.Pool.MaxQueue, Overflow: s.Pool.Overflow}
		if c.MaxThreads == 0 || c.MaxQueue == 0 { // it is never full
			c.MaxQueue, c.Overflow = 0, Abort
		}
		pool, err := NewPool(c)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Executor = pool
	}
	service, err := NewService(cfg)
	if err != nil {
		t.Fatal(err)
	}
	service.SetFallbackEnabled(s.FallbackEnabled == nil || *s.FallbackEnabled)
	return service
}

// thresholdOf converts a threshold of the gem. Above 1 the circuit never opens.
func thresholdOf(t float64) float64 {
	if t > 1 {
		return breaker.Never
	}
	return orZero(t)
}

// orZero converts v for a field whose zero value means the default.
func orZero[N float64 | time.Duration](v N) N {
	if v == 0 {
		return breaker.Zero
	}
	return v
}

func (p *player) define(t *testing.T, c traceCommand) {
	t.Helper()
	p.entered[c.ID] = make(chan struct{})
	if c.Const != nil {
		p.commands[c.ID] = Const(decode(c.Const))
		return
	}
	cfg := Config{Service: p.services[c.Service], Timeout: time.Duration(c.TimeoutMS) * time.Millisecond}
	attempts := 0
	work := func(ctx context.Context, args []any) (any, error) {
		attempts++
		entry := []any{"attempt", c.ID, attempts}
		if c.LogArgs {
			entry = append(entry, append([]any{}, args...))
		}
		p.note(entry...)
		if attempts == 1 {
			close(p.entered[c.ID])
		}
		return p.steps(ctx, c.Body[min(attempts, len(c.Body))-1], args, nil)
	}
	switch {
	case c.ChainOf != "":
		p.commands[c.ID] = Chain(cfg, p.commands[c.ChainOf], func(ctx context.Context, v any) (any, error) {
			return work(ctx, []any{v})
		})
	case c.Deps != nil:
		var deps []*Command[any]
		for _, id := range c.Deps {
			deps = append(deps, p.commands[id])
		}
		p.commands[c.ID] = NewAll(cfg, deps, work)
	default:
		p.commands[c.ID] = New(cfg, func(ctx context.Context) (any, error) { return work(ctx, nil) })
	}
	if c.Fallback != nil {
		if err := p.setFallback(c.ID, c.Fallback); err != nil {
			t.Fatal(err)
		}
	}
}

func (p *player) setFallback(id string, steps []traceStep) error {
	return p.commands[id].SetFallback(func(ctx context.Context, err error) (any, error) {
		p.note("fallback", id, describe(err).Error)
		return p.steps(ctx, steps, nil, err)
	})
}

// steps performs the steps of a body or a fallback.
func (p *player) steps(ctx context.Context, steps []traceStep, args []any, cause error) (any, error) {
	for _, s := range steps {
		switch {
		case s.Ret != nil:
			return decode(s.Ret), nil
		case s.Raise == "fatal":
			panic(raised(s.Raise, s.Msg))
		case s.Raise == "dependency":
			return nil, &DependencyError{raised("B", "inner")} // as the driver of the gem did
		case s.Raise != "":
			return nil, raised(s.Raise, s.Msg)
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
		if err := p.pass(ctx, s, args, cause); err != nil {
			return nil, err
		}
	}
	return nil, nil //nolint:nilnil // as a block without a value
}

// pass performs a step that others follow.
func (p *player) pass(ctx context.Context, s traceStep, args []any, cause error) error {
	switch {
	case s.Gate != "":
		select {
		case <-p.gate(s.Gate):
		case <-ctx.Done():
			return ctx.Err()
		}
	case s.Open != "":
		p.openGate(s.Open)
	case s.Hang:
		<-ctx.Done()
		return ctx.Err()
	case s.Swallow != nil:
		func() {
			defer func() { _ = recover() }()
			_, _ = p.steps(ctx, s.Swallow, args, cause)
		}()
		return ctx.Err() // which it does not swallow
	default:
		pause(ctx, time.Duration(s.SleepMS)*time.Millisecond+time.Duration(s.AdvanceUS)*time.Microsecond)
		return ctx.Err()
	}
	return nil
}

func (p *player) gate(name string) chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gates[name] == nil {
		p.gates[name] = make(chan struct{})
	}
	return p.gates[name]
}

func (p *player) openGate(name string) {
	gate := p.gate(name)
	select {
	case <-gate:
	default:
		close(gate)
	}
}

func (p *player) note(entry ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log = append(p.log, entry)
}

// do performs an action and returns what is seen of it.
func (p *player) do(ctx context.Context, t *testing.T, a traceAction) *expectation {
	t.Helper()
	c, s := p.commands[a.Cmd], p.services[a.Service]
	switch a.Op {
	case "start":
		return p.waiting(ctx, a, func(context.Context) *expectation { return told("self", p.start(ctx, t, a)) })
	case "wait":
		return p.waiting(ctx, a, func(ctx context.Context) *expectation { return told("done", c.Wait(ctx)) })
	case "get":
		return p.waiting(ctx, a, func(ctx context.Context) *expectation {
			v, err := c.Get(ctx)
			return told(v, err)
		})
	case "started":
		return told(c.Started(), nil)
	case "set_fallback":
		return told("self", p.setFallback(a.Cmd, a.Fallback))
	case "hook":
		return told("ok", p.hook(a))
	case "status":
		return statusOf(s)
	case "run_if_allowed":
		return p.waiting(ctx, a, func(ctx context.Context) *expectation { return p.runIfAllowed(ctx, s, a.Body) })
	case "reset":
		s.ResetStatus()
	case "shutdown":
		now, cancel := context.WithCancel(ctx)
		cancel()
		_ = s.Shutdown(now) // as the gem, without waiting
	case "fallback_enabled":
		s.SetFallbackEnabled(string(a.Value) == "true")
	case "record":
		s.Record(recordable[a.Kind])
	case "open":
		p.openGate(a.Gate)
	case "entered":
		select {
		case <-p.entered[a.Cmd]:
		case <-time.After(tooLong):
		}
	case "advance":
		time.Sleep(time.Duration(a.US) * time.Microsecond)
	case "settle":
		p.settle()
	}
	return nil
}

// recordable are the results that a trace can count by hand.
var recordable = map[string]breaker.Result{
	"success": breaker.Success, "failure": breaker.Failure, "rejection": breaker.Rejection,
	"timeout": breaker.Timeout, "break": breaker.Break, "dependency": breaker.Dependency,
}

// told is what is seen of a call that returned.
func told(v any, err error) *expectation {
	if err != nil {
		return describe(err)
	}
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // the values come from JSON
	}
	return &expectation{Value: text}
}

func statusOf(s *Service) *expectation {
	st, open := s.Status(), s.Breaking()
	return &expectation{
		St:   []int64{st.Success, st.Failure, st.Rejection, st.Timeout, st.Break, st.Dependency},
		Open: &open,
	}
}

// tooLong is how long to wait for a call that must return.
const tooLong = 48 * time.Hour

// waiting makes a call that may hang. Such a call continues, since it may return later.
func (p *player) waiting(ctx context.Context, a traceAction, call func(context.Context) *expectation) *expectation {
	got := make(chan *expectation, 1)
	go func() { got <- call(ctx) }()
	if a.Expect.Hang {
		p.settle()
		if p.trace.RealTime {
			time.Sleep(hangs)
		}
		synctest.Wait()
		select {
		case e := <-got:
			return e
		default:
			return &expectation{Hang: true}
		}
	}
	select {
	case e := <-got:
		return e
	case <-time.After(tooLong):
		return &expectation{Hang: true}
	}
}

// hangs is how long the recording waited for a call that hangs.
const hangs = 600 * time.Millisecond

// runIfAllowed makes a call that may panic.
func (p *player) runIfAllowed(ctx context.Context, s *Service, body []traceStep) (e *expectation) {
	defer func() {
		if v := recover(); v != nil {
			e = describe(newPanicError(v))
		}
	}()
	return told(Allow(s, func() (any, error) { return p.steps(ctx, body, nil, nil) }))
}

// settle waits until everything that can run has run. Delays take no time in a trace, so that
// settle waits for them too.
func (p *player) settle() {
	if p.trace.RealTime {
		time.Sleep(40 * time.Millisecond)
	}
	for {
		synctest.Wait()
		p.mu.Lock()
		var next time.Time
		for id, end := range p.delays {
			switch {
			case !end.After(time.Now()): // it was cut, or the command is about to go on
				delete(p.delays, id)
			case next.IsZero() || end.Before(next):
				next = end
			}
		}
		p.mu.Unlock()
		if next.IsZero() {
			return
		}
		time.Sleep(time.Until(next))
	}
}

func (p *player) start(ctx context.Context, t *testing.T, a traceAction) error {
	t.Helper()
	c := p.commands[a.Cmd]
	switch {
	case a.Retry == nil && a.CurrentThread:
		return c.Run(ctx)
	case a.Retry == nil:
		return c.Start(ctx)
	case a.CurrentThread:
		return c.RunWithRetry(ctx, p.options(t, a))
	}
	return c.StartWithRetry(ctx, p.options(t, a))
}

// options converts the retry options of a trace.
func (p *player) options(t *testing.T, a traceAction) retry.Retryable {
	t.Helper()
	r := retry.Retryable{On: matches(a.Retry.On), Not: matches(a.Retry.Not)}
	switch string(a.Retry.Tries) {
	case "":
	case `"infinite"`:
		r.Tries = retry.Unlimited
	default:
		unmarshal(t, a.Retry.Tries, &r.Tries)
	}
	if a.Retry.Bogus {
		r.Tries = -2 // as near as the compiler lets one come to an unknown option
	}
	r.Matching = patterns(t, a.Retry.Matching)
	delay := delayOf(t, a.Retry.Sleep)
	r.SleepFunc = func(n int) time.Duration {
		d := delay(n)
		if !a.Retry.RealSleep {
			p.note("delay", a.Cmd, d.Microseconds())
			p.delaying(a.Cmd, time.Now().Add(d))
		}
		if a.Retry.SleepRaises {
			p.delaying(a.Cmd, time.Time{})
			panic(raised("A", ""))
		}
		return d
	}
	r.ExceptionCB = func(err error) {
		p.delaying(a.Cmd, time.Time{})
		if a.Retry.CB {
			p.note("exception_cb", a.Cmd, describe(err).Error)
		}
	}
	if a.Retry.CB {
		r.LogMethod = func(n int, err error) { p.note("log_method", a.Cmd, n, describe(err).Error) }
		r.Ensure = func(n int) { p.note("ensure", a.Cmd, n) }
	}
	return r
}

// delaying records until when a command waits. The zero time means that it does not wait.
func (p *player) delaying(id string, end time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if end.IsZero() {
		delete(p.delays, id)
		return
	}
	p.delays[id] = end
}

func matches(kinds words) []retry.Match {
	var list []retry.Match
	for _, kind := range kinds {
		list = append(list, func(err error) bool {
			got := describe(err).Error
			switch kind {
			case "any":
				return true
			case "standard":
				return got != "fatal"
			case "A":
				return got == "A" || got == "A1"
			}
			return got == kind
		})
	}
	return list
}

func patterns(t *testing.T, matching json.RawMessage) []retry.Pattern {
	t.Helper()
	if matching == nil {
		return nil
	}
	var expression struct{ Regexp string }
	if json.Unmarshal(matching, &expression) == nil {
		return []retry.Pattern{regexp.MustCompile(expression.Regexp)}
	}
	var list words
	unmarshal(t, matching, &list)
	var found []retry.Pattern
	for _, w := range list {
		found = append(found, retry.Substring(w))
	}
	return found
}

func delayOf(t *testing.T, sleep json.RawMessage) func(n int) time.Duration {
	t.Helper()
	switch string(sleep) {
	case "":
		return func(int) time.Duration { return retry.DefaultSleep }
	case `"linear"`:
		return func(n int) time.Duration { return time.Duration(n+1) * 100 * time.Millisecond }
	case `"pow2"`:
		return func(n int) time.Duration { return 100 * time.Millisecond << n }
	}
	var ms int64
	unmarshal(t, sleep, &ms)
	return func(int) time.Duration { return time.Duration(ms) * time.Millisecond }
}

func (p *player) hook(a traceAction) error {
	note := func(what ...any) {
		p.note(append([]any{"hook", a.Cmd, a.Name}, what...)...)
		if a.Raises {
			panic(raised("B", "ErrB"))
		}
	}
	c := p.commands[a.Cmd]
	switch a.Hook {
	case "success":
		return c.OnSuccess(func(v any) { note(v) })
	case "failure":
		return c.OnFailure(func(err error) { note(describe(err).Error) })
	}
	return c.OnComplete(func(v any, err error) {
		if err != nil {
			note(false, nil, describe(err).Error)
			return
		}
		note(true, v, nil)
	})
}

// compareSeen compares what was seen with the trace. It ignores the messages of the gem's own
// errors, which are Ruby's, but not those that the driver chose.
func compareSeen(t *testing.T, i int, a traceAction, got *expectation) {
	t.Helper()
	if diff := gocmp.Diff(plainOf(a.Expect), plainOf(got)); diff != "" {
		t.Errorf("action %d, %s %s%s (-want +got):\n%s", i, a.Op, a.Cmd, a.Service, diff)
	}
}

func (p *player) compareLog(t *testing.T) {
	t.Helper()
	if diff := gocmp.Diff(p.trace.outcome().Log, p.trace.sortLog(p.log)); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

// normal returns v as JSON would return it.
func normal(v any) any {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return decode(text)
}

func decode(text json.RawMessage) any {
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		panic(err) // it has been parsed before
	}
	return v
}

func unmarshal(t *testing.T, text json.RawMessage, v any) {
	t.Helper()
	if err := json.Unmarshal(text, v); err != nil {
		t.Fatal(err)
	}
}
