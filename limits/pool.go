package limits

import (
	"sync/atomic"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// lend makes the connection pool of a cluster take the slots, and wraps next.
func (l *Limits) lend(b *policy.Builder, pool policy.Borrower, next policy.Func) (policy.Func, error) {
	own := l.limiters[pool.Priority()]
	loan := &lender{of: l}
	for r := range loan.refusals {
		loan.refusals[r] = own.full(b.Upstream(), policy.Resource(r))
	}
	if err := pool.Borrow(loan); err != nil {
		return nil, err
	}
	for _, limiter := range l.limiters {
		limiter.offer(b)
		limiter.offerPool(b)
	}
	return own.wrap(b, next), nil
}

// lender is the [policy.Lender] for the pool of one upstream.
type lender struct {
	of       *Limits
	refusals [3]*FullError // by resource
}

// Slots returns the slots of a priority.
func (l *lender) Slots(p policy.Priority) policy.Slots { return slots{l.of.limiters[p]} }

// Refusal returns the detail and the error of an attempt that a limit refused.
func (l *lender) Refusal(r policy.Resource) (*envoy.Detail, error) {
	if r == policy.PendingRequests {
		return PendingOverflow, l.refusals[r]
	}
	return Overflow, l.refusals[r]
}

// full returns the error of a call that the limit on r refused.
func (l *limiter) full(upstream string, r policy.Resource) *FullError {
	e := &FullError{Upstream: upstream}
	switch r {
	case policy.Connections:
		e.Limit, e.Max = "max_connections", int(l.maxConnections)
	case policy.PendingRequests:
		e.Limit, e.Max = "max_pending_requests", int(l.maxPending)
	case policy.Requests:
		e.Limit, e.Max = "max_requests", int(l.max)
	}
	return e
}

// slots are the slots of one priority.
type slots struct{ of *limiter }

// TryAcquire takes a slot. It returns false if none is free.
func (s slots) TryAcquire(r policy.Resource) bool {
	taken, most := s.of.resource(r)
	ok := tryAcquire(taken, most)
	if ok && r == policy.Connections {
		s.of.touch()
	}
	return ok
}

// Acquire takes a slot beyond the limit.
func (s slots) Acquire(r policy.Resource) {
	taken, _ := s.of.resource(r)
	taken.Add(1)
	if r == policy.Connections {
		s.of.touch()
	}
}

// Release returns a slot.
func (s slots) Release(r policy.Resource) {
	taken, _ := s.of.resource(r)
	taken.Add(-1)
}

// resource returns the number of slots of a resource that are taken, and the number of all.
func (l *limiter) resource(r policy.Resource) (taken *counter, most int64) {
	switch r {
	case policy.Connections:
		return &l.connections, l.maxConnections
	case policy.PendingRequests:
		return &l.pending, l.maxPending
	default:
		return &l.requests, l.max
	}
}

// counter counts slots that are taken.
type counter = atomic.Int64

// touch records that there was a connection. Envoy updates cx_open only when a connection begins or
// ends.
func (l *limiter) touch() {
	if !l.connected.Load() {
		l.connected.Store(true)
	}
}

// offerPool registers Envoy's gauges of the limits of a connection pool.
func (l *limiter) offerPool(b *policy.Builder) {
	b.Stat(
		l.gauge("cx_open", func() uint64 { return flag(l.connected.Load() && l.connections.Load() >= l.maxConnections) }),
		l.gauge("cx_pool_open", func() uint64 { return 0 }),
		l.gauge("rq_pending_open", func() uint64 { return flag(l.maxPending > 0 && l.pending.Load() >= l.maxPending) }),
	)
	if !l.cfg.TrackRemaining {
		return
	}
	b.Stat(
		l.gauge("remaining_cx", func() uint64 { return remaining(l.maxConnections, l.connections.Load()) }),
		l.gauge("remaining_pending", func() uint64 { return remaining(l.maxPending, l.pending.Load()) }),
	)
}
