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

	"github.com/pillion-go/pillion"
)

// None is a number of retries of zero, where zero means the default.
const None = -1

// The values of a Config that names none, as in Envoy.
const (
	DefaultNumRetries       = 1
	DefaultBaseInterval     = 25 * time.Millisecond
	DefaultMaxResetInterval = 300 * time.Second
)

// Config says when a call is sent again, how often, and after what wait. It is a
// policy, to stand outside of limits and breaker. It mirrors Envoy's RetryPolicy.
//
// Without On, the default conditions hold: connect-failure, refused-stream,
// reset, an answer 502 to 504, and the per-try time-out; and only for calls that may be
// sent twice without harm: their method is idempotent (GET, HEAD, OPTIONS, TRACE, PUT,
// DELETE), or the request has an Idempotency-Key. With On its words decide, as in Envoy:
// On: "5xx" does send a POST again.
type Config struct {
	// On lists Envoy's conditions, separated by commas: 5xx, gateway-error, reset,
	// reset-before-request, connect-failure, retriable-4xx, refused-stream,
	// retriable-status-codes, retriable-headers, envoy-ratelimited, and for gRPC cancelled,
	// deadline-exceeded, internal, resource-exhausted, unavailable. Empty means the default
	// conditions above; an unknown word is an error. Mirrors retry_on.
	On string `json:"on,omitempty"`

	// NumRetries is how often a call is sent again at most. Zero means 1, None never; any
	// other negative value is an error. Mirrors num_retries.
	NumRetries int `json:"num_retries,omitempty"`

	// RetriableStatusCodes are HTTP statuses that are retried when On has
	// retriable-status-codes; without it they are an error. Mirrors retriable_status_codes.
	RetriableStatusCodes []int `json:"retriable_status_codes,omitempty"`

	// RetriableHeaders match the head of an answer that is retried when On has
	// retriable-headers, whatever its status; without it they are an error. One match is
	// enough. Mirrors retriable_headers.
	RetriableHeaders []HeaderMatcher `json:"retriable_headers,omitempty"`

	// RetriableRequestHeaders, if there are any, limit retries to requests whose head one
	// of them matches. Mirrors retriable_request_headers.
	RetriableRequestHeaders []HeaderMatcher `json:"retriable_request_headers,omitempty"`

	// BaseInterval is the scale of the back-off: the wait before retry n is random, uniform
	// from 0 to BaseInterval·2^(n-1), but below MaxInterval. Zero means 25ms; negative is an
	// error. Mirrors retry_back_off.base_interval.
	BaseInterval time.Duration `json:"base_interval,omitempty"`

	// MaxInterval bounds the back-off. Zero means ten times BaseInterval; below BaseInterval
	// is an error. Mirrors retry_back_off.max_interval.
	MaxInterval time.Duration `json:"max_interval,omitempty"`

	// ResetHeaders are headers in which an answer can ask for a wait of its own: the first
	// that can be read sets the wait, times a random factor from 1 to 1.5. Nil means
	// Retry-After under the default conditions, and none where On says when to retry.
	// Mirrors rate_limited_retry_back_off.reset_headers.
	ResetHeaders []ResetHeader `json:"reset_headers,omitempty"`

	// MaxResetInterval is the longest wait that an answer can ask for; asked for more, the
	// ordinary back-off holds. Zero means 300s; negative is an error.
	// Mirrors rate_limited_retry_back_off.max_interval.
	MaxResetInterval time.Duration `json:"max_reset_interval,omitempty"`

	// BackOff, if set, is asked for the source of the waits of each call that is retried,
	// in place of BaseInterval and MaxInterval. It must give a new one each time. Its Stop
	// ends the retries. NumRetries holds all the same, and is 1 unless set: raise it where the
	// BackOff shall decide. [backoff.Permanent] is that of v4; v5's is not known.
	BackOff func() backoff.BackOff `json:"-"`

	// RetryRefused retries calls that a breaker or a limit inside refused. Envoy never does.
	RetryRefused bool `json:"retry_refused,omitempty"`

	// EnvoyHeaders lets a caller ask for retries itself, as Envoy lets an internal one:
	// x-envoy-retry-on and x-envoy-retry-grpc-on add conditions to On, x-envoy-max-retries
	// takes the place of NumRetries, x-envoy-retriable-status-codes and
	// x-envoy-retriable-header-names add to the lists. What cannot be read is ignored, and the
	// headers are not sent on. Without On, nothing is then retried that no header asks for.
	// Only for requests that can be trusted.
	EnvoyHeaders bool `json:"envoy_headers,omitempty"`

	// Rand gives the random numbers, from 0 to below 1, for the waits. It must be safe for
	// concurrent use. Nil means [math/rand/v2.Float64].
	Rand func() float64 `json:"-"`
}

// Role is that of a policy that sends calls again.
func (Config) Role() pillion.Role { return pillion.RoleRetry }

// Wrap makes the attempts of each call.
func (c Config) Wrap(s *pillion.Site, next pillion.Func) (pillion.Func, error) {
	p, err := c.compile()
	if err != nil {
		return nil, err
	}
	if !c.EnvoyHeaders {
		return wrap(s, p, next), nil
	}
	s.NeedCancel()
	s.ConsumeHeaders(envoyHeaders...)
	return func(ctx context.Context, call *pillion.Call) *pillion.Outcome {
		l := loop{rule: p.heeding(call), next: next}
		return l.call(ctx, call)
	}, nil
}

// compile checks the configuration and makes it quick to use.
func (c Config) compile() (*policy, error) {
	on, err := parseStrict(c.On)
	bad := []error{err, c.checkNumbers(), c.checkLists(on)}
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
	standard := strings.TrimSpace(c.On) == "" && !c.EnvoyHeaders
	if standard {
		on.is = byDefault
	}
	return &policy{
		on: on, idempotent: standard, refused: c.RetryRefused, most: c.NumRetries,
		statusCodes: slices.Clone(c.RetriableStatusCodes), headers: headers, requestHeaders: requestHeaders,
		base: c.BaseInterval, max: c.MaxInterval, source: c.BackOff, random: c.Rand,
		reset: slices.Clone(c.ResetHeaders), maxReset: c.MaxResetInterval,
	}, nil
}

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
		if f.value < 0 {
			say(f.name, f.value, "is negative")
		}
	}
	if base := orDefault(c.BaseInterval, DefaultBaseInterval); c.MaxInterval > 0 && c.MaxInterval < base {
		say("MaxInterval", c.MaxInterval, "is below BaseInterval")
	}
	return errors.Join(bad...)
}

func (c Config) checkLists(on conditions) error {
	var bad []error
	for _, code := range c.RetriableStatusCodes {
		if code < 100 || code > 599 {
			bad = append(bad, fmt.Errorf("retry: Config.RetriableStatusCodes: %d is no HTTP status", code))
		}
	}
	if len(c.RetriableStatusCodes) > 0 && !on.statusCodes {
		bad = append(bad, errors.New("retry: Config.RetriableStatusCodes: no effect: On lacks retriable-status-codes"))
	}
	if len(c.RetriableHeaders) > 0 && !on.headers {
		bad = append(bad, errors.New("retry: Config.RetriableHeaders: no effect: On lacks retriable-headers"))
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
	if c.ResetHeaders == nil && strings.TrimSpace(c.On) == "" && !c.EnvoyHeaders {
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
