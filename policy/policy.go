package policy

import "context"

// Func runs the rest of the chain: inside retry one attempt, outside it the whole call.
type Func func(ctx context.Context, c *Call) *Outcome

// Policy is one rule that the calls of an upstream are put under. The
// configurations of the policy packages are policies; so is whatever a program
// writes itself.
type Policy interface {
	// Wrap puts the policy around next. It is called once for each upstream, inner
	// policies before outer ones, and reports all that is wrong with the policy's
	// configuration. What each call needs is prepared here: state slots, hooks.
	Wrap(b *Builder, next Func) (Func, error)
}

// Yielding is a [Placer] that may have its place by a default alone. If another policy of the same
// name does not have it by default, New puts the policy of Yield in its place.
type Yielding interface {
	Placer
	// Yield returns the policy without its place. It is ok if the place is a default.
	Yield() (without Policy, ok bool)
}

// AnyOrder is a Policy that does nothing but allow an order of policies that New
// would refuse.
type AnyOrder struct{}

// Wrap returns next.
func (AnyOrder) Wrap(_ *Builder, next Func) (Func, error) { return next, nil }
