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

// The values of a Config that names none.
const (
	DefaultTokensPerFill = 1
	DefaultStatus        = 429
	DefaultMaxKeys       = 1024
)

// Zero is a bucket without any token, where zero is an error.
const Zero = -1

// shortestInterval is the shortest FillInterval, as in Envoy.
const shortestInterval = 50 * time.Millisecond

// Config says how fast calls may come. It is a policy: outside of retry it limits calls, inside it
// attempts. Each upstream that it is given to has its own bucket: see [New] for one that several
// share. It mirrors Envoy's LocalRateLimit.
type Config struct {
	// TokenBucket is how many calls may come. Mirrors token_bucket.
	TokenBucket TokenBucket `json:"token_bucket"`

	// Enabled is the share of the calls that are looked at; the others take no token. The zero
	// value is all, where Envoy's is none. Mirrors filter_enabled.
	Enabled envoy.Percent `json:"filter_enabled,omitzero"`

	// Enforced is the share of the calls that are refused, of those that find no token. The others
	// are only counted. The zero value is all, where Envoy's is none. Mirrors filter_enforced.
	Enforced envoy.Percent `json:"filter_enforced,omitzero"`

	// Status is the HTTP status of a refusal, from 400 to 599. Zero means 429. Mirrors status.
	Status int `json:"status,omitempty"`

	// ResourceExhausted has a refused gRPC call end with RESOURCE_EXHAUSTED, in place of the status
	// that stands for Status: UNAVAILABLE for 429. Mirrors rate_limited_as_resource_exhausted.
	ResourceExhausted bool `json:"rate_limited_as_resource_exhausted,omitempty"`

	// StatPrefix stands before the names of the statistics, so that two limits of one upstream are
	// counted by themselves. Mirrors stat_prefix.
	StatPrefix string `json:"stat_prefix,omitempty"`

	// Key, if set, returns what has a bucket of its own, such as a header that names the caller:
	// c.RequestHeader("X-Tenant"). The calls of one key share a bucket. It must be safe for
	// concurrent use, and fast.
	Key func(ctx context.Context, c *policy.Call) string `json:"-"`

	// MaxKeys is how many buckets are kept for keys. Zero means 1024; negative is an error, and so
	// is a value without Key. Further keys share one bucket.
	MaxKeys int `json:"max_keys,omitempty"`

	// Rand returns uniform random numbers for Enabled and Enforced. It must be safe for concurrent
	// use. Nil means [math/rand/v2.Uint64].
	Rand func() uint64 `json:"-"`
}

// TokenBucket is a bucket from which each call takes a token. It is full at first, and fills
// continuously. Mirrors Envoy's TokenBucket.
type TokenBucket struct {
	// MaxTokens is how many tokens the bucket holds: the calls that may come in one moment. It must
	// be set; the constant Zero lets nothing through. Mirrors max_tokens.
	MaxTokens int `json:"max_tokens"`

	// TokensPerFill is how many tokens come in each FillInterval. Zero means 1; negative is an
	// error. Mirrors tokens_per_fill.
	TokensPerFill int `json:"tokens_per_fill,omitempty"`

	// FillInterval must be set; less than 50ms is an error, as in Envoy. Mirrors fill_interval.
	FillInterval time.Duration `json:"fill_interval"`
}

// Wrap limits the calls of one upstream.
func (c Config) Wrap(b *policy.Builder, next policy.Func) (policy.Func, error) {
	l, err := New(c)
	if err != nil {
		return nil, err
	}
	return l.Wrap(b, next)
}

// check reports each bad field.
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
		say("Status: %d is not within 400 and 599; leave it out for 429", c.Status)
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
		say("MaxTokens: 0 is no limit; write how many calls may come in one moment, or ratelimit.Zero for none")
	case t.MaxTokens < 0 && t.MaxTokens != Zero:
		say("MaxTokens: %d is negative; write how many calls may come in one moment, or ratelimit.Zero for none", t.MaxTokens)
	}
	if why := settings.Count(int64(t.TokensPerFill), "0 for 1"); why != "" {
		say("TokensPerFill: %d %s", t.TokensPerFill, why)
	}
	if t.FillInterval < shortestInterval {
		say("FillInterval: %v is below %v; write more, with more TokensPerFill", t.FillInterval, shortestInterval)
	}
	return errors.Join(bad...)
}

// rate is how the bucket fills.
func (t TokenBucket) rate() rate {
	return rate{
		max:    float64(max(0, t.MaxTokens)),
		tokens: float64(cmp.Or(t.TokensPerFill, DefaultTokensPerFill)) / float64(t.FillInterval),
	}
}
