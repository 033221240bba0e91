package breaker

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// TestMembers_model compares the evicted member with those that a scan of all members allows,
// over random uses, results and waits.
func TestMembers_model(t *testing.T) {
	for seed := range uint64(300) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			g, err := NewGroup(GroupConfig{MaxKeys: 1 + r.IntN(6), Breaker: Config{
				NonBreakCount: 1 + r.IntN(2), Sleep: time.Duration(1+r.IntN(30)) * time.Millisecond,
				Period: time.Duration(1+r.IntN(30)) * time.Millisecond,
			}})
			if err != nil {
				t.Fatal(err)
			}
			for range 200 {
				key := strconv.Itoa(r.IntN(12))
				allowed := g.allowed(key)
				before := g.list()
				b := g.Get(key)
				compareForgotten(t, seed, before, g.list(), allowed)
				for range r.IntN(3) {
					if ticket, err := b.Admit(); err == nil {
						ticket.Done([]Result{Success, Failure, Timeout, Break}[r.IntN(4)], nil)
					}
				}
				time.Sleep(time.Duration(r.IntN(4*int(time.Millisecond) + r.IntN(2)*int(20*time.Millisecond))))
			}
		})
	}
}

// allowed returns the keys of which Get may evict one to make room for key.
func (g *Group) allowed(key string) (keys []string) {
	if len(g.members.byKey) < g.members.most || g.members.byKey[key] != nil {
		return nil
	}
	var oldest *member
	for _, m := range g.members.byKey {
		status, now := m.breaker.Status(), m.circuit.now()
		failing := status.Failure+status.Timeout > 0
		open := m.breaker.State() == Open
		switch {
		case !failing && (!open || now-m.circuit.core.since > m.circuit.core.sleep):
			keys = append(keys, m.key)
		case !open && (oldest == nil || m.used < oldest.used):
			oldest = m
		}
	}
	if len(keys) == 0 && oldest != nil {
		keys = append(keys, oldest.key)
	}
	return keys
}

// compareForgotten checks that one of the allowed keys, if any, was evicted, and no other.
func compareForgotten(t *testing.T, seed uint64, before, after []member, allowed []string) {
	t.Helper()
	has := func(list []member, key string) bool {
		return slices.ContainsFunc(list, func(m member) bool { return m.key == key })
	}
	var gone []string
	for _, m := range before {
		if !has(after, m.key) {
			gone = append(gone, m.key)
		}
	}
	switch {
	case len(gone) > 1, len(gone) == 1 && !slices.Contains(allowed, gone[0]), len(gone) == 0 && len(allowed) > 0:
		t.Fatalf("seed %d: got %q evicted, want one of %q", seed, gone, allowed)
	case !slices.IsSortedFunc(after, func(a, b member) int { return cmp.Compare(b.used, a.used) }):
		t.Fatalf("seed %d: got %v, want the most recently used first", seed, after)
	}
}

// TestMembers_noWalk fills a group with open circuits: once they are set aside, a new key checks
// none of them until one expires.
func TestMembers_noWalk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, err := NewGroup(GroupConfig{MaxKeys: 100, Breaker: Config{NonBreakCount: 1, Sleep: time.Hour}})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			b := g.Get(strconv.Itoa(i))
			b.Record(Failure)
			_, _ = b.Admit()
			time.Sleep(time.Second)
		}
		s := g.members
		if got := g.Get("further"); got != g.shared || s.recent.Len() != 0 || s.closed.Len() != 0 || len(s.aside) != 100 {
			t.Fatalf("got %d recent, %d closed and %d set aside, want all set aside", s.recent.Len(), s.closed.Len(), len(s.aside))
		}
		if left, want := s.aside[0].over-time.Since(s.epoch), g.members.byKey["0"].circuit.left(); left != want || s.aside[0].key != "0" {
			t.Errorf("got %v left of key %s, want %v of key 0, the first to expire", left, s.aside[0].key, want)
		}
	})
}
