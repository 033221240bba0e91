package command

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pillion-go/pillion/breaker"
)

// ServiceConfig describes a [Service]. It mirrors the options of
// Expeditor::Service.new; those of the breaker mean what they mean in [breaker.Config].
type ServiceConfig struct {
	// Name is what the service is called in errors and changes. It may be empty.
	Name string `json:"name,omitempty"`

	// Threshold is the ratio of failures and timeouts at which the circuit opens. Zero means
	// 0.5, breaker.Zero a threshold of 0, breaker.Never a circuit that never opens; any other
	// negative value and a value above 1 are errors. Mirrors threshold.
	Threshold float64 `json:"threshold,omitempty"`

	// NonBreakCount is how many results the window must hold before the circuit can open.
	// Zero means 20; negative is an error. Mirrors non_break_count.
	NonBreakCount int `json:"non_break_count,omitempty"`

	// Sleep is how long the circuit stays open before a trial. Zero means 1s, breaker.Zero
	// no time; any other negative value is an error, as is less than a millisecond. Mirrors
	// sleep.
	Sleep time.Duration `json:"sleep,omitempty"`

	// Period is the length of the window. Zero means 10s; negative is an error, as is less
	// than a millisecond. Mirrors period.
	Period time.Duration `json:"period,omitempty"`

	// OnStateChange is called when the circuit opens and closes: see [breaker.Config]. A panic
	// of it while a command runs is reported like that of a hook, and changes nothing.
	OnStateChange func(breaker.Change) `json:"-"`

	// Breaker, if set, is used in place of one made of the fields above, which must be zero
	// then. Commands and whatever else it guards, such as an HTTP upstream, share its state and
	// its counters. One with a gobreaker as engine must be two-step: a plain one is an error, as
	// it admits no command.
	Breaker *breaker.Breaker `json:"-"`

	// Executor is the pool in which commands run. Nil means a pool of the service's own,
	// with no bounds. Mirrors executor.
	Executor *Pool `json:"-"`

	// Classify says how what an attempt ended with is counted; nil for a success. It must be
	// safe for concurrent use, and must not block. If it panics the command fails with a
	// [*PanicError]. Nil means [Classify].
	Classify func(err error) breaker.Result `json:"-"`

	// HookPanic receives the panics of hooks and of OnStateChange, in the goroutine of the
	// panic. A command's [Config] can name another. Nil logs them to slog.Default at level
	// Error, with the stack.
	HookPanic func(*PanicError) `json:"-"`
}

// Service is what commands have in common: a pool, a breaker, six counters. It is
// safe for concurrent use. Mirrors Expeditor::Service.
type Service struct {
	name      string
	breaker   *breaker.Breaker // nil for the default service, which never breaks
	pool      *Pool
	classify  func(error) breaker.Result
	hookPanic func(*PanicError)

	fallbackDisabled atomic.Bool
}

// NewService makes a service. The error joins all that is wrong with cfg. Shut it
// down when it is no longer needed; one with nothing to do holds no goroutine.
func NewService(cfg ServiceConfig) (*Service, error) {
	b, err := cfg.breaker()
	if err != nil {
		return nil, err
	}
	s := &Service{name: cfg.Name, breaker: b, pool: cfg.Executor, classify: cfg.Classify, hookPanic: cfg.HookPanic}
	if s.pool == nil {
		s.pool = &Pool{}
	}
	if s.classify == nil {
		s.classify = Classify
	}
	return s, nil
}

// breaker is the one given, or one made of the fields.
func (c ServiceConfig) breaker() (*breaker.Breaker, error) {
	if c.Breaker == nil {
		b, err := breaker.New(breaker.Config{
			Name: c.Name, Threshold: c.Threshold, NonBreakCount: c.NonBreakCount,
			Sleep: c.Sleep, Period: c.Period, OnStateChange: c.OnStateChange,
		})
		if err != nil {
			return nil, problems{ofService(err)}.err()
		}
		return b, nil
	}
	var bad problems
	if c.Threshold != 0 || c.NonBreakCount != 0 || c.Sleep != 0 || c.Period != 0 || c.OnStateChange != nil {
		bad.say("ServiceConfig.Breaker: a breaker is given, and settings to make one too: leave out Threshold, NonBreakCount, Sleep, Period and OnStateChange, or Breaker")
	}
	if !c.Breaker.AdmitsByHand() {
		bad.say("ServiceConfig.Breaker: admits no command: make it by breaker.New, or by breaker.FromGobreaker of a two-step gobreaker")
	}
	return c.Breaker, bad.err()
}

// ofService is what a breaker says of its settings, in the words of a ServiceConfig.
func ofService(err error) error {
	return errors.New(strings.ReplaceAll(err.Error(), "breaker: Config.", "command: ServiceConfig."))
}

var defaultService = sync.OnceValue(func() *Service { //nolint:gochecknoglobals // one for the process, as in the gem
	return &Service{name: "default", pool: &Pool{}, classify: Classify}
})

// DefaultService is the service of all commands that name none. It never breaks,
// counts nothing, has a pool without bounds, and cannot be shut down. Mirrors
// Expeditor::Services.default.
func DefaultService() *Service { return defaultService() }

// Name is what the service is called in errors and changes.
func (s *Service) Name() string { return s.name }

// Status gives the counters over the last period; for the default service all are
// zero. Mirrors Expeditor::Service#status.
func (s *Service) Status() breaker.Status {
	if s.breaker == nil {
		return breaker.Status{}
	}
	return s.breaker.Status()
}

// ResetStatus closes the circuit and empties the counters. Mirrors
// Expeditor::Service#reset_status!.
func (s *Service) ResetStatus() {
	if s.breaker != nil {
		s.breaker.ResetStatus()
	}
}

// Breaking reports whether the circuit is open. It opens with the first refused
// attempt, not with the last failure. Mirrors Expeditor::Service#breaking?.
func (s *Service) Breaking() bool { return s.breaker != nil && s.breaker.State() == breaker.Open }

// Record adds one r to the counters and does nothing else: what it makes of the
// ratio shows at the next attempt. Mirrors the methods success, failure, rejection,
// timeout, break and dependency of Expeditor::Service.
func (s *Service) Record(r breaker.Result) {
	if s.breaker != nil {
		s.breaker.Record(r)
	}
}

// FallbackEnabled reports whether Get gives the outcome of fallbacks. Mirrors
// Expeditor::Service#fallback_enabled?.
func (s *Service) FallbackEnabled() bool { return !s.fallbackDisabled.Load() }

// SetFallbackEnabled says whether Get gives the outcome of fallbacks, from now on
// and for commands that have ended too; at first it does. Switched off, fallbacks run all
// the same, and hooks see their outcome, but Get gives what the work failed with. Mirrors
// Expeditor::Service#fallback_enabled=.
func (s *Service) SetFallbackEnabled(enabled bool) { s.fallbackDisabled.Store(!enabled) }

// Breaker is the service's breaker. It is a policy: given to an upstream, both
// share its state and its counters. The default service has none, and gives nil.
func (s *Service) Breaker() *breaker.Breaker { return s.breaker }

// Executor is the pool in which the service's commands run. Mirrors
// Expeditor::Service#executor.
func (s *Service) Executor() *Pool { return s.pool }

// Shutdown shuts the service's pool down, for all services that share it: see
// [Pool.Shutdown]. Commands can still be started in the calling goroutine. For the default service it is an error that
// matches [ErrInvalid]. Mirrors Expeditor::Service#shutdown, which does not wait.
func (s *Service) Shutdown(ctx context.Context) error {
	if !s.made() {
		return invalid("Shutdown: the service is nil, or was not made by NewService")
	}
	if s == defaultService() {
		return invalid("the default service belongs to all, and cannot be shut down")
	}
	return s.pool.Shutdown(ctx)
}

// Allow runs f if the service's breaker admits it, and returns what f returns;
// else the error is a [*CircuitBreakError]. It counts nothing, not even the refusal, but a
// trial that succeeds closes the circuit. A panic of f passes through. A nil service or
// function is an error that matches [ErrInvalid]. Mirrors Expeditor::Service#run_if_allowed.
func Allow[T any](s *Service, f func() (T, error)) (T, error) {
	if err := checkRun(s, f == nil); err != nil {
		var none T
		return none, err
	}
	if s.breaker == nil {
		return f()
	}
	ticket, err := s.breaker.Admit()
	if err != nil {
		var none T
		return none, err
	}
	failed := true
	defer func() {
		ticket.Done(breaker.Ignored, nil)
		if !failed && ticket.Trial() {
			s.breaker.ResetStatus()
		}
	}()
	v, err := f()
	failed = err != nil
	return v, err
}

// checkRun finds what is wrong with the arguments of Allow.
func checkRun(s *Service, noFunction bool) error {
	switch {
	case !s.made():
		return invalid("Allow: the service is nil, or was not made by NewService: pass one that was")
	case noFunction:
		return invalid("Allow: the function is nil: pass one")
	}
	return nil
}

// made reports whether a constructor made the service.
func (s *Service) made() bool { return s != nil && s.pool != nil }

// problems collects all that is wrong with a configuration, a line for each.
type problems []error

func (p *problems) say(format string, args ...any) {
	*p = append(*p, fmt.Errorf("command: "+format, args...))
}

// err joins them; it matches ErrInvalid.
func (p problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return &invalidError{errors.Join(p...)}
}

// invalidError is an error that matches ErrInvalid, whatever its text.
type invalidError struct{ error }

// Is reports whether target is [ErrInvalid].
func (e *invalidError) Is(target error) bool { return target == ErrInvalid }

// Unwrap returns what is wrong.
func (e *invalidError) Unwrap() error { return e.error }
