package breaker

import (
	"cmp"
	"container/heap"
	"container/list"
	"slices"
	"time"
)

// members are the breakers of a group, at most so many. Finding the one to forget takes
// no walk over all of them: those that hold failures or are open are set aside until they are
// used again or their time is over.
type members struct {
	most   int
	epoch  time.Time
	uses   uint64 // how often a member was asked for
	byKey  map[string]*member
	recent *list.List // of those that are not set aside, the last used in front
	closed *list.List // of those that are set aside and were closed then, likewise
	aside  overHeap   // all that are set aside
}

// member is one breaker of a group.
type member struct {
	key     string
	breaker *Breaker
	circuit *circuit
	used    uint64 // the number of its last use

	recent *list.Element // nil if it is set aside
	closed *list.Element // nil unless it is set aside and was closed then
	index  int           // in aside
	over   time.Duration // when its sleep and its failures are over, if nothing happens
}

func newMembers(most int) *members {
	return &members{
		most: most, epoch: time.Now(), byKey: map[string]*member{}, recent: list.New(), closed: list.New(),
	}
}

// find returns the member of key, now the last used one, or nil.
func (s *members) find(key string) *member {
	m := s.byKey[key]
	if m == nil {
		return nil
	}
	s.uses++
	m.used = s.uses
	if m.recent != nil {
		s.recent.MoveToFront(m.recent)
		return m
	}
	s.remove(m)
	m.recent = s.recent.PushFront(m)
	return m
}

// add adds a member. There must be room.
func (s *members) add(key string, b *Breaker) {
	c, _ := b.engine.(*circuit)
	s.uses++
	m := &member{key: key, breaker: b, circuit: c, used: s.uses}
	s.byKey[key] = m
	m.recent = s.recent.PushFront(m)
}

// remove takes a member out of the lists that it is in.
func (s *members) remove(m *member) {
	if m.recent != nil {
		s.recent.Remove(m.recent)
		m.recent = nil
		return
	}
	heap.Remove(&s.aside, m.index)
	if m.closed != nil {
		s.closed.Remove(m.closed)
		m.closed = nil
	}
}

// makeRoom forgets a member if there are as many as may be. It reports whether there is room.
func (s *members) makeRoom() bool {
	if len(s.byKey) < s.most {
		return true
	}
	m := s.victim()
	if m == nil {
		return false
	}
	s.remove(m)
	delete(s.byKey, m.key)
	return true
}

// victim returns the member to forget: one that is cannotTrip, else a closed one, else nil.
func (s *members) victim() *member {
	if m := s.firstOver(); m != nil {
		return m
	}
	for m := last(s.recent); m != nil; m = last(s.recent) {
		if s.cannotTrip(m) {
			return m
		}
		s.setAside(m)
	}
	for m := last(s.closed); m != nil; m = last(s.closed) {
		if m.circuit.state() == Closed {
			return m
		}
		s.closed.Remove(m.closed)
		m.closed = nil
	}
	return nil
}

// firstOver returns a member whose time is over, of those that are set aside, or nil. It
// looks only at those whose time should be over.
func (s *members) firstOver() *member {
	for len(s.aside) > 0 && s.aside[0].over <= time.Since(s.epoch) {
		m := s.aside[0]
		if s.cannotTrip(m) {
			return m
		}
		heap.Fix(&s.aside, m.index)
	}
	return nil
}

// cannotTrip reports whether nothing is lost with m but successes: it holds no failure, and
// is closed or would admit a trial. It sets when that will be.
func (s *members) cannotTrip(m *member) bool {
	left := m.circuit.left()
	m.over = sum(time.Since(s.epoch), max(left, 0))
	return left <= 0
}

// setAside moves a recent member that is not cannotTrip.
func (s *members) setAside(m *member) {
	s.remove(m)
	heap.Push(&s.aside, m)
	if m.circuit.state() == Closed {
		m.closed = s.closed.PushFront(m)
	}
}

func last(l *list.List) *member {
	if e := l.Back(); e != nil {
		return e.Value.(*member) //nolint:forcetypeassert // the lists hold nothing else
	}
	return nil
}

// list copies the members, the last used first.
func (s *members) list() []member {
	all := make([]member, 0, len(s.byKey))
	for _, m := range s.byKey {
		all = append(all, member{key: m.key, breaker: m.breaker, used: m.used})
	}
	slices.SortFunc(all, func(a, b member) int { return cmp.Compare(b.used, a.used) })
	return all
}

// overHeap orders members by when their time is over, the first one on top.
type overHeap []*member

func (h overHeap) Len() int { return len(h) }

func (h overHeap) Less(i, j int) bool { return h[i].over < h[j].over }

func (h overHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push adds a member, for package heap.
func (h *overHeap) Push(x any) {
	m := x.(*member) //nolint:forcetypeassert // setAside pushes nothing else
	m.index = len(*h)
	*h = append(*h, m)
}

// Pop removes the last member, for package heap.
func (h *overHeap) Pop() any {
	last := len(*h) - 1
	m := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return m
}
