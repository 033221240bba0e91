package retry

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/pillion-go/pillion/policy"
)

// None stands for a number of zero where zero means the default: of retries, and in a
// [Budget].
const None = -1

// The values of a Config that names none, as in Envoy.
const (
	DefaultNumRetries       = 1
	DefaultBaseInterval     = 25 * time.Millisecond
	DefaultMaxResetInterval = 300 * time.Second
)

// Config says which calls are retried, how often, and after what wait. It is a policy, to
// stand outside limits and breaker. It mirrors Envoy's RetryPolicy.
//
// Without On, the default conditions hold: connect-failure, refused-stream, reset, a response
// 502 to 504, and the per-try timeout; and only for calls that may be sent twice without harm:
// their method is idempotent (GET, HEAD, OPTIONS, TRACE, PUT, DELETE), the request has an
// Idempotency-Key, or the caller says so with [pillion.WithIdempotent], which also holds for a
// function under [pillion.Do]. With On its words decide, as in Envoy: On: "5xx" does retry a
// POST.
//
// The retries of an upstream are bounded by a [Budget], unless limits among its policies sets
// MaxRetries or RetryBudget.
type Config struct {
	// On lists conditions, separated by commas: Envoy's 5xx, gateway-error, reset,
	// reset-before-request, connect-failure, retriable-4xx, refused-stream,
	// retriable-status-codes, retriable-headers, envoy-ratelimited, and for gRPC cancelled,
	// deadline-exceeded, internal, resource-exhausted, unavailable; and two of the library's own:
	// default stands for the default conditions, and idempotent limits retries to calls that may
	// be sent twice without harm. Empty means "default,idempotent"; an unknown word is an error.
	// So "default,idempotent,retriable-status-codes" adds RetriableStatusCodes to the default.
	// Mirrors retry_on.
	On string `json:"on,omitempty"`

	// When, if set, reports whether an outcome is retried, beside the words of On: it adds to
	// them. It may look at the response headers (Value is an *http.Response over HTTP) and at the
	// error, but must not read the body. It is not called for calls that were canceled, refused,
	// invalid, or out of time. The idempotency guard and RetriableRequestHeaders hold for it, too.
	// It must be safe for concurrent use.
	When func(o *policy.Outcome) bool `json:"-"`

	// NumRetries is how often a call is retried at most. Zero means 1, None never; any
	// other negative value is an error. Mirrors num_retries.
	NumRetries int `json:"num_retries,omitempty"`

	// RetriableStatusCodes are HTTP statuses that are retried when On has
	// retriable-status-codes. One without the other is an error, unless EnvoyHeaders is set and
	// a caller can name the other. Mirrors retriable_status_codes.
	RetriableStatusCodes []int `json:"retriable_status_codes,omitempty"`

	// RetriableHeaders match the headers of a response that is retried when On has
	// retriable-headers, whatever its status. One match is enough. One without the other is an
	// error, unless EnvoyHeaders is set and a caller can name the other.
	// Mirrors retriable_headers.
	RetriableHeaders []HeaderMatcher `json:"retriable_headers,omitempty"`

	// RetriableRequestHeaders, if there are any, limit retries to requests that one of them
	// matches. Mirrors retriable_request_headers.
	RetriableRequestHeaders []HeaderMatcher `json:"retriable_request_headers,omitempty"`

	// BaseInterval is the scale of the back-off: the wait before retry n is random, uniform
	// from 0 to BaseInterval·2^(n-1), but below MaxInterval. Zero means 25ms; less than 1ms is an
	// error. Mirrors retry_back_off.base_interval.
	BaseInterval time.Duration `json:"base_interval,omitempty"`

	// MaxInterval bounds the back-off. Zero means ten times BaseInterval; below BaseInterval
	// is an error. Mirrors retry_back_off.max_interval.
	MaxInterval time.Duration `json:"max_interval,omitempty"`

	// ResetHeaders are headers in which a response asks for a wait: the first that can be read
	// sets the wait, times a random factor from 1 to 1.5. Nil means Retry-After, an empty list
	// none. Mirrors rate_limited_retry_back_off.reset_headers.
	ResetHeaders []ResetHeader `json:"reset_headers,omitzero"`

	// MaxResetInterval is the longest wait that a response can ask for; asked for more, the
	// ordinary back-off holds. Zero means 300s; less than 1ms is an error.
	// Mirrors rate_limited_retry_back_off.max_interval.
	MaxResetInterval time.Duration `json:"max_reset_interval,omitempty"`

	// BackOff, if set, returns the source of the waits of each call that is retried, in place
	// of BaseInterval and MaxInterval, which are an error beside it. It must return a new one each
	// time; nil stands for the ordinary back-off. Its Stop ends the retries. NumRetries holds
	// nevertheless, and is 1 unless set: raise it where the BackOff shall decide.
	// [backoff.Permanent] is that of v4; v5's is not known.
	BackOff func() backoff.BackOff `json:"-"`

	// Budget bounds the retries of the upstream. Nil means the default values of [Budget].
	// Where limits sets MaxRetries or RetryBudget, these take its place, and a Budget beside them
	// is an error, unless it is Disabled.
	Budget *Budget `json:"budget,omitempty"`

	// Hosts says which hosts of a cluster a retry avoids. Nil means those of the attempts before,
	// in whose place up to 20 times another one is picked; Envoy avoids none by default, as &Hosts{} does.
	// Without a cluster inside anything but nil is an error. Mirrors retry_host_predicate and
	// retry_priority.
	Hosts *Hosts `json:"hosts,omitempty"`

	// RetryRefused retries calls that a breaker or a limit inside refused. Envoy never does.
	RetryRefused bool `json:"retry_refused,omitempty"`

	// EnvoyHeaders lets a caller ask for retries itself, as Envoy lets an internal one:
	// x-envoy-retry-on and x-envoy-retry-grpc-on add Envoy's conditions to On, x-envoy-max-retries
	// takes the place of NumRetries, x-envoy-retriable-status-codes and
	// x-envoy-retriable-header-names add to the lists. What cannot be read is ignored, and the
	// headers are not sent on. Without On, nothing is then retried that no header asks for.
	// Only for requests that can be trusted.
	EnvoyHeaders bool `json:"envoy_headers,omitempty"`

	// Rand returns the random numbers for the waits, from 0 to below 1. It must be safe for
	// concurrent use. Nil means [math/rand/v2.Float64].
	Rand func() float64 `json:"-"`
}

// Place is outside of what sees attempts, and inside of what sees calls.
func (Config) Place() policy.Place { return policy.Place{Rank: policy.Retries} }

// Wrap makes the attempts of each call.
func (c Config) Wrap(s *policy.Builder, next policy.Func) (policy.Func, error) {
	p, err := c.compile()
	if err = errors.Join(err, checkBudget("Config", c.Budget, s), c.Hosts.apply(s)); err != nil {
		return nil, err
	}
	l := newLoop(s, p, c.Budget, next)
	if !c.EnvoyHeaders {
		return l.call, nil
	}
	s.Require(policy.Needs{Consume: envoyHeaders})
	return func(ctx context.Context, call *policy.Call) *policy.Outcome {
		asked := *l
		asked.rule = p.heeding(call)
		return asked.call(ctx, call)
	}, nil
}

// checkBudget reports what is wrong with the budget of a policy.
func checkBudget(policy string, b *Budget, s *policy.Builder) error {
	if b != nil && !b.Disabled && s.LimitsRetries() {
		return fmt.Errorf("retry: %s.Budget: no effect beside MaxRetries or RetryBudget of limits; leave one of them out", policy)
	}
	return b.check(policy + ".Budget")
}

// compile checks the configuration and makes it quick to use.
func (c Config) compile() (*envoyRule, error) {
	on, err := parseStrict(c.On)
	bad := []error{err, c.checkNumbers(), c.checkConditions(on), c.checkLists(on), c.checkWaits()}
	headers, err := compileHeaders("RetriableHeaders", c.RetriableHeaders)
	bad = append(bad, err)
	requestHeaders, err := compileHeaders("RetriableRequestHeaders", c.RetriableRequestHeaders)
	bad = append(bad, err)
	for _, h := range c.ResetHeaders {
		bad = append(bad, h.check())
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

// standard reports whether the default conditions hold.
func (c Config) standard() bool { return strings.TrimSpace(c.On) == "" && !c.EnvoyHeaders }

func (c Config) checkNumbers() error {
	var bad []error
	say := func(field string, value any, why string) {
		bad = append(bad, fmt.Errorf("retry: Config.%s: %v %s", field, value, why))
	}
	if c.NumRetries < 0 && c.NumRetries != None {
		say("NumRetries", c.NumRetries, "is negative")
	}
	for _, f := range []struct {
		name  string
		value time.Duration
	}{
		{"BaseInterval", c.BaseInterval}, {"MaxInterval", c.MaxInterval}, {"MaxResetInterval", c.MaxResetInterval},
	} {
		if why := checkInterval(f.value); why != "" {
			say(f.name, f.value, why)
		}
	}
	if base := orDefault(c.BaseInterval, DefaultBaseInterval); c.MaxInterval >= shortest && c.MaxInterval < base {
		say("MaxInterval", c.MaxInterval, "is below BaseInterval")
	}
	return errors.Join(bad...)
}

// shortest is the shortest wait that makes sense: less is a number whose unit was forgotten.
const shortest = time.Millisecond

// checkInterval says what is wrong with a wait, "" for nothing.
func checkInterval(d time.Duration) string {
	switch {
	case d < 0:
		return "is negative"
	case d > 0 && d < shortest:
		return "is below 1ms; did you forget the unit?"
	}
	return ""
}

// checkConditions finds a policy that would never retry anything.
func (c Config) checkConditions(on conditions) error {
	if on.idempotent && !on.some() && c.When == nil && !c.EnvoyHeaders {
		return errors.New(`retry: Config.On: "idempotent" is no condition by itself; write "default,idempotent"`)
	}
	return nil
}

// checkLists finds lists whose word is missing, and words whose list is.
func (c Config) checkLists(on conditions) error {
	var bad []error
	for _, code := range c.RetriableStatusCodes {
		if !isStatus(code) {
			bad = append(bad, fmt.Errorf("retry: Config.RetriableStatusCodes: %d is no HTTP status", code))
		}
	}
	if c.EnvoyHeaders { // a caller can name what is missing
		return errors.Join(bad...)
	}
	pair := func(word string, named bool, field string, n int) {
		switch {
		case n > 0 && !named:
			bad = append(bad, fmt.Errorf("retry: Config.%s: no effect: On lacks %s", field, word))
		case n == 0 && named:
			bad = append(bad, fmt.Errorf("retry: Config.On: %s has no effect: %s is empty", word, field))
		}
	}
	pair("retriable-status-codes", on.statusCodes, "RetriableStatusCodes", len(c.RetriableStatusCodes))
	pair("retriable-headers", on.headers, "RetriableHeaders", len(c.RetriableHeaders))
	return errors.Join(bad...)
}

func isStatus(code int) bool { return code >= 100 && code <= 599 }

// checkWaits finds settings that another one leaves without effect.
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
	case None:
		c.NumRetries = 0
	}
	c.BaseInterval = orDefault(c.BaseInterval, DefaultBaseInterval)
	c.MaxInterval = orDefault(c.MaxInterval, 10*min(c.BaseInterval, math.MaxInt64/10))
	c.MaxResetInterval = orDefault(c.MaxResetInterval, DefaultMaxResetInterval)
	if c.ResetHeaders == nil {
		c.ResetHeaders = []ResetHeader{{Name: "Retry-After"}}
	}
	if c.Rand == nil {
		c.Rand = rand.Float64
	}
	return c
}

func orDefault(d, standard time.Duration) time.Duration {
	if d == 0 {
		return standard
	}
	return d
}
