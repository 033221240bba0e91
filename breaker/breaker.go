package breaker

import (
	"context"
	"errors"

	"github.com/pillion-go/pillion"
)

// Breaker is a circuit breaker. As a policy it can be given to several upstreams,
// which then share its state and its counters. It is safe for concurrent use.
type Breaker struct {
	engine   engine
	classify func(*pillion.Outcome) Result
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

// Status gives the counters over the last period. Mirrors Expeditor::Service#status.
func (b *Breaker) Status() Status { return b.engine.status() }

// State tells whether the circuit is open. It opens with the first call that is
// refused, not with the last failure. Mirrors Expeditor::Service#breaking?.
func (b *Breaker) State() State { return b.engine.state() }

// ResetStatus closes the circuit and empties its counters. A gobreaker keeps its
// own state; for it only the counters are emptied. Mirrors Expeditor::Service#reset_status!.
func (b *Breaker) ResetStatus() { b.engine.reset() }

// Record adds one r to the counters and does nothing else: what it makes of the
// ratio shows at the next call. It mirrors the methods success, failure, rejection,
// timeout, break and dependency of Expeditor::Service.
func (b *Breaker) Record(r Result) { b.engine.record(r) }

// Ticket is the admission of one call.
type Ticket struct {
	engine engine
	ticket ticket
}

// Admit asks whether a call may be made, for programs that guard something by
// hand. If so, [Ticket.Done] must be called once, with how it ended. If not, the error
// is an [*OpenError]; the refusal has not been counted, which is for [Breaker.Record].
// It mirrors the gate of Expeditor::Service#run_if_allowed.
func (b *Breaker) Admit() (Ticket, error) {
	t, refusal := b.engine.admit(false)
	if refusal != nil {
		return Ticket{}, refusal
	}
	return Ticket{b.engine, t}, nil
}

// Trial reports whether the call was let through an open circuit, to find out
// whether it can be closed.
func (t Ticket) Trial() bool { return t.ticket.verdict == trial }

// Done says how the call ended. err is what it failed with, if it did; it is
// shown to the calls that are refused later.
func (t Ticket) Done(r Result, err error) { t.engine.done(t.ticket, r, Failed{Err: err}) }

// Role is that of a policy that judges each try.
func (*Breaker) Role() pillion.Role { return pillion.RoleBreaker }

// Wrap puts the breaker in an upstream.
func (b *Breaker) Wrap(s *pillion.Site, next pillion.Func) (pillion.Func, error) {
	if b == nil || b.engine == nil {
		return nil, errors.New("breaker: a *Breaker was not made by New or FromGobreaker")
	}
	if whole, ok := b.engine.(runner); ok {
		return whole.wrap(b, next), nil
	}
	slot := s.Slot()
	atEnd := func(c *pillion.Call, end *pillion.Outcome) {
		state := c.State(slot)
		settle, _ := state.V.(func(error))
		b.done(ticket{verdict(state.N), settle}, b.classify(end), end) //nolint:gosec // guard put it there
	}
	return func(ctx context.Context, c *pillion.Call) *pillion.Outcome {
		return b.guard(ctx, c, next, c.State(slot), atEnd)
	}, nil
}

// guard makes one attempt, if it may: the answer is judged by its head if that is
// bad, else by atEnd, which finds the ticket in state.
func (b *Breaker) guard(
	ctx context.Context, c *pillion.Call, next pillion.Func, state *pillion.State, atEnd pillion.Hook,
) *pillion.Outcome {
	t, refusal := b.engine.admit(true)
	if refusal != nil {
		return c.Refuse(refusal, pillion.BreakerOpen)
	}
	state.N = int64(t.verdict)
	if t.settle != nil {
		state.V = t.settle
	}
	judged := false
	defer func() {
		if !judged { // next panicked
			b.engine.done(t, Failure, Failed{Err: errPanicked})
		}
	}()
	o := next(ctx, c)
	r := b.classify(o)
	judged = true
	if o.Open() && !r.failing() && !o.Is.Any(pillion.Upgraded) {
		o.OnEnd(c, atEnd)
		return o
	}
	b.done(t, r, o)
	return o
}

var errPanicked = errors.New("breaker: the call panicked")

func (b *Breaker) done(t ticket, r Result, o *pillion.Outcome) {
	b.engine.done(t, r, Failed{Code: o.Code, Err: o.Err})
}
