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

	"github.com/pillion-go/pillion/internal/settings"
	"github.com/pillion-go/pillion/policy"
)

// DefaultMaxKeys is the default of MaxKeys.
const DefaultMaxKeys = 1000

// GroupConfig configures a group of breakers, one per key, such as a host or a route. The
// group makes a breaker when its key is first used. It is a policy: each upstream that uses it
// has a separate group. Use [NewGroup] to read a group's breakers.
type GroupConfig struct {
	// Breaker configures each breaker of the group. Its Name is a prefix of the breakers'
	// names, before the key. An empty Name means the name of the upstream.
	Breaker Config `json:"breaker"`

	// Key returns the key of a call. It must be safe for concurrent use and return few distinct
	// values: a route, not a URL. A key longer than 256 bytes is cut; the cut key ends with a
	// hash of the whole. Nil means [ByAuthority].
	Key func(*policy.Call) string `json:"-"`

	// MaxKeys is the maximum number of breakers. At the limit a new key evicts a breaker: one
	// without a failure in its period, else a closed one, the least recently used first. An
	// open breaker is not evicted before its sleep has passed and its failures have left its
	// period. While all breakers are open, new keys share one breaker. Zero means 1000;
	// negative is an error.
	MaxKeys int `json:"max_keys,omitempty"`
}

// ByAuthority returns the host and port of a call's request, as the request states them.
func ByAuthority(c *policy.Call) string { return c.Request().Authority }

// Place returns a place inside retry and hedge policies.
func (GroupConfig) Place() policy.Place { return place() }

// Wrap makes the group of an upstream and wraps next with it.
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
	if why := settings.Count(int64(c.MaxKeys), "0 for 1000"); why != "" {
		bad = append(bad, fmt.Errorf("breaker: GroupConfig.MaxKeys: %d %s", c.MaxKeys, why))
	}
	return errors.Join(bad...)
}

// Group is a set of breakers by key. It is safe for concurrent use.
type Group struct {
	cfg    Config
	key    func(*policy.Call) string
	shared *Breaker // for the keys that find no room
	seed   maphash.Seed

	mu      sync.Mutex
	members *members // guarded by mu
}

// NewGroup returns a group. Its error joins one error for each invalid field of cfg.
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

// make makes the breaker of a key. The caller has checked the configuration.
func (g *Group) make(key string, shorten bool) *Breaker {
	cfg := g.cfg
	if cfg.Name != "" {
		key = cfg.Name + "/" + key
	}
	cfg.Name = key
	b := newBreaker(cfg)
	b.circuit.shorten = shorten
	return b
}

// longestKey is the maximum length of a stored key in bytes.
const longestKey = 256

// bounded returns the key to store for key, and whether it was cut. A hash keeps cut keys
// distinct.
func (g *Group) bounded(key string) (kept string, cut bool) {
	if len(key) <= longestKey {
		return key, false
	}
	hash := fmt.Sprintf("#%016x", maphash.String(g.seed, key))
	return strings.ToValidUTF8(key[:longestKey-len(hash)], "") + hash, true
}

// Get returns the breaker of key. It makes the breaker if there is none. It panics if the
// group was not made by NewGroup.
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

// All returns an iterator over a snapshot of the keys and their breakers, most recently used first.
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

// Place returns a place inside retry and hedge policies.
func (*Group) Place() policy.Place { return place() }

// Wrap wraps next with the group.
func (g *Group) Wrap(s *policy.Builder, next policy.Func) (policy.Func, error) {
	if g == nil || g.members == nil {
		return nil, errUnmadeGroup
	}
	slot := s.Slot()
	judge := func(c *policy.Call, end *policy.Outcome, v verdict) {
		c.State(slot).V.(*Breaker).judge(ticket{verdict: v}, end) //nolint:forcetypeassert // put there below
	}
	atEnd := hooks{
		closed: func(c *policy.Call, end *policy.Outcome) { judge(c, end, normal) },
		other:  func(c *policy.Call, end *policy.Outcome) { judge(c, end, verdict(c.State(slot).N)) }, //nolint:gosec // guard put it there
	}
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		b := g.Get(g.key(c))
		c.State(slot).V = b
		return b.guard(ctx, c, next, slot, &atEnd)
	}, nil
}
