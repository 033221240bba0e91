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

// Chain is the policies of one upstream, with their state, in the order in which calls go through
// them. It is safe for concurrent use.
type Chain struct {
	name        string
	call        Func
	epoch       time.Time
	policies    []Policy
	listeners   []Listener
	preparers   []func(*Attempt)
	stats       []Stat
	shows       []func(Stat) // of policies that show statistics
	claims      map[any]struct{}
	retries     retryLimiter
	carrier     Carrier // nil for none
	keeps       int64   // how many bytes of a request body adapters keep for a retry
	slots       int
	repeats     bool
	hedges      bool // attempts may run concurrently
	cancellable bool
	announce    bool
	awaitsHead  bool      // a policy acts on the response headers of a stream
	consumed    []string  // request headers that are not sent on
	timers      sync.Pool // of *timer
}

// NewChain makes a chain for the upstream of that name. The policies are given from the outside
// in. A nil policy is skipped, and a nil pointer to a configuration stands for its defaults. The
// error joins all that is wrong: each bad field of each configuration, and each order of two
// policies that makes no sense.
func NewChain(name string, policies ...Policy) (*Chain, error) {
	c := &Chain{name: name, epoch: time.Now(), policies: present(policies)}
	yield(c.policies)
	errs := checkOrder(c.policies)
	if name == "" {
		errs = append(errs, errors.New("pillion: New: the upstream's name is empty"))
	}
	call, bad := c.wrap(c.policies)
	if err := errors.Join(append(errs, bad...)...); err != nil {
		return nil, fmt.Errorf("upstream %q: %w", name, err)
	}
	c.call = call
	return c, nil
}

// Name is the upstream's name.
func (c *Chain) Name() string { return c.name }

// Policies are those of the chain, from the outside in, without nil ones. They must not be
// changed.
func (c *Chain) Policies() []Policy { return c.policies }

// Repeats reports whether a policy sends calls again, which a server cannot.
func (c *Chain) Repeats() bool { return c.repeats }

// AwaitsHead reports whether a policy acts on response headers: then an adapter must have them
// when Try returns, or say that there will be none. It matters to adapters of streams, which can
// be opened without them.
func (c *Chain) AwaitsHead() bool { return c.repeats || c.awaitsHead }

// now is the chain's monotonic clock.
func (c *Chain) now() time.Duration { return time.Since(c.epoch) }

// wrap builds the chain from the inside out, and gives what is wrong with the
// policies in the order in which they were given.
func (c *Chain) wrap(policies []Policy) (next Func, bad []error) {
	next = c.send
	for _, p := range slices.Backward(policies) {
		if placeOf(p).Rank.repeats() && !c.repeats {
			next, c.repeats = countAttempts(next), true
		}
		wrapped, err := p.Wrap(&Builder{chain: c}, next)
		if wrapped == nil && err == nil {
			err = fmt.Errorf("pillion: %T.Wrap gave neither a Func nor an error", p)
		}
		if err != nil {
			bad = append(bad, err)
			continue
		}
		if next = wrapped; placeOf(p).Rank == Hedges {
			next, c.hedges = rememberWinner(wrapped), true
		}
	}
	slices.Reverse(bad)
	return next, bad
}

// countAttempts stands right inside the policy that makes attempts.
func countAttempts(next Func) Func {
	return func(ctx context.Context, c *Call) *Outcome {
		c.frame.attempts.Add(1)
		return next(ctx, c)
	}
}

// rememberWinner stands right outside a policy that runs attempts concurrently.
func rememberWinner(next Func) Func {
	return func(ctx context.Context, c *Call) *Outcome {
		o := next(ctx, c)
		if o != nil {
			c.frame.winner = o.open
		}
		return o
	}
}

// present leaves out nil policies, and puts the zero configuration in the place
// of a nil pointer to one.
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
