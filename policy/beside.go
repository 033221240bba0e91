package policy

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

// OutlastTry makes this attempt, and those derived from it, go on when the per-try timeout fires.
// Instead of ending the attempt, the timeout calls overdue with it, in a goroutine of the runtime.
// overdue must only pass on which attempt it is. OutlastTry must be called before the attempt runs.
func (c *Call) OutlastTry(overdue func(c *Call)) { c.outlasts = overdue }

// outlast arms the timer for the other limits after the per-try timeout fired. The caller holds mu,
// and s.timer has fired.
func (s *Stream) outlast(c *Call) {
	s.late = true
	var scope Scope
	left := c.limits.idle - c.limits.try
	if left > 0 {
		scope = ScopeIdle
	}
	if deadline := c.ownDeadline(); deadline != 0 {
		if rest := deadline - s.chain.now(); scope == 0 || rest < left {
			scope, left = c.limits.totalScope(), max(rest, 1)
		}
	}
	if s.scope = scope; scope == 0 {
		s.timer = nil
		return
	}
	s.timer.timer.Reset(left)
}
