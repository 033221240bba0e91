package policy

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"
)

// Chain is the policies of one upstream with their state. It is safe for concurrent use.
type Chain struct {
	name        string
	call        Func
	epoch       time.Time
	policies    []Policy
	listeners   []Listener
	preparers   []func(*Attempt)
	announcers  []func(*Attempt)
	offering    sync.Mutex
	stats       []Stat             // guarded by offering
	shows       []func(Stat) error // from policies that show statistics; guarded by offering
	unshown     []error            // of statistics that cannot be shown, until built; guarded by offering
	built       bool               // guarded by offering
	claims      map[any]struct{}
	retries     retryLimiter
	carrier     Carrier // nil for none
	keeps       int64   // how many bytes of a request body adapters keep for a retry
	slots       int
	repeats     bool
	hedges      bool // attempts may run concurrently
	cancellable bool
	announce    bool
	measures    bool      // a policy needs the sizes of attempts
	awaitsHead  bool      // a policy acts on the response headers of a stream
	consumed    []string  // request headers that are not forwarded
	timers      sync.Pool // of *timer
	sweep       sweep
}

// NewChain makes the chain of the upstream with that name. The policies are in the order from the
// outside in. A nil policy is skipped, and a nil pointer to a configuration means its zero value. The
// error joins the errors of all fields of all configurations, and one error for each invalid order of
// two policies.
func NewChain(name string, policies ...Policy) (*Chain, error) {
	c := &Chain{name: name, epoch: time.Now(), policies: present(policies)}
	yield(c.policies)
	errs := checkOrder(c.policies)
	if name == "" {
		errs = append(errs, errors.New("pillion: New: the upstream's name is empty"))
	}
	call, bad := c.wrap(c.policies)
	errs = append(append(errs, bad...), c.statErrors()...)
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("upstream %q: %w", name, err)
	}
	c.call = call
	return c, nil
}

// Name returns the upstream's name.
func (c *Chain) Name() string { return c.name }

// Policies returns the policies of the chain from the outside in, without nil ones. The slice must
// not be changed.
func (c *Chain) Policies() []Policy { return c.policies }

// Repeats reports whether a policy retries or hedges calls, which a server cannot.
func (c *Chain) Repeats() bool { return c.repeats }

// AwaitsHead reports whether a policy acts on response headers. If true, Try must not return before
// response headers, or a trailers-only status, have arrived. It matters to adapters of streams,
// which can open a stream before that.
func (c *Chain) AwaitsHead() bool { return c.repeats || c.awaitsHead }

// now returns the time on the chain's monotonic clock.
func (c *Chain) now() time.Duration { return time.Since(c.epoch) }

// wrap builds the chain from the inside out. It returns the errors in the order of the policies.
func (c *Chain) wrap(policies []Policy) (next Func, bad []error) {
	next = send
	for _, p := range slices.Backward(policies) {
		if placeOf(p).Rank.repeats() && !c.repeats {
			next, c.repeats = countAttempts(next), true
		}
		wrapped, err := p.Wrap(&Builder{chain: c}, next)
		if wrapped == nil && err == nil {
			err = fmt.Errorf("pillion: %T.Wrap returned neither a Func nor an error", p)
		}
		if err != nil {
			bad = append(bad, err)
			continue
		}
		rank := placeOf(p).Rank
		if next = wrapped; rank.repeats() {
			next = rememberWinner(wrapped)
		}
		c.hedges = c.hedges || rank == Hedges
	}
	slices.Reverse(bad)
	return next, bad
}

// countAttempts wraps the Func directly inside the policy that makes attempts. It numbers attempts in
// the order in which they begin.
func countAttempts(next Func) Func {
	return func(ctx context.Context, c *Call) *Outcome {
		c.number(c.frame.attempts.Add(1))
		return next(ctx, c)
	}
}

// rememberWinner wraps a policy that may run attempts concurrently.
func rememberWinner(next Func) Func {
	return func(ctx context.Context, c *Call) *Outcome {
		o := next(ctx, c)
		if o != nil && c.frame.mayRace() {
			c.frame.winner = o.open
		}
		return o
	}
}

// present leaves out nil policies, and replaces a nil pointer to a configuration by the zero
// configuration.
func present(policies []Policy) []Policy {
	var found []Policy
	for _, p := range policies {
		if v := reflect.ValueOf(p); v.Kind() == reflect.Pointer && v.IsNil() {
			if zero, ok := reflect.TypeAssert[Policy](reflect.Zero(v.Type().Elem())); ok {
				p = zero
			}
		}
		if p != nil {
			found = append(found, p)
		}
	}
	return found
}
