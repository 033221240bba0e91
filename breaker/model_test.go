package breaker

import (
	"math/rand/v2"
	"slices"
	"time"
)

// slowWindow is a window that stores each event with its time, and counts all events on each
// read.
type slowWindow struct {
	period time.Duration
	start  time.Duration
	newest time.Duration // the latest time so far: time does not step back here
	events []slowEvent
}

type slowEvent struct {
	at     time.Duration
	result Result
}

func (w *slowWindow) reset(now time.Duration) {
	w.start, w.newest, w.events = now, now, nil
}

func (w *slowWindow) roll(now time.Duration) { w.newest = max(w.newest, now) }

func (w *slowWindow) add(now time.Duration, r Result) {
	w.roll(now)
	w.events = append(w.events, slowEvent{w.newest, r})
}

func (w *slowWindow) sum() counts {
	var sum counts
	for _, e := range w.events {
		if w.bucket(w.newest)-w.bucket(e.at) < 10 {
			sum[e.result]++
		}
	}
	return sum
}

func (w *slowWindow) bucket(at time.Duration) int64 { return int64((at - w.start) * 10 / w.period) }

// slowBreaker implements Expeditor's rules literally: the counters, the flag, and the time from
// which sleep is measured.
type slowBreaker struct {
	threshold float64
	minimum   int64
	sleep     time.Duration
	window    slowCounts
	open      bool
	since     time.Duration
}

// slowCounts is the window of a slowBreaker.
type slowCounts interface {
	reset(now time.Duration)
	roll(now time.Duration)
	add(now time.Duration, r Result)
	sum() counts
}

func newSlowBreaker(cfg Config, now time.Duration) *slowBreaker {
	return newSlowBreakerWith(cfg, now, &slowWindow{period: cfg.withDefaults().Period})
}

func newSlowBreakerWith(cfg Config, now time.Duration, window slowCounts) *slowBreaker {
	cfg = cfg.withDefaults()
	b := &slowBreaker{threshold: cfg.Threshold, minimum: int64(cfg.NonBreakCount), sleep: cfg.Sleep, window: window}
	b.window.reset(now)
	return b
}

func (b *slowBreaker) admit(now time.Duration) verdict {
	b.window.roll(now)
	if !b.open {
		sum := b.window.sum()
		failing := sum[Failure] + sum[Timeout]
		volume := failing + sum[Success]
		if volume == 0 || volume < b.minimum || float64(failing)/float64(volume) < b.threshold {
			return normal
		}
		b.open = true
		b.since = now
		return refused
	}
	if now-b.since > b.sleep {
		b.since = now
		return trial
	}
	return refused
}

func (b *slowBreaker) done(v verdict, r Result, now time.Duration) {
	if v == trial && r == Success {
		b.reset(now)
	}
	b.record(r, now)
}

func (b *slowBreaker) record(r Result, now time.Duration) {
	b.window.roll(now)
	if r != Ignored {
		b.window.add(now, r)
	}
}

func (b *slowBreaker) reset(now time.Duration) {
	b.open = false
	b.window.reset(now)
}

// schedule generates random sequences of events for a breaker.
type schedule struct {
	*rand.Rand
	seed   uint64
	cfg    Config
	sleep  time.Duration
	period time.Duration
}

func newSchedule(seed uint64) *schedule {
	r := rand.New(rand.NewPCG(seed, 7))
	pick := func(ds ...time.Duration) time.Duration { return ds[r.IntN(len(ds))] }
	cfg := Config{
		Threshold:     []float64{Zero, 0.1, 1.0 / 3, 0.5, 0.75, 1, 1.5}[r.IntN(7)],
		NonBreakCount: 1 + r.IntN(12),
		Sleep:         pick(Zero, 1, time.Millisecond, time.Second, 30*time.Second),
		Period:        pick(10, 17, 100*time.Millisecond, 1234567891, 10*time.Second),
	}
	return &schedule{r, seed, cfg, cfg.withDefaults().Sleep, cfg.Period}
}

// step returns a random time to pass: often zero, often up to exactly the end of a bucket or of
// the sleep, or a nanosecond less or more.
func (s *schedule) step(now, start, since time.Duration) time.Duration {
	width := func(n int64) time.Duration { // to the edge n buckets later
		i := int64((now-start)*10/s.period) + n
		return start + (time.Duration(i)*s.period+9)/10 - now
	}
	var d time.Duration
	switch s.IntN(8) {
	case 0, 1, 2:
		return 0
	case 3:
		d = width(1) + time.Duration(s.IntN(3)-1)
	case 4:
		d = width(int64(s.IntN(12))) + time.Duration(s.IntN(3)-1)
	case 5:
		d = since + s.sleep - now + time.Duration(s.IntN(3)-1)
	case 6:
		d = s.upTo(s.period / 4)
	case 7:
		d = s.upTo(3*s.period) + s.sleep
	}
	return max(d, 0)
}

// upTo returns a random duration of at most d.
func (s *schedule) upTo(d time.Duration) time.Duration { return time.Duration(s.Int64N(int64(d) + 1)) }

// result returns a random result. It changes in phases, so that circuits both open and close.
func (s *schedule) result(i int) Result {
	if s.IntN(6) == 0 {
		return Result(s.IntN(int(Ignored) + 1))
	}
	if i/40%2 == 0 {
		return []Result{Failure, Timeout}[s.IntN(2)]
	}
	return Success
}

// flights holds the calls in progress.
type flights[T any] struct{ calls []T }

func (f *flights[T]) add(call T) { f.calls = append(f.calls, call) }

// take removes one of them and returns it.
func (f *flights[T]) take(r *rand.Rand) (call T, ok bool) {
	if len(f.calls) == 0 {
		return call, false
	}
	i := r.IntN(len(f.calls))
	call = f.calls[i]
	f.calls = slices.Delete(f.calls, i, i+1)
	return call, true
}
