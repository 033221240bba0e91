package policy

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

// OutlastTry has this attempt, and those made from it, go on when the limit of one attempt is
// over. In place of ending the attempt, overdue is called with it, in a goroutine of the runtime:
// it must do no more than pass on which attempt it is. It is called before the attempt runs.
func (c *Call) OutlastTry(overdue func(c *Call)) { c.outlasts = overdue }

// outlast has the other limits go on where the limit of one attempt is over. The caller holds mu,
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
