package policy

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// streamed is an Exchange whose responses stay open.
type streamed struct{}

func (streamed) Request() Request                              { return Request{Protocol: "stream"} }
func (streamed) RequestHeader(string) []string                 { return nil }
func (streamed) ResponseHeader(*Outcome, string) []string      { return nil }
func (streamed) Header(*Attempt) Header                        { return nil }
func (streamed) Try(_ context.Context, a *Attempt, o *Outcome) { o.Value = "open"; a.Open() }
func (streamed) Classify(_ *Attempt, o *Outcome, err error)    { o.Blame(err, Failed, nil) }

// watched returns a chain that calls ended at each end, and a function that opens a response.
func watched(t *testing.T, ended func(*Outcome)) (*Chain, func(ctx context.Context) *Stream) {
	t.Helper()
	hook := func(_ *Call, end *Outcome) { ended(end) }
	c, err := NewChain("recipes", hooked{hook})
	if err != nil {
		t.Fatal(err)
	}
	return c, func(ctx context.Context) *Stream {
		f := &Frame{}
		f.Init(c, streamed{})
		a := f.Invoke(ctx).Pending()
		s := a.Stream()
		a.Watch()
		return s
	}
}

// hooked is a policy with a hook at the end of each call.
type hooked struct{ hook Hook }

func (h hooked) Wrap(_ *Builder, next Func) (Func, error) {
	return func(ctx context.Context, c *Call) *Outcome {
		o := next(ctx, c)
		o.OnEnd(c, h.hook)
		return o
	}, nil
}

// TestSweep pins that the sweep ends the responses of canceled callers at the next twentieth of a
// second, and no others. Its timer runs only while there are open responses.
func TestSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		causes := make(chan error, 8)
		c, open := watched(t, func(end *Outcome) { causes <- end.Err })
		ctx, leave := context.WithCancelCause(t.Context())
		errLeft := errors.New("left")
		left, stays := open(ctx), open(t.Context())
		time.Sleep(310 * time.Millisecond)
		leave(errLeft)
		time.Sleep(39 * time.Millisecond)
		if len(causes) != 0 {
			t.Fatalf("before the tick: got %d ends, want none", len(causes))
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if err := <-causes; !errors.Is(err, errLeft) || !errors.Is(err, context.Canceled) {
			t.Errorf("after the tick: got %v, want the cause", err)
		}
		if err := left.End(nil); !errors.Is(err, errLeft) {
			t.Errorf("a late end: got %v, want the cause", err)
		}
		if err := stays.End(nil); err != nil || len(causes) != 1 || <-causes != nil {
			t.Errorf("the other response: got %v, want one clean end", err)
		}
		if n, _ := c.sweep.state(); n != 0 {
			t.Errorf("got %d in the sweep, want none", n)
		}
		time.Sleep(time.Second)
		if _, armed := c.sweep.state(); armed {
			t.Error("the timer still runs, without an open response")
		}
	})
}

// state returns how many attempts the sweep checks, and whether its timer runs.
func (w *sweep) state() (n int, armed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for of := w.first; of != nil; of = of.link.next {
		n++
	}
	return n, w.armed
}

// ownWatch reports whether s has its own watch.
func (s *Stream) ownWatch() bool {
	s.chain.sweep.mu.Lock()
	defer s.chain.sweep.mu.Unlock()
	return s.call.link.stop != nil
}

// TestSweep_model opens and ends responses at random, and compares the sweep with a list.
func TestSweep_model(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for seed := range uint64(100) {
			r := rand.New(rand.NewPCG(seed, 2))
			var ended atomic.Int64
			c, open := watched(t, func(*Outcome) { ended.Add(1) })
			type call struct {
				stream *Stream
				leave  context.CancelFunc
			}
			var model []call
			opened := 0
			for range 200 {
				switch n := len(model); {
				case n == 0 || r.IntN(2) == 0:
					ctx, cancel := context.WithCancel(t.Context())
					model = append(model, call{open(ctx), cancel})
					opened++
				default:
					i := r.IntN(n)
					x := model[i]
					model = slices.Delete(model, i, i+1)
					switch r.IntN(3) {
					case 0:
						_ = x.stream.End(nil)
					case 1:
						_ = x.stream.Close(func() error { return nil })
					default:
						x.leave()
						time.Sleep(sweepInterval)
						synctest.Wait()
					}
					x.leave()
				}
				inside, _ := c.sweep.state()
				for _, x := range model {
					if x.stream.ownWatch() {
						inside++
					}
				}
				ends := int(ended.Load())
				if inside != len(model) || ends != opened-len(model) {
					t.Fatalf("seed %d: got %d open and %d ends, want %d and %d", seed, inside, ends, len(model), opened-len(model))
				}
			}
			for _, x := range model {
				x.leave()
			}
			time.Sleep(sweepInterval)
			synctest.Wait()
			if ends := int(ended.Load()); ends != opened {
				t.Fatalf("seed %d: got %d ends, want %d", seed, ends, opened)
			}
		}
	})
}

// TestSweep_long pins that a response that stays open gets its own watch: the end of its caller's
// context is then noticed immediately, and the timer stops.
func TestSweep_long(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ends := make(chan error, 8)
		c, open := watched(t, func(end *Outcome) { ends <- end.Err })
		ctx, leave := context.WithCancel(t.Context())
		s, other := open(ctx), open(t.Context())
		time.Sleep(sweeps*sweepInterval + time.Millisecond)
		synctest.Wait()
		if n, armed := c.sweep.state(); n != 0 || armed || !s.ownWatch() {
			t.Errorf("got %d in the sweep, armed %v, want none", n, armed)
		}
		leave()
		synctest.Wait()
		if err := <-ends; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
		if err := other.End(nil); err != nil || len(ends) != 1 {
			t.Errorf("the other response: got %v and %d ends, want one", err, len(ends))
		}
	})
}

// TestSweep_panic pins that the sweep goes on after a panic of a caller's context.
func TestSweep_panic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ends atomic.Int64
		_, open := watched(t, func(*Outcome) { ends.Add(1) })
		ctx, leave := context.WithCancel(t.Context())
		open(ctx)
		broken := &brittle{Context: ctx}
		broken.panics.Store(true)
		open(broken)
		leave()
		time.Sleep(sweepInterval)
		synctest.Wait()
		broken.panics.Store(false)
		time.Sleep(sweepInterval)
		synctest.Wait()
		if n := ends.Load(); n != 2 {
			t.Errorf("got %d ends, want 2", n)
		}
	})
}

// brittle is a context whose Err panics for a while.
type brittle struct {
	context.Context
	panics atomic.Bool
}

func (b *brittle) Err() error {
	if b.panics.Load() {
		panic("no error here")
	}
	return b.Context.Err()
}

func BenchmarkSweep(b *testing.B) {
	c, err := NewChain("recipes")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	of := &Call{frame: &Frame{ctx: ctx}}
	for b.Loop() {
		c.watch(of)
		c.unwatch(of)
	}
}
