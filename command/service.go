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

// ServiceConfig describes a [Service]. The fields of the breaker are those of
// [breaker.Config]. It mirrors the options of Expeditor::Service.new.
type ServiceConfig struct {
	// Name is the name of the service in errors and in changes of its breaker. It may be empty.
	Name string `json:"name,omitempty"`

	// Threshold is the ratio of failures and timeouts at which the circuit opens. Zero means
	// 0.5; the constant breaker.Zero is a threshold of 0; with breaker.Never the circuit never
	// opens. Other negative values and values above 1 are errors. Mirrors threshold.
	Threshold float64 `json:"threshold,omitempty"`

	// NonBreakCount is the number of results that the window must hold before the circuit can
	// open. Zero means 20; negative values are errors. Mirrors non_break_count.
	NonBreakCount int `json:"non_break_count,omitempty"`

	// Sleep is how long the circuit stays open before a trial. Zero means 1s; the constant
	// breaker.Zero is no time. Other negative values and values below 1ms are errors. Mirrors
	// sleep.
	Sleep time.Duration `json:"sleep,omitempty"`

	// Period is the length of the window. Zero means 10s; negative values and values below 1ms
	// are errors. Mirrors period.
	Period time.Duration `json:"period,omitempty"`

	// OnStateChange is called when the circuit opens and closes: see [breaker.Config]. If it
	// panics while a command runs, the panic is reported to HookPanic and changes nothing.
	OnStateChange func(breaker.Change) `json:"-"`

	// Breaker, if not nil, is used in place of a breaker made from the fields above, which must
	// then be zero. The commands share its state and counters with whatever else it guards, such
	// as an HTTP upstream. A breaker with gobreaker as engine must be a two-step one: a plain
	// gobreaker cannot guard commands and is an error.
	Breaker *breaker.Breaker `json:"-"`

	// Executor is the pool on which the commands run. Nil means a new pool without bounds.
	// Mirrors executor.
	Executor *Pool `json:"-"`

	// Classify returns how an attempt is counted; err is nil if it succeeded. It must be safe
	// for concurrent use and must not block. If it panics the command fails with a
	// [*PanicError]. Nil means [Classify].
	Classify func(err error) breaker.Result `json:"-"`

	// HookPanic receives the panics of hooks and of OnStateChange, in the goroutine of the
	// panic. The [Config] of a command can replace it. Nil means that they are logged to
	// slog.Default at level Error, with the stack.
	HookPanic func(*PanicError) `json:"-"`
}

// Service is what commands share: a pool, a breaker and six counters. It is safe for
// concurrent use. Mirrors Expeditor::Service.
type Service struct {
	name      string
	breaker   *breaker.Breaker // nil for the default service, whose circuit never opens
	pool      *Pool
	classify  func(error) breaker.Result
	hookPanic func(*PanicError)

	fallbackDisabled atomic.Bool
}

// NewService makes a service. The error joins all errors in cfg and matches [ErrInvalid].
// Shut the service down when it is no longer needed; while it is idle it has no goroutine.
// Mirrors Expeditor::Service.new.
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

// breaker returns the field Breaker, or a breaker made from the other fields.
func (c ServiceConfig) breaker() (*breaker.Breaker, error) {
	if c.Breaker == nil {
		b, err := breaker.New(breaker.Config{
			Name: c.Name, Threshold: c.Threshold, NonBreakCount: c.NonBreakCount,
			Sleep: c.Sleep, Period: c.Period, OnStateChange: c.OnStateChange,
		})
		if err != nil {
			return nil, problems{renamed(err, "breaker: Config.", "command: ServiceConfig.")}.err()
		}
		return b, nil
	}
	var bad problems
	if c.Threshold != 0 || c.NonBreakCount != 0 || c.Sleep != 0 || c.Period != 0 || c.OnStateChange != nil {
		bad.say("ServiceConfig.Breaker: a breaker is given, and settings to make one too; leave out Threshold, NonBreakCount, Sleep, Period and OnStateChange, or Breaker")
	}
	if !c.Breaker.AdmitsByHand() {
		bad.say("ServiceConfig.Breaker: admits no command; make it by breaker.New, or by breaker.FromGobreaker of a two-step gobreaker")
	}
	return c.Breaker, bad.err()
}

// renamed returns the error of another package with the names of this one.
func renamed(err error, theirs, ours string) error {
	return errors.New(strings.ReplaceAll(err.Error(), theirs, ours))
}

var defaultService = sync.OnceValue(func() *Service { //nolint:gochecknoglobals // one for the process, as in the gem
	return &Service{name: "default", pool: &Pool{}, classify: Classify}
})

// DefaultService returns the service of commands whose [Config] has none. Its circuit
// never opens, it counts nothing, its pool has no bounds, and it cannot be shut down. Mirrors
// Expeditor::Services.default.
func DefaultService() *Service { return defaultService() }

// Name returns the name of the service.
func (s *Service) Name() string { return s.name }

// Status returns the counters over the last period. Those of the default service are
// zero. Mirrors Expeditor::Service#status.
func (s *Service) Status() breaker.Status {
	if s.breaker == nil {
		return breaker.Status{}
	}
	return s.breaker.Status()
}

// ResetStatus closes the circuit and sets the counters to zero. Mirrors
// Expeditor::Service#reset_status!.
func (s *Service) ResetStatus() {
	if s.breaker != nil {
		s.breaker.ResetStatus()
	}
}

// Breaking reports whether the circuit is open. The circuit opens at the first attempt that
// is refused, not at the last failure. Mirrors Expeditor::Service#breaking?.
func (s *Service) Breaking() bool { return s.breaker != nil && s.breaker.State() == breaker.Open }

// Record adds one to the counter of r and does nothing else: a circuit that must open does
// so at the next attempt. Mirrors the methods success, failure, rejection, timeout, break and
// dependency of Expeditor::Service.
func (s *Service) Record(r breaker.Result) {
	if s.breaker != nil {
		s.breaker.Record(r)
	}
}

// FallbackEnabled reports whether Get returns the outcome of fallbacks. Mirrors
// Expeditor::Service#fallback_enabled?.
func (s *Service) FallbackEnabled() bool { return !s.fallbackDisabled.Load() }

// SetFallbackEnabled sets whether Get returns the outcome of fallbacks. The default is true.
// It also holds for commands that have ended already. If it is false, fallbacks still run
// and hooks receive their outcome, but Get returns the error of the work. Mirrors
// Expeditor::Service#fallback_enabled=.
func (s *Service) SetFallbackEnabled(enabled bool) { s.fallbackDisabled.Store(!enabled) }

// Breaker returns the breaker of the service, which is nil for the default service. The
// breaker is a policy: an upstream that has it shares its state and counters with the
// service.
func (s *Service) Breaker() *breaker.Breaker { return s.breaker }

// Executor returns the pool on which the commands of the service run. Mirrors
// Expeditor::Service#executor.
func (s *Service) Executor() *Pool { return s.pool }

// Shutdown shuts down the pool of the service, for all services that share it: see
// [Pool.Shutdown]. Run still works. For the default service it returns an error that
// matches [ErrInvalid]. Mirrors Expeditor::Service#shutdown, which does not wait.
func (s *Service) Shutdown(ctx context.Context) error {
	if !s.made() {
		return invalid("Shutdown: the service is nil, or was not made by NewService")
	}
	if s == defaultService() {
		return invalid("Shutdown: the default service cannot be shut down: the whole process shares it")
	}
	return s.pool.Shutdown(ctx)
}

// Allow runs f if the breaker of s admits it, and returns what f returns. Otherwise
// it returns a [*CircuitBreakError]. It counts nothing, but a trial that succeeds closes the
// circuit. A panic of f goes on to the caller. If s or f is nil it returns an error that
// matches [ErrInvalid]. Mirrors Expeditor::Service#run_if_allowed.
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

// checkRun checks the arguments of Allow.
func checkRun(s *Service, noFunction bool) error {
	switch {
	case !s.made():
		return invalid("Allow: the service is nil, or was not made by NewService; pass one that was")
	case noFunction:
		return invalid("Allow: the function is nil; pass one")
	}
	return nil
}

// made reports whether NewService or DefaultService made the service.
func (s *Service) made() bool { return s != nil && s.pool != nil }

// problems are the errors in a configuration, one per line.
type problems []error

func (p *problems) say(format string, args ...any) {
	*p = append(*p, fmt.Errorf("command: "+format, args...))
}

// err joins them. The result matches ErrInvalid.
func (p problems) err() error {
	if len(p) == 0 {
		return nil
	}
	return &invalidError{errors.Join(p...)}
}

// invalidError makes an error match ErrInvalid.
type invalidError struct{ error }

// Is reports whether target is [ErrInvalid].
func (e *invalidError) Is(target error) bool { return target == ErrInvalid }

// Unwrap returns the joined errors.
func (e *invalidError) Unwrap() error { return e.error }
