package health

import (
	"sync"
	"sync/atomic"
	"time"
)

// Checker holds the shared state of the health checks of one cluster. Its methods, and those of
// its sessions, are safe for concurrent use.
type Checker struct {
	config  Config
	random  func() uint64
	stats   [StatCount]atomic.Uint64
	traffic atomic.Bool
	mu      sync.Mutex // guards the sessions, and calls of random
}

// New returns a Checker without sessions. random returns uniform random numbers, such as
// [math/rand/v2.Uint64]; it is called with the checker's lock held. The error is that of
// [Config.Check].
func New(c Config, random func() uint64) (*Checker, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	return &Checker{config: c, random: random}, nil
}

// Traffic reports that the cluster has had a connection for ordinary traffic. NoTrafficInterval
// does not apply after the next result.
func (c *Checker) Traffic() {
	if !c.traffic.Load() { // avoids a write in all calls but the first
		c.traffic.Store(true)
	}
}

// Stat returns the value of a statistic. It takes no lock.
func (c *Checker) Stat(s Stat) uint64 { return c.stats[s].Load() }

func (c *Checker) count(s Stat) { c.stats[s].Add(1) }

// gauge changes a gauge by 1 or -1 if before and after differ.
func (c *Checker) gauge(s Stat, before, after bool) {
	switch {
	case after && !before:
		c.stats[s].Add(1)
	case before && !after:
		c.stats[s].Add(^uint64(0))
	}
}

// Session is the health checking of one host. It begins when the host is added to the cluster,
// and ends when it is removed.
type Session struct {
	checker *Checker

	status    Status    // guarded by checker.mu
	healthy   uint32    // passed checks in a row of a failed host; guarded by checker.mu
	unhealthy uint32    // failures in a row of a healthy host; guarded by checker.mu
	checked   bool      // there was a result; guarded by checker.mu
	attempt   uint64    // the number of the current or last check; guarded by checker.mu
	underWay  bool      // a check is running; guarded by checker.mu
	closed    bool      // guarded by checker.mu
	passedAt  time.Time // guarded by checker.mu
}

// Session returns a session for a host with this status, usually [NewHost].
func (c *Checker) Session(s Status) *Session {
	c.gauge(StatHealthy, false, !s.Failed)
	c.gauge(StatDegraded, false, s.Degraded)
	return &Session{checker: c, status: s}
}

// Start returns the time of the first check: now, or later because of InitialJitter.
func (s *Session) Start(now time.Time) time.Time {
	c := s.checker
	if c.config.InitialJitter < time.Millisecond {
		return now
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return now.Add(c.config.spread(0, c.config.InitialJitter, c.random))
}

// Attempt is one check of a host.
type Attempt struct {
	// Deadline is the time at which the check times out.
	Deadline time.Time

	session *Session
	number  uint64
}

// Begin begins a check at now. It abandons a check that is still running: the verdict of that
// check will be ignored. Begin returns false after [Session.Close].
func (s *Session) Begin(now time.Time) (a Attempt, ok bool) {
	c := s.checker
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.closed {
		return Attempt{}, false
	}
	c.count(StatAttempt)
	s.attempt++
	s.underWay = true
	return Attempt{Deadline: now.Add(c.config.Timeout), session: s, number: s.attempt}, true
}

// Done ends the check at now. It changes nothing and returns false if the check was ended or
// abandoned before, if the session is closed, and for the zero Attempt.
func (a Attempt) Done(v Verdict, now time.Time) (step Step, ok bool) {
	s := a.session
	if s == nil {
		return Step{}, false
	}
	c := s.checker
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.closed || !s.underWay || s.attempt != a.number {
		return Step{}, false
	}
	s.underWay = false
	if v.Verified {
		c.count(StatVerifyCluster)
	}
	if v.Result == Failed {
		step = s.fail(v)
	} else {
		step = s.pass(v.Result == PassedDegraded, now)
	}
	base := c.config.base(step.Healthy, step.Transition == ChangePending, c.traffic.Load())
	step.Next = now.Add(c.config.spread(base, c.config.IntervalJitter, c.random))
	return step, true
}

// pass handles a check that passed.
func (s *Session) pass(degraded bool, now time.Time) Step {
	c := s.checker
	step := Step{Healthy: true, First: !s.checked}
	s.unhealthy = 0
	if s.status.Failed {
		s.passedAt = now
		s.healthy++
		step.Transition = ChangePending
		if !s.checked || s.healthy == c.config.HealthyThreshold {
			step.Transition = Changed
			step.Events = append(step.Events, Event{Kind: AddHealthy, First: !s.checked})
			s.set(Status{Degraded: s.status.Degraded, Pending: s.status.Pending})
		}
	}
	if step.Transition != Changed && c.config.AlwaysLogSuccess {
		step.Events = append(step.Events, Event{Kind: CheckPassed, First: !s.checked})
	}
	s.clearPending(&step)
	s.setDegraded(&step, degraded)
	c.count(StatSuccess)
	return s.end(step)
}

// clearPending records that the host has been checked. That is a change, because the host now
// counts.
func (s *Session) clearPending(step *Step) {
	if s.status.Pending {
		s.status.Pending = false
		step.Transition = Changed
	}
}

func (s *Session) setDegraded(step *Step, degraded bool) {
	if degraded == s.status.Degraded {
		return
	}
	kind := NoLongerDegraded
	if degraded {
		kind = BecameDegraded
	}
	step.Events = append(step.Events, Event{Kind: kind})
	changed := s.status
	changed.Degraded = degraded
	s.set(changed)
	if step.Transition == Unchanged {
		step.Transition = Changed
	}
}

// fail handles a failure. An unexpected response applies immediately; other failures, which the
// network may cause, must repeat.
func (s *Session) fail(v Verdict) Step {
	c := s.checker
	step := Step{First: !s.checked}
	event := Event{Kind: EjectUnhealthy, Failure: v.Failure, Code: v.Code, Err: v.Err, First: !s.checked}
	s.healthy = 0
	status := s.status
	status.Excluded = status.Excluded || v.Exclude
	if !status.Failed {
		step.Transition = ChangePending
		if !v.Failure.network() && !v.Retriable || s.onceMore() {
			step.Transition = Changed
			status.Failed = true
			step.Events = append(step.Events, event)
		}
	}
	status.TimedOut = status.Failed && v.Failure == NetworkTimeout
	s.set(status)
	s.clearPending(&step)
	if !s.checked || c.config.AlwaysLogFailures {
		event.Kind = CheckFailed
		step.Events = append(step.Events, event)
	}
	c.count(StatFailure)
	if v.Failure.network() {
		c.count(StatNetworkFailure)
	}
	if v.Failure == Passive {
		c.count(StatPassiveFailure)
	}
	return s.end(step)
}

// onceMore counts a failure and reports whether the threshold is reached.
func (s *Session) onceMore() bool {
	s.unhealthy++
	return s.unhealthy == s.checker.config.UnhealthyThreshold
}

// set changes the status and the gauges.
func (s *Session) set(status Status) {
	s.checker.gauge(StatHealthy, !s.status.Failed, !status.Failed)
	s.checker.gauge(StatDegraded, s.status.Degraded, status.Degraded)
	s.status = status
}

func (s *Session) end(step Step) Step {
	s.checked = true
	step.Status = s.status
	return step
}

// Fail reports that a response of ordinary traffic has x-envoy-immediate-health-check-fail. The
// host fails and is excluded immediately. Checks continue, including a running one. Fail does
// nothing and returns false after [Session.Close].
func (s *Session) Fail() (step Step, ok bool) {
	s.checker.mu.Lock()
	defer s.checker.mu.Unlock()
	if s.closed {
		return Step{}, false
	}
	return s.fail(Verdict{Failure: Passive, Exclude: true}), true
}

// Close ends the session: its host no longer counts. The verdict of a running check will be
// ignored. Close returns false if the session was closed before.
func (s *Session) Close() (step Step, ok bool) {
	c := s.checker
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.closed {
		return Step{}, false
	}
	s.closed = true
	c.gauge(StatHealthy, !s.status.Failed, false)
	c.gauge(StatDegraded, s.status.Degraded, false)
	return Step{Healthy: !s.status.Failed, Status: s.status, First: !s.checked}, true
}

// Status returns the host's status.
func (s *Session) Status() Status {
	s.checker.mu.Lock()
	defer s.checker.mu.Unlock()
	return s.status
}

// PassedAt returns the time of the last passed check of a failed host, or zero: slow start of a
// host that became healthy begins at that time.
func (s *Session) PassedAt() time.Time {
	s.checker.mu.Lock()
	defer s.checker.mu.Unlock()
	return s.passedAt
}
