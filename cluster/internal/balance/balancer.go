package balance

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Balancer chooses the hosts of requests. All methods are safe for concurrent use.
// Use [New] to make one.
type Balancer struct {
	config   Config
	seed     uint64
	counters *counters
	state    atomic.Pointer[state]

	mu         sync.Mutex // held by updates
	membership Membership // guarded by mu
	turns      map[sourceKey]*turn
	started    bool          // guarded by mu: the first update was made
	newest     time.Duration // guarded by mu: see state
}

// state is the data that a pick reads. It does not change, except for its schedules.
type state struct {
	snapshot *Snapshot
	levels   []level
	stats    Stats // the gauges

	// only is the source of all picks, if they need no choice of priority or locality and
	// no random number; nil otherwise.
	only *source

	built  time.Duration // the time of the update
	newest time.Duration // the start of the newest slow start window
}

// level is a priority with the data that its picks need.
type level struct {
	*Level

	all, healthy, degraded      *source
	localHealthy, localDegraded []*source         // by locality
	wrrHealthy, wrrDegraded     *localitySchedule // nil when localities have no weights
	zones                       *zones            // nil when zones have no effect

	weighted *weighted // for hash policies; nil without hosts
	table    table
}

// New returns a Balancer without hosts. The error joins the errors of all fields of the
// Config.
func New(c Config) (*Balancer, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	b := &Balancer{config: c, seed: c.Rand(), counters: &counters{}, turns: map[sourceKey]*turn{}}
	b.state.Store(b.build(&Membership{}, nil, 0))
	return b, nil
}

// UsesTime reports whether picks use Request.Now.
func (b *Balancer) UsesTime() bool {
	return b.config.Policy == PeakEWMA || b.config.SlowStart.Window > 0
}

// Update replaces the hosts. Later picks use the new hosts. If it returns an error, the
// old hosts remain. It needs time in proportion to the number of hosts and, with a hash
// policy, to the size of the tables. It keeps the table of a priority whose usable hosts
// did not change.
func (b *Balancer) Update(m Membership, now time.Duration) error {
	m.Hosts, m.Local, m.LocalityWeights = slices.Clone(m.Hosts), slices.Clone(m.Local), maps.Clone(m.LocalityWeights)
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.publish(m, now)
}

// Refresh makes picks use the current flags and endpoints of the hosts. It is Update with
// the same Membership.
func (b *Balancer) Refresh(now time.Duration) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.publish(b.membership, now)
}

// publish builds the state for the hosts and makes picks use it.
func (b *Balancer) publish(m Membership, now time.Duration) error {
	priorities, err := m.priorities()
	if err == nil && b.config.Policy.hashes() {
		err = m.checkWeights()
	}
	if err != nil {
		return err
	}
	if !b.started {
		b.started, b.newest = true, now
	}
	s := b.build(&m, priorities, now) // Rand may panic in it
	b.membership = m
	b.state.Store(s)
	return nil
}

// Snapshot returns the hosts that picks use.
func (b *Balancer) Snapshot() *Snapshot { return b.state.Load().snapshot }

// Stats returns the current statistics.
func (b *Balancer) Stats() Stats {
	s := b.counters.read()
	gauges := &b.state.Load().stats
	s.Ring, s.Maglev = gauges.Ring, gauges.Maglev
	return s
}

// Counted returns a function that returns the current counts, without the gauges. The
// function does not keep the Balancer and its hosts in memory.
func (b *Balancer) Counted() func() Stats { return b.counters.read }

// Observe adds the latency of a request that ended at now, for the policy PeakEWMA. Other
// policies ignore it. The caller must call it for each request, including failed ones,
// since a host without a latency is preferred. The caller determines the latency of a
// failure: a host that fails quickly attracts requests unless its failures count as slow.
func (b *Balancer) Observe(h *Host, latency, now time.Duration) {
	if b.config.Policy == PeakEWMA {
		h.latency.observe(latency, now, b.config.PeakEWMA.Decay)
	}
}

// ObserveAtLeast is Observe for a request that was canceled at now: its response would
// have taken longer. It has an effect only if it raises the average.
func (b *Balancer) ObserveAtLeast(h *Host, latency, now time.Duration) {
	if last, ok := h.latency.last(); !ok || latency > last {
		b.Observe(h, latency, now)
	}
}

// build returns the state for the hosts, which have the given priorities.
func (b *Balancer) build(m *Membership, priorities []int, now time.Duration) *state {
	s := &state{snapshot: newSnapshot(m, priorities, &b.config), built: now}
	if b.config.SlowStart.Window > 0 {
		b.newest = b.config.SlowStart.enters(m.Hosts, b.newest, now)
		s.newest = b.newest
	}
	s.levels = make([]level, len(s.snapshot.Levels))
	old := b.state.Load()
	for p := range s.levels {
		l := &s.levels[p]
		l.Level = &s.snapshot.Levels[p]
		if b.config.Policy.hashes() {
			b.buildTable(l, p, s, old)
		} else {
			b.buildSources(l, p, m, s)
		}
	}
	if b.config.ZoneAware != nil && len(m.Local) > 0 && !b.config.Policy.hashes() {
		local := &Level{All: m.Local}
		local.partition(0, m, b.config.Locality, true)
		s.levels[0].zones = newZones(s.levels[0].Level, local, &b.config, b.counters)
	}
	if l := &s.levels[0]; s.snapshot.load.whole && !l.Panic && l.wrrHealthy == nil && l.zones == nil && b.config.Policy != Random {
		s.only = l.healthy
	}
	return s
}

// buildSources builds the sources that picks of the level can use.
func (b *Balancer) buildSources(l *level, priority int, m *Membership, s *state) {
	if l.Panic {
		if b.config.ZoneAware == nil || !b.config.ZoneAware.FailTrafficOnPanic {
			l.all = b.newSource(sourceKey{priority, allHosts, 0}, l.All, s)
		}
		return
	}
	l.healthy = b.newSource(sourceKey{priority, healthyHosts, 0}, l.Healthy, s)
	l.degraded = b.newSource(sourceKey{priority, degradedHosts, 0}, l.Degraded, s)
	if !b.config.LocalityWeighted && (priority > 0 || b.config.ZoneAware == nil || len(m.Local) == 0) {
		return
	}
	for i := range l.Localities {
		l.localHealthy = append(l.localHealthy, b.newSource(sourceKey{priority, healthyOfLocality, i}, l.Localities[i].Healthy, s))
		l.localDegraded = append(l.localDegraded, b.newSource(sourceKey{priority, degradedOfLocality, i}, l.Localities[i].Degraded, s))
	}
	if b.config.LocalityWeighted {
		seed, factor := lower(b.config.Rand()), overprovisioning(m)
		l.wrrHealthy = newLocalitySchedule(l.Level, (*LocalityHosts).healthy, factor, seed)
		l.wrrDegraded = newLocalitySchedule(l.Level, (*LocalityHosts).degraded, factor, seed)
	}
}

// buildTable builds the table of the level, or reuses that of the old state if it would be
// the same.
func (b *Balancer) buildTable(l *level, priority int, s, old *state) {
	l.weighted = b.normalize(l.Level)
	if l.weighted == nil {
		return
	}
	if old != nil && priority < len(old.levels) && l.weighted.same(old.levels[priority].weighted) {
		l.weighted, l.table = old.levels[priority].weighted, old.levels[priority].table
	} else {
		l.table = b.newTable(l.weighted)
	}
	inner := l.table
	if limit, ok := inner.(*bounded); ok {
		inner = limit.table
	}
	switch t := inner.(type) {
	case *ring:
		s.stats.Ring = t.stats
	case *maglev:
		s.stats.Maglev = t.stats
	}
}

func (b *Balancer) newTable(w *weighted) table {
	var t table
	if b.config.Policy == Maglev {
		t = newMaglev(w, b.config.Maglev.TableSize)
	} else {
		t = newRing(w, &b.config.RingHash)
	}
	if b.config.ConsistentHashing.BalanceFactor > 0 {
		t = newBounded(t, w, &b.config.ConsistentHashing)
	}
	return t
}
