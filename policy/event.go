package policy

import (
	"context"
	"fmt"
	"time"
)

// EventKind identifies what happened to a call.
type EventKind uint8

// The kinds of events.
const (
	EventAttempt            EventKind = iota // an attempt goes to the wire
	EventAttemptEnd                          // that attempt, its body included, has ended
	EventRefused                             // a policy refused an attempt
	EventRetryScheduled                      // the outcome will be discarded and the call retried after the back-off
	EventRetry                               // the back-off is over, the call is retried
	EventRetryLimitExceeded                  // the call needs a retry, but the retries are used up
	EventRetryOverflow                       // the call needs a retry, but the budget or the limit of concurrent retries is used up
	EventRetryAbandoned                      // the call cannot be retried, because its body cannot be sent again
	EventRetryTooLate                        // the call needs a retry, but the back-off does not fit in the time left
	EventRetrySuccess                        // a call that was retried has a result that needs no further retry, whatever it is
	EventDelayed                             // a policy delays the call on purpose, for as long as the back-off says
	EventOverdue                             // an attempt takes long, and goes on while another may run concurrently
	EventEnd                                 // the call, its body included, has ended
)

//nolint:gochecknoglobals // a table that nothing writes
var eventNames = [...]string{
	EventAttempt:            "attempt",
	EventAttemptEnd:         "attempt end",
	EventRefused:            "refused",
	EventRetryScheduled:     "retry scheduled",
	EventRetry:              "retry",
	EventRetryLimitExceeded: "retry limit exceeded",
	EventRetryOverflow:      "retry overflow",
	EventRetryAbandoned:     "retry abandoned",
	EventRetryTooLate:       "retry too late",
	EventRetrySuccess:       "retry success",
	EventDelayed:            "delayed",
	EventOverdue:            "overdue",
	EventEnd:                "end",
}

// String returns the name of the kind in lower case, such as "retry scheduled".
func (k EventKind) String() string {
	if int(k) >= len(eventNames) {
		return fmt.Sprintf("EventKind(%d)", uint8(k))
	}
	return eventNames[k]
}

// Event is something that happened to a call. It is valid until the listener returns.
type Event struct {
	Kind    EventKind
	Call    *Call    // the attempt; the first attempt if the event concerns the whole call
	Outcome *Outcome // the outcome so far; empty at EventAttempt
	BackOff BackOff  // at EventRetryScheduled, EventRetry and EventDelayed
}

// BackOff is a wait before the next attempt.
type BackOff struct {
	Wait        time.Duration
	RateLimited bool // the response asked for this wait, in a header such as Retry-After
}

// Listener receives the events of an upstream's calls. It is a [Policy]: pass it to [pillion.New],
// anywhere among the others. It runs in the goroutine in which the event happens, with the caller's
// context, and no lock is held. It must be safe for concurrent use, and fast.
type Listener func(ctx context.Context, e Event)

// Wrap registers the listener.
func (l Listener) Wrap(b *Builder, next Func) (Func, error) {
	if l != nil {
		b.Listen(l)
	}
	return next, nil
}

// Emit reports an event of the call, with its outcome so far, to the upstream's listeners.
func (c *Call) Emit(kind EventKind, o *Outcome) {
	if kind == EventRetryOverflow {
		c.frame.overflowed.Store(true)
	}
	c.EmitBackOff(kind, o, BackOff{})
}

// EmitBackOff is Emit for an event with a back-off.
func (c *Call) EmitBackOff(kind EventKind, o *Outcome, b BackOff) {
	switch f, listeners := c.frame, c.frame.chain.listeners; len(listeners) {
	case 0:
	case 1: // without the copy of the event and the deferred function that emit needs
		listeners[0](f.ctx, Event{Kind: kind, Call: c, Outcome: o, BackOff: b})
	default:
		emit(f.ctx, listeners, Event{Kind: kind, Call: c, Outcome: o, BackOff: b})
	}
}

// emit calls the listeners. If one panics, the others still receive the event, and then the panic
// goes on.
func emit(ctx context.Context, listeners []Listener, e Event) {
	if len(listeners) > 1 {
		defer emit(ctx, listeners[1:], e)
	}
	listeners[0](ctx, e)
}

// RetryOverflow reports whether the call needed a retry that was not made because the budget or the
// limit of concurrent retries was used up: see [EventRetryOverflow]. The flag UO alone does not
// distinguish that from a refused call.
func (c *Call) RetryOverflow() bool { return c.frame.overflowed.Load() }
