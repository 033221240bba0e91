package policy

import "time"

// Sequential is an [Exchange] whose attempts cannot run concurrently.
type Sequential interface{ Sequential() bool }

// Concurrent reports whether attempts of the call can run concurrently. If not, a policy must not
// hedge the call.
func (c *Call) Concurrent() bool {
	x, ok := c.frame.exchange.(Sequential)
	return !ok || !x.Sequential()
}

// NextBeside is [Call.Next] for an attempt that runs concurrently with this one, by a policy that
// does not have the rank Hedges. It must be called before this one runs.
func (c *Call) NextBeside() *Call {
	c.frame.concurrent.Store(true)
	return c.Next()
}

// FollowsTimeout records that the per-try timeout of the previous attempt fired. It is for an
// attempt that was derived before the previous one ran.
func (c *Call) FollowsTimeout() { c.afterTimeout = true }

// OutlastPerTry makes this attempt, and those derived from it, go on when the per-try timeout fires.
// Instead of ending the attempt, the timeout calls overdue with it, in a goroutine of the runtime.
// overdue must only pass on which attempt it is. OutlastPerTry must be called before the attempt runs.
func (c *Call) OutlastPerTry(overdue func(c *Call)) {
	c.isLate, c.limits.lenient = overdue, true
}

// NotifyAfter has overdue called with this attempt, and with those derived from it, when it has waited
// for its response headers for d, counted as the per-try timeout is: from the end of an upload. The
// attempt goes on under all its limits. Otherwise NotifyAfter is like [Call.OutlastPerTry], which it
// replaces.
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

// outlast has the limits go on that end an attempt, where own.scope was reported. The caller holds
// mu, and own.timer has fired.
func (s *Stream) outlast(c *Call) {
	own := s.own
	own.late = true
	l := c.limits.hard()
	passed := c.limits.soft
	if own.scope == ScopePerTry {
		passed = c.limits.try
	}
	l.try, l.idle = rest(l.try, passed), rest(l.idle, passed)
	var scope Scope
	var left time.Duration
	if deadline := c.ownDeadline(); deadline != 0 {
		scope, left = l.totalScope(), max(deadline-s.chain.now(), 1)
	}
	if own.scope, left = l.tighter(scope, left); own.scope == 0 {
		own.timer = nil
		return
	}
	own.timer.timer.Reset(left)
}

// rest is what is left of a limit, 0 for no limit.
func rest(limit, passed time.Duration) time.Duration {
	if limit == 0 {
		return 0
	}
	return max(limit-passed, 1)
}
