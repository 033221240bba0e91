package retry

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/internal/racing"
	"github.com/pillion-go/pillion/policy"
)

// hedged is a call whose attempts continue after their per-try timeout, concurrently with the next
// one. Mirrors Envoy's hedge_on_per_try_timeout:
//
//   - An attempt is retried once: when its per-try timeout fires or when it fails, whichever is first.
//   - The first response that needs no retry is the result. A response that needs a retry but cannot
//     have one is the result if no other attempt is running; so is a failure without a response.
//   - The call keeps the flags of retries that were not allowed, whatever its result.
type hedged struct {
	*loop
	race *racing.Race
	most int
	wait waiter

	n       int            // retries that were made or scheduled
	last    *policy.Call   // the attempt that was started last
	spare   *policy.Call   // the next attempt, derived before the last one ran; nil if none
	retried []*policy.Call // attempts that were retried while they ran
	backOff *backOffs      // the wait before the next attempt; nil if none
	release func()         // frees the slot of the last retry; nil if none
	armed   bool           // the last decision was to retry, or not to retry because no retry was left
	tooLate bool           // the last decision was not to retry, for lack of time
	counted bool           // in the budget
	flags   envoy.Flags
	failed  error // why the last retry was needed; nil for a per-try timeout
}

// backOffs is a wait before the next attempt.
type backOffs struct {
	call  *policy.Call    // the attempt that is retried
	o     *policy.Outcome // its outcome
	pause policy.BackOff
	timer *time.Timer
}

// hedge makes the attempts of a call concurrently.
func (l *loop) hedge(ctx context.Context, c *policy.Call) *policy.Outcome {
	h := &hedged{loop: l, race: racing.Start(ctx, l.next)}
	defer h.end()
	h.most, h.wait = l.rule.begin(c)
	c.OutlastPerTry(h.race.ReportOverdue)
	h.run(c) //nolint:contextcheck // the race holds it
	for {
		if o := h.step(ctx); o != nil {
			return o
		}
	}
}

// end ends the race and releases what the call still holds.
func (h *hedged) end() {
	h.race.End()
	h.free()
	if h.backOff != nil {
		h.backOff.timer.Stop()
	}
}

// free frees the slot of the last retry.
func (h *hedged) free() {
	if h.release != nil {
		h.release()
		h.release = nil
	}
}

// run starts an attempt. It first derives the next one, which must not be derived from a running Call.
func (h *hedged) run(c *policy.Call) {
	h.last, h.spare = c, nil
	if h.n < h.most {
		h.spare = c.NextBeside()
	}
	h.race.Run(c)
}

// step waits for the next event. It returns the result of the call, or nil if there is none yet.
func (h *hedged) step(ctx context.Context) *policy.Outcome {
	var due <-chan time.Time
	var canceled <-chan struct{} // nil while attempts run, because the end of ctx ends them
	if h.backOff != nil {
		due = h.backOff.timer.C
		if h.race.Running() == 0 {
			canceled = ctx.Done()
		}
	}
	select {
	case r := <-h.race.Results():
		h.race.Received(r)
		return h.received(r)
	case c := <-h.race.Overdue():
		h.outlasted(c)
	case <-due:
		h.retry() //nolint:contextcheck // the race holds it
	case <-canceled:
		return h.backOff.call.Gone(ctx, h.backOff.o)
	}
	return nil
}

// outlasted retries an attempt that continues after its per-try timeout.
func (h *hedged) outlasted(c *policy.Call) {
	if !h.race.Runs(c) || h.backOff != nil {
		return
	}
	o := &policy.Outcome{Conditions: policy.Timeout | policy.PerTryTimeout}
	h.count(o)
	c.Emit(policy.EventOverdue, o)
	if h.schedule(c, h.spare, o) {
		h.retried, h.failed = append(h.retried, c), nil
	}
}

// count counts the call in the budget, once.
func (h *hedged) count(o *policy.Outcome) {
	if !h.counted && !o.Has(policy.Refused) {
		h.counted = true
		h.deposit(o)
	}
}

// received handles the result of an attempt. It returns the result of the call, or nil if there is
// none yet.
func (h *hedged) received(r racing.Result) *policy.Outcome {
	c, o := r.Call, r.Outcome
	h.count(o)
	if c == h.last {
		h.free()
	}
	again := h.again(c, o)
	if again && !slices.Contains(h.retried, c) && h.schedule(c, c, o) {
		if !o.Has(policy.Refused) {
			h.failed = o.Failure()
		}
		h.race.Drop(r, max(h.backOff.pause.Wait, time.Millisecond))
		return nil
	}
	if (again || isLost(o)) && (h.race.Running() > 0 || h.backOff != nil) {
		h.race.Drop(r, 0)
		return nil
	}
	return h.choose(r, again)
}

// isLost reports whether an attempt had no response, so that another attempt may have a better
// result.
func isLost(o *policy.Outcome) bool {
	return o.Err != nil && o.Has(policy.NoResponse|policy.Refused) && !cutShort(o)
}

// schedule schedules a retry of c after o, and reports whether it is allowed. A limit of retries
// counts the slots that holder has: c if it has returned, or the next attempt, which has none, if c
// still runs.
func (h *hedged) schedule(c, holder *policy.Call, o *policy.Outcome) bool {
	h.free()
	h.tooLate = false
	pause, ok := h.pause(c, o, h.n+1, h.most, h.wait)
	if !ok { // the last retry may still be a success
		exhausted(c, o)
		h.flags |= o.Flags & envoy.URX
		return false
	}
	h.armed = false
	if left, limited := c.Remaining(); limited && left <= pause.Wait {
		c.Emit(policy.EventRetryTooLate, o)
		h.tooLate = true
		return false
	}
	release, ok := h.acquire(holder, o)
	if !ok {
		h.flags |= envoy.UO
		c.Emit(policy.EventRetryOverflow, o)
		return false
	}
	h.n++
	h.release, h.armed = release, true
	c.EmitBackOff(policy.EventRetryScheduled, o, pause)
	h.backOff = &backOffs{c, o, pause, time.NewTimer(pause.Wait)}
	return true
}

// retry starts the next attempt after the back-off.
func (h *hedged) retry() {
	b := h.backOff
	h.backOff = nil
	h.rule.waited(h.n, b.o)
	b.call.EmitBackOff(policy.EventRetry, b.o, b.pause)
	if b.o.Has(policy.PerTryTimeout) {
		h.spare.FollowsTimeout()
	}
	h.run(h.spare)
}

// choose returns the result of an attempt as that of the call. again reports whether the attempt
// needs a retry that it cannot have.
func (h *hedged) choose(r racing.Result, again bool) *policy.Outcome {
	if timeOver(r.Outcome) {
		h.awaitOthers()
	}
	c, o := r.Call, h.race.Choose(r)
	o.Flags |= h.flags
	switch {
	case again:
		return h.unsettled(c, o)
	case o.Has(policy.Refused) && h.failed != nil:
		o.Err = fmt.Errorf("%w; before that: %w", o.Err, h.failed)
	case h.armed && !slices.Contains(h.retried, c) && !o.Has(policy.Refused|policy.Informational) && !cutShort(o):
		c.Emit(policy.EventRetrySuccess, o)
	}
	h.checkBody(c, o)
	return o
}

// unsettled returns the result of a call that needs a retry but cannot have one.
func (h *hedged) unsettled(c *policy.Call, o *policy.Outcome) *policy.Outcome {
	if left, limited := c.Remaining(); h.tooLate && o.Err != nil && limited && left <= 0 {
		o.Discard() // a policy inside may have turned a response into an error
		return c.Expired(o)
	}
	return o
}

// awaitOthers waits for the other attempts, which end by the same timeout. Choose would cancel them,
// and they would count as canceled.
func (h *hedged) awaitOthers() {
	for h.race.Running() > 0 {
		r := <-h.race.Results()
		h.race.Received(r)
		h.race.Drop(r, 0)
	}
}
