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

// Policy makes upstreams with the policy that create returns, runs calls of all kinds through them,
// and reports to t each breach of the contract:
//
//   - the policy returns a nil Outcome, or panics;
//   - it returns an Outcome with neither a Value nor an error, or with an error without a
//     [policy.Condition], which other policies take for a success: [policy.Call.Refuse] and
//     [policy.Outcome.Blame] set one; or it refuses without an [envoy.Detail];
//   - it returns a new Outcome while the response of an attempt is open: it must discard the response
//     first;
//   - it calls next twice with one Call, instead of using [policy.Call.Next]; or more than once for a
//     call without the rank to do so; or after it has returned; or with a context that is not derived
//     from its own, so that neither timeouts nor the caller can end the attempt;
//   - it uses a Call after the end of the call;
//   - one of its hooks does not return, for example because it ends the response that waits for it.
//
// Policy reports each of these once, with the first kind of call that shows it. In one of the calls
// the attempt panics: a policy that calls next in its own goroutine must recover there.
//
// Policy calls create once for each upstream. It takes less than a second if nothing is wrong, and
// waits five seconds for a hook.
func Policy(tb testing.TB, create func() policy.Policy) {
	tb.Helper()
	f := &findings{TB: tb, seen: map[string]bool{}}
	for _, s := range scenarios() {
		if !run(f, s, create()) {
			return
		}
	}
	together(f, create())
}

// findings reports each problem once.
type findings struct {
	testing.TB

	mu   sync.Mutex
	seen map[string]bool // guarded by mu
}

func (f *findings) report(call, problem string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen[problem] {
		return
	}
	f.seen[problem] = true
	f.Errorf("policytest: %s: %s", call, problem)
}

// hookTime is how long a hook may take.
const hookTime = 5 * time.Second

// scenario describes what happens to a call.
type scenario struct {
	name string
	try  func(n int, o *policy.Outcome) (open, panics bool) // attempt n, from 1
	end  func(s *policy.Stream, leave context.CancelFunc)   // ends an open response
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
	errPanic  = errors.New("policytest: the attempt panics; if this ends the test, the policy calls next in a goroutine that does not recover")
)

func scenarios() []scenario {
	respond := func(open bool, codes ...int) func(n int, o *policy.Outcome) (open, panics bool) {
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
		{"a refusal by an inner policy", fail(policy.Refused, envoy.NoHealthyUpstream), nil},
		{"a status 503", respond(false, 503), nil},
		{"a status 503, and then 200", respond(false, 503, 200), nil},
		{"a response that is read", stream, func(s *policy.Stream, _ context.CancelFunc) { _ = s.End(nil) }},
		{"a response 503 that is read, and then 200", respond(true, 503, 200), func(s *policy.Stream, _ context.CancelFunc) { _ = s.End(nil) }},
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

// run runs one call of a scenario. It is not ok if further scenarios make no sense.
func run(f *findings, s scenario, p policy.Policy) (ok bool) {
	w := &watcher{findings: f, name: s.name, rank: rankOf(p)}
	chain, err := policy.NewChain("policytest", outside{w}, p, inside{w})
	if err != nil {
		f.report("New", err.Error())
		return false
	}
	return w.call(chain, s)
}

// together runs calls concurrently through one upstream.
func together(f *findings, p policy.Policy) {
	var w watchers
	chain, err := policy.NewChain("policytest", outside{&w}, p, inside{&w})
	if err != nil {
		f.report("New", err.Error())
		return
	}
	var all sync.WaitGroup
	for i, s := range scenarios() {
		for range 4 {
			all.Go(func() {
				one := &watcher{findings: f, name: s.name + ", among others", rank: rankOf(p)}
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

// watchers finds the watcher in the context.
type watchers struct{}

func (*watchers) of(ctx context.Context) *watcher { return find(ctx) }

func (w *watcher) of(context.Context) *watcher { return w }

func find(ctx context.Context) *watcher {
	w, _ := ctx.Value(watcherKey{}).(*watcher)
	return w
}

// watcher watches what a policy does to one call.
type watcher struct {
	findings *findings

	name  string
	rank  policy.Rank
	delay time.Duration

	tries    atomic.Int32
	panicked atomic.Bool  // the scenario panicked
	returned atomic.Bool  // the policy returned
	over     atomic.Bool  // the call has ended
	outer    atomic.Int32 // how often the hook outside the policy ran

	mu    sync.Mutex
	calls map[*policy.Call]bool // the Calls that next was called with; guarded by mu
	opens []*policy.Outcome     // guarded by mu
	ended chan struct{}
}

func (w *watcher) bad(format string, args ...any) {
	w.findings.report(w.name, fmt.Sprintf(format, args...))
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
		w.bad("a hook does not return; it must not read, close or end the response")
		return false
	}
	w.over.Store(true)
	if n := w.outer.Load(); n != 1 {
		w.bad("the call ended %d times, want once", n)
	}
	return true
}

// invoke makes the call, and returns the stream of an open response. It is not ok if the call
// panicked.
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

// outside is outside the policy.
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
		w.checkResult(o)
		w.checkOpen(o)
		o.OnEnd(c, hook)
		return o
	}, nil
}

// checkResult reports an incomplete Outcome.
func (w *watcher) checkResult(o *policy.Outcome) {
	switch {
	case o.Err != nil && o.Conditions == 0:
		w.bad("it returned an error without a Condition, which counts as a success; use Call.Refuse or Outcome.Blame")
	case o.Err == nil && o.Value == nil:
		w.bad("it returned an Outcome with neither a Value nor an error")
	case o.Has(policy.Refused) && o.Detail == nil:
		w.bad("it refused without a Detail: the call has no response flag and is in no statistic")
	}
}

// checkOpen reports a new Outcome while a response is open. A policy that hedges may discard the
// other responses later.
func (w *watcher) checkOpen(o *policy.Outcome) {
	if w.rank == policy.Hedges {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, open := range w.opens {
		if open.Open() && open != o && !o.Open() {
			w.bad("it returned a new Outcome while a response is open; discard that first")
		}
	}
}

// inside is inside the policy.
type inside struct{ finder }

// Wrap checks how the policy calls next.
func (p inside) Wrap(_ *policy.Builder, next policy.Func) (policy.Func, error) {
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		w := p.of(c.Context()) //nolint:contextcheck // the call's own, to compare with
		if find(ctx) != w {
			w.bad("it called next with a context that is not derived from its own")
		}
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
		w.bad("it called next twice with one Call; derive the second with Call.Next")
	case len(w.calls) > 0 && !repeats:
		w.bad("it called next more than once; give it a Place with the rank Retries or Hedges")
	}
	w.calls[c] = true
}

// exchange is a call of the scenario.
type exchange struct {
	frame    policy.Frame
	of       *watcher
	scenario scenario
}

// The engine finds these interfaces by their methods.
var _ interface {
	policy.Exchange
	policy.Repeater
	policy.Discarder
} = (*exchange)(nil)

// alive reports an error if a Call is used after the end of the call.
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

// Try makes the attempt of the scenario.
func (x *exchange) Try(_ context.Context, a *policy.Attempt, o *policy.Outcome) {
	n := int(x.of.tries.Add(1))
	o.Value, o.Detail = n, envoy.ViaUpstream
	open, panics := x.scenario.try(n, o)
	switch {
	case panics:
		x.of.panicked.Store(true)
		panic(errPanic)
	case o.Err != nil:
		o.Value = nil
	case open:
		a.Open()
	}
}

// Classify classifies a response that breaks off.
func (x *exchange) Classify(_ *policy.Attempt, o *policy.Outcome, err error) {
	o.Blame(err, policy.Reset, envoy.RemoteResetAfter)
}

// Discard ends a response that is not going to be read.
func (x *exchange) Discard(a *policy.Attempt, _ *policy.Outcome) { a.Drop() }

// RequestHeader returns nil.
func (x *exchange) RequestHeader(string) []string {
	x.alive()
	return nil
}

// Header returns a header that discards everything.
func (x *exchange) Header(*policy.Attempt) policy.Header {
	x.alive()
	return nowhere{}
}

// ResponseHeader returns nil.
func (x *exchange) ResponseHeader(*policy.Outcome, string) []string {
	x.alive()
	return nil
}

// Idempotent returns true.
func (x *exchange) Idempotent() bool {
	x.alive()
	return true
}

// Replayable returns true.
func (x *exchange) Replayable() bool {
	x.alive()
	return true
}

type nowhere struct{}

func (nowhere) Get(string) string  { return "" }
func (nowhere) Set(string, string) {}
func (nowhere) Del(string)         {}
