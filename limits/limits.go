// Package limits bounds the number of concurrent requests and of concurrent retries, as Envoy's
// circuit breakers do.
//
// A refusal is immediate; nothing waits in a queue. A refused request returns a [*FullError].
// If a retry is refused, the call returns the upstream's last response or error.
//
//	recipes, err := pillion.New("recipes",
//		retry.Config{On: "5xx"},
//		limits.Config{MaxRequests: 200, RetryBudget: &limits.RetryBudget{BudgetPercent: 25}},
//	)
//
// The policy must be inside retry. An attempt holds a slot from its start to the end of its
// response body. A call holds no slot during back-offs. A retry holds a retry slot from the
// decision to retry until its response headers arrive.
//
// With a cluster (package cluster) the policy limits the cluster's connection pools, as Envoy's
// circuit breakers do: an attempt without a connection waits for one, if MaxPendingRequests allows,
// and it takes its slot when it has a connection. The hosts of the cluster, and all upstreams that
// use the same [Limits], share the slots.
//
// Without MaxRetries and RetryBudget the retry policy's own budget applies, which counts calls
// and retries over time. MaxRetries: DefaultMaxRetries is Envoy's default: it refuses retries to
// a busy upstream even if few calls fail.
package limits

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// Zero is a limit of zero, where the zero value means the default.
const Zero = -1

// Envoy's default limits. They are also the defaults of a Config, except DefaultMaxRetries, which
// must be set explicitly.
const (
	DefaultMaxConnections      = 1024
	DefaultMaxPendingRequests  = 1024
	DefaultMaxRequests         = 1024
	DefaultMaxRetries          = 3
	DefaultBudgetPercent       = 20.0
	DefaultMinRetryConcurrency = 3
)

// ErrFull matches every [*FullError].
var ErrFull = errors.New("limits: full")

// Overflow is the detail of a call that a limit refused. Mirrors Envoy's
// upstream_reset_before_response_started{overflow}.
//
//nolint:gochecknoglobals // a constant of a type that Go has no constants of
var Overflow = envoy.NewDetail(envoy.DetailSpec{
	Text: "upstream_reset_before_response_started{overflow}", Flags: envoy.UO, Status: http.StatusServiceUnavailable,
	Body: "overflow", Reset: true, Overloaded: true, Counter: "upstream_rq_active_overflow",
})

// PendingOverflow is the detail of a call that MaxPendingRequests refused. It has the text of
// [Overflow] and is counted as upstream_rq_pending_overflow, as in Envoy.
//
//nolint:gochecknoglobals // a constant of a type that Go has no constants of
var PendingOverflow = envoy.NewDetail(envoy.DetailSpec{
	Text: "upstream_reset_before_response_started{overflow}", Flags: envoy.UO, Status: http.StatusServiceUnavailable,
	Body: "overflow", Reset: true, Overloaded: true, Counter: "upstream_rq_pending_overflow",
})

// FullError is the error of a call that a limit refused.
type FullError struct {
	Upstream string
	Limit    string // max_requests or max_pending_requests
	Max      int    // the limit's value
}

func (e *FullError) Error() string {
	text := fmt.Sprintf("limits: %s: %s of %d reached", e.Upstream, e.Limit, e.Max)
	if e.Max > 0 {
		text += "; is the body of every response closed?"
	}
	return text
}

// Is reports whether target is [ErrFull].
func (e *FullError) Is(target error) bool { return target == ErrFull }

// Config configures the limits. It is a policy that must be inside retry. Each upstream that uses
// it counts separately; use [New] for limits that several upstreams share. Mirrors
// circuit_breakers.thresholds of Envoy's Cluster, priority DEFAULT.
type Config struct {
	// MaxRequests is the maximum number of concurrent attempts. An attempt lasts until its
	// response body ends. 0 means 1024; the constant Zero admits nothing; any other negative
	// value is an error. Mirrors max_requests.
	MaxRequests int `json:"max_requests,omitempty"`

	// MaxRetries is the maximum number of concurrent retries, including those in back-off. 0
	// means no limit here: the budget of the retry policy applies. The constant Zero forbids
	// retries; DefaultMaxRetries is Envoy's default; any other negative value is an error. If
	// RetryBudget is set, MaxRetries only affects gauges. Mirrors max_retries.
	MaxRetries int `json:"max_retries,omitempty"`

	// RetryBudget bounds concurrent retries to a share of the concurrent requests. Nil means
	// that MaxRetries applies. Mirrors retry_budget.
	RetryBudget *RetryBudget `json:"retry_budget,omitempty"`

	// TrackRemaining adds gauges for the number of free slots:
	// circuit_breakers.default.remaining_rq and remaining_retries. The latter is 0 from the first
	// retry that a RetryBudget decided, and absent with neither RetryBudget nor MaxRetries. Mirrors
	// track_remaining.
	TrackRemaining bool `json:"track_remaining,omitempty"`

	// MaxConnections is the maximum number of connections of a cluster to all its hosts, including
	// those that are being made. A host without a connection may always have one. 0 means 1024; the
	// constant Zero allows only that one connection for each host; any other negative value is an
	// error. Without a cluster, any value other than 0 is an error. Mirrors max_connections.
	MaxConnections int `json:"max_connections,omitempty"`

	// MaxPendingRequests is the maximum number of attempts that wait for a connection of a cluster.
	// 0 means 1024; with the constant Zero none waits: an attempt is refused if no connection is idle;
	// any other negative value is an error. Without a cluster, any value other than 0 is an error.
	// Mirrors max_pending_requests.
	MaxPendingRequests int `json:"max_pending_requests,omitempty"`

	// High configures the limits of a cluster's routes with priority HIGH, which have separate slots.
	// Nil means the defaults. Its High must be nil. Without a cluster, any value other than nil is an
	// error. Mirrors the thresholds of priority HIGH.
	High *Config `json:"high,omitempty"`
}

// RetryBudget bounds concurrent retries to a share of the concurrent requests, with a minimum.
// Mirrors Envoy's RetryBudget.
type RetryBudget struct {
	// BudgetPercent is the share, in percent. 0 means 20; the constant Zero means no share; any
	// other value outside 1 to 100 is an error. Mirrors budget_percent.
	BudgetPercent float64 `json:"budget_percent,omitempty"`

	// MinRetryConcurrency is the number of concurrent retries that are always allowed. 0 means
	// 3; the constant Zero means no minimum; any other negative value is an error. Mirrors
	// min_retry_concurrency.
	MinRetryConcurrency int `json:"min_retry_concurrency,omitempty"`
}

// Place returns a place inside retry and hedge policies.
func (Config) Place() policy.Place {
	return policy.Place{
		Rank: policy.PerAttempt, Name: "limits", Once: "would hold two slots for each attempt",
		Why: "would hold its slot during back-offs, and need a second one without use",
	}
}

// Wrap makes the counters of an upstream and wraps next with the limits.
func (c Config) Wrap(b *policy.Builder, next policy.Func) (policy.Func, error) {
	l, err := New(c)
	if err != nil {
		if !isPooled(b) {
			err = errors.Join(err, c.needsNoPool())
		}
		return nil, err
	}
	return l.Wrap(b, next)
}

// Limits holds limits and their counters. It is a policy: upstreams that use the same Limits, such
// as several routes to one service, share its slots. It is safe for concurrent use.
type Limits struct {
	limiters [2]*limiter // by priority
}

// New returns Limits. Its error joins one error for each invalid field of cfg.
func New(cfg Config) (*Limits, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	high := Config{}
	if cfg.High != nil {
		high = *cfg.High
	}
	l := &Limits{[2]*limiter{cfg.limiter(), high.limiter()}}
	l.limiters[policy.PriorityHigh].priority = "high"
	return l, nil
}

var errUnmade = errors.New("limits: a *Limits was not made by New")

// Place returns a place inside retry and hedge policies.
func (*Limits) Place() policy.Place { return Config{}.Place() }

// Wrap wraps next with the limits.
func (l *Limits) Wrap(b *policy.Builder, next policy.Func) (policy.Func, error) {
	if l == nil || l.limiters[0] == nil {
		return nil, errUnmade
	}
	if pool, ok := b.Carrier().(policy.Borrower); ok {
		return l.lend(b, pool, next)
	}
	own := l.limiters[policy.PriorityDefault]
	if err := own.cfg.needsNoPool(); err != nil {
		return nil, err
	}
	own.offer(b)
	return own.wrap(b, next), nil
}

// isPooled reports whether a policy inside has a connection pool.
func isPooled(b *policy.Builder) bool {
	_, ok := b.Carrier().(policy.Borrower)
	return ok
}

// wrap wraps next with the limits of one priority.
func (l *limiter) wrap(s *policy.Builder, next policy.Func) policy.Func {
	call := l.guard(s.Upstream(), next)
	if !l.cfg.limitsRetries() {
		return call
	}
	slot := s.Slot() // N is the result of addition for the attempt before a retry
	s.LimitRetries(func(failed *policy.Call) bool { return l.acquireRetry(failed.State(slot).N) }, l.releaseRetry)
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		o := call(ctx, c)
		c.State(slot).N = l.addition(c, o)
		return o
	}
}

// guard holds a slot for each attempt, except for attempts that hold one of a cluster's pool.
func (l *limiter) guard(upstream string, next policy.Func) policy.Func {
	full := l.full(upstream, policy.Requests) // made once, so that a refusal is cheap
	release := func(*policy.Call, *policy.Outcome) { l.requests.Add(-1) }
	return func(ctx context.Context, call *policy.Call) *policy.Outcome {
		if call.Carried() {
			return next(ctx, call)
		}
		if !l.acquire() {
			return call.Refuse(full, Overflow)
		}
		held := true
		defer func() {
			if held { // next panicked
				l.requests.Add(-1)
			}
		}()
		o := next(ctx, call)
		held = false
		o.OnEnd(call, release)
		return o
	}
}

func (c Config) limitsRetries() bool { return c.MaxRetries != 0 || c.RetryBudget != nil }

func (c Config) check() error {
	bad := c.checkThresholds("limits: Config.")
	if c.High == nil {
		return errors.Join(bad...)
	}
	if c.High.High != nil {
		bad = append(bad, errors.New("limits: Config.High.High: there is no third priority; leave it nil"))
	}
	return errors.Join(append(bad, c.High.checkThresholds("limits: Config.High.")...)...)
}

// checkThresholds returns an error for each invalid limit of one priority. The names of its fields
// begin with prefix.
func (c Config) checkThresholds(prefix string) (bad []error) {
	negative := func(field string, value int) {
		if value < 0 && value != Zero {
			bad = append(bad, fmt.Errorf("%s%s: %d is negative; write 1 or more, 0 for the default, or limits.Zero for none", prefix, field, value))
		}
	}
	negative("MaxRequests", c.MaxRequests)
	negative("MaxRetries", c.MaxRetries)
	negative("MaxConnections", c.MaxConnections)
	negative("MaxPendingRequests", c.MaxPendingRequests)
	if b := c.RetryBudget; b != nil {
		negative("RetryBudget.MinRetryConcurrency", b.MinRetryConcurrency)
		bad = append(bad, b.checkPercent(prefix+"RetryBudget.BudgetPercent"))
	}
	return bad
}

// needsNoPool returns an error for each field that needs a cluster's connection pool.
func (c Config) needsNoPool() error {
	var bad []error
	unsupported := func(field string, value int) {
		if value != 0 {
			bad = append(bad, fmt.Errorf("limits: Config.%s: %d has no effect without a connection pool; put a cluster.Config inside", field, value))
		}
	}
	unsupported("MaxConnections", c.MaxConnections)
	unsupported("MaxPendingRequests", c.MaxPendingRequests)
	if c.High != nil {
		bad = append(bad, errors.New("limits: Config.High: only a route of a cluster can have priority HIGH; put a cluster.Config inside"))
	}
	return errors.Join(bad...)
}

func (b *RetryBudget) checkPercent(field string) error {
	switch p := b.BudgetPercent; {
	case p > 0 && p < 1:
		return fmt.Errorf("%s: %v is below 1; write %v for %v percent", field, p, 100*p, 100*p)
	case p != Zero && !(p >= 0 && p <= 100):
		return fmt.Errorf("%s: %v is not within 1 and 100; write a percentage, 0 for 20, or limits.Zero for no share", field, p)
	}
	return nil
}

// limiter counts concurrent requests and retries.
type limiter struct {
	cfg        Config
	priority   string // in names of statistics
	requests   atomic.Int64
	retries    atomic.Int64
	max        int64
	most       int64       // MaxRetries
	retried    atomic.Bool // a budget allowed a retry that MaxRetries forbids
	budgeted   atomic.Bool // a budget decided a retry
	streams    atomic.Bool // the last response came over HTTP/2 or later
	maxRetries func(requests int64) int64

	// For the connection pools of a cluster.
	connections, pending       atomic.Int64
	maxConnections, maxPending int64
	connected                  atomic.Bool // a connection was made, perhaps beyond the limit
}

func (c Config) limiter() *limiter {
	return &limiter{
		cfg: c, priority: "default",
		max:            int64(orDefault(c.MaxRequests, DefaultMaxRequests)),
		most:           int64(orDefault(c.MaxRetries, DefaultMaxRetries)),
		maxConnections: int64(orDefault(c.MaxConnections, DefaultMaxConnections)),
		maxPending:     int64(orDefault(c.MaxPendingRequests, DefaultMaxPendingRequests)),
		maxRetries:     c.retryLimit(),
	}
}

// retryLimit returns a function from the number of concurrent requests to the number of concurrent
// retries allowed.
func (c Config) retryLimit() func(requests int64) int64 {
	if c.RetryBudget == nil {
		most := int64(orDefault(c.MaxRetries, DefaultMaxRetries))
		return func(int64) int64 { return most }
	}
	percent := orDefault(c.RetryBudget.BudgetPercent, DefaultBudgetPercent)
	least := int64(orDefault(c.RetryBudget.MinRetryConcurrency, DefaultMinRetryConcurrency))
	return func(requests int64) int64 { return max(least, int64(percent/100*float64(requests))) }
}

// orDefault returns value, or standard if value is 0, or 0 if value is Zero.
func orDefault[T int | float64](value, standard T) T { return max(cmp.Or(value, standard), 0) }

func (l *limiter) acquire() bool { return tryAcquire(&l.requests, l.max) }

// acquireRetry takes a retry slot, if one is free. more is the number of requests to count in
// addition to those that hold a slot.
func (l *limiter) acquireRetry(more int64) bool {
	ok := tryAcquire(&l.retries, l.maxRetries(l.requests.Load()+l.pending.Load()+more))
	if l.cfg.RetryBudget != nil {
		l.budgeted.Store(true)
	}
	if ok && l.most == 0 {
		l.retried.Store(true)
	}
	return ok
}

func (l *limiter) releaseRetry() { l.retries.Add(-1) }

// tryAcquire takes one of slots, if one is free. It uses compare-and-swap so that a refused caller
// never occupies a slot, which would refuse another caller while a slot is free.
func tryAcquire(taken *atomic.Int64, slots int64) bool {
	for {
		n := taken.Load()
		if n >= slots {
			return false
		}
		if taken.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// addition returns how many requests Envoy's budget counts in addition to those that hold a slot,
// for a retry after o. The failed attempt is one of them, unless it was a stream that has ended.
func (l *limiter) addition(c *policy.Call, o *policy.Outcome) int64 {
	counted := int64(1)
	if l.isEndedStream(c, o) {
		counted = 0
	}
	if o.Open() {
		return counted - 1
	}
	return counted
}

// isEndedStream reports whether an attempt was a stream of HTTP/2 or later that has ended.
// net/http returns a body even if the response has none. Without a response, a cluster knows whether it
// was a stream, and a stream reset shows it; otherwise the previous response determines the protocol.
func (l *limiter) isEndedStream(c *policy.Call, o *policy.Outcome) bool {
	resp, ok := o.Value.(*http.Response)
	switch {
	case o.Has(policy.ConnectFailure | policy.Invalid | policy.Refused):
		return false
	case ok:
		if stream := resp.ProtoMajor >= 2; stream != l.streams.Load() {
			l.streams.Store(stream)
		}
		return resp.ProtoMajor >= 2 && (!o.Open() || resp.ContentLength == 0 || c.Request().Method == http.MethodHead)
	case c.Multiplexed() || o.Detail == envoy.RemoteReset || o.Detail == envoy.RemoteRefusedStream || isStreamError(o.Err):
		return true
	}
	switch c.Request().Protocol {
	case policy.ProtocolGRPC:
		return !o.Open()
	case policy.ProtocolHTTP:
		return l.streams.Load()
	case policy.ProtocolFunc:
	}
	return false
}

// isStreamError reports whether err is an error of net/http about one HTTP/2 stream, such as a
// reset with PROTOCOL_ERROR. net/http does not export its type.
func isStreamError(err error) bool {
	return err != nil && strings.Contains(err.Error(), "stream error: stream ID ")
}
