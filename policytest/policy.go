package policytest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// Policy makes upstreams of what create returns, runs calls of all kinds through them, and reports
// to tb what the policy does against the contract:
//
//   - it returns no Outcome, or panics by itself;
//   - it returns an Outcome that it made up, while the response of an attempt is open: the response
//     must be discarded first;
//   - it calls next twice with one Call, in place of [policy.Call.Next]; or more than once for a
//     call, without the rank to do so; or after it has returned;
//   - it uses a Call after the end of the call;
//   - one of its hooks does not return, as one that ends the response for whose end it waits.
//
// create is called once for each upstream. Policy takes less than a second if nothing is wrong, and
// waits five seconds for a hook.
func Policy(tb testing.TB, create func() policy.Policy) {
	tb.Helper()
	for _, s := range scenarios() {
		if !run(tb, s, create()) {
			return
		}
	}
	together(tb, create())
}

// hookTime is how long a hook may take.
const hookTime = 5 * time.Second

// scenario is what becomes of a call.
type scenario struct {
	name string
	try  func(n int, o *policy.Outcome) (open, panics bool) // attempt n, from 1
	end  func(s *policy.Stream, leave context.CancelFunc)   // of an open response
}

func succeed(int, *policy.Outcome) (open, panics bool) { return false, false }

func stream(int, *policy.Outcome) (open, panics bool) { return true, false }

func fail(is policy.Condition, d *envoy.Detail) func(int, *policy.Outcome) (open, panics bool) {
	return func(_ int, o *policy.Outcome) (open, panics bool) {
		o.Blame(errFailed, is, d)
		return false, false
	}
}

var (
	errFailed = errors.New("policytest: the attempt failed")
	errBroken = errors.New("policytest: the response broke off")
)

func scenarios() []scenario {
	answer := func(open bool, codes ...int) func(n int, o *policy.Outcome) (open, panics bool) {
		return func(n int, o *policy.Outcome) (bool, bool) {
			o.Code = codes[min(n, len(codes))-1]
			o.Conditions = policy.HTTPCondition(o.Code)
			return open, false
		}
	}
	return []scenario{
		{"a success", succeed, nil},
		{"an attempt that fails", fail(policy.Failed|policy.Status5xx, nil), nil},
		{"no connection", fail(policy.ConnectFailure, envoy.ConnectionRefused), nil},
		{"a reset", fail(policy.Reset, envoy.RemoteReset), nil},
		{"a timeout", fail(policy.Timeout|policy.PerTryTimeout, envoy.PerTryTimeout), nil},
		{"a request that cannot be sent", fail(policy.Invalid, nil), nil},
		{"a refusal further inside", fail(policy.Refused, envoy.NoHealthyUpstream), nil},
		{"a status 503", answer(false, 503), nil},
		{"a status 503, and then 200", answer(false, 503, 200), nil},
		{"a response that is read", stream, func(s *policy.Stream, _ context.CancelFunc) { _ = s.End(nil) }},
		{"a response 503 that is read, and then 200", answer(true, 503, 200), func(s *policy.Stream, _ context.CancelFunc) { _ = s.End(nil) }},
		{"a response that is closed", stream, func(s *policy.Stream, _ context.CancelFunc) { _ = s.Close(func() error { return nil }) }},
		{"a response that breaks off", stream, func(s *policy.Stream, _ context.CancelFunc) { _ = s.End(errBroken) }},
		{"a caller that is canceled", stream, func(_ *policy.Stream, leave context.CancelFunc) { leave() }},
		{"a response that ends twice", stream, func(s *policy.Stream, _ context.CancelFunc) {
			_ = s.End(errBroken)
			_ = s.End(nil)
			_ = s.Close(func() error { return nil })
		}},
		{"an attempt that panics", func(int, *policy.Outcome) (open, panics bool) { return false, true }, nil},
	}
}

// run runs one call of a scenario. It is not ok if no other one makes sense.
func run(tb testing.TB, s scenario, p policy.Policy) (ok bool) {
	tb.Helper()
	w := &watcher{TB: tb, name: s.name, rank: rankOf(p)}
	chain, err := policy.NewChain("policytest", outside{w}, p, inside{w})
	if err != nil {
		tb.Errorf("policytest: New: %v", err)
		return false
	}
	return w.call(chain, s)
}

// together runs calls concurrently through one upstream.
func together(tb testing.TB, p policy.Policy) {
	tb.Helper()
	var w watchers
	chain, err := policy.NewChain("policytest", outside{&w}, p, inside{&w})
	if err != nil {
		tb.Errorf("policytest: New: %v", err)
		return
	}
	var all sync.WaitGroup
	for i, s := range scenarios() {
		for range 4 {
			all.Go(func() {
				one := &watcher{TB: tb, name: s.name + ", among others", rank: rankOf(p)}
				one.delay = time.Duration(i) * 100 * time.Microsecond
				one.call(chain, s)
			})
		}
	}
	all.Wait()
}

func rankOf(p policy.Policy) policy.Rank {
	if placer, ok := p.(policy.Placer); ok {
		return placer.Place().Rank
	}
	return policy.AnyPlace
}

// finder finds the watcher of a call.
type finder interface {
	of(ctx context.Context) *watcher
}

type watcherKey struct{}

// watchers finds them in the context.
type watchers struct{}

func (*watchers) of(ctx context.Context) *watcher { return find(ctx) }

func (w *watcher) of(context.Context) *watcher { return w }

func find(ctx context.Context) *watcher {
	w, _ := ctx.Value(watcherKey{}).(*watcher)
	return w
}

// watcher watches what a policy does to one call.
type watcher struct {
	testing.TB
	name  string
	rank  policy.Rank
	delay time.Duration

	tries    atomic.Int32
	panicked atomic.Bool  // the scenario did
	returned atomic.Bool  // the policy did
	over     atomic.Bool  // the call has ended
	outer    atomic.Int32 // how often the hook outside of the policy ran

	mu    sync.Mutex
	calls map[*policy.Call]bool // those that next was called with; guarded by mu
	opens []*policy.Outcome     // guarded by mu
	ended chan struct{}
}

func (w *watcher) bad(format string, args ...any) {
	w.Errorf("policytest: %s: %s", w.name, fmt.Sprintf(format, args...))
}

// call makes the call. It is not ok if a hook does not return.
func (w *watcher) call(chain *policy.Chain, s scenario) (ok bool) {
	w.calls, w.ended = map[*policy.Call]bool{}, make(chan struct{})
	ctx, leave := context.WithCancel(context.WithValue(context.Background(), watcherKey{}, w))
	defer leave()
	x := &exchange{of: w, scenario: s}
	x.frame.Init(chain, x)
	time.Sleep(w.delay)
	stream, returned := w.invoke(ctx, x)
	if !returned {
		return true
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		switch {
		case stream == nil:
		case s.end == nil:
			_ = stream.End(nil)
		default:
			s.end(stream, leave)
		}
		<-w.ended
	}()
	late := time.NewTimer(hookTime)
	defer late.Stop()
	select {
	case <-done:
	case <-late.C:
		w.bad("a hook does not return: does it read, close or end the response?")
		return false
	}
	w.over.Store(true)
	if n := w.outer.Load(); n != 1 {
		w.bad("the call ended %d times, want once", n)
	}
	return true
}

// invoke returns the stream of an open response. It is not ok if the call panicked.
func (w *watcher) invoke(ctx context.Context, x *exchange) (stream *policy.Stream, ok bool) {
	defer func() {
		p := recover()
		if p != nil && !w.panicked.Load() {
			w.bad("it panicked: %v", p)
		}
	}()
	o := x.frame.Invoke(ctx)
	if a := o.Pending(); a != nil {
		stream = a.Stream()
		a.Watch()
	}
	return stream, true
}

// outside stands around the policy.
type outside struct{ finder }

// Wrap checks what the policy returns.
func (p outside) Wrap(_ *policy.Builder, next policy.Func) (policy.Func, error) {
	hook := func(c *policy.Call, _ *policy.Outcome) {
		w := p.of(c.Context())
		if w.outer.Add(1) == 1 {
			close(w.ended)
		}
	}
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		w := p.of(ctx)
		o := next(ctx, c)
		w.returned.Store(true)
		if o == nil {
			w.bad("it returned a nil Outcome")
			o = &policy.Outcome{Err: errFailed, Conditions: policy.Failed}
		}
		w.checkOpen(o)
		o.OnEnd(c, hook)
		return o
	}, nil
}

// checkOpen reports an Outcome that was made up while a response is open. A policy that hedges may
// discard the others later.
func (w *watcher) checkOpen(o *policy.Outcome) {
	if w.rank == policy.Hedges {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, open := range w.opens {
		if open.Open() && open != o && !o.Open() {
			w.bad("it returned an Outcome that it made, while a response is open: discard that first")
		}
	}
}

// inside stands inside of the policy.
type inside struct{ finder }

// Wrap checks how the policy calls what is inside.
func (p inside) Wrap(_ *policy.Builder, next policy.Func) (policy.Func, error) {
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		w := p.of(c.Context()) //nolint:contextcheck // it is made of the one of the call
		w.entered(c)
		o := next(ctx, c)
		if o.Open() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.opens = append(w.opens, o)
		}
		return o
	}, nil
}

// entered checks one call of next.
func (w *watcher) entered(c *policy.Call) {
	w.mu.Lock()
	defer w.mu.Unlock()
	repeats := w.rank == policy.Retries || w.rank == policy.Hedges
	switch {
	case w.returned.Load() && w.rank != policy.Hedges:
		w.bad("it called next after it had returned")
	case w.calls[c]:
		w.bad("it called next twice with one Call: derive the next one with Call.Next")
	case len(w.calls) > 0 && !repeats:
		w.bad("it called next more than once: give it a Place with the rank Retries or Hedges")
	}
	w.calls[c] = true
}

// exchange is a call of the scenario.
type exchange struct {
	frame    policy.Frame
	of       *watcher
	scenario scenario
}

// exchange implements these. They are found by their methods.
var _ interface {
	policy.Exchange
	policy.Repeater
	policy.Discarder
} = (*exchange)(nil)

// alive reports the use of a Call after its end.
func (x *exchange) alive() {
	if x.of.over.Load() {
		x.of.bad("it used a Call after the end of the call")
	}
}

// Request describes the call.
func (x *exchange) Request() policy.Request {
	x.alive()
	return policy.Request{Protocol: "policytest", Method: "GET", Authority: "policytest.invalid:80", Path: "/"}
}

// Try does what the scenario says.
func (x *exchange) Try(_ context.Context, a *policy.Attempt, o *policy.Outcome) {
	n := int(x.of.tries.Add(1))
	o.Value, o.Detail = n, envoy.ViaUpstream
	open, panics := x.scenario.try(n, o)
	switch {
	case panics:
		x.of.panicked.Store(true)
		panic(errFailed)
	case o.Err != nil:
		o.Value = nil
	case open:
		a.Open()
	}
}

// Classify explains a response that breaks off.
func (x *exchange) Classify(_ *policy.Attempt, o *policy.Outcome, err error) {
	o.Blame(err, policy.Reset, envoy.RemoteResetAfter)
}

// Discard ends a response that will not be read.
func (x *exchange) Discard(a *policy.Attempt, _ *policy.Outcome) { a.Drop() }

// RequestHeader finds none.
func (x *exchange) RequestHeader(string) []string {
	x.alive()
	return nil
}

// Header returns one that goes nowhere.
func (x *exchange) Header(*policy.Attempt) policy.Header {
	x.alive()
	return nowhere{}
}

// ResponseHeader finds none.
func (x *exchange) ResponseHeader(*policy.Outcome, string) []string {
	x.alive()
	return nil
}

// Idempotent is true.
func (x *exchange) Idempotent() bool {
	x.alive()
	return true
}

// Replayable is true.
func (x *exchange) Replayable() bool {
	x.alive()
	return true
}

type nowhere struct{}

func (nowhere) Get(string) string  { return "" }
func (nowhere) Set(string, string) {}
func (nowhere) Del(string)         {}
