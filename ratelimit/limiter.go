package ratelimit

import (
	"cmp"
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

// Error is the error of a call that a rate limit refused.
type Error struct {
	Upstream string
	Key      string // the key of the call; "" if Config.Key is nil
}

func (e *Error) Error() string {
	if e.Key == "" {
		return fmt.Sprintf("ratelimit: %s: too many calls", e.Upstream)
	}
	return fmt.Sprintf("ratelimit: %s: too many calls of %q", e.Upstream, e.Key)
}

// Is reports whether target is [ErrLimited].
func (e *Error) Is(target error) bool { return target == ErrLimited }

// Limiter is a rate limit. It is a policy: the calls of all upstreams that use the same Limiter take
// tokens from the same buckets. It is safe for concurrent use. Use [New] to make one.
type Limiter struct {
	config Config
	rate   rate
	epoch  time.Time
	shared *bucket // of calls whose key has no bucket; of all calls without Key
	keys   *keys   // nil without Key
	detail *envoy.Detail
}

// New returns a Limiter. Its error joins one error for each invalid field of c.
func New(c Config) (*Limiter, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	l := &Limiter{config: c, rate: c.TokenBucket.rate(), epoch: time.Now(), detail: c.detail()}
	l.shared = l.rate.newBucket(0)
	if c.Key != nil {
		l.keys = newKeys(cmp.Or(c.MaxKeys, DefaultMaxKeys))
	}
	return l, nil
}

// detail returns the detail of refused calls.
func (c Config) detail() *envoy.Detail {
	const text = "local_rate_limited"
	spec := envoy.DetailSpec{Text: text, Flags: envoy.RL, Status: cmp.Or(c.Status, DefaultStatus), Body: text, Unrouted: true}
	if c.ResourceExhausted {
		spec.GRPC = 8
	}
	return envoy.NewDetail(spec)
}

// Detail returns the detail of the calls that l refuses. Its text is local_rate_limited, as in Envoy.
func (l *Limiter) Detail() *envoy.Detail { return l.detail }

// Wrap wraps next with the limit.
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

// limited limits the calls of one upstream, and has its statistics.
type limited struct {
	*Limiter
	next     policy.Func
	upstream string
	refusal  *Error // made once, so that a refusal is cheap

	enabled, ok, rateLimited, enforced atomic.Uint64
}

// call admits the call if it takes a token.
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

// refusalOf returns the error of a refused call.
func (w *limited) refusalOf(key string) *Error {
	if key == "" {
		return w.refusal
	}
	return &Error{Upstream: w.upstream, Key: key}
}

// take takes a token from the bucket of a key, if there is one.
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
