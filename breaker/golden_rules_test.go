package breaker

import (
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// The breaker has one documented difference, in docs/expeditor.md under "bucket edges". The gem
// numbers its buckets with doubles, so that an event on an edge that is no finite binary
// fraction can fall one bucket early. The rule replays a trace with both arithmetics. It applies
// if the gem's arithmetic reproduces the recording and whole nanoseconds do not.

// gemWindow is the gem's window with the gem's arithmetic. Mirrors RollingNumber of
// lib/expeditor/rolling_number.rb.
type gemWindow struct {
	width float64
	start *big.Rat // of the newest bucket, in seconds
	ring  [buckets]counts
	at    int
}

func newGemWindow(period time.Duration) *gemWindow {
	return &gemWindow{width: period.Seconds() / buckets}
}

func seconds(d time.Duration) *big.Rat { return big.NewRat(int64(d), int64(time.Second)) }

// rubyFloat returns the difference of two Ruby times as Ruby converts it to a float: whole
// nanoseconds are divided as doubles, fractions by their parts if these are small integers.
func rubyFloat(d *big.Rat) float64 {
	ns := new(big.Rat).Mul(d, big.NewRat(int64(time.Second), 1))
	if ns.IsInt() && ns.Num().IsInt64() {
		return float64(ns.Num().Int64()) / float64(time.Second)
	}
	if num, den := d.Num(), d.Denom(); num.BitLen() < 62 && den.BitLen() < 62 {
		return float64(num.Int64()) / float64(den.Int64())
	}
	f, _ := d.Float64()
	return f
}

func (w *gemWindow) reset(now time.Duration) {
	w.start, w.ring, w.at = seconds(now), [buckets]counts{}, 0
}

func (w *gemWindow) roll(now time.Duration) {
	passed := math.Floor(rubyFloat(new(big.Rat).Sub(seconds(now), w.start)) / w.width)
	if passed <= 0 {
		return
	}
	w.start.Add(w.start, new(big.Rat).SetFloat64(w.width*passed))
	for range int(min(passed, buckets)) {
		w.at = (w.at + 1) % buckets
		w.ring[w.at] = counts{}
	}
}

func (w *gemWindow) add(now time.Duration, r Result) {
	w.roll(now)
	w.ring[w.at][r]++
}

func (w *gemWindow) sum() (sum counts) {
	for _, c := range w.ring {
		for r, n := range c {
			sum[r] += n
		}
	}
	return sum
}

// slowSubject replays traces on a slowBreaker.
type slowSubject struct {
	*slowBreaker
	now time.Duration
}

func (s *slowSubject) advance(at time.Duration) { s.now = at }

func (s *slowSubject) run(out string) bool {
	end, ran := s.begin()
	if ran {
		end(out)
	}
	return ran
}

func (s *slowSubject) begin() (end func(string), ran bool) {
	v := s.admit(s.now)
	if v == refused {
		s.slowBreaker.record(Break, s.now)
		return nil, false
	}
	return func(out string) { s.done(v, traceResults[out], s.now) }, true
}

func (s *slowSubject) record(r Result) { s.slowBreaker.record(r, s.now) }

func (s *slowSubject) reset() { s.slowBreaker.reset(s.now) }

func (s *slowSubject) look() (Status, bool) {
	s.window.roll(s.now)
	return s.window.sum().status(), s.open
}

// asTheGem replays the trace with the gem's arithmetic, or exactly with whole numbers.
func (tr trace) asTheGem(t *testing.T) []traceEvent {
	t.Helper()
	cfg := tr.Config.config()
	return tr.seenBy(t, &slowSubject{slowBreaker: newSlowBreakerWith(cfg, 0, newGemWindow(cfg.withDefaults().Period))})
}

func (tr trace) exactly(t *testing.T) []traceEvent {
	t.Helper()
	return tr.seenBy(t, &slowSubject{slowBreaker: newSlowBreaker(tr.Config.config(), 0)})
}

// seenBy returns the events as s reports them. A call that s refuses has no end.
func (tr trace) seenBy(t *testing.T, s subject) []traceEvent {
	t.Helper()
	flying := map[int]func(string){}
	var events []traceEvent
	for _, e := range tr.Events {
		if _, begun := flying[e.ID]; e.Op == "end" && !begun {
			continue
		}
		ran := happen(t, s, e, flying)
		if e.Ran != nil {
			e.Ran = &ran
		}
		status, open := s.look()
		e.St, e.Open = status.list(), &open
		events = append(events, e)
	}
	return events
}

func (s Status) list() []int64 {
	return []int64{s.Success, s.Failure, s.Rejection, s.Timeout, s.Break, s.Dependency}
}

func sameEvents(a, b []traceEvent) bool {
	return slices.EqualFunc(a, b, func(a, b traceEvent) bool {
		return a.Op == b.Op && a.ID == b.ID && slices.Equal(a.St, b.St) && *a.Open == *b.Open &&
			(a.Ran == nil) == (b.Ran == nil) && (a.Ran == nil || *a.Ran == *b.Ran)
	})
}

// applyRule changes the expectations of a trace that shows the difference. It reports whether
// the trace does.
func (tr *trace) applyRule(t *testing.T) bool {
	t.Helper()
	exact := tr.exactly(t)
	if sameEvents(tr.Events, exact) || !sameEvents(tr.Events, tr.asTheGem(t)) {
		return false
	}
	tr.Events = exact
	return true
}

// TestRule_explainsTheRecordings checks that the gem's arithmetic reproduces each recording.
func TestRule_explainsTheRecordings(t *testing.T) {
	for _, tr := range readTraces(t) {
		if !sameEvents(tr.Events, tr.asTheGem(t)) {
			t.Errorf("%s: got another result from the gem's arithmetic, want the recorded one", tr.Name)
		}
	}
}

// TestRule_randomTraces checks the rule on traces with random periods and instants. The gem's
// arithmetic takes the place of the recording.
func TestRule_randomTraces(t *testing.T) {
	const traces = 400
	different := 0
	for seed := range uint64(traces) {
		tr := randomTrace(rand.New(rand.NewPCG(seed, 3)))
		tr.Events = tr.asTheGem(t)
		if tr.applyRule(t) {
			different++
		}
		tr.replay(t, newCoreSubject(tr.Config), true)
	}
	if different < traces/20 || different > traces*3/4 {
		t.Errorf("got %d of %d traces with a difference, want some, but not most", different, traces)
	}
}

// randomTrace returns a trace whose calls are often on bucket edges.
func randomTrace(r *rand.Rand) *trace {
	period := []int64{1_000_000, 3_000_000, 700_000, 2_500_000, 10_000_000, 1 + r.Int64N(20_000_000)}[r.IntN(6)] + 1000
	if r.IntN(2) == 0 {
		period = period / 1000 * 1000
	}
	sleep, count, threshold := int64(1000+r.IntN(2_000_000)), 1+r.IntN(6), 0.5
	tr := &trace{Config: traceConfig{Threshold: &threshold, NonBreakCount: &count, SleepUS: &sleep, PeriodUS: &period}}
	at, id := int64(0), 0
	for range 60 {
		edge := (at*10/period + 1 + r.Int64N(3)) * period / 10
		at += []int64{0, max(edge-at, 0), r.Int64N(period / 2), 1}[r.IntN(4)]
		e, ran := traceEvent{Op: "run", Out: []string{"success", "failure", "timeout", "break"}[r.IntN(4)]}, false
		switch now := at; r.IntN(8) {
		case 0:
			e = traceEvent{At: &now, Op: "status"}
		case 1:
			id++
			e = traceEvent{At: &now, Op: "begin", ID: id, Ran: &ran}
		case 2:
			e = traceEvent{At: &now, Op: "end", ID: 1 + r.IntN(id+1), Out: e.Out}
		default:
			e.At, e.Ran = &now, &ran
		}
		tr.Events = append(tr.Events, e)
	}
	return tr
}
