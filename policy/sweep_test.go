package policy

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
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
	return len(w.calls), w.armed
}

// ownWatch reports whether s has its own watch.
func (s *Stream) ownWatch() bool {
	s.chain.sweep.mu.Lock()
	defer s.chain.sweep.mu.Unlock()
	return s.call.watching.stop != nil
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

// reusing is streamed with storage that is used again when its response ends.
type reusing struct {
	streamed
	frame Frame
	free  *sync.Pool
}

func (x *reusing) NewStream(*Attempt) *Stream { return &Stream{} }
func (x *reusing) NewLimitedStream(*Attempt) (*Stream, *StreamLimits) {
	return &Stream{}, &StreamLimits{}
}

func (x *reusing) Recycle() {
	if x.frame.Reset() {
		x.free.Put(x)
	}
}

// reused returns a chain like watched, and a function that opens responses with reused storage.
func reused(t *testing.T, ended func(*Outcome)) (*Chain, func(ctx context.Context) *Stream) {
	t.Helper()
	c, _ := watched(t, ended)
	free := &sync.Pool{}
	return c, func(ctx context.Context) *Stream {
		x, ok := free.Get().(*reusing)
		if !ok {
			x = &reusing{free: free}
			x.frame.Init(c, x)
		}
		a := x.frame.Invoke(ctx).Pending()
		s := a.Stream()
		a.Watch()
		return s
	}
}

// TestSweep_reused pins that storage that is used again stays in the list until the next tick, and
// that a response in it is checked for its own caller.
func TestSweep_reused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		causes := make(chan error, 8)
		c, open := reused(t, func(end *Outcome) { causes <- end.Err })
		for range 5 {
			ctx, leave := context.WithCancel(t.Context())
			s := open(ctx)
			if err := s.End(nil); err != nil || <-causes != nil {
				t.Fatalf("got %v, want a clean end", err)
			}
			leave() // it must not end the next one
		}
		if n, armed := c.sweep.state(); n == 0 || !armed {
			t.Errorf("got %d in the sweep, armed %v, want some until the tick", n, armed)
		}
		errLeft := errors.New("left")
		ctx, leave := context.WithCancelCause(t.Context())
		s := open(ctx)
		time.Sleep(3 * sweepInterval / 2)
		synctest.Wait()
		if n, _ := c.sweep.state(); n != 1 || len(causes) != 0 {
			t.Errorf("after a tick: got %d in the sweep and %d ends, want one and none", n, len(causes))
		}
		leave(errLeft)
		time.Sleep(sweepInterval)
		synctest.Wait()
		if err := <-causes; !errors.Is(err, errLeft) || !errors.Is(s.End(nil), errLeft) {
			t.Errorf("got %v, want the cause", err)
		}
		time.Sleep(sweepInterval)
		synctest.Wait()
		if n, armed := c.sweep.state(); n != 0 || armed {
			t.Errorf("at last: got %d in the sweep, armed %v, want none", n, armed)
		}
		if n := cap(c.sweep.calls); n != 0 {
			t.Errorf("at last: the list keeps room for %d, want none", n)
		}
		s = open(t.Context())
		time.Sleep(sweeps*sweepInterval + time.Millisecond)
		synctest.Wait()
		if n, armed := c.sweep.state(); n != 0 || armed || !s.ownWatch() {
			t.Errorf("got %d in the sweep, armed %v, want a watch of its own", n, armed)
		}
		_ = s.End(nil)
		s = open(t.Context())
		if n, armed := c.sweep.state(); n != 1 || !armed || s.ownWatch() {
			t.Errorf("got %d in the sweep, armed %v, want one again", n, armed)
		}
		_ = s.End(nil)
	})
}

// TestSweep_race opens, leaves and ends responses in several goroutines while the sweep runs all the
// time. Each response must end once, and with the cause of its own caller.
func TestSweep_race(t *testing.T) {
	var ends atomic.Int64
	c, open := reused(t, func(*Outcome) { ends.Add(1) })
	stop := make(chan struct{})
	var sweeping, running sync.WaitGroup
	sweeping.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				c.tick()
				runtime.Gosched()
			}
		}
	})
	const callers, each = 4, 2000
	for i := range callers {
		running.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 3))
			for range each {
				errLeft := errors.New("left")
				ctx, leave := context.WithCancelCause(context.Background())
				s := open(ctx)
				leaves := r.IntN(2) == 0
				if leaves {
					leave(errLeft)
				}
				for range r.IntN(4) {
					runtime.Gosched()
				}
				if err := s.End(nil); err != nil && (!leaves || !errors.Is(err, errLeft)) {
					t.Errorf("left %v: got %v", leaves, err)
				}
				leave(nil)
			}
		})
	}
	running.Wait()
	close(stop)
	sweeping.Wait()
	if n := ends.Load(); n != callers*each {
		t.Errorf("got %d ends, want %d", n, callers*each)
	}
	c.tick()
	if n, _ := c.sweep.state(); n != 0 {
		t.Errorf("got %d in the sweep, want none", n)
	}
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

// TestSweep_panic pins that a caller's context that panics delays no other, does not end the process,
// and is checked again at the next tick.
func TestSweep_panic(t *testing.T) {
	for _, method := range []string{"Err", "Value"} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var ends atomic.Int64
				_, open := watched(t, func(*Outcome) { ends.Add(1) })
				ctx, leave := context.WithCancel(t.Context())
				open(ctx)
				broken := &brittle{Context: ctx}
				open(broken)
				broken.panics.Store(method)
				leave()
				time.Sleep(sweepInterval)
				synctest.Wait()
				if n := ends.Load(); n != 1 {
					t.Errorf("while one panics: got %d ends, want that of the other", n)
				}
				broken.panics.Store("")
				time.Sleep(sweepInterval)
				synctest.Wait()
				if n := ends.Load(); n != 2 {
					t.Errorf("got %d ends, want 2", n)
				}
			})
		})
	}
}

// brittle is a context one method of which panics for a while.
type brittle struct {
	context.Context
	panics atomic.Value // the name of the method
}

func (b *brittle) Err() error {
	if b.panics.Load() == "Err" {
		panic("no error here")
	}
	return b.Context.Err()
}

func (b *brittle) Value(key any) any {
	if b.panics.Load() == "Value" {
		panic("no value here")
	}
	return b.Context.Value(key)
}

func BenchmarkSweep(b *testing.B) {
	c, err := NewChain("recipes")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	of, s := &Call{frame: &Frame{ctx: ctx}}, &Stream{}
	for b.Loop() {
		c.watch(of, s)
		c.unwatch(of)
	}
}
