package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// ErrLimited matches every [*Error].
var ErrLimited = errors.New("ratelimit: limited")

// Error says that a call came too fast.
type Error struct {
	Upstream string
	Key      string // whose bucket was empty; "" without [Config] Key
}

func (e *Error) Error() string {
	if e.Key == "" {
		return fmt.Sprintf("ratelimit: %s: too many calls", e.Upstream)
	}
	return fmt.Sprintf("ratelimit: %s: too many calls of %q", e.Upstream, e.Key)
}

// Is reports whether target is [ErrLimited].
func (e *Error) Is(target error) bool { return target == ErrLimited }

// Limiter is a Config that several upstreams share: their calls take tokens from the same bucket.
// It is a policy. It is made by [New], and safe for concurrent use.
type Limiter struct {
	config Config
	rate   rate
	epoch  time.Time
	shared *bucket // of all calls, or of those whose key has no bucket of its own
	keys   *keys   // nil without Key
	detail *envoy.Detail
}

// New makes a Limiter. The error joins all that is wrong with the configuration.
func New(c Config) (*Limiter, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	l := &Limiter{config: c, rate: c.TokenBucket.rate(), epoch: time.Now(), detail: c.detail()}
	l.shared = l.rate.newBucket(0)
	if c.Key != nil {
		l.keys = newKeys(orDefault(c.MaxKeys, DefaultMaxKeys))
	}
	return l, nil
}

// detail is that of the calls that are refused.
func (c Config) detail() *envoy.Detail {
	const text = "local_rate_limited"
	spec := envoy.DetailSpec{Text: text, Flags: envoy.RL, Status: orDefault(c.Status, DefaultStatus), Body: text, Unrouted: true}
	if c.ResourceExhausted {
		spec.GRPC = 8
	}
	return envoy.NewDetail(spec)
}

// Detail is the detail of the calls that l refuses: in Envoy's words local_rate_limited.
func (l *Limiter) Detail() *envoy.Detail { return l.detail }

// Wrap limits the calls of one more upstream.
func (l *Limiter) Wrap(b *policy.Builder, next policy.Func) (policy.Func, error) {
	w := &limited{Limiter: l, next: next, upstream: b.Upstream(), refusal: &Error{Upstream: b.Upstream()}}
	prefix := "http_local_rate_limit."
	if l.config.StatPrefix != "" {
		prefix = l.config.StatPrefix + "." + prefix
	}
	for name, n := range map[string]*atomic.Uint64{
		"enabled": &w.enabled, "ok": &w.ok, "rate_limited": &w.rateLimited, "enforced": &w.enforced,
	} {
		b.Stat(policy.Stat{Kind: policy.Counter, Name: prefix + name, Read: n.Load})
	}
	return w.call, nil
}

// limited is a Limiter over one upstream, with its statistics.
type limited struct {
	*Limiter
	next     policy.Func
	upstream string
	refusal  *Error // made once: refusing must be cheap

	enabled, ok, rateLimited, enforced atomic.Uint64
}

// call makes one call, if there is a token for it.
func (w *limited) call(ctx context.Context, c *policy.Call) *policy.Outcome {
	if !w.config.Enabled.Applies(w.config.Rand) {
		return w.next(ctx, c)
	}
	w.enabled.Add(1)
	key := ""
	if w.config.Key != nil {
		key = w.config.Key(ctx, c)
	}
	if w.take(key) {
		w.ok.Add(1)
		return w.next(ctx, c)
	}
	w.rateLimited.Add(1)
	if !w.config.Enforced.Applies(w.config.Rand) {
		return w.next(ctx, c)
	}
	w.enforced.Add(1)
	return c.Refuse(w.refusalOf(key), w.detail)
}

// refusalOf is the error of a refused call.
func (w *limited) refusalOf(key string) *Error {
	if key == "" {
		return w.refusal
	}
	return &Error{Upstream: w.upstream, Key: key}
}

// take takes a token out of the bucket of a key.
func (l *Limiter) take(key string) bool {
	now := time.Since(l.epoch)
	if l.keys == nil {
		return l.shared.take(l.rate, now)
	}
	if ok, there := l.keys.take(key, l.rate, now); there {
		return ok
	}
	return l.shared.take(l.rate, now)
}
