package hedge

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/internal/racing"
	"github.com/pillion-go/pillion/policy"
)

// Wrap makes the latencies and the budget of an upstream and wraps next, which makes one attempt,
// with hedges.
func (c Config) Wrap(b *policy.Builder, next policy.Func) (policy.Func, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	b.Require(policy.Needs{Cancel: true})
	c = c.withDefaults()
	h := &hedger{config: c, next: next, epoch: time.Now(), budget: c.Budget.start()}
	if !c.fixed() {
		h.latency = newLatency(c.Percentile, c.Window, c.MinSamples)
	}
	h.offer(b)
	return h.call, nil
}

// hedger hedges the calls of one upstream.
type hedger struct {
	config  Config
	next    policy.Func
	epoch   time.Time
	latency *latency // nil for a fixed delay
	budget  *budget

	sent, won, overflow atomic.Uint64
}

// offer registers the statistics.
func (h *hedger) offer(b *policy.Builder) {
	const prefix = "hedge."
	b.Stat(
		policy.Stat{Kind: policy.Counter, Name: prefix + "sent", Read: h.sent.Load},
		policy.Stat{Kind: policy.Counter, Name: prefix + "won", Read: h.won.Load},
		policy.Stat{Kind: policy.Counter, Name: prefix + "overflow", Read: h.overflow.Load},
		policy.Stat{Kind: policy.Gauge, Name: prefix + "delay_ms", Read: func() uint64 {
			return uint64(h.delay() / time.Millisecond) //nolint:gosec // it is not negative
		}},
	)
}

// now returns the time on the clock of the latencies.
func (h *hedger) now() time.Duration { return time.Since(h.epoch) }

// delay returns how long an attempt may currently wait for its response headers, 0 for no limit.
func (h *hedger) delay() time.Duration {
	if h.latency == nil {
		return h.config.Delay
	}
	if d := h.latency.estimate(h.now()); d != 0 {
		return max(d, h.config.MinDelay)
	}
	return h.config.Delay
}

// call makes the attempts of one call.
func (h *hedger) call(ctx context.Context, c *policy.Call) *policy.Outcome {
	h.budget.deposit()
	delay := h.delay()
	if delay == 0 || !h.config.AnyCall && !c.Idempotent() || !c.Concurrent() {
		return h.attempt(ctx, c)
	}
	r := &run{hedger: h, race: racing.Start(ctx, h.attempt), first: c}
	defer r.race.End()
	c.NotifyAfter(delay, r.race.ReportOverdue)
	r.start(c) //nolint:contextcheck // the race holds it
	for {
		if o := r.step(); o != nil { //nolint:contextcheck // the race holds it
			return o
		}
	}
}

// attempt makes one attempt and records its latency.
func (h *hedger) attempt(ctx context.Context, c *policy.Call) *policy.Outcome {
	if h.latency == nil {
		return h.next(ctx, c)
	}
	began := h.now()
	o := h.next(ctx, c)
	now := h.now()
	h.record(o, now, now-began)
	return o
}

// record records the latency of a response. An attempt that was cut off would have taken longer than
// took. It counts only if it was already slow.
func (h *hedger) record(o *policy.Outcome, now, took time.Duration) {
	slow := o.Has(policy.Timeout|policy.Cancelled) && took >= h.latency.estimate(now)
	if slow || o.Detail == envoy.ViaUpstream {
		h.latency.record(now, took)
	}
}

// run is a call whose attempts may run concurrently.
type run struct {
	*hedger
	race   *racing.Race
	first  *policy.Call
	spare  *policy.Call // the next attempt, derived before the last one ran; nil if none
	hedges int
}

// start starts an attempt. It first derives the next one, which must not be derived from a running Call.
func (r *run) start(c *policy.Call) {
	r.spare = nil
	if r.hedges < r.config.MaxHedges {
		r.spare = c.Next()
	}
	r.race.Run(c)
}

// step waits for the next event. It returns the result of the call, or nil if there is none yet.
func (r *run) step() *policy.Outcome {
	select {
	case result := <-r.race.Results():
		r.race.Received(result)
		return r.received(result)
	case c := <-r.race.Overdue():
		r.hedge(c)
	}
	return nil
}

// received handles the result of an attempt.
func (r *run) received(result racing.Result) *policy.Outcome {
	if bad(result.Outcome) && r.race.Running() > 0 {
		r.race.Drop(result, 0)
		return nil
	}
	if result.Call != r.first {
		r.won.Add(1)
	}
	return r.race.Choose(result)
}

// bad reports whether another attempt may have a better result. None can if the caller was canceled
// or the total timeout has fired.
func bad(o *policy.Outcome) bool {
	over := o.Has(policy.Cancelled|policy.Invalid) || o.Has(policy.Timeout) && !o.Has(policy.NoResponse)
	return o.Has(policy.Failure|policy.Refused) && !over
}

// hedge starts the next attempt because c is slow.
func (r *run) hedge(c *policy.Call) {
	if r.spare == nil || !r.race.Runs(c) || !c.Replayable() {
		return
	}
	if !r.budget.withdraw() {
		r.overflow.Add(1)
		return
	}
	c.Emit(policy.EventOverdue, &policy.Outcome{})
	r.hedges++
	r.sent.Add(1)
	r.start(r.spare)
}
