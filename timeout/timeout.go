// Package timeout bounds the duration of calls, of attempts, and of waits for the next bytes.
//
// The three timeouts of [Config] are Envoy's. Total is the route's timeout: it covers the whole call, with
// all attempts and back-offs, to the last byte of the body. PerTry is per_try_timeout: it covers
// an attempt until its response headers, so that it never cuts a large body. Idle is
// per_try_idle_timeout: it covers each wait for the upstream to send something.
//
//	recipes, err := pillion.New("recipes",
//		timeout.Config{Total: 2 * time.Second, PerTry: 300 * time.Millisecond},
//		retry.Config{NumRetries: 2},
//	)
//
// [Stream] has two more, for calls that stay open.
//
// A call whose timeout fires returns an [*Error] that names the timeout. The caller's deadline is
// never extended: if it comes first, it ends the call, and the Error names it.
//
// A timeout ends an attempt through its context. [pillion.Do] waits for a function that does not
// honor its context.
package timeout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/internal/settings"
	"github.com/pillion-go/pillion/policy"
)

// Unlimited means no timeout, where zero can mean a default.
const Unlimited time.Duration = -1

// DefaultTotal is the default of Total, as in Envoy.
const DefaultTotal = 15 * time.Second

// Error is the error of a call whose timeout fired. Its Scope names the timeout. It matches
// [context.DeadlineExceeded], and its method Timeout returns true.
type Error = policy.TimeoutError

// The timeouts that an [Error] can have as its Scope.
const (
	Total  = policy.ScopeTotal
	PerTry = policy.ScopePerTry
	Idle   = policy.ScopeIdle
	Caller = policy.ScopeCaller

	StreamDuration = policy.ScopeStream
	StreamIdle     = policy.ScopeStreamIdle
)

// Config configures the timeouts. It is a policy that must be outside retry. A Config without a
// timeout of the whole call (Total is Unlimited, and EnvoyHeaders is not set) may be anywhere, also
// inside retry, and there may be several. If another Config of the upstream sets Total, a Config
// whose Total is zero has no Total, and may be anywhere, too.
type Config struct {
	// Total bounds the call with all its attempts and back-offs and the reading of the body. It
	// does not apply to an upgraded connection (101). Zero means 15s; Unlimited means no timeout; any
	// other value below 1ms is an error. Mirrors timeout of Envoy's RouteAction.
	Total time.Duration `json:"total,omitempty"`

	// PerTry bounds each attempt until its response headers. Zero and Unlimited mean no timeout; any
	// other value below 1ms is an error. A value not below Total is an error, unless EnvoyHeaders
	// lets callers change Total. Mirrors per_try_timeout of Envoy's RetryPolicy.
	PerTry time.Duration `json:"per_try,omitempty"`

	// Idle bounds each wait for the upstream: an attempt's wait for its response headers, and
	// each read of the body. The time between reads does not count. Zero and Unlimited mean no
	// timeout; the same values as in PerTry are errors. Mirrors per_try_idle_timeout of Envoy's
	// RetryPolicy.
	Idle time.Duration `json:"idle,omitempty"`

	// ExpectedHeader sends the time limit of each attempt to the server, in the request header
	// x-envoy-expected-rq-timeout-ms: the least of PerTry and the time remaining until Total and
	// until the caller's deadline. It costs a copy of the request's header.
	ExpectedHeader bool `json:"expected_header,omitempty"`

	// EnvoyHeaders lets a caller set timeouts in request headers, as Envoy does for internal
	// requests: x-envoy-upstream-rq-timeout-ms replaces Total, where 0 means no timeout, and
	// x-envoy-upstream-rq-per-try-timeout-ms replaces PerTry. A value that is not a 63-bit number of
	// milliseconds, or a header with several lines, is ignored; a value that overflows a Duration
	// means no timeout. With x-envoy-upstream-rq-timeout-alt-response, the local reply to a timeout
	// has the status 204 instead of 504. The headers are not forwarded. Set it only for trusted
	// requests.
	EnvoyHeaders bool `json:"envoy_headers,omitempty"`
}

// Place returns a place outside retry and hedge policies if c has a timeout of the whole call, else
// any place.
func (c Config) Place() policy.Place {
	if c.Total == Unlimited && !c.EnvoyHeaders {
		return policy.Place{}
	}
	return policy.Place{
		Rank: policy.PerCall, Name: "total timeout",
		Why: "would limit each attempt, not the call", Once: "would set the limits twice",
	}
}

// Yield returns c without a timeout of the whole call. It is ok only if c has that timeout by
// default.
func (c Config) Yield() (without policy.Policy, ok bool) {
	ok = c.Total == 0 && !c.EnvoyHeaders
	if ok {
		c.Total = Unlimited
	}
	return c, ok
}

// Wrap wraps next and sets the timeouts of each call.
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
	b.Require(policy.Needs{Consume: []string{totalHeader, perTryHeader, envoy.AltResponseHeader}})
	return func(ctx context.Context, call *policy.Call) *policy.Outcome {
		asked := c.honoring(call)
		asked.limit(call)
		if call.RequestHeaderValues(envoy.AltResponseHeader) != nil {
			call.ReplyToTimeouts(noContent)
		}
		return next(ctx, call)
	}, nil
}

// noContent is the HTTP status with which Envoy replies instead of 504, if a caller asks for it.
const noContent = 204

// The request headers in which a caller sets timeouts.
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

// honoring returns c with the timeouts of the caller's headers.
func (c Config) honoring(call *policy.Call) Config {
	if d, ok := milliseconds(call.RequestHeaderValues(totalHeader)); ok {
		c.Total = d
	}
	if d, ok := milliseconds(call.RequestHeaderValues(perTryHeader)); ok {
		c.PerTry = d
	}
	return c
}

// milliseconds parses a header that holds one number of milliseconds, as Envoy does: 63 bits, with
// optional blanks and an optional plus sign. On overflow it returns the longest Duration.
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
	say := func(field string, value time.Duration, why string) {
		if why != "" && value != Unlimited {
			bad = append(bad, fmt.Errorf("timeout: Config.%s: %v %s", field, value, why))
		}
	}
	say("Total", c.Total, settings.Duration(c.Total, "0 for 15s", "timeout.Unlimited"))
	say("PerTry", c.PerTry, cmp.Or(settings.Duration(c.PerTry, noTimeout), c.checkAttempt(c.PerTry)))
	say("Idle", c.Idle, cmp.Or(settings.Duration(c.Idle, noTimeout), c.checkAttempt(c.Idle)))
	return errors.Join(bad...)
}

// noTimeout is what an error suggests for a timeout that has no default.
const noTimeout = "0 for no timeout"

// checkAttempt returns why a timeout of an attempt has no effect, or "" if it has one.
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
