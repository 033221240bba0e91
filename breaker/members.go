package breaker

import (
	"cmp"
	"container/heap"
	"container/list"
	"slices"
	"time"
)

// members holds the breakers of a group, up to a limit. It finds the one to evict without a
// scan of all: members that are open or hold failures are set aside until they are used again
// or expire.
type members struct {
	most   int
	epoch  time.Time
	uses   uint64 // number of look-ups
	byKey  map[string]*member
	recent *list.List // members not set aside, most recently used first
	closed *list.List // members set aside while closed, most recent first
	aside  overHeap   // all members set aside
}

// member is one breaker of a group.
type member struct {
	key     string
	breaker *Breaker
	circuit *circuit
	used    uint64 // the value of uses at its last use

	recent *list.Element // nil if it is set aside
	closed *list.Element // nil unless it was set aside while closed
	index  int           // in aside
	over   time.Duration // when its sleep has passed and its failures have left the window, if no call comes
}

func newMembers(most int) *members {
	return &members{
		most: most, epoch: time.Now(), byKey: map[string]*member{}, recent: list.New(), closed: list.New(),
	}
}

// find returns the member of key and marks it as the most recently used. It returns nil if there is
// none.
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

// add adds a member. The caller has made room.
func (s *members) add(key string, b *Breaker) {
	c, _ := b.engine.(*circuit)
	s.uses++
	m := &member{key: key, breaker: b, circuit: c, used: s.uses}
	s.byKey[key] = m
	m.recent = s.recent.PushFront(m)
}

// remove removes a member from the lists that hold it.
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

// makeRoom evicts a member if the limit is reached. It reports whether there is room.
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

// victim returns the member to evict: one that cannot trip, else a closed one, else nil.
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

// firstOver returns a member that was set aside and has expired, or nil. It checks only
// members that should have expired.
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

// cannotTrip reports whether evicting m loses only successes: m holds no failure, and is closed
// or would admit a trial. It sets m.over to when that will be so.
func (s *members) cannotTrip(m *member) bool {
	left := m.circuit.left()
	m.over = sum(time.Since(s.epoch), max(left, 0))
	return left <= 0
}

// setAside sets a recent member aside that can trip.
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

// list returns a copy of the members, most recently used first.
func (s *members) list() []member {
	all := make([]member, 0, len(s.byKey))
	for _, m := range s.byKey {
		all = append(all, member{key: m.key, breaker: m.breaker, used: m.used})
	}
	slices.SortFunc(all, func(a, b member) int { return cmp.Compare(b.used, a.used) })
	return all
}

// overHeap is a heap of members, the first to expire on top.
type overHeap []*member

func (h overHeap) Len() int { return len(h) }

func (h overHeap) Less(i, j int) bool { return h[i].over < h[j].over }

func (h overHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *overHeap) Push(x any) {
	m := x.(*member) //nolint:forcetypeassert // setAside pushes nothing else
	m.index = len(*h)
	*h = append(*h, m)
}

// Pop implements heap.Interface.
func (h *overHeap) Pop() any {
	last := len(*h) - 1
	m := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return m
}
