package breaker

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"github.com/pillion-go/pillion"
)

// DefaultMaxKeys is the bound of a GroupConfig that names none.
const DefaultMaxKeys = 1000

// GroupConfig describes breakers that are made as they are needed, one for each
// key: each host, each route. It is a policy: each upstream that it is given to has a
// group of its own. Make it with [NewGroup] to read its breakers.
type GroupConfig struct {
	// Breaker is what each breaker of the group is like. Its Name stands before the key in
	// the names of the breakers; empty means the name of the upstream.
	Breaker Config `json:"breaker"`

	// Key finds the key of a call. It must be safe for concurrent use, and have few values: a
	// route, not a URL. Nil means [ByAuthority].
	Key func(*pillion.Call) string `json:"-"`

	// MaxKeys bounds how many breakers there are. Beyond it the one that was used the
	// longest time ago is forgotten, first among those that hold no failure; an open one never
	// is. When all are open, further keys share one breaker. Zero means 1000; negative is an
	// error.
	MaxKeys int `json:"max_keys,omitempty"`
}

// ByAuthority is the host and port that a call asks for.
func ByAuthority(c *pillion.Call) string { return c.Request().Authority }

// Role is that of a policy that judges each try.
func (GroupConfig) Role() pillion.Role { return pillion.RoleBreaker }

// Wrap makes the group of one upstream.
func (c GroupConfig) Wrap(s *pillion.Site, next pillion.Func) (pillion.Func, error) {
	if c.Breaker.Name == "" {
		c.Breaker.Name = s.Upstream()
	}
	g, err := NewGroup(c)
	if err != nil {
		return nil, err
	}
	return g.Wrap(s, next)
}

func (c GroupConfig) check() error {
	bad := []error{c.Breaker.check()}
	if c.MaxKeys < 0 {
		bad = append(bad, fmt.Errorf("breaker: GroupConfig.MaxKeys: %d is negative", c.MaxKeys))
	}
	return errors.Join(bad...)
}

// Group is a set of breakers by key. It is safe for concurrent use.
type Group struct {
	cfg    Config
	key    func(*pillion.Call) string
	most   int
	shared *Breaker // of the keys that find no room

	mu    sync.Mutex
	byKey map[string]*list.Element // guarded by mu
	used  *list.List               // of *member, the last used in front; guarded by mu
}

// member is one breaker of a group.
type member struct {
	key     string
	breaker *Breaker
}

// NewGroup makes a group. The error joins all that is wrong with cfg.
func NewGroup(cfg GroupConfig) (*Group, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	g := &Group{cfg: cfg.Breaker, key: cfg.Key, most: cfg.MaxKeys, byKey: map[string]*list.Element{}, used: list.New()}
	if g.key == nil {
		g.key = ByAuthority
	}
	if g.most == 0 {
		g.most = DefaultMaxKeys
	}
	g.shared = g.make("(others)")
	return g, nil
}

// make makes the breaker of a key. The configuration has been checked.
func (g *Group) make(key string) *Breaker {
	cfg := g.cfg.withDefaults()
	if cfg.Name != "" {
		key = cfg.Name + "/" + key
	}
	cfg.Name = key
	return &Breaker{engine: newCircuit(cfg), classify: cfg.Classify}
}

// Get gives the breaker of key, made now if there is none.
func (g *Group) Get(key string) *Breaker {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e, ok := g.byKey[key]; ok {
		g.used.MoveToFront(e)
		return memberOf(e).breaker
	}
	if len(g.byKey) >= g.most && !g.forget() {
		return g.shared
	}
	m := &member{key, g.make(key)}
	g.byKey[key] = g.used.PushFront(m)
	return m.breaker
}

// forget makes room for one: the member used the longest time ago that holds no
// failure, else the one that is not open. It is false when all are open. The caller
// holds mu.
func (g *Group) forget() bool {
	var closed *list.Element
	for e := g.used.Back(); e != nil; e = e.Prev() {
		b := memberOf(e).breaker
		if b.State() == Open {
			continue
		}
		if s := b.Status(); s.Failure == 0 && s.Timeout == 0 {
			closed = e
			break
		}
		if closed == nil {
			closed = e
		}
	}
	if closed == nil {
		return false
	}
	g.used.Remove(closed)
	delete(g.byKey, memberOf(closed).key)
	return true
}

func memberOf(e *list.Element) *member { return e.Value.(*member) } //nolint:forcetypeassert // the list holds nothing else

// All gives the breakers by key, the last used first.
func (g *Group) All() iter.Seq2[string, *Breaker] {
	return func(yield func(string, *Breaker) bool) {
		for _, m := range g.members() {
			if !yield(m.key, m.breaker) {
				return
			}
		}
	}
}

func (g *Group) members() []*member {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make([]*member, 0, g.used.Len())
	for e := g.used.Front(); e != nil; e = e.Next() {
		all = append(all, memberOf(e))
	}
	return all
}

// Role is that of a policy that judges each try.
func (*Group) Role() pillion.Role { return pillion.RoleBreaker }

// Wrap puts the group in an upstream.
func (g *Group) Wrap(s *pillion.Site, next pillion.Func) (pillion.Func, error) {
	if g == nil || g.byKey == nil {
		return nil, errors.New("breaker: a *Group was not made by NewGroup")
	}
	slot := s.Slot()
	atEnd := func(c *pillion.Call, end *pillion.Outcome) {
		state := c.State(slot)
		b := state.V.(*Breaker)                                         //nolint:forcetypeassert // put there below
		b.done(ticket{verdict: verdict(state.N)}, b.classify(end), end) //nolint:gosec // guard put it there
	}
	return func(ctx context.Context, c *pillion.Call) *pillion.Outcome {
		b, state := g.Get(g.key(c)), c.State(slot)
		state.V = b
		return b.guard(ctx, c, next, state, atEnd)
	}, nil
}
