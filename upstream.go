package pillion

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"time"
)

// Upstream is a service that is called: its name, and the policies that its calls
// are put under, with their state. One Upstream serves HTTP, gRPC and plain
// functions, with the same breaker and the same statistics. It is safe for
// concurrent use.
//
// In a testing/synctest bubble, use an Upstream that was made in that bubble.
type Upstream struct {
	name         string
	chain        Func
	epoch        time.Time
	listeners    []Listener
	gauges       []gauge
	claims       map[any]struct{}
	retries      retryLimiter
	slots        int
	repeats      bool
	hedges       bool // attempts may run concurrently
	cancellable  bool
	announce     bool
	awaitsHead   bool     // a policy acts on the head of a stream's answer
	consumed     []string // request headers that are not sent on
	headers      bool     // attempts have headers of their own
	http         HTTP
	patientDrain bool      // HTTP.DrainTime was set: it holds also before a short back-off
	timers       sync.Pool // of *timer
	calls        sync.Pool // of *httpCall
	traces       sync.Pool // of *wireTrace
	storage      sync.Pool // of *storage
	base         func() http.RoundTripper
	ownings      []func(*http.Transport) *http.Transport // what policies make of base
}

// New makes an upstream. The policies are given from the outside in: the first
// sees a call first and its outcome last. A nil policy is skipped, and a nil pointer
// to a configuration stands for its defaults. The error joins all that is wrong: each
// bad field of each configuration, and each order of two policies that makes no sense.
func New(name string, policies ...Policy) (*Upstream, error) {
	u := &Upstream{name: name, epoch: time.Now(), http: HTTP{}.withDefaults()}
	u.base = sync.OnceValue(u.ownTransport)
	policies = present(policies)
	yield(policies)
	errs := checkOrder(policies)
	if name == "" {
		errs = append(errs, errors.New("pillion: New: the upstream's name is empty"))
	}
	chain, bad := u.wrap(policies)
	if err := errors.Join(append(errs, bad...)...); err != nil {
		return nil, fmt.Errorf("upstream %q: %w", name, err)
	}
	u.chain = chain
	u.headers = u.announce || len(u.consumed) > 0 || u.http.addsHeaders()
	return u, nil
}

// wrap builds the chain from the inside out, and gives what is wrong with the
// policies in the order in which they were given.
func (u *Upstream) wrap(policies []Policy) (next Func, bad []error) {
	next = u.send
	for _, p := range slices.Backward(policies) {
		if roleOf(p).repeats() && !u.repeats {
			next, u.repeats = countAttempts(next), true
		}
		wrapped, err := p.Wrap(&Site{upstream: u}, next)
		if wrapped == nil && err == nil {
			err = fmt.Errorf("pillion: %T.Wrap gave neither a Func nor an error", p)
		}
		if err != nil {
			bad = append(bad, err)
			continue
		}
		if next = wrapped; roleOf(p) == RoleHedge {
			next, u.hedges = rememberWinner(wrapped), true
		}
	}
	slices.Reverse(bad)
	return next, bad
}

// countAttempts stands right inside the policy that makes attempts.
func countAttempts(next Func) Func {
	return func(ctx context.Context, c *Call) *Outcome {
		c.flight.attempts.Add(1)
		return next(ctx, c)
	}
}

// rememberWinner stands right outside a policy that runs attempts concurrently.
func rememberWinner(next Func) Func {
	return func(ctx context.Context, c *Call) *Outcome {
		o := next(ctx, c)
		if o != nil {
			c.flight.winner = o.open
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

// Name is the upstream's name.
func (u *Upstream) Name() string { return u.name }

// now is the upstream's monotonic clock.
func (u *Upstream) now() time.Duration { return time.Since(u.epoch) }
