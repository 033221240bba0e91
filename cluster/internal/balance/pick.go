package balance

import "time"

// Request holds the input of a pick.
type Request struct {
	// Hash is the hash of the request, for RingHash and Maglev. Without HasHash they use a
	// random number.
	Hash    uint64
	HasHash bool
	// Attempt makes RingHash and Maglev start as after that number of rejected hosts: with 1
	// for the first retry, the retry uses another entry without Reject. In Envoy it is always
	// 0.
	Attempt uint32
	// Reject reports whether a host is to be avoided. Nil rejects none. Envoy uses it for
	// retries only, with the retry host predicates.
	Reject func(*Host) bool
	// MaxAttempts is the maximum number of times that a rejected pick is repeated. After that
	// the last host is used. Mirrors host_selection_retry_max_attempts, whose default is 1.
	MaxAttempts int
	// LeaveZoneAfter is the number of rejected picks after which Config.ZoneAware is ignored,
	// so that a host of another zone can be picked. Zero means never, as in Envoy.
	LeaveZoneAfter int
	// Previous, if set, changes the load of the priorities. It is for retries.
	Previous *PreviousPriorities
	// Now is the time of the pick. It is used only if Balancer.UsesTime returns true.
	Now time.Duration
}

// Info describes a pick.
type Info struct {
	Priority int  // the chosen priority
	Degraded bool // its degraded hosts were chosen
	Panic    bool // the priority is in panic
	Picks    int  // the number of picks
	Rejected bool // the host was rejected, but MaxAttempts was reached
}

// Pick returns the host for a request, or nil if there is none.
func (b *Balancer) Pick(r Request) (*Host, Info) {
	s := b.state.Load()
	switch {
	case b.config.Policy.hashes():
		return b.pickByHash(s, &r)
	case s.only != nil && r.Reject == nil && r.Previous == nil:
		return b.pick(s.only, s, 0, r.Now), Info{Picks: 1}
	}
	var info Info
	for {
		h := b.pickOnce(s, &r, &info)
		info.Picks++
		if h == nil || r.Reject == nil || !r.Reject(h) {
			return h, info
		}
		if info.Picks > r.MaxAttempts {
			info.Rejected = true
			return h, info
		}
	}
}

// pickOnce chooses priority, hosts and host. It mirrors hostSourceToUse of Envoy's
// ZoneAwareLoadBalancerBase and chooseHostOnce of its policies.
func (b *Balancer) pickOnce(s *state, r *Request, info *Info) *Host {
	if s.only != nil && r.Previous == nil {
		return b.pick(s.only, s, 0, r.Now)
	}
	load := &s.snapshot.load
	if r.Previous != nil {
		load = r.Previous.load(s.snapshot)
	}
	random := uint64(0)
	if !load.whole || b.config.Policy == Random {
		random = b.config.Rand()
	}
	info.Priority, info.Degraded = 0, false
	if !load.whole {
		info.Priority, info.Degraded = load.choose(random)
	}
	l := &s.levels[info.Priority]
	info.Panic = l.Panic
	src := b.source(l, info.Degraded, r.LeaveZoneAfter > 0 && info.Picks >= r.LeaveZoneAfter)
	if src == nil {
		return nil
	}
	return b.pick(src, s, random, r.Now)
}

// source returns the hosts of the level to use, or nil if the call must fail. If anywhere is
// set, the zone of the caller is not preferred.
func (b *Balancer) source(l *level, degraded, anywhere bool) *source {
	if l.Panic {
		b.counters.healthyPanic.Add(1)
		return l.all // nil if the call must fail
	}
	whole, localities, wrr := l.healthy, l.localHealthy, l.wrrHealthy
	if degraded {
		whole, localities, wrr = l.degraded, l.localDegraded, l.wrrDegraded
	}
	switch {
	case wrr != nil:
		return localities[wrr.choose()]
	case l.zones == nil || !b.zonesEnabled():
		return whole
	case !l.zones.localPanic && anywhere:
		return whole
	case !l.zones.localPanic:
		return localities[l.zones.choose(b.config.Rand, b.counters)]
	}
	b.counters.localClusterNotOK.Add(1)
	if b.config.ZoneAware.FailTrafficOnPanic {
		return nil
	}
	return whole
}

// zonesEnabled reports whether this pick prefers the zone.
func (b *Balancer) zonesEnabled() bool {
	share := wholePercent(b.config.ZoneAware.RoutingEnabled)
	return share == 100 || share > 0 && b.config.Rand()%100 < uint64(share)
}

// pickByHash chooses priority and host by the hash. It mirrors chooseHost of Envoy's
// ThreadAwareLoadBalancerBase.
func (b *Balancer) pickByHash(s *state, r *Request) (*Host, Info) {
	hash := r.Hash
	if !r.HasHash {
		hash = b.config.Rand()
	}
	var info Info
	if !s.snapshot.load.whole {
		info.Priority, info.Degraded = s.snapshot.load.choose(hash)
	}
	l := &s.levels[info.Priority]
	if info.Panic = l.Panic; info.Panic {
		b.counters.healthyPanic.Add(1)
	}
	if l.table == nil {
		info.Picks = 1
		return nil, info
	}
	for attempt := uint64(r.Attempt); ; attempt++ {
		h := l.weighted.hosts[l.table.find(hash, attempt)]
		info.Picks++
		if r.Reject == nil || !r.Reject(h) {
			return h, info
		}
		if info.Picks > r.MaxAttempts {
			info.Rejected = true
			return h, info
		}
	}
}
