package soak

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
)

// ledger records what happened to the calls of a round.
type ledger struct {
	seed  uint64
	began time.Time

	uncounted *record // of bodies that are not checked

	mu      sync.Mutex
	records map[uint64]*record // guarded by mu
	tallies map[string]*tally  // by upstream; guarded by mu
	open    map[string]int     // connections in use, by address; guarded by mu
	stray   []string           // events without a call; guarded by mu
}

// tally counts the events of one upstream.
type tally struct {
	kinds           [policy.EventEnd + 1]uint64
	overflow, broke uint64 // refused by limits and by breakers
	grpc            uint64 // calls of gRPC that ended
}

// record is what happened to one call.
type record struct {
	ledger *ledger
	n      uint64

	mu       sync.Mutex
	log      []string                 // guarded by mu
	kinds    [policy.EventEnd + 1]int // guarded by mu
	open     map[string]int           // bodies in use, by kind; guarded by mu
	returned bool                     // guarded by mu
}

func newLedger(seed uint64) *ledger {
	l := &ledger{
		seed: seed, began: time.Now(),
		records: map[uint64]*record{}, tallies: map[string]*tally{}, open: map[string]int{},
	}
	l.uncounted = &record{ledger: l, open: map[string]int{}}
	return l
}

// again distinguishes calls that have the same number.
const again = 1 << 32

// begin opens the record of call n, or of another call with that number.
func (l *ledger) begin(n uint64, format string, args ...any) *record {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.records[n] != nil {
		n += again
	}
	r := &record{ledger: l, n: n, open: map[string]int{}}
	l.records[n] = r
	r.log = []string{fmt.Sprintf("call %d: ", r.n) + fmt.Sprintf(format, args...)}
	return r
}

// find returns the record of call n, nil if there is none.
func (l *ledger) find(n uint64) *record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.records[n]
}

// all returns the records in the order of their numbers.
func (l *ledger) all() []*record {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.SortedFunc(maps.Values(l.records), func(a, b *record) int { return cmp.Compare(a.n, b.n) })
}

// use records that a connection is in use; free records that it is no longer.
func (l *ledger) use(kind string)  { l.count(kind, 1) }
func (l *ledger) free(kind string) { l.count(kind, -1) }

func (l *ledger) count(kind string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[kind] += n
}

// listen is a listener of all upstreams.
func (l *ledger) listen(ctx context.Context, e policy.Event) {
	r := recordOf(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	if r == nil {
		l.stray = append(l.stray, fmt.Sprintf("event %q without a call", e.Kind))
		return
	}
	l.of(e.Call.Upstream()).count(e)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kinds[e.Kind]++
	r.add("%v %d: %v %v %v", e.Kind, e.Call.Attempt(), e.Outcome.Conditions, e.Outcome.Detail, e.Outcome.Err)
}

// of returns the tally of an upstream. The caller holds mu.
func (l *ledger) of(upstream string) *tally {
	t := l.tallies[upstream]
	if t == nil {
		t = &tally{}
		l.tallies[upstream] = t
	}
	return t
}

func (t *tally) count(e policy.Event) {
	t.kinds[e.Kind]++
	switch {
	case e.Kind == policy.EventEnd && e.Call.Request().Protocol == "grpc":
		t.grpc++
	case e.Kind != policy.EventRefused:
	case e.Outcome.Detail == limits.Overflow:
		t.overflow++
	case e.Outcome.Detail == breaker.CircuitOpen:
		t.broke++
	}
}

// note adds a line to the record of a call.
func (r *record) note(format string, args ...any) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(format, args...)
}

// add is note for a caller that holds mu.
func (r *record) add(format string, args ...any) {
	at := time.Since(r.ledger.began).Round(100 * time.Microsecond)
	r.log = append(r.log, fmt.Sprintf("  %v ", at)+fmt.Sprintf(format, args...))
}

// use records that a body of the call is in use; free records that it is no longer.
func (r *record) use(kind string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open[kind]++
}

func (r *record) free(kind string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n, ok := r.open[kind]; ok {
		r.open[kind] = n - 1
	}
}

// forget ends the counting of a kind.
func (r *record) forget(kind string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, kind)
}

// returns records that the caller has the call's result, or has panicked.
func (r *record) returns(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.returned = true
	r.add(format, args...)
}

// wrong says what is wrong with the call, "" if nothing is.
func (r *record) wrong() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	ends, attempts, attemptEnds := r.kinds[policy.EventEnd], r.kinds[policy.EventAttempt], r.kinds[policy.EventAttemptEnd]
	switch {
	case !r.returned:
		return "it has not returned"
	case ends != 1:
		return fmt.Sprintf("%d events of its end, want 1", ends)
	case attempts != attemptEnds:
		return fmt.Sprintf("%d attempts, but %d attempt ends", attempts, attemptEnds)
	}
	for kind, n := range r.open {
		if n != 0 {
			return fmt.Sprintf("%s: %d not closed", kind, n)
		}
	}
	return ""
}

// complaints is a check: each call has returned and ended once, as did its attempts, and
// everything that was in use has been freed.
func (l *ledger) complaints() (all []string) {
	for _, r := range l.all() {
		if wrong := r.wrong(); wrong != "" {
			all = append(all, fmt.Sprintf("call %d: %s", r.n, wrong))
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for kind, n := range l.open {
		if n != 0 {
			all = append(all, fmt.Sprintf("connections to %s: %d in use", kind, n))
		}
	}
	return append(all, l.stray...)
}

// unsettled prints the records of the first calls that went wrong.
func (l *ledger) unsettled() string {
	var text strings.Builder
	shown := 0
	for _, r := range l.all() {
		if wrong := r.wrong(); wrong != "" && shown < 5 {
			shown++
			r.mu.Lock()
			fmt.Fprintf(&text, "%s\n  %s\n", strings.Join(r.log, "\n"), wrong)
			r.mu.Unlock()
		}
	}
	return text.String()
}

type recordKey struct{}

// with returns a context whose calls are recorded in r.
func (r *record) with(ctx context.Context) context.Context {
	return context.WithValue(ctx, recordKey{}, r)
}

// recordOf returns the record of the call that has ctx, nil if there is none.
func recordOf(ctx context.Context) *record {
	r, _ := ctx.Value(recordKey{}).(*record)
	return r
}
