package breaker

import (
	"encoding/binary"
	"math"
	"testing"
	"time"
)

func TestWindow(t *testing.T) {
	const width = time.Second // of the default period's buckets
	tests := map[string]struct {
		add, look time.Duration
		want      int64
	}{
		"immediately":                         {add: 0, look: 0, want: 1},
		"start of a bucket, before period":    {add: 0, look: 10*width - 1, want: 1},
		"start of a bucket, after period":     {add: 0, look: 10 * width, want: 0},
		"end of a bucket, before nine widths": {add: width - 1, look: 10*width - 1, want: 1},
		"end of a bucket, after nine widths":  {add: width - 1, look: 10 * width, want: 0},
		"later bucket":                        {add: 42*width + 1, look: 52*width - 1, want: 1},
		"later bucket, over":                  {add: 42*width + 1, look: 52 * width, want: 0},
		"long idle":                           {add: 3 * width, look: 1000 * width, want: 0},
		"look before the event":               {add: 3 * width, look: 0, want: 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := window{period: DefaultPeriod}
			w.reset(0)
			w.add(tt.add, Failure)
			w.roll(tt.look)
			if got := w.sum[Failure]; got != tt.want {
				t.Errorf("added at %v, seen at %v: got %d, want %d", tt.add, tt.look, got, tt.want)
			}
		})
	}
}

// TestWindow_longPeriod uses a period whose bucket edges overflow a Duration.
func TestWindow_longPeriod(t *testing.T) {
	for _, period := range []time.Duration{math.MaxInt64, math.MaxInt64 - 8, math.MaxInt64/2 + 1, math.MaxInt64 / 10} {
		w := window{period: period}
		w.reset(time.Hour)
		now := time.Hour
		for range 100 {
			w.add(now, Failure)
			now += time.Hour
		}
		if got := w.sum[Failure]; got != 100 {
			t.Errorf("period %d: got %d failures, want 100", period, got)
		}
	}
}

// twins is a window and its slow model, which receive the same events.
type twins struct {
	fast window
	slow slowWindow
	now  time.Duration
}

func newTwins(period, now time.Duration) *twins {
	w := &twins{fast: window{period: period}, slow: slowWindow{period: period}, now: now}
	w.reset()
	return w
}

func (w *twins) reset() {
	w.fast.reset(w.now)
	w.slow.reset(w.now)
}

func (w *twins) roll() {
	w.fast.roll(w.now)
	w.slow.roll(w.now)
}

func (w *twins) add(r Result) {
	w.fast.add(w.now, r)
	w.slow.add(w.now, r)
}

// check compares the two, and checks the window's own consistency.
func (w *twins) check(t *testing.T) {
	t.Helper()
	var sum counts
	for _, b := range w.fast.ring {
		for r, n := range b {
			if n < 0 {
				t.Fatalf("at %v: got %d of %v in a bucket, want none below 0", w.now, n, Result(r))
			}
			sum[r] += n
		}
	}
	if w.fast.sum != sum {
		t.Fatalf("at %v: got sum %v, want that of the buckets, %v", w.now, w.fast.sum, sum)
	}
	if want := w.slow.sum(); sum != want {
		t.Fatalf("at %v: got %v, want %v", w.now, sum, want)
	}
	if got, want := w.fast.failing(), sum[Failure]+sum[Timeout]; got != want {
		t.Fatalf("at %v: got %d failing, want %d", w.now, got, want)
	}
	if got, want := w.fast.volume(), sum[Success]+sum[Failure]+sum[Timeout]; got != want {
		t.Fatalf("at %v: got a volume of %d, want %d", w.now, got, want)
	}
}

func TestWindow_random(t *testing.T) {
	for seed := range uint64(100) {
		s := newSchedule(seed)
		w := newTwins(s.period, s.upTo(time.Hour))
		for i := range 200 {
			w.now += s.step(w.now, w.slow.start, w.now)
			switch n := s.IntN(40); {
			case n == 0:
				w.reset()
			case n == 1:
				w.now -= s.upTo(s.period) // the clock steps back
			case n < 12:
				w.roll()
			default:
				w.add(Result(i % int(resultCount)))
			}
			w.roll()
			w.check(t)
			if t.Failed() {
				t.Fatalf("seed %d, event %d", seed, i)
			}
			if w.now < w.slow.newest {
				w.now = w.slow.newest // steps are relative to it
			}
		}
	}
}

// FuzzWindow applies the same events to a window and to a slow model, which stores every event.
// After each event:
//   - The model has the same counters.
//   - The sum equals that of the buckets, and no bucket is negative.
//   - volume and failing agree with the counters.
//   - No time makes the window panic, not even one before the last.
func FuzzWindow(f *testing.F) {
	const second = time.Second
	script := func(ops ...uint64) []byte {
		var b []byte
		for _, op := range ops {
			b = binary.AppendUvarint(b, op)
		}
		return b
	}
	after := func(d time.Duration, kind uint64) uint64 { return uint64(d)<<2 | kind }
	f.Add(int64(10*second), script())
	f.Add(int64(10), script(after(0, fuzzAdd), after(1, fuzzAdd), after(9, fuzzAdd), after(10, fuzzRoll)))
	f.Add(int64(17), script(after(1, fuzzAdd), after(1, fuzzAdd), after(1, fuzzAdd), after(15, fuzzRoll), after(1, fuzzRoll)))
	f.Add(int64(10*second), script(after(second, fuzzAdd), after(9*second-1, fuzzRoll), after(1, fuzzRoll)))
	f.Add(int64(10*second), script(after(second, fuzzAdd), after(second, fuzzBack), after(5, fuzzAdd), after(11*second, fuzzAdd)))
	f.Add(int64(10*second), script(after(3, fuzzAdd), after(second/2, fuzzReset), after(10*second, fuzzAdd), after(10*second, fuzzRoll)))
	f.Add(int64(1234567891), script(after(1000*second, fuzzAdd), after(123456790, fuzzAdd), after(1, fuzzAdd), after(987654321, fuzzRoll)))

	f.Fuzz(func(t *testing.T, period int64, ops []byte) {
		const longest = 100 * int64(time.Hour)
		w := newTwins(time.Duration(10+(period&math.MaxInt64)%longest), 0)
		for n := range 200 {
			op, size := binary.Uvarint(ops)
			if size <= 0 {
				return
			}
			ops = ops[size:]
			d := time.Duration((op >> 2) % uint64(longest))
			if op&3 == fuzzBack {
				w.now -= min(d, w.now)
			} else {
				w.now += d
			}
			switch op & 3 {
			case fuzzReset:
				w.reset()
			case fuzzRoll:
				w.roll()
			default:
				w.add(Result(n % int(resultCount)))
			}
			w.check(t)
		}
	})
}

// The events of a fuzz script, in the last two bits of a number. The other bits are the time
// that passes first.
const (
	fuzzAdd = iota
	fuzzRoll
	fuzzBack // time steps back, and a result is added
	fuzzReset
)
