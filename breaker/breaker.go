package breaker

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/pillion-go/pillion/policy"
)

// Breaker is a circuit breaker. As a policy it can be given to several upstreams,
// which then share its state and its counters. It is safe for concurrent use.
type Breaker struct {
	engine   engine
	classify func(*policy.Outcome) Result
}

// New makes a breaker with Expeditor's rules. The error joins all that is wrong
// with cfg.
func New(cfg Config) (*Breaker, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	return &Breaker{engine: newCircuit(cfg), classify: cfg.Classify}, nil
}

// Status returns the counters over the last period. Mirrors Expeditor::Service#status.
func (b *Breaker) Status() Status { return b.use().status() }

// State reports whether the circuit is open. It opens with the first call that is
// refused, not with the last failure. Mirrors Expeditor::Service#breaking?.
func (b *Breaker) State() State { return b.use().state() }

// ResetStatus closes the circuit and empties its counters. A gobreaker keeps its
// own state; for it only the counters are emptied. Mirrors Expeditor::Service#reset_status!.
func (b *Breaker) ResetStatus() { b.use().reset() }

// Record adds one r to the counters and does nothing else: what it makes of the
// ratio shows at the next call. It mirrors the methods success, failure, rejection,
// timeout, break and dependency of Expeditor::Service.
func (b *Breaker) Record(r Result) { b.use().record(r) }

// use returns the engine. A Breaker that no constructor made has one that refuses all calls.
func (b *Breaker) use() engine {
	if b == nil || b.engine == nil {
		return unmade{}
	}
	return b.engine
}

// Ticket is the admission of one call. Do not copy a Ticket before Done is called: each
// copy counts the call once.
type Ticket struct {
	engine engine
	ticket ticket
	done   uint32 // 1 once the call is counted
}

// Admit asks whether a call may be made, for programs that guard something by
// hand. If so, [Ticket.Done] must be called when the call has ended. If not, the error
// is an [*OpenError]; the refusal has not been counted, which is for [Breaker.Record].
// It mirrors the gate of Expeditor::Service#run_if_allowed.
//
// A Breaker made of a plain gobreaker and one that no constructor made refuse all calls:
// see [Breaker.AdmitsByHand].
func (b *Breaker) Admit() (Ticket, error) {
	e := b.use()
	t, refusal := e.admit(false)
	if refusal != nil {
		return Ticket{}, refusal
	}
	return Ticket{engine: e, ticket: t}, nil
}

// AdmitsByHand reports whether [Breaker.Admit] can admit calls at all. It is false for a plain
// gobreaker, which can only guard an upstream, and for a Breaker that no constructor made.
func (b *Breaker) AdmitsByHand() bool {
	switch b.use().(type) {
	case unmade, runner:
		return false
	}
	return true
}

// Trial reports whether the call was let through an open circuit, to find out
// whether it can be closed.
func (t *Ticket) Trial() bool { return t.ticket.verdict == trial }

// Done reports how the call ended. err is what it failed with, if it did; it is
// shown to the calls that are refused later. The first Done counts the call; later ones do
// nothing, nor does that of the zero Ticket, which Admit returns with its error. It is safe
// for concurrent use.
func (t *Ticket) Done(r Result, err error) {
	if t.engine != nil && atomic.CompareAndSwapUint32(&t.done, 0, 1) {
		t.engine.done(t.ticket, r, Failed{Err: err})
	}
}

// Place is inside of what retries or hedges.
func (*Breaker) Place() policy.Place { return place() }

// place is that of a policy that judges each attempt.
func place() policy.Place {
	return policy.Place{Rank: policy.PerAttempt, Name: "breaker", Why: "would hide failed attempts from the breaker"}
}

// Wrap puts the breaker in an upstream.
func (b *Breaker) Wrap(s *policy.Builder, next policy.Func) (policy.Func, error) {
	if b == nil || b.engine == nil {
		return nil, errUnmade
	}
	if whole, ok := b.engine.(runner); ok {
		return whole.wrap(b, next), nil
	}
	slot := s.Slot()
	atEnd := func(c *policy.Call, end *policy.Outcome) {
		state := c.State(slot)
		settle, _ := state.V.(func(error))
		b.judge(ticket{verdict(state.N), settle}, end) //nolint:gosec // guard put it there
	}
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		return b.guard(ctx, c, next, c.State(slot), atEnd)
	}, nil
}

// guard makes one attempt, if the circuit admits it: the response is judged by its headers
// if they are bad, else by atEnd, which finds the ticket in state.
func (b *Breaker) guard(
	ctx context.Context, c *policy.Call, next policy.Func, state *policy.State, atEnd policy.Hook,
) *policy.Outcome {
	t, refusal := b.engine.admit(true)
	if refusal != nil {
		return c.Refuse(refusal, CircuitOpen)
	}
	state.N = int64(t.verdict)
	if t.settle != nil {
		state.V = t.settle
	}
	judged := false
	defer func() {
		if !judged { // next or Classify panicked
			b.engine.done(t, Failure, Failed{Err: errPanicked})
		}
	}()
	o := next(ctx, c)
	r := b.classify(o)
	judged = true
	if o.Open() && !r.failing() && !o.Has(policy.Upgraded) {
		o.OnEnd(c, atEnd)
		return o
	}
	b.done(t, r, o)
	return o
}

var errPanicked = errors.New("breaker: the call panicked")

// judge counts how an admitted call ended. If Classify panics the call counts as a failure,
// so that no trial stays without a result.
func (b *Breaker) judge(t ticket, end *policy.Outcome) {
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

func (b *Breaker) done(t ticket, r Result, o *policy.Outcome) {
	b.engine.done(t, r, Failed{Code: o.Code, Err: o.Err})
}

// unmade is the engine of a Breaker that no constructor made.
type unmade struct{}

var errUnmade = errors.New("breaker: a *Breaker was not made by New or FromGobreaker")

func (unmade) admit(bool) (ticket, *OpenError) { return ticket{}, &OpenError{Err: errUnmade} }

func (unmade) done(ticket, Result, Failed) {}

func (unmade) record(Result) {}

func (unmade) status() Status { return Status{} }

func (unmade) state() State { return Closed }

func (unmade) reset() {}
