package pillion_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/timeout"
)

// letter is an Exchange of a protocol of these tests.
type letter struct {
	open    bool                                            // responses go on after their headers
	try     func(ctx context.Context, o *policy.Outcome)    // the result of attempts; nil for "dear"
	call    *policy.Attempt                                 // the last attempt
	header  map[*policy.Attempt]http.Header                 // of attempts that asked for one
	dropped []int                                           // attempts whose response was discarded
	explain func(o *policy.Outcome, err error) (known bool) // nil for Reset
}

func (x *letter) Request() policy.Request {
	return policy.Request{Protocol: "post", Method: "SEND", Authority: "recipes.test", Path: "/letter"}
}

func (x *letter) Unary() bool { return !x.open }

func (x *letter) Try(ctx context.Context, c *policy.Attempt, o *policy.Outcome) {
	x.call = c
	if x.try == nil {
		o.Value = "dear"
	} else if x.try(ctx, o); o.Err != nil {
		return
	}
	o.Detail = envoy.ViaUpstream
	if x.open {
		c.Open()
	}
}

func (x *letter) Classify(_ *policy.Attempt, o *policy.Outcome, err error) {
	if x.explain != nil && x.explain(o, err) {
		return
	}
	o.Err, o.Conditions, o.Flags, o.Detail = err, policy.Reset, envoy.UR, envoy.RemoteReset
}

func (x *letter) Discard(c *policy.Attempt, _ *policy.Outcome) {
	x.dropped = append(x.dropped, c.Call().Attempt())
	c.Drop()
}

func (x *letter) RequestHeader(name string) []string {
	return http.Header{"X-Caller": {"me"}}.Values(name)
}

func (x *letter) Header(c *policy.Attempt) policy.Header {
	if x.header == nil {
		x.header = map[*policy.Attempt]http.Header{}
	}
	if x.header[c] == nil {
		x.header[c] = http.Header{"X-Caller": {"me"}}
	}
	return x.header[c]
}

func (x *letter) ResponseHeader(_ *policy.Outcome, name string) []string {
	return http.Header{"X-Reply": {"yes"}}.Values(name)
}

func (x *letter) Idempotent() bool { return true }

func (x *letter) Replayable() bool { return true }

func TestInvoke_unary(t *testing.T) {
	var ends int
	u := newUpstream(t,
		atEnd(func(c *policy.Call, end *policy.Outcome) {
			ends++
			if end.Value != "dear" || c.Request().Path != "/letter" || c.RequestHeader("X-Caller") != "me" {
				t.Errorf("hook: got %v of %+v, want the letter", end.Value, c.Request())
			}
		}),
		around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
			c.Header().Set("X-Mine", "1")
			o := next(ctx, c)
			if got, ok := c.ResponseHeader(o, "X-Reply"); got != "yes" || !ok {
				t.Errorf("response header: got %q, %v, want yes", got, ok)
			}
			return o
		}),
	)
	x := &letter{}
	o := u.Chain().Invoke(t.Context(), x)
	if o.Value != "dear" || o.Err != nil || o.Open() || o.Detail != envoy.ViaUpstream || ends != 1 {
		t.Errorf("got %+v after %d ends, want a finished letter after one", o, ends)
	}
	if got := x.header[x.call].Get("X-Mine"); got != "1" {
		t.Errorf("header of the attempt: got %q, want 1", got)
	}
}

// TestInvoke_unaryDeadline pins the deadline that the wire receives: of a unary exchange the
// per-try limit if it is shorter, of an open one only the total limit.
func TestInvoke_unaryDeadline(t *testing.T) {
	tests := []struct {
		name   string
		open   bool
		limits timeout.Config
		caller time.Duration
		want   time.Duration // 0 for none
	}{
		{"unary, per try", false, timeout.Config{Total: time.Minute, PerTry: time.Second}, never, time.Second},
		{"unary, idle", false, timeout.Config{Total: time.Minute, PerTry: 3 * time.Second, Idle: 2 * time.Second}, never, 2 * time.Second},
		{"unary, total", false, timeout.Config{Total: time.Minute, PerTry: time.Hour}, never, time.Minute},
		{"unary, caller", false, timeout.Config{Total: time.Minute, PerTry: time.Hour}, time.Second, time.Second},
		{"unary, per try shorter than the caller's", false, timeout.Config{Total: timeout.Unlimited, PerTry: time.Second}, time.Minute, time.Second},
		{"open, per try", true, timeout.Config{Total: time.Minute, PerTry: time.Second}, never, time.Minute},
		{"open, caller", true, timeout.Config{Total: time.Minute, PerTry: time.Second}, 2 * time.Second, 2 * time.Second},
		{"open, only per try", true, timeout.Config{Total: timeout.Unlimited, PerTry: time.Second}, never, never},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := newUpstream(t, apart(test.limits)...)
				ctx, cancel := context.WithTimeout(t.Context(), test.caller)
				defer cancel()
				began := time.Now()
				x := &letter{open: test.open, try: func(ctx context.Context, _ *policy.Outcome) {
					deadline, ok := ctx.Deadline()
					if got := deadline.Sub(began); !ok || got != test.want {
						t.Errorf("deadline on the wire: got %v, %v, want %v", got, ok, test.want)
					}
				}}
				if o := u.Chain().Invoke(ctx, x); o.Err != nil {
					t.Error(o.Err)
				}
				_ = x.call.Stream().End(nil)
			})
		})
	}
}

// TestInvoke_open pins the life of an open response: its hooks wait, the first End counts, and
// later ones return its error.
func TestInvoke_open(t *testing.T) {
	tests := []struct {
		name string
		ends []error
		want []error
		is   policy.Condition
	}{
		{"whole", []error{nil}, []error{nil}, 0},
		{"broken", []error{errBroken}, []error{errBroken}, policy.Reset},
		{"broken, then whole", []error{errBroken, nil}, []error{errBroken, errBroken}, policy.Reset},
		{"whole, then broken", []error{nil, errBroken}, []error{nil, errBroken}, 0},
	}
	for _, test := range tests {
		for _, hooked := range []bool{true, false} {
			t.Run(test.name+map[bool]string{false: ", no hooks"}[hooked], func(t *testing.T) {
				ends := 0
				policies := []pillion.Policy{needCancel}
				if hooked {
					policies = append(policies, atEnd(func(_ *policy.Call, end *policy.Outcome) {
						if ends++; end.Conditions != test.is {
							t.Errorf("hook: got condition %b, want %b", end.Conditions, test.is)
						}
					}))
				}
				x := &letter{open: true}
				o := newUpstream(t, policies...).Chain().Invoke(t.Context(), x)
				if !o.Open() || ends != 0 {
					t.Fatalf("at the headers: got open %v and %d ends, want true and none", o.Open(), ends)
				}
				for i, err := range test.ends {
					if got := x.call.Stream().End(err); !errors.Is(got, test.want[i]) {
						t.Errorf("End(%v): got %v, want %v", err, got, test.want[i])
					}
				}
				if o.Open() || (hooked && ends != 1) {
					t.Errorf("at the end: got open %v and %d ends, want false and one", o.Open(), ends)
				}
			})
		}
	}
}

// TestInvoke_openUnwatched pins an open response whose end no policy needs: it has no Stream, and
// its methods do nothing.
func TestInvoke_openUnwatched(t *testing.T) {
	x := &letter{open: true}
	if o := newUpstream(t).Chain().Invoke(t.Context(), x); !o.Open() {
		t.Error("got a finished outcome, want an open one")
	}
	x.call.Stream().Await()
	x.call.Stream().Received()
	if err := x.call.Stream().End(errBroken); !errors.Is(err, errBroken) {
		t.Errorf("End: got %v, want the error back", err)
	}
}

// TestInvoke_retry pins that an open response is discarded before a retry, and that each attempt
// has its own header.
func TestInvoke_retry(t *testing.T) {
	attempts := 0
	x := &letter{open: true}
	x.try = func(_ context.Context, o *policy.Outcome) {
		if attempts++; attempts < 3 {
			o.Conditions = policy.RefusedStream
		}
	}
	var conditions []policy.Condition
	u := newUpstream(t, quick(2),
		atEnd(func(_ *policy.Call, end *policy.Outcome) { conditions = append(conditions, end.Conditions) }),
		before(func(c *policy.Call) { c.Header().Set("X-Attempt", "yes") }))
	o := u.Chain().Invoke(t.Context(), x)
	if o.Err != nil || !o.Open() || attempts != 3 || len(x.header) != 3 {
		t.Errorf("got %v, open %v after %d attempts with %d headers, want an open response after 3 with 3",
			o.Err, o.Open(), attempts, len(x.header))
	}
	_ = x.call.Stream().End(nil)
	if diff := cmp.Diff([]int{1, 2}, x.dropped); diff != "" {
		t.Errorf("discarded (-want +got):\n%s", diff)
	}
	want := []policy.Condition{policy.RefusedStream | policy.Discarded, policy.RefusedStream | policy.Discarded, 0}
	if diff := cmp.Diff(want, conditions); diff != "" {
		t.Errorf("conditions at the end (-want +got):\n%s", diff)
	}
}

// TestInvoke_drop pins that the hooks run after Drop without a Stream.
func TestInvoke_drop(t *testing.T) {
	ends := 0
	x := &letter{open: true}
	u := newUpstream(t,
		around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
			o := next(ctx, c)
			o.Discard()
			o.Discard() // nothing is left to discard
			return o
		}),
		atEnd(func(_ *policy.Call, end *policy.Outcome) {
			if ends++; end.Conditions != policy.Discarded {
				t.Errorf("hook: got condition %b, want Discarded", end.Conditions)
			}
		}))
	if o := u.Chain().Invoke(t.Context(), x); o.Open() || ends != 1 || !slices.Equal(x.dropped, []int{1}) {
		t.Errorf("got open %v, %d ends, discarded %v, want a finished outcome, one end and attempt 1", o.Open(), ends, x.dropped)
	}
}

// TestInvoke_idle pins that the idle limit runs only while the caller waits.
func TestInvoke_idle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, info := pillion.WithInfo(t.Context())
		x := &letter{open: true}
		newUpstream(t, timeout.Config{Total: timeout.Unlimited, Idle: time.Second}).Chain().Invoke(ctx, x)
		time.Sleep(time.Minute) // the caller does not wait
		x.call.Stream().Await()
		time.Sleep(900 * time.Millisecond)
		x.call.Stream().Received()
		time.Sleep(time.Minute)
		x.call.Stream().Await()
		time.Sleep(900 * time.Millisecond)
		synctest.Wait()
		if info.Done() {
			t.Fatalf("within the limit: got the end, with %v, want none", info.Err())
		}
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		if !info.Done() || scopeOf(info.Err()) != policy.ScopeIdle {
			t.Errorf("after the limit: got done %v, %v, want the idle limit", info.Done(), info.Err())
		}
		if err := x.call.Stream().End(errBroken); scopeOf(err) != policy.ScopeIdle {
			t.Errorf("End: got %v, want the idle limit", err)
		}
	})
}

// TestInvoke_classified pins that Classify is called only if Try left an error without conditions.
func TestInvoke_classified(t *testing.T) {
	for _, explained := range []bool{false, true} {
		asked := 0
		x := &letter{
			try: func(_ context.Context, o *policy.Outcome) {
				if o.Err = errBroken; explained {
					o.Conditions, o.Detail = policy.GRPCUnavailable, envoy.RemoteRefusedStream
				}
			},
			explain: func(*policy.Outcome, error) bool { asked++; return false },
		}
		o := newUpstream(t).Chain().Invoke(t.Context(), x)
		want := map[bool]policy.Condition{false: policy.Reset, true: policy.GRPCUnavailable}[explained]
		if o.Conditions != want || !errors.Is(o.Err, errBroken) || (asked == 0) != explained {
			t.Errorf("classified by Try %v: got %b, %v, Classify called %d times, want %b", explained, o.Conditions, o.Err, asked, want)
		}
	}
}

// TestInvoke_ends ends one stream several times concurrently: one end counts, and no End returns
// before its hooks have run.
func TestInvoke_ends(t *testing.T) {
	var hooks journal
	u := newUpstream(t, atEnd(func(*policy.Call, *policy.Outcome) { hooks.add("end") }))
	x := &letter{open: true}
	u.Chain().Invoke(t.Context(), x)
	var enders sync.WaitGroup
	for range 8 {
		enders.Go(func() {
			if err := x.call.Stream().End(errBroken); !errors.Is(err, errBroken) {
				t.Errorf("got %v, want errBroken", err)
			}
			if len(hooks.all()) != 1 {
				t.Error("End returned before the hooks had run")
			}
		})
	}
	enders.Wait()
	if got := hooks.all(); len(got) != 1 {
		t.Errorf("hooks: got %d, want 1", len(got))
	}
}

// TestCall_request pins what a policy can read of the request, for a protocol with all of it.
func TestCall_request(t *testing.T) {
	type key struct{}
	ctx := context.WithValue(t.Context(), key{}, "mine")
	u := newUpstream(t, before(func(c *policy.Call) {
		if c.Upstream() != "recipes" || c.Attempt() != 1 || c.Attempts() != 1 || c.Endpoint() != "" ||
			!c.Idempotent() || !c.Replayable() || c.Context().Value(key{}) != "mine" {
			t.Errorf("got %q, attempt %d of %d at %q, idempotent %v, replayable %v",
				c.Upstream(), c.Attempt(), c.Attempts(), c.Endpoint(), c.Idempotent(), c.Replayable())
		}
		want := policy.Request{Protocol: "post", Method: "SEND", Authority: "recipes.test", Path: "/letter"}
		if diff := cmp.Diff(want, c.Request()); diff != "" {
			t.Errorf("request (-want +got):\n%s", diff)
		}
	}))
	if o := u.Chain().Invoke(ctx, &letter{}); o.Err != nil {
		t.Error(o.Err)
	}
}

// TestCall_attempts pins that attempts are counted right inside the policy that makes them: outside
// it none has begun.
func TestCall_attempts(t *testing.T) {
	var outer, inner []int
	u := newUpstream(t,
		before(func(c *policy.Call) { outer = append(outer, c.Attempts()) }),
		quick(2),
		before(func(c *policy.Call) { inner = append(inner, c.Attempts(), c.Attempt()) }),
		atEnd(func(*policy.Call, *policy.Outcome) {}))
	x := &letter{try: func(_ context.Context, o *policy.Outcome) { o.Err = errBroken }}
	if o := u.Chain().Invoke(t.Context(), x); !errors.Is(o.Err, errBroken) || !o.Flags.Has(envoy.URX) {
		t.Errorf("got %v, %v, want errBroken and URX", o.Err, o.Flags)
	}
	if diff := cmp.Diff([]int{0}, outer); diff != "" {
		t.Errorf("outside (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]int{1, 1, 2, 2, 3, 3}, inner); diff != "" {
		t.Errorf("attempts begun, and which this is (-want +got):\n%s", diff)
	}
}

// TestCall_acquireRetry pins which policy decides about a retry.
func TestCall_acquireRetry(t *testing.T) {
	var asked, released int
	limiter := func(leave bool) pillion.Policy {
		return policyFunc(func(s *policy.Builder, next policy.Func) (policy.Func, error) {
			s.LimitRetries(func(*policy.Call) bool { asked++; return leave }, func() { released++ })
			return next, nil
		})
	}
	tests := []struct {
		name            string
		policies        []pillion.Policy
		leave           bool
		asked, released int
	}{
		{"no limit", nil, true, 0, 0},
		{"granted", []pillion.Policy{limiter(true)}, true, 1, 1},
		{"denied", []pillion.Policy{limiter(false)}, false, 1, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			asked, released = 0, 0
			u := newUpstream(t, append(test.policies, before(func(c *policy.Call) {
				release, ok := c.AcquireRetry()
				if ok != test.leave {
					t.Errorf("got %v, want %v", ok, test.leave)
				}
				if ok {
					release()
				}
			}))...)
			u.Chain().Invoke(t.Context(), &letter{})
			if asked != test.asked || released != test.released {
				t.Errorf("got asked %d, released %d times, want %d, %d", asked, released, test.asked, test.released)
			}
		})
	}
}
