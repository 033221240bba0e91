package command

import (
	"context"
	"slices"
	"sync"
)

// Dependency is a command for which another one waits. Only a [*Command] implements it, with
// any type of result.
type Dependency interface{ node() *core }

func (c *Command[T]) node() *core { return part(c) }

// Chain makes a command that does work with the value of a, on which it depends: see [New2].
// Its service is that of cfg, not that of a. Mirrors Expeditor::Command#chain.
func Chain[A, T any](cfg Config, a *Command[A], work func(ctx context.Context, a A) (T, error)) *Command[T] {
	return depending(cfg, work == nil, func() (func(context.Context) (T, error), error) {
		va, err := a.outcome()
		return func(ctx context.Context) (T, error) { return work(ctx, va) }, err
	}, part(a))
}

// New2 makes a command that does work with the values of a and b, on which it depends. Its
// start starts them too, if they are not started yet, and they run concurrently.
//
// If one of them fails in any way, the command fails with a [*DependencyError] and does not
// wait for the other, which continues: the work does not run, and the breaker is not asked. On
// a bounded pool the command first waits for a free worker, as it does for its work. Mirrors
// the option dependencies of Expeditor::Command.new.
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

// New3 makes a command that does work with the values of a, b and c: see [New2].
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

// NewAll makes a command that does work with the values of all deps, in their order: see
// [New2]. For dependencies with results of different types see [Command.After].
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

// After adds dependencies, with results of any type: as with [New2], the start of the
// command starts them too, and the command fails if one of them fails. When the work runs they
// have ended, so that it can read their values with Get.
//
// After returns [ErrAlreadyStarted] after the start, a [*CycleError] if one of deps waits for
// this command, and an error that matches [ErrInvalid] if one is nil. It then adds none of
// them.
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

// part returns the core of c, or nil if c is nil.
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

// waits guards the links of all commands: which command waits for which. One lock serves
// all commands, since a cycle can include any of them. It is taken by After, and by a Get
// within some work that has to wait.
var waits sync.Mutex //nolint:gochecknoglobals // see above

// await records that c's work waits for target. It fails if target waits for c.
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

// pathTo returns a path on which c waits for target: c, the command for which it waits, and
// so on, without target. It returns nil if there is none. The caller holds waits.
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
