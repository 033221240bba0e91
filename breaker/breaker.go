package breaker

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/pillion-go/pillion/policy"
)

// Breaker is a circuit breaker. It is a policy: upstreams that use the same Breaker share
// its state and its counters. It is safe for concurrent use.
type Breaker struct {
	engine   engine
	circuit  *circuit                     // engine, if it is one; else nil
	classify func(*policy.Outcome) Result // nil for Classify
}

// newBreaker returns the breaker of a checked configuration with all defaults.
func newBreaker(cfg Config) *Breaker {
	c := newCircuit(cfg)
	return &Breaker{engine: c, circuit: c, classify: cfg.Classify}
}

// New returns a breaker with Expeditor's rules. Its error joins one error for each invalid
// field of cfg.
func New(cfg Config) (*Breaker, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return newBreaker(cfg.withDefaults()), nil
}

// Status returns the counters over the last period. Mirrors Expeditor::Service#status.
func (b *Breaker) Status() Status { return b.use().status() }

// State returns the state of the circuit. The circuit opens at the first call that it
// refuses, not at the last failure. Mirrors Expeditor::Service#breaking?.
func (b *Breaker) State() State { return b.use().state() }

// ResetStatus closes the circuit and resets its counters. For a gobreaker it resets only the
// counters: the gobreaker keeps its state. Mirrors Expeditor::Service#reset_status!.
func (b *Breaker) ResetStatus() { b.use().reset() }

// Record adds one r to the counters. It never opens or closes the circuit itself: the next
// call checks the counters. Mirrors the methods success, failure, rejection, timeout, break
// and dependency of Expeditor::Service.
func (b *Breaker) Record(r Result) { b.use().record(r) }

// use returns the engine. For a Breaker not made by a constructor it refuses all calls.
func (b *Breaker) use() engine {
	if b == nil || b.engine == nil {
		return unmade{}
	}
	return b.engine
}

// Ticket is the admission of one call. Do not copy a Ticket before calling Done: each copy
// would count the call once.
type Ticket struct {
	engine engine
	ticket ticket
	done   uint32 //nolint:modernize // 1 once the call is counted; a Ticket is returned by value
}

// Admit asks the breaker to admit a call. It is for programs that guard work which is not a
// call of an upstream. If the call is admitted, the program must call [Ticket.Done] when the
// call has ended. Otherwise the error is an [*OpenError]; the refusal is not counted, which
// the program can do with [Breaker.Record]. Mirrors the gate of
// Expeditor::Service#run_if_allowed.
//
// A Breaker made from a plain gobreaker, or not made by a constructor, refuses all calls: see
// [Breaker.AdmitsByHand].
func (b *Breaker) Admit() (Ticket, error) {
	e := b.use()
	t, refusal := e.admit(false)
	if refusal != nil {
		return Ticket{}, refusal
	}
	return Ticket{engine: e, ticket: t}, nil
}

// AdmitsByHand reports whether [Breaker.Admit] can admit calls. It is false for a plain
// gobreaker, which can only guard an upstream, and for a Breaker not made by a constructor.
func (b *Breaker) AdmitsByHand() bool {
	switch b.use().(type) {
	case unmade, runner:
		return false
	}
	return true
}

// Trial reports whether an open circuit admitted the call as a trial.
func (t *Ticket) Trial() bool { return t.ticket.verdict == trial }

// Done reports how the call ended. err is the call's error, if any; the [OpenError] of calls
// refused later includes it. Only the first Done counts the call. Done of the zero Ticket,
// which Admit returns with an error, does nothing. It is safe for concurrent use.
func (t *Ticket) Done(r Result, err error) {
	if t.engine != nil && atomic.CompareAndSwapUint32(&t.done, 0, 1) {
		t.engine.done(t.ticket, r, Failed{Err: err})
	}
}

// Place returns a place inside retry and hedge policies.
func (*Breaker) Place() policy.Place { return place() }

// place is the place of a policy that counts each attempt.
func place() policy.Place {
	return policy.Place{Rank: policy.PerAttempt, Name: "breaker", Why: "would hide failed attempts from the breaker"}
}

// Wrap wraps next with the breaker.
func (b *Breaker) Wrap(s *policy.Builder, next policy.Func) (policy.Func, error) {
	if b == nil || b.engine == nil {
		return nil, errUnmade
	}
	if whole, ok := b.engine.(runner); ok {
		return whole.wrap(next), nil
	}
	slot := s.Slot()
	atEnd := hooks{
		closed: func(_ *policy.Call, end *policy.Outcome) { b.judge(ticket{verdict: normal}, end) },
		other: func(c *policy.Call, end *policy.Outcome) {
			state := c.State(slot)
			settle, _ := state.V.(func(error))
			b.judge(ticket{verdict(state.N), settle}, end) //nolint:gosec // guard put it there
		},
	}
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		return b.guard(ctx, c, next, slot, &atEnd)
	}, nil
}

// hooks count attempts when they end.
type hooks struct {
	closed policy.Hook // for attempts that a closed circuit admitted: they need no ticket
	other  policy.Hook // for all others: the state holds the ticket
}

// guard makes one attempt if the circuit admits it. It counts the attempt when the response
// headers are a failure; otherwise one of atEnd counts it.
func (b *Breaker) guard(ctx context.Context, c *policy.Call, next policy.Func, slot policy.Slot, atEnd *hooks) *policy.Outcome {
	t, refusal := b.admit()
	if refusal != nil {
		return c.Refuse(refusal, CircuitOpen)
	}
	judged := false
	defer func() {
		if !judged { // next or Classify panicked
			b.engine.done(t, Failure, Failed{Err: errPanicked})
		}
	}()
	o := next(ctx, c)
	r := b.result(o)
	judged = true
	if !o.Open() || r.failing() || o.Has(policy.Upgraded) {
		b.done(t, r, o)
		return o
	}
	if t.verdict == normal && t.settle == nil {
		o.OnEnd(c, atEnd.closed)
		return o
	}
	state := c.State(slot)
	if state.N = int64(t.verdict); t.settle != nil {
		state.V = t.settle
	}
	o.OnEnd(c, atEnd.other)
	return o
}

// admit is engine.admit for an attempt. It calls a circuit directly, which is faster.
func (b *Breaker) admit() (ticket, *OpenError) {
	if b.circuit != nil {
		return b.circuit.admit(true)
	}
	return b.engine.admit(true)
}

var errPanicked = errors.New("breaker: the call panicked")

// judge counts an admitted call that has ended.
func (b *Breaker) judge(t ticket, end *policy.Outcome) {
	if b.classify == nil {
		b.done(t, Classify(end), end)
	} else {
		b.judgeSafely(t, end)
	}
}

// judgeSafely is judge for a user's Classify. If that panics the call counts as a failure, so that
// every trial has a result.
func (b *Breaker) judgeSafely(t ticket, end *policy.Outcome) {
	judged := false
	defer func() {
		if !judged {
			b.engine.done(t, Failure, Failed{Err: errPanicked})
		}
	}()
	r := b.classify(end)
	judged = true
	b.done(t, r, end)
}

// result returns the result of a call.
func (b *Breaker) result(o *policy.Outcome) Result {
	if b.classify == nil {
		return Classify(o)
	}
	return b.classify(o)
}

func (b *Breaker) done(t ticket, r Result, o *policy.Outcome) {
	switch {
	case b.circuit == nil:
		b.engine.done(t, r, Failed{Code: o.Code, Err: o.Err})
	case !b.circuit.succeeded(t.verdict, r): // only then is a Failed made, which is large
		b.circuit.count(t, r, Failed{Code: o.Code, Err: o.Err})
	}
}

// unmade is the engine of a Breaker not made by a constructor.
type unmade struct{}

var errUnmade = errors.New("breaker: a *Breaker was not made by New or FromGobreaker")

func (unmade) admit(bool) (ticket, *OpenError) { return ticket{}, &OpenError{Err: errUnmade} }

func (unmade) done(ticket, Result, Failed) {}

func (unmade) record(Result) {}

func (unmade) status() Status { return Status{} }

func (unmade) state() State { return Closed }

func (unmade) reset() {}
