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

// NextBeside is [Call.Next] for an attempt that runs concurrently with this one. It is for policies
// that do not have the rank Hedges. It must be called before this attempt runs.
func (c *Call) NextBeside() *Call {
	c.frame.concurrent.Store(true)
	return c.Next()
}

// FollowsTimeout records that the per-try timeout of the previous attempt fired. It is for an
// attempt that was derived before the previous one ran.
func (c *Call) FollowsTimeout() { c.afterTimeout = true }

// OutlastPerTry makes this attempt, and those derived from it, continue when the per-try timeout
// fires. The timeout calls overdue with the attempt instead of ending it. overdue runs in a goroutine
// of the runtime, and must not use the attempt except to pass it on. OutlastPerTry must be called
// before the attempt runs.
func (c *Call) OutlastPerTry(overdue func(c *Call)) {
	c.isLate, c.limits.lenient = overdue, true
}

// NotifyAfter makes this attempt, and those derived from it, call overdue after a wait of d for the
// response headers. Like the per-try timeout, the wait begins when the request has been sent. The
// attempt continues under all its limits. Otherwise NotifyAfter is like [Call.OutlastPerTry]; the
// later of the two calls applies.
func (c *Call) NotifyAfter(d time.Duration, overdue func(c *Call)) {
	c.isLate, c.limits.soft = overdue, d
}

// ends reports whether the timeout of scope ends the attempt.
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

// outlast arms the timer for the limits that end the attempt, after own.scope fired and did not end
// it. The caller holds mu.
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

// rest returns the rest of a limit, 0 for no limit.
func rest(limit, passed time.Duration) time.Duration {
	if limit == 0 {
		return 0
	}
	return max(limit-passed, 1)
}
