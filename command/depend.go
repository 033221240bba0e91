package command

import (
	"context"
	"slices"
	"sync"
)

// Dependency is a command of any result, that another waits for. Only a
// [*Command] is one.
type Dependency interface{ node() *core }

func (c *Command[T]) node() *core { return part(c) }

// Chain makes a command that does work with what a returned. a is started with it, if
// it is not yet; it fails with a [*DependencyError] if a fails: see [New2]. The service is
// cfg's, not a's. Mirrors Expeditor::Command#chain.
func Chain[A, T any](cfg Config, a *Command[A], work func(ctx context.Context, a A) (T, error)) *Command[T] {
	return depending(cfg, work == nil, func() (func(context.Context) (T, error), error) {
		va, err := a.outcome()
		return func(ctx context.Context) (T, error) { return work(ctx, va) }, err
	}, part(a))
}

// New2 makes a command that does work with what a and b returned. They are started with
// it, if they are not yet, and run concurrently. When one of them fails, which includes
// a refusal, a rejection and a fallback's failure, the command fails with a
// [*DependencyError] without waiting for the other, which goes on: the work does not run,
// and the breaker is not asked. On a bounded pool the command needs a worker for that, as
// for its work, and waits until one is free. Mirrors the option dependencies of
// Expeditor::Command.new.
func New2[A, B, T any](
	cfg Config, a *Command[A], b *Command[B], work func(ctx context.Context, a A, b B) (T, error),
) *Command[T] {
	return depending(cfg, work == nil, func() (func(context.Context) (T, error), error) {
		va, err := a.outcome()
		if err != nil {
			return nil, err
		}
		vb, err := b.outcome()
		return func(ctx context.Context) (T, error) { return work(ctx, va, vb) }, err
	}, part(a), part(b))
}

// New3 makes a command that does work with what three others gave: see [New2].
func New3[A, B, C, T any](
	cfg Config, a *Command[A], b *Command[B], c *Command[C], work func(ctx context.Context, a A, b B, c C) (T, error),
) *Command[T] {
	return depending(cfg, work == nil, func() (func(context.Context) (T, error), error) {
		va, err := a.outcome()
		if err != nil {
			return nil, err
		}
		vb, err := b.outcome()
		if err != nil {
			return nil, err
		}
		vc, err := c.outcome()
		return func(ctx context.Context) (T, error) { return work(ctx, va, vb, vc) }, err
	}, part(a), part(b), part(c))
}

// NewAll makes a command that does work with what all of deps gave, in their order:
// see [New2]. For many of different results see [Command.After].
func NewAll[A, T any](
	cfg Config, deps []*Command[A], work func(ctx context.Context, values []A) (T, error),
) *Command[T] {
	deps = slices.Clone(deps)
	parts := make([]*core, len(deps))
	for i, d := range deps {
		parts[i] = part(d)
	}
	return depending(cfg, work == nil, func() (func(context.Context) (T, error), error) {
		values := make([]A, len(deps))
		for i, d := range deps {
			v, err := d.outcome()
			if err != nil {
				return nil, err
			}
			values[i] = v
		}
		return func(ctx context.Context) (T, error) { return work(ctx, values) }, nil
	}, parts...)
}

// After adds deps to what the command waits for, whatever their results are: as in
// [New2], they are started with it, and it fails if one of them does. Once the work runs
// they have ended, so that it can read what it needs of them with Get.
//
// The error is [ErrAlreadyStarted] after the start, a [*CycleError] where one of
// deps waits for this command already, and matches [ErrInvalid] where one is nil. Then
// nothing is added.
func (c *Command[T]) After(deps ...Dependency) error {
	parts := make([]*core, len(deps))
	for i, d := range deps {
		if d != nil {
			parts[i] = d.node()
		}
		if parts[i] == nil || parts[i].job == nil {
			return invalid("After: dependency %d is nil, or was not made by New", i+1)
		}
	}
	waits.Lock()
	defer waits.Unlock()
	for _, d := range parts {
		if path := d.pathTo(&c.core); path != nil {
			return &CycleError{len(path) + 1}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.Started() {
		return ErrAlreadyStarted
	}
	if c.links == nil {
		c.links = &links{}
	}
	c.links.deps = append(c.links.deps, parts...)
	return nil
}

// part is the core of a dependency, or nil if there is none.
func part[A any](c *Command[A]) *core {
	if c == nil {
		return nil
	}
	return &c.core
}

func depending[T any](
	cfg Config, noWork bool, gather func() (func(context.Context) (T, error), error), deps ...*core,
) *Command[T] {
	c := &Command[T]{gather: gather}
	c.make(c, cfg, noWork, deps...)
	return c
}

// waits guards who waits for whom: the links of all commands. It is one lock for all commands, since a cycle can go through any; it
// is taken where dependencies are added by hand, and where a Get within some work has to
// wait.
var waits sync.Mutex //nolint:gochecknoglobals // see above

// await has c's work wait for target, unless target waits for c.
func (c *core) await(target *core) error {
	waits.Lock()
	defer waits.Unlock()
	if path := target.pathTo(c); path != nil {
		return &CycleError{len(path) + 1}
	}
	if c.links == nil {
		c.links = &links{}
	}
	c.links.blockedOn = append(c.links.blockedOn, target)
	return nil
}

// awaited ends an await.
func (c *core) awaited(target *core) {
	waits.Lock()
	defer waits.Unlock()
	i := slices.Index(c.links.blockedOn, target)
	c.links.blockedOn = slices.Delete(c.links.blockedOn, i, i+1)
}

// pathTo finds a way along which c waits for target: c, what it waits for, and so
// on, without target. The caller holds waits.
func (c *core) pathTo(target *core) []*core {
	seen := map[*core]bool{}
	var find func(from *core) []*core
	find = func(from *core) []*core {
		if from == target {
			return []*core{}
		}
		if from == nil || seen[from] || from.links == nil || from.phase.Load() == ended {
			return nil
		}
		seen[from] = true
		for _, next := range slices.Concat(from.links.deps, from.links.blockedOn) {
			if path := find(next); path != nil {
				return append([]*core{from}, path...)
			}
		}
		return nil
	}
	return find(c)
}
