package retry

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/pillion-go/pillion/policy"
)

// Unlimited is a number of tries without end.
const Unlimited = -1

// The values of a Retryable that names none, as in the gem.
const (
	DefaultTries = 2
	DefaultSleep = time.Second
)

// Retryable says when a call is sent again in the words of Ruby's retryable gem,
// for those who port code from it. It is a policy, to stand where a [Config] would.
//
// All failures are retried, those of calls that may do harm when sent twice too,
// and refusals by a breaker; Not: []Match{Is(breaker.ErrOpen)} leaves those
// alone. An HTTP answer is a failure if its status is 5xx; for On, Not and Matching it is a
// [*policy.StatusError]. A caller who left, and the end of the call's time, end the retries.
type Retryable struct {
	// Tries is how often the call is sent in all. The zero value means 2, 1 never retries, Unlimited
	// goes on until the total limit or the caller ends it; any other negative value is an
	// error. The gem's 0, which does not run the work at all, has no counterpart.
	// Mirrors tries.
	Tries int `json:"tries,omitempty"`

	// Sleep is the wait between tries. The zero value means 1s, Zero no wait; any other value below 1ms
	// is an error. Mirrors sleep as a number.
	Sleep time.Duration `json:"sleep,omitempty"`

	// SleepFunc, if set, returns the wait after a failed try: retry is 0 after the first try,
	// 1 after the second. A Sleep beside it is an error. Mirrors sleep as a lambda.
	SleepFunc func(retry int) time.Duration `json:"-"`

	// On lists what is retried; a failure that any of them matches is. Nil means all.
	// Mirrors on.
	On []Match `json:"-"`

	// Not lists what is never retried, whatever On says. Mirrors not.
	Not []Match `json:"-"`

	// Matching lists patterns of which one must be found in the failure's text. Nil means
	// any text. A *regexp.Regexp is a Pattern, and so is a Substring. Mirrors matching.
	Matching []Pattern `json:"-"`

	// ExceptionCB, if set, is called with the failure after the wait, before the next try.
	// Mirrors exception_cb.
	ExceptionCB func(err error) `json:"-"`

	// LogMethod, if set, is called after ExceptionCB, with the number of the retry from 1.
	// Mirrors log_method.
	LogMethod func(retries int, err error) `json:"-"`

	// Ensure, if set, is called once at the end of each call, retried or not, with the
	// number of retries made. Mirrors ensure.
	Ensure func(retries int) `json:"-"`

	// Budget bounds the retries of the upstream, as that of a [Config]. The gem has none, and
	// so have the commands of package command, which have no upstream: they ignore it.
	Budget *Budget `json:"budget,omitempty"`
}

// Match reports whether a failure is of some kind.
type Match func(err error) bool

// Is matches failures that are target, by [errors.Is]. Is(nil) is no Match.
func Is(target error) Match {
	if target == nil {
		return nil
	}
	return func(err error) bool { return errors.Is(err, target) }
}

// As matches failures that are, or wrap, an E.
func As[E error]() Match {
	return func(err error) bool {
		_, ok := errors.AsType[E](err)
		return ok
	}
}

// Status matches answers with one of the codes, among those that are failures: 500
// to 599.
func Status(codes ...int) Match {
	return func(err error) bool {
		status, ok := errors.AsType[*policy.StatusError](err)
		return ok && slices.Contains(codes, status.Code)
	}
}

// Pattern finds something in a text. [*regexp.Regexp] is one.
type Pattern interface{ MatchString(text string) bool }

// Substring is a Pattern that is found where the text contains it.
type Substring string

// MatchString reports whether text contains s.
func (s Substring) MatchString(text string) bool { return strings.Contains(text, string(s)) }

// Place is outside of what sees attempts, and inside of what sees calls.
func (Retryable) Place() policy.Place { return policy.Place{Rank: policy.Retries} }

// Wrap makes the tries of each call.
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

func (r Retryable) check() error {
	var bad []error
	if r.Tries < 0 && r.Tries != Unlimited {
		bad = append(bad, fmt.Errorf("retry: Retryable.Tries: %d is negative", r.Tries))
	}
	if why := checkInterval(r.Sleep); why != "" && r.Sleep != Zero {
		bad = append(bad, fmt.Errorf("retry: Retryable.Sleep: %v %s", r.Sleep, why))
	}
	if r.Sleep != 0 && r.SleepFunc != nil {
		bad = append(bad, fmt.Errorf("retry: Retryable.Sleep: %v has no effect beside SleepFunc; leave one of them out", r.Sleep))
	}
	if slices.ContainsFunc(slices.Concat(r.On, r.Not), func(m Match) bool { return m == nil }) {
		bad = append(bad, errors.New("retry: Retryable.On, Retryable.Not: a Match is nil"))
	}
	if slices.ContainsFunc(r.Matching, isNil) {
		bad = append(bad, errors.New("retry: Retryable.Matching: a Pattern is nil"))
	}
	return errors.Join(bad...)
}

// isNil finds a nil *regexp.Regexp, too.
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
		sleep := max(orDefault(r.Sleep, DefaultSleep), 0) // for Zero
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
	among := func(list []Match) bool { return slices.ContainsFunc(list, func(m Match) bool { return m(err) }) }
	if among(r.Not) || (r.On != nil && !among(r.On)) {
		return false
	}
	return r.Matching == nil || slices.ContainsFunc(r.Matching, func(p Pattern) bool { return p.MatchString(err.Error()) })
}

// concerns is true: whether a call may be sent twice is not asked.
func (r *Retryable) concerns(*policy.Call) bool { return true }

// timeOver reports whether the time of the whole call ran out, and not that of an
// attempt: then there is none for another.
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
