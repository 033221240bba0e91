package limits

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/policy"
)

// pool is a policy that borrows slots and carries only HTTP calls.
type pool struct {
	high bool
	bad  error
	l    policy.Lender
}

func (p *pool) Wrap(b *policy.Builder, next policy.Func) (policy.Func, error) {
	b.Carry(p)
	return next, nil
}

func (*pool) Carries(p policy.Protocol) bool { return p == policy.ProtocolHTTP }

func (p *pool) Borrow(l policy.Lender) error {
	p.l = l
	return p.bad
}

func (p *pool) Priority() policy.Priority {
	if p.high {
		return policy.PriorityHigh
	}
	return policy.PriorityDefault
}

// TestLend pins the number of slots of each resource and priority, and their gauges.
func TestLend(t *testing.T) {
	g, p := gauges{}, &pool{}
	upstream(t, g, Config{
		MaxConnections: 1, MaxPendingRequests: 2, MaxRequests: 3, MaxRetries: 1, TrackRemaining: true,
		High: &Config{MaxConnections: Zero, MaxPendingRequests: 1, TrackRemaining: true},
	}, p)
	want := func(when string, want map[string]uint64) {
		t.Helper()
		got := map[string]uint64{}
		for name := range want {
			got[name] = g["circuit_breakers."+name]()
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	want("idle", map[string]uint64{
		"default.cx_open": 0, "default.rq_pending_open": 0, "default.rq_open": 0, "default.cx_pool_open": 0,
		"default.remaining_cx": 1, "default.remaining_pending": 2, "default.remaining_rq": 3,
		"high.cx_open": 0, "high.remaining_cx": 0, "high.remaining_pending": 1, "high.remaining_rq": 1024,
	})
	slots, high := p.l.Slots(policy.PriorityDefault), p.l.Slots(policy.PriorityHigh)
	for r, places := range []int{1, 2, 3} {
		for n := range places + 1 {
			if got := slots.TryAcquire(policy.Resource(r)); got != (n < places) {
				t.Errorf("resource %d, number %d: got %v", r, n, got)
			}
		}
	}
	slots.Acquire(policy.Connections)
	high.Acquire(policy.Connections)
	want("all taken, and a connection more", map[string]uint64{
		"default.cx_open": 1, "default.rq_pending_open": 1, "default.rq_open": 1,
		"default.remaining_cx": 0, "default.remaining_pending": 0, "default.remaining_rq": 0, "high.cx_open": 1,
	})
	slots.Release(policy.Connections)
	slots.Release(policy.Connections)
	slots.Release(policy.PendingRequests)
	want("some returned", map[string]uint64{"default.cx_open": 0, "default.rq_pending_open": 0, "default.remaining_cx": 1, "default.remaining_pending": 1})
}

// TestLend_shared pins that upstreams that share a Limits lend equal slots.
func TestLend_shared(t *testing.T) {
	l, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	a, b, c := &pool{}, &pool{high: true}, &pool{}
	upstream(t, l, a)
	upstream(t, l, b)
	upstream(t, Config{}, c)
	for _, p := range []policy.Priority{policy.PriorityDefault, policy.PriorityHigh} {
		if a.l.Slots(p) != b.l.Slots(p) || a.l.Slots(p) == c.l.Slots(p) {
			t.Errorf("%v: got other slots, want those that are shared", p)
		}
	}
	if a.l.Slots(policy.PriorityDefault) == a.l.Slots(policy.PriorityHigh) {
		t.Error("got the same slots for both priorities")
	}
}

// TestLend_refusal pins that the error names the limit that refused an attempt, with its value.
func TestLend_refusal(t *testing.T) {
	p, high := &pool{}, &pool{high: true}
	cfg := Config{MaxPendingRequests: 5, MaxRequests: 6, High: &Config{MaxRequests: 7}}
	upstream(t, cfg, p)
	upstream(t, cfg, high)
	for _, test := range []struct {
		of      *pool
		r       policy.Resource
		limit   string
		max     int
		counter string
	}{
		{p, policy.PendingRequests, "max_pending_requests", 5, "upstream_rq_pending_overflow"},
		{p, policy.Requests, "max_requests", 6, "upstream_rq_active_overflow"},
		{high, policy.Requests, "max_requests", 7, "upstream_rq_active_overflow"},
	} {
		detail, err := test.of.l.Refusal(test.r)
		full, ok := errors.AsType[*FullError](err)
		if !ok || full.Limit != test.limit || full.Max != test.max || detail.Counter() != test.counter || !errors.Is(err, ErrFull) {
			t.Errorf("%s: got %v, %s", test.limit, err, detail.Counter())
		}
	}
}

// TestLend_carried pins that calls that the pool does not carry hold a slot of the policy.
func TestLend_carried(t *testing.T) {
	u := upstream(t, Config{MaxRequests: Zero}, &pool{})
	if _, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 0, nil }); !errors.Is(err, ErrFull) {
		t.Errorf("got %v, want a full upstream", err)
	}
}

// TestLend_refused pins that Wrap returns the error of a pool that does not borrow.
func TestLend_refused(t *testing.T) {
	if _, err := pillion.New("recipes", Config{}, &pool{bad: errors.New("other limits")}); err == nil || !strings.Contains(err.Error(), "other limits") {
		t.Errorf("got %v, want the pool's error", err)
	}
}
