package breaker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"strings"
	"sync"

	"github.com/pillion-go/pillion/policy"
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
	// route, not a URL. A key longer than 256 bytes is cut, with a hash of the whole at its end.
	// Nil means [ByAuthority].
	Key func(*policy.Call) string `json:"-"`

	// MaxKeys bounds how many breakers there are. Beyond it one is forgotten: one without a
	// failure in its period if there is one, else a closed one, the least recently used first.
	// An open one is forgotten when its sleep and its failures' period are over, not before.
	// While all are open, further keys share one breaker. Zero means 1000; negative is an
	// error.
	MaxKeys int `json:"max_keys,omitempty"`
}

// ByAuthority is the host and port that a call asks for.
func ByAuthority(c *policy.Call) string { return c.Request().Authority }

// Place is inside of what retries or hedges.
func (GroupConfig) Place() policy.Place { return place() }

// Wrap makes the group of one upstream.
func (c GroupConfig) Wrap(s *policy.Builder, next policy.Func) (policy.Func, error) {
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
		bad = append(bad, fmt.Errorf("breaker: GroupConfig.MaxKeys: %d is negative: write 1 or more, or 0 for 1000", c.MaxKeys))
	}
	return errors.Join(bad...)
}

// Group is a set of breakers by key. It is safe for concurrent use.
type Group struct {
	cfg    Config
	key    func(*policy.Call) string
	shared *Breaker // of the keys that find no room
	seed   maphash.Seed

	mu      sync.Mutex
	members *members // guarded by mu
}

// NewGroup makes a group. The error joins all that is wrong with cfg.
func NewGroup(cfg GroupConfig) (*Group, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	g := &Group{
		cfg: cfg.Breaker.withDefaults(), key: cfg.Key, seed: maphash.MakeSeed(),
		members: newMembers(cmp.Or(cfg.MaxKeys, DefaultMaxKeys)),
	}
	if g.key == nil {
		g.key = ByAuthority
	}
	g.shared = g.make("(others)", true)
	return g, nil
}

// make makes the breaker of a key. The configuration has been checked.
func (g *Group) make(key string, shorten bool) *Breaker {
	cfg := g.cfg
	if cfg.Name != "" {
		key = cfg.Name + "/" + key
	}
	cfg.Name = key
	c := newCircuit(cfg)
	c.shorten = shorten
	return &Breaker{engine: c, classify: cfg.Classify}
}

// longestKey is how many bytes of a key are kept.
const longestKey = 256

// bounded returns the key under which a key is kept, and whether it was cut. A cut key
// differs from all others by its hash.
func (g *Group) bounded(key string) (kept string, cut bool) {
	if len(key) <= longestKey {
		return key, false
	}
	hash := fmt.Sprintf("#%016x", maphash.String(g.seed, key))
	return strings.ToValidUTF8(key[:longestKey-len(hash)], "") + hash, true
}

// Get returns the breaker of key, made now if there is none. It panics if the group was not
// made by NewGroup.
func (g *Group) Get(key string) *Breaker {
	if g == nil || g.members == nil {
		panic(errUnmadeGroup)
	}
	key, cut := g.bounded(key)
	g.mu.Lock()
	defer g.mu.Unlock()
	if m := g.members.find(key); m != nil {
		return m.breaker
	}
	if !g.members.makeRoom() {
		return g.shared
	}
	b := g.make(key, cut)
	g.members.add(strings.Clone(key), b)
	return b
}

var errUnmadeGroup = errors.New("breaker: a *Group was not made by NewGroup")

// All returns the breakers by key, the last used first.
func (g *Group) All() iter.Seq2[string, *Breaker] {
	return func(yield func(string, *Breaker) bool) {
		for _, m := range g.list() {
			if !yield(m.key, m.breaker) {
				return
			}
		}
	}
}

func (g *Group) list() []member {
	if g == nil || g.members == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.members.list()
}

// Place is inside of what retries or hedges.
func (*Group) Place() policy.Place { return place() }

// Wrap puts the group in an upstream.
func (g *Group) Wrap(s *policy.Builder, next policy.Func) (policy.Func, error) {
	if g == nil || g.members == nil {
		return nil, errUnmadeGroup
	}
	slot := s.Slot()
	atEnd := func(c *policy.Call, end *policy.Outcome) {
		state := c.State(slot)
		b := state.V.(*Breaker)                         //nolint:forcetypeassert // put there below
		b.judge(ticket{verdict: verdict(state.N)}, end) //nolint:gosec // guard put it there
	}
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		b, state := g.Get(g.key(c)), c.State(slot)
		state.V = b
		return b.guard(ctx, c, next, state, atEnd)
	}, nil
}
