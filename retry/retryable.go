package retry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/pillion-go/pillion/internal/retryable"
	"github.com/pillion-go/pillion/internal/settings"
	"github.com/pillion-go/pillion/policy"
)

// Unlimited is an unlimited number of Tries.
const Unlimited = -1

// The defaults of a Retryable, as in the gem.
const (
	DefaultTries = 2
	DefaultSleep = time.Second
)

// Retryable configures retries with the options of Ruby's retryable gem, for code ported from
// it. It is a policy with the same place as a [Config].
//
// It retries all failures, including calls that are not safe to send twice and refusals by a
// breaker. Not: []Match{Is(breaker.ErrOpen)} excludes those refusals. An HTTP response is a
// failure if its status is 5xx; On, Not and Matching receive it as a [*policy.StatusError]. The
// retries end when the call is canceled or out of time.
type Retryable struct {
	// Tries is the maximum number of attempts, including the first. The zero value means 2; 1 means
	// no retries; Unlimited retries until the total timeout or the caller ends the call; any other
	// negative value is an error. The gem's 0, which does not run the work, has no counterpart.
	// Mirrors tries.
	Tries int `json:"tries,omitempty"`

	// Sleep is the wait between attempts. The zero value means 1s; Zero means no wait; any other
	// value below 1ms is an error. Mirrors sleep as a number.
	Sleep time.Duration `json:"sleep,omitempty"`

	// SleepFunc, if set, returns the wait after a failed attempt: retry is 0 after the first
	// attempt, 1 after the second. Setting Sleep as well is an error. Mirrors sleep as a lambda.
	SleepFunc func(retry int) time.Duration `json:"-"`

	// On lists which failures are retried: those that any Match matches. Nil means all. Mirrors
	// on.
	On []Match `json:"-"`

	// Not lists failures that are never retried, even if On matches them. Mirrors not.
	Not []Match `json:"-"`

	// Matching lists patterns, one of which must match the failure's text. Nil means any text.
	// A *regexp.Regexp is a Pattern, and so is a Substring. Mirrors matching.
	Matching []Pattern `json:"-"`

	// ExceptionCB, if set, is called with the failure after the wait, before the next attempt.
	// Mirrors exception_cb.
	ExceptionCB func(err error) `json:"-"`

	// LogMethod, if set, is called after ExceptionCB with the number of the retry, from 1.
	// Mirrors log_method.
	LogMethod func(retries int, err error) `json:"-"`

	// Ensure, if set, is called once at the end of each call, with the number of retries made.
	// Mirrors ensure.
	Ensure func(retries int) `json:"-"`

	// Budget bounds the retries of the upstream, as in a [Config]. The gem has no counterpart.
	// In package command it is an error, because commands have no upstream.
	Budget *Budget `json:"budget,omitempty"`
}

// Match reports whether it matches a failure.
type Match func(err error) bool

// Is returns a Match for failures that match target, as [errors.Is] does. Is(nil) returns nil.
func Is(target error) Match {
	if target == nil {
		return nil
	}
	return func(err error) bool { return errors.Is(err, target) }
}

// As returns a Match for failures that are, or wrap, an E.
func As[E error]() Match {
	return func(err error) bool {
		_, ok := errors.AsType[E](err)
		return ok
	}
}

// Status returns a Match for HTTP responses with one of the codes. Only codes from 500 to 599
// are failures.
func Status(codes ...int) Match {
	return func(err error) bool {
		status, ok := errors.AsType[*policy.StatusError](err)
		return ok && slices.Contains(codes, status.Code)
	}
}

// Pattern matches a text. [*regexp.Regexp] implements it.
type Pattern interface{ MatchString(text string) bool }

// Substring is a Pattern that matches a text that contains it.
type Substring string

// MatchString reports whether text contains s.
func (s Substring) MatchString(text string) bool { return strings.Contains(text, string(s)) }

// Place returns a place inside policies that see calls, and outside those that see attempts.
func (Retryable) Place() policy.Place { return policy.Place{Rank: policy.Retries} }

// Wrap wraps next, which makes one attempt, with retries.
func (r Retryable) Wrap(s *policy.Builder, next policy.Func) (policy.Func, error) {
	if err := errors.Join(r.check(), checkBudget("Retryable", r.Budget, s)); err != nil {
		return nil, err
	}
	r = r.withDefaults()
	l := newLoop(s, &r, r.Budget, next)
	if r.Ensure == nil {
		return l.call, nil
	}
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		defer func() { r.Ensure(c.Attempts() - 1) }()
		return l.call(ctx, c)
	}, nil
}

// Check returns an error that joins one for each invalid field.
func (r Retryable) Check() error { return errors.Join(r.check(), r.Budget.check("Retryable.Budget")) }

// check is [Retryable.Check] without the budget.
func (r Retryable) check() error {
	var bad []error
	if why := settings.Count(int64(r.Tries), "0 for 2", "retry.Unlimited"); why != "" && r.Tries != Unlimited {
		bad = append(bad, fmt.Errorf("retry: Retryable.Tries: %d %s", r.Tries, why))
	}
	if why := settings.Duration(r.Sleep, "0 for 1s", "retry.Zero for none"); why != "" && r.Sleep != Zero {
		bad = append(bad, fmt.Errorf("retry: Retryable.Sleep: %v %s", r.Sleep, why))
	}
	if r.Sleep != 0 && r.SleepFunc != nil {
		bad = append(bad, fmt.Errorf("retry: Retryable.Sleep: %v has no effect beside SleepFunc; leave one of them out", r.Sleep))
	}
	if slices.ContainsFunc(slices.Concat(r.On, r.Not), func(m Match) bool { return m == nil }) {
		bad = append(bad, errors.New("retry: Retryable.On, Retryable.Not: a Match is nil; leave it out"))
	}
	if slices.ContainsFunc(r.Matching, isNil) {
		bad = append(bad, errors.New("retry: Retryable.Matching: a Pattern is nil; leave it out"))
	}
	return errors.Join(bad...)
}

// isNil reports whether p is nil or a nil pointer, such as a nil *regexp.Regexp.
func isNil(p Pattern) bool {
	v := reflect.ValueOf(p)
	return !v.IsValid() || (v.Kind() == reflect.Pointer && v.IsNil())
}

func (r Retryable) withDefaults() Retryable {
	switch r.Tries {
	case 0:
		r.Tries = DefaultTries
	case Unlimited:
		r.Tries = math.MaxInt
	}
	if r.SleepFunc == nil {
		sleep := max(cmp.Or(r.Sleep, DefaultSleep), 0) // for Zero
		r.SleepFunc = func(int) time.Duration { return sleep }
	}
	r.On, r.Not, r.Matching = slices.Clone(r.On), slices.Clone(r.Not), slices.Clone(r.Matching)
	return r
}

func (r *Retryable) again(_ *policy.Call, o *policy.Outcome) bool {
	err := o.Failure()
	if err == nil || o.Has(policy.Cancelled|policy.Invalid) || timeOver(o) {
		return false
	}
	return retryable.Selects(err, error.Error, r.On, r.Not, r.Matching)
}

// concerns returns true: calls that are not safe to send twice are retried, too.
func (r *Retryable) concerns(*policy.Call) bool { return true }

func (r *Retryable) hedges(*policy.Call) bool { return false }

// timeOver reports whether the whole call is out of time, not only an attempt: then no time
// remains for another attempt.
func timeOver(o *policy.Outcome) bool {
	return o.Has(policy.Timeout) && !o.Has(policy.NoResponse)
}

func (r *Retryable) begin(*policy.Call) (most int, wait waiter) {
	return r.Tries - 1, func(n int, _ *policy.Outcome) (policy.BackOff, bool) {
		return policy.BackOff{Wait: r.SleepFunc(n - 1)}, true
	}
}

func (r *Retryable) waited(n int, o *policy.Outcome) {
	err := o.Failure()
	if r.ExceptionCB != nil {
		r.ExceptionCB(err)
	}
	if r.LogMethod != nil {
		r.LogMethod(n, err)
	}
}
