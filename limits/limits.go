// Package limits refuses calls when too many are under way, as Envoy's circuit
// breakers do: so many requests at once, so many retries at once.
//
// A refusal is immediate; nothing waits in a queue. A refused request is a
// [*FullError]; a refused retry leaves the upstream's answer as the result.
//
//	recipes, err := pillion.New("recipes",
//		retry.Config{On: "5xx"},
//		limits.Config{MaxRequests: 200, RetryBudget: &limits.RetryBudget{BudgetPercent: 25}},
//	)
//
// It stands inside retry: a place is held from the start of a try to the end of
// its answer's body, and not during back-offs. A retry's place is held from the
// decision to retry to the head of the answer.
package limits

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/pillion-go/pillion"
)

// Zero is a limit of zero: nothing is let through.
const Zero = -1

// The limits of a Config that names none, as in Envoy.
const (
	DefaultMaxRequests         = 1024
	DefaultMaxRetries          = 3
	DefaultBudgetPercent       = 20.0
	DefaultMinRetryConcurrency = 3
)

// ErrFull matches every [*FullError].
var ErrFull = errors.New("limits: full")

// FullError says which limit refused a call.
type FullError struct {
	Upstream string
	Limit    string // max_requests
	Max      int    // its value
}

func (e *FullError) Error() string {
	return fmt.Sprintf("limits: %s: %s of %d reached", e.Upstream, e.Limit, e.Max)
}

// Is reports whether target is [ErrFull].
func (e *FullError) Is(target error) bool { return target == ErrFull }

// Config says how much may be under way at once. It is a policy, to stand inside
// retry; each upstream that it is given to counts for itself. It mirrors
// circuit_breakers.thresholds of Envoy's Cluster, priority DEFAULT.
type Config struct {
	// MaxRequests is how many tries may be under way at once, bodies included. 0 means
	// 1024, the constant Zero lets nothing through, any other negative value is an error.
	MaxRequests int `json:"max_requests,omitempty"`

	// MaxRetries is how many retries may be under way at once, those that wait out
	// their back-off included. 0 means 3, the constant Zero forbids retries, any other
	// negative value is an error. It has no effect beside a RetryBudget.
	MaxRetries int `json:"max_retries,omitempty"`

	// RetryBudget bounds retries by a share of the requests under way. Nil means that
	// MaxRetries holds.
	RetryBudget *RetryBudget `json:"retry_budget,omitempty"`

	// TrackRemaining also offers how many places are left, as the gauges
	// circuit_breakers.default.remaining_rq and remaining_retries; the latter is always 0
	// beside a RetryBudget. Mirrors track_remaining.
	TrackRemaining bool `json:"track_remaining,omitempty"`

	// MaxConnections needs a connection pool of the library's own: for now, any value but
	// zero is an error.
	MaxConnections int `json:"max_connections,omitempty"`

	// MaxPendingRequests needs a connection pool of the library's own: for now, any value
	// but zero is an error.
	MaxPendingRequests int `json:"max_pending_requests,omitempty"`
}

// RetryBudget allows as many concurrent retries as a share of the requests under
// way, and always a few. Mirrors Envoy's RetryBudget.
type RetryBudget struct {
	// BudgetPercent is the share, in percent. 0 means 20, the constant Zero no share at all;
	// any other value below 0, or one above 100, is an error.
	BudgetPercent float64 `json:"budget_percent,omitempty"`

	// MinRetryConcurrency is how many retries are always allowed. 0 means 3, the constant Zero
	// no such minimum, any other negative value is an error.
	MinRetryConcurrency int `json:"min_retry_concurrency,omitempty"`
}

// Role is that of a policy that holds a place for each try.
func (Config) Role() pillion.Role { return pillion.RoleLimits }

// Wrap makes the counters of one upstream.
func (c Config) Wrap(s *pillion.Site, next pillion.Func) (pillion.Func, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	l := c.limiter(s.Upstream())
	l.offer(s, c)
	slot := s.Slot() // N is 1 while the attempt holds its place
	s.LimitRetries(func(failed *pillion.Call) bool { return l.acquireRetry(failed.State(slot).N != 0) }, l.releaseRetry)
	release := func(call *pillion.Call, _ *pillion.Outcome) {
		call.State(slot).N = 0
		l.requests.Add(-1)
	}
	return func(ctx context.Context, call *pillion.Call) *pillion.Outcome {
		if !l.acquire() {
			return call.Refuse(l.full, pillion.Overflow)
		}
		call.State(slot).N = 1
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
	}, nil
}

func (c Config) check() error {
	var bad []error
	negative := func(field string, value int) {
		if value < 0 && value != Zero {
			bad = append(bad, fmt.Errorf("limits: Config.%s: %d is negative", field, value))
		}
	}
	negative("MaxRequests", c.MaxRequests)
	negative("MaxRetries", c.MaxRetries)
	if b := c.RetryBudget; b != nil {
		negative("RetryBudget.MinRetryConcurrency", b.MinRetryConcurrency)
		if b.BudgetPercent != Zero && !(b.BudgetPercent >= 0 && b.BudgetPercent <= 100) {
			bad = append(bad, fmt.Errorf("limits: Config.RetryBudget.BudgetPercent: %v is not within 0 and 100", b.BudgetPercent))
		}
	}
	unsupported := func(field string, value int) {
		if value != 0 {
			bad = append(bad, fmt.Errorf("limits: Config.%s: %d: there is no connection pool that it could limit", field, value))
		}
	}
	unsupported("MaxConnections", c.MaxConnections)
	unsupported("MaxPendingRequests", c.MaxPendingRequests)
	return errors.Join(bad...)
}

// limiter counts what is under way at one upstream.
type limiter struct {
	requests   atomic.Int64
	retries    atomic.Int64
	max        int64
	most       int64       // MaxRetries
	retried    atomic.Bool // a budget allowed what MaxRetries forbids
	maxRetries func(requests int64) int64
	full       error // made once: refusing must be cheap
}

func (c Config) limiter(upstream string) *limiter {
	most := orDefault(c.MaxRequests, DefaultMaxRequests)
	return &limiter{
		max:        int64(most),
		most:       int64(orDefault(c.MaxRetries, DefaultMaxRetries)),
		maxRetries: c.retryLimit(),
		full:       &FullError{Upstream: upstream, Limit: "max_requests", Max: most},
	}
}

// retryLimit gives the number of concurrent retries allowed beside so many
// requests.
func (c Config) retryLimit() func(requests int64) int64 {
	if c.RetryBudget == nil {
		most := int64(orDefault(c.MaxRetries, DefaultMaxRetries))
		return func(int64) int64 { return most }
	}
	percent := c.RetryBudget.BudgetPercent
	switch percent {
	case 0:
		percent = DefaultBudgetPercent
	case Zero:
		percent = 0
	}
	least := int64(orDefault(c.RetryBudget.MinRetryConcurrency, DefaultMinRetryConcurrency))
	return func(requests int64) int64 { return max(least, int64(percent/100*float64(requests))) }
}

func orDefault(value, standard int) int {
	switch value {
	case 0:
		return standard
	case Zero:
		return 0
	}
	return value
}

func (l *limiter) acquire() bool { return take(&l.requests, l.max) }

// acquireRetry asks for leave after an attempt that failed, which still holds its
// place if its answer has a body. As in Envoy it is one of the requests under way, all the
// same.
func (l *limiter) acquireRetry(held bool) bool {
	requests := l.requests.Load()
	if !held {
		requests++
	}
	ok := take(&l.retries, l.maxRetries(requests))
	if ok && l.most == 0 {
		l.retried.Store(true)
	}
	return ok
}

func (l *limiter) releaseRetry() { l.retries.Add(-1) }

// take takes one of so many places, if one is free. It counts nobody whom it
// refuses, not even for a moment: another one would be refused beside a free place.
func take(taken *atomic.Int64, places int64) bool {
	for {
		n := taken.Load()
		if n >= places {
			return false
		}
		if taken.CompareAndSwap(n, n+1) {
			return true
		}
	}
}
