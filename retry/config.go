package retry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/pillion-go/pillion/internal/settings"
	"github.com/pillion-go/pillion/policy"
)

// Never is a NumRetries of zero: nothing is retried.
const Never = -1

// Zero is a number or a duration of zero, where the zero value means a default: in a [Budget] and in
// the Sleep of a [Retryable].
const Zero = -1

// The defaults of a Config, as in Envoy.
const (
	DefaultNumRetries       = 1
	DefaultBaseInterval     = 25 * time.Millisecond
	DefaultMaxResetInterval = 300 * time.Second
)

// Config configures which calls are retried, how often, and after what wait. It is a policy
// that must be outside limits and breaker. Mirrors Envoy's RetryPolicy.
//
// If On is empty, the default conditions apply: connect-failure, refused-stream, reset, a
// response 502 to 504, and the per-try timeout. They apply only to calls that are safe to send
// twice: the method is idempotent (GET, HEAD, OPTIONS, TRACE, PUT, DELETE), the request has an
// Idempotency-Key, or the caller used [pillion.WithIdempotent], which also works for a function
// under [pillion.Do]. If On is set, only its conditions apply, as in Envoy: On: "5xx" retries a
// POST, too.
//
// A [Budget] bounds the retries of an upstream, unless the limits policy of the upstream sets
// MaxRetries or RetryBudget.
type Config struct {
	// On lists conditions, separated by commas: Envoy's 5xx, gateway-error, reset,
	// reset-before-request, connect-failure, retriable-4xx, refused-stream,
	// retriable-status-codes, retriable-headers, envoy-ratelimited, and for gRPC cancelled,
	// deadline-exceeded, internal, resource-exhausted, unavailable. Two more are specific to
	// this package: default means the default conditions, and idempotent restricts retries to
	// calls that are safe to send twice. Empty means "default,idempotent"; an unknown condition
	// is an error. So "default,idempotent,retriable-status-codes" adds RetriableStatusCodes to
	// the default. Mirrors retry_on.
	On string `json:"on,omitempty"`

	// When, if set, reports whether to retry an outcome, in addition to the conditions of On. It
	// may read the response headers (Value is an *http.Response over HTTP) and the error, but not
	// the body. It is not called for calls that were canceled, refused, invalid, or out of time.
	// The condition idempotent and RetriableRequestHeaders restrict it, too. It must be safe for
	// concurrent use.
	When func(o *policy.Outcome) bool `json:"-"`

	// NumRetries is the maximum number of retries of a call. The zero value means 1; Never means no
	// retries; any other negative value is an error. Mirrors num_retries.
	NumRetries int `json:"num_retries,omitempty"`

	// RetriableStatusCodes lists the HTTP statuses that are retried if On has
	// retriable-status-codes. One without the other is an error, unless EnvoyHeaders is set and
	// a caller can send the other. Mirrors retriable_status_codes.
	RetriableStatusCodes []int `json:"retriable_status_codes,omitempty"`

	// RetriableHeaders lists matchers for the headers of responses that are retried if On has
	// retriable-headers, with any status. One match is enough. One of the two fields without the
	// other is an error, unless EnvoyHeaders is set and a caller can send the other. Mirrors
	// retriable_headers.
	RetriableHeaders []HeaderMatcher `json:"retriable_headers,omitempty"`

	// RetriableRequestHeaders, if not empty, restricts retries to requests that match one of
	// its matchers. Mirrors retriable_request_headers.
	RetriableRequestHeaders []HeaderMatcher `json:"retriable_request_headers,omitempty"`

	// BaseInterval is the base of the back-off: the wait before retry n is a uniform random
	// number from 0 to BaseInterval·2^(n-1), but below MaxInterval. Zero means 25ms; less than
	// 1ms is an error. Mirrors retry_back_off.base_interval.
	BaseInterval time.Duration `json:"base_interval,omitempty"`

	// MaxInterval bounds the back-off. Zero means ten times BaseInterval; a value below
	// BaseInterval is an error. Mirrors retry_back_off.max_interval.
	MaxInterval time.Duration `json:"max_interval,omitempty"`

	// ResetHeaders lists response headers that ask for a wait. The first valid one sets the
	// wait, multiplied by a random factor from 1 to 1.5. Nil means Retry-After; an empty list
	// means none. Mirrors rate_limited_retry_back_off.reset_headers.
	ResetHeaders []ResetHeader `json:"reset_headers,omitzero"`

	// MaxResetInterval is the longest wait that a response can ask for. If it asks for more, the
	// usual back-off applies. Zero means 300s; less than 1ms is an error. Mirrors
	// rate_limited_retry_back_off.max_interval.
	MaxResetInterval time.Duration `json:"max_reset_interval,omitempty"`

	// BackOff, if set, returns the source of a retried call's waits. It replaces BaseInterval
	// and MaxInterval, which must then be zero. It must return a new source each time, or nil for
	// the usual back-off. The source's Stop ends the retries. NumRetries still applies and
	// defaults to 1: raise it to let the BackOff decide. [backoff.Permanent] is that of v4; v5's
	// is not recognized.
	BackOff func() backoff.BackOff `json:"-"`

	// Budget bounds the retries of the upstream. Nil means the defaults of [Budget]. MaxRetries
	// or RetryBudget of limits replace it; a Budget together with one of them is an error, unless
	// it is Disabled.
	Budget *Budget `json:"budget,omitempty"`

	// Hosts selects the hosts of a cluster that a retry avoids. Nil means those of earlier attempts:
	// up to 20 times another host is picked instead. &Hosts{} avoids none, which is Envoy's default.
	// Without a cluster, any value other than nil is an error. Mirrors retry_host_predicate and
	// retry_priority.
	Hosts *Hosts `json:"hosts,omitempty"`

	// RetryRefused retries calls that a breaker or a limit inside refused. Envoy never retries
	// them.
	RetryRefused bool `json:"retry_refused,omitempty"`

	// HedgeOnPerTryTimeout makes a retry run beside an attempt whose per-try timeout fires, instead
	// of ending the attempt. The first response that is not to be retried is the result, and the
	// other attempts are canceled. Such a retry needs no condition of On, but idempotent in On and
	// RetriableRequestHeaders restrict it; NumRetries, the back-off and the budget apply. When the
	// retries are used up, the attempts continue without a per-try timeout, and the call has the flag
	// URX. Each attempt runs in its own goroutine. Streams of gRPC are not hedged. Mirrors
	// hedge_on_per_try_timeout of Envoy's HedgePolicy.
	HedgeOnPerTryTimeout bool `json:"hedge_on_per_try_timeout,omitempty"`

	// EnvoyHeaders lets a caller ask for retries in request headers, as Envoy does for internal
	// requests: x-envoy-retry-on and x-envoy-retry-grpc-on add Envoy's conditions to On,
	// x-envoy-max-retries replaces NumRetries, x-envoy-retriable-status-codes and
	// x-envoy-retriable-header-names add to the lists, x-envoy-hedge-on-per-try-timeout (true or
	// false) replaces HedgeOnPerTryTimeout. Invalid values are ignored, and the
	// headers are not forwarded. If On is empty, only the headers' conditions apply. Set it only
	// for trusted requests.
	EnvoyHeaders bool `json:"envoy_headers,omitempty"`

	// Rand returns a random number in [0, 1) for a wait. It must be safe for concurrent use. Nil
	// means [math/rand/v2.Float64].
	Rand func() float64 `json:"-"`
}

// Place returns a place inside policies that see calls, and outside those that see attempts.
func (c Config) Place() policy.Place {
	if c.HedgeOnPerTryTimeout {
		return policy.Place{Rank: policy.Hedges, Name: "retry"}
	}
	return policy.Place{Rank: policy.Retries}
}

// Wrap wraps next, which makes one attempt, with retries.
func (c Config) Wrap(s *policy.Builder, next policy.Func) (policy.Func, error) {
	p, err := c.compile()
	if err = errors.Join(err, checkBudget("Config", c.Budget, s), c.Hosts.apply(s)); err != nil {
		return nil, err
	}
	l := newLoop(s, p, c.Budget, next)
	l.hedges = c.HedgeOnPerTryTimeout
	if !c.EnvoyHeaders {
		return l.call, nil
	}
	s.Require(policy.Needs{Consume: envoyHeaders})
	return func(ctx context.Context, call *policy.Call) *policy.Outcome {
		asked := *l
		asked.rule, asked.hedges = p.honoring(call), l.hedging(call)
		return asked.call(ctx, call)
	}, nil
}

// checkBudget reports the invalid values of a policy's budget.
func checkBudget(policy string, b *Budget, s *policy.Builder) error {
	if b != nil && !b.Disabled && s.LimitsRetries() {
		return fmt.Errorf("retry: %s.Budget: no effect beside MaxRetries or RetryBudget of limits; leave one of them out", policy)
	}
	return b.check(policy + ".Budget")
}

// compile checks the configuration and converts it to a rule.
func (c Config) compile() (*envoyRule, error) {
	on, err := parseStrict(c.On)
	bad := []error{err, c.checkNumbers(), c.checkConditions(on), c.checkLists(on), c.checkWaits()}
	headers, err := compileHeaders("RetriableHeaders", c.RetriableHeaders)
	bad = append(bad, err)
	requestHeaders, err := compileHeaders("RetriableRequestHeaders", c.RetriableRequestHeaders)
	bad = append(bad, err)
	for i, h := range c.ResetHeaders {
		bad = append(bad, h.check(i))
	}
	if err := errors.Join(bad...); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	if c.standard() {
		on = conditions{is: byDefault, idempotent: true}
	}
	return &envoyRule{
		on: on, when: c.When, refused: c.RetryRefused, most: c.NumRetries,
		statusCodes: slices.Clone(c.RetriableStatusCodes), headers: headers, requestHeaders: requestHeaders,
		base: c.BaseInterval, max: c.MaxInterval, source: c.BackOff, random: c.Rand,
		reset: slices.Clone(c.ResetHeaders), maxReset: c.MaxResetInterval,
	}, nil
}

// standard reports whether the default conditions apply.
func (c Config) standard() bool { return strings.TrimSpace(c.On) == "" && !c.EnvoyHeaders }

func (c Config) checkNumbers() error {
	var bad []error
	say := func(field string, value any, why string) {
		if why != "" {
			bad = append(bad, fmt.Errorf("retry: Config.%s: %v %s", field, value, why))
		}
	}
	if c.NumRetries != Never {
		say("NumRetries", c.NumRetries, settings.Count(int64(c.NumRetries), "0 for 1", "retry.Never for none"))
	}
	say("BaseInterval", c.BaseInterval, settings.Duration(c.BaseInterval, "0 for 25ms"))
	say("MaxInterval", c.MaxInterval, cmp.Or(settings.Duration(c.MaxInterval, "0 for ten times BaseInterval"), c.checkMaxInterval()))
	say("MaxResetInterval", c.MaxResetInterval, settings.Duration(c.MaxResetInterval, "0 for 5m"))
	return errors.Join(bad...)
}

// checkMaxInterval returns what is wrong with MaxInterval, or "".
func (c Config) checkMaxInterval() string {
	base := cmp.Or(c.BaseInterval, DefaultBaseInterval)
	if c.MaxInterval == 0 || c.MaxInterval >= base {
		return ""
	}
	return fmt.Sprintf("is below BaseInterval; write %v or more, or 0 for ten times BaseInterval", base)
}

// checkConditions reports a policy that would never retry.
func (c Config) checkConditions(on conditions) error {
	if on.idempotent && !on.some() && c.When == nil && !c.EnvoyHeaders {
		return errors.New(`retry: Config.On: "idempotent" is no condition by itself; write "default,idempotent"`)
	}
	return nil
}

// checkLists reports lists whose condition is missing, and conditions whose list is missing.
func (c Config) checkLists(on conditions) error {
	var bad []error
	for _, code := range c.RetriableStatusCodes {
		if !isStatus(code) {
			bad = append(bad, fmt.Errorf("retry: Config.RetriableStatusCodes: %d is no HTTP status; write one from 100 to 599", code))
		}
	}
	if c.EnvoyHeaders { // a caller can send what is missing
		return errors.Join(bad...)
	}
	pair := func(word string, named bool, field string, n int) {
		switch {
		case n > 0 && !named:
			bad = append(bad, fmt.Errorf("retry: Config.%s: no effect, because On lacks %s; add it to On, or leave %[1]s out", field, word))
		case n == 0 && named:
			bad = append(bad, fmt.Errorf("retry: Config.On: %s has no effect, because %s is empty; fill that, or leave %[1]s out", word, field))
		}
	}
	pair("retriable-status-codes", on.statusCodes, "RetriableStatusCodes", len(c.RetriableStatusCodes))
	pair("retriable-headers", on.headers, "RetriableHeaders", len(c.RetriableHeaders))
	return errors.Join(bad...)
}

func isStatus(code int) bool { return code >= 100 && code <= 599 }

// checkWaits reports settings that another setting makes ineffective.
func (c Config) checkWaits() error {
	var bad []error
	say := func(field string, value time.Duration, why string) {
		if value != 0 {
			bad = append(bad, fmt.Errorf("retry: Config.%s: %v has no effect %s", field, value, why))
		}
	}
	if c.BackOff != nil {
		say("BaseInterval", c.BaseInterval, "beside BackOff; leave it out")
		say("MaxInterval", c.MaxInterval, "beside BackOff; leave it out")
	}
	if c.ResetHeaders != nil && len(c.ResetHeaders) == 0 {
		say("MaxResetInterval", c.MaxResetInterval, "without ResetHeaders; leave it out")
	}
	return errors.Join(bad...)
}

func (c Config) withDefaults() Config {
	switch c.NumRetries {
	case 0:
		c.NumRetries = DefaultNumRetries
	case Never:
		c.NumRetries = 0
	}
	c.BaseInterval = cmp.Or(c.BaseInterval, DefaultBaseInterval)
	c.MaxInterval = cmp.Or(c.MaxInterval, 10*min(c.BaseInterval, math.MaxInt64/10))
	c.MaxResetInterval = cmp.Or(c.MaxResetInterval, DefaultMaxResetInterval)
	if c.ResetHeaders == nil {
		c.ResetHeaders = []ResetHeader{{Name: "Retry-After"}}
	}
	if c.Rand == nil {
		c.Rand = rand.Float64
	}
	return c
}
