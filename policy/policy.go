package policy

import "context"

// Func runs the rest of the chain: one attempt inside retry, the whole call outside it.
type Func func(ctx context.Context, c *Call) *Outcome

// Policy is a rule for the calls of an upstream. The configurations of the policy packages are
// policies; programs may write others.
type Policy interface {
	// Wrap puts the policy around next. It is called once for each upstream, for inner policies
	// before outer ones. It returns all errors of the policy's configuration, joined. It prepares
	// what each call needs: state slots and hooks.
	Wrap(b *Builder, next Func) (Func, error)
}

// Yielding is a [Placer] that may have its place only by default. If another policy of the same
// name has that place explicitly, NewChain replaces the Yielding policy by the one that Yield
// returns.
type Yielding interface {
	Placer
	// Yield returns the policy without its place. It is ok if the policy has the place by default.
	Yield() (without Policy, ok bool)
}

// AnyOrder is a Policy that only allows an order of policies that NewChain would refuse.
type AnyOrder struct{}

// Wrap returns next.
func (AnyOrder) Wrap(_ *Builder, next Func) (Func, error) { return next, nil }
