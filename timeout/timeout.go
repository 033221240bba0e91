// Package timeout limits how long a call may take: in all, for each attempt, and in
// silence.
//
// The three limits are Envoy's. Total is the route's timeout: it runs from the
// start of the call over all attempts and back-offs to the last byte of the body. PerTry
// is per_try_timeout: it ends with the response headers, so that a large body is never
// cut by it. Idle is per_try_idle_timeout: the longest that the upstream may be silent
// while it is waited for.
//
//	recipes, err := pillion.New("recipes",
//		timeout.Config{Total: 2 * time.Second, PerTry: 300 * time.Millisecond},
//		retry.Config{NumRetries: 2},
//	)
//
// A timeout that fires returns an [*Error], which says which one it was. The
// caller's own deadline is never lengthened: when it comes first, it is the one that
// holds, and the Error says so. Nothing is canceled while a body is read in time.
//
// The attempts of a call are cut off through their context. A function under
// [pillion.Do] that does not honor its context is waited for.
package timeout

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// Unlimited says that there is no limit, where the zero value means a default.
const Unlimited time.Duration = -1

// DefaultTotal is the total limit of a Config that names none, as in Envoy.
const DefaultTotal = 15 * time.Second

// Error says which limit struck. It unwraps to [context.DeadlineExceeded] and has
// Timeout() true.
type Error = policy.TimeoutError

// The limits that an [Error] can name as its Scope.
const (
	Total  = policy.ScopeTotal
	PerTry = policy.ScopePerTry
	Idle   = policy.ScopeIdle
	Caller = policy.ScopeCaller
)

// Config says how long a call may take. It is a policy, to stand outside retry. One that
// limits no whole call (Total is Unlimited, and EnvoyHeaders is not set) may stand anywhere, also
// inside retry and beside another one. So may one whose Total is zero beside one that sets
// Total: then it has no default.
type Config struct {
	// Total is how long the call may take with all its attempts, back-offs and the reading
	// of the body. An upgraded connection (101) is no longer under it. Zero means 15s,
	// Unlimited no limit; any other value below 1ms is an error.
	// Mirrors timeout of Envoy's RouteAction.
	Total time.Duration `json:"total,omitempty"`

	// PerTry is how long each attempt may take until its response headers. Zero and Unlimited mean
	// no limit; any other value below 1ms is an error, and so is one that is not below Total,
	// unless EnvoyHeaders lets callers change that. Mirrors per_try_timeout of Envoy's RetryPolicy.
	PerTry time.Duration `json:"per_try,omitempty"`

	// Idle is how long an attempt may wait for its response headers, and each read of the body
	// for its next bytes. The time that a caller takes between reads does not count. Zero and
	// Unlimited mean no limit; the errors are those of PerTry.
	// Mirrors per_try_idle_timeout of Envoy's RetryPolicy.
	Idle time.Duration `json:"idle,omitempty"`

	// ExpectedHeader tells the server how long each try will be waited for, in the
	// request header x-envoy-expected-rq-timeout-ms: PerTry, or what is left of Total or
	// of the caller's deadline, if that is less. It costs a copy of the request's header.
	ExpectedHeader bool `json:"expected_header,omitempty"`

	// EnvoyHeaders lets a caller set its own limits, as Envoy lets an internal one:
	// x-envoy-upstream-rq-timeout-ms takes the place of Total, 0 meaning none, and
	// x-envoy-upstream-rq-per-try-timeout-ms that of PerTry. What is no number of milliseconds
	// of 63 bits, or comes in several lines, is ignored; more than a Duration holds is no limit.
	// The headers are not sent on. Only for requests that can be trusted.
	EnvoyHeaders bool `json:"envoy_headers,omitempty"`
}

// Place is outside of what retries or hedges, if there is a limit of the whole call.
func (c Config) Place() policy.Place {
	if c.Total == Unlimited && !c.EnvoyHeaders {
		return policy.Place{}
	}
	return policy.Place{
		Rank: policy.PerCall, Name: "total timeout",
		Why: "would limit each attempt, not the call", Once: "would set the limits twice",
	}
}

// Yield returns c without a limit of the whole call. It is ok where c has that limit by
// default alone.
func (c Config) Yield() (without policy.Policy, ok bool) {
	ok = c.Total == 0 && !c.EnvoyHeaders
	if ok {
		c.Total = Unlimited
	}
	return c, ok
}

// Wrap sets the limits in each call.
func (c Config) Wrap(b *policy.Builder, next policy.Func) (policy.Func, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if c.Total == 0 {
		c.Total = DefaultTotal
	}
	b.Require(policy.Needs{AnnounceDeadline: c.ExpectedHeader, Headers: c.PerTry > 0 || c.EnvoyHeaders})
	if !c.EnvoyHeaders {
		return func(ctx context.Context, call *policy.Call) *policy.Outcome {
			c.limit(call)
			return next(ctx, call)
		}, nil
	}
	b.Require(policy.Needs{Consume: []string{totalHeader, perTryHeader}})
	return func(ctx context.Context, call *policy.Call) *policy.Outcome {
		c.honoring(call).limit(call)
		return next(ctx, call)
	}, nil
}

// The headers in which a caller sets its own limits.
const (
	totalHeader  = envoy.TimeoutHeader
	perTryHeader = envoy.PerTryTimeoutHeader
)

func (c *Config) limit(call *policy.Call) {
	if c.Total > 0 {
		call.LimitTotal(c.Total)
	}
	if c.PerTry > 0 {
		call.LimitPerTry(c.PerTry)
	}
	if c.Idle > 0 {
		call.LimitIdle(c.Idle)
	}
}

// heeding is c with what the caller's headers say.
func (c Config) honoring(call *policy.Call) *Config {
	if d, ok := milliseconds(call.RequestHeaderValues(totalHeader)); ok {
		c.Total = d
	}
	if d, ok := milliseconds(call.RequestHeaderValues(perTryHeader)); ok {
		c.PerTry = d
	}
	return &c
}

// milliseconds reads a header that holds one number of them, as Envoy does: of 63 bits,
// with blanks around it or a plus sign before it. More than a Duration holds is as good as the
// longest.
func milliseconds(values []string) (time.Duration, bool) {
	if len(values) != 1 {
		return 0, false
	}
	ms, err := strconv.ParseUint(strings.TrimPrefix(strings.TrimSpace(values[0]), "+"), 10, 63)
	if ms > uint64(math.MaxInt64/time.Millisecond) {
		return math.MaxInt64, err == nil
	}
	return time.Duration(ms) * time.Millisecond, err == nil
}

func (c Config) check() error {
	var bad []error
	for _, f := range []struct {
		name  string
		value time.Duration
	}{{"Total", c.Total}, {"PerTry", c.PerTry}, {"Idle", c.Idle}} {
		why := ""
		switch {
		case f.value < 0 && f.value != Unlimited:
			why = "is negative"
		case f.value > 0 && f.value < time.Millisecond:
			why = "is below 1ms; did you forget the unit?"
		case f.name != "Total":
			why = c.checkAttempt(f.value)
		}
		if why != "" {
			bad = append(bad, fmt.Errorf("timeout: Config.%s: %v %s", f.name, f.value, why))
		}
	}
	return errors.Join(bad...)
}

// checkAttempt says why a limit of one attempt has no effect, "" if it has.
func (c Config) checkAttempt(limit time.Duration) string {
	total, by := c.Total, ""
	if total == 0 {
		total, by = DefaultTotal, " by default"
	}
	if limit < total || total < time.Millisecond || c.EnvoyHeaders {
		return ""
	}
	return fmt.Sprintf("is not below Total, which is %v%s; write less, or leave it out", total, by)
}
