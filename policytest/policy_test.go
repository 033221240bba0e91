package policytest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/policytest"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// recorder records the errors of a check.
type recorder struct {
	testing.TB

	mu       sync.Mutex
	errors   []string // guarded by mu
	cleanups []func()
}

func (r *recorder) Helper() {}

func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

// found reports whether an error contains text.
func (r *recorder) found(text string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.errors, func(e string) bool { return strings.Contains(e, text) })
}

// problems returns the errors without the calls that showed them, each once.
func (r *recorder) problems() []string {
	var found []string
	for _, e := range r.errors {
		if _, problem, _ := strings.Cut(strings.TrimPrefix(e, "policytest: "), ": "); !slices.Contains(found, problem) {
			found = append(found, problem)
		}
	}
	return found
}

// policyFunc is a policy that is a function.
type policyFunc func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome

func (p policyFunc) Wrap(_ *policy.Builder, next policy.Func) (policy.Func, error) {
	return func(ctx context.Context, c *policy.Call) *policy.Outcome { return p(ctx, c, next) }, nil
}

// repeating is a policyFunc that may call next more than once.
type repeating struct{ policyFunc }

func (repeating) Place() policy.Place { return policy.Place{Rank: policy.Retries} }

// TestPolicy_ours pins that the policies of the module keep the contract.
func TestPolicy_ours(t *testing.T) {
	registry, err := metrics.NewRegistry(metrics.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	for name, create := range map[string]func() policy.Policy{
		"breaker": func() policy.Policy { return breaker.Config{} },
		"limits":  func() policy.Policy { return limits.Config{MaxRetries: 1} },
		"timeout": func() policy.Policy { return timeout.Config{} },
		"retry": func() policy.Policy {
			return retry.Config{On: "5xx,reset,connect-failure", BaseInterval: time.Millisecond}
		},
		"metrics":  func() policy.Policy { return metrics.Config{Registry: registry} },
		"listener": func() policy.Policy { return policy.Listener(func(context.Context, policy.Event) {}) },
		"nothing":  func() policy.Policy { return policy.AnyOrder{} },
	} {
		t.Run(name, func(t *testing.T) { policytest.Policy(t, create) })
	}
}

// TestPolicy_bad pins that Policy reports each breach of the contract.
func TestPolicy_bad(t *testing.T) {
	var kept *policy.Call
	var mu sync.Mutex
	for name, test := range map[string]struct {
		policy policy.Policy
		want   string
	}{
		"no outcome": {policyFunc(func(context.Context, *policy.Call, policy.Func) *policy.Outcome { return nil }), "returned a nil Outcome"},
		"panic":      {policyFunc(func(context.Context, *policy.Call, policy.Func) *policy.Outcome { panic("boom") }), "panicked: boom"},
		"twice with one Call": {repeating{func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
			next(ctx, c).Discard()
			return next(ctx, c)
		}}, "twice with one Call"},
		"without the rank": {policyFunc(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
			second := c.Next()
			next(ctx, c).Discard()
			return next(ctx, second)
		}), "the rank Retries or Hedges"},
		"a new outcome": {policyFunc(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
			next(ctx, c)
			return &policy.Outcome{Value: "mine", Detail: envoy.ViaUpstream}
		}), "while a response is open"},
		"an error without a Condition": {policyFunc(func(context.Context, *policy.Call, policy.Func) *policy.Outcome {
			return &policy.Outcome{Err: errLost}
		}), "an error without a Condition"},
		"an error beside a success": {policyFunc(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
			o := next(ctx, c)
			o.Err = errLost
			return o
		}), "an error without a Condition"},
		"an empty outcome": {policyFunc(func(context.Context, *policy.Call, policy.Func) *policy.Outcome {
			return &policy.Outcome{}
		}), "neither a Value nor an error"},
		"a refusal without an error": {policyFunc(func(_ context.Context, c *policy.Call, _ policy.Func) *policy.Outcome {
			return c.Refuse(nil, limits.Overflow)
		}), "neither a Value nor an error"},
		"a refusal without a detail": {policyFunc(func(_ context.Context, c *policy.Call, _ policy.Func) *policy.Outcome {
			return c.Refuse(errLost, nil)
		}), "refused without a Detail"},
		"another context": {policyFunc(func(_ context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
			return next(context.Background(), c)
		}), "a context that is not derived from its own"},
		"kept too long": {policyFunc(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
			mu.Lock()
			defer mu.Unlock()
			if kept != nil {
				_ = kept.Request()
			}
			kept = c
			return next(ctx, c)
		}), "used a Call after the end"},
		"bad configuration": {limits.Config{MaxRequests: -7}, "MaxRequests: -7"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &recorder{TB: t}
			policytest.Policy(r, func() policy.Policy { return test.policy })
			if !r.found(test.want) {
				t.Errorf("got %q, want one with %q", r.errors, test.want)
			}
			if problems := r.problems(); len(problems) != len(r.errors) {
				t.Errorf("got %q, want each problem once", r.errors)
			}
		})
	}
}

// TestPolicy_good pins that Policy accepts refusals, and contexts that a policy derives.
func TestPolicy_good(t *testing.T) {
	for name, p := range map[string]policyFunc{
		"a refusal": func(_ context.Context, c *policy.Call, _ policy.Func) *policy.Outcome {
			return c.Refuse(errLost, limits.Overflow)
		},
		"a derived context": func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
			return next(context.WithValue(ctx, key{}, c.Attempt()), c)
		},
	} {
		t.Run(name, func(t *testing.T) { policytest.Policy(t, func() policy.Policy { return p }) })
	}
}

type key struct{}

// TestPolicy_hook pins that Policy reports a hook that does not return.
func TestPolicy_hook(t *testing.T) {
	r := &recorder{TB: t}
	release := make(chan struct{})
	defer close(release)
	policytest.Policy(r, func() policy.Policy {
		return policyFunc(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
			o := next(ctx, c)
			if o.Open() && c.Request().Path == "/" {
				o.OnEnd(c, func(*policy.Call, *policy.Outcome) { <-release })
			}
			return o
		})
	})
	if !r.found("a hook does not return") {
		t.Errorf("got %q, want one with \"a hook does not return\"", r.errors)
	}
}

var errLost = errors.New("lost")

// letter is an Exchange with the faults that a test sets.
type letter struct {
	protocol policy.Protocol
	try      func(a *policy.Attempt, o *policy.Outcome)
	header   header
	mean     func(o *policy.Outcome, err error)
	frame    policy.Frame
}

type header map[string]string

func (h header) Get(name string) string { return h[name] }
func (h header) Set(name, value string) { h[name] = value }
func (h header) Del(string)             {}

func (x *letter) Request() policy.Request { return policy.Request{Protocol: x.protocol} }

func (x *letter) RequestHeader(name string) []string {
	if v, ok := x.header[name]; ok {
		return []string{v}
	}
	return nil
}

func (x *letter) ResponseHeader(*policy.Outcome, string) []string { return nil }

func (x *letter) Header(*policy.Attempt) policy.Header {
	if x.header == nil {
		return header{}
	}
	return x.header
}

func (x *letter) Try(_ context.Context, a *policy.Attempt, o *policy.Outcome) { x.try(a, o) }

func (x *letter) Classify(_ *policy.Attempt, o *policy.Outcome, err error) {
	if x.mean != nil {
		x.mean(o, err)
	}
}

// TestAdapter pins that Adapter reports each breach of the contract.
func TestAdapter(t *testing.T) {
	good := func(_ *policy.Attempt, o *policy.Outcome) { o.Value, o.Detail = "dear", envoy.ViaUpstream }
	for name, test := range map[string]struct {
		x    *letter
		want string // "" for nothing
	}{
		"good":        {&letter{protocol: "post", try: good}, ""},
		"no protocol": {&letter{try: good}, "no protocol"},
		"no detail":   {&letter{protocol: "post", try: func(*policy.Attempt, *policy.Outcome) {}}, "neither an error nor a detail"},
		"no meaning":  {&letter{protocol: "post", try: func(_ *policy.Attempt, o *policy.Outcome) { o.Err = errLost }}, "Classify must set one"},
		"a meaning": {&letter{
			protocol: "post", try: func(_ *policy.Attempt, o *policy.Outcome) { o.Err = errLost },
			mean: func(o *policy.Outcome, err error) { o.Blame(err, policy.Reset, envoy.RemoteReset) },
		}, ""},
		"the caller's header": {&letter{protocol: "post", try: good, header: header{}}, "Header must copy it"},
		"never ended": {&letter{protocol: "post", try: func(a *policy.Attempt, o *policy.Outcome) {
			o.Detail = envoy.ViaUpstream
			a.Open()
		}}, "1 responses have not ended"},
		"open, without a detail": {&letter{protocol: "post", try: func(a *policy.Attempt, o *policy.Outcome) {
			o.Detail = envoy.RemoteReset
			a.Open()
		}}, "want via_upstream"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &recorder{TB: t}
			chain, err := policy.NewChain("loft", policytest.Adapter(r))
			if err != nil {
				t.Fatal(err)
			}
			chain.Invoke(t.Context(), test.x)
			for _, f := range r.cleanups {
				f()
			}
			if (len(r.errors) == 0) != (test.want == "") || !r.found(test.want) && test.want != "" {
				t.Errorf("got %q, want one with %q", r.errors, test.want)
			}
		})
	}
}

// TestGuards pins that an adapter that breaks the contract panics, with the name of the method.
func TestGuards(t *testing.T) {
	chain, err := policy.NewChain("loft")
	if err != nil {
		t.Fatal(err)
	}
	open := func(a *policy.Attempt, o *policy.Outcome) {
		o.Detail = envoy.ViaUpstream
		a.Open()
	}
	for name, test := range map[string]struct {
		does func()
		want string
	}{
		"a Frame that is not ready": {func() { (&policy.Frame{}).Invoke(t.Context()) }, "Frame.Invoke"},
		"a Frame for two calls": {func() {
			x := &letter{protocol: "post", try: func(*policy.Attempt, *policy.Outcome) {}}
			x.frame.Init(chain, x)
			x.frame.Invoke(t.Context())
			x.frame.Invoke(t.Context())
		}, "Frame.Invoke"},
		"Open twice": {func() {
			chain.Invoke(t.Context(), &letter{protocol: "post", try: func(a *policy.Attempt, o *policy.Outcome) {
				open(a, o)
				a.Open()
			}})
		}, "Attempt.Open"},
		"Watch without a response": {func() {
			x := &letter{protocol: "post", try: func(*policy.Attempt, *policy.Outcome) {}}
			x.frame.Init(chain, x)
			x.frame.Invoke(t.Context())
			x.frame.First().Watch()
		}, "Attempt.Watch"},
		"Keep after Stream": {func() {
			x := &letter{protocol: "post", try: open}
			x.frame.Init(chain, x)
			x.frame.Invoke(t.Context())
			_ = x.frame.First().Stream()
			x.frame.First().Keep(&policy.Stream{})
		}, "Attempt.Keep"},
		"OnEnd too late": {func() {
			x := &letter{protocol: "post", try: open}
			x.frame.Init(chain, x)
			o := x.frame.Invoke(t.Context())
			x.frame.First().Watch()
			o.OnEnd(x.frame.First().Call(), func(*policy.Call, *policy.Outcome) {})
		}, "Outcome.OnEnd"},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if text, ok := recover().(string); !ok || !strings.Contains(text, test.want) {
					t.Errorf("got a panic with %q, want one with %s", text, test.want)
				}
			}()
			test.does()
		})
	}
}

// The test of a policy runs it through calls of all kinds.
func ExamplePolicy() {
	t := &testing.T{} // the T of the test
	policytest.Policy(t, func() policy.Policy { return limits.Config{MaxRequests: 100} })
	fmt.Println("failed:", t.Failed())
	// Output: failed: false
}

// The tests of an adapter add the check inside the other policies.
func ExampleAdapter() {
	t := &testing.T{} // the T of the test
	chain, err := policy.NewChain("loft", retry.Config{}, policytest.Adapter(t))
	if err != nil {
		fmt.Println(err)
		return
	}
	o := chain.Invoke(context.Background(), &letter{protocol: "post", try: func(_ *policy.Attempt, o *policy.Outcome) {
		o.Value, o.Detail = "dear", envoy.ViaUpstream
	}})
	fmt.Println(o.Value, "failed:", t.Failed())
	// Output: dear failed: false
}
