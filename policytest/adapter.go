package policytest

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// Adapter returns a policy that checks the adapter whose calls go through it. Pass it to New as the
// last policy, in the adapter's tests. It reports to tb:
//
//   - an attempt whose outcome has neither an error nor a detail;
//   - an error with neither a condition nor a detail;
//   - a Request that differs between two calls of the method, or a request header of the caller that changes with the attempt's own;
//   - at the end of the test, a response that has not ended.
//
// It is safe for concurrent use.
func Adapter(tb testing.TB) policy.Policy {
	tb.Helper()
	a := &adapter{TB: tb}
	tb.Cleanup(func() {
		if n := a.open.Load(); n != 0 {
			tb.Errorf("policytest: %d responses have not ended, want 0; call Stream.End on every path", n)
		}
	})
	return a
}

type adapter struct {
	testing.TB
	open atomic.Int64
}

// probe is a header that no request has.
const probe = "X-Policytest-Probe"

// Wrap checks each attempt.
func (a *adapter) Wrap(_ *policy.Builder, next policy.Func) (policy.Func, error) {
	ended := func(*policy.Call, *policy.Outcome) { a.open.Add(-1) }
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		a.checkRequest(c)
		o := next(ctx, c)
		a.checkOutcome(c, o)
		if o.Open() {
			a.open.Add(1)
			o.OnEnd(c, ended)
		}
		return o
	}, nil
}

// checkRequest checks how the adapter describes the request.
func (a *adapter) checkRequest(c *policy.Call) {
	first := c.Request()
	if first.Protocol == "" {
		a.Errorf("policytest: Request returned no protocol")
	}
	if h := c.Header(); h != nil {
		h.Set(probe, "1")
		h.Del(probe)
	}
	if c.RequestHeaderValues(probe) != nil {
		a.Errorf("policytest: an attempt's header is the caller's; Header must copy it")
	}
	if again := c.Request(); again != first {
		a.Errorf("policytest: Request returned %+v, and then %+v", first, again)
	}
}

// checkOutcome checks the outcome of an attempt.
func (a *adapter) checkOutcome(c *policy.Call, o *policy.Outcome) {
	switch {
	case o.Err == nil && o.Detail == nil:
		a.Errorf("policytest: Try reported neither an error nor a detail; set envoy.ViaUpstream for a response")
	case o.Err != nil && o.Conditions == 0 && o.Detail == nil:
		a.Errorf("policytest: %v has neither a condition nor a detail; Classify must set one", o.Err)
	case o.Open() && o.Detail != envoy.ViaUpstream:
		a.Errorf("policytest: an open response has the detail %q, want via_upstream", o.Detail)
	}
	_ = c.ResponseHeaderValues(o, probe) // it must not panic, whatever the outcome
}
