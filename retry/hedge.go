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

// hedged is a call whose attempts go on when the limit of one attempt is over, while the next one
// runs beside them. It decides as Envoy does with hedge_on_per_try_timeout:
//
//   - An attempt is retried once, when its limit is over or when it fails, whichever is first.
//   - The first response that is not retried is the result. A response that would be retried, but
//     cannot be, is the result if no other attempt is under way; so is a failure without a response.
//   - Flags of retries that were not made stay with the call, whatever the result.
type hedged struct {
	*loop
	race    *racing.Race
	overdue chan *policy.Call
	most    int
	wait    waiter

	n       int            // retries that were made, or are waited for
	last    *policy.Call   // the attempt that was started last
	spare   *policy.Call   // the next one, made before the last one ran; nil if there is none
	retried []*policy.Call // attempts that were retried while they run
	backOff *backOffs      // the wait for the next attempt; nil for none
	release func()         // of the retry's slot; nil for none
	armed   bool           // the last decision was for a retry, or against one because none was left
	tooLate bool           // the last decision was against one, for lack of time
	counted bool           // in the budget
	flags   envoy.Flags
	failed  error // why the last retry was needed; nil for the limit of an attempt
}

// backOffs is a wait for the next attempt.
type backOffs struct {
	call  *policy.Call    // the attempt that is retried
	o     *policy.Outcome // why
	pause policy.BackOff
	timer *time.Timer
}

// hedge makes the attempts of a call.
func (l *loop) hedge(ctx context.Context, c *policy.Call) *policy.Outcome {
	h := &hedged{loop: l, race: racing.Start(ctx, l.next), overdue: make(chan *policy.Call)}
	defer h.end()
	h.most, h.wait = l.rule.begin(c)
	c.OutlastPerTry(h.isOverdue)
	h.run(c) //nolint:contextcheck // the race has it
	for {
		if o := h.step(ctx); o != nil {
			return o
		}
	}
}

// isOverdue says that the limit of an attempt is over. It is called in a goroutine of the runtime.
func (h *hedged) isOverdue(c *policy.Call) {
	select {
	case h.overdue <- c:
	case <-h.race.Over():
	}
}

// end ends what is left of the call's attempts.
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

// run starts an attempt. The one that may follow is made before.
func (h *hedged) run(c *policy.Call) {
	h.last, h.spare = c, nil
	if h.n < h.most {
		h.spare = c.NextBeside()
	}
	h.race.Run(c)
}

// step waits for what happens next. It returns the result of the call, nil for none yet.
func (h *hedged) step(ctx context.Context) *policy.Outcome {
	var due <-chan time.Time
	var gone <-chan struct{} // attempts that are under way notice by themselves
	if h.backOff != nil {
		due = h.backOff.timer.C
		if h.race.Running() == 0 {
			gone = ctx.Done()
		}
	}
	select {
	case r := <-h.race.Results():
		h.race.Received(r)
		return h.received(r)
	case c := <-h.overdue:
		h.outlasted(c)
	case <-due:
		h.retry() //nolint:contextcheck // likewise
	case <-gone:
		return h.backOff.call.Gone(ctx, h.backOff.o)
	}
	return nil
}

// outlasted retries an attempt that goes on after its limit.
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

// received takes the result of an attempt. It returns that of the call, nil for none yet.
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

// isLost reports whether an attempt brought nothing that a caller could use, while another one
// may.
func isLost(o *policy.Outcome) bool {
	return o.Err != nil && o.Has(policy.NoResponse|policy.Refused) && !cutShort(o)
}

// schedule decides about one more attempt after o. holder is the Call whose state says what a
// limit of retries counts of the attempt: of one that is still under way, that of the next one,
// which has none.
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

// retry starts the next attempt: the back-off is over.
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

// choose makes the result of an attempt that of the call. again says that it would be retried, if
// it could be.
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

// unsettled is the result of a call that would be retried.
func (h *hedged) unsettled(c *policy.Call, o *policy.Outcome) *policy.Outcome {
	if left, limited := c.Remaining(); h.tooLate && o.Err != nil && limited && left <= 0 {
		o.Discard() // a policy inside may have made an error of a response
		return c.Expired(o)
	}
	return o
}

// awaitOthers has the other attempts end by the same limit on time, before they are canceled: each
// of them has run into it.
func (h *hedged) awaitOthers() {
	for h.race.Running() > 0 {
		r := <-h.race.Results()
		h.race.Received(r)
		h.race.Drop(r, 0)
	}
}
