package ratelimit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/internal/settings"
	"github.com/pillion-go/pillion/policy"
)

// The defaults of a Config.
const (
	DefaultTokensPerFill = 1
	DefaultStatus        = 429
	DefaultMaxKeys       = 1024
)

// Zero is a MaxTokens of zero, where the zero value is an error.
const Zero = -1

// shortestInterval is the minimum of FillInterval, as in Envoy.
const shortestInterval = 50 * time.Millisecond

// Config configures the rate limit. It is a policy that may be anywhere, and there may be several:
// outside retry it limits calls, inside retry attempts. Each upstream that uses it has a separate
// bucket; use [New] for a bucket that several upstreams share. Mirrors Envoy's LocalRateLimit.
type Config struct {
	// TokenBucket determines how many calls are admitted. It must be set. Mirrors token_bucket.
	TokenBucket TokenBucket `json:"token_bucket"`

	// Enabled is the share of the calls that are limited. The other calls take no token. The zero
	// value means all calls, where Envoy's means none. Mirrors filter_enabled.
	Enabled envoy.Percent `json:"filter_enabled,omitzero"`

	// Enforced is the share of the calls without a token that are refused. The other calls are only
	// counted. The zero value means all calls, where Envoy's means none. Mirrors filter_enforced.
	Enforced envoy.Percent `json:"filter_enforced,omitzero"`

	// Status is the HTTP status of a refusal. Zero means 429; any other value outside 400 to 599 is
	// an error. Mirrors status.
	Status int `json:"status,omitempty"`

	// ResourceExhausted makes RESOURCE_EXHAUSTED the gRPC status of a refusal, instead of the one
	// that corresponds to Status: UNAVAILABLE for 429. Mirrors rate_limited_as_resource_exhausted.
	ResourceExhausted bool `json:"rate_limited_as_resource_exhausted,omitempty"`

	// StatPrefix is a prefix of the names of the statistics, followed by a dot. Policies of one
	// upstream need different prefixes to be counted separately. Mirrors stat_prefix.
	StatPrefix string `json:"stat_prefix,omitempty"`

	// Key, if set, returns the key of a call, such as c.RequestHeader("X-Tenant"). The calls of each
	// key have a separate bucket. It must be safe for concurrent use, and return quickly.
	Key func(ctx context.Context, c *policy.Call) string `json:"-"`

	// MaxKeys is the maximum number of buckets of keys. All further keys share one bucket. Zero means
	// 1024; negative is an error, as is a value without Key.
	MaxKeys int `json:"max_keys,omitempty"`

	// Rand returns a uniform random number for Enabled and Enforced. It must be safe for concurrent
	// use. Nil means [math/rand/v2.Uint64].
	Rand func() uint64 `json:"-"`
}

// TokenBucket configures a token bucket. The bucket is full at the start and fills continuously.
// Mirrors Envoy's TokenBucket.
type TokenBucket struct {
	// MaxTokens is the maximum number of tokens in the bucket: the largest burst of calls. It must
	// be set; the constant Zero admits nothing; any other negative value is an error. Mirrors
	// max_tokens.
	MaxTokens int `json:"max_tokens"`

	// TokensPerFill is the number of tokens that each FillInterval adds. Zero means 1; negative is
	// an error. Mirrors tokens_per_fill.
	TokensPerFill int `json:"tokens_per_fill,omitempty"`

	// FillInterval is the time in which TokensPerFill tokens are added. It must be set; less than 50ms
	// is an error, as in Envoy. Mirrors fill_interval.
	FillInterval time.Duration `json:"fill_interval"`
}

// Wrap makes the bucket of an upstream and wraps next with the limit.
func (c Config) Wrap(b *policy.Builder, next policy.Func) (policy.Func, error) {
	l, err := New(c)
	if err != nil {
		return nil, err
	}
	return l.Wrap(b, next)
}

// check returns an error for each invalid field.
func (c Config) check() error {
	bad := []error{c.TokenBucket.check()}
	say := func(format string, args ...any) {
		bad = append(bad, fmt.Errorf("ratelimit: Config."+format, args...))
	}
	for _, share := range []struct {
		field string
		value envoy.Percent
	}{{"Enabled", c.Enabled}, {"Enforced", c.Enforced}} {
		if err := share.value.Check(); err != nil {
			say("%s.%w", share.field, err)
		}
	}
	if c.Status != 0 && (c.Status < 400 || c.Status > 599) {
		say("Status: %d is not within 400 and 599; write a status such as 503, or 0 for 429", c.Status)
	}
	switch why := settings.Count(int64(c.MaxKeys), "0 for 1024"); {
	case why != "":
		say("MaxKeys: %d %s", c.MaxKeys, why)
	case c.MaxKeys > 0 && c.Key == nil:
		say("MaxKeys: %d has no effect without Key; leave it out", c.MaxKeys)
	}
	return errors.Join(bad...)
}

func (t TokenBucket) check() error {
	var bad []error
	say := func(format string, args ...any) {
		bad = append(bad, fmt.Errorf("ratelimit: Config.TokenBucket."+format, args...))
	}
	switch {
	case t.MaxTokens == 0:
		say("MaxTokens: 0 is not a limit; write the largest burst of calls, or ratelimit.Zero to admit none")
	case t.MaxTokens < 0 && t.MaxTokens != Zero:
		say("MaxTokens: %d is negative; write the largest burst of calls, or ratelimit.Zero to admit none", t.MaxTokens)
	}
	if why := settings.Count(int64(t.TokensPerFill), "0 for 1"); why != "" {
		say("TokensPerFill: %d %s", t.TokensPerFill, why)
	}
	if t.FillInterval < shortestInterval {
		say("FillInterval: %v is below %v; write a longer interval, and more TokensPerFill", t.FillInterval, shortestInterval)
	}
	return errors.Join(bad...)
}

// rate returns the rate at which the bucket fills.
func (t TokenBucket) rate() rate {
	return rate{
		max:    float64(max(0, t.MaxTokens)),
		tokens: float64(cmp.Or(t.TokensPerFill, DefaultTokensPerFill)) / float64(t.FillInterval),
	}
}
