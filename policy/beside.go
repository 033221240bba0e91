package policy

import "time"

// Sequential is an [Exchange] whose attempts cannot run concurrently.
type Sequential interface{ Sequential() bool }

// Concurrent reports whether attempts of the call can run concurrently. A policy that hedges
// must leave the others alone.
func (c *Call) Concurrent() bool {
	x, ok := c.frame.exchange.(Sequential)
	return !ok || !x.Sequential()
}

// NextBeside is [Call.Next] for an attempt that runs beside this one, by a policy that does not
// have the rank Hedges. It is called before this one runs.
func (c *Call) NextBeside() *Call {
	c.frame.concurrent.Store(true)
	return c.Next()
}

// FollowsTimeout says of an attempt that was made before the one that it follows ran, that that
// one ran into its timeout.
func (c *Call) FollowsTimeout() { c.afterTimeout = true }

// OutlastPerTry has this attempt, and those made from it, go on when the limit of one attempt is
// over. In place of ending the attempt, overdue is called with it, in a goroutine of the runtime:
// it must do no more than pass on which attempt it is. It is called before the attempt runs.
func (c *Call) OutlastPerTry(overdue func(c *Call)) {
	c.isLate, c.limits.lenient = overdue, true
}

// NotifyAfter has overdue called with this attempt, and with those made from it, when they have
// waited for their response headers for d, counted as for the limit of one attempt: from the end of
// an upload. The attempt goes on, under all its limits. Otherwise it is as [Call.OutlastPerTry], in
// place of which it holds.
func (c *Call) NotifyAfter(d time.Duration, overdue func(c *Call)) {
	c.isLate, c.limits.soft = overdue, d
}

// ends reports whether a limit ends the attempt.
func (l *limits) ends(scope Scope) bool {
	return scope != scopeSoft && (scope != ScopePerTry || !l.lenient)
}

// hard returns the limits that end an attempt.
func (l limits) hard() limits {
	if l.soft = 0; l.lenient {
		l.try = 0
	}
	return l
}

// outlast has the limits go on that end an attempt, where s.scope was reported. The caller holds
// mu, and s.timer has fired.
func (s *Stream) outlast(c *Call) {
	s.late = true
	l := c.limits.hard()
	passed := c.limits.soft
	if s.scope == ScopePerTry {
		passed = c.limits.try
	}
	l.try, l.idle = rest(l.try, passed), rest(l.idle, passed)
	var scope Scope
	var left time.Duration
	if deadline := c.ownDeadline(); deadline != 0 {
		scope, left = l.totalScope(), max(deadline-s.chain.now(), 1)
	}
	if s.scope, left = l.tighter(scope, left); s.scope == 0 {
		s.timer = nil
		return
	}
	s.timer.timer.Reset(left)
}

// rest is what is left of a limit, 0 for no limit.
func rest(limit, passed time.Duration) time.Duration {
	if limit == 0 {
		return 0
	}
	return max(limit-passed, 1)
}
