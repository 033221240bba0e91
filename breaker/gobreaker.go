package breaker

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/pillion-go/pillion/policy"
)

// FromGobreaker returns a Breaker whose engine is the caller's own gobreaker, plain or
// two-step, with any settings. The type argument is the gobreaker's and must be written:
// FromGobreaker[*http.Response](cb). A nil cb is an error.
//
// Each attempt is a request of the gobreaker. The gobreaker receives an error for a response
// that [Classify] calls a Failure or a Timeout; for a 503 this is a [*policy.StatusError]. A
// plain gobreaker counts a response when its headers arrive. A two-step gobreaker counts it
// when it ends, unless the headers are already a failure. A plain gobreaker cannot admit calls
// through Admit, which always refuses. A refused call returns an [*OpenError] that unwraps to
// gobreaker's error; its Until is zero, because gobreaker does not report it.
//
// gobreaker's IsExcluded decides about calls that were canceled, refused inside the breaker or
// could not be sent. Set it to [Excluded], or start from [GobreakerSettings]. Without it a
// gobreaker counts these calls as failures, and opens when callers cancel calls.
//
// Status returns separate counters over a period of 10s: gobreaker's own counters have fewer
// kinds of results, and each change of state resets them.
func FromGobreaker[T any, B interface {
	*gobreaker.CircuitBreaker[T] | *gobreaker.TwoStepCircuitBreaker[T]
}](cb B) (*Breaker, error) {
	var e engine
	switch cb := any(cb).(type) {
	case *gobreaker.CircuitBreaker[T]:
		if cb != nil {
			e = &plain[T]{tally: newTally(), cb: cb}
		}
	case *gobreaker.TwoStepCircuitBreaker[T]:
		if cb != nil {
			e = &twoStep[T]{tally: newTally(), cb: cb}
		}
	}
	if e == nil {
		return nil, errors.New("breaker: FromGobreaker: the gobreaker is nil")
	}
	return &Breaker{engine: e}, nil
}

// Excluded is for a gobreaker's Settings.IsExcluded. It reports whether err belongs to a call
// that says nothing about the upstream: the caller canceled it, a limit refused it, or it could
// not be sent.
func Excluded(err error) bool {
	if told, ok := errors.AsType[*verdictError](err); ok {
		return !told.result.failing()
	}
	return errors.Is(err, context.Canceled) || errors.Is(err, ErrOpen)
}

// GobreakerSettings returns the gobreaker settings that are closest to cfg: the same ratio over
// the same window, the same sleep, one trial at a time, and [Excluded]. It rounds Period up to
// a multiple of ten nanoseconds. The package documentation lists the remaining differences.
// Classify and OnStateChange have no counterpart: setting them is an error. The error joins one
// error for each invalid field of cfg.
func GobreakerSettings(cfg Config) (gobreaker.Settings, error) {
	if err := errors.Join(cfg.check(), cfg.checkMapped()); err != nil {
		return gobreaker.Settings{}, err
	}
	cfg = cfg.withDefaults()
	// Rounded up, or gobreaker would add an eleventh bucket. At most half of the longest Duration,
	// because gobreaker adds a bucket to it.
	bucket := (min(cfg.Period, math.MaxInt64/2) + buckets - 1) / buckets
	return gobreaker.Settings{
		Name:         cfg.Name,
		MaxRequests:  1,
		Interval:     bucket * buckets,
		BucketPeriod: bucket,
		Timeout:      max(cfg.Sleep, 1), // 0 would mean 60s there
		ReadyToTrip: func(counts gobreaker.Counts) bool {
			volume := counts.TotalSuccesses + counts.TotalFailures
			return int(volume) >= cfg.NonBreakCount &&
				float64(counts.TotalFailures)/float64(volume) >= cfg.Threshold
		},
		IsExcluded: Excluded,
	}, nil
}

// checkMapped reports the fields that have no counterpart in gobreaker's settings.
func (c Config) checkMapped() error {
	var bad []error
	if c.Classify != nil {
		bad = append(bad, errors.New("breaker: Config.Classify: has no effect on a gobreaker; leave it nil"))
	}
	if c.OnStateChange != nil {
		bad = append(bad, errors.New("breaker: Config.OnStateChange: has no effect on a gobreaker: set OnStateChange of its Settings"))
	}
	return errors.Join(bad...)
}

// verdictError carries the result of Classify to a gobreaker, around the error itself.
type verdictError struct {
	result Result
	err    error
}

func (e *verdictError) Error() string { return e.err.Error() }

func (e *verdictError) Unwrap() error { return e.err }

// engineError returns the error to report to a gobreaker: nil for a success.
func engineError(r Result, f Failed) error {
	switch {
	case r == Success:
		return nil
	case f.Err != nil:
		return &verdictError{r, f.Err}
	}
	return &verdictError{r, &policy.StatusError{Code: f.Code}}
}

// tally keeps Expeditor's counters for a gobreaker.
type tally struct {
	epoch  time.Time
	mu     sync.Mutex
	window window // guarded by mu
}

func newTally() *tally {
	t := &tally{epoch: time.Now(), window: window{period: DefaultPeriod}}
	t.reset()
	return t
}

func (t *tally) record(r Result) {
	if r >= resultCount {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.window.add(time.Since(t.epoch), r)
}

func (t *tally) status() Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.window.roll(time.Since(t.epoch))
	return t.window.sum.status()
}

func (t *tally) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.window.reset(time.Since(t.epoch))
}

// refusal converts gobreaker's error to an OpenError.
func (t *tally) refusal(name string, err error, count bool) *OpenError {
	if count {
		t.record(Break)
	}
	return &OpenError{Name: name, Status: t.status(), Err: err}
}

// twoStep is the engine of a two-step gobreaker.
type twoStep[T any] struct {
	*tally
	cb *gobreaker.TwoStepCircuitBreaker[T]
}

func (e *twoStep[T]) admit(count bool) (ticket, *OpenError) {
	settle, err := e.cb.Allow()
	if err != nil {
		return ticket{}, e.refusal(e.cb.Name(), err, count)
	}
	return ticket{verdict: normal, settle: settle}, nil
}

func (e *twoStep[T]) done(t ticket, r Result, f Failed) {
	e.record(r)
	t.settle(engineError(r, f))
}

func (e *twoStep[T]) state() State { return fromGobreaker(e.cb.State()) }

// runner is an engine that must count an attempt when it returns.
type runner interface {
	wrap(next policy.Func) policy.Func
}

// plain is the engine of a plain gobreaker.
type plain[T any] struct {
	*tally
	cb *gobreaker.CircuitBreaker[T]
}

var errPlain = errors.New("breaker: a plain gobreaker has no Admit; use a two-step gobreaker")

func (e *plain[T]) admit(bool) (ticket, *OpenError) {
	return ticket{}, &OpenError{Name: e.cb.Name(), Err: errPlain}
}

// done does nothing: admit refuses all calls.
func (e *plain[T]) done(ticket, Result, Failed) {}

func (e *plain[T]) state() State { return fromGobreaker(e.cb.State()) }

func (e *plain[T]) wrap(next policy.Func) policy.Func {
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		var o *policy.Outcome
		ran, exited := false, true
		defer func() {
			if ran && exited {
				endQuietly(recover())
			}
		}()
		_, err := e.cb.Execute(func() (none T, err error) {
			ran = true
			r := Failure
			defer func() { e.record(r) }() // a panic counts as a Failure
			defer endLoudly(&exited)
			o = next(ctx, c)
			exited = false
			r = Classify(o)
			return none, engineError(r, Failed{Code: o.Code, Err: o.Err})
		})
		if !ran {
			return c.Refuse(e.refusal(e.cb.Name(), err, true), CircuitOpen)
		}
		return o
	}
}

// errExited represents runtime.Goexit in Execute.
var errExited = errors.New("breaker: the call ended its goroutine")

// endLoudly turns runtime.Goexit into a panic. A plain gobreaker does not notice Goexit, and
// would wait forever for the end of that trial. It must be deferred directly.
func endLoudly(exited *bool) {
	if !*exited {
		return
	}
	if p := recover(); p != nil {
		panic(p)
	}
	panic(errExited)
}

// endQuietly undoes endLoudly outside the gobreaker: the runtime then ends the goroutine.
func endQuietly(p any) {
	if err, _ := p.(error); p != nil && !errors.Is(err, errExited) {
		panic(p)
	}
}

func fromGobreaker(s gobreaker.State) State {
	switch s {
	case gobreaker.StateOpen:
		return Open
	case gobreaker.StateHalfOpen:
		return HalfOpen
	case gobreaker.StateClosed:
	}
	return Closed
}
